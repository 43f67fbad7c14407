"""Folders that are whole or not there: `done.json`, written last, has the size and digest of every file, then one rename.

Finished seeds are such folders, and so are decoded images and tokens. Digests cost 0.6 s per GiB on a processor with
instructions for SHA-256, once when a folder is made and once whenever it is opened.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hf_datadiet.durable import AGAIN, GONE, TEMPORARY, file_digest, read_record, sound, sync, temporary_beside, write_record
from hf_datadiet.errors import DamagedError

MARKER = "done.json"
FORGOTTEN = 3600
"""Seconds after which what nobody has touched is no longer being written."""


@contextmanager
def appearing(target: Path, about: Mapping[str, Any] | None = None) -> Iterator[Path]:
    """A temporary folder beside `target`, which gets its name when the block ends well; the first process to finish wins.

    `about`: plain values that are kept in the marker.
    """
    temporary = temporary_beside(target)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        files = sorted(temporary.iterdir())
        for path in files:
            sync(path)
        digests, sizes = ({path.name: of(path) for path in files} for of in (file_digest, _size))
        write_record(temporary / MARKER, {**(about or {}), "files": digests, "bytes": sizes})
        _rename(temporary, target)
        sync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _rename(temporary: Path, target: Path) -> None:
    try:
        temporary.rename(target)
    except OSError:
        if is_sealed(target):
            return
        # What has no marker is nobody's result.
        with suppress(FileNotFoundError):
            target.rename(temporary_beside(target))
        temporary.rename(target)


def _size(path: Path) -> int:
    return path.stat().st_size


def is_sealed(folder: Path) -> bool:
    """Whether the folder has its marker."""
    return (folder / MARKER).exists()


def about(folder: Path, remedy: str = AGAIN) -> dict[str, Any]:
    """The marker; raises `DamagedError` for a file that is missing or has another size. Reads no file but the marker."""
    found = read_record(folder / MARKER, remedy)
    for name, size in found["bytes"].items():
        if not (folder / name).is_file() or _size(folder / name) != size:
            raise DamagedError(folder / name, GONE, remedy)
    return found


def check(folder: Path, remedy: str = AGAIN) -> None:
    """Raise `DamagedError` for the first file that is missing or is not as it was sealed."""
    for name, digest in about(folder, remedy)["files"].items():
        try:
            found = file_digest(folder / name)
        except OSError:
            found = ""
        if found != digest:
            raise DamagedError(folder / name, GONE, remedy)


def cached(target: Path, make: Callable[[Path], None]) -> None:
    """See to it that `target` is there and whole: if not, `make` fills a new folder, and a damaged one is named on stderr."""
    if not sound(target, lambda: check(target)):
        with appearing(target) as folder:
            make(folder)


def remove_forgotten(folder: Path) -> None:
    """Remove temporary files and folders below that a killed process left behind: those that nobody has touched for an hour."""
    for path in _below(folder):
        if TEMPORARY.fullmatch(path.name) and _untouched(path) > FORGOTTEN:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink()


def _below(folder: Path) -> Iterator[Path]:
    """Everything in a folder. Unlike `rglob`, a walk does not mind what disappears meanwhile."""
    for parent, folders, files in os.walk(folder):
        yield from (Path(parent, name) for name in (*folders, *files))


def _untouched(path: Path) -> float:
    """Seconds since the file, or anything in the folder, was last written or renamed."""
    last = 0.0
    for each in (path, *_below(path)):
        with suppress(FileNotFoundError):
            found = each.lstat()
            last = max(last, found.st_mtime, found.st_ctime)
    return time.time() - last
