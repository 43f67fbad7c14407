"""The numbers behind the pictures, computed a second time from the table."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hf_datadiet import stats
from hf_datadiet.pictured import MOST_SCORES, MOST_SELECTIONS, cuts
from hf_datadiet.records import UNLABELLED, EvaluationTable, Report, ScoreTable, Selection
from hf_datadiet.report import build_report
from hf_datadiet.selection import select
from tests.synthetic import PROVENANCE, column, evaluation, score_table, selection

TASK = {"model": "timm:test_resnet", "epochs": 3, "score_epochs": 2, "batch_size": 8}


def table_of(n: int = 200, seeds: int = 4, classes: int = 3, **about: Any) -> ScoreTable:
    """el2n (hard, skewed), margin (easy) and counts, all noisy views of one difficulty; one row in ten has no label."""
    rng = np.random.default_rng(1)
    label = np.arange(n) % classes
    label[::10] = UNLABELLED
    base = rng.normal(size=n)
    noisy = base + 0.5 * rng.normal(size=(seeds, n))
    made = {"el2n": np.exp(2 * noisy), "margin": -np.tanh(noisy), "forgetting": np.floor(np.abs(noisy))}
    columns = {}
    for name, values in made.items():
        reliability = stats.reliability(values[:, label != UNLABELLED])
        easier = {"higher_is": "easier"} if name == "margin" else {}
        columns[name] = column(values, label, score=name, **easier, **{"reliability": reliability, **about})
    names = tuple(f"class {number}" for number in range(classes))
    return replace(score_table(n, tuple(range(seeds)), label=label, classes=names), columns=columns)


def report_of(table: ScoreTable, selections: list[Selection], evaluations: list[EvaluationTable] | None = None) -> Report:
    seconds = [{"train": 1.0, "observe": 0.5}]
    return build_report(table, selections, evaluations or [], task=TASK, seed_seconds=seconds, files={})


def chosen(table: ScoreTable, name: str = "mine", **about: Any) -> Selection:
    return select(table, name=name, provenance=PROVENANCE, **{"score": "el2n", "keep": 0.5, **about})


def of_kind(report: Report, kind: str) -> list[dict[str, Any]]:
    return [json.loads(json.dumps(entry, allow_nan=False)) for entry in report.pictures if entry["kind"] == kind]


# Histograms


@pytest.mark.parametrize("score", ["el2n", "margin", "forgetting"])
def test_kept_and_dropped_rows_are_all_rows(score: str) -> None:
    table = table_of()
    selections = [chosen(table, f"keep-{k}", score=score, keep=k) for k in (20, 90, 180)]
    (entry,) = of_kind(report_of(table, selections), "histogram")
    labelled = table.label != UNLABELLED
    values = table.columns[score].mean[labelled].astype(float)
    assert sum(entry["rows"]) == 180 == labelled.sum() and entry["scale"] == ("log" if score == "el2n" else "linear")
    edges = np.array(entry["edges"])
    for panel, selected in zip(entry["selections"], selections, strict=True):
        mine = values[np.isin(table.example_id[labelled], selected.kept)]
        inside = np.clip(np.searchsorted(edges, mine, side="right") - 1, 0, len(edges) - 2)
        assert panel["kept"] == np.bincount(inside, minlength=len(edges) - 1).tolist()
        assert sum(panel["kept"]) == panel["n_kept"] == selected.kept.size and (np.array(panel["kept"]) <= entry["rows"]).all()


@pytest.mark.parametrize(
    ("about", "ends"),
    [
        ({}, "from"),
        ({"strategy": "easiest"}, "to"),
        ({"score": "margin"}, "to"),  # high is easy
        ({"strategy": "window", "parameters": {"skip": 0.1}}, "both"),
        ({"keep": {"score": "el2n", "above": 0.2, "below": 3.0}, "score": None}, "both"),
        ({"quotas": "equal"}, "none"),
        ({"mix": 0.3}, "none"),
        ({"keep": 1.0}, "none"),
        ({"strategy": "moderate"}, "both"),
    ],
)
def test_the_cut_is_where_the_rows_part(about: dict[str, Any], ends: str) -> None:
    table = table_of()
    made = chosen(table, **about)
    (entry,) = of_kind(report_of(table, [made]), "histogram")
    values = table.columns[entry["column"]].mean.astype(float)
    kept = values[np.isin(table.example_id, made.kept)]
    (panel,) = entry["selections"]
    assert panel["from"] == (kept.min() if ends in ("from", "both") else None)
    assert panel["to"] == (kept.max() if ends in ("to", "both") else None)


def test_the_cut_is_that_of_the_reasons() -> None:
    table = table_of()
    made = chosen(table)
    (entry,) = of_kind(report_of(table, [made]), "histogram")
    assert f"el2n below the cut {entry['selections'][0]['from']:.4g} (hardest 50 %)" in made.reasons


def test_cuts_among_equals() -> None:
    def found(values: list[float], kept: list[int]) -> tuple[float | None, float | None]:
        stays = np.isin(np.arange(len(values)), kept)
        cut = cuts(np.array(values), stays)
        return cut["from"], cut["to"]

    assert found([1, 1, 1, 2, 3], [2, 3, 4]) == (1, None), "some at the cut stay, some go"
    assert found([1, 2, 2, 2, 3], [0, 1]) == (None, 2)
    assert found([1, 1, 1], [0]) == (None, None), "among equal values nothing is cut"
    assert found([1, 2, 3], [0, 2]) == (None, None)
    assert found([1, 2, 3], [1]) == (2, 2)
    assert found([1, 2, 2], [0, 1, 2]) == (None, None)


def test_which_scores_have_a_histogram() -> None:
    table = table_of()
    assert [entry["column"] for entry in of_kind(report_of(table, []), "histogram")] == ["el2n", "margin", "forgetting"]
    by_margin = report_of(table, [chosen(table, score="margin"), chosen(table, "two", score=["el2n", "forgetting"])])
    shown = of_kind(by_margin, "histogram")
    assert [entry["column"] for entry in shown] == ["margin", "el2n", "forgetting"]
    assert [[panel["selection"] for panel in entry["selections"]] for entry in shown] == [["mine"], ["two"], ["two"]]
    at_random = of_kind(report_of(table, [chosen(table, score=None, strategy="random")]), "histogram")
    assert len(at_random) == 3 and all(entry["selections"] == [] for entry in at_random)


def test_there_are_not_too_many_panels_and_numbers() -> None:
    table = table_of()
    further = {f"el2n_{i}": replace(table.columns["el2n"], score=f"el2n_{i}") for i in range(6)}
    wide = replace(table, columns={**table.columns, **further})
    selections = [chosen(wide, f"s{i:02}", keep=10 + i) for i in range(MOST_SELECTIONS + 3)]
    report = report_of(wide, selections)
    (entry,) = of_kind(report, "histogram")
    assert len(entry["selections"]) == MOST_SELECTIONS and entry["n_more"] == 3
    assert len(of_kind(report, "agreement")[0]["pairs"]) == MOST_SCORES * (MOST_SCORES - 1) // 2
    assert len(of_kind(report, "classes")[0]["selections"]) == MOST_SELECTIONS
    assert len(json.dumps(report.pictures)) < 40_000


def test_an_odd_name_of_a_column_is_a_name_of_a_file() -> None:
    table = table_of()
    odd = replace(table, columns={"../a b/ü%2F": replace(table.columns["el2n"], score="../a b/ü%2F")})
    (entry,) = of_kind(report_of(odd, []), "histogram")
    assert entry["name"] == "histogram-..%2Fa%20b%2F%C3%BC%252F" and entry["column"] == "../a b/ü%2F"


# Agreement


def test_agreement_is_of_hardness_over_labelled_rows() -> None:
    table = table_of()
    (entry,) = of_kind(report_of(table, []), "agreement")
    assert [(pair["a"], pair["b"]) for pair in entry["pairs"]] == [("el2n", "margin"), ("el2n", "forgetting"), ("margin", "forgetting")]
    labelled = table.label != UNLABELLED
    el2n, margin = (table.columns[name].mean[labelled].astype(float) for name in ("el2n", "margin"))
    by_hand = np.zeros((20, 20), int)
    for row in range(180):
        by_hand[(el2n < el2n[row]).sum() * 20 // 180, (margin > margin[row]).sum() * 20 // 180] += 1
    assert entry["pairs"][0]["counts"] == by_hand.tolist()
    assert entry["pairs"][0]["spearman"] == pytest.approx(stats.spearman(el2n, -margin)) and np.trace(by_hand) > 40


# Reliability


@pytest.mark.parametrize("seeds", [2, 3, 4, 5, 8, 11])
def test_the_reliability_curve_goes_through_what_was_measured_and_what_is_reported(seeds: int) -> None:
    table = table_of(seeds=seeds)
    labelled = table.label != UNLABELLED
    (entry,) = of_kind(report_of(table, [chosen(table)]), "reliability")
    assert entry["n_seeds"] == seeds and entry["scores"][0]["column"] == "el2n"
    score, per_seed = entry["scores"][0], table.columns["el2n"].per_seed
    assert per_seed is not None
    measured = {point["seeds"]: point["value"] for point in score["measured"]}
    extended = {point["seeds"]: point["value"] for point in score["extended"]}
    half = seeds // 2
    assert set(measured) == {1, half} | ({2} if half > 2 else set()) | ({4} if half > 4 else set())
    assert measured[1] == pytest.approx(stats.mean_pairwise(per_seed[:, labelled]))
    assert measured[half] == pytest.approx(stats.agreement(per_seed[:, labelled], half)) == pytest.approx(extended[half])
    assert extended[seeds] == pytest.approx(table.columns["el2n"].reliability)
    assert extended[2 * seeds] == pytest.approx(stats.spearman_brown(extended[seeds], 2)) and max(extended) == 2 * seeds
    assert list(extended) == sorted(extended) and list(extended.values()) == sorted(extended.values())
    if half > 2:
        rng = np.random.default_rng(5)
        drawn = [rng.permutation(seeds) for _ in range(200)]
        means = [(per_seed[order[:2]].mean(0)[labelled], per_seed[order[2:4]].mean(0)[labelled]) for order in drawn]
        assert measured[2] == pytest.approx(np.mean([stats.spearman(*pair) for pair in means]), abs=0.02)


def test_one_seed_has_no_reliability_curve() -> None:
    assert of_kind(report_of(table_of(seeds=1), []), "reliability") == []
    assert of_kind(report_of(table_of(reliability=None), []), "reliability") == []


def test_rankings_that_contradict_one_another_are_not_extended() -> None:
    (entry,) = of_kind(report_of(table_of(reliability=-5.0), []), "reliability")
    assert all(score["extended"] == [] and len(score["measured"]) == 2 for score in entry["scores"])


# Accuracy and classes


def test_selections_that_differ_in_their_budget_alone_are_one_curve() -> None:
    table = table_of()
    selections = [
        chosen(table, "a", keep=0.5),
        chosen(table, "b", keep=0.2),
        chosen(table, "c", keep=0.5, quotas="equal"),
        chosen(table, "d", keep=0.5, strategy="window", parameters={"skip": 0.1}),
        chosen(table, "e", keep=0.2, strategy="window", parameters={"skip": 0.1}),
        chosen(table, "f", keep=0.2, strategy="window", parameters={"skip": 0.2}),
    ]
    tuned = chosen(table, "g", keep=0.3)
    selections.append(replace(tuned, parameters={**tuned.parameters, "auto": {"chosen": "hardest", "candidates": []}}))
    arms = ["full", "a", "b", "c", "d", "e", "f", "g", "gone", "random-90", "random-36", "stratified-90"]
    judged = evaluation("second", right={arm: (7, 8, 9) for arm in arms})
    found = {entry["name"]: entry for entry in of_kind(report_of(table, selections, [judged]), "accuracy")}
    assert list(found) == ["accuracy-second"]
    assert {curve["curve"]: curve["arms"] for curve in found["accuracy-second"]["curves"]} == {
        "hardest by el2n": ["a", "b", "g"],
        "hardest by el2n, equal per class": ["c"],
        "window by el2n, skip 0.1": ["d", "e"],
        "window by el2n, skip 0.2": ["f"],
        "gone": ["gone"],
        "random": ["random-90", "random-36"],
        "stratified": ["stratified-90"],
    }


def test_a_run_has_the_pictures_that_make_sense() -> None:
    def kinds(table: ScoreTable, *given: Any) -> list[str]:
        return [entry["kind"] for entry in report_of(table, *given).pictures]

    table = table_of()
    assert kinds(table, [selection(table, table.example_id[50:90])]) == ["histogram", "agreement", "reliability", "classes"]
    one_class = table_of(classes=1)
    assert kinds(one_class, [selection(one_class, one_class.example_id[50:90])]) == ["histogram", "agreement", "reliability"]
    single = replace(table_of(seeds=1), columns={"el2n": table_of(seeds=1).columns["el2n"]})
    assert kinds(single, []) == ["histogram"]
    label = np.full(4, UNLABELLED)
    label[2] = 1
    assert "agreement" not in kinds(score_table(4, label=label), [])
