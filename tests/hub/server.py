"""A Hub on this machine that the real client talks to, to read and to publish.

    with LoopbackHub() as hub:
        sha = hub.commit("org/toys", {"README.md": b"...", "data/train.csv": b"..."}, tags=["v1"])
        token = hub.user("me", orgs=("team",))
        run([...], env=os.environ | hub.environment(home, token))      # another process; `connect` and `log_in` are for this one
        hub.history("me/toys"), hub.files("models/me/net")             # what was published: datasets by their name, models so

`hub.requests` lists what was asked and `hub.sent` what was sent.
`hub.fail(...)` makes requests fail, before or after they were carried out.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest

from tests.hub import pulls, reading, writing
from tests.hub.answers import Answer, Hub, Request, answered, as_json, refusal
from tests.hub.repos import ATTRIBUTES, USUAL_ATTRIBUTES, Commit, Refused, Repo, User

Access = Literal["public", "gated", "private"]


@dataclass
class Fault:
    """Requests of `method` whose path matches `path` answer `status`, or cut the connection; `times` of them, after `spared` others."""

    method: str
    path: str
    status: int | None
    times: int
    headers: Mapping[str, str] = field(default_factory=dict)
    after: bool = False
    spared: int = 0

    def is_due(self, method: str, path: str) -> bool:
        if self.times == 0 or not (re.fullmatch(self.method, method) and re.search(self.path, path)):
            return False
        if self.spared > 0:
            self.spared -= 1
            return False
        return True


class LoopbackHub(Hub):
    def __init__(self) -> None:
        super().__init__()
        self.requests: list[tuple[str, str]] = []
        """Method and path of each request, in the order in which they came."""
        self.sent: list[bytes] = []
        """Everything that each request said: its first line, its headers but `Authorization`, its body, and what is in base64 there."""
        self.tokens: set[str] = set()
        """Every token that a request carried."""
        self.faults: list[Fault] = []
        self.on_request: Callable[[str, str], object] | None = None
        """Called with method and path of each request when it has come in whole, before it is carried out."""
        self.crashes: list[Exception] = []
        """Faults of this server itself: it answers 500, and its end raises the first."""
        self._slow: list[tuple[str, str, float]] = []
        self._lock = threading.RLock()

    def __enter__(self) -> LoopbackHub:
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        if self.crashes:
            raise self.crashes[0]

    # The client.

    def connect(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        """Put the client in this process online, to talk to this Hub alone and keep what it gets in `cache`."""
        import datasets
        from huggingface_hub import HfFileSystem, constants, hf_api

        # Read from the environment when they were imported.
        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", self.url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        # Whose methods are the functions of the package.
        monkeypatch.setattr(hf_api.api, "endpoint", self.url)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", self.url)
        monkeypatch.setattr(datasets.config, "HUB_DATASETS_URL", self.url + "/datasets/{repo_id}/resolve/{revision}/{path}")
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        # What lies there is taken where a Hub refuses, also what came from the Hub of another test.
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache / "datasets")
        HfFileSystem.clear_instance_cache()
        # Both ask machines that are not this one.
        monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
        monkeypatch.setattr(datasets.config, "USE_PARQUET_EXPORT", False)
        # The client waits before it tries again.
        monkeypatch.setattr("time.sleep", lambda seconds: None)

    def log_in(self, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
        """Let the client in this process find a token, as it does when `HF_TOKEN` is set."""
        from huggingface_hub import constants

        monkeypatch.setenv("HF_TOKEN", token)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", False)

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """For the client in another process, over what this one has: this Hub alone, a cache of its own, and somebody's token."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_DATASETS_CACHE": str(home / "datasets"),
            "HF_TOKEN": token or "",
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0",
            "HF_HUB_OFFLINE": "0",
            "HF_DATASETS_OFFLINE": "0",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        }

    # What is on the Hub.

    def user(self, name: str, orgs: Iterable[str] = (), writes: bool = True) -> str:
        """A token of somebody who owns `name/...` and the repositories of their organisations; `writes` False: to read only."""
        token = "hf_" + hashlib.sha256(f"{name} {writes}".encode()).hexdigest()[:34]
        self.users[token] = User(name, tuple(orgs), writes)
        return token

    def repo(self, name: str) -> Repo:
        """The dataset `org/toys`, or the model `models/org/toys`."""
        return self.repos[name if name.startswith("models/") else f"datasets/{name}"]

    def commit(
        self, name: str, files: Mapping[str, bytes], branch: str = "main", tags: Iterable[str] = (), access: Access = "public"
    ) -> str:
        """A commit that has these files, and the one that every repository on the Hub begins with; its sha."""
        key = name if name.startswith("models/") else f"datasets/{name}"
        with self._lock:
            repo = self.repos.setdefault(key, Repo(key, private=access == "private", gated="manual" if access == "gated" else False))
            files = {ATTRIBUTES: USUAL_ATTRIBUTES, **files}
            blobs = {path: repo.blob(path, data) for path, data in files.items()}
            sha = repo.write(f"refs/heads/{branch}", blobs, "a commit", repo.owner).sha
            repo.refs |= {f"refs/tags/{tag}": sha for tag in tags}
        return sha

    def history(self, name: str, ref: str = "main") -> list[Commit]:
        """The commits of a branch, tag or pull request, the first first; each has `files`, {path: bytes}."""
        with self._lock:
            return [*self.repo(name).history(ref)][::-1]

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        with self._lock:
            return self.repo(name).at(revision).files

    # What goes wrong.

    def fail(
        self,
        method: str,
        path: str,
        status: int | None,
        times: int = 1_000_000,
        headers: Mapping[str, str] | None = None,
        after: bool = False,
    ) -> None:
        """Let the next `times` requests whose path matches the pattern fail; without a status the connection is cut.

        `after`: the request is carried out, and its answer is replaced or lost.
        """
        self.faults.append(Fault(method, path, status, times, headers or {}, after))

    def fail_nth(self, n: int, status: int | None, headers: Mapping[str, str] | None = None, after: bool = False) -> None:
        """Let the n-th request from now on fail (1: the next), whatever it is."""
        self.faults.append(Fault(r"\w+", "", status, 1, headers or {}, after, spared=n - 1))

    def slow(self, method: str, path: str, seconds: float) -> None:
        """Let requests whose path matches the pattern wait before they are carried out."""
        self._slow.append((method, path, seconds))

    def serve(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer | None:
        """The answer to a request; None: the connection is cut."""
        url = urlsplit(target)
        path = unquote(url.path)
        token = headers.get("Authorization", "").removeprefix("Bearer ") or None
        with self._lock:
            self.requests.append((method, path))
            self.sent.append(_said(method, target, headers, body))
            if token is not None:
                self.tokens.add(token)
            # All count the requests that they spare; of those that are due, the first strikes.
            fault = next(iter([fault for fault in self.faults if fault.is_due(method, path)]), None)
            if fault is not None:
                fault.times -= 1
        if self.on_request is not None:
            self.on_request(method, path)
        for slow, pattern, seconds in self._slow:
            if re.fullmatch(slow, method) and re.search(pattern, path):
                # Not time.sleep, which `connect` does away with.
                threading.Event().wait(seconds)
        request = Request(method, url.path, dict(parse_qsl(url.query)), headers, body, self.users.get(token or ""))
        answer = self._carried_out(request, token) if fault is None or fault.after else None
        return answer if fault is None else self._failed(fault, request)

    def _failed(self, fault: Fault, request: Request) -> Answer | None:
        if fault.status is None:
            return None
        # The client takes the address of what exists already from the refusal to create it.
        made = request.json if request.path == "/api/repos/create" else None
        url = {"url": f"{self.url}/{Repo(writing.key_of(made)).page}"} if made else {}
        return as_json({"error": "on purpose", **url}, fault.status, **fault.headers)

    def _carried_out(self, request: Request, token: str | None) -> Answer:
        if token is not None and token not in self.users:
            return refusal(Refused(401, "Invalid credentials in Authorization header"))
        try:
            with self._lock:
                return answered(reading.ROUTES + writing.ROUTES + pulls.ROUTES, self, request)
        except Exception as crash:
            self.crashes.append(crash)
            return Answer(500)


def _said(method: str, target: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [
        f"{method} {target}",
        unquote(target),
        *(f"{name}: {value}" for name, value in headers.items() if name.lower() != "authorization"),
    ]
    kind = headers.get("Content-Type", "")
    documents = body.splitlines() if "ndjson" in kind else [body] if "json" in kind else []
    return b"\n".join(["\n".join(lines).encode(), body, *(text for document in documents for text in _texts(json.loads(document)))])


def _texts(value: Any) -> Iterator[bytes]:
    """Every text in a JSON document, without its escapes and out of its base64."""
    if isinstance(value, dict):
        decoded = {"sample"} | ({"content"} if value.get("encoding") == "base64" else set())
        for name, inner in value.items():
            yield from [base64.b64decode(inner)] if name in decoded else _texts(inner)
    elif isinstance(value, list):
        yield from itertools.chain.from_iterable(map(_texts, value))
    elif isinstance(value, str):
        yield value.encode()


class _Server(ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that was killed does not take its answer.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _handler(hub: LoopbackHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def _serve(self) -> None:
            body = self._body()
            # None: the client was killed before it had sent it all.
            answer = None if body is None else hub.serve(self.command, self.path, self.headers, body)  # pyright: ignore[reportArgumentType]
            if answer is None:
                self.close_connection = True
                return
            self.send_response(answer.status)
            for header, value in answer.headers.items():
                self.send_header(header, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        def _body(self) -> bytes | None:
            """All of it; the client sends no chunks."""
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length)
            return body if len(body) == length else None

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
