"""What the Hub answers to those who look at pull requests, merge them or close them."""

from __future__ import annotations

from typing import Any

from tests.hub.answers import API, Answer, Hub, Request, Route, as_json
from tests.hub.repos import PullRequest, Refused, Repo


def listed(hub: Hub, request: Request, repo: str) -> Answer:
    it = hub.found(request, repo)
    wanted = {key: request.query[key] for key in ("status", "author") if key in request.query}
    pulls = [_about(it, pull) for pull in it.pulls.values()] if request.query.get("type") != "discussion" else []
    chosen = [
        pull
        for pull in pulls
        if wanted.get("status", "all") in ("all", pull["status"]) and wanted.get("author", pull["author"]["name"]) == pull["author"]["name"]
    ]
    return as_json({"discussions": chosen, "count": len(chosen), "start": 0})


def one(hub: Hub, request: Request, repo: str, number: str) -> Answer:
    it, pull = _pull(hub.found(request, repo), number)
    return as_json({**_about(it, pull), "events": [], "filesWithConflicts": [], "changes": {"base": pull.base}})


def merge(hub: Hub, request: Request, repo: str, number: str) -> Answer:
    """What the pull request changed since it left its branch is changed there, in one commit."""
    it, pull = _pull(hub.writable(request, repo), number)
    assert request.user is not None
    behind = [commit.sha for commit in it.history(pull.base)]
    fork = next(commit for commit in it.history(pull.ref) if commit.sha in behind)
    before, after, blobs = fork.blobs, it.at(pull.ref).blobs, dict(it.at(pull.base).blobs)
    for path in {*before, *after}:
        if path not in after:
            blobs.pop(path, None)
        elif before.get(path) != after[path]:
            blobs[path] = after[path]
    it.write(pull.base, blobs, f"{pull.title} (#{pull.number})", request.user.name)
    pull.status = "merged"
    return as_json({})


def close(hub: Hub, request: Request, repo: str, number: str) -> Answer:
    it, pull = _pull(hub.writable(request, repo, f"refs/pr/{number}"), number)
    pull.status = request.json["status"]
    event = {"id": "1", "type": "status-change", "createdAt": it.at(pull.ref).date, "data": {"status": pull.status}}
    return as_json({"newStatus": event})


def _pull(repo: Repo, number: str) -> tuple[Repo, PullRequest]:
    if int(number) not in repo.pulls:
        raise Refused(404, f"No such discussion: {number}")
    return repo, repo.pulls[int(number)]


def _about(repo: Repo, pull: PullRequest) -> dict[str, Any]:
    return {
        "num": pull.number,
        "title": pull.title,
        "status": pull.status,
        "author": {"name": pull.author},
        "createdAt": repo.at(pull.ref).date,
        "repo": {"name": repo.name, "type": repo.type},
        "isPullRequest": True,
    }


ROUTES: list[Route] = [
    ("GET", API + "/discussions", listed),
    ("GET", API + r"/discussions/(?P<number>\d+)", one),
    ("POST", API + r"/discussions/(?P<number>\d+)/merge", merge),
    ("POST", API + r"/discussions/(?P<number>\d+)/status", close),
]
