"""Rows made ready for a model: decoded or tokenised once, and those that cannot be read named or left out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_datadiet.errors import BadRowsError, SourceError
from hf_datadiet.hub.source import Pinned, without
from hf_datadiet.records import UNLABELLED
from hf_datadiet.store import RunFolder
from hf_datadiet.tasks.base import Task


@dataclass(frozen=True)
class Rows:
    """The rows of a pinned source, prepared into `cache`. `skip`: go on without those that cannot be read."""

    task: Task
    pinned: Pinned
    cache: Path
    skip: bool

    def prepared(self, ids: NDArray[np.int64], *, held_out: bool = False, like: Any = None) -> tuple[Any, dict[int, str]]:
        """The rows `ids`, without those that cannot be read; for these the reason. `BadRowsError` names them if not `skip`."""
        try:
            return self._prepare(ids, held_out, like), {}
        except BadRowsError as error:
            if not self.skip:
                raise named(self.pinned, error.rows, held_out=held_out) from error
            rest = np.setdiff1d(ids, list(error.rows))
            if rest.size == 0:
                raise SourceError(f"no row can be read ({next(iter(error.rows.values()))}); mend the data or name other columns") from error
            return self._prepare(rest, held_out, like), error.rows

    def _prepare(self, ids: NDArray[np.int64], held_out: bool, like: Any) -> Any:
        source = self.pinned.record
        dataset = self.pinned.test if held_out else self.pinned.dataset
        assert dataset is not None
        # What was decoded is found again by the content of its own split.
        digest = source.digest if dataset is self.pinned.dataset else source.test_digest
        key = hashlib.sha256(f"{digest}".encode() + ids.tobytes()).hexdigest()[:16]
        return self.task.prepare(dataset, ids, source.columns, self.cache, key, like)


def unreadable(rows: Rows) -> tuple[dict[int, str], dict[int, str]]:
    """The rows that cannot be read, scored ones and held-out ones, with the reason; `BadRowsError` if they are not to be skipped.

    Looks at every row, which is then decoded in the cache.
    """
    pinned = rows.pinned
    train, bad = rows.prepared(pinned.scored[pinned.label[pinned.scored] != UNLABELLED])
    return bad, rows.prepared(pinned.test_id, held_out=True, like=train)[1] if pinned.test is not None else {}


def record(rows: Rows, folder: RunFolder, found: tuple[dict[int, str], dict[int, str]]) -> None:
    """Keep in the folder which rows were skipped, and why."""
    own = [ids for ids in (own_ids(rows.pinned, bad, held_out=bool(test)) for test, bad in enumerate(found)) if ids is not None]
    folder.save_skipped(*found, np.concatenate(own) if own else None)


def readable(rows: Rows, folder: RunFolder) -> Pinned:
    """The source without the rows that cannot be read, as the folder has recorded them; they are named if they are not to be skipped."""
    pinned, found = rows.pinned, folder.skipped()
    if found is not None and not rows.skip:
        for held_out, bad in enumerate(found):
            if bad:
                raise named(pinned, bad, held_out=bool(held_out))
    return pinned if found is None else without(pinned, *found)


def named(pinned: Pinned, rows: Mapping[int, str], *, held_out: bool) -> BadRowsError:
    """The error that names the rows, with the user's own ids where there are any."""
    own = own_ids(pinned, rows, held_out=held_out)
    if own is not None:
        rows = {row: f"{name}: {reason}" for (row, reason), name in zip(rows.items(), own, strict=True)}
    return BadRowsError(rows, " held out" if held_out else "")


def own_ids(pinned: Pinned, rows: Mapping[int, str], *, held_out: bool = False) -> NDArray[Any] | None:
    """The user's own ids of these rows, if there are any."""
    ids = pinned.test_source_id if held_out else pinned.source_id
    return None if ids is None else ids[list(rows)]
