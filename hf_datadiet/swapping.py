"""A folder that takes the place of another, whole: whoever looks sees the old one, the new one or, for a moment, none."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hf_datadiet.durable import TEMPORARY, temporary_beside


@contextmanager
def swapping(folder: Path) -> Iterator[Path]:
    """A new, empty folder, which becomes `folder` when the block ends well; what lay there goes.

    What a process that was killed has left beside it goes as well. A folder that is still being written has the lock of its process.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder)
    new, old = temporary_beside(folder), temporary_beside(folder)
    new.mkdir()
    try:
        with _held(new):
            yield new
            with suppress(FileNotFoundError):
                folder.rename(old)
            new.rename(folder)
    finally:
        for path in (new, old):
            shutil.rmtree(path, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    for path in folder.parent.iterdir():
        if TEMPORARY.fullmatch(path.name) and path.name.startswith(f".{folder.name}.") and path.is_dir():
            with suppress(FileNotFoundError), _held(path) as held:
                if held:
                    shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Whether this process could lock a folder (a lock ends with its process): not if another does, nor where there are no locks."""
    handle, held = os.open(folder, os.O_RDONLY), False
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        yield held
    finally:
        os.close(handle)
