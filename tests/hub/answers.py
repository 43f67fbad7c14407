"""What the Hub answers: one function for each kind of request that the client makes."""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote

import yaml

from tests.hub.repos import ATTRIBUTES, USUAL_ATTRIBUTES, Blob, Commit, PullRequest, Refused, Repo, User, git_oid, matches


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
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})


def refusal(refused: Refused) -> Answer:
    headers = {"X-Error-Message": refused.message} | ({"X-Error-Code": refused.code} if refused.code else {})
    more = {key: value for key, value in refused.more.items() if not key.startswith("X-")}
    headers |= {key: value for key, value in refused.more.items() if key.startswith("X-")}
    return as_json({"error": refused.message, **more}, refused.status, **headers)


class Hub:
    """The repositories, the users by token, and the answer to each request."""

    url: str

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.users: dict[str, User] = {}
        self._signed: set[str] = set()

    def answer(self, request: Request) -> Answer:
        for method, pattern, reply in ROUTES:
            found = re.fullmatch(pattern, request.path) if re.fullmatch(method, request.method) else None
            if found:
                parts = {name: unquote(part) for name, part in found.groupdict().items() if part is not None}
                if "repo" in parts and not parts["repo"].startswith(("datasets/", "models/")):
                    # The page of a model has no prefix.
                    parts["repo"] = f"models/{parts['repo']}"
                try:
                    return reply(self, request, **parts)
                except Refused as refused:
                    return refusal(refused)
        return Answer(404)

    def found(self, request: Request, key: str) -> Repo:
        """A repository that whoever asks may know of."""
        repo = self.repos.get(key)
        if repo is None or (repo.private and not repo.readable(request.user)):
            raise Refused(401 if request.user is None else 404, "Repository not found", "RepoNotFound")
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
        repo = self.found(request, key)
        if request.user is None or not request.user.writes or (repo.gated and not repo.readable(request.user)):
            raise Refused(403 if request.user else 401, f"You may not open a pull request in {repo.name}")
        return repo


def whoami(hub: Hub, request: Request) -> Answer:
    if request.user is None:
        raise Refused(401, "Invalid credentials in Authorization header")
    user = request.user
    orgs = [{"type": "org", "id": f"org-{org}", "name": org, "fullname": org, "roleInOrg": "write"} for org in user.orgs]
    role = {"type": "access_token", "accessToken": {"displayName": "test", "role": "write" if user.writes else "read"}}
    return as_json({"type": "user", "id": f"user-{user.name}", "name": user.name, "fullname": user.name, "orgs": orgs, "auth": role})


def _named(request: Request) -> tuple[str, str]:
    """The namespace and the key of the repository that a request to create or delete one means."""
    if request.user is None:
        raise Refused(401, "Invalid username or password.")
    owner = request.json.get("organization") or request.user.name
    return owner, f"{request.json.get('type') or 'model'}s/{owner}/{request.json['name']}"


def create(hub: Hub, request: Request) -> Answer:
    owner, key = _named(request)
    assert request.user is not None
    if not (request.user.writes and request.user.owns(owner)):
        raise Refused(403, f'You don\'t have the rights to create a repository under the namespace "{owner}"')
    repo = Repo(key, private=request.json.get("visibility") == "private")
    url = f"{hub.url}/{repo.page}"
    if key in hub.repos:
        raise Refused(409, f"You already created this {repo.type} repo: {repo.name}", url=url)
    hub.repos[key] = repo
    repo.write("refs/heads/main", {ATTRIBUTES: Blob(USUAL_ATTRIBUTES, False)}, "initial commit", request.user.name)
    return as_json({"url": url, "name": repo.name, "private": repo.private})


def delete(hub: Hub, request: Request) -> Answer:
    _, key = _named(request)
    del hub.repos[hub.writable(request, key).key]
    return Answer(200)


def validate_yaml(hub: Hub, request: Request) -> Answer:
    """The metadata of a card; in truth the Hub checks the licence and more."""
    found = re.match(r"(?:\ufeff)?---[ \t]*\r?\n(.*?)^---[ \t]*$", request.json["content"], re.DOTALL | re.MULTILINE)
    try:
        metadata = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError as error:
        return as_json({"errors": [{"message": f"YAML: {error}"}], "warnings": []}, 400)
    if metadata is not None and not isinstance(metadata, dict):
        return as_json({"errors": [{"message": "YAML metadata is no mapping"}], "warnings": []}, 400)
    return as_json({"errors": [], "warnings": [] if metadata else [{"message": "empty or missing yaml metadata in repo card"}]})


def info(hub: Hub, request: Request, repo: str, revision: str = "main") -> Answer:
    it = hub.found(request, repo)
    commit = it.at(revision)
    siblings = [
        {"rfilename": path} | ({**_entry(path, blob), "blobId": blob.oid} if request.query.get("blobs") else {})
        for path, blob in commit.blobs.items()
    ]
    said = {
        "id": it.name,
        "author": it.owner,
        "sha": commit.sha,
        "private": it.private,
        "gated": it.gated,
        "disabled": False,
        "lastModified": commit.date,
        "siblings": siblings,
        "tags": [],
    }
    return as_json(said)


def settings(hub: Hub, request: Request, repo: str) -> Answer:
    it = hub.writable(request, repo)
    if "visibility" in request.json:
        it.private = request.json["visibility"] == "private"
    if "gated" in request.json:
        it.gated = request.json["gated"]
    return as_json({"private": it.private, "gated": it.gated})


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
    it = hub.found(request, repo)
    if it.gated and not it.readable(request.user):
        raise Refused(403 if request.user else 401, f"Access to {it.type} {it.name} is restricted", "GatedRepo")
    commit = it.at(revision)
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


def preupload(hub: Hub, request: Request, repo: str, revision: str) -> Answer:
    it = hub.contributable(request, repo, revision)
    commit = it.at(revision)
    ignored = request.json.get("gitIgnore", commit.files.get(".gitignore", b"").decode()).split()
    answers = []
    for file in request.json["files"]:
        path, present = file["path"], commit.blobs.get(file["path"])
        lfs = it.is_lfs(path, file["size"], base64.b64decode(file["sample"]), commit)
        answer = {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": any(matches(path, line) for line in ignored)}
        answers.append(answer | ({"oid": present.etag} if present else {}))
    return as_json({"files": answers})


def lfs_batch(hub: Hub, request: Request, repo: str) -> Answer:
    ref = request.json.get("ref", {}).get("name")
    # Without a ref the objects are for a pull request.
    it = hub.writable(request, repo, ref) if ref else hub.found(request, repo)
    if request.user is None:
        raise Refused(401, "Invalid username or password.")
    answers = []
    for wanted in request.json["objects"]:
        answer = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in it.objects:
            signature = secrets.token_hex(16)
            hub._signed.add(signature)
            answer["actions"] = {
                "upload": {"href": f"{hub.url}/storage/{it.page}/{wanted['oid']}?signature={signature}", "header": {}},
                "verify": {"href": f"{hub.url}/{it.page}.git/info/lfs/verify"},
            }
        answers.append(answer)
    return as_json({"transfer": "basic", "objects": answers})


def store(hub: Hub, request: Request, repo: str, oid: str) -> Answer:
    """An upload to where the signature leads; as at S3, who also shows a token is turned away."""
    if request.query.get("signature") not in hub._signed or "Authorization" in request.headers:
        raise Refused(403, "The signature is not valid, or there is a second mechanism of authorization")
    data = Blob(request.body, True)
    if data.sha256 != oid:
        raise Refused(400, "The SHA-256 does not match")
    hub.repos[repo].objects[oid] = data.data
    return Answer(200, b"", {"ETag": f'"{oid}"'})


def verify(hub: Hub, request: Request, repo: str) -> Answer:
    if len(hub.found(request, repo).objects.get(request.json["oid"], b"")) != request.json["size"]:
        raise Refused(404, "The object was not uploaded")
    return Answer(200)


def commit(hub: Hub, request: Request, repo: str, revision: str) -> Answer:
    ref = revision if revision.startswith("refs/") else f"refs/heads/{revision}"
    it = hub.contributable(request, repo, ref)
    assert request.user is not None
    if ref not in it.refs:
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    header, *operations = [(line["key"], line["value"]) for line in map(json.loads, request.body.splitlines())]
    title, description = header[1]["summary"], header[1].get("description", "")
    parent = it.at(ref)
    if header[1].get("parentCommit", parent.sha) != parent.sha:
        raise Refused(412, "A commit has happened since. Please refresh and try again.")
    decoded = [(kind, value | {"content": base64.b64decode(value["content"])} if kind == "file" else value) for kind, value in operations]
    blobs = it.changed(parent.blobs, decoded)
    more = {}
    if request.opens_pull_request:
        pull = PullRequest(len(it.pulls) + 1, request.user.name, title, ref)
        it.pulls[pull.number] = pull
        ref, more = pull.ref, {"pullRequestUrl": f"{hub.url}/{it.page}/discussions/{pull.number}"}
    written = it.write(ref, blobs, title, request.user.name, description, parent)
    return as_json({"success": True, "commitUrl": f"{hub.url}/{it.page}/commit/{written.sha}", "commitOid": written.sha, **more})


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


def branch(hub: Hub, request: Request, repo: str, revision: str) -> Answer:
    return _new_ref(hub, request, repo, f"refs/heads/{revision}", request.json.get("startingPoint", "main"))


def tag(hub: Hub, request: Request, repo: str, revision: str) -> Answer:
    return _new_ref(hub, request, repo, f"refs/tags/{request.json['tag']}", revision)


def _new_ref(hub: Hub, request: Request, repo: str, ref: str, start: str) -> Answer:
    it = hub.writable(request, repo)
    commit = it.at(start)
    if ref in it.refs:
        raise Refused(409, f"Reference already exists: {ref}")
    it.refs[ref] = commit.sha
    return Answer(200)


API = r"/api/(?P<repo>(?:datasets|models)/[^/]+/[^/]+)"
AT = r"/(?P<revision>[^/]+)"
PAGE = r"/(?P<repo>(?:datasets/)?[^/]+/[^/]+)"
ROUTES: list[tuple[str, str, Callable[..., Answer]]] = [
    ("GET", "/api/whoami-v2", whoami),
    ("POST", "/api/repos/create", create),
    ("DELETE", "/api/repos/delete", delete),
    ("POST", "/api/validate-yaml", validate_yaml),
    ("GET", API, info),
    ("GET", API + "/revision" + AT, info),
    ("PUT", API + "/settings", settings),
    ("GET", API + "/tree" + AT + "(?:/(?P<path>.+))?", tree),
    ("POST", API + "/paths-info" + AT, paths_info),
    ("POST", API + "/preupload" + AT, preupload),
    ("POST", API + "/commit" + AT, commit),
    ("GET", API + "/commits" + AT, commits),
    ("GET", API + "/refs", refs),
    ("POST", API + "/branch" + AT, branch),
    ("POST", API + "/tag" + AT, tag),
    ("POST", PAGE + r"\.git/info/lfs/objects/batch", lfs_batch),
    ("POST", PAGE + r"\.git/info/lfs/verify", verify),
    ("PUT", "/storage" + PAGE + r"/(?P<oid>\w+)", store),
    ("GET|HEAD", PAGE + "/resolve" + AT + "/(?P<path>.+)", resolve),
]
