"""Records -> one `Report` -> Markdown. Pure: every number that is printed is a field of the report.

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
from hf_datadiet.records import UNLABELLED, EvaluationTable, Report, ScoreColumn, ScoreTable, Selection

LOW_RELIABILITY = 0.8
"""Below this a ranking is called unreliable: what 4 seeds of EL2N reach on CIFAR-10 after two epochs (data of arXiv 2303.14753)."""

HARD_BUDGET = 0.3
"""At or below this share, keeping the hardest is known to lose to a random choice (Ayed and Hayou, arXiv 2302.06960)."""

IMBALANCE = 2.0
"""A class kept at more than this multiple of another's rate is worth a warning."""


def build_report(
    table: ScoreTable,
    selections: Sequence[Selection],
    evaluations: Sequence[EvaluationTable],
    *,
    task: Mapping[str, Any],
    seed_seconds: Sequence[Mapping[str, float]],
    files: Mapping[str, str],
) -> Report:
    """Everything there is to say about a run.

    `task`: model and training as plain values; `seed_seconds`: wall seconds of each scoring seed, {"train", "observe"};
    `files`: what lies where, relative to the run folder.
    """
    labelled = table.label != UNLABELLED
    scores = tuple(_score(name, column, labelled, len(table.seeds)) for name, column in table.columns.items())
    kept = tuple(_selection(selection, table) for selection in selections)
    judged = tuple(_evaluation(evaluation, table.source.classes) for evaluation in evaluations)
    source = dataclasses.asdict(table.source) | {
        "n_scored": int(labelled.sum()),
        "n_unlabelled": int((~labelled).sum()),
        "n_classes": len(table.source.classes),
    }
    return Report(
        source=source,
        task=dict(task) | {"n_seeds": len(table.seeds)},
        scores=scores,
        correlations=tuple(_correlations(table, labelled, selections)),
        selections=kept,
        evaluations=judged,
        warnings=tuple(_warnings(scores, kept)),
        costs=_costs(seed_seconds, judged),
        files=files,
        provenance=dataclasses.asdict(table.provenance),
    )


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


def _evaluation(table: EvaluationTable, classes: Sequence[str]) -> dict[str, Any]:
    points = {arm: 100 * table.metric(arm) for arm in table.arms}
    results = {arm: [result for result in table.results if result.arm == arm] for arm in table.arms}
    correct = {arm: np.stack([result.predicted == table.test_label for result in found]) for arm, found in results.items()}
    arms = []
    for arm, meaning in table.arms.items():
        interval = stats.t_interval(points[arm])
        arms.append(
            {
                "arm": arm,
                "meaning": meaning,
                "n_rows": results[arm][0].n_rows,
                "epochs": results[arm][0].epochs,
                "steps": results[arm][0].steps,
                "accuracy": interval.mean,
                "low": interval.low,
                "high": interval.high,
                "n": interval.n,
                "sd": float(points[arm].std(ddof=1)) if interval.n > 1 else None,
                "seconds": float(np.mean([result.seconds for result in results[arm]])),
            }
        )
    return {
        "name": table.name,
        "model": table.model,
        "match": table.match,
        "margin": table.margin,
        "n_seeds": table.n_seeds,
        "n_test": int(table.test_id.size),
        "confidence": 95,
        "power": 80,
        "arms": arms,
        "differences": list(_differences(table, arms, points, correct)),
        "per_class": list(_class_accuracy(table, correct, classes)),
    }


def _differences(
    table: EvaluationTable, arms: Sequence[Mapping[str, Any]], points: Mapping[str, NDArray[Any]], correct: Mapping[str, NDArray[Any]]
) -> Iterable[dict[str, Any]]:
    """Every arm against the full data, and every selection against the random sets of its size."""
    size = {arm["arm"]: arm["n_rows"] for arm in arms}
    for reference in table.arms:
        against = [
            arm
            for arm in table.arms
            if arm != reference
            and (
                reference == "full"
                or (arm in table.arm_selections and reference not in table.arm_selections and size[arm] == size[reference])
            )
        ]
        found = stats.difference_intervals(points, reference) if against else {}
        for arm in against:
            difference = found[arm]
            sd = float(np.sqrt((points[arm].var(ddof=1) + points[reference].var(ddof=1)) / 2)) if table.n_seeds > 1 else None
            yield {
                "arm": arm,
                "reference": reference,
                "difference": difference.mean,
                "low": difference.low,
                "high": difference.high,
                "se": difference.se,
                "df": difference.df,
                "method": difference.method,
                "n": difference.n,
                "test_se": 100 * stats.paired_test_error(correct[arm], correct[reference]) if table.test_id.size > 1 else None,
                "detectable": stats.minimum_detectable(sd, table.n_seeds) if sd is not None else None,
            }


def _class_accuracy(table: EvaluationTable, correct: Mapping[str, NDArray[Any]], classes: Sequence[str]) -> Iterable[dict[str, Any]]:
    for label in np.unique(table.test_label).tolist():
        of_class = table.test_label == label
        accuracy = {arm: float(100 * right[:, of_class].mean()) for arm, right in correct.items()}
        yield {"class": classes[label], "n_test": int(of_class.sum()), "accuracy": accuracy}


def _costs(seed_seconds: Sequence[Mapping[str, float]], evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Wall seconds of scoring, and after how many trainings on a kept set they are earned back, on this machine."""
    scoring = {kind: float(sum(seconds[kind] for seconds in seed_seconds)) for kind in ("train", "observe")}
    total = scoring["train"] + scoring["observe"]
    savings = []
    for evaluation in evaluations:
        seconds = {arm["arm"]: arm["seconds"] for arm in evaluation["arms"]}
        against_full = {row["arm"] for row in evaluation["differences"] if row["reference"] == "full"}
        for arm in evaluation["arms"]:
            if arm["arm"] in against_full and not arm["arm"].startswith(("random-", "stratified-")):
                saved = seconds["full"] - arm["seconds"]
                pays = evaluation["match"] == "epochs" and saved > 0
                savings.append(
                    {
                        "evaluation": evaluation["name"],
                        "arm": arm["arm"],
                        "saved_seconds": saved if pays else 0.0,
                        "break_even_runs": total / saved if pays else None,
                    }
                )
    return {
        "scoring_seconds": total,
        "scoring_train_seconds": scoring["train"],
        "scoring_observe_seconds": scoring["observe"],
        "savings": savings,
    }


def _warnings(scores: Sequence[Mapping[str, Any]], selections: Sequence[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    by_column = {score["column"]: score for score in scores}
    for selection in selections:
        score = by_column.get(selection["score"])
        name = selection["name"]
        if score is not None and score["score"] == "grand" and score["epoch"] == 0:
            text = f"{name} goes by GraNd at initialisation, which did not reproduce as a way to prune (arXiv 2303.14753)"
            yield {"kind": "grand at initialisation", "selection": name, "value": score["epoch"], "text": text}
        if score is not None and score["reliability"] is not None and score["reliability"] < LOW_RELIABILITY:
            measured = f"{score['reliability']:.2f} (1 is perfect)"
            text = f"{name} goes by {score['column']}, whose ranking is unreliable: {measured}; add seeds or epochs"
            yield {"kind": "low reliability", "selection": name, "value": score["reliability"], "text": text}
        if selection["strategy"] == "hardest" and selection["share"] <= HARD_BUDGET:
            text = f"{name} keeps the hardest {100 * selection['share']:.0f} %: at small budgets that is known to lose to a random choice"
            yield {"kind": "hardest at a small budget", "selection": name, "value": 100 * selection["share"], "text": text}
        ratio = selection["rate_ratio"]
        if ratio is None or ratio > IMBALANCE:
            how = "at least one class is dropped whole" if ratio is None else f"one class is kept at {ratio:.1f} times the rate of another"
            yield {
                "kind": "class imbalance",
                "selection": name,
                "value": ratio,
                "text": f"{name}: {how}; see the class table, or set quotas",
            }


# Markdown


def to_markdown(report: Report) -> str:
    """The report for people; complete, and readable as plain text too."""
    parts = [_head(report), *_score_sections(report)]
    for selection in report.selections:
        parts.append(_selection_section(selection, report))
    for evaluation in report.evaluations:
        parts.append(_evaluation_section(evaluation))
    parts += [_cost_section(report), _file_section(report)]
    return "\n\n".join(part for part in parts if part) + "\n"


def summary(report: Report) -> str:
    """The tables that a person wants to see at the end of a command: reliability, accuracy, differences, warnings."""
    parts = [_score_table(report)]
    parts += [_accuracy_table(evaluation) + "\n\n" + _difference_table(evaluation) for evaluation in report.evaluations]
    parts.append("\n".join(f"! {warning['text']}" for warning in report.warnings))
    return "\n\n".join(part for part in parts if part)


def _head(report: Report) -> str:
    source, task = report.source, report.task
    held = f" {source['n_unlabelled']} rows without a label have no score." if source["n_unlabelled"] else ""
    lines = [
        f"# Data diet of {source['name']}",
        "",
        f"{source['n_scored']} rows of split `{source['split']}` ({source['n_rows']} rows in all, {source['n_classes']} classes) "
        f"scored by {task['n_seeds']} trainings of `{task['model']}`, {task['score_epochs']} of {task['epochs']} epochs each.{held}",
    ]
    if report.warnings:
        lines += ["", "**Read with care**", "", *(f"- {warning['text']}" for warning in report.warnings)]
    return "\n".join(lines)


def _score_sections(report: Report) -> list[str]:
    note = (
        "Reliability: how well the mean over all seeds would agree (rank correlation) with the mean over as many other seeds, "
        "from the agreement of single seeds by Spearman-Brown. A stable ranking is not yet a useful one: the accuracies below decide."
    )
    sections = [f"## Scores\n\n{_score_table(report)}\n\n{note}"]
    if report.correlations:
        first = report.correlations[0]
        rows = [[pair["a"], pair["b"], _number(pair["spearman"], 3), _percent(pair["shared_hardest"])] for pair in report.correlations]
        sections.append(
            "### Agreement between scores\n\n" + _table(["score", "score", "Spearman", f"shared among the hardest {first['k']}"], rows)
        )
    return sections


def _score_table(report: Report) -> str:
    rows = [
        [
            score["column"],
            str(score["epoch"]),
            score["higher_is"],
            _number(score["reliability"], 3),
            _number(score["reliability_one_seed"], 3),
            _digits(score["median"]),
            f"{_digits(score['min'])} to {_digits(score['max'])}",
        ]
        for score in report.scores
    ]
    n_seeds = report.task["n_seeds"]
    return _table(["score", "after epoch", "high is", f"reliability ({n_seeds} seeds)", "of one seed", "median", "range"], rows)


def _selection_section(selection: Mapping[str, Any], report: Report) -> str:
    by = f" by `{selection['score']}`" if selection["score"] else ""
    rows = [[entry["class"], str(entry["rows"]), str(entry["kept"]), _percent(entry["rate"])] for entry in selection["per_class"]]
    reasons = "\n".join(f"- {count} rows: {' '.join(reason.splitlines())}" for reason, count in selection["reasons"].items())
    head = (
        f"{selection['n_kept']} rows kept ({_percent(selection['share'])}), {selection['n_dropped']} dropped: {selection['strategy']}{by}."
    )
    return f"## Selection {selection['name']}\n\n{head}\n\n{reasons}\n\n" + _table(["class", "rows", "kept", "share kept"], rows)


def _evaluation_section(evaluation: Mapping[str, Any]) -> str:
    matched = {"epochs": "as many epochs as the full data (fewer steps)", "steps": "as many steps as the full data (more epochs)"}
    head = (
        f"Trained from scratch with `{evaluation['model']}`, {evaluation['n_seeds']} fresh seeds per arm, every arm for "
        f"{matched[evaluation['match']]}; {evaluation['n_test']} held-out rows, model after the last epoch."
    )
    note = (
        f"Intervals: {evaluation['confidence']} %, t over seeds (for differences with the residual pooled over the arms, or Welch's where "
        "spreads differ), conditional on this selection. Test s.e.: what another test set of this size would add. Detectable: the smallest true difference that so many "
        f"seeds find in {evaluation['power']} % of cases. A difference whose interval contains zero is no proof of equality."
    )
    arms = list(evaluation["arms"])
    rows = [
        [entry["class"], str(entry["n_test"]), *(_number(entry["accuracy"][arm["arm"]], 1) for arm in arms)]
        for entry in evaluation["per_class"]
    ]
    classes = _table(["class", "test rows", *(arm["arm"] for arm in arms)], rows)
    tables = f"{_accuracy_table(evaluation)}\n\n{_difference_table(evaluation)}\n\n{note}"
    return f"## Evaluation {evaluation['name']}\n\n{head}\n\n{tables}\n\n### Accuracy per class, %\n\n{classes}"


def _accuracy_table(evaluation: Mapping[str, Any]) -> str:
    rows = [
        [
            arm["arm"],
            str(arm["n_rows"]),
            str(arm["steps"]),
            _number(arm["accuracy"], 2),
            _interval(arm["low"], arm["high"]),
            str(arm["n"]),
            _number(arm["seconds"], 1),
        ]
        for arm in evaluation["arms"]
    ]
    return _table(["trained on", "rows", "steps", "accuracy, %", f"{evaluation['confidence']} % interval", "n", "seconds"], rows)


def _difference_table(evaluation: Mapping[str, Any]) -> str:
    rows = [
        [
            f"{row['arm']} - {row['reference']}",
            _signed(row["difference"], 2),
            _interval(row["low"], row["high"], signed=True),
            _number(row["test_se"], 2),
            _number(row["detectable"], 2),
            str(row["n"]),
        ]
        for row in evaluation["differences"]
    ]
    return _table(["difference", "points", f"{evaluation['confidence']} % interval", "test s.e.", "detectable", "n"], rows)


def _cost_section(report: Report) -> str:
    costs = report.costs
    lines = [
        "## Cost",
        "",
        f"Scoring took {_number(costs['scoring_seconds'], 1)} s: {_number(costs['scoring_train_seconds'], 1)} s of training and "
        f"{_number(costs['scoring_observe_seconds'], 1)} s of observing.",
    ]
    for saving in costs["savings"]:
        if saving["break_even_runs"] is None:
            lines.append(f"Training on {saving['arm']} instead of all rows saves no time here.")
        else:
            lines.append(
                f"Training on {saving['arm']} instead of all rows saves {_number(saving['saved_seconds'], 1)} s each time: "
                f"scoring is paid back after {_number(saving['break_even_runs'], 1)} such trainings."
            )
    return "\n".join(lines)


def _file_section(report: Report) -> str:
    made = report.provenance
    versions = ", ".join(f"{name} {number}" for name, number in made["versions"].items())
    hardware = ", ".join(f"{name} {value}" for name, value in made["hardware"].items())
    rows = [[f"`{name}`", meaning] for name, meaning in report.files.items()]
    return (
        "## Files\n\n" + _table(["file", "holds"], rows) + f"\n\nMade by `{made['command']}` on {made['created']}.\n"
        f"Recipe {made['recipe_digest']}.\nSource {report.source['digest']}.\nVersions: {versions}.\nHardware: {hardware}."
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, padded so that it reads as plain text; numbers to the right."""
    cells = [[_escape(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    right = [all(_is_numeric(row[column]) for row in cells[1:]) and len(cells) > 1 for column in range(len(head))]
    lines = [
        "| " + " | ".join(_pad(cell, width, side) for cell, width, side in zip(row, widths, right, strict=True)) + " |" for row in cells
    ]
    rule = "|" + "|".join("-" * (width + 1) + (":" if side else "-") for width, side in zip(widths, right, strict=True)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _pad(cell: str, width: int, right: bool) -> str:
    return cell.rjust(width) if right else cell.ljust(width)


def _is_numeric(cell: str) -> bool:
    return cell == "-" or cell.strip("+-%. 0123456789") == ""


def _escape(text: str) -> str:
    return " ".join(text.splitlines()).replace("\\", "\\\\").replace("|", "\\|")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _digits(value: float) -> str:
    """Three significant digits."""
    return f"{value:.3g}"


def _signed(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:+.{digits}f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _interval(low: float | None, high: float | None, *, signed: bool = False) -> str:
    show = _signed if signed else _number
    return "-" if low is None else f"{show(low, 2)} to {show(high, 2)}"
