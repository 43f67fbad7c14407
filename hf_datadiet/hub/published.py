"""Scores and selections as datasets, as a published repository holds them; and the scores read back from there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, Value
from numpy.typing import NDArray

from hf_datadiet.errors import PublishError, RecipeError, StaleRecordError
from hf_datadiet.hub.columns import another_dataset, beside, score_columns
from hf_datadiet.hub.source import Pinned
from hf_datadiet.records import UNLABELLED, ScoreTable, Selection
from hf_datadiet.tables import SE, Meta, pack_scores, unpack_scores

SCORES, EVIDENCE = "scores", "evidence"
"""The config of the scores, and the folder with what they rest on."""

SEED = "_seed"
"""Between the name of a score and the number of the seed whose values a column has."""

MINUS_INFINITY = "-inf"
"""A reliability that JSON has no number for."""


def require_config_name(selection: str) -> None:
    """Raise `PublishError` for a selection whose name cannot be that of a config."""
    if selection.casefold() in (SCORES, EVIDENCE):
        raise PublishError(f"a published repository keeps the name {selection!r} for itself; give that selection another name")
    if selection == "data":
        raise PublishError("the Hub takes no config named 'data'; give that selection another name")


# Scores


def scores_dataset(table: ScoreTable, *, ids_only: bool = False) -> Dataset:
    """The N rows of a score table: `example_id` int64, the user's own ids as `source_id`, if there are any, `label` (ClassLabel), the
    reason as `skipped`, if rows were, and float32, null where a row has no label, each score NAME and, as far as they are known, its
    standard error NAME_se and its values NAME_seed0 of each seed.

    With `ids_only` there is no label. `PublishError` where two columns would have one name.
    """
    columns: list[tuple[str, Any, Any]] = [("example_id", table.example_id, Value("int64"))]
    if table.source_id is not None:
        columns.append(("source_id", table.source_id, _kind_of(table.source_id)))
    if not ids_only:
        label = pa.array(table.label, mask=table.label == UNLABELLED)
        columns.append(("label", label, ClassLabel(names=list(table.source.classes))))
    if table.skipped:
        columns.append(("skipped", [table.skipped.get(row) for row in table.example_id.tolist()], Value("string")))
    columns += [(name, pa.array(values, from_pandas=True), Value("float32")) for name, values in _values(table)]
    names = [name for name, _, _ in columns]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise PublishError(f"two columns of the published scores would be named {twice[0]!r}; score under another name")
    schema = Features({name: kind for name, _, kind in columns}).arrow_schema
    return Dataset(pa.table([pa.array(values, schema.field(name).type) for name, values, _ in columns], schema=schema))


def _kind_of(source_id: NDArray[Any]) -> Value:
    return Value("string" if source_id.dtype == object else "int64")


def _values(table: ScoreTable) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for name, column in table.columns.items():
        yield name, column.mean
        if column.se is not None:
            yield name + SE, column.se
        if column.per_seed is not None:
            yield from zip(_seed_columns(name, table.seeds), column.per_seed, strict=True)


def _seed_columns(name: str, seeds: Iterable[int]) -> list[str]:
    return [f"{name}{SEED}{seed}" for seed in seeds]


def scores_meta(table: ScoreTable) -> Meta:
    """What a score table is beside its numbers, as plain JSON: `table_from` needs both."""
    _, meta = pack_scores(table)
    for about in meta["columns"].values():
        if about["reliability"] == -np.inf:
            about["reliability"] = MINUS_INFINITY
    return meta


def table_from(scores: Dataset, meta: Mapping[str, Any], labels: NDArray[np.int32] | None = None) -> ScoreTable:
    """The score table that `scores_dataset` and `scores_meta` were made of, bit for bit.

    `labels` int32 [n_rows], those of the source, stand in for the column that `ids_only` leaves out. `StaleRecordError` for a column
    that is missing; of what was changed there, the records' own errors, or another digest.
    """
    arrow: Any = scores.with_format("arrow")[:]
    missing = [name for name in ("example_id", *meta["columns"]) if name not in arrow.column_names]
    if missing:
        raise StaleRecordError(f"the published scores have lost their column {missing[0]!r}; publish them again")
    if labels is not None:
        # A row that cannot be read has a label in the source, and none here.
        scored = arrow[next(iter(meta["columns"]))].is_valid().to_numpy()
        own = np.where(scored, labels[arrow["example_id"].to_numpy()], UNLABELLED)
        arrow = arrow.append_column("label", pa.array(own))
    elif "label" not in arrow.column_names:
        raise StaleRecordError("these scores were published without labels; they need those of the source")
    columns = {name: about | {"reliability": _number(about["reliability"])} for name, about in meta["columns"].items()}
    table = unpack_scores(arrow, {**meta, "columns": columns})
    return replace(
        table, columns={name: replace(column, per_seed=_per_seed(arrow, name, table.seeds)) for name, column in table.columns.items()}
    )


def _number(reliability: float | str | None) -> float | None:
    return None if reliability is None else float(reliability)


def _per_seed(arrow: pa.Table, name: str, seeds: Sequence[int]) -> NDArray[np.float32] | None:
    names = _seed_columns(name, seeds)
    if not names or not set(names) <= set(arrow.column_names):
        return None
    return np.stack([arrow[each].to_numpy() for each in names]).astype(np.float32)


# Selections


@dataclass(frozen=True)
class Variant:
    """What a selection leaves of a source: its splits, all with the same columns, and {split: why it is not among them}."""

    splits: Mapping[str, Dataset]
    left_out: Mapping[str, str]


def variant_splits(pinned: Pinned, table: ScoreTable, selection: Selection, prefix: str = "", *, ids_only: bool = False) -> Variant:
    """The source with the rows of the scored split that a selection keeps, in their order.

    Original columns, then `example_id` and the scores and standard errors, float32. Rows of the scored split that are held out are a
    split "test", or "held_out" if the source has a "test"; they and all other splits of the source, whole, have null scores, the latter
    also null ids. A split is left out if it has no rows, or if its columns cannot be made those of the scored split. Rows that
    were never scored (`limit`) are nowhere.
    With `ids_only`: the scored split alone, with `example_id`, `source_id` if there are own ids, and scores.

    `prefix` stands before the names of the scores, and before `example_id` where the source has a column of that name: `RecipeError`
    if a name is still taken, and for labels that are an experiment (`label_noise`); `StaleRecordError` for a table or a selection of
    another source.
    """
    _require_one_source(pinned, table, selection)
    kept, split = selection.kept, pinned.record.split
    if ids_only:
        ids = _column("example_id", kept, Value("int64"))
        if table.source_id is not None:
            own = dict(zip(table.example_id.tolist(), table.source_id.tolist(), strict=True))
            ids = beside(ids, _column("source_id", [own[row] for row in kept.tolist()], _kind_of(table.source_id)))
        return Variant({split: beside(ids, score_columns(table, kept, prefix))}, {})
    name = "example_id" if "example_id" not in pinned.dataset.column_names else f"{prefix}example_id"
    rows = np.arange(pinned.record.n_rows)
    added = beside(_column(name, rows, Value("int64")), score_columns(table, rows, prefix))
    # Columns before rows: what was selected is copied to take further columns.
    whole = beside(pinned.dataset, added)
    splits = {split: whole.select(kept)}
    left_out: dict[str, str] = {}
    for other, dataset in pinned.others.items():
        alike = _alike(dataset, pinned.dataset.features)
        if len(dataset) == 0:
            left_out[other] = "it has no rows"
        elif alike is None:
            left_out[other] = f"its columns are not those of {split}"
        else:
            splits[other] = beside(alike, _nulls(added.features, len(dataset)))
    held_out = held_out_split(pinned)
    if held_out is not None:
        splits[held_out] = whole.select(pinned.test_id)
    return Variant(splits, left_out)


def _require_one_source(pinned: Pinned, table: ScoreTable, selection: Selection) -> None:
    if pinned.noise is not None:
        raise RecipeError(
            "this run has label noise, so its labels are not the source's; write a dataset from a run without source.label_noise"
        )
    if pinned.record.digest != table.source.digest:
        raise another_dataset(table.source)
    if selection.source_digest != table.source.digest or not np.isin(selection.kept, table.example_id).all():
        raise StaleRecordError(f"selection {selection.name!r} was made from other scores than these; prune again")


def held_out_split(pinned: Pinned) -> str | None:
    """What a variant calls the rows that are held out of the scored split; None where there are none of these."""
    if pinned.test is not pinned.dataset:
        return None
    taken = {pinned.record.split, *pinned.others}
    names = ("test", "held_out", *(f"held_out_{k}" for k in range(2, len(taken) + 2)))
    return next(name for name in names if name not in taken)


def _column(name: str, values: Any, kind: Value) -> Dataset:
    features = Features({name: kind})
    return Dataset(pa.table([pa.array(values, features.arrow_schema.field(name).type)], schema=features.arrow_schema))


def _nulls(features: Features, n: int) -> Dataset:
    schema = features.arrow_schema
    return Dataset(pa.table([pa.nulls(n, field.type) for field in schema], schema=schema))


def _alike(dataset: Dataset, features: Features) -> Dataset | None:
    """The dataset with these features in this order; None where a column is missing, or holds something else."""
    own = dataset.features
    odd = [name for name, kind in features.items() if name in own and own[name] != kind]
    if set(own) != set(features) or not all(_holds_same(own[name], features[name]) for name in odd):
        return None
    if odd:
        # Of these columns alone: to cast a dataset copies all of it.
        cast = dataset.select_columns(odd).cast(Features({name: features[name] for name in odd}))
        dataset = beside(dataset.remove_columns(odd), cast)
    return dataset.select_columns(list(features))


def _holds_same(kind: Any, wanted: Any) -> bool:
    """Whether a column is as good as the wanted one: it knows the first of the same classes, or is null throughout."""
    if isinstance(kind, ClassLabel) and isinstance(wanted, ClassLabel):
        return kind.names == wanted.names[: len(kind.names)]
    return kind == Value("null") and isinstance(wanted, ClassLabel | Value)
