"""Records as tables: the columns and the metadata that scores, selections and evaluations have in their files, and back.

What a row lacks is null, never NaN. `example_id` comes first, then the user's own ids as `source_id`, if there are any.
`pack_*` makes columns of a record, `unpack_*` a record of the table that was read; no file is touched here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hf_datadiet.records import ArmResult, EvaluationTable, Provenance, ScoreColumn, ScoreTable, Selection, Source

Columns: TypeAlias = dict[str, pa.Array | NDArray[Any]]
Meta: TypeAlias = dict[str, Any]
"""Plain values, as JSON knows them."""

SE = "_se"
"""What the name of a column of standard errors ends with."""

SELECTION_META = ("name", "score", "strategy", "parameters", "tie_seed", "quotas", "table_digest", "source_digest")
EVALUATION_META = ("name", "model", "match", "margin", "arms", "arm_selections", "n_seeds", "source_digest", "transfer_of")


def unpack_source(values: Mapping[str, Any]) -> Source:
    """A source from the plain values of `dataclasses.asdict`."""
    return Source(**{**values, "classes": tuple(values["classes"])})


# Scores


def pack_scores(table: ScoreTable) -> tuple[Columns, Meta]:
    """N rows: ids, label, the reason of a row that was skipped, each score and its standard error."""
    labelled = _labelled(table)
    columns = _ids(table.example_id, table.source_id) | {"label": pa.array(table.label, mask=~labelled)}
    if table.skipped:
        columns["skipped"] = pa.array([table.skipped.get(row) for row in table.example_id.tolist()], pa.string())
    about: Meta = {}
    for name, column in table.columns.items():
        columns[name] = _nullable(column.mean)
        if column.se is not None:
            columns[name + SE] = _nullable(column.se)
        # JSON knows no infinity: an open end of a range is null.
        about[name] = {
            "score": column.score,
            "epoch": column.epoch,
            "higher_is": column.higher_is,
            "low": column.low if np.isfinite(column.low) else None,
            "high": column.high if np.isfinite(column.high) else None,
            "reliability": column.reliability,
            "origin": column.origin,
        }
    meta = {
        "columns": about,
        "seeds": list(table.seeds),
        "source": dataclasses.asdict(table.source),
        "provenance": dataclasses.asdict(table.provenance),
    }
    return columns, meta


def unpack_scores(table: pa.Table, meta: Mapping[str, Any]) -> ScoreTable:
    """The scores without the values of each seed."""
    ids = np.asarray(table["example_id"], dtype=np.int64)
    columns: dict[str, ScoreColumn] = {}
    for name, about in meta["columns"].items():
        columns[name] = ScoreColumn(
            score=about["score"],
            epoch=about["epoch"],
            mean=_floats(table[name]),
            se=_floats(table[name + SE]) if name + SE in table.column_names else None,
            per_seed=None,
            higher_is=about["higher_is"],
            low=-np.inf if about["low"] is None else about["low"],
            high=np.inf if about["high"] is None else about["high"],
            reliability=about["reliability"],
            origin=about["origin"],
        )
    return ScoreTable(
        source=unpack_source(meta["source"]),
        example_id=ids,
        label=np.asarray(table["label"].combine_chunks().fill_null(-1), dtype=np.int32),
        seeds=tuple(meta["seeds"]),
        columns=columns,
        provenance=Provenance(**meta["provenance"]),
        source_id=_source_ids(table),
        skipped=_reasons(table["skipped"], ids) if "skipped" in table.column_names else {},
    )


def pack_seed_values(table: ScoreTable) -> Columns:
    """One row per seed, moment and labelled example; a score that was not observed at a moment is null there."""
    known = {name: column for name, column in table.columns.items() if column.per_seed is not None}
    labelled = _labelled(table)
    ids = table.example_id[labelled]
    epochs = sorted({column.epoch for column in known.values()})
    blocks = [(row, seed, epoch) for row, seed in enumerate(table.seeds) for epoch in epochs]
    own = None if table.source_id is None else np.tile(table.source_id[labelled], len(blocks))
    columns = _ids(np.tile(ids, len(blocks)), own) | {
        "seed": np.repeat(np.array([seed for _, seed, _ in blocks], dtype=np.int32), ids.size),
        "epoch": np.repeat(np.array([epoch for _, _, epoch in blocks], dtype=np.int32), ids.size),
    }
    for score in dict.fromkeys(column.score for column in known.values()):
        at = {column.epoch: column.per_seed for column in known.values() if column.score == score}
        absent = np.full(ids.size, np.nan, np.float32)
        parts = [absent if (found := at.get(epoch)) is None else found[row][labelled] for row, _, epoch in blocks]
        columns[score] = _nullable(np.concatenate(parts)) if parts else pa.array([], pa.float32())
    return columns


def with_seed_values(scores: ScoreTable, table: pa.Table) -> ScoreTable:
    """The scores with the values of each seed; None where the table has none."""
    ids, seeds = scores.example_id, scores.seeds
    row_of = {seed: row for row, seed in enumerate(seeds)}
    order = np.argsort(ids)
    at = order[np.searchsorted(ids, np.asarray(table["example_id"]), sorter=order)]
    row = np.array([row_of[seed] for seed in np.asarray(table["seed"])], dtype=np.int64)
    epoch = np.asarray(table["epoch"])
    values: dict[tuple[str, int], NDArray[np.float32]] = {}
    for score in dict.fromkeys(column.score for column in scores.columns.values() if column.score in table.column_names):
        given = _floats(table[score])
        for moment in np.unique(epoch):
            chosen = (epoch == moment) & np.isfinite(given)
            if chosen.any():
                matrix = np.full((len(seeds), ids.size), np.nan, np.float32)
                matrix[row[chosen], at[chosen]] = given[chosen]
                values[score, int(moment)] = matrix
    columns = {
        name: dataclasses.replace(column, per_seed=values.get((column.score, column.epoch))) for name, column in scores.columns.items()
    }
    return dataclasses.replace(scores, columns=columns)


# What happened to single rows


def pack_label_noise(
    ids: NDArray[np.int64], before: NDArray[np.int32], after: NDArray[np.int32], source_id: NDArray[Any] | None
) -> Columns:
    """One row per label that was changed."""
    return _ids(ids, source_id) | {"label_before": before, "label_after": after}


def pack_skipped(skipped: Mapping[int, str], test_skipped: Mapping[int, str], source_id: NDArray[Any] | None) -> Columns:
    """One row per example that cannot be read, the held-out ones last."""
    columns = _ids(np.array([*skipped, *test_skipped], np.int64), source_id)
    columns["held_out"] = np.repeat([False, True], [len(skipped), len(test_skipped)])
    columns["reason"] = pa.array([*skipped.values(), *test_skipped.values()], pa.string())
    return columns


def unpack_skipped(table: pa.Table) -> tuple[dict[int, str], dict[int, str]]:
    """{id: reason} of the rows to be scored, and of those held out."""
    ids, held_out = np.asarray(table["example_id"]), np.asarray(table["held_out"])
    scored, test = (_reasons(table["reason"].filter(pa.array(rows)), ids[rows]) for rows in (~held_out, held_out))
    return scored, test


# Selections


def pack_selection(selection: Selection) -> tuple[Columns, Meta]:
    """N rows, ascending: whether each stays, and the reason if it does not."""
    ids = np.concatenate([selection.kept, selection.dropped])
    kept = np.concatenate([np.ones(selection.kept.size, bool), np.zeros(selection.dropped.size, bool)])
    reasons = pa.array([None] * selection.kept.size + list(selection.reasons), pa.string()).dictionary_encode()
    order = np.argsort(ids)
    meta = {name: getattr(selection, name) for name in SELECTION_META} | {"provenance": dataclasses.asdict(selection.provenance)}
    return _ids(ids[order], selection.source_id) | {"kept": kept[order], "reason": reasons.take(pa.array(order))}, meta


def unpack_selection(table: pa.Table, meta: Mapping[str, Any]) -> Selection:
    """The selection."""
    ids, kept = np.asarray(table["example_id"], dtype=np.int64), np.asarray(table["kept"])
    return Selection(
        kept=ids[kept],
        dropped=ids[~kept],
        reasons=tuple(reason for reason, keep in zip(table["reason"].to_pylist(), kept, strict=True) if not keep),
        provenance=Provenance(**meta["provenance"]),
        source_id=_source_ids(table),
        **{key: meta[key] for key in SELECTION_META},
    )


# Evaluations


def pack_predictions(table: EvaluationTable) -> Columns:
    """One row per training and test row."""
    results, tests = table.results, table.test_id.size
    return {
        "arm": pa.array(np.repeat([result.arm for result in results], tests)),
        "seed": np.repeat(np.array([result.seed for result in results], np.int32), tests),
        "test_id": np.tile(table.test_id, len(results)),
        **({} if table.test_source_id is None else {"source_id": _strings(np.tile(table.test_source_id, len(results)))}),
        "label": np.tile(table.test_label, len(results)),
        "predicted": np.concatenate([result.predicted for result in results]),
        "p_label": np.concatenate([result.p_label for result in results]),
    }


def pack_results(table: EvaluationTable) -> Columns:
    """One row per training and metric."""
    rows = [(result, metric, value) for result in table.results for metric, value in result.metrics.items()]
    return {
        "arm": pa.array([result.arm for result, _, _ in rows]),
        "model": pa.array([table.model] * len(rows)),
        "seed": np.array([result.seed for result, _, _ in rows], np.int32),
        "metric": pa.array([metric for _, metric, _ in rows]),
        "value": np.array([value for _, _, value in rows], np.float64),
    }


def evaluation_meta(table: EvaluationTable) -> Meta:
    """All of an evaluation but its predictions."""
    meta = {key: getattr(table, key) for key in EVALUATION_META}
    return meta | {"provenance": dataclasses.asdict(table.provenance), "results": [arm_meta(result) for result in table.results]}


def trainings(meta: Mapping[str, Any]) -> list[list[Any]]:
    """Which trainings an evaluation has, from its `evaluation_meta`: arm, seed, steps and digest of the rows of each."""
    return [[result[key] for key in ("arm", "seed", "steps", "train_ids_digest")] for result in meta["results"]]


def arm_meta(result: ArmResult) -> Meta:
    """All of a training but its predictions and its weights."""
    return {key: value for key, value in vars(result).items() if key not in ("predicted", "p_label", "weights")}


def unpack_evaluation(predictions: pa.Table, meta: Mapping[str, Any]) -> EvaluationTable:
    """The evaluation from the table of `pack_predictions` and `evaluation_meta`."""
    meta = {"transfer_of": None, **meta}  # records from before there were further models
    tests = predictions.num_rows // len(meta["results"])
    predicted = np.asarray(predictions["predicted"]).reshape(-1, tests)
    p_label = np.asarray(predictions["p_label"]).reshape(-1, tests)
    return EvaluationTable(
        **{key: meta[key] for key in EVALUATION_META},
        test_id=np.asarray(predictions["test_id"][:tests], dtype=np.int64),
        test_label=np.asarray(predictions["label"][:tests], dtype=np.int32),
        results=tuple(ArmResult(**row, predicted=predicted[i], p_label=p_label[i]) for i, row in enumerate(meta["results"])),
        provenance=Provenance(**meta["provenance"]),
        test_source_id=_source_ids(predictions.slice(0, tests)),
    )


# Columns


def _labelled(table: ScoreTable) -> NDArray[np.bool_]:
    return np.isfinite(next(iter(table.columns.values())).mean)


def _nullable(values: NDArray[Any]) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))


def _floats(column: pa.ChunkedArray) -> NDArray[np.float32]:
    return np.asarray(column.combine_chunks().to_numpy(zero_copy_only=False), dtype=np.float32)


def _ids(example_id: NDArray[np.int64], source_id: NDArray[Any] | None) -> Columns:
    return {"example_id": example_id} | ({} if source_id is None else {"source_id": _strings(source_id)})


def _strings(source_id: NDArray[Any]) -> Any:
    return pa.array(source_id, pa.string()) if source_id.dtype == object else source_id


def _source_ids(table: pa.Table) -> NDArray[Any] | None:
    return table["source_id"].to_numpy() if "source_id" in table.column_names else None


def _reasons(column: pa.ChunkedArray, ids: NDArray[np.int64]) -> dict[int, str]:
    return {row: reason for row, reason in zip(ids.tolist(), column.to_pylist(), strict=True) if reason is not None}
