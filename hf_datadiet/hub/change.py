"""What a push would change: files that are there, files that are wanted, and the operations that lead from the one to the other."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub.utils.sha import git_hash

from hf_datadiet.errors import PublishError

NO_NAME = {"", ".", "..", ".git"}

INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Categories of characters that make a name look like another, or like several lines."""


@dataclass(frozen=True)
class RemoteFile:
    """`size` in bytes; `oid`: git's digest of it. A file in the store of large files has `sha256`, and `oid` is of what stands for it."""

    size: int
    oid: str
    sha256: str | None = None


@dataclass(frozen=True)
class Remote:
    """The files of a repository at commit `sha` (None: no such repository, or an empty one). `read(path)`: its bytes, or None."""

    sha: str | None
    files: Mapping[str, RemoteFile]
    read: Callable[[str], bytes | None]

    def text(self, path: str) -> str | None:
        """A text file; `PublishError` where it is none."""
        content = self.read(path)
        try:
            return None if content is None else content.decode()
        except UnicodeDecodeError:
            raise PublishError(f"{path} of the repository is no text in UTF-8; mend it there, or choose another --to") from None


@dataclass(frozen=True)
class Change:
    """Files to be there, and files not to be there any more; all others stay. A path in both is there."""

    adds: Mapping[str, Path | bytes]
    deletes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Operation:
    """What happens to one file of `size` bytes; `commit` is the client's own form of it."""

    path: str
    size: int
    kind: Literal["add", "replace", "unchanged", "delete"]
    commit: CommitOperationAdd | CommitOperationDelete = field(repr=False, compare=False)


def operations(change: Change, remote: Remote) -> list[Operation]:
    """What `change` means for `remote`, by path; a file is read only if one of the same size is there.

    `PublishError` for a path that is none, or that would put a file where a folder of others is.
    """
    leave = set(change.deletes) - set(change.adds)
    _refuse(change.adds, [path for path in remote.files if path not in leave])
    made = []
    for path, content in change.adds.items():
        commit = CommitOperationAdd(path, content if isinstance(content, bytes) else content.absolute())
        there = remote.files.get(path)
        kind = "add" if there is None else "unchanged" if _same(commit, there) else "replace"
        made.append(Operation(path, commit.upload_info.size, kind, commit))
    for path in leave & set(remote.files):
        made.append(Operation(path, remote.files[path].size, "delete", CommitOperationDelete(path, is_folder=False)))
    return sorted(made, key=lambda operation: operation.path)


def missing(made: Iterable[Operation], remote: Remote) -> list[str]:
    """Paths of operations that have not been carried out in `remote`."""
    return [operation.path for operation in made if not _carried_out(operation.commit, remote.files.get(operation.path))]


def _carried_out(commit: CommitOperationAdd | CommitOperationDelete, there: RemoteFile | None) -> bool:
    if there is None or isinstance(commit, CommitOperationDelete):
        return (there is None) == isinstance(commit, CommitOperationDelete)
    return _same(commit, there)


def _same(commit: CommitOperationAdd, there: RemoteFile) -> bool:
    if commit.upload_info.size != there.size:
        return False
    if there.sha256 is not None:
        return commit.upload_info.sha256.hex() == there.sha256
    with commit.as_file() as file:
        return git_hash(file.read()) == there.oid


def _refuse(paths: Iterable[str], others: Iterable[str]) -> None:
    """`PublishError` for names that are not safe everywhere, and for a file in the place of a folder or the other way round."""
    files, folders = set(others) | set(paths), set[str]()
    for path in files:
        folders.update(str(parent) for parent in PurePosixPath(path).parents)
    for path in paths:
        unsafe = [part for part in path.split("/") if part.lower() in NO_NAME]
        if unsafe or "\\" in path or any(unicodedata.category(letter) in INVISIBLE for letter in path):
            raise PublishError(f"{path!a} is no name for a file in a repository; rename what it is made of")
        if path in folders or any(str(parent) in files for parent in PurePosixPath(path).parents):
            raise PublishError(f"{path} would take the place of other files in the repository; rename it, or remove those there")
