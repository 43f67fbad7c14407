"""Pushing with the real client to a Hub that fails in every way at every moment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, get_session

from hf_datadiet.errors import PublishError
from hf_datadiet.hub import patience
from hf_datadiet.hub.push import Change, Planned, Pushed, Remote, Target, planned, push
from tests.hub.repos import Repo
from tests.hub.server import LoopbackHub

REPO = "me/toys"
CARD = b"---\nlicense: mit\n---\n# Toys\n"
PARQUET = b"PAR1 is no text \0\xff"
FIRST = {
    "README.md": CARD,
    "scores/train-00000-of-00001.parquet": PARQUET + b"scores",
    "keep-50/train-00000-of-00001.parquet": PARQUET + b"keep-50",
    "evidence/run.json": b"{}",
    "evidence/empty.txt": b"",
}
SECOND = {
    "README.md": CARD + b"two variants",
    "scores/train-00000-of-00001.parquet": PARQUET + b"SCORES",
    "keep-30/train-00000-of-00001.parquet": PARQUET + b"keep-30",
    "evidence/run.json": b"[]",
}
OLD = "evidence/empty.txt"
"""Of the first, gone with the second."""


@pytest.fixture
def token(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> str:
    token = hub.user("me")
    hub.log_in(monkeypatch, token)
    return token


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[Mapping[str, bytes]], dict[str, Path | bytes]]:
    """Files as a publication has them: most of them on disk."""

    def written(files: Mapping[str, bytes]) -> dict[str, Path | bytes]:
        paths: dict[str, Path | bytes] = {}
        for path, content in files.items():
            paths[path] = tmp_path / "tree" / path
            Path(paths[path]).parent.mkdir(parents=True, exist_ok=True)
            Path(paths[path]).write_bytes(content)
        return paths | {"README.md": files["README.md"]}

    return written


class Notes(list[str]):
    """What was announced; none of it holds the token, an address or more than a line."""

    def __call__(self, line: str) -> None:
        assert "\n" not in line and "hf_" not in line and "://" not in line and "signature" not in line
        self.append(line)


def done(change: Mapping[str, Path | bytes], target: Target = Target(REPO), deletes: tuple[str, ...] = (), **more: Any) -> Pushed:
    return push(target, lambda remote: Change(change, deletes), message="a variant", note=more.pop("note", Notes()))


def published(hub: LoopbackHub, revision: str = "main", repo: str = REPO) -> dict[str, bytes]:
    return {path: data for path, data in hub.files(repo, revision).items() if path != ".gitattributes"}


def writes(hub: LoopbackHub) -> list[tuple[str, str]]:
    return [(method, path) for method, path in hub.requests if method not in ("GET", "HEAD")]


def test_a_new_repository_is_private_and_has_everything_in_one_commit(hub: LoopbackHub, token: str, folder) -> None:
    pushed = done(folder(FIRST))
    first, second = hub.history(REPO)
    assert set(first.files) == {".gitattributes"} and published(hub) == FIRST and second.title == "a variant"
    assert pushed == Pushed(REPO, f"{hub.url}/datasets/{REPO}", second.sha, True, None, True, None) and hub.repo(REPO).private
    assert hub.tokens == {token}


def test_a_model_goes_where_models_are(hub: LoopbackHub, token: str) -> None:
    pushed = done({"config.json": b"{}", "model.safetensors": PARQUET}, Target(REPO, kind="model"))
    assert pushed.url == f"{hub.url}/{REPO}" and published(hub, repo=f"models/{REPO}") == {"config.json": b"{}", "model.safetensors": PARQUET}
    assert f"datasets/{REPO}" not in hub.repos


def test_others_files_stay_and_what_is_unchanged_is_not_sent(hub: LoopbackHub, token: str, folder) -> None:
    done(folder(FIRST))
    hub.commit(REPO, {**published(hub), "notes.txt": b"somebody wrote this"})
    asked = len(hub.requests)
    pushed = done(folder(SECOND), deletes=(OLD,))
    assert pushed.changed
    assert published(hub) == {path: data for path, data in {**FIRST, **SECOND, "notes.txt": b"somebody wrote this"}.items() if path != OLD}
    assert sum(path.startswith("/storage/") for method, path in hub.requests[asked:] if method == "PUT") == 2


def test_a_second_push_of_the_same_sends_nothing(hub: LoopbackHub, token: str, folder) -> None:
    first = done(folder(FIRST))
    sent = writes(hub)
    again = done(folder(FIRST), deletes=("evidence/never.txt", "keep-30"))
    assert again == replace(first, changed=False) and writes(hub) == sent and len(hub.history(REPO)) == 2
    # The digests of what lies there are of both kinds, and of files of the same length too.
    changed = {**FIRST, "evidence/run.json": b"[]", "scores/train-00000-of-00001.parquet": PARQUET + b"SCORES"}
    plan = planned(Target(REPO), lambda remote: Change(changed))
    assert {operation.path for operation in plan.operations if operation.kind != "unchanged"} == {
        "evidence/run.json",
        "scores/train-00000-of-00001.parquet",
    }


def test_a_gitignore_of_the_repository_leaves_nothing_out(hub: LoopbackHub, token: str) -> None:
    done({".gitignore": b"*.png\nevidence\n"})
    done({"evidence/run.json": b"{}", "evidence/picture.png": PARQUET})
    assert set(published(hub)) == {".gitignore", "evidence/run.json", "evidence/picture.png"}



def test_what_the_hub_leaves_out_is_noticed(hub: LoopbackHub, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = Repo.changed
    leave_out = lambda repo, blobs, operations: {p: b for p, b in changed(repo, blobs, operations).items() if p != "b.txt"}  # noqa: E731
    monkeypatch.setattr(Repo, "changed", leave_out)
    with pytest.raises(PublishError, match="but b.txt is not there as it was sent"):
        done({"a.txt": b"a", "b.txt": b"b"})


# Who may see it.


def states(hub: LoopbackHub, change: Mapping[str, Path | bytes], target: Target) -> tuple[Pushed, list[tuple[bool, object, bool]]]:
    """Private, gate, and whether the content is there, as they are at each request of a push after the repository exists."""
    seen: list[tuple[bool, object, bool]] = []

    def look(method: str, path: str) -> None:
        if f"datasets/{target.repo}" in hub.repos:
            repo = hub.repo(target.repo)
            stored = any(data.startswith(PARQUET) for data in repo.objects.values())
            seen.append((repo.private, repo.gated, stored or set(change) <= set(hub.files(target.repo))))

    hub.on_request = look
    pushed = done(change, target)
    hub.on_request = None
    return pushed, list(dict.fromkeys(seen))


@pytest.mark.parametrize("gate", [None, "auto", "manual"])
def test_a_public_repository_is_private_until_all_of_it_is_there(hub: LoopbackHub, token: str, folder, gate) -> None:
    pushed, seen = states(hub, folder(FIRST), Target(REPO, public=True, gate=gate))
    assert (pushed.private, pushed.gated, published(hub)) == (False, gate, FIRST)
    wanted = [(True, False, False), (True, gate or False, False), (True, gate or False, True), (False, gate or False, True)]
    assert seen == list(dict.fromkeys(wanted))


def test_a_private_repository_becomes_public_after_the_push(hub: LoopbackHub, token: str, folder) -> None:
    assert done(folder(FIRST)).private
    pushed, seen = states(hub, folder(FIRST) | {"more.txt": b"more"}, Target(REPO, public=True))
    assert not pushed.private and seen[0][0] and seen[-1] == (False, False, True)
    assert done(folder(FIRST), Target(REPO, public=True)).changed is False


def test_an_interrupted_opening_goes_on(hub: LoopbackHub, token: str, folder) -> None:
    done(folder(FIRST))
    pushed = done(folder(FIRST), Target(REPO, public=True))
    assert not pushed.changed and not pushed.private and not hub.repo(REPO).private


def test_nothing_goes_to_a_public_repository_by_accident(hub: LoopbackHub, token: str, folder) -> None:
    hub.commit(REPO, {"a.txt": b"a"})
    for attempt in (lambda: done(folder(FIRST)), lambda: planned(Target(REPO), lambda remote: Change(folder(FIRST)))):
        with pytest.raises(PublishError, match=r"me/toys is public, .*; say --public, or push to another name"):
            attempt()
    assert writes(hub) == []
    assert done(folder(FIRST), Target(REPO, public=True)).changed


def test_a_gate_is_closed_before_the_push_and_never_lowered(hub: LoopbackHub, token: str, folder) -> None:
    hub.commit(REPO, {"a.txt": b"a"})
    _, seen = states(hub, folder(FIRST), Target(REPO, public=True, gate="auto"))
    assert seen == [(False, False, False), (False, "auto", False), (False, "auto", True)]
    assert done(folder(FIRST), Target(REPO, public=True, gate="manual")).gated == "manual"
    for gate in ("auto", None):
        assert done(folder(SECOND), Target(REPO, public=True, gate=gate)).gated == "manual"


@pytest.mark.parametrize(
    ("ignored", "target", "said"),
    [
        ("visibility", Target(REPO), "was to be created private, and the Hub says that it is public"),
        ("visibility", Target(REPO, public=True), "was to be created private, and the Hub says that it is public"),
        ("gated", Target(REPO, gate="manual"), "was to be set to gate manual and the Hub says that it is not"),
    ],
)
def test_a_hub_that_does_not_do_as_told_gets_nothing(
    hub: LoopbackHub, token: str, folder, monkeypatch: pytest.MonkeyPatch, ignored: str, target: Target, said: str
) -> None:
    serve = hub.serve

    def deaf(method: str, path: str, headers: Mapping[str, str], body: bytes):
        return serve(method, path, headers, re.sub(rb',?"%b":\s*"\w+"' % ignored.encode(), b"", body).replace(b"{,", b"{"))

    monkeypatch.setattr(hub, "serve", deaf)
    with pytest.raises(PublishError, match=said):
        done(folder(FIRST), target)
    assert published(hub) == {} and not hub.repo(REPO).objects and "scores" not in str(hub.sent)


# Pull requests.


def test_a_pull_request_touches_nothing_else(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, folder) -> None:
    hub.commit("other/toys", {"a.txt": b"a"})
    hub.log_in(monkeypatch, hub.user("me"))
    target = Target("other/toys", public=True, create_pr=True)
    pushed = done(folder(FIRST), target)
    assert pushed.changed and pushed.pull_request == f"{hub.url}/datasets/other/toys/discussions/1"
    assert published(hub, pushed.sha or "", "other/toys") == {**FIRST, "a.txt": b"a"} and published(hub, repo="other/toys") == {"a.txt": b"a"}
    assert not any(path.endswith(("/settings", "/create")) for _, path in hub.requests)
    sent = writes(hub)
    assert done(folder(FIRST), target) == replace(pushed, changed=False) and writes(hub) == sent, "an open one is enough"
    other = done(folder(SECOND), target)
    assert other.changed and (other.pull_request or "").endswith("/2")


def test_what_is_not_for_everybody_is_not_proposed_in_public(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, folder) -> None:
    hub.commit("other/toys", {"a.txt": b"a"})
    hub.log_in(monkeypatch, hub.user("me"))
    target = Target("other/toys", create_pr=True)
    with pytest.raises(PublishError, match="other/toys is public, and a pull request there would be too; say --public"):
        done(folder(FIRST), target)
    with pytest.raises(PublishError, match="lets in people whom the gate of the source would not"):
        done(folder(FIRST), replace(target, public=True, gate="auto"))
    with pytest.raises(PublishError, match="no dataset other/none to propose anything to"):
        done(folder(FIRST), replace(target, repo="other/none"))
    assert writes(hub) == []
    hub.commit("team/toys", {"a.txt": b"a"}, access="private")
    hub.log_in(monkeypatch, hub.user("me", orgs=["team"]))
    assert done(folder(FIRST), replace(target, repo="team/toys")).pull_request


# What goes wrong, and passes.

FAULTS: dict[str, dict[str, Any]] = {
    "unavailable": {"status": 503},
    "carried out, and then unavailable": {"status": 503, "after": True},
    "conflict": {"status": 409},
    "moved": {"status": 412},
    "too often": {"status": 429, "headers": {"Retry-After": "3"}},
    "cut": {"status": None},
    "carried out, and then cut": {"status": None, "after": True},
}


@contextmanager
def reading(hub: LoopbackHub, repo: str, allowed: list[Mapping[str, bytes]]) -> Iterator[None]:
    """Somebody who looks at the main branch all the time, and sees nothing but these contents."""
    stop, bad = threading.Event(), []

    def look() -> None:
        while not stop.is_set():
            with hub._lock:
                if f"datasets/{repo}" in hub.repos and published(hub, repo=repo) not in allowed:
                    bad.append(published(hub, repo=repo))
            stop.wait(0.0005)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not bad


def created(hub: LoopbackHub, folder, repo: str, note: Callable[[str], None]) -> Pushed:
    return done(folder(FIRST), Target(repo, public=True, gate="auto"), note=note)


def grown(hub: LoopbackHub, folder, repo: str, note: Callable[[str], None]) -> Pushed:
    """The card is made from the one that is there, as a card is."""

    def change(remote: Remote) -> Change:
        assert remote.read("README.md") == published(hub, remote.sha or "", repo)["README.md"] and remote.read("never.txt") is None
        return Change(folder(SECOND), (OLD,))

    return push(Target(repo), change, message="a variant", note=note)


def proposed(hub: LoopbackHub, folder, repo: str, note: Callable[[str], None]) -> Pushed:
    return done(folder(SECOND), Target(repo, create_pr=True), deletes=(OLD,), note=note)


GROWN = {path: data for path, data in {**FIRST, **SECOND}.items() if path != OLD}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("way", "before", "after"), [(created, None, FIRST), (grown, FIRST, GROWN), (proposed, FIRST, GROWN)])
def test_each_request_may_fail_once(hub: LoopbackHub, token: str, folder, fault: str, way, before, after) -> None:
    """Counted through all requests that the push makes, until one is counted that it does not make."""
    start = [{}] if before is None else [{}, before]
    for n in range(1, 100):
        repo, notes = f"me/toys-{n}", Notes()
        if before is not None:
            hub.commit(repo, before, access="private")
        commits = len(hub.repo(repo).commits) if before is not None else 1
        hub.faults.clear()
        hub.fail_nth(n, **FAULTS[fault])
        with reading(hub, repo, start + ([after] if way is not proposed else [])):
            pushed = way(hub, folder, repo, notes)
        if hub.faults[0].times:
            break
        assert pushed.changed and published(hub, pushed.sha or "", repo) == after, n
        assert len(hub.repo(repo).commits) == commits + 1, f"the commits after the {n}th request failed"
        assert len(notes) >= 1 or n == 1, n
        assert len(hub.repo(repo).pulls) == (way is proposed)
        assert published(hub, repo=repo) == (before if way is proposed else after)
    assert n > 10
