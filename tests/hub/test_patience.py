"""How long to wait for the Hub, and when to stop."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TypeVar

import pytest
from huggingface_hub import HfApi, hf_raise_for_status
from huggingface_hub.utils import http_backoff

from hf_datadiet.errors import PublishError
from hf_datadiet.hub.faults import fault_of, seconds_to_wait
from hf_datadiet.hub.patience import PATIENCE, TRIES, patient
from tests.hub.server import LoopbackHub

REPO = "me/toys"
T = TypeVar("T")


@pytest.fixture
def slept(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds: list[float] = []
    monkeypatch.setattr("time.sleep", seconds.append)
    return seconds


def ask(step: Callable[[], T], note: Callable[[str], None] = lambda line: None) -> T:
    with patient(REPO, note) as wait:
        return wait(step)


def asking(hub: LoopbackHub) -> Callable[[], object]:
    hub.commit(REPO, {"a.txt": b"a"})
    return lambda: HfApi(token=False).dataset_info(REPO).sha


def test_pauses_grow_and_differ(hub: LoopbackHub, slept: list[float]) -> None:
    hub.fail("GET", "", 503)
    step = asking(hub)
    for _ in range(2):
        with pytest.raises(PublishError, match="HTTP 503 for me/toys, 8 times in a row; push again later"):
            ask(step)
    one, other = slept[: TRIES - 1], slept[TRIES - 1 :]
    assert len(one) == len(other) and one != other
    for failed, pause in enumerate(one, start=1):
        assert min(2**failed, 60) / 2 <= pause <= min(2**failed, 60)


@pytest.mark.parametrize("form", [lambda: "100", lambda: format_datetime(datetime.now(UTC) + timedelta(seconds=101), usegmt=True)])
def test_the_hub_says_how_long(hub: LoopbackHub, slept: list[float], form: Callable[[], str]) -> None:
    hub.fail("GET", "", 429, times=2, headers={"Retry-After": form()})
    notes: list[str] = []
    assert ask(asking(hub), notes.append)
    assert len(slept) == len(notes) == 2 and all(98 < pause < 103 for pause in slept)
    assert all(line.startswith("the Hub answers HTTP 429 for me/toys; try ") for line in notes)


def test_the_hub_says_it_in_a_header_of_its_own(hub: LoopbackHub, slept: list[float]) -> None:
    hub.fail("GET", "", 429, times=1, headers={"RateLimit": '"api";r=0;t=55'})
    assert ask(asking(hub))
    assert len(slept) == 1 and 55 <= slept[0] <= 56
    assert seconds_to_wait({"ratelimit": '"api";r=1;t=55'}) is None


def test_the_client_does_not_wait_for_hours_by_itself(hub: LoopbackHub, slept: list[float]) -> None:
    hub.fail("POST", "", 429, headers={"Retry-After": "3600"})
    with pytest.raises(PublishError, match=r"and wants 360\d more seconds"):
        ask(lambda: hf_raise_for_status(http_backoff("POST", f"{hub.url}/x")))
    assert slept == [] and len(hub.requests) == 1
    hub.faults.clear()
    hub.fail("POST", "", 429, times=1, headers={"Retry-After": "3600"})
    http_backoff("POST", f"{hub.url}/x")
    assert slept == [3601], "afterwards as ever"


def test_patience_ends(hub: LoopbackHub, slept: list[float]) -> None:
    hub.fail("GET", "", 429, headers={"Retry-After": "400"})
    with pytest.raises(PublishError, match=r"HTTP 429 for me/toys, and wants 40\d more seconds; push again later"):
        ask(asking(hub))
    assert len(slept) == 2 and sum(slept) <= PATIENCE


@pytest.mark.parametrize("header", ["", "soon", "-3", "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 99 Oct 2015"])
def test_what_says_nothing_of_the_future(header: str) -> None:
    assert not seconds_to_wait({"retry-after": header})


def test_a_mistake_of_ours_is_not_the_hubs() -> None:
    unreadable = PermissionError(13, "Permission denied", "a.parquet")
    for error in (KeyError("x"), RuntimeError("x"), FileNotFoundError("x"), unreadable, PublishError("x")):
        assert fault_of(error, REPO) is None
    with pytest.raises(RuntimeError, match="ours"):
        ask(lambda: (_ for _ in ()).throw(RuntimeError("ours")))


def test_what_is_in_words_alone() -> None:
    xet = ConnectionError("Network error: Request error: HTTP status client error ({}), domain: https://x/y?signature=1")
    for words, said, passes in (
        ("404 Not Found", "set HF_HUB_DISABLE_XET=1", False),
        ("403 Forbidden", "no right to write to me/toys", False),
        ("401 Unauthorized", "hf auth login", False),
        ("429 Too Many Requests", "the connection to the Hub failed", True),
    ):
        fault = fault_of(ConnectionError(str(xet).format(words)), REPO)
        assert fault and said in fault.said and fault.passes == passes and "signature" not in fault.said
    assert fault_of(PermissionError("Xet says no"), REPO) == fault_of(ConnectionError("client error (403"), REPO)
    batch = fault_of(ValueError("LFS batch API returned errors:\nno object at https://x/y?signature=1"), REPO)
    assert batch and batch.said.endswith("LFS batch API returned errors: no object at") and not batch.passes
    told = fault_of(ValueError(f"the token hf_{'x' * 34} of somebody else is bad"), REPO)
    assert told and told.said.endswith("the token ... of somebody else is bad")
    unread = fault_of(json.JSONDecodeError("x", "y", 0), REPO)
    assert unread and unread.passes


def test_the_repetitions_of_the_client_are_told_without_addresses(hub: LoopbackHub, caplog: pytest.LogCaptureFixture) -> None:
    hub.fail_nth(1, 503)
    hub.fail_nth(2, None)
    notes: list[str] = []
    logger = logging.getLogger("huggingface_hub.utils._http")
    with patient(REPO, notes.append):
        http_backoff("PUT", f"{hub.url}/storage/x?signature=secret", content=b"x")
        logger.warning("something else about https://x/y?signature=secret")
    assert len(notes) == 2 and "HTTP Error 503" in notes[0] and not any("signature" in line for line in notes)
    assert caplog.messages == ["something else about https://x/y?..."]
    logger.warning("afterwards /y?signature=1 as ever")
    assert caplog.messages[-1] == "afterwards /y?signature=1 as ever"
