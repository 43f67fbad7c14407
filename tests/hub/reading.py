"""What the Hub answers to those who read."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs

import yaml

from tests.hub.answers import API, AT, PAGE, Answer, Hub, Request, Route, as_json
from tests.hub.repos import Blob, Commit, Refused, Repo, git_oid


def whoami(hub: Hub, request: Request) -> Answer:
    if request.user is None:
        raise Refused(401, "Invalid credentials in Authorization header")
    user = request.user
    orgs = [{"type": "org", "id": f"org-{org}", "name": org, "fullname": org, "roleInOrg": "write"} for org in user.orgs]
    role = {"type": "access_token", "accessToken": {"displayName": "test", "role": "write" if user.writes else "read"}}
    return as_json({"type": "user", "id": f"user-{user.name}", "name": user.name, "fullname": user.name, "orgs": orgs, "auth": role})


def validate_yaml(hub: Hub, request: Request) -> Answer:
    """The metadata of a card; in truth the Hub checks the licence and more."""
    try:
        metadata = _metadata(request.json["content"])
    except yaml.YAMLError as error:
        return as_json({"errors": [{"message": f"YAML: {error}"}], "warnings": []}, 400)
    if not isinstance(metadata, dict):
        return as_json({"errors": [{"message": "YAML metadata is no mapping"}], "warnings": []}, 400)
    return as_json({"errors": [], "warnings": [] if metadata else [{"message": "empty or missing yaml metadata in repo card"}]})


def _metadata(card: str) -> Any:
    found = re.match(r"\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*$", card, re.DOTALL | re.MULTILINE)
    return (yaml.safe_load(found[1]) if found else None) or {}


def info(hub: Hub, request: Request, repo: str, revision: str = "main") -> Answer:
    it = hub.found(request, repo)
    commit = it.at(revision)
    siblings = [{"rfilename": path} for path in commit.blobs]
    if request.query.get("blobs") == "true":
        for sibling, blob in zip(siblings, commit.blobs.values(), strict=True):
            lfs = {"sha256": blob.sha256, "size": len(blob.data), "pointerSize": len(blob.pointer)}
            sibling |= {"size": len(blob.data), "blobId": blob.oid} | ({"lfs": lfs} if blob.lfs else {})
    said = {
        "id": it.name,
        "author": it.owner,
        "sha": commit.sha,
        "private": it.private,
        "gated": it.gated,
        "disabled": False,
        "lastModified": commit.date,
        "siblings": siblings,
        "cardData": _card(commit),
        "tags": [],
    }
    return as_json(said)


def _card(commit: Commit) -> Any:
    try:
        return _metadata(commit.files.get("README.md", b"").decode(errors="replace"))
    except yaml.YAMLError:
        return None


def auth_check(hub: Hub, request: Request, repo: str, write: str = "") -> Answer:
    if write:
        hub.writable(request, repo)
    hub.opened(request, repo)
    return Answer(200)


def _entry(path: str, blob: Blob) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "size": len(blob.data), "oid": blob.oid}
    return entry | ({"lfs": {"oid": blob.sha256, "size": len(blob.data), "pointerSize": len(blob.pointer)}} if blob.lfs else {})


def _entries(repo: Repo, commit: Commit, expand: bool) -> dict[str, dict[str, Any]]:
    """Every file and every folder of a commit by path."""
    folders: dict[str, list[str]] = {}
    for path, blob in commit.blobs.items():
        for end in (at for at, letter in enumerate(path) if letter == "/"):
            folders.setdefault(path[:end], []).append(f"{path} {blob.oid}")
    entries = {path: _entry(path, blob) for path, blob in commit.blobs.items()}
    for path, inner in folders.items():
        entries[path] = {"type": "directory", "path": path, "size": 0, "oid": git_oid("tree", "\n".join(inner).encode())}
    if expand:
        for entry in entries.values():
            entry["lastCommit"] = {"id": commit.sha, "title": commit.title, "date": commit.date}
    return entries


def tree(hub: Hub, request: Request, repo: str, revision: str, path: str = "") -> Answer:
    it = hub.found(request, repo)
    entries = _entries(it, it.at(revision), request.query.get("expand") == "true")
    under = f"{path.strip('/')}/" if path.strip("/") else ""
    listed = [entry for name, entry in entries.items() if name.startswith(under)]
    if under and not listed:
        raise Refused(404, f"{path} does not exist on {revision}", "EntryNotFound")
    if request.query.get("recursive") != "true":
        listed = [entry for entry in listed if "/" not in entry["path"][len(under) :]]
    return as_json(listed)


def paths_info(hub: Hub, request: Request, repo: str, revision: str) -> Answer:
    it = hub.found(request, repo)
    form = parse_qs(request.body.decode())
    entries = _entries(it, it.at(revision), form.get("expand") == ["true"])
    return as_json([entries[path.strip("/")] for path in form.get("paths", []) if path.strip("/") in entries])


def resolve(hub: Hub, request: Request, repo: str, revision: str, path: str) -> Answer:
    commit = hub.opened(request, repo).at(revision)
    if path not in commit.blobs:
        raise Refused(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": commit.sha})
    blob = commit.blobs[path]
    headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    if blob.lfs:
        headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.data))}
    return _ranged(blob.data, headers, request.headers.get("Range"))


def _ranged(data: bytes, headers: dict[str, str], asked: str | None) -> Answer:
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", asked or "")
    if found is None or found[0] == "bytes=-":
        return Answer(200, data, headers)
    start = int(found[1]) if found[1] else max(0, len(data) - int(found[2]))
    end = min(int(found[2]) if found[1] and found[2] else len(data), len(data) - 1)
    if start > end:
        return Answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
    return Answer(206, data[start : end + 1], {**headers, "Content-Range": f"bytes {start}-{end}/{len(data)}"})


def commits(hub: Hub, request: Request, repo: str, revision: str) -> Answer:
    return as_json(
        [
            {
                "id": commit.sha,
                "title": commit.title,
                "message": commit.description,
                "date": commit.date,
                "authors": [{"user": commit.author}],
            }
            for commit in hub.found(request, repo).history(revision)
        ]
    )


def refs(hub: Hub, request: Request, repo: str) -> Answer:
    it = hub.found(request, repo)

    def named(prefix: str) -> list[dict[str, str]]:
        listed = [(ref, sha) for ref, sha in it.refs.items() if ref.startswith(prefix)]
        return [{"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": sha} for ref, sha in listed]

    pulls = {"pullRequests": named("refs/pr/")} if request.query.get("include_prs") else {}
    return as_json({"branches": named("refs/heads/"), "tags": named("refs/tags/"), "converts": [], **pulls})


ROUTES: list[Route] = [
    ("GET", "/api/whoami-v2", whoami),
    ("POST", "/api/validate-yaml", validate_yaml),
    ("GET", API, info),
    ("GET", API + "/revision" + AT, info),
    ("GET", API + "/auth-check(?P<write>/write)?", auth_check),
    ("GET", API + "/tree" + AT + "(?:/(?P<path>.+))?", tree),
    ("POST", API + "/paths-info" + AT, paths_info),
    ("GET", API + "/commits" + AT, commits),
    ("GET", API + "/refs", refs),
    ("GET|HEAD", PAGE + "/resolve" + AT + "/(?P<path>.+)", resolve),
]
