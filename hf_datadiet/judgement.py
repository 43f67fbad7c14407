"""An `EvaluationTable` -> what the report says of it: accuracies, differences with their verdicts, classes. Pure.

Accuracies and their differences are in points (0..100).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_datadiet import intervals, verdict
from hf_datadiet.records import ArmResult, EvaluationTable

ARM_CONFIDENCE = 0.95
"""Of the intervals of the accuracies themselves, which decide nothing: the usual 95 %."""

Correct = Mapping[str, NDArray[np.bool_]]
"""{arm: whether each training predicts each test row right [n, T]}"""


def judged(
    table: EvaluationTable, classes: Sequence[str], rows: Mapping[str, Mapping[str, int]], together: Sequence[EvaluationTable]
) -> dict[str, Any]:
    """The evaluation's entry in the report.

    `classes`: their names. `rows`: {arm: {class: training rows}} of the full data and of the selections; drawn arms vary from seed to seed.
    `together`: the evaluations that are read together with this one, itself among them: one for each model.
    """
    n_comparisons = sum(len(each.arm_selections) for each in together)
    points = {arm: 100 * table.metric(arm) for arm in table.arms}
    results = {arm: [result for result in table.results if result.arm == arm] for arm in table.arms}
    correct = {arm: np.stack([result.predicted == table.test_label for result in found]) for arm, found in results.items()}
    per_class = list(_per_class(table, correct, classes, rows))
    arms = [_arm(arm, meaning, points[arm], results[arm], per_class) for arm, meaning in table.arms.items()]
    confidence = verdict.confidence_for(n_comparisons)
    return {
        "name": table.name,
        "model": table.model,
        "transfer_of": table.transfer_of,
        "match": table.match,
        "margin": table.margin,
        "n_seeds": table.n_seeds,
        "n_test": int(table.test_id.size),
        "n_selections": len(table.arm_selections),
        "n_models": len(together),
        "n_comparisons": n_comparisons,
        "confidence": 100 * ARM_CONFIDENCE,
        "verdict_confidence": 100 * confidence,
        "level": 100 * verdict.ALPHA,
        "power": 100 * verdict.POWER,
        "arms": arms,
        "differences": list(_differences(table, arms, points, correct, confidence)),
        "per_class": per_class,
        "harmed": list(_harmed(table, correct, classes, confidence)),
    }


def _arm(
    arm: str, meaning: str, points: NDArray[np.float64], results: Sequence[ArmResult], per_class: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    interval = intervals.t_interval(points, ARM_CONFIDENCE)
    worst = min(per_class, key=lambda entry: entry["accuracy"][arm])
    return {
        "arm": arm,
        "meaning": meaning,
        "n_rows": results[0].n_rows,
        "epochs": results[0].epochs,
        "steps": results[0].steps,
        "accuracy": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "n": interval.n,
        "sd": float(points.std(ddof=1)) if interval.n > 1 else None,
        "seconds": float(np.mean([result.seconds for result in results])),
        "worst_class": worst["class"],
        "worst_accuracy": worst["accuracy"][arm],
    }


def _differences(
    table: EvaluationTable, arms: Sequence[Mapping[str, Any]], points: Mapping[str, NDArray[Any]], correct: Correct, confidence: float
) -> Iterable[dict[str, Any]]:
    """Every arm against the full data, and every selection against the random sets of its size; selections get a verdict."""
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
        found = intervals.difference_intervals(points, reference, confidence) if against else {}
        for arm in against:
            difference = found[arm]
            se, df = difference.se, difference.df
            said = verdict.judge(difference, table.margin, confidence) if arm in table.arm_selections else None
            test = intervals.bootstrap_test_interval(correct[arm], correct[reference], confidence)
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
                "verdict": said and said.word,
                "shown": said and said.shown,
                "beyond_margin": said and said.beyond,
                "seeds_to_settle": said and said.seeds,
                "detectable": None if se is None or df is None else intervals.minimum_detectable(se, df, verdict.POWER, 1 - confidence),
                "test_se": 100 * intervals.paired_test_error(correct[arm], correct[reference]) if table.test_id.size > 1 else None,
                "test_low": None if test.low is None else 100 * test.low,
                "test_high": None if test.high is None else 100 * test.high,
            }


def _per_class(
    table: EvaluationTable, correct: Correct, classes: Sequence[str], rows: Mapping[str, Mapping[str, int]]
) -> Iterable[dict[str, Any]]:
    for label in map(int, np.unique(table.test_label)):
        of_class, name = table.test_label == label, classes[label]
        accuracy = {arm: float(100 * right[:, of_class].mean()) for arm, right in correct.items()}
        trained = {arm: rows[arm].get(name, 0) for arm in table.arms if arm in rows}
        yield {"class": name, "n_test": int(of_class.sum()), "rows": trained, "accuracy": accuracy}


def _harmed(table: EvaluationTable, correct: Correct, classes: Sequence[str], confidence: float) -> Iterable[dict[str, Any]]:
    """For each selection the class that loses most against the full data, if it is shown to lose more than the margin.

    The intervals hold for all classes and all selections at once (Bonferroni, as the verdicts).
    """
    labels = [int(label) for label in np.unique(table.test_label)]
    among_all = 1 - (1 - confidence) / len(labels)
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in table.arm_selections}
    for label in labels:
        of_class = table.test_label == label
        points = {arm: 100 * right[:, of_class].mean(axis=1) for arm, right in correct.items()}
        differences = intervals.difference_intervals(points, "full", among_all)
        for arm, entries in found.items():
            difference = differences[arm]
            if difference.high is not None and difference.high <= -table.margin:
                about = {"difference": difference.mean, "low": difference.low, "high": difference.high}
                entries.append({"arm": arm, "class": classes[label], "n_test": int(of_class.sum())} | about)
    for entries in found.values():
        if entries:
            yield {"n_classes": len(labels)} | min(entries, key=lambda entry: entry["difference"])
