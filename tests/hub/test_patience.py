"""How long to wait for the Hub, and when to stop."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from huggingface_hub import HfApi
from huggingface_hub.utils import http_backoff

from hf_datadiet.errors import PublishError
from hf_datadiet.hub.faults import fault_of, seconds_to_wait
from hf_datadiet.hub.patience import PATIENCE, TRIES, Patience, patient
from tests.hub.server import LoopbackHub

REPO = "me/toys"


@pytest.fixture
def slept(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds: list[float] = []
    monkeypatch.setattr("time.sleep", seconds.append)
    return seconds


def asking(hub: LoopbackHub) -> Callable[[], object]:
    hub.commit(REPO, {"a.txt": b"a"})
    return lambda: HfApi(token=False).dataset_info(REPO).sha


def test_pauses_grow_and_differ(hub: LoopbackHub, slept: list[float]) -> None:
    hub.fail("GET", "", 503)
    ask = asking(hub)
    for _ in range(2):
        with pytest.raises(PublishError, match="HTTP 503 for me/toys, 8 times in a row; push again later"):
            Patience(REPO, lambda line: None)(ask)
    one, other = slept[: TRIES - 1], slept[TRIES - 1 :]
    assert len(one) == len(other) and one != other
    for failed, pause in enumerate(one, start=1):
        assert min(2**failed, 60) / 2 <= pause <= min(2**failed, 60)


@pytest.mark.parametrize("form", [lambda: "100", lambda: format_datetime(datetime.now(UTC) + timedelta(seconds=101), usegmt=True)])
def test_the_hub_says_how_long(hub: LoopbackHub, slept: list[float], form: Callable[[], str]) -> None:
    hub.fail("GET", "", 429, times=2, headers={"Retry-After": form()})
    notes: list[str] = []
    assert Patience(REPO, notes.append)(asking(hub))
    assert len(slept) == len(notes) == 2 and all(98 < pause < 103 for pause in slept)
    assert all(line.startswith("the Hub answers HTTP 429 for me/toys; try ") for line in notes)


def test_patience_ends(hub: LoopbackHub, slept: list[float]) -> None:
    hub.fail("GET", "", 429, headers={"Retry-After": "400"})
    wait = Patience(REPO, lambda line: None)
    with pytest.raises(PublishError, match=r"HTTP 429 for me/toys, and wants 40\d more seconds; push again later"):
        wait(asking(hub))
    assert len(slept) == 2 and sum(slept) <= PATIENCE


@pytest.mark.parametrize("header", ["", "soon", "-3", "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 99 Oct 2015"])
def test_what_says_nothing_of_the_future(header: str) -> None:
    assert not seconds_to_wait({"retry-after": header})


def test_a_mistake_of_ours_is_not_the_hubs() -> None:
    for error in (KeyError("x"), RuntimeError("x"), FileNotFoundError("x"), PublishError("x")):
        assert fault_of(error, REPO) is None
    with pytest.raises(RuntimeError, match="ours"):
        Patience(REPO, print)(lambda: (_ for _ in ()).throw(RuntimeError("ours")))


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
