"""Open a source, pin it, and say which of its rows are scored and which are held out.

Row identity starts here: an example id is the row's position in the whole split as it was opened, and everything
later (a fraction held out, `limit`, label noise) picks ids and never moves rows.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value, load_dataset, load_from_disk
from datasets.exceptions import DatasetsError
from numpy.typing import NDArray

from hf_datadiet.errors import SourceError
from hf_datadiet.hub.samples import SAMPLES
from hf_datadiet.recipe import LabelNoise, SourceSpec
from hf_datadiet.records import UNLABELLED, Source
from hf_datadiet.stats import stratified_draw

FindColumns = Callable[[Features, Mapping[str, str]], dict[str, str]]
"""A task's way to find its roles among the features: (features, roles named by the user) -> {role: column}."""

BATCH = 1000

MOST_CLASSES = 1_000_000
"""An int column with a higher value holds no classes: more likely row numbers."""


@dataclass(frozen=True)
class NoisyLabels:
    """What label noise changed: `ids` int64 [n], labels before and after int32 [n]."""

    ids: NDArray[np.int64]
    before: NDArray[np.int32]
    after: NDArray[np.int32]


@dataclass(frozen=True)
class Pinned:
    """A source, ready to be used.

    `dataset` is the whole split, untouched; `label` int32 [n_rows] are the labels that the run uses (noise applied).
    `scored` int64 [N] are the ids of the rows in play, ascending, unlabelled rows among them. `test` is the dataset
    that `test_id` int64 [T] points into, and `test_label` int32 [T] its labels; None and empty without held-out rows.
    """

    record: Source
    dataset: Dataset
    label: NDArray[np.int32]
    scored: NDArray[np.int64]
    test: Dataset | None
    test_id: NDArray[np.int64]
    test_label: NDArray[np.int32]
    noise: NoisyLabels | None


def pin(spec: SourceSpec, find_columns: FindColumns, given_splits: Mapping[str, Dataset] | None = None) -> Pinned:
    """Open what `spec` names (or take the splits given) and decide which rows are scored and which held out.

    Raises `SourceError` where the data cannot be read or lacks a role, a split or labels.
    """
    splits = given_splits or _open(spec)
    if spec.split not in splits:
        raise SourceError(f"source has no split {spec.split!r}; it has: {', '.join(splits)}; set source.split")
    whole = splits[spec.split]
    if len(whole) == 0:
        raise SourceError(f"split {spec.split!r} is empty; choose another with source.split")
    columns = find_columns(whole.features, spec.columns)
    given, classes = _labels(whole, columns["label"])
    if (given != UNLABELLED).sum() == 0 or len(classes) < 2:
        raise SourceError(f"column {columns['label']!r} has labels of fewer than two classes; name another: source.columns.label=NAME")
    record = Source(
        name=f"sample:{spec.sample}" if spec.sample else Path(spec.path).name if spec.path else "in-memory",
        config=None,
        split=spec.split,
        revision=None,
        digest=content_digest(whole, columns),
        n_rows=len(whole),
        columns=columns,
        classes=classes,
    )
    in_play = np.arange(len(whole), dtype=np.int64)
    test, test_id, test_label = _held_out(spec, splits, columns, given, classes)
    if test is whole:
        in_play = np.setdiff1d(in_play, test_id)
    if spec.limit is not None and spec.limit < in_play.size:
        rng = np.random.default_rng(spec.limit_seed)
        in_play = np.sort(in_play[stratified_draw(given[in_play], spec.limit, rng)])
    if (given[in_play] != UNLABELLED).sum() == 0:
        raise SourceError("no labelled row is left to be scored; raise source.limit or lower source.test.fraction")
    label, noise = given, None
    if spec.label_noise is not None:
        label, noise = _with_noise(given, in_play, len(classes), spec.label_noise)
    return Pinned(record, whole, label, in_play, test, test_id, test_label, noise)


def _open(spec: SourceSpec) -> dict[str, Dataset]:
    if spec.sample is not None:
        if spec.sample not in SAMPLES:
            raise SourceError(f"no embedded sample {spec.sample!r}; there are: {', '.join(SAMPLES)}")
        return SAMPLES[spec.sample]()
    if spec.path is None:
        raise SourceError("the recipe names no source; set source.path (a parquet file or folder) or source.sample")
    path = Path(os.path.expandvars(spec.path)).expanduser()
    if "$" in str(path):
        raise SourceError(f"source.path {spec.path} uses an environment variable that is not set; set it, or pass source.path=FOLDER")
    if not path.exists():
        raise SourceError(f"source.path {path} does not exist; pass source.path=FOLDER")
    try:
        return _read(path)
    except (OSError, ValueError, LookupError, DatasetsError) as error:
        # datasets says "An error occurred" and keeps the reason as the cause.
        reason = error.__cause__ if isinstance(error, DatasetsError) and error.__cause__ is not None else error
        raise SourceError(f"cannot read {path}: {(str(reason).splitlines() or [type(reason).__name__])[0]}") from error


def _read(path: Path) -> dict[str, Dataset]:
    if path.is_dir() and any((path / marker).exists() for marker in ("state.json", "dataset_dict.json")):
        loaded = load_from_disk(str(path))
    elif path.is_file():
        loaded = load_dataset("parquet", data_files={"train": str(path)})
    else:
        loaded = load_dataset(str(path))
    return {str(name): split for name, split in loaded.items()} if isinstance(loaded, DatasetDict) else {"train": loaded}


def content_digest(dataset: Dataset, columns: Mapping[str, str]) -> str:
    """SHA-256 over the content of the role columns, row by row: independent of chunking, paths and other columns."""
    state = hashlib.sha256()
    names = [columns[role] for role in sorted(columns)]
    missing = [name for name in names if name not in dataset.column_names]
    if missing:
        raise SourceError(f"the dataset has no column {missing[0]!r}; it has: {', '.join(dataset.column_names)}")
    plain = dataset.select_columns(names).with_format(None)
    for name in names:
        if isinstance(plain.features[name], Image):
            plain = plain.cast_column(name, Image(decode=False))
    for batch in plain.iter(batch_size=BATCH):
        assert isinstance(batch, dict)
        for row in zip(*(batch[name] for name in names), strict=True):
            for value in row:
                data = _canonical(value)
                state.update(len(data).to_bytes(8, "little"))
                state.update(data)
    return f"sha256:{state.hexdigest()}"


def _canonical(value: Any) -> bytes:
    if isinstance(value, dict) and set(value) == {"bytes", "path"}:
        return value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()
    return value.encode() if isinstance(value, str) else value if isinstance(value, bytes) else repr(value).encode()


def _labels(dataset: Dataset, column: str) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Labels int32 [n], `UNLABELLED` for null and -1, and the class names."""
    feature = dataset.features[column]
    if not isinstance(feature, ClassLabel) and not (isinstance(feature, Value) and feature.dtype.startswith(("int", "uint"))):
        raise SourceError(f"label column {column!r} holds {feature}; encode it first: dataset.class_encode_column({column!r})")
    # Wide enough for any label before it is checked: uint8 has no -1, and int32 would wrap around.
    label = dataset.with_format("arrow")[:][column].cast("int64").combine_chunks().fill_null(UNLABELLED).to_numpy(zero_copy_only=False)
    if isinstance(feature, ClassLabel):
        classes = tuple(feature.names)
    else:
        classes = tuple(str(value) for value in range(min(int(label.max(initial=UNLABELLED)), MOST_CLASSES) + 1))
    if label.size and (int(label.min()) < UNLABELLED or int(label.max()) >= len(classes)):
        found, allowed = f"{int(label.min())}..{int(label.max())}", f"0..{len(classes) - 1}"
        raise SourceError(f"label column {column!r} holds {found} where {allowed} are classes; use these, and null or -1 for no label")
    return label.astype(np.int32), classes


def _held_out(
    spec: SourceSpec, splits: Mapping[str, Dataset], columns: Mapping[str, str], label: NDArray[np.int32], classes: tuple[str, ...]
) -> tuple[Dataset | None, NDArray[np.int64], NDArray[np.int32]]:
    nothing = np.array([], np.int64)
    if spec.test is None:
        return None, nothing, nothing.astype(np.int32)
    if spec.test.fraction is not None:
        labelled = np.flatnonzero(label != UNLABELLED)
        k = max(1, round(spec.test.fraction * labelled.size))
        ids = np.sort(labelled[stratified_draw(label[labelled], k, np.random.default_rng(spec.test.seed))])
        return splits[spec.split], ids, label[ids]
    name = str(spec.test.split)
    if name not in splits or name == spec.split:
        others = [split for split in splits if split != spec.split]
        there = ", ".join(others) or "none, use source.test.fraction=0.2"
        raise SourceError(f"source.test.split {name!r} is no other split; there are: {there}")
    test = splits[name]
    missing = [column for column in columns.values() if column not in test.column_names]
    if missing:
        raise SourceError(f"split {name!r} has no column {missing[0]!r}; hold out a fraction instead: source.test.fraction=0.2")
    test_label, test_classes = _labels(test, columns["label"])
    if len(test_classes) > len(classes):
        raise SourceError(f"split {name!r} has {len(test_classes)} classes, split {spec.split!r} has {len(classes)}")
    if test_classes != classes[: len(test_classes)]:
        raise SourceError(f"splits {name!r} and {spec.split!r} name their classes differently; give both the same ClassLabel names")
    ids = np.flatnonzero(test_label != UNLABELLED).astype(np.int64)
    if ids.size == 0:
        raise SourceError(f"split {name!r} has no labels; hold out a fraction instead: source.test.fraction=0.2")
    return test, ids, test_label[ids]


def _with_noise(
    label: NDArray[np.int32], in_play: NDArray[np.int64], n_classes: int, noise: LabelNoise
) -> tuple[NDArray[np.int32], NoisyLabels]:
    rng = np.random.default_rng(noise.seed)
    candidates = in_play[label[in_play] != UNLABELLED]
    ids = np.sort(rng.choice(candidates, round(noise.fraction * candidates.size), replace=False))
    # A shift by 1..C-1 is uniform over the other classes: every changed label is wrong.
    after = ((label[ids] + rng.integers(1, n_classes, ids.size)) % n_classes).astype(np.int32)
    noisy = label.copy()
    noisy[ids] = after
    return noisy, NoisyLabels(ids, label[ids], after)
