"""What the pictures of a report show, as plain numbers: with these and the rest of the report they can be drawn, and drawn again. Pure.

Every picture is an entry {"name": its file, without an ending, "kind": what it is, ...}. Those that show what stands in the report
anyway hold no more than where.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from hf_datadiet import stats
from hf_datadiet.arms import is_added
from hf_datadiet.binning import Bins, bins_for, rank_table
from hf_datadiet.doubts import LOW_RELIABILITY
from hf_datadiet.quotas import in_words
from hf_datadiet.records import AUTO, UNLABELLED, ScoreColumn, ScoreTable, Selection

MOST_SCORES = 4
"""Columns that are pictured: six pairs of them still fit on a page."""

MOST_SELECTIONS = 12
"""Panels of one picture: three strategies at four budgets."""

SPLITS = 10
"""Ways to divide the seeds that a point within the reliability curve is averaged over; each costs two sorts of N numbers."""

FURTHER = 2
"""The reliability curve goes on to so many times the seeds that there are: what twice the work would bring."""

MOST_FURTHER = 12
"""Points of that continuation."""


def pictured(
    table: ScoreTable,
    selections: Sequence[Selection],
    *,
    scores: Sequence[Mapping[str, Any]],
    kept: Sequence[Mapping[str, Any]],
    evaluations: Sequence[Mapping[str, Any]],
) -> Iterable[dict[str, Any]]:
    """The pictures that make sense. `scores`, `kept`, `evaluations`: the report's entries of columns, selections and evaluations."""
    used = [name for selection in selections for name in _goes_by(selection) if name in table.columns]
    main = [name for name, column in table.columns.items() if name == column.score and column.higher_is != "neither"]
    shown = list(dict.fromkeys([*used, *(main or table.columns)]))[:MOST_SCORES]
    for name in [name for name in shown if name in used] or shown:
        yield _histogram(name, table, [selection for selection in selections if name in _goes_by(selection)])
    if len(shown) > 1 and (table.label != UNLABELLED).sum() > 1:
        yield _agreement(table, shown)
    yield from _reliability(table, [entry for name in shown for entry in scores if entry["column"] == name])
    if kept and len(kept[0]["per_class"]) > 1:
        n_more = max(0, len(kept) - MOST_SELECTIONS)
        yield {"name": "classes", "kind": "classes", "selections": [entry["name"] for entry in kept[:MOST_SELECTIONS]], "n_more": n_more}
    for evaluation in evaluations:
        yield _accuracy(evaluation, {entry["name"]: entry for entry in kept})


def _goes_by(selection: Selection) -> Sequence[str]:
    """The columns that rank its rows: several where it goes by the mean of their ranks, none where it draws at random."""
    return selection.parameters.get("scores") or [selection.score or ""]


def _histogram(name: str, table: ScoreTable, selections: Sequence[Selection]) -> dict[str, Any]:
    """Rows by score, of each selection that goes by it those that it keeps, and where it cuts; `beyond`: rows outside the axis."""
    labelled = table.label != UNLABELLED
    values = table.columns[name].mean[labelled].astype(np.float64)
    bins = bins_for(values)
    return {
        "name": f"histogram-{quote(name, safe='')}",
        "kind": "histogram",
        "column": name,
        "higher_is": table.columns[name].higher_is,
        "scale": bins.scale,
        "edges": bins.edges.tolist(),
        "rows": bins.count(values).tolist(),
        "beyond": [int((values < bins.edges[0]).sum()), int((values > bins.edges[-1]).sum())],
        "selections": [_panel(selection, table.example_id[labelled], values, bins) for selection in selections[:MOST_SELECTIONS]],
        "n_more": max(0, len(selections) - MOST_SELECTIONS),
    }


def _panel(selection: Selection, example_id: NDArray[np.int64], values: NDArray[np.float64], bins: Bins) -> dict[str, Any]:
    stays = np.isin(example_id, selection.kept)
    n_kept = int(selection.kept.size)
    return {"selection": selection.name, "n_kept": n_kept, "kept": bins.count(values[stays]).tolist(), **cuts(values, stays)}


def cuts(values: NDArray[np.float64], stays: NDArray[np.bool_]) -> dict[str, float | None]:
    """Where a selection cuts the range of a score: values [n], stays bool [n] -> {"from": lowest value kept, "to": highest one}.

    Each is None where nothing is dropped beyond it. Both are None where rows between them are dropped too: quotas cut each class by
    itself, and draws do not cut at all. Of rows exactly at a cut some may stay and some may go.
    """
    kept, dropped = values[stays], values[~stays]
    low, high = float(kept.min()), float(kept.max())
    if ((dropped > low) & (dropped < high)).any() or low == high == dropped.min(initial=low) == dropped.max(initial=high):
        return {"from": None, "to": None}
    tied = low < high
    return {
        "from": low if (dropped < low).any() or (tied and (dropped == low).any()) else None,
        "to": high if (dropped > high).any() or (tied and (dropped == high).any()) else None,
    }


def _agreement(table: ScoreTable, names: Sequence[str]) -> dict[str, Any]:
    """Of every pair of scores, how many rows have which ranks: counts [R][R], the first axis a's, both from easy to hard."""
    labelled = table.label != UNLABELLED
    hardness = {name: _hardness(table.columns[name])[labelled] for name in names}
    pairs = [(a, b) for position, a in enumerate(names) for b in names[position + 1 :]]
    return {
        "name": "agreement",
        "kind": "agreement",
        "pairs": [
            {"a": a, "b": b, "spearman": stats.spearman(hardness[a], hardness[b]), "counts": rank_table(hardness[a], hardness[b]).tolist()}
            for a, b in pairs
        ],
    }


def _hardness(column: ScoreColumn) -> NDArray[np.float64]:
    return (-1 if column.higher_is == "easier" else 1) * column.mean.astype(np.float64)


def _reliability(table: ScoreTable, scores: Sequence[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    """Reliability against seeds: measured up to half of them, where there are two disjoint sets to compare, and Spearman-Brown's beyond."""
    known = [entry for entry in scores if entry["reliability"] is not None]
    if known and len(table.seeds) > 1:
        yield {
            "name": "reliability",
            "kind": "reliability",
            "n_seeds": len(table.seeds),
            "low": LOW_RELIABILITY,
            "scores": [{"column": entry["column"], **_curve(table, entry)} for entry in known],
        }


def _curve(table: ScoreTable, entry: Mapping[str, Any]) -> dict[str, Any]:
    """`measured` at 1, 2, 4, ... seeds and half of them; `extended` from there through the reliability of all S seeds to `FURTHER` S.

    What was measured at a half is what the reported reliability was stepped up from, and is found by stepping back. Below zero the
    formula means nothing, and nothing is extended.
    """
    n_seeds, reported = len(table.seeds), entry["reliability"]
    half = n_seeds // 2
    per_seed, measured = table.columns[entry["column"]].per_seed, {}
    if entry["reliability_one_seed"] is not None:
        measured[1] = entry["reliability_one_seed"]
    if per_seed is not None:
        values = per_seed[:, table.label != UNLABELLED]
        between = [2**power for power in range(1, half.bit_length()) if 2**power < half]
        measured |= {size: stats.agreement(values, size, SPLITS) for size in between}
    measured[half] = stats.spearman_brown(reported, half / n_seeds)
    last = FURTHER * n_seeds
    sizes = {half, n_seeds, last, *np.linspace(half, last, MOST_FURTHER).round().astype(int).tolist()} if reported > 0 else set()
    return {
        "measured": [{"seeds": size, "value": value} for size, value in sorted(measured.items()) if value is not None],
        "extended": [{"seeds": size, "value": stats.spearman_brown(reported, size / n_seeds)} for size in sorted(sizes)],
    }


def _accuracy(evaluation: Mapping[str, Any], selections: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Which arms of an evaluation are points of one curve: selections that differ in their budget alone, and each kind of draw."""
    curves: dict[str, list[str]] = {}
    for arm in evaluation["arms"]:
        if arm["arm"] != "full":
            curves.setdefault(_curve_of(arm["arm"], selections.get(arm["arm"])), []).append(arm["arm"])
    return {
        "name": f"accuracy-{evaluation['name']}",
        "kind": "accuracy",
        "evaluation": evaluation["name"],
        "curves": [{"curve": name, "arms": arms} for name, arms in curves.items()],
    }


def _curve_of(arm: str, selection: Mapping[str, Any] | None) -> str:
    """What the arm's selection shares with those of other budgets, in words; a selection that is no longer there is a curve of its own."""
    if selection is None:
        return arm.rpartition("-")[0] if is_added(arm) else arm
    by = f" by {selection['score']}" if selection["score"] else ""
    own = {key: value for key, value in selection["parameters"].items() if key not in ("keep", "quotas", "scores", AUTO)}
    quotas = selection["parameters"].get("quotas", "none")
    return ", ".join([selection["strategy"] + by, *(f"{key} {value}" for key, value in own.items())]) + in_words(quotas)
