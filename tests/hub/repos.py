"""Repositories in memory: every commit of every branch, tag and pull request, and who may read or write them.

A repository's key says its type: `datasets/org/toys` and `models/org/toys` are two repositories.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatch
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, Literal

Gate = Literal[False, "auto", "manual"]
Operation = tuple[str, dict[str, Any]]

ATTRIBUTES = ".gitattributes"
LFS = ("arrow", "bin", "gz", "jpeg", "jpg", "mp3", "npy", "npz", "onnx", "parquet", "png", "pt", "safetensors", "tar", "wav", "webp", "zip")
USUAL_ATTRIBUTES = "".join(f"*.{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in LFS).encode()
REGULAR_BYTES = 10_000_000
"""A larger file is no regular one, whatever is in it."""

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


class Refused(Exception):
    """A request that is answered with an error: the status, what the Hub says, and its code for it."""

    def __init__(self, status: int, message: str, code: str | None = None, **more: Any) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.more = status, message, code, more


@dataclass(frozen=True)
class User:
    """Somebody, and the organisations whose repositories are also theirs. One token of theirs may be for reading only."""

    name: str
    orgs: tuple[str, ...] = ()
    writes: bool = True

    def owns(self, namespace: str) -> bool:
        return namespace in (self.name, *self.orgs)


@dataclass(frozen=True)
class Blob:
    """The content of a file, in git itself or beside it (LFS)."""

    data: bytes
    lfs: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()

    @cached_property
    def oid(self) -> str:
        """The name that git has for it."""
        return git_oid("blob", self.pointer if self.lfs else self.data)

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


def git_oid(kind: str, data: bytes) -> str:
    return hashlib.sha1(f"{kind} {len(data)}\0".encode() + data).hexdigest()


@dataclass(frozen=True)
class Commit:
    sha: str
    parent: str | None
    title: str
    description: str
    author: str
    date: str
    blobs: Mapping[str, Blob]

    @property
    def files(self) -> dict[str, bytes]:
        return {path: blob.data for path, blob in self.blobs.items()}


@dataclass
class PullRequest:
    number: int
    author: str
    title: str
    base: str
    status: Literal["open", "closed", "merged"] = "open"

    @property
    def ref(self) -> str:
        return f"refs/pr/{self.number}"


@dataclass
class Repo:
    """`commits` by sha; `refs` by full name (`refs/heads/main`, `refs/tags/v1`, `refs/pr/1`); `objects` by SHA-256: what LFS holds.

    `readers` are names of users who may read it though it is private or gated.
    """

    key: str
    private: bool = False
    gated: Gate = False
    readers: set[str] = field(default_factory=set)
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    pulls: dict[int, PullRequest] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)

    @property
    def type(self) -> str:
        return self.key.split("/")[0].removesuffix("s")

    @property
    def owner(self) -> str:
        return self.key.split("/")[1]

    @property
    def name(self) -> str:
        return self.key.split("/", 1)[1]

    @property
    def page(self) -> str:
        """Where its page is, below the address of the Hub."""
        return self.key.removeprefix("models/")

    def writable(self, user: User | None) -> bool:
        return user is not None and user.writes and user.owns(self.owner)

    def readable(self, user: User | None) -> bool:
        return user is not None and (user.owns(self.owner) or user.name in self.readers)

    def ref(self, revision: str) -> str | None:
        """The full name of a branch, tag or pull request."""
        return next((ref for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision) if ref in self.refs), None)

    def at(self, revision: str) -> Commit:
        """The commit that a branch, tag, pull request, sha or beginning of a sha (7 characters at least) names."""
        ref = self.ref(revision)
        shas = [self.refs[ref]] if ref else [sha for sha in self.commits if len(revision) >= 7 and sha.startswith(revision)]
        if len(shas) != 1:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[shas[0]]

    def history(self, revision: str) -> Iterator[Commit]:
        """The newest first."""
        sha: str | None = self.at(revision).sha
        while sha is not None:
            yield self.commits[sha]
            sha = self.commits[sha].parent

    def write(
        self, ref: str, blobs: Mapping[str, Blob], title: str, author: str, description: str = "", parent: Commit | None = None
    ) -> Commit:
        """A new commit at the end of `ref`; a ref that is new begins at `parent`."""
        parent = self.commits[self.refs[ref]] if ref in self.refs else parent
        date = f"{BEGINNING + timedelta(seconds=len(self.commits)):%Y-%m-%dT%H:%M:%S.000Z}"
        content = sorted((path, blob.oid) for path, blob in blobs.items())
        sha = git_oid("commit", json.dumps([self.key, parent and parent.sha, title, author, date, content]).encode())
        self.objects |= {blob.sha256: blob.data for blob in blobs.values() if blob.lfs}
        self.commits[sha] = Commit(sha, parent and parent.sha, title, description, author, date, dict(sorted(blobs.items())))
        self.refs[ref] = sha
        return self.commits[sha]

    def changed(self, blobs: Mapping[str, Blob], operations: Iterable[Operation]) -> dict[str, Blob]:
        """The files after the operations of a commit, in their order."""
        after = dict(blobs)
        for kind, value in operations:
            path = value["path"].rstrip("/")
            if kind == "file":
                after[path] = Blob(value["content"], False)
            elif kind == "lfsFile":
                if value["oid"] not in self.objects:
                    raise Refused(400, f"LFS pointer pointed to a file that does not exist: {path}")
                after[path] = Blob(self.objects[value["oid"]], True)
            elif kind == "deletedFile" and path in after:
                del after[path]
            elif kind == "deletedFolder" and any(name.startswith(f"{path}/") for name in after):
                after = {name: blob for name, blob in after.items() if not name.startswith(f"{path}/")}
            elif kind in ("deletedFile", "deletedFolder"):
                raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            else:
                raise Refused(400, f"Unknown operation {kind}")
        return after

    def is_lfs(self, path: str, size: int, sample: bytes, commit: Commit | None = None) -> bool:
        """Whether a file belongs beside git: by the attributes of the commit, because it is large, or because it is no text."""
        attributes = commit.files.get(ATTRIBUTES, b"") if commit else USUAL_ATTRIBUTES
        patterns = [line.split()[0] for line in attributes.decode().splitlines() if "filter=lfs" in line]
        return size > REGULAR_BYTES or any(matches(path, pattern) for pattern in patterns) or not _is_text(sample)

    def blob(self, path: str, data: bytes) -> Blob:
        return Blob(data, len(data) > 0 and self.is_lfs(path, len(data), data[:512]))


def matches(path: str, pattern: str) -> bool:
    """As in .gitattributes and .gitignore, as far as tests need it: a pattern of names, of paths, or of a folder."""
    inner = pattern.strip("/")
    return fnmatch(path, inner) or ("/" not in inner and fnmatch(PurePosixPath(path).name, inner)) or path.startswith(f"{inner}/")


def _is_text(sample: bytes) -> bool:
    try:
        # The sample may end within a character.
        return "\0" not in codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError:
        return False
