"""The folder of a training that is not finished: where it goes on, and how far it is.

    checkpoint.safetensors    all that the rest of the training depends on, replaced as it goes on
    weights-e3.safetensors    weights that its result shall hold, written once at their epoch
    progress.json             for `status` alone; no result ever depends on it

Several processes, even of several launches, may work at the same training: what they write is the same, and any of them may
find that another one has finished and removed the folder. That is no error.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hf_datadiet.durable import notice, read_safetensors, write_json, write_safetensors
from hf_datadiet.errors import DataDietError, DivergedError, StaleRecordError

Arrays: TypeAlias = Mapping[str, NDArray[np.generic]]
State: TypeAlias = Literal["running", "stopped", "failed"]

UNFINISHED = "unfinished"
"""The folder of a run in which they all lie."""

PULSE = 5.0
"""Seconds between two signs of life."""


class UnusableError(DataDietError):
    """A checkpoint that is damaged, or that belongs to another training."""


class Unfinished:
    """One training on its way. Nothing is created before something is written. `note` takes a line for the user.

    Of several processes at one training, one `writes`.
    """

    def __init__(self, path: Path, note: Callable[[str], None] = notice, *, writes: bool = True) -> None:
        self.path = path
        self.note = note
        self.writes = writes
        self._progress: dict[str, Any] = {"state": "running", "epoch": 0, "epochs": 0, "seconds": 0.0, "reason": None}
        self._alive = time.monotonic()

    @contextmanager
    def at_work(self, epochs: int) -> Iterator[Unfinished]:
        """Around the training and the saving of its result: the folder goes when the block ends well, else it says how it ended."""
        self._write_progress(state="running", epochs=epochs)
        try:
            yield self
        except BaseException as error:
            failed = isinstance(error, Exception)
            # What ended the block is what the user shall hear of.
            with suppress(OSError):
                more = {"diverged": True} if isinstance(error, DivergedError) else {}
                self._write_progress(state="failed" if failed else "stopped", reason=_in_a_line(error) if failed else None, **more)
            raise
        self.clear()

    # Where it goes on

    def keep(self, arrays: Arrays, plain: Any, about: Mapping[str, Any]) -> None:
        """Replace the checkpoint. `plain` is JSON; `about` says what it belongs to."""
        if not self.writes:
            return
        with suppress(FileNotFoundError):  # another process has finished this training
            write_safetensors(self.path / "checkpoint.safetensors", arrays, {"about": about, "plain": plain})

    def keep_weights(self, epoch: int, weights: Arrays, about: Mapping[str, Any]) -> None:
        """Keep what the result shall hold."""
        if not self.writes:
            return
        with suppress(FileNotFoundError):
            write_safetensors(self._weights(epoch), weights, {"about": about, "epoch": epoch})

    def load(self, about: Mapping[str, Any]) -> tuple[Arrays, Any] | None:
        """What `keep` was given last, or None; `UnusableError` if it is damaged or belongs to another training."""
        path = self.path / "checkpoint.safetensors"
        if not path.exists():
            return None
        arrays, meta = _read(path, about)
        return arrays, meta["plain"]

    def load_weights(self, epoch: int, about: Mapping[str, Any]) -> Arrays:
        """What `keep_weights` was given at that epoch; `UnusableError` also if that is missing."""
        return _read(self._weights(epoch), about)[0]

    def _weights(self, epoch: int) -> Path:
        return self.path / f"weights-e{epoch}.safetensors"

    # How far it is

    def has_diverged(self) -> bool:
        """Whether its last life has diverged, so that nobody need wait for it."""
        try:
            told = json.loads((self.path / "progress.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(told, dict) and told.get("state") == "failed" and told.get("diverged") is True

    def progress(self, epoch: int, seconds: float) -> None:
        """`epoch` epochs are finished, `seconds` spent in all lives of the training."""
        self._write_progress(epoch=epoch, seconds=seconds)

    def alive(self) -> None:
        """A sign of life, to be given often."""
        if self.writes and time.monotonic() - self._alive >= PULSE:
            self._alive = time.monotonic()
            with suppress(OSError):
                os.utime(self.path / "progress.json")

    def _write_progress(self, **news: Any) -> None:
        self._progress |= news
        if not self.writes:
            return
        with suppress(FileNotFoundError):
            write_json(self.path / "progress.json", self._progress)

    def clear(self) -> None:
        """The result has its final name."""
        if not self.writes:
            return
        # In one step, so that no half of it is found.
        gone = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex[:8]}.tmp")
        with suppress(OSError):
            self.path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
        with suppress(OSError):  # until one that is not empty: others are at work in there
            for folder in self.path.parents:
                if UNFINISHED not in folder.parts:
                    break
                folder.rmdir()


def _in_a_line(error: BaseException) -> str:
    return " ".join(f"{error}".split()) or type(error).__name__


def _read(path: Path, about: Mapping[str, Any]) -> tuple[Arrays, dict[str, Any]]:
    try:
        arrays, meta = read_safetensors(path)
    except StaleRecordError:
        raise UnusableError(f"{path.name} is missing or damaged") from None
    wanted, kept = json.loads(json.dumps(about)), meta.get("about", {})
    other = sorted(key for key in {*wanted, *kept} if wanted.get(key) != kept.get(key))
    if other:
        raise UnusableError(f"{path.name} belongs to a training with another {', '.join(other)}")
    return arrays, meta
