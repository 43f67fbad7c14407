"""Logits that were computed elsewhere: a file or an array of E epochs, read block by block and never held whole.

Two forms. Numpy: float [E, N, C], epoch by epoch from 1, the rows in the order of the dataset; a .npy file is memory-mapped and is never
unpickled. Parquet: columns `epoch` (0 is initialisation), `example_id` (0..N-1, the row's position in the dataset), `logits` (a list
of C floats) and `label`, one row for each epoch and example, sorted by epoch; within an epoch the order is free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from hf_datadiet.errors import CoverageError, SourceError
from hf_datadiet.identity import some_ids
from hf_datadiet.records import UNLABELLED

Given: TypeAlias = NDArray[Any] | str | Path
"""The logits of one training: an array [E, N, C], or the path of a .npy or .parquet file."""

BLOCK = 1 << 20
"""Numbers held at once, about: 4 MiB of float32."""


@dataclass(frozen=True)
class Block:
    """The logits float32 [B, C] of rows int64 [B] after one epoch."""

    epoch: int
    rows: NDArray[np.int64]
    logits: NDArray[np.float32]


@dataclass(frozen=True)
class Logits:
    """The logits of N rows in C classes after each of the epochs, ascending; `blocks()` goes through them in that order.

    `label` int32 [N] where the file holds labels, otherwise None.
    """

    name: str
    epochs: tuple[int, ...]
    n_rows: int
    n_classes: int
    label: NDArray[np.int32] | None
    blocks: Callable[[], Iterator[Block]]


def open_logits(given: Given, name: str) -> Logits:
    """Logits ready to be read; `name` is what messages call an array. `SourceError` or `CoverageError` for what cannot be."""
    if not isinstance(given, str | Path):
        return _of_array(np.asarray(given), name)
    path = Path(given)
    if path.suffix == ".parquet":
        return _of_parquet(path)
    return _of_array(_mapped(path), path.name)


def labels_of(given: ArrayLike | str | Path) -> NDArray[np.int32]:
    """Labels int32 [N] from an array or a .npy file of integers [N], -1 where a row has none."""
    name = "labels"
    if isinstance(given, str | Path):
        name, given = Path(given).name, _mapped(Path(given))
    values = np.asarray(given)
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise SourceError(f"{name}: labels are {values.dtype} {list(values.shape)}; give integers [N], -1 for a row without a label")
    return _as_int32(values)


def check_labels(label: NDArray[np.int32], logits: Logits) -> None:
    """Raise `SourceError` unless there is one label for each row, each -1 or a class, and not all of them -1."""
    if label.size != logits.n_rows:
        raise SourceError(
            f"there are {label.size} labels for {logits.n_rows} rows of {logits.name}; give one for each row, in the same order"
        )
    wrong = np.flatnonzero((label < UNLABELLED) | (label >= logits.n_classes))
    if wrong.size:
        raise SourceError(
            f"labels of example ids {some_ids(wrong)} are no class of the {logits.n_classes} in {logits.name} (the first is "
            f"{label[wrong[0]]}); use 0..{logits.n_classes - 1}, and -1 for no label"
        )
    if not (label != UNLABELLED).any():
        raise SourceError("every label is -1, so there is nothing to score; give the labels that the model was trained on")


# Numpy


def _mapped(path: Path) -> NDArray[Any]:
    try:
        # It takes nothing but .npy files, and of these none that holds pickled objects.
        return np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is no array of numbers in numpy's .npy format"
        raise SourceError(f"cannot read {path}: {reason}; write it with numpy.save, or give a .parquet file") from error


def _of_array(values: NDArray[Any], name: str) -> Logits:
    shape = list(values.shape)
    if values.ndim != 3 or min(shape) < 1 or shape[2] < 2:
        hint = " (one epoch: logits[None])" if values.ndim == 2 else ""
        raise SourceError(f"{name} has shape {shape}; logits are [E epochs, N rows, C classes], C at least 2{hint}")
    if not np.issubdtype(values.dtype, np.floating):
        raise SourceError(f"{name} holds {values.dtype}; logits are floating point numbers, the model's outputs before softmax")
    n_epochs, n_rows, n_classes = shape

    def blocks() -> Iterator[Block]:
        size = max(1, BLOCK // n_classes)
        for epoch in range(1, n_epochs + 1):
            for start in range(0, n_rows, size):
                # Out of the range of float32 is infinite, and infinite is refused with the ids.
                with np.errstate(over="ignore"):
                    part = np.array(values[epoch - 1, start : start + size], dtype=np.float32)
                yield Block(epoch, np.arange(start, start + len(part), dtype=np.int64), part)

    return Logits(name, tuple(range(1, n_epochs + 1)), n_rows, n_classes, None, blocks)


# Parquet

COLUMNS = ("epoch", "example_id", "label", "logits")


def _of_parquet(path: Path) -> Logits:
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is no parquet file"
        raise SourceError(f"cannot read {path}: {reason}; give a .npy or .parquet file") from error
    with file:
        missing = [column for column in COLUMNS if column not in file.schema_arrow.names]
        if missing:
            raise SourceError(f"{path.name} has no column {missing[0]!r}; logits in parquet have the columns {', '.join(COLUMNS)}")
        kind = file.schema_arrow.field("logits").type
        if not (_is_list(kind) and pa.types.is_floating(kind.value_type)):
            raise SourceError(f"{path.name}: column logits holds {kind}; make it a list of floating point numbers per row")
        for column in COLUMNS[:3]:
            if not pa.types.is_integer(file.schema_arrow.field(column).type):
                raise SourceError(f"{path.name}: column {column} holds {file.schema_arrow.field(column).type}; make it integers")
        epochs, label = _covered(file, path.name)
        first = next(_batches(file, path.name, ["logits"], 1))["logits"]
        n_classes = len(first[0]) if first[0].is_valid else 0
    if n_classes < 2:
        raise SourceError(f"{path.name}: column logits has {n_classes} numbers in its first row; give one per class, at least 2")

    def blocks() -> Iterator[Block]:
        with pq.ParquetFile(path) as file:
            for batch in _batches(file, path.name, ["epoch", "example_id", "logits"], max(1, BLOCK // n_classes)):
                logits = _matrix(batch["logits"], n_classes, path.name)
                epoch, rows = _integers(batch["epoch"], "epoch", path.name), _integers(batch["example_id"], "example_id", path.name)
                for value in np.unique(epoch):
                    chosen = epoch == value
                    yield Block(int(value), rows[chosen], logits[chosen])

    return Logits(path.name, epochs, label.size, n_classes, label, blocks)


def _covered(file: pq.ParquetFile, name: str) -> tuple[tuple[int, ...], NDArray[np.int32]]:
    """The epochs, and the labels int32 [N], of a file in which every epoch has each of the rows 0..N-1 once."""
    epochs: list[int] = []
    label: NDArray[np.int32] | None = None
    for epoch, rows, labels in _by_epoch(file, name):
        if epoch < 0 or (epochs and epoch <= epochs[-1]):
            raise SourceError(f"{name}: epoch {epoch} comes after epoch {epochs[-1] if epochs else 0}; sort the rows by epoch, from 0")
        epochs.append(epoch)
        order = np.argsort(rows, kind="stable")
        expected = np.arange(rows.size if label is None else label.size)
        if not np.array_equal(rows[order], expected):
            missing, (found, counts) = np.setdiff1d(expected, rows), np.unique(rows, return_counts=True)
            twice, beyond = found[counts > 1], np.setdiff1d(found, expected)
            what = next(f"{word} {some_ids(ids)}" for word, ids in (("misses", missing), ("doubles", twice), ("adds", beyond)) if ids.size)
            raise CoverageError(f"{name}: epoch {epoch} {what}; every epoch has each example id 0..N-1 once, the positions in the dataset")
        given = _as_int32(labels[order])
        if label is not None and not np.array_equal(given, label):
            changed = np.flatnonzero(given != label)
            raise SourceError(f"{name}: the labels of example ids {some_ids(changed)} change in epoch {epoch}; a row has one label")
        label = given
    if label is None:
        raise SourceError(f"{name} has no rows; give the logits of at least one epoch")
    return tuple(epochs), label


def _by_epoch(file: pq.ParquetFile, name: str) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """(epoch, ids, labels) of each run of rows with the same epoch."""
    current: int | None = None
    ids: list[NDArray[np.int64]] = []
    labels: list[NDArray[np.int64]] = []
    for batch in _batches(file, name, COLUMNS[:3], BLOCK // 4):
        epoch, row = (_integers(batch[column], column, name) for column in COLUMNS[:2])
        label = _integers(batch["label"].fill_null(UNLABELLED), "label", name)
        starts = np.flatnonzero(np.diff(epoch)) + 1
        for values, ids_here, labels_here in zip(*(np.split(column, starts) for column in (epoch, row, label)), strict=True):
            if current is not None and values[0] != current:
                yield current, np.concatenate(ids), np.concatenate(labels)
                ids, labels = [], []
            current = int(values[0])
            ids.append(ids_here)
            labels.append(labels_here)
    if current is not None:
        yield current, np.concatenate(ids), np.concatenate(labels)


def _batches(file: pq.ParquetFile, name: str, columns: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
    """At most `size` rows at a time, never none."""
    try:
        for batch in file.iter_batches(batch_size=size, columns=list(columns)):
            if batch.num_rows:
                yield batch
    except (OSError, pa.ArrowException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise SourceError(f"cannot read {name} ({reason}); write it again") from error


def _matrix(column: Any, n_classes: int, name: str) -> NDArray[np.float32]:
    """float32 [B, C] of a column of lists."""
    if column.null_count or (np.asarray(pc.call_function("list_value_length", [column])) != n_classes).any():
        raise SourceError(f"{name}: column logits has rows of another length than {n_classes}, the first row's; give one number per class")
    values = column.flatten().to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):
        return values.reshape(-1, n_classes).astype(np.float32)


def _integers(column: Any, what: str, name: str) -> NDArray[np.int64]:
    if column.null_count:
        raise SourceError(f"{name}: column {what} has nulls; fill them in")
    return column.cast(pa.int64()).to_numpy(zero_copy_only=False)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _as_int32(values: NDArray[Any]) -> NDArray[np.int32]:
    """Values beyond int32 become its ends, where no class is."""
    ends = np.iinfo(np.int32)
    return np.clip(values.astype(np.float64), ends.min, ends.max).astype(np.int32)
