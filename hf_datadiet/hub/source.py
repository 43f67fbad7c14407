"""Open a source, pin it, and say which of its rows are scored and which are held out.

Row identity starts here: an example id is the row's position in the whole split as it was opened, and everything
later (a fraction held out, `limit`, label noise) picks ids and never moves rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, Value
from numpy.typing import NDArray

from hf_datadiet.errors import RecipeError, SourceError, StaleRecordError
from hf_datadiet.hub.labels import NoisyLabels, labels_of, with_noise
from hf_datadiet.hub.opening import Opened, opened
from hf_datadiet.recipe import SourceSpec
from hf_datadiet.records import UNLABELLED, Source
from hf_datadiet.stats import stratified_draw

FindColumns = Callable[[Features, Mapping[str, str]], dict[str, str]]
"""A task's way to find its roles among the features: (features, roles named by the user) -> {role: column}."""

BATCH = 1000


@dataclass(frozen=True)
class Pinned:
    """A source, ready to be used.

    `dataset` is the whole split, untouched; `label` int32 [n_rows] are the labels that the run uses (noise applied).
    `scored` int64 [N] are the ids of the rows in play, ascending, unlabelled rows among them. `test` is the dataset
    that `test_id` int64 [T] points into, and `test_label` int32 [T] its labels; None and empty without held-out rows.
    `source_id` and `test_source_id` are the user's own ids by example id, int64 or str objects, if the recipe names their
    column. `skipped` and `test_skipped` map the ids of rows that cannot be read to the reason: they have lost their
    label, and their place among the held-out rows. `others`: the source's other splits whole, the held-out one among them.
    """

    record: Source
    dataset: Dataset
    label: NDArray[np.int32]
    scored: NDArray[np.int64]
    test: Dataset | None
    test_id: NDArray[np.int64]
    test_label: NDArray[np.int32]
    noise: NoisyLabels | None
    source_id: NDArray[Any] | None = None
    test_source_id: NDArray[Any] | None = None
    skipped: Mapping[int, str] = field(default_factory=dict)
    test_skipped: Mapping[int, str] = field(default_factory=dict)
    others: Mapping[str, Dataset] = field(default_factory=dict)


def pin(spec: SourceSpec, find_columns: FindColumns, given_splits: Mapping[str, Dataset] | None = None) -> Pinned:
    """Open what `spec` names (or take the splits given) and decide which rows are scored and which held out.

    Raises `SourceError` where the data cannot be read or lacks a role, a split or labels.
    """
    found = Opened(given_splits, "in-memory") if given_splits else opened(spec)
    splits = found.splits
    if spec.split not in splits:
        raise SourceError(f"source has no split {spec.split!r}; it has: {', '.join(splits)}; set source.split")
    whole = splits[spec.split]
    if len(whole) == 0:
        raise SourceError(f"split {spec.split!r} is empty; choose another with source.split")
    columns = find_columns(whole.features, spec.columns)
    given, classes = labels_of(whole, columns["label"])
    if np.unique(given[given != UNLABELLED]).size < 2:
        raise SourceError(f"column {columns['label']!r} has labels of fewer than two classes; name another: source.columns.label=NAME")
    if spec.id_column is not None:
        columns["id"] = spec.id_column
    source_id = _source_ids(whole, spec)
    in_play = np.arange(len(whole), dtype=np.int64)
    test, test_id, test_label = _held_out(spec, splits, columns, given, classes)
    test_source_id = None if test is None else source_id if test is whole else _source_ids(test, spec)
    record = Source(
        name=found.name,
        config=found.config,
        split=spec.split,
        revision=found.revision,
        digest=content_digest(whole, columns),
        n_rows=len(whole),
        columns=columns,
        classes=classes,
        test_digest=None if test is None or test is whole else content_digest(test, columns),
    )
    if test is whole:
        in_play = np.setdiff1d(in_play, test_id)
    if spec.limit is not None and spec.limit < in_play.size:
        rng = np.random.default_rng(spec.limit_seed)
        in_play = np.sort(in_play[stratified_draw(given[in_play], spec.limit, rng)])
    if (given[in_play] != UNLABELLED).sum() == 0:
        raise SourceError("no labelled row is left to be scored; raise source.limit or lower source.test.fraction")
    label, noise = given, None
    if spec.label_noise is not None:
        label, noise = with_noise(given, in_play, len(classes), spec.label_noise)
    others = {name: rows for name, rows in splits.items() if name != spec.split}
    return Pinned(record, whole, label, in_play, test, test_id, test_label, noise, source_id, test_source_id, others=others)


def pin_again(
    spec: SourceSpec,
    scored: Source,
    skipped: tuple[Mapping[int, str], Mapping[int, str]] | None,
    given_splits: Mapping[str, Dataset] | None = None,
) -> Pinned:
    """A source as it was scored, by the columns that it was scored by and without the rows that were `skipped` (scored and held-out ones).

    Needs neither task nor model. `StaleRecordError` where it has other content now, errors as in `pin`.
    """
    roles = {role: column for role, column in scored.columns.items() if role != "id"}
    if not roles:
        raise RecipeError("this run was scored from logits or in a Trainer and knows no dataset; add_scores puts its scores into one")
    pinned = pin(spec, lambda features, given: dict(roles), given_splits)
    if (pinned.record.digest, pinned.record.test_digest) != (scored.digest, scored.test_digest):
        at = f" at {scored.revision}" if scored.revision else ""
        raise StaleRecordError(
            f"{scored.name}{at} was scored, and the source here has other rows, another order or other labels; pass the same: "
            "source.path=FOLDER, or source.revision=SHA"
        )
    return pinned if skipped is None else without(pinned, *skipped)


def without(pinned: Pinned, skipped: Mapping[int, str], test_skipped: Mapping[int, str]) -> Pinned:
    """The same source where the rows `skipped` have no label, and the rows `test_skipped` are not held out."""
    label = pinned.label.copy()
    label[list(skipped)] = UNLABELLED
    stays = ~np.isin(pinned.test_id, list(test_skipped))
    noise = pinned.noise
    if noise is not None:
        read = ~np.isin(noise.ids, list(skipped))
        noise = NoisyLabels(noise.ids[read], noise.before[read], noise.after[read])
    return replace(
        pinned,
        label=label,
        test_id=pinned.test_id[stays],
        test_label=pinned.test_label[stays],
        noise=noise,
        skipped=skipped,
        test_skipped=test_skipped,
    )


def _source_ids(dataset: Dataset, spec: SourceSpec) -> NDArray[Any] | None:
    """The user's own ids, int64 or str objects [n], or None; `SourceError` unless each is there once."""
    name = spec.id_column
    if name is None:
        return None
    if name not in dataset.features:
        raise SourceError(f"source.id_column names {name!r}; the dataset has: {', '.join(dataset.column_names)}")
    feature = dataset.features[name]
    kind = feature.dtype if isinstance(feature, Value) else ""
    if not kind.startswith(("int", "uint")) and "string" not in kind:
        raise SourceError(f"source.id_column {name!r} holds {feature}; ids are integers or strings")
    column = dataset.select_columns([name]).with_format("arrow")[:][name].combine_chunks()
    if column.null_count:
        raise SourceError(f"source.id_column {name!r} is null in {column.null_count} rows; give every row an id, or leave id_column out")
    try:
        ids = column.to_numpy(zero_copy_only=False) if "string" in kind else column.cast("int64").to_numpy()
    except pa.ArrowInvalid:
        raise SourceError(f"source.id_column {name!r} holds integers of 2**63 or more; use strings") from None
    values, counts = np.unique(ids, return_counts=True)
    if values.size < ids.size:
        twice = values[counts > 1][0]
        first, second = np.flatnonzero(ids == twice)[:2]
        raise SourceError(f"source.id_column {name!r} has {twice!s} in rows {first} and {second}; every row needs an id of its own")
    return ids


def content_digest(dataset: Dataset, columns: Mapping[str, str]) -> str:
    """SHA-256 over the content of the role columns, row by row: independent of chunking, paths and other columns."""
    state = hashlib.sha256()
    names = [columns[role] for role in sorted(columns)]
    missing = [name for name in names if name not in dataset.column_names]
    if missing:
        raise SourceError(f"the dataset has no column {missing[0]!r}; it has: {', '.join(dataset.column_names)}")
    # As it lies in Arrow: pictures and sounds as the bytes they are, also inside lists.
    batches: Any = dataset.select_columns(list(dict.fromkeys(names))).with_format("arrow").iter(batch_size=BATCH)
    for batch in batches:
        for row in zip(*(batch[name].to_pylist() for name in names), strict=True):
            for value in row:
                data = _canonical(value)
                state.update(len(data).to_bytes(8, "little"))
                state.update(data)
    return f"sha256:{state.hexdigest()}"


def _canonical(value: Any) -> bytes:
    if isinstance(value, dict) and set(value) == {"bytes", "path"}:
        return value["bytes"] if value["bytes"] is not None else _content(value["path"] or "")
    if isinstance(value, dict | list):
        parts = [_canonical(part) for part in (value if isinstance(value, list) else [x for pair in value.items() for x in pair])]
        return b"".join(len(part).to_bytes(8, "little") + part for part in parts)
    return value.encode() if isinstance(value, str) else value if isinstance(value, bytes) else repr(value).encode()


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        # A row that cannot be read is named when it is needed.
        return path.encode()


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
    if len(test) == 0:
        raise SourceError(f"split {name!r} is empty; choose another with source.test.split, or set source.test.fraction=0.2")
    missing = [column for column in columns.values() if column not in test.column_names]
    if missing:
        raise SourceError(f"split {name!r} has no column {missing[0]!r}; hold out a fraction instead: source.test.fraction=0.2")
    test_label, test_classes = labels_of(test, columns["label"], classes)
    if len(test_classes) > len(classes):
        raise SourceError(f"split {name!r} has {len(test_classes)} classes, split {spec.split!r} has {len(classes)}")
    if test_classes != classes[: len(test_classes)]:
        raise SourceError(f"splits {name!r} and {spec.split!r} name their classes differently; give both the same ClassLabel names")
    ids = np.flatnonzero(test_label != UNLABELLED).astype(np.int64)
    if ids.size == 0:
        raise SourceError(f"split {name!r} has no labels; hold out a fraction instead: source.test.fraction=0.2")
    return test, ids, test_label[ids]
