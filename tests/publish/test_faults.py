"""A whole publication that fails at each of its requests, or whose client is killed there: in the end all of it is there, once.

What each request does by itself, `tests/hub/test_push.py` shows; here it is the command, what is published, and whoever reads meanwhile.
"""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hf_datadiet import cli, publish
from hf_datadiet.hub.push import Pushed
from tests.hub.server import LoopbackHub
from tests.publish import clients
from tests.publish.readers import CARD, MANIFEST, watched, whole
from tests.publish.runs import source_files

Call = Callable[..., tuple[Any, str, str]]
REPO = "me/toys-diet"
FAULTS: dict[str, dict[str, Any]] = {
    "unavailable": {"status": 503},
    "carried out, and then unavailable": {"status": 503, "after": True},
    "conflict": {"status": 409},
    "moved": {"status": 412},
    "cut": {"status": None},
    "carried out, and then cut": {"status": None, "after": True},
}


@dataclass(frozen=True)
class Way:
    """A publication of the run in `place`: what lies there `before` (None: no repository) and `after` it, if nothing disturbs it.

    `requests`: those that it makes then, the first `early` of them before it has written the tree; `pushes`: what it does after that.
    """

    place: Path
    before: Mapping[str, bytes] | None
    after: Mapping[str, bytes]
    requests: list[tuple[str, str]]
    early: int
    pushes: list[Callable[[], Pushed]]

    def begin(self, hub: LoopbackHub) -> None:
        """The Hub as it is before."""
        hub.on_request = None
        hub.faults.clear()
        hub.repos.pop(f"datasets/{REPO}", None)
        if self.before is not None:
            hub.commit(REPO, self.before, access="private")
        hub.requests.clear()

    def states(self) -> list[Mapping[str, bytes]]:
        """What may be seen."""
        nothing = {path: data for path, data in self.after.items() if path == ".gitattributes"}
        return [nothing if self.before is None else self.before, self.after]

    def require_done(self, hub: LoopbackHub) -> None:
        """All of it is there, in one commit, and nothing else ever was in any other."""
        assert hub.files(REPO) == self.after
        first, second = hub.history(REPO)
        assert first.files == self.states()[0] and second.files == self.after
        assert len(hub.repo(REPO).commits) == 2 and hub.repo(REPO).private and not hub.repo(REPO).pulls
        assert all(whole(commit.files) for commit in hub.repo(REPO).commits.values())


def command(place: Path, *words: str) -> list[str]:
    return ["publish", str(place / "run"), "--to", REPO, "--push", f"source.path={place / 'source'}", *words]


def undisturbed(place: Path, cache: Path, before: Mapping[str, bytes] | None, source: Mapping[str, bytes] | None = None) -> Way:
    """Publish, and keep how that was done."""
    pushes: list[Callable[[], Pushed]] = []
    early: list[int] = []
    original = publish.push

    def push(*arguments: Any, **named: Any) -> Pushed:
        early.append(len(hub.requests))
        pushes.append(partial(original, *arguments, **named))
        return pushes[-1]()

    with LoopbackHub() as hub, pytest.MonkeyPatch.context() as patch:
        hub.connect(patch, cache)
        hub.log_in(patch, hub.user("me"))
        words = []
        if source is not None:
            hub.commit("org/toys", source)
            words = ["source.path=null", "source.repo=org/toys"]
        if before is not None:
            hub.commit(REPO, before, access="private")
        patch.setattr(publish, "push", push)
        patch.setattr("sys.argv", ["hf-datadiet", *command(place, *words)])
        cli.main()
        return Way(place, before, hub.files(REPO), list(hub.requests), early[0], pushes)


@pytest.fixture(scope="module")
def first(image_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Way:
    """A new repository."""
    place = shutil.copytree(image_run, tmp_path_factory.mktemp("first") / "place")
    return undisturbed(Path(place), place.parent / "cache", None)


@pytest.fixture(scope="module")
def third(first: Way, tmp_path_factory: pytest.TempPathFactory) -> Way:
    """A third selection, where two and a file of somebody else are."""
    place = Path(shutil.copytree(first.place, tmp_path_factory.mktemp("third") / "place"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "sys.argv", ["hf-datadiet", "prune", str(place / "run"), "--name", "keep-10", "--score", "forgetting", "--keep", "0.1"]
        )
        cli.main()
    way = undisturbed(place, place.parent / "cache", {**first.after, "notes/mine.txt": b"notes"})
    assert way.after["notes/mine.txt"] == b"notes" and {path for path in way.after if path.startswith("keep-10/")}
    return way


@pytest.fixture(scope="module")
def online(image_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Way:
    """A new repository, of a source on the Hub."""
    place = Path(shutil.copytree(image_run, tmp_path_factory.mktemp("online") / "place"))
    return undisturbed(place, place.parent / "cache", None, source_files(place))


@pytest.fixture(params=["first", "third"])
def way(request: pytest.FixtureRequest) -> Way:
    return request.getfixturevalue(request.param)


def kinds(requests: list[tuple[str, str]]) -> list[int]:
    """The number of the first request of each kind, and of the last one of all."""
    named = [(method, re.sub(r"[0-9a-f]{40,}", "...", path)) for method, path in requests]
    return [*dict.fromkeys(named.index(each) + 1 for each in named), len(named)]


def test_it_is_what_was_written_and_it_can_be_seen_to_be_whole(way: Way) -> None:
    tree = way.place / "run" / "published"
    written = {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    ours = {path for path in written if path not in (CARD, MANIFEST, "evidence/publication.json")}
    assert {path: way.after[path] for path in ours} == {path: written[path] for path in ours} and len(ours) > 20
    assert whole(way.after) and whole({}) and whole({".gitattributes": b""})
    for path in (MANIFEST, "scores/train-00000-of-00001.parquet"):
        assert not whole({name: data for name, data in way.after.items() if name != path})
        assert path == MANIFEST or not whole({**way.after, path: b"half"})
    assert not whole({name: data for name, data in way.after.items() if name != CARD})


# Faults that pass.


@pytest.mark.parametrize(
    ("fault", "each"),
    [("unavailable", False), ("carried out, and then cut", False), *(pytest.param(each, True, marks=pytest.mark.slow) for each in FAULTS)],
)
def test_each_request_may_fail_once(way: Way, fault: str, each: bool, hub: LoopbackHub, me: str, tmp_path: Path) -> None:
    """`each`: all requests of the push in turn, not only one of each kind. The same publication mends it: no second one is needed."""
    requests = way.requests[way.early :]
    moments = range(1, len(requests) + 1) if each else kinds(requests)
    with watched(hub, REPO, tmp_path / "reader", way.states()):
        for n in moments:
            way.begin(hub)
            hub.fail_nth(n, **FAULTS[fault])
            pushed = [push() for push in way.pushes]
            assert hub.faults[0].times == 0 and all(push.changed for push in pushed), n
            way.require_done(hub)


@pytest.mark.parametrize(
    "fault", ["unavailable", *(pytest.param(each, marks=pytest.mark.slow) for each in FAULTS if each != "unavailable")]
)
def test_the_source_may_fail_once(
    fault: str, online: Way, call: Call, hub: LoopbackHub, me: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails before anything is pushed ends in a line, and a second publication mends it."""
    hub.commit("org/toys", source_files(online.place))
    words = command(online.place, "source.path=null", "source.repo=org/toys")
    moments = range(1, online.early + 1) if fault != "unavailable" else kinds(online.requests[: online.early])
    for n in moments:
        hub.connect(monkeypatch, tmp_path / f"cache-{n}")
        online.begin(hub)
        shutil.rmtree(online.place / "run" / "published")
        hub.fail_nth(n, **FAULTS[fault])
        code, out, err = call(*words)
        if code != 0:
            assert (code, out) == (2, "") and len(err.splitlines()) == 1 and f"datasets/{REPO}" not in hub.repos
            assert not (online.place / "run" / "published").exists()
            assert call(*words)[0] == 0
        assert hub.faults[0].times == 0
        online.require_done(hub)


# A client that dies.


def require_whole(tree: Path) -> None:
    """Nothing is there, or a publication that somebody could send or load."""
    files = {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    assert not tree.exists() or (CARD in files and whole(files))


@pytest.fixture
def mine(way: Way, tmp_path: Path) -> Iterator[Path]:
    """A copy of what is published, without the tree."""
    place = Path(shutil.copytree(way.place, tmp_path / "place", ignore=shutil.ignore_patterns("published")))
    yield place
    assert not list((place / "run").glob(".published.*"))


@pytest.mark.slow
@pytest.mark.parametrize("carried_out", [False, True])
def test_the_client_is_killed_at_each_request(
    way: Way, carried_out: bool, mine: Path, call: Call, hub: LoopbackHub, me: str, tmp_path: Path
) -> None:
    with watched(hub, REPO, tmp_path / "reader", way.states()):
        for n in range(1, len(way.requests) + 1):
            way.begin(hub)
            if not carried_out:
                hub.fail_nth(n, None)
            client = clients.started(hub, me, tmp_path / "home", *command(mine))
            hub.on_request = lambda method, path, n=n, client=client: client.kill() if len(hub.requests) >= n else None
            client.join()
            assert client.exitcode == -signal.SIGKILL, (tmp_path / "home" / "said").read_text()
            hub.on_request = None
            require_whole(mine / "run" / "published")
            hub.faults.clear()
            code, _, err = call(*command(mine, "--format", "json"))
            assert code == 0, err
            way.require_done(hub)


@pytest.mark.slow
def test_the_client_is_killed_while_it_writes(way: Way, mine: Path, call: Call, hub: LoopbackHub, me: str, tmp_path: Path) -> None:
    """At calls of the system that change the run folder, spread over all of them, with and without an older tree in it."""
    counted = clients.FORKING.Value("i", 0)
    die = partial(clients.die_at, str(mine / "run"))
    clients.started(hub, me, tmp_path / "home", *command(mine), begin=partial(die, 0, counted)).join()
    assert counted.value > 50
    for at in range(1, counted.value + 1, 3):
        way.begin(hub)
        tree = mine / "run" / "published"
        if at % 2:
            shutil.rmtree(tree)
        client = clients.started(hub, me, tmp_path / "home", *command(mine), begin=partial(die, at))
        client.join()
        assert client.exitcode == -signal.SIGKILL, (tmp_path / "home" / "said").read_text()
        require_whole(tree)
        assert len(hub.requests) <= way.early
        assert call(*command(mine))[0] == 0
        assert not list(tree.parent.glob(".published.*"))
        way.require_done(hub)
