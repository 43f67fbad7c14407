"""How far each training has come and how long the rest will take: a scoring seed, or an arm of an evaluation with a seed.

An unfinished training has a folder `unfinished/...`; its `progress.json` is for this purpose alone and never read for a result.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

State: TypeAlias = Literal["done", "running", "interrupted", "failed", "damaged", "to do"]

INTERRUPTED: State = "interrupted"
TOLD: dict[str, State] = {"running": "running", "stopped": INTERRUPTED, "failed": "failed"}
"""What a training says of itself, in the words of a status."""

ALIVE = 60
"""Seconds without a sign of life after which a training is taken for interrupted."""


@dataclass(frozen=True)
class Training:
    """One training. `epoch` of `epochs` are finished, in `seconds`, as far as that is known; `reason`: why it failed, or what is damaged.

    `work`: its size in any unit that all trainings of a list share, such as rows times epochs.
    """

    state: State
    epoch: int | None = None
    epochs: int | None = None
    seconds: float | None = None
    reason: str | None = None
    work: float = 1.0

    @property
    def finished(self) -> float:
        """The part of the work that is behind it."""
        if self.state == "done":
            return self.work
        return self.work * self.epoch / self.epochs if self.epoch and self.epochs and self.state != "damaged" else 0.0


def unfinished(folder: Path, work: float) -> Training:
    """The training whose folder below `unfinished/` this is. What cannot be read counts as not there."""
    try:
        age = time.time() - (folder / "progress.json").stat().st_mtime
        found = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
        told = TOLD[found["state"]]
        epoch, epochs, seconds, reason = (found[key] for key in ("epoch", "epochs", "seconds", "reason"))
        sane = _is_count(epoch) and _is_count(epochs) and epoch <= epochs and isinstance(seconds, int | float) and seconds >= 0
    except (OSError, ValueError, KeyError, TypeError):
        return Training("to do", work=work)
    if not sane:
        return Training("to do", work=work)
    state = INTERRUPTED if told == "running" and age > ALIVE else told
    return Training(state, epoch, epochs, float(seconds), str(reason) if reason is not None else None, work)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def seconds_left(trainings: Sequence[Training]) -> float | None:
    """Wall seconds until all are done, at the pace of those seen so far and with as many at a time as are running now, at least one.

    None while no epoch of any of them is finished.
    """
    timed = [training for training in trainings if training.seconds is not None and training.finished > 0]
    left = sum(training.work - training.finished for training in trainings)
    if left == 0:
        return 0.0
    if not timed:
        return None
    pace = sum(training.seconds or 0.0 for training in timed) / sum(training.finished for training in timed)
    return left * pace / max(1, running(trainings))


def running(trainings: Sequence[Training]) -> int:
    """How many are running now."""
    return sum(training.state == "running" for training in trainings)
