"""A process that dies at the worst moment, played within one process."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest


class Death(BaseException):
    """No handler catches it."""


@contextmanager
def dying_at_rename(k: int) -> Iterator[list[str]]:
    """End the block at the k-th renaming of a file or folder, with nothing cleaned up; the list then says which it was."""
    left = k
    deaths: list[str] = []

    def about_to(original: Any) -> Any:
        def renaming(path: Path, target: Any) -> Any:
            nonlocal left
            if left == 0:
                deaths.append(f"renaming {path} to {target}")
                raise Death
            left -= 1
            return original(path, target)

        return renaming

    def unless_dead(original: Any) -> Any:
        return lambda *given, **named: None if deaths else original(*given, **named)

    with pytest.MonkeyPatch.context() as patch, suppress(Death):
        patch.setattr(Path, "replace", about_to(Path.replace))
        patch.setattr(Path, "rename", about_to(Path.rename))
        patch.setattr(Path, "hardlink_to", about_to(Path.hardlink_to))
        patch.setattr(Path, "unlink", unless_dead(Path.unlink))
        patch.setattr(shutil, "rmtree", unless_dead(shutil.rmtree))
        yield deaths
