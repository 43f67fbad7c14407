"""Others who read a repository all the time while it is written to, and what they may see of it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.hub.repos import git_oid
from tests.hub.server import LoopbackHub

CARD, MANIFEST = "README.md", "evidence/manifest.json"

CLIENT = """
import json, sys, time
from pathlib import Path
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.hf_api import RepoFile

def listed(revision):
    files = HfApi().list_repo_tree(sys.argv[1], repo_type="dataset", recursive=True, revision=revision)
    return {file.path: file.lfs.sha256 if file.lfs else file.blob_id for file in files if isinstance(file, RepoFile)}

def got(name, revision):
    return Path(hf_hub_download(sys.argv[1], name, repo_type="dataset", revision=revision))

home = Path(sys.argv[2])
print("ready", flush=True)
said = set()
with (home / "seen").open("w") as file:
    while not (home / "enough").exists():
        seen = []
        try:
            seen.append({"files": listed("main")})
            card = got("README.md", "main")
            sha = card.parent.name
            manifest = got("evidence/manifest.json", sha)
            seen.append({"files": listed(sha), "card": card.read_text(), "manifest": json.loads(manifest.read_text())["files"]})
        except (HfHubHTTPError, LocalEntryNotFoundError):
            pass  # it is not there, or the test has begun anew
        except OSError as error:
            if "Consistency check failed" not in str(error):
                raise
            # The client asks for the length of a file and then for the file, and main has moved meanwhile: it takes neither.
        time.sleep(0.002)
        for line in map(json.dumps, seen):
            if line not in said:
                said.add(line)
                print(line, file=file)
"""
"""Writes down everything new that it sees."""


def whole(files: Mapping[str, bytes]) -> bool:
    """Whether somebody who finds these files finds a publication that is complete, or none."""
    if CARD not in files:
        return MANIFEST not in files
    digests = json.loads(files[MANIFEST])["files"] if MANIFEST in files else {"nothing": ""}
    return all(path in files and digest == f"sha256:{hashlib.sha256(files[path]).hexdigest()}" for path, digest in digests.items())


def listing(files: Mapping[str, bytes], stored: Collection[str]) -> dict[str, str]:
    """The digests that a Hub lists files with; `stored`: the paths of those in the store of large files."""
    return {path: hashlib.sha256(data).hexdigest() if path in stored else git_oid("blob", data) for path, data in files.items()}


@contextmanager
def watched(hub: LoopbackHub, repo: str, home: Path, allowed: Sequence[Mapping[str, bytes]]) -> Iterator[None]:
    """Within the block main is read all the time; nothing was ever seen there but these contents, and all of them were.

    By a thread that looks at the repository itself, and by another process with the real client. That one asks a server of its own with
    the same repositories, so that its requests are not counted.
    """
    home.mkdir()
    with _looking(hub, repo, allowed), LoopbackHub() as same:
        same.repos, same.users, same._lock = hub.repos, hub.users, hub._lock
        environment = os.environ | same.environment(home, same.user(repo.split("/")[0]))
        client = subprocess.Popen([sys.executable, "-c", CLIENT, repo, str(home)], env=environment, stdout=subprocess.PIPE)
        assert client.stdout is not None and client.stdout.readline() == b"ready\n"
        try:
            yield
        finally:
            (home / "enough").touch()
            client.communicate(timeout=60)
    assert client.returncode == 0
    stored = {path for repo in hub.repos.values() for commit in repo.commits.values() for path, blob in commit.blobs.items() if blob.lfs}
    _check([json.loads(line) for line in (home / "seen").read_text().splitlines()], allowed, stored)


@contextmanager
def _looking(hub: LoopbackHub, repo: str, allowed: Sequence[Mapping[str, bytes]]) -> Iterator[None]:
    stop, bad = threading.Event(), []

    def look() -> None:
        while not stop.wait(0.001):
            with hub._lock:
                found = hub.files(repo) if f"datasets/{repo}" in hub.repos else {}
            if found and found not in allowed:
                bad.append(found)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not bad, sorted(bad[0])


def _check(said: Sequence[Mapping[str, Any]], allowed: Sequence[Mapping[str, bytes]], stored: Collection[str]) -> None:
    contents = [listing(files, stored) for files in allowed]
    for sight in said:
        assert sight["files"] in contents, sorted(sight["files"])
        if "card" in sight:
            files = allowed[contents.index(sight["files"])]
            assert sight["card"].encode() == files[CARD] and sight["manifest"] == json.loads(files[MANIFEST])["files"]
            assert whole(files)
    # Otherwise it has not looked when there was something to see.
    assert all(content in [sight["files"] for sight in said] for content in contents), f"{len(said)} sights"
    assert any("card" in sight for sight in said)
