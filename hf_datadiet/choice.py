"""The trainings of a tuning -> which candidate is chosen, and on what evidence. Pure.

The rule: the first candidate of the list whose mean accuracy on the validation rows lies within one standard error of the best one's. This
is the one-standard-error rule (Breiman, Friedman, Olshen, Stone, "Classification and Regression Trees", 1984, 3.4.3): what stands first is
simplest, and what may be the luck of a few seeds is no reason to leave it. The standard error is that of the difference to the best over
seeds (`intervals.standard_error`: pooled over candidates of similar spread). Where there is none (one seed each, or no spread) the best
mean decides, and of equal ones the first. The error over validation rows stands beside it and decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hf_datadiet import intervals
from hf_datadiet.records import EvaluationTable


def tuned(table: EvaluationTable, about: Mapping[str, Any]) -> dict[str, Any]:
    """The tuning's entry in the report; accuracies and errors in points (0..100).

    `about`: what was compared, as `candidates.Comparison.record` has it. `n_alike`: candidates within one standard error of the best.
    """
    points = {name: 100 * table.metric(name) for name in table.arms}
    mean = {name: float(values.mean()) for name, values in points.items()}
    best = max(mean, key=lambda name: mean[name])
    to_best = intervals.difference_intervals(points, best)
    error = {name: to_best[name].se if name != best else None for name in points}
    alike = [name for name in points if mean[best] - mean[name] <= (error[name] or 0.0)]
    return {
        "selection": table.name,
        "model": table.model,
        "match": table.match,
        "n_seeds": table.n_seeds,
        "n_validation": int(table.test_id.size),
        "n_rest": about["n_rest"],
        "n_candidates": len(points),
        "asked": dict(about["asked"]),
        "candidates": [_candidate(table, name, best, mean, error, about) | {"chosen": name == alike[0]} for name in points],
        "chosen": alike[0],
        "best": best,
        "n_alike": len(alike),
        "seconds": float(sum(result.seconds for result in table.results)),
    }


def _candidate(
    table: EvaluationTable,
    name: str,
    best: str,
    mean: Mapping[str, float],
    error: Mapping[str, float | None],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    correct = {
        arm: np.stack([result.predicted == table.test_label for result in table.results if result.arm == arm]) for arm in {name, best}
    }
    results = [result for result in table.results if result.arm == name]
    strategy = about["candidates"][name]
    rows_se = 100 * intervals.paired_test_error(correct[name], correct[best]) if name != best and table.test_id.size > 1 else None
    return {
        "candidate": name,
        "strategy": strategy["strategy"],
        "parameters": {key: value for key, value in strategy.items() if key != "strategy"},
        "n_rows": results[0].n_rows,
        "steps": results[0].steps,
        "n": len(results),
        "accuracy": mean[name],
        "difference": mean[name] - mean[best],
        "se": error[name],
        "rows_se": rows_se,
    }
