"""The files of a publication beside its manifest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from hf_datadiet.durable import file_digest
from hf_datadiet.errors import PublishError
from hf_datadiet.evidence import load_json
from hf_datadiet.hub.published import EVIDENCE


def manifest(published: Path) -> dict[str, str]:
    """{path: digest}; `PublishError` where it is missing or damaged, or names a file that would lie outside."""
    read = load_json(published / EVIDENCE / "manifest.json")
    files = read.get("files") if isinstance(read, dict) else None
    if not isinstance(files, dict):
        raise PublishError(f"{EVIDENCE}/manifest.json is missing or damaged; publish it again")
    for name in files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name:
            raise PublishError(f"{EVIDENCE}/manifest.json names a file outside of the publication ({name!a}); do not use it")
    return files


def config_folders(published: Path) -> list[str]:
    """The folders that configs of ours lie in, also those of earlier publications."""
    return sorted({name.partition("/")[0] for name in manifest(published) if "/" in name} - {EVIDENCE})


def changed(published: Path, names: Iterable[str]) -> Iterator[str]:
    """Which of these files are no longer those of the manifest."""
    digests = manifest(published)
    for name in names:
        path = published / name
        if not path.is_file():
            yield f"{name} is missing"
        elif file_digest(path) != digests[name]:
            yield f"{name} was changed"


def added(published: Path, folders: Iterable[str]) -> Iterator[str]:
    """Files below these folders that the manifest does not name: a pattern of the card may take them in."""
    known = manifest(published)
    for folder in folders:
        for path in sorted((published / folder).rglob("*")):
            name = path.relative_to(published).as_posix()
            # A hidden file is read by nobody.
            if path.is_file() and name not in known and not path.name.startswith("."):
                yield f"{name} was added"


def splits_of(published: Path, config: str) -> dict[str, list[Path]]:
    """{split: its files, in their order} of a config."""
    found: dict[str, list[Path]] = {}
    for path in sorted((published / config).glob("*.parquet")):
        if match := re.fullmatch(r"(.+)-\d{5}-of-\d{5}\.parquet", path.name):
            found.setdefault(match[1], []).append(path)
    return found
