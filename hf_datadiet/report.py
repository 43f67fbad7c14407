"""Records -> one `Report`. Pure: every number that is printed anywhere (`markdown`) is a field of it.

Accuracies and their differences are in points (0..100); seconds are wall seconds.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_datadiet import stats
from hf_datadiet.choice import tuned
from hf_datadiet.costs import costs
from hf_datadiet.doubts import evaluation_doubts, run_doubts, selection_doubts, tuning_doubts
from hf_datadiet.judgement import judged
from hf_datadiet.pictured import pictured
from hf_datadiet.records import UNLABELLED, EvaluationTable, Report, ScoreColumn, ScoreTable, Selection
from hf_datadiet.transfer import transfer

MOST_COLUMNS = 60
"""With more columns than this (every epoch of given logits) the report shows each score at its main moment only."""

INPUT_NORM = "input_norm"
"""The column that other scores are compared with: GraNd at initialisation follows it (arXiv 2303.14753)."""


def build_report(
    table: ScoreTable,
    selections: Sequence[Selection],
    evaluations: Sequence[EvaluationTable],
    *,
    tunings: Sequence[tuple[EvaluationTable, Mapping[str, Any]]] = (),
    task: Mapping[str, Any],
    seed_seconds: Sequence[Mapping[str, float]],
    files: Mapping[str, str],
    n_test_skipped: int = 0,
    text_length: NDArray[np.int64] | None = None,
) -> Report:
    """Everything there is to say about a run.

    `tunings`: of each selection by strategy auto its trainings, and what they compare (`candidates.Comparison.record`).
    `task`: kind, model and training as plain values, `seeds_asked`, and `n_truncated` scored texts; `seed_seconds`: wall
    seconds of each scoring seed, {"train", "observe"}; `files`: what lies where, relative to the run folder;
    `n_test_skipped`: held-out rows that cannot be read. `text_length` [N labelled rows]: tokens
    of each as it was trained on, where rows are texts.
    """
    if len(table.columns) > MOST_COLUMNS:
        table = dataclasses.replace(table, columns={name: column for name, column in table.columns.items() if name == column.score})
    labelled = table.label != UNLABELLED
    scores = tuple(
        _score(name, column, labelled, len(table.seeds)) | {"confounders": _confounders(column, table, labelled, text_length)}
        for name, column in table.columns.items()
    )
    kept = tuple(_selection(selection, table) for selection in selections)
    rows = {entry["name"]: {row["class"]: row["kept"] for row in entry["per_class"]} for entry in kept}
    rows["full"] = {table.source.classes[label]: n for label, n in Counter(table.label[labelled].tolist()).items()}
    entries = tuple(judged(evaluation, table.source.classes, rows, _together(evaluation, evaluations)) for evaluation in evaluations)
    choices = tuple(tuned(trained, about) for trained, about in tunings)
    doubts = [*run_doubts(task, len(table.seeds), int(labelled.sum())), *selection_doubts(scores, kept, task)]
    doubts += [doubt for entry in choices for doubt in tuning_doubts(entry)]
    doubts += [doubt for entry in entries for doubt in evaluation_doubts(entry)]
    source = dataclasses.asdict(table.source) | {
        "n_scored": int(labelled.sum()),
        "n_unlabelled": int((~labelled).sum()) - len(table.skipped),
        "n_skipped": len(table.skipped),
        "n_test_skipped": n_test_skipped,
        "n_classes": len(table.source.classes),
    }
    return Report(
        source=source,
        task=dict(task) | {"n_seeds": len(table.seeds)},
        scores=scores,
        correlations=tuple(_correlations(table, labelled, selections)),
        selections=kept,
        tunings=choices,
        evaluations=entries,
        warnings=tuple(doubts),
        costs=costs(seed_seconds, entries, choices),
        files=files,
        provenance=dataclasses.asdict(table.provenance),
        transfer=tuple(transfer(entries)),
        pictures=tuple(pictured(table, selections, scores=scores, kept=kept, evaluations=entries)),
    )


def _together(evaluation: EvaluationTable, evaluations: Sequence[EvaluationTable]) -> list[EvaluationTable]:
    """The same evaluation with each of its models."""
    return [each for each in evaluations if (each.transfer_of or each.name) == (evaluation.transfer_of or evaluation.name)]


def _score(name: str, column: ScoreColumn, labelled: NDArray[np.bool_], n_seeds: int) -> dict[str, Any]:
    values = column.mean[labelled].astype(np.float64)
    single = stats.mean_pairwise(column.per_seed[:, labelled]) if column.per_seed is not None and column.reliability is not None else None
    return {
        "column": name,
        "score": column.score,
        "epoch": column.epoch,
        "higher_is": column.higher_is,
        "n_seeds": n_seeds,
        "reliability": column.reliability,
        "reliability_one_seed": single,
        "mean": float(values.mean()),
        "sd": float(values.std(ddof=1)) if values.size > 1 else None,
        "min": float(values.min()),
        "median": float(np.median(values)),
        "max": float(values.max()),
        "n_distinct": int(np.unique(values).size),
    }


def _confounders(
    column: ScoreColumn, table: ScoreTable, labelled: NDArray[np.bool_], text_length: NDArray[np.int64] | None
) -> dict[str, float | None]:
    """How far the score ranks as cheaper things do: Spearman's r with the input norm and the length of the text, as far as they are known,
    and `stats.epsilon_squared` for the label, whose classes have no order.
    """
    values = column.mean[labelled]
    found = {"label": stats.epsilon_squared(values, table.label[labelled])}
    if INPUT_NORM in table.columns:
        found["input_norm"] = stats.spearman(values, table.columns[INPUT_NORM].mean[labelled])
    if text_length is not None:
        found["text_length"] = stats.spearman(values, text_length)
    return found


def _correlations(table: ScoreTable, labelled: NDArray[np.bool_], selections: Sequence[Selection]) -> Iterable[dict[str, Any]]:
    """Every pair of columns: rank correlation, and how much of the hardest K they share for the first selection's K."""
    k = selections[0].kept.size if selections else max(1, round(labelled.sum() / 2))
    hardness = {
        name: (-1 if column.higher_is == "easier" else 1) * column.mean[labelled].astype(np.float64)
        for name, column in table.columns.items()
    }
    top = {name: set(np.argsort(-values, kind="stable")[:k].tolist()) for name, values in hardness.items()}
    for a, b in combinations(hardness, 2):
        shared = len(top[a] & top[b]) / k
        yield {"a": a, "b": b, "spearman": stats.spearman(hardness[a], hardness[b]), "k": int(k), "shared_hardest": shared}


def _selection(selection: Selection, table: ScoreTable) -> dict[str, Any]:
    classes = table.source.classes
    of_row = dict(zip(table.example_id.tolist(), table.label.tolist(), strict=True))
    rows = Counter(table.label[table.label != UNLABELLED].tolist())
    kept = Counter(of_row[row] for row in selection.kept.tolist())
    per_class = [
        {"class": classes[label], "rows": rows[label], "kept": kept[label], "rate": kept[label] / rows[label]} for label in sorted(rows)
    ]
    rates = [entry["rate"] for entry in per_class]
    return {
        "name": selection.name,
        "score": selection.score,
        "strategy": selection.strategy,
        "parameters": dict(selection.parameters),
        "n_kept": int(selection.kept.size),
        "n_dropped": int(selection.dropped.size),
        "share": selection.kept.size / sum(rows.values()),
        "per_class": per_class,
        "rate_ratio": max(rates) / min(rates) if min(rates) > 0 else None,
        "reasons": dict(Counter(selection.reasons).most_common()),
        "tie_seed": selection.tie_seed,
        "digest": selection.digest,
    }
