"""Pushing with the real client to a Hub that fails in every way at every moment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, get_session
from huggingface_hub.utils import are_progress_bars_disabled

from hf_datadiet.errors import PublishError
from hf_datadiet.hub import patience
from hf_datadiet.hub.push import Change, Planned, Pushed, Remote, Target, planned, push
from tests.hub.repos import Repo
from tests.hub.server import LoopbackHub

REPO = "me/toys"
HERE = Target(REPO)
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


def done(change: Mapping[str, Path | bytes], target: Target = HERE, deletes: tuple[str, ...] = (), **more: Any) -> Pushed:
    return push(target, lambda remote: Change(change, deletes), message="Data diet of toys", note=more.pop("note", Notes()))


def published(hub: LoopbackHub, revision: str = "main", repo: str = REPO) -> dict[str, bytes]:
    return {path: data for path, data in hub.files(repo, revision).items() if path != ".gitattributes"}


def writes(hub: LoopbackHub) -> list[tuple[str, str]]:
    return [(method, path) for method, path in hub.requests if method not in ("GET", "HEAD")]


def test_a_new_repository_is_private_and_has_everything_in_one_commit(hub: LoopbackHub, token: str, folder) -> None:
    pushed = done(folder(FIRST))
    first, second = hub.history(REPO)
    assert set(first.files) == {".gitattributes"} and published(hub) == FIRST and second.title == "Data diet of toys"
    assert pushed == Pushed(REPO, f"{hub.url}/datasets/{REPO}", second.sha, True, None, True, None) and hub.repo(REPO).private
    assert hub.tokens == {token}


def test_a_model_goes_where_models_are(hub: LoopbackHub, token: str) -> None:
    pushed = done({"config.json": b"{}", "model.safetensors": PARQUET}, Target(REPO, kind="model"))
    assert pushed.url == f"{hub.url}/{REPO}" and published(hub, repo=f"models/{REPO}") == {
        "config.json": b"{}",
        "model.safetensors": PARQUET,
    }
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


def test_bars_are_shown_or_not(hub: LoopbackHub, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The tests have them off from outside.
    monkeypatch.setattr(sys.modules["huggingface_hub.utils.tqdm"], "HF_HUB_DISABLE_PROGRESS_BARS", None)
    seen = []
    for bars in (True, False, True):
        change = lambda remote: seen.append(are_progress_bars_disabled()) or Change({})  # noqa: E731
        push(Target(REPO), change, message="nothing", note=Notes(), bars=bars)
    assert seen == [False, True, False]


def test_a_gitignore_of_the_repository_leaves_nothing_out(hub: LoopbackHub, token: str) -> None:
    done({".gitignore": b"*.png\nevidence\n"})
    done({"evidence/run.json": b"{}", "evidence/picture.png": PARQUET})
    assert set(published(hub)) == {".gitignore", "evidence/run.json", "evidence/picture.png"}


def test_what_the_hub_leaves_out_is_noticed(hub: LoopbackHub, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = Repo.changed
    leave_out = lambda repo, blobs, operations: {p: b for p, b in changed(repo, blobs, operations).items() if p != "b.txt"}  # noqa: E731
    monkeypatch.setattr(Repo, "changed", leave_out)
    with pytest.raises(PublishError, match=r"but b\.txt is not there as it was sent"):
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
    assert published(hub, pushed.sha or "", "other/toys") == {**FIRST, "a.txt": b"a"} and published(hub, repo="other/toys") == {
        "a.txt": b"a"
    }
    assert not any(path.endswith(("/settings", "/create")) for _, path in hub.requests)
    sent = writes(hub)
    assert done(folder(FIRST), target) == replace(pushed, changed=False) and writes(hub) == sent, "an open one is enough"
    other = done(folder(SECOND), target)
    assert other.changed and (other.pull_request or "").endswith("/2")
    hub.requests.clear()
    named = push(target, lambda remote: Change(folder(SECOND)), message="another name\nand more", note=Notes())
    assert named.changed and (named.pull_request or "").endswith("/3")
    assert not any("refs/pr" in path for _, path in hub.requests), "only those of the same name are looked into"


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
    pushed = done(folder(FIRST), replace(target, repo="team/toys", gate="manual"))
    assert pushed.pull_request and pushed.private and pushed.gated is None and not hub.repo("team/toys").gated


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

    return push(Target(repo), change, message="Data diet of toys", note=note)


def proposed(hub: LoopbackHub, folder, repo: str, note: Callable[[str], None]) -> Pushed:
    return done(folder(SECOND), Target(repo, create_pr=True), deletes=(OLD,), note=note)


GROWN = {path: data for path, data in {**FIRST, **SECOND}.items() if path != OLD}


WAYS = {created: (None, FIRST), grown: (FIRST, GROWN), proposed: (FIRST, GROWN)}
QUICK = {(created, "unavailable"), (created, "conflict"), (created, "cut"), (grown, "moved"), (grown, "too often")}
QUICK |= {(way, "carried out, and then cut") for way in WAYS}


@pytest.mark.parametrize(
    ("way", "fault"),
    [pytest.param(way, fault, marks=[] if (way, fault) in QUICK else pytest.mark.slow) for way in WAYS for fault in FAULTS],
)
def test_each_request_may_fail_once(hub: LoopbackHub, token: str, folder, way, fault: str) -> None:
    """Counted through all requests that the push makes, until one is counted that it does not make."""
    before, after = WAYS[way]
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
        assert any("try" in line.lower() for line in notes) or n == 1, n
        assert len(hub.repo(repo).pulls) == (way is proposed)
        assert published(hub, repo=repo) == (before if way is proposed else after)
    assert n > 10


def test_somebody_else_pushes_meanwhile(hub: LoopbackHub, token: str, folder) -> None:
    """What is pushed is made anew from what lies there by then, and theirs stays."""
    hub.commit(REPO, {"README.md": b"---\nlicense: mit\n---\n"}, access="private")
    asked: list[Remote] = []

    def change(remote: Remote) -> Change:
        card = (remote.read("README.md") or b"") + b"ours\n"
        asked.append(remote)
        if len(asked) <= 2:
            theirs = f"theirs {len(asked)}\n".encode()
            hub.commit(REPO, {**published(hub), "README.md": published(hub)["README.md"] + theirs, f"{len(asked)}.txt": b"theirs"})
        return Change({"README.md": card, **folder({**FIRST, "README.md": card})})

    pushed = push(Target(REPO), change, message="Data diet of toys", note=(notes := Notes()))
    assert len(asked) == 3 and len(notes) == 2 and all("HTTP 412" in line for line in notes)
    card = b"---\nlicense: mit\n---\ntheirs 1\ntheirs 2\nours\n"
    assert published(hub) == {**FIRST, "README.md": card, "1.txt": b"theirs", "2.txt": b"theirs"}
    assert pushed.sha == hub.history(REPO)[-1].sha


def test_somebody_opens_the_repository_meanwhile(hub: LoopbackHub, token: str, folder) -> None:
    hub.fail("POST", "/commit/", 503, times=1)

    def change(remote: Remote) -> Change:
        hub.repo(REPO).private = False
        return Change(folder(FIRST))

    with pytest.raises(PublishError, match="me/toys is public"):
        push(Target(REPO), change, message="Data diet of toys", note=Notes())
    assert published(hub) == {}


def test_somebody_opens_the_gate_meanwhile(hub: LoopbackHub, token: str, folder) -> None:
    target = Target(REPO, public=True, gate="manual")

    def change(remote: Remote) -> Change:
        hub.repo(REPO).gated = False
        return Change(folder(FIRST))

    with pytest.raises(PublishError, match="somebody opened the gate of me/toys during the push"):
        push(target, change, message="Data diet of toys", note=Notes())
    assert hub.repo(REPO).private
    assert done(folder(FIRST), target).gated == "manual" and not hub.repo(REPO).private


def test_a_push_that_was_given_up_goes_on_where_it_stopped(hub: LoopbackHub, token: str, folder) -> None:
    hub.fail("POST", "/commit/", 503)
    with pytest.raises(PublishError, match="HTTP 503 for me/toys, 8 times in a row; push again later: what has been uploaded is not sent"):
        done(folder(FIRST))
    hub.faults.clear()
    assert published(hub) == {} and sum(method == "PUT" for method, _ in hub.requests) == 2
    assert done(folder(FIRST)).changed and published(hub) == FIRST
    assert sum(method == "PUT" for method, _ in hub.requests) == 2


def test_an_address_for_an_upload_that_has_run_out_is_asked_for_anew(hub: LoopbackHub, token: str, folder) -> None:
    hub.fail("PUT", "/storage/", 403, times=1)
    assert done(folder(FIRST)).changed and published(hub) == FIRST


def test_a_silent_hub_is_hung_up_on(hub: LoopbackHub, token: str, folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "SILENCE", 0.2)
    hub.slow("POST", "/commit/", 1.0)
    before = get_session().timeout
    # It is carried out all the same, while the client is asking again.
    assert done(folder(FIRST), note=(notes := Notes())).changed
    assert published(hub) == FIRST and len(hub.history(REPO)) == 2 and "ReadTimeout" in notes[-1]
    assert get_session().timeout == before


# What goes wrong for good.


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (("POST", "/repos/create", 403), "no right to write to me/toys"),
        (("POST", "/repos/create", 401), "does not accept this login for me/toys .*; log in: hf auth login"),
        (("POST", "/preupload/", 404), "the Hub has no me/toys, or not for you"),
        (("POST", "/objects/batch", 403), "no right to write to me/toys"),
        (("PUT", "/storage/", 400), r"store of large files refuses an upload to me/toys \(HTTP 400\)"),
        (("POST", "/verify", 422), "the Hub refuses the push to me/toys: HTTP 422"),
        (("POST", "/commit/", 403), "no right to write to me/toys"),
        (("POST", "/commit/", 413), "the Hub refuses the push to me/toys: HTTP 413"),
        (("PUT", "/settings", 403), "no right to write to me/toys"),
        (("GET", "/api/datasets/", 503), "HTTP 503 for me/toys, 8 times in a row"),
        (("PUT", "/storage/", 503), "HTTP 503 for me/toys, 8 times in a row"),
        (("PUT", "/storage/", None), r"the connection to the Hub failed \(\w+\), 8 times in a row"),
        (("POST", "/commit/", None), r"the connection to the Hub failed \(\w+\), 8 times in a row"),
        (("POST", "/commit/", 412), "HTTP 412 for me/toys, 8 times in a row"),
    ],
)
def test_what_the_hub_refuses_is_one_line_without_secrets(
    hub: LoopbackHub,
    token: str,
    folder,
    fault: tuple[str, str, int | None],
    said: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    hub.fail(*fault, headers={"X-Error-Message": f"so says {hub.url}/x?signature=1 to {token}"})
    asked = len(hub.requests)
    with pytest.raises(PublishError, match=said) as raised:
        done(folder(FIRST), Target(REPO, public=True, gate="auto"))
    refused = [path for method, path in hub.requests[asked:] if method == fault[0] and re.search(fault[1], path)]
    assert len(refused) <= (2 if fault[2] and fault[2] not in (412, 503) else 100), "asked again though there is no point"
    everything = [str(raised.value), caplog.text, *capfd.readouterr()]
    assert not any(secret in text for text in everything for secret in (token, "signature=", "Bearer"))
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_invalid_metadata_is_refused_and_nothing_is_there(hub: LoopbackHub, token: str) -> None:
    with pytest.raises(PublishError, match="the Hub refuses what would be pushed to me/toys: Invalid metadata in README"):
        done({"README.md": b"---\na: [\n---\n", "a.txt": b"a"})
    assert published(hub) == {}


def test_nothing_is_asked_without_a_login_or_offline(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PublishError, match="there is no valid login to the Hub; log in: hf auth login"):
        done({"a.txt": b"a"})
    hub.log_in(monkeypatch, hub.user("me"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PublishError, match="HF_HUB_OFFLINE is set, so the Hub is not asked; unset it"):
        done({"a.txt": b"a"})
    assert hub.requests == []


@pytest.mark.parametrize(
    "repo", ["toys", "me/to ys", "me/toys/x", "", "../x", "me/toys?x", "me/..", "https://huggingface.co/datasets/me/toys"]
)
def test_names_that_are_none(repo: str) -> None:
    with pytest.raises(PublishError, match="is no name of a repository on the Hub; write USER/NAME"):
        Target(repo)


def test_somebody_elses_name_and_a_token_that_only_reads(hub: LoopbackHub, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for repo in ("other/toys", "me/toys"):
        with pytest.raises(PublishError, match=f"no right to write to {repo} .*hf auth login"):
            done({"a.txt": b"a"}, Target(repo))
        hub.log_in(monkeypatch, hub.user("me", writes=False))
    hub.log_in(monkeypatch, "hf_wrong")
    with pytest.raises(PublishError, match="does not accept this login"):
        done({"a.txt": b"a"})
    assert hub.repos == {}


def test_a_hub_without_xet(hub: LoopbackHub, token: str, monkeypatch: pytest.MonkeyPatch, folder) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    with pytest.raises(PublishError, match="the Hub has no Xet store for me/toys; push without it: set HF_HUB_DISABLE_XET=1"):
        done(folder(FIRST))


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../x",
        "a/../b",
        "a/./b",
        "a//b",
        "a/",
        "",
        ".git/config",
        "a/.GIT/x",
        "a\\b",
        "a\nb",
        "a\x1b[31m",
        "\u202etxt.a",
        "a\ud800",
    ],
)
def test_paths_that_are_not_safe(hub: LoopbackHub, token: str, path: str) -> None:
    for attempt in (lambda: done({path: b"x"}), lambda: planned(Target(REPO), lambda remote: Change({path: b"x"}))):
        with pytest.raises(PublishError, match="is no name for a file in a repository"):
            attempt()
    assert hub.repos == {} or published(hub) == {}


def test_a_file_does_not_take_the_place_of_a_folder(hub: LoopbackHub, token: str) -> None:
    done({"scores": b"a file", "keep/a.txt": b"a"})
    for adds in ({"scores/a.txt": b"a"}, {"keep": b"a"}):
        with pytest.raises(PublishError, match="would take the place of other files"):
            done(adds)
    with pytest.raises(PublishError, match="would take the place of other files"):
        done({"a": b"a", "a/b": b"b"})
    done({"scores/a.txt": b"a", "keep": b"a"}, deletes=("scores", "keep/a.txt"))
    assert published(hub) == {"scores/a.txt": b"a", "keep": b"a"}
    assert re.findall(rb'"key": "(\w+)"', hub.sent[-3]) == [b"header", b"deletedFile", b"deletedFile", b"file", b"file"]


def test_a_folder_is_never_deleted_as_a_whole(hub: LoopbackHub, token: str) -> None:
    done({"keep/a.txt": b"a", "keep/b.txt": b"b"})
    assert not done({}, deletes=("keep", "keep/", "/keep/a.txt")).changed
    done({"keep/a.txt": b"new"}, deletes=("keep/a.txt", "keep/b.txt"))
    assert published(hub) == {"keep/a.txt": b"new"}


# A dry run.


def kinds(plan: Planned) -> dict[str, str]:
    return {operation.path: operation.kind for operation in plan.operations}


def test_a_plan_says_what_a_push_then_does(hub: LoopbackHub, token: str, folder) -> None:
    target = Target(REPO, public=True, gate="auto")
    plan = planned(target, lambda remote: Change(folder(FIRST), (OLD, "never.txt")))
    assert (plan.creates, plan.private, plan.gated, plan.unknown) == (True, False, "auto", None)
    assert kinds(plan) == dict.fromkeys(FIRST, "add")
    assert {operation.path: operation.size for operation in plan.operations} == {path: len(data) for path, data in FIRST.items()}
    assert writes(hub) == [] and hub.repos == {}
    done(folder(FIRST), target)
    sent = writes(hub)
    plan = planned(replace(target, gate=None), lambda remote: Change(folder({**FIRST, **SECOND}), (OLD,)))
    changed = dict.fromkeys(SECOND, "replace") | {"keep-30/train-00000-of-00001.parquet": "add"}
    assert kinds(plan) == {**dict.fromkeys(FIRST, "unchanged"), OLD: "unchanged"} | changed
    plan = planned(replace(target, gate=None), lambda remote: Change(folder(SECOND), (OLD,)))
    assert kinds(plan) == {OLD: "delete", **changed} and (plan.creates, plan.private, plan.gated) == (False, False, "auto")
    assert writes(hub) == sent


def test_a_plan_without_the_hub(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, folder) -> None:
    change = lambda remote: Change(folder(FIRST)) if remote.read("README.md") is None else Change({})  # noqa: E731

    def unknown() -> str:
        plan = planned(Target(REPO), change)
        assert kinds(plan) == dict.fromkeys(FIRST, "add") and plan.creates is None and plan.private
        return plan.unknown or ""

    assert "hf auth login" in unknown()
    hub.log_in(monkeypatch, hub.user("me"))
    hub.fail("GET", "", 503)
    assert unknown() == "the Hub answers HTTP 503 for me/toys"
    hub.faults.clear()
    hub.fail("GET", "", None)
    assert unknown().startswith("the connection to the Hub failed")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in unknown()
    assert hub.repos == {} and writes(hub) == []


# Another process.

PUSH = """
import sys
from pathlib import Path
from hf_datadiet.hub.push import Change, Target, push
tree = Path(sys.argv[1])
adds = {path.relative_to(tree).as_posix(): path for path in tree.rglob("*") if path.is_file()}
print(push(Target("me/toys", public=True, gate="auto"), lambda remote: Change(adds), message="Data diet of toys", note=print))
"""


def test_importing_it_is_cheap() -> None:
    heavy = "sorted({'torch', 'datasets', 'pyarrow', 'numpy', 'transformers'} & set(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", f"import sys, hf_datadiet.hub.push; print({heavy})"], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("carried_out", [False, True])
def test_a_push_is_killed_at_each_request(hub: LoopbackHub, token: str, folder, tmp_path: Path, carried_out: bool) -> None:
    folder(FIRST)
    environment = os.environ | hub.environment(tmp_path / "home", token)
    for n in range(1, 100):
        hub.repos.clear()
        hub.faults.clear()
        hub.requests.clear()
        if not carried_out:
            hub.fail_nth(n, None)
        command = [sys.executable, "-c", PUSH, str(tmp_path / "tree")]
        client = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        hub.on_request = lambda method, path, n=n, client=client: client.kill() if len(hub.requests) == n else None
        with reading(hub, REPO, [{}, FIRST]):
            said, _ = client.communicate()
            hub.on_request = None
            if client.returncode == 0:
                break
            assert client.returncode == -9, said
            uploads = {path for method, path in hub.requests if method == "PUT" and "/storage/" in path}
            stored = {path for path in uploads if path.rpartition("/")[2] in {oid for repo in hub.repos.values() for oid in repo.objects}}
            was_there = REPO in str(hub.repos) and published(hub) == FIRST
            hub.requests.clear()
            pushed = done(folder(FIRST), Target(REPO, public=True, gate="auto"))
        assert published(hub) == FIRST and len(hub.history(REPO)) == 2 and not hub.repo(REPO).private and hub.repo(REPO).gated == "auto"
        assert pushed.changed == (not was_there)
        assert not stored & {path for method, path in hub.requests if method == "PUT"}, "sent again"
    assert n > 15
