"""What is the same: example ids say which row, digests which content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_datadiet.errors import CoverageError


def digest_of(parts: Iterable[bytes | str | NDArray[Any]]) -> str:
    """SHA-256 over the parts in order, each framed by its length (arrays also by dtype and shape): "sha256:<hex>"."""
    state = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            state.update(f"{part.dtype.str}{part.shape}".encode())
            data = np.ascontiguousarray(part).tobytes()
        else:
            data = part.encode() if isinstance(part, str) else part
        state.update(f"{len(data)}:".encode())
        state.update(data)
    return f"sha256:{state.hexdigest()}"


def label_digest(label: NDArray[np.int32]) -> str:
    """Digest of the labels int32 [n_rows] of a whole split: what a table that knows nothing else of its dataset goes by."""
    return digest_of(["labels", label])


def check_ids(ids: NDArray[np.int64], what: str) -> None:
    """Raise `CoverageError` unless `ids` is one-dimensional int64, not negative, every id once."""
    if ids.dtype != np.int64 or ids.ndim != 1:
        raise CoverageError(f"{what}: example ids must be a one-dimensional int64 array, not {ids.dtype} {ids.shape}")
    if ids.size and int(ids.min()) < 0:
        raise CoverageError(f"{what}: example id {int(ids.min())} is negative; ids are row positions from 0")
    values, counts = np.unique(ids, return_counts=True)
    if values.size != ids.size:
        raise CoverageError(f"{what}: example id {int(values[counts > 1][0])} appears more than once")


def check_source_ids(source_id: NDArray[Any] | None, n: int, what: str) -> None:
    """Raise `CoverageError` unless there are no ids of the user's own, or one per row."""
    if source_id is not None and source_id.shape != (n,):
        raise CoverageError(f"{what}: {source_id.size} ids of the source for {n} rows")


def some_ids(ids: NDArray[np.int64]) -> str:
    """The first five of them, and how many there are: for messages."""
    listed = ", ".join(map(str, ids[:5].tolist()))
    return listed if ids.size <= 5 else f"{listed}, ... ({ids.size} in all)"
