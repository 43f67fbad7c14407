"""A Hub on this machine that the real client talks to: dataset repositories in memory, with commits, branches, tags and access.

    with LoopbackHub() as hub:
        sha = hub.commit("org/toys", {"README.md": b"...", "data/train.csv": b"..."}, tags=["v1"])

Point the client at `hub.url` (HF_ENDPOINT). `hub.requests` lists what it asked; `hub.fail(...)` makes requests fail.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import pytest

Access = Literal["public", "gated", "private"]


@dataclass
class Repo:
    """Files by commit, and the commits that branches and tags name. `readers` may read it if it is not public."""

    access: Access = "public"
    readers: set[str] = field(default_factory=set)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)


@dataclass
class Fault:
    """Requests of `method` whose path matches `path` answer `status`, or cut the connection; `times` of them."""

    method: str
    path: str
    status: int | None
    times: int


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def as_json(value: Any) -> Answer:
    return Answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})


def refusal(status: int, code: str) -> Answer:
    return Answer(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})


class LoopbackHub:
    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[tuple[str, str]] = []
        self.tokens: set[str] = set()
        """Every token that a request carried."""
        self.faults: list[Fault] = []

    def __enter__(self) -> LoopbackHub:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def connect(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        """Put the client in this process online, to talk to this Hub alone and keep what it gets in `cache`."""
        from huggingface_hub import constants

        # Read from the environment when huggingface_hub was imported.
        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", self.url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        # The client waits before it tries again.
        monkeypatch.setattr("time.sleep", lambda seconds: None)

    def commit(
        self, name: str, files: Mapping[str, bytes], branch: str = "main", tags: Iterable[str] = (), access: Access = "public"
    ) -> str:
        """A commit that has these files, and the one that every repository on the Hub begins with; its sha."""
        repo = self.repos.setdefault(name, Repo(access))
        files = {".gitattributes": b"*.parquet filter=lfs\n", **files}
        content = [f"{path} {hashlib.sha1(data).hexdigest()}" for path, data in sorted(files.items())]
        sha = hashlib.sha1("\n".join([name, str(len(repo.commits)), *content]).encode()).hexdigest()
        repo.commits[sha] = dict(files)
        repo.refs |= {ref: sha for ref in (branch, *tags)}
        return sha

    def fail(self, method: str, path: str, status: int | None, times: int = 1_000_000) -> None:
        """Let the next `times` requests whose path matches the pattern fail; without a status the connection is cut."""
        self.faults.append(Fault(method, path, status, times))

    def fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and fault.method == method and re.search(fault.path, path):
                fault.times -= 1
                return fault
        return None

    def answer(self, method: str, path: str, token: str | None) -> Answer:
        found = re.fullmatch(r"(/api)?/datasets/([^/]+/[^/]+)(?:/([^/]+)/([^/]+)(?:/(.+))?)?", path)
        if found is None or method not in ("GET", "HEAD"):
            return Answer(404)
        api, name, verb, revision, inner = (None if part is None else unquote(part) for part in found.groups())
        repo = self.repos.get(name or "")
        if repo is None or (repo.access == "private" and token not in repo.readers):
            return refusal(401, "RepoNotFound")
        sha = repo.refs.get(revision or "main", revision)
        if sha not in repo.commits:
            return refusal(404, "RevisionNotFound")
        files = repo.commits[sha]
        if api and verb in (None, "revision"):
            siblings = [{"rfilename": path} for path in files]
            return as_json(
                {"id": name, "sha": sha, "private": repo.access == "private", "gated": repo.access == "gated", "siblings": siblings}
            )
        if repo.access == "gated" and token not in repo.readers:
            return refusal(403, "GatedRepo")
        if api and verb == "tree":
            under = f"{inner}/" if inner else ""
            return as_json(
                [
                    {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for path, data in files.items()
                    if path.startswith(under)
                ]
            )
        if not api and verb == "resolve" and inner in files:
            data = files[inner]
            headers = {"X-Repo-Commit": sha, "ETag": f'"{hashlib.sha1(data).hexdigest()}"', "Content-Type": "application/octet-stream"}
            return Answer(200, data, headers)
        return refusal(404, "EntryNotFound")


def _handler(hub: LoopbackHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            path = urlsplit(self.path).path
            hub.requests.append((self.command, unquote(path)))
            token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
            if token is not None:
                hub.tokens.add(token)
            fault = hub.fault(self.command, path)
            if fault is not None and fault.status is None:
                self.close_connection = True
                return
            answer = Answer(fault.status or 500) if fault is not None else hub.answer(self.command, path, token)
            self.send_response(answer.status)
            for header, value in answer.headers.items():
                self.send_header(header, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
