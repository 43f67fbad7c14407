"""Which candidate a tuning chooses: planted accuracies, and the rule computed a second time."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import pytest

from hf_datadiet.choice import tuned
from hf_datadiet.records import EvaluationTable
from tests.synthetic import PROVENANCE, arm

ROWS = 100


def tuning(right: dict[str, tuple[int, ...]], rows: int = ROWS) -> EvaluationTable:
    """Candidates with so many of the validation rows right: one number per seed."""
    label = (np.arange(rows) % 3).astype(np.int32)
    results = tuple(
        arm(name, 20_000 + seed, np.arange(rows) < count, label) for name, counts in right.items() for seed, count in enumerate(counts)
    )
    n_seeds = len(next(iter(right.values())))
    meanings = {name: f"what {name} keeps" for name in right}
    ids = np.arange(rows, dtype=np.int64)
    return EvaluationTable(
        "auto-50",
        "timm:test_resnet",
        "epochs",
        0.5,
        meanings,
        {name: name for name in right},
        n_seeds,
        ids,
        label,
        results,
        "x",
        PROVENANCE,
    )


def about(right: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    asked = {"keep": 0.5, "score": "el2n", "validation": 0.1, "seeds": len(next(iter(right.values())))}
    return {"n_rest": 900, "asked": asked, "candidates": {name: {"strategy": name, "skip": 0.1} for name in right}}


def chosen(right: dict[str, tuple[int, ...]]) -> tuple[str, str, int]:
    entry = tuned(tuning(right), about(right))
    assert [candidate["candidate"] for candidate in entry["candidates"] if candidate["chosen"]] == [entry["chosen"]]
    return entry["chosen"], entry["best"], entry["n_alike"]


def test_the_best_is_taken_wherever_it_stands() -> None:
    scores = {"a": (60, 61), "b": (70, 71), "c": (89, 90), "d": (80, 81)}
    for k in range(4):
        names = list(scores)[k:] + list(scores)[:k]
        assert chosen({name: scores[name] for name in names}) == ("c", "c", 1)


def test_what_stands_first_stays_within_one_standard_error() -> None:
    # Every spread is 2 points between two seeds: sd sqrt(2), pooled; the standard error of a difference of two means is sqrt(2).
    assert chosen({"a": (79, 81), "b": (80, 82), "c": (40, 42)}) == ("a", "b", 2)
    assert chosen({"a": (78, 80), "b": (80, 82), "c": (40, 42)}) == ("b", "b", 1)
    assert chosen({"c": (40, 42), "b": (80, 82), "a": (79, 81)}) == ("b", "b", 2), "of what is alike the first, and not the one before"


def test_the_standard_error_by_hand() -> None:
    right = {"a": (71, 73, 72), "b": (75, 73, 77), "c": (70, 74, 72)}
    entry = tuned(tuning(right), about(right))
    within = sum(((np.array(values) - np.mean(values)) ** 2).sum() for values in right.values())
    pooled, own = sqrt(within / 6) * sqrt(2 / 3), sqrt((4 + 4) / 3)
    by_name = {candidate["candidate"]: candidate for candidate in entry["candidates"]}
    assert by_name["a"]["se"] == pytest.approx(pooled) and by_name["c"]["se"] == pytest.approx(own) and by_name["b"]["se"] is None
    assert [by_name[name]["accuracy"] for name in "abc"] == pytest.approx([72, 75, 72])
    assert [by_name[name]["difference"] for name in "abc"] == pytest.approx([-3, 0, -3])
    # Rows 70 to 76 are those on which the seeds of a and b do not agree: the error of the mean difference over 100 rows.
    share = {name: np.mean([np.arange(ROWS) < count for count in right[name]], axis=0) for name in right}
    assert by_name["a"]["rows_se"] == pytest.approx(100 * np.std(share["a"] - share["b"], ddof=1) / 10)
    assert by_name["a"]["strategy"] == "a" and by_name["a"]["parameters"] == {"skip": 0.1} and by_name["a"]["n"] == 3
    assert entry["seconds"] == 9 * 4.0 and entry["n_validation"] == 100 and entry["n_candidates"] == 3


@pytest.mark.parametrize("right", [{"a": (70,), "b": (71,), "c": (71,)}, {"a": (70, 70), "b": (71, 71), "c": (71, 71)}])
def test_without_a_spread_the_best_mean_decides_and_of_equal_ones_the_first(right: dict[str, tuple[int, ...]]) -> None:
    assert chosen(right) == ("b", "b", 2)


def test_one_validation_row() -> None:
    right = {"a": (0, 0), "b": (1, 1)}
    entry = tuned(tuning(right, rows=1), about(right))
    assert entry["chosen"] == "b" and all(candidate["rows_se"] is None for candidate in entry["candidates"])
