"""What the Hub answers to those who write."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping
from typing import Any

from tests.hub.answers import API, AT, PAGE, Answer, Hub, Request, Route, as_json
from tests.hub.repos import ATTRIBUTES, USUAL_ATTRIBUTES, Blob, PullRequest, Refused, Repo, matches


def key_of(said: Mapping[str, Any], user: str = "somebody") -> str:
    """The repository that a request to create or delete one means."""
    return f"{said.get('type') or 'model'}s/{said.get('organization') or user}/{said['name']}"


def create(hub: Hub, request: Request) -> Answer:
    if request.user is None:
        raise Refused(401, "Invalid username or password.")
    key = key_of(request.json, request.user.name)
    repo = Repo(key, private=request.json.get("visibility") == "private")
    if not repo.writable(request.user):
        raise Refused(403, f'You don\'t have the rights to create a repository under the namespace "{repo.owner}"')
    url = f"{hub.url}/{repo.page}"
    if key in hub.repos:
        raise Refused(409, f"You already created this {repo.type} repo: {repo.name}", url=url)
    hub.repos[key] = repo
    repo.write("refs/heads/main", {ATTRIBUTES: Blob(USUAL_ATTRIBUTES, False)}, "initial commit", request.user.name)
    return as_json({"url": url, "name": repo.name, "private": repo.private})


def delete(hub: Hub, request: Request) -> Answer:
    del hub.repos[hub.writable(request, key_of(request.json, request.user.name if request.user else "")).key]
    return Answer(200)


def settings(hub: Hub, request: Request, repo: str) -> Answer:
    it = hub.writable(request, repo)
    if "visibility" in request.json:
        it.private = request.json["visibility"] == "private"
    if "gated" in request.json:
        it.gated = request.json["gated"]
    return as_json({"private": it.private, "gated": it.gated})


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
            hub.signed.add(signature)
            answer["actions"] = {
                "upload": {"href": f"{hub.url}/storage/{it.page}/{wanted['oid']}?signature={signature}", "header": {}},
                "verify": {"href": f"{hub.url}/{it.page}.git/info/lfs/verify"},
            }
        answers.append(answer)
    return as_json({"transfer": "basic", "objects": answers})


def store(hub: Hub, request: Request, repo: str, oid: str) -> Answer:
    """An upload to where the signature leads; as at S3, who also shows a token is turned away."""
    if request.query.get("signature") not in hub.signed or "Authorization" in request.headers:
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
    if ref not in it.refs or ref.startswith("refs/tags/"):
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    header, *operations = [(line["key"], line["value"]) for line in map(json.loads, request.body.splitlines())]
    title, description = header[1]["summary"], header[1].get("description", "")
    parent = it.at(header[1].get("parentCommit", ref))
    if parent.sha != it.refs[ref] and not request.opens_pull_request:
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


def delete_ref(hub: Hub, request: Request, repo: str, kind: str, revision: str) -> Answer:
    it = hub.writable(request, repo)
    ref = f"refs/{'heads' if kind == 'branch' else 'tags'}/{revision}"
    if ref == "refs/heads/main":
        raise Refused(403, "Cannot delete branch main")
    if it.refs.pop(ref, None) is None:
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return Answer(200)


ROUTES: list[Route] = [
    ("POST", "/api/repos/create", create),
    ("DELETE", "/api/repos/delete", delete),
    ("PUT", API + "/settings", settings),
    ("POST", API + "/preupload" + AT, preupload),
    ("POST", PAGE + r"\.git/info/lfs/objects/batch", lfs_batch),
    ("PUT", "/storage" + PAGE + r"/(?P<oid>\w+)", store),
    ("POST", PAGE + r"\.git/info/lfs/verify", verify),
    ("POST", API + "/commit" + AT, commit),
    ("POST", API + "/branch" + AT, branch),
    ("DELETE", API + "/(?P<kind>branch|tag)" + AT, delete_ref),
    ("POST", API + "/tag" + AT, tag),
]
