"""A `Report` as Markdown, and as the tables at the end of a command: words are added here, never numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hf_datadiet.recipe import LOGITS
from hf_datadiet.records import Report


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
    counts = {"without a label": "n_unlabelled", "that cannot be read": "n_skipped", "held out that cannot be read": "n_test_skipped"}
    none = "".join(f"; {report.source[key]} {what} have none" for what, key in counts.items() if report.source[key])
    parts = [f"Scores of {report.source['n_scored']} rows{none}", _score_table(report)]
    for evaluation in report.evaluations:
        parts += [f"Accuracy on {evaluation['n_test']} rows that were neither scored nor pruned, model after the last epoch"]
        parts += [_accuracy_table(evaluation), "What can be said of the differences", _difference_table(evaluation)]
    parts.append("\n".join(f"! {warning['text']}" for warning in report.warnings))
    return "\n\n".join(part for part in parts if part)


def _head(report: Report) -> str:
    source, task = report.source, report.task
    held = f" {source['n_unlabelled']} rows without a label have no score." if source["n_unlabelled"] else ""
    skipped, lost = source["n_skipped"], source["n_test_skipped"]
    if skipped or lost:
        held += f" {skipped} rows that cannot be read have no score, and {lost} held-out ones are left out (skipped.parquet)."
    by = f"scored by {task['n_seeds']} trainings of `{task['model']}`, {task['score_epochs']} of {task['epochs']} epochs each."
    if task.get("kind") == LOGITS:
        by = f"scored from the logits of {task['n_seeds']} trainings up to epoch {task['epochs']}; forgetting is counted after each."
    lines = [
        f"# Data diet of {source['name']}",
        "",
        f"{source['n_scored']} rows of split `{source['split']}` ({source['n_rows']} rows in all, {source['n_classes']} classes) "
        f"{by}{held}",
    ]
    if report.warnings:
        lines += ["", "**Read with care**", "", *(f"- {warning['text']}" for warning in report.warnings)]
    return "\n".join(lines)


def _score_sections(report: Report) -> list[str]:
    note = (
        "Reliability: how well the mean over all seeds would agree (rank correlation) with the mean over as many other seeds, "
        "from the agreement between halves of the seeds by Spearman-Brown; where many scores are equal that is an upper estimate. "
        "A stable ranking is not yet a useful one: the accuracies below decide."
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
    return _table(
        ["score", "after epoch", "high is", f"reliability ({n_seeds} seed{'s' if n_seeds > 1 else ''})", "of one seed", "median", "range"],
        rows,
    )


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
        "spreads differ), conditional on this selection. Test s.e.: what another test set of this size would add. Detectable: the smallest "
        f"true difference that so many seeds find in {evaluation['power']} % of cases. A difference whose interval contains zero is no "
        "proof of equality."
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
