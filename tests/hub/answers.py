"""A request to the Hub, its answer, and what whoever asks may do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from tests.hub.repos import Refused, Repo, User

API = r"/api/(?P<repo>(?:datasets|models)/[^/]+/[^/]+)"
PAGE = r"/(?P<repo>(?:datasets/)?[^/]+/[^/]+)"
AT = r"/(?P<revision>[^/]+)"
Route = tuple[str, str, Callable[..., "Answer"]]
"""Patterns of method and path, and what answers: it takes the Hub, the request, and the named parts of the path."""


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    """As sent: a slash within a branch or a path is still `%2F`."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    user: User | None

    @property
    def json(self) -> Any:
        return json.loads(self.body or b"{}")

    @property
    def opens_pull_request(self) -> bool:
        return self.query.get("create_pr") == "1"


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def as_json(value: Any, status: int = 200, **headers: str) -> Answer:
    return Answer(status, json.dumps(value, default=str).encode(), {"Content-Type": "application/json", **headers})


def refusal(refused: Refused) -> Answer:
    # A header is one line of ASCII; the body says it in full.
    headers = {"X-Error-Message": " ".join(refused.message.split()).encode("ascii", "replace").decode()}
    headers |= {"X-Error-Code": refused.code} if refused.code else {}
    more = {key: value for key, value in refused.more.items() if not key.startswith("X-")}
    headers |= {key: value for key, value in refused.more.items() if key.startswith("X-")}
    return as_json({"error": refused.message, **more}, refused.status, **headers)


class Hub:
    """The repositories by key, the users by token, and the signatures that allow an upload."""

    url: str

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.users: dict[str, User] = {}
        self.signed: set[str] = set()

    def found(self, request: Request, key: str) -> Repo:
        """A repository that whoever asks may know of."""
        repo = self.repos.get(key)
        if repo is None or (repo.private and not repo.readable(request.user)):
            raise Refused(401 if request.user is None else 404, "Repository not found", "RepoNotFound")
        return repo

    def opened(self, request: Request, key: str) -> Repo:
        """A repository whose files whoever asks may read."""
        repo = self.found(request, key)
        if repo.gated and not repo.readable(request.user):
            raise Refused(403 if request.user else 401, f"Access to {repo.type} {repo.name} is restricted", "GatedRepo")
        return repo

    def writable(self, request: Request, key: str, ref: str | None = None) -> Repo:
        """A repository that whoever asks may write to; to their own pull requests everybody may."""
        repo = self.found(request, key)
        if request.user is None:
            raise Refused(401, "Invalid username or password.")
        own = {pull.ref for pull in repo.pulls.values() if pull.author == request.user.name and request.user.writes}
        if not (repo.writable(request.user) or ref in own):
            raise Refused(403, f"You don't have the rights to write to {repo.name}")
        return repo

    def contributable(self, request: Request, key: str, ref: str | None) -> Repo:
        """A repository for a commit to `ref`, or for one in a new pull request: who reads and is somebody may open one."""
        if not request.opens_pull_request:
            return self.writable(request, key, ref)
        repo = self.opened(request, key)
        if request.user is None or not request.user.writes:
            raise Refused(403 if request.user else 401, f"You may not open a pull request in {repo.name}")
        return repo


def answered(routes: Iterable[Route], hub: Hub, request: Request) -> Answer:
    for method, pattern, reply in routes:
        found = re.fullmatch(pattern, request.path) if re.fullmatch(method, request.method) else None
        if found:
            parts = {name: unquote(part) for name, part in found.groupdict().items() if part is not None}
            if "repo" in parts and not parts["repo"].startswith(("datasets/", "models/")):
                # The page of a model has no prefix.
                parts["repo"] = f"models/{parts['repo']}"
            try:
                return reply(hub, request, **parts)
            except Refused as refused:
                return refusal(refused)
    return refusal(Refused(404, f"No such page: {request.path}"))
