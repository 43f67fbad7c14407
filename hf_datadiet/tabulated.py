"""The tables of a report, as Markdown that reads as plain text too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hf_datadiet.cells import interval, number, percent, short, signed, signed_interval, table
from hf_datadiet.records import Report

Entry = Mapping[str, Any]
"""An entry of a report: one evaluation, one tuning, one selection."""


def score_table(report: Report) -> str:
    """Each score: its direction, reliability and range."""
    rows = [
        [
            score["column"],
            str(score["epoch"]),
            score["higher_is"],
            number(score["reliability"], 3),
            number(score["reliability_one_seed"], 3),
            short(score["median"]),
            f"{short(score['min'])} to {short(score['max'])}",
        ]
        for score in report.scores
    ]
    n_seeds = report.task["n_seeds"]
    return table(
        ["score", "after epoch", "high is", f"reliability ({n_seeds} seed{'s' if n_seeds > 1 else ''})", "of one seed", "median", "range"],
        rows,
    )


def confounder_table(report: Report) -> str:
    """How far each score ranks as cheaper things do."""
    names = {"input_norm": "input norm (Spearman)", "text_length": "text length (Spearman)", "label": "label (epsilon squared)"}
    known = {key: head for key, head in names.items() if any(key in score["confounders"] for score in report.scores)}
    rows = [[score["column"], *(number(score["confounders"].get(key), 3) for key in known)] for score in report.scores]
    return table(["score", *known.values()], rows)


def agreement_table(correlations: Sequence[Entry]) -> str:
    """Every pair of scores."""
    rows = [[pair["a"], pair["b"], number(pair["spearman"], 3), percent(pair["shared_hardest"])] for pair in correlations]
    return table(["score", "score", "Spearman", f"shared among the hardest {correlations[0]['k']}"], rows)


def class_table(selection: Entry) -> str:
    """The rows of each class before and after a selection."""
    rows = [[entry["class"], str(entry["rows"]), str(entry["kept"]), percent(entry["rate"])] for entry in selection["per_class"]]
    return table(["class", "rows", "kept", "share kept"], rows)


def candidate_table(tuning: Entry) -> str:
    """What a tuning compared."""
    rows = [
        [
            candidate["candidate"],
            str(candidate["n_rows"]),
            str(candidate["steps"]),
            number(candidate["accuracy"], 2),
            signed(candidate["difference"], 2),
            number(candidate["se"], 2),
            number(candidate["rows_se"], 2),
            str(candidate["n"]),
            "yes" if candidate["chosen"] else "",
        ]
        for candidate in tuning["candidates"]
    ]
    return table(["candidate", "rows", "steps", "accuracy, %", "to the best", "s.e., seeds", "s.e., rows", "n", "chosen"], rows)


def accuracy_table(evaluation: Entry) -> str:
    """The accuracy of each arm, with its interval over seeds and its worst class."""
    rows = [
        [
            arm["arm"],
            str(arm["n_rows"]),
            str(arm["steps"]),
            number(arm["accuracy"], 2),
            interval(arm["low"], arm["high"]),
            str(arm["n"]),
            number(arm["worst_accuracy"], 1),
            arm["worst_class"],
            number(arm["seconds"], 1),
        ]
        for arm in evaluation["arms"]
    ]
    between = f"{short(evaluation['confidence'])} % interval"
    return table(["trained on", "rows", "steps", "accuracy, %", between, "n", "worst class, %", "which", "seconds"], rows)


def difference_table(evaluation: Entry) -> str:
    """The differences between arms, with both intervals and the verdict."""
    rows = [
        [
            f"{row['arm']} - {row['reference']}",
            signed(row["difference"], 2),
            signed_interval(row["low"], row["high"]),
            signed_interval(row["test_low"], row["test_high"]),
            row["verdict"] or "",
            number(row["detectable"], 2),
            str(row["n"]),
        ]
        for row in evaluation["differences"]
    ]
    confidence = f"{short(evaluation['verdict_confidence'])} %"
    head = ["difference", "points", f"{confidence} interval, seeds", f"{confidence} interval, test rows", "verdict", "detectable", "n"]
    return table(head, rows)


def class_accuracy_table(evaluation: Entry) -> str:
    """The accuracy of each arm on each class, beside the rows that it was trained on."""
    rows = [
        [
            entry["class"],
            str(entry["n_test"]),
            *(str(rows) for rows in entry["rows"].values()),
            *(number(entry["accuracy"][arm["arm"]], 1) for arm in evaluation["arms"]),
        ]
        for entry in evaluation["per_class"]
    ]
    trained = [f"rows of {arm}" for arm in evaluation["per_class"][0]["rows"]]
    return table(["class", "test rows", *trained, *(f"{arm['arm']}, %" for arm in evaluation["arms"])], rows)


def transfer_table(group: Entry) -> str:
    """Each selection against the full data, model by model."""
    rows = [
        [
            row["selection"],
            row["model"],
            signed(row["difference"], 2),
            signed_interval(row["low"], row["high"]),
            row["verdict"],
            str(row["n"]),
        ]
        for row in group["rows"]
    ]
    return table(["selection", "model", "against full, points", f"{short(group['confidence'])} % interval, seeds", "verdict", "n"], rows)
