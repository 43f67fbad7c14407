"""Labels as classes 0..C-1, and the wrong ones that an experiment asks for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Value
from numpy.typing import NDArray

from hf_datadiet.errors import SourceError
from hf_datadiet.recipe import LabelNoise
from hf_datadiet.records import UNLABELLED

MOST_CLASSES = 1_000_000
"""An int column with a higher value holds no classes: more likely row numbers."""

EXACT = 2**53
"""Whole numbers below this are exact as float64."""


@dataclass(frozen=True)
class NoisyLabels:
    """What label noise changed: `ids` int64 [n], labels before and after int32 [n]."""

    ids: NDArray[np.int64]
    before: NDArray[np.int32]
    after: NDArray[np.int32]


def labels_of(dataset: Dataset, column: str, names: tuple[str, ...] | None = None) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Labels int32 [n], `UNLABELLED` for null and -1, and the class names.

    Class names as text get their places in the sorted order of the distinct ones, or among `names`, those of the scored
    split. Floats count if they are whole: CSV readers make floats of integers with gaps.
    """
    feature = dataset.features[column]
    kind = feature.dtype if isinstance(feature, ClassLabel | Value) else ""
    values = dataset.select_columns([column]).with_format("arrow")[:][column].combine_chunks()
    if "string" in kind:
        return _named(values, column, names)
    if not kind.startswith(("int", "uint", "float")):
        raise SourceError(
            f"label column {column!r} holds {feature}; labels are class names or whole numbers from 0: "
            "write them so, or name another column: source.columns.label=NAME"
        )
    # Wide enough for any label before it is checked: uint8 has no -1, and int32 would wrap around.
    label = _whole(values, column) if kind.startswith("float") else _signed(values, column)
    if isinstance(feature, ClassLabel):
        classes = tuple(feature.names)
    else:
        classes = tuple(str(value) for value in range(min(int(label.max(initial=UNLABELLED)), MOST_CLASSES) + 1))
    if label.size and (int(label.min()) < UNLABELLED or int(label.max()) >= len(classes)):
        found, allowed = f"{int(label.min())}..{int(label.max())}", f"0..{len(classes) - 1}"
        raise SourceError(f"label column {column!r} holds {found} where {allowed} are classes; use these, and null or -1 for no label")
    return label.astype(np.int32), classes


def _signed(values: pa.Array, column: str) -> NDArray[np.int64]:
    try:
        return values.cast("int64").fill_null(UNLABELLED).to_numpy()
    except pa.ArrowInvalid:
        raise SourceError(f"label column {column!r} holds numbers above 2**63, which are no classes; use 0..C-1") from None


def _whole(values: pa.Array, column: str) -> NDArray[np.int64]:
    label = values.cast("float64").fill_null(np.nan).to_numpy()
    label = np.where(np.isnan(label), UNLABELLED, label)
    odd = label[(np.abs(label) >= EXACT) | (label != np.rint(label))]
    if odd.size:
        raise SourceError(
            f"label column {column!r} holds {odd[0]:g}, which is no class; labels are class names or whole numbers from 0; "
            "name another column: source.columns.label=NAME"
        )
    return label.astype(np.int64)


def _named(values: pa.Array, column: str, names: tuple[str, ...] | None) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    found = sorted(value for value in values.unique().to_pylist() if value is not None)
    if names is None and 2 < len(found) == len(values) - values.null_count:
        raise SourceError(
            f"label column {column!r} holds {len(found)} texts, all different, and no classes; name another: source.columns.label=NAME"
        )
    classes = tuple(found) if names is None else names
    new = set(found) - set(classes)
    if new:
        raise SourceError(f"the held-out rows have the class {min(new)!r} in column {column!r}, which the rows to be scored have not")
    place: dict[str | None, int] = {name: position for position, name in enumerate(classes)} | {None: UNLABELLED}
    return np.array([place[value] for value in values.to_pylist()], np.int32), classes


def with_noise(
    label: NDArray[np.int32], in_play: NDArray[np.int64], n_classes: int, noise: LabelNoise
) -> tuple[NDArray[np.int32], NoisyLabels]:
    """Give a fraction of the labelled rows in play one of the other labels."""
    rng = np.random.default_rng(noise.seed)
    candidates = in_play[label[in_play] != UNLABELLED]
    ids = np.sort(rng.choice(candidates, round(noise.fraction * candidates.size), replace=False))
    # A shift by 1..C-1 is uniform over the other classes: every changed label is wrong.
    after = ((label[ids] + rng.integers(1, n_classes, ids.size)) % n_classes).astype(np.int32)
    noisy = label.copy()
    noisy[ids] = after
    return noisy, NoisyLabels(ids, label[ids], after)
