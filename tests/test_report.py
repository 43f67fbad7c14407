from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from math import sqrt
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from hf_datadiet import stats
from hf_datadiet.doubts import CONFOUNDED, HARD_BUDGET, IMBALANCE, LOW_RELIABILITY
from hf_datadiet.markdown import summary, to_markdown
from hf_datadiet.records import UNLABELLED, EvaluationTable, Report, ScoreTable, Selection
from hf_datadiet.report import MOST_COLUMNS, build_report
from tests import synthetic
from tests.synthetic import CLASSES, RIGHT, column, evaluation, score_table, selection
from tests.test_choice import about, tuning

TASK = {"model": "timm:test_resnet", "epochs": 3, "score_epochs": 2, "batch_size": 8}
SECONDS = [{"train": 10.25, "observe": 1.5}, {"train": 9.5, "observe": 1.25}, {"train": 9.0, "observe": 1.0}]
FILES = {"scores.parquet": "one row per example", "selections/*/selection.parquet": "kept or dropped | why"}


def reported(
    table: ScoreTable | None = None,
    selections: list[Selection] | None = None,
    evaluations: list[EvaluationTable] | None = None,
    seconds: Any = None,
    tunings: Any = (),
) -> Report:
    table = table or score_table()
    chosen = [selection(table, table.example_id[[6, 8, 9, 10, 11]])] if selections is None else selections
    judged = [evaluation()] if evaluations is None else evaluations
    return build_report(table, chosen, judged, tunings=tunings, task=TASK, seed_seconds=seconds or SECONDS, files=FILES)


def as_json(report: Report) -> dict[str, Any]:
    """Through JSON and back, as another program sees it; NaN and infinity fail."""
    return json.loads(json.dumps(dataclasses.asdict(report), allow_nan=False))


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)
    else:
        yield value


# Every number is a field

NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
FORMATS = ["{}", "{:.0f}", "{:.1f}", "{:.2f}", "{:.3f}", "{:.3g}", "{:+.2f}", "{:+.0f}", "{:+.1f}"]


def unexplained(text: str, report: Report, more: Any = None) -> list[str]:
    """Numbers in the text that are no field of the JSON in one of the report's formats, nor part of a text field or key.

    `more`: further plain values whose numbers and texts may be printed."""
    plain = as_json(report)
    # What is drawn is not printed; the cuts are.
    pictures = [[entry.get("n_more"), entry.get("column"), *cuts(entry)] for entry in plain["pictures"]]
    fields = list(leaves([{**plain, "pictures": pictures}, more]))
    numbers = [value for value in fields if isinstance(value, int | float) and not isinstance(value, bool)]
    shown = {form.format(scaled) for value in numbers for scaled in (value, 100 * value) for form in FORMATS}
    words = {value for value in fields if isinstance(value, str)} | {name for part in (plain["files"], *reasons(plain)) for name in part}
    for word in sorted((word for word in words if any(map(str.isdigit, word))), key=len, reverse=True):
        text = text.replace(" ".join(word.splitlines()).replace("|", "\\|"), " ").replace(word, " ")
    return [token for token in NUMBER.findall(text) if token not in shown]


def cuts(picture: dict[str, Any]) -> list[Any]:
    return [[panel["from"], panel["to"]] for panel in picture["selections"]] if picture["kind"] == "histogram" else []


def reasons(plain: dict[str, Any]) -> list[dict[str, Any]]:
    return [entry["reasons"] for entry in plain["selections"]]


def odd_table() -> ScoreTable:
    """Numbers that no one would guess, and digits in the names of classes."""
    table = score_table(classes=("class 71", "b", "c"))
    odd = {name: replace(entry, mean=entry.mean * np.float32(1.2345)) for name, entry in table.columns.items()}
    return replace(table, columns=odd)


RIGHT_OF_ROWS = {"hardest": (61, 64), "window-skip-0.05": (63, 62), "random": (51, 57)}
ONE_SEED = {"hardest": (61,), "random": (57,)}
TUNED = selection(
    odd_table(),
    odd_table().example_id[[1, 2, 4, 5, 6]],
    "auto-50",
    parameters={"keep": 0.5, "quotas": "none", "auto": {"chosen": "hardest"}},
)


def with_models() -> list[EvaluationTable]:
    """One evaluation with two models, and another with one."""
    worse = {**RIGHT, "keep-50": (3, 4, 3)}
    other = replace(evaluation("main.test_vit", right=worse), model="timm:test_vit", transfer_of="main")
    return [evaluation(), other, evaluation("second")]


def illustrated(report: Report) -> Report:
    """As if every picture had been drawn."""
    files = {entry["name"]: [f"pictures/{entry['name']}.{form}" for form in ("png", "svg", "pdf")] for entry in report.pictures}
    return replace(report, pictures=tuple({**entry, "files": files[entry["name"]]} for entry in report.pictures))


def variants() -> dict[str, Report]:
    table = odd_table()
    kept = selection(table, table.example_id[[1, 2, 4, 5, 6]])
    one = {arm: right[:1] for arm, right in RIGHT.items()}
    return {
        "whole": reported(),
        "odd": reported(table, [kept]),
        "no evaluation": reported(evaluations=[]),
        "no selection": reported(selections=[], evaluations=[]),
        "one seed": reported(score_table(seeds=(0,)), evaluations=[evaluation(right=one, n_seeds=1)], seconds=SECONDS[:1]),
        "tuned": reported(odd_table(), [TUNED], tunings=[(tuning(RIGHT_OF_ROWS), about(RIGHT_OF_ROWS))]),
        "tuned, one seed": reported(tunings=[(tuning(ONE_SEED), about(ONE_SEED))]),
        "two evaluations": reported(evaluations=[evaluation(), evaluation("second", match="steps")]),
        "two models": reported(evaluations=[*with_models()]),
        "redrawn": reported(evaluations=[evaluation(right={**RIGHT, "redrawn-5": (8, 9, 9)})]),
        "a class dropped whole": reported(table, [selection(table, table.example_id[[0, 6, 9]])]),
        "illustrated": illustrated(reported(table, [kept, replace(kept, name="keep-70")])),
    }


VARIANTS = variants()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_printed_number_is_a_field(name: str) -> None:
    report = VARIANTS[name]
    for text in (to_markdown(report), summary(report)):
        assert unexplained(text, report) == []


def test_a_number_from_elsewhere_would_be_noticed() -> None:
    report = VARIANTS["whole"]
    text = to_markdown(report) + "\nAbout 1234.56 points, or 77 %, or -0.123.\n"
    assert unexplained(text, report) == ["1234.56", "77", "-0.123"]


@pytest.mark.parametrize("name", VARIANTS)
def test_the_report_is_json_and_says_the_same_after_a_round_trip(name: str) -> None:
    plain = as_json(VARIANTS[name])
    assert plain["format"] == 2
    assert to_markdown(Report(**plain)) == to_markdown(VARIANTS[name]), "the words come from the numbers, and from nowhere else"


# Scores


def test_scores_are_described_over_labelled_rows() -> None:
    table = score_table()
    report = reported(table)
    entry = next(entry for entry in report.scores if entry["column"] == "el2n")
    labelled = table.label != UNLABELLED
    values = table.columns["el2n"].mean[labelled].astype(float)
    assert (entry["score"], entry["epoch"], entry["higher_is"], entry["n_seeds"], entry["n_distinct"]) == ("el2n", 2, "harder", 3, 10)
    for key, expected in (("mean", values.mean()), ("sd", values.std(ddof=1)), ("median", np.median(values))):
        assert entry[key] == pytest.approx(expected)
    assert (entry["min"], entry["max"]) == (values.min(), values.max())
    per_seed = table.columns["el2n"].per_seed
    assert per_seed is not None and entry["reliability_one_seed"] == pytest.approx(stats.mean_pairwise(per_seed[:, labelled]))
    assert [entry["column"] for entry in report.scores] == list(table.columns)
    assert report.source["n_scored"] == 10 and report.source["n_unlabelled"] == 2 and report.source["n_rows"] == 24
    assert "10 rows of split `train` (24 rows in all, 3 classes)" in to_markdown(report)
    assert "2 rows without a label have no score." in to_markdown(report)
    whole = score_table(label=np.arange(12) % 3)
    assert "without a label" not in to_markdown(reported(whole, [], []))


def test_agreement_between_scores_goes_by_hardness() -> None:
    label = np.zeros(6, np.int32)
    label[0] = 1
    rising = np.arange(6.0)[None]
    columns = {
        "hard": column(rising, label),
        "easy": column(-rising, label, higher_is="easier"),
        "flat": column(np.ones((1, 6)), label),
        "other": column(np.array([[5.0, 0, 1, 2, 3, 4]]), label),
    }
    table = replace(score_table(6, (0,), label=label), columns=columns)
    pairs = {(entry["a"], entry["b"]): entry for entry in reported(table, [], []).correlations}
    assert len(pairs) == 6 and {entry["k"] for entry in pairs.values()} == {3}
    assert pairs["hard", "easy"]["spearman"] == pytest.approx(1) and pairs["hard", "easy"]["shared_hardest"] == 1
    assert pairs["hard", "flat"]["spearman"] is None
    assert pairs["hard", "other"]["shared_hardest"] == pytest.approx(2 / 3)
    kept = selection(table, table.example_id[[0, 1, 2, 3]], score="hard")
    assert {entry["k"] for entry in reported(table, [kept], []).correlations} == {4}, "as many as the first selection keeps"


def test_one_scored_row_is_enough() -> None:
    label = np.full(4, UNLABELLED)
    label[2] = 1
    report = reported(score_table(4, label=label), [], [])
    assert report.source["n_scored"] == 1 and all(entry["sd"] is None for entry in report.scores)
    assert unexplained(to_markdown(report), report) == [] and as_json(report)


def test_one_seed_has_no_reliability_and_no_interval() -> None:
    report = VARIANTS["one seed"]
    assert all(entry["reliability"] is None and entry["reliability_one_seed"] is None for entry in report.scores)
    judged = report.evaluations[0]
    assert all(arm["low"] is None and arm["sd"] is None for arm in judged["arms"])
    assert all(row["low"] is None and row["detectable"] is None and row["se"] is None for row in judged["differences"])
    assert [row["difference"] for row in judged["differences"]] != [], "the difference itself is known"
    assert not any(warning["kind"] == "low reliability" for warning in report.warnings)


# Selections


def test_what_a_selection_keeps_of_each_class() -> None:
    table = score_table()
    kept = selection(table, table.example_id[[1, 2, 4, 5, 6]])
    entry = reported(table, [kept], []).selections[0]
    labels = table.label[table.label != UNLABELLED].tolist()
    rows = {name: labels.count(index) for index, name in enumerate(CLASSES)}
    assert rows == {"cat": 3, "dog": 3, "ship": 4}
    assert {item["class"]: (item["rows"], item["kept"]) for item in entry["per_class"]} == {"cat": (3, 1), "dog": (3, 2), "ship": (4, 2)}
    assert [item["rate"] for item in entry["per_class"]] == [1 / 3, 2 / 3, 0.5]
    assert (entry["n_kept"], entry["n_dropped"], entry["share"]) == (5, 7, 0.5), "the share is that of the labelled rows"
    assert entry["rate_ratio"] == pytest.approx(2) and entry["digest"] == kept.digest
    assert entry["reasons"] == {"el2n below the cut 0.5 (hardest 50 %)": 5, "no label": 2}
    text = to_markdown(reported(table, [kept], []))
    assert "5 rows kept (50.0 %): hardest by `el2n`; 7 dropped." in text and "- 2 dropped: no label" in text


# Evaluations


def test_accuracies_are_points_with_t_intervals() -> None:
    arms = {arm["arm"]: arm for arm in reported().evaluations[0]["arms"]}
    points = 100 * np.array(RIGHT["full"]) / 12
    assert arms["full"]["accuracy"] == pytest.approx(points.mean()) and arms["full"]["n"] == 3
    half = 4.302653 * points.std(ddof=1) / sqrt(3)  # t for 2 degrees of freedom
    assert arms["full"]["high"] - arms["full"]["accuracy"] == pytest.approx(half, rel=1e-5)
    assert (arms["full"]["n_rows"], arms["full"]["steps"], arms["keep-50"]["n_rows"], arms["keep-50"]["steps"]) == (10, 20, 5, 10)
    assert arms["full"]["seconds"] == pytest.approx(9) and arms["keep-50"]["seconds"] == pytest.approx(4)


def test_a_difference_is_the_arm_minus_its_reference() -> None:
    rows = {(row["arm"], row["reference"]): row for row in reported().evaluations[0]["differences"]}
    assert set(rows) == {
        ("keep-50", "full"),
        ("random-5", "full"),
        ("stratified-5", "full"),
        ("keep-50", "random-5"),
        ("keep-50", "stratified-5"),
    }
    mean = {arm: 100 * float(np.mean(right)) / 12 for arm, right in RIGHT.items()}
    for (arm, reference), row in rows.items():
        assert row["difference"] == pytest.approx(mean[arm] - mean[reference])
        assert row["low"] < row["difference"] < row["high"] and row["n"] == 3
    assert rows["keep-50", "full"]["difference"] < 0 < rows["keep-50", "random-5"]["difference"]
    # One residual for the four arms: sums of squares 2, 2/3, 2, 2/3 with 8 degrees of freedom.
    se = 100 / 12 * sqrt((2 + 2 / 3 + 2 + 2 / 3) / 8 * 2 / 3)
    assert rows["keep-50", "full"]["se"] == pytest.approx(se) and rows["keep-50", "full"]["df"] == 8
    # Share of the seeds that are right, row by row: they differ on rows 7 (2/3 against 1), 8 (0, 1), 9 (0, 2/3) and 10 (0, 1/3).
    shares = np.array([0] * 7 + [-1 / 3, -1, -2 / 3, -1 / 3, 0])
    assert rows["keep-50", "full"]["test_se"] == pytest.approx(100 * shares.std(ddof=1) / sqrt(12))
    signs = re.findall(r"\| keep-50 - (\S+) +\| +([+-])", to_markdown(reported()))
    assert signs == [("full", "-"), ("random-5", "+"), ("stratified-5", "+")]


def test_a_selection_is_compared_with_random_sets_of_its_own_size_only() -> None:
    table = evaluation(right={**RIGHT, "random-7": (8, 8, 8)})
    wider = [replace(result, n_rows=7) if result.arm == "random-7" else result for result in table.results]
    rows = reported(evaluations=[replace(table, results=tuple(wider))]).evaluations[0]["differences"]
    assert ("keep-50", "random-7") not in {(row["arm"], row["reference"]) for row in rows}
    assert ("random-7", "full") in {(row["arm"], row["reference"]) for row in rows}


def test_accuracy_per_class() -> None:
    judged = evaluation()
    entries = {entry["class"]: entry for entry in reported(evaluations=[judged]).evaluations[0]["per_class"]}
    for index, name in enumerate(CLASSES):
        of_class = judged.test_label == index
        assert entries[name]["n_test"] == 4
        for arm in judged.arms:
            right = [result.predicted[of_class] == index for result in judged.results if result.arm == arm]
            assert entries[name]["accuracy"][arm] == pytest.approx(100 * np.mean(right))


def test_classes_show_what_was_kept_of_them_and_the_worst_of_each_arm() -> None:
    table = score_table()
    kept = selection(table, table.example_id[[1, 2, 4, 5, 6]])
    report = reported(table, [kept], [evaluation()])
    judged = report.evaluations[0]
    assert {entry["class"]: entry["rows"] for entry in judged["per_class"]} == {
        "cat": {"full": 3, "keep-50": 1},
        "dog": {"full": 3, "keep-50": 2},
        "ship": {"full": 4, "keep-50": 2},
    }
    for arm in judged["arms"]:
        accuracy = {entry["class"]: entry["accuracy"][arm["arm"]] for entry in judged["per_class"]}
        assert arm["worst_accuracy"] == min(accuracy.values()) == accuracy[arm["worst_class"]]
    text = to_markdown(report)
    assert re.search(r"\| class \| test rows \| rows of full \| rows of keep-50 \| full, % ", text)
    shown = {row[0]: row[6:8] for table in tables(text) for row in table[1:] if table[0][0] == "trained on"}
    assert shown["keep-50"] == ["50.0", "ship"]


# Verdicts


def judged_by(full: list[float], kept: list[float], margin: float = 0.5, *, n_test: int = 4000, **more: list[float]) -> Report:
    """A report of arms with these accuracies in percent, on many test rows."""
    label = (np.arange(n_test) % 3).astype(np.int32)
    points = {"full": full, "keep-50": kept, **more}
    table = replace(
        evaluation(right={arm: (0,) * len(full) for arm in points}, n_seeds=len(full)),
        margin=margin,
        test_id=np.arange(n_test, dtype=np.int64),
        test_label=label,
        results=tuple(
            synthetic.arm(name, 10_000 + k, np.arange(n_test) < round(value * n_test / 100), label, n_rows=10 if name == "full" else 5)
            for name, values in points.items()
            for k, value in enumerate(values)
        ),
    )
    return reported(evaluations=[table])


def row_of(report: Report, of: str = "keep-50", reference: str = "full") -> dict[str, Any]:
    return next(dict(row) for row in report.evaluations[0]["differences"] if (row["arm"], row["reference"]) == (of, reference))


@pytest.mark.parametrize(
    ("kept", "word", "sentence"),
    [
        ([90.0, 90.2, 89.9, 90.1], "equivalent", "What difference there may be is smaller than 0.5 points."),
        ([89.7, 89.8, 89.75, 89.8], "equivalent", "A loss is shown, but it is smaller than 0.5 points."),
        ([90.4, 90.6, 90.5, 90.6], "better", "A gain is shown; how large it is, is open."),
        ([92.0, 92.1, 91.9, 92.0], "better", "A gain is shown, and it is larger than 0.5 points."),
        ([89.9, 91.2, 89.9, 91.2], "non-inferior", "A loss of 0.5 points or more is excluded; whether there is a gain is open."),
        ([89.4, 89.6, 89.5, 89.6], "worse", "A loss is shown; whether it is larger than 0.5 points is open."),
        ([88.0, 88.1, 87.9, 88.0], "worse", "The loss is larger than 0.5 points."),
        ([89.0, 91.0, 89.2, 90.8], "cannot tell", "No loss at all and a loss of 0.5 points or more are both possible. About "),
        ([50.0, 99.0, 51.0, 98.0], "cannot tell", "No loss at all and a loss of 0.5 points or more are both possible. About "),
    ],
)
def test_every_verdict_is_said_with_what_follows(kept: list[float], word: str, sentence: str) -> None:
    report = judged_by([90.0, 90.1, 89.9, 90.0], kept)
    row = row_of(report)
    assert (row["verdict"], (row["seeds_to_settle"] or 0) > 4) == (word, word == "cannot tell")
    for text in (to_markdown(report), summary(report)):
        assert f"keep-50 against full: {word}. {sentence}" in text
        assert unexplained(text, report) == []
    if word == "cannot tell":
        assert f"About {row['seeds_to_settle']} seeds per arm instead of 4 would settle it." in to_markdown(report)


def test_verdicts_are_of_selections_against_every_reference_and_of_nothing_else() -> None:
    rows = reported().evaluations[0]["differences"]
    said = {(row["arm"], row["reference"]) for row in rows if row["verdict"] is not None}
    assert said == {("keep-50", "full"), ("keep-50", "random-5"), ("keep-50", "stratified-5")}
    said_of = re.findall(r"^- (\S+) against (\S+): ", to_markdown(reported()), flags=re.MULTILINE)
    assert set(said_of) == said
    assert "conditional on these kept rows" in to_markdown(reported())


def test_more_selections_make_wider_intervals() -> None:
    """Four arms of one residual: with two selections each one-sided test is at 2.5 %, and the interval one of 95 %."""
    one = judged_by([90.0, 90.2, 89.9, 90.1], [90.0, 90.2, 89.9, 90.1], other=[90.0, 90.1, 89.8, 90.1])
    two = judged_by([90.0, 90.2, 89.9, 90.1], [90.0, 90.2, 89.9, 90.1], **{"keep-other": [90.0, 90.1, 89.8, 90.1]})
    assert (one.evaluations[0]["verdict_confidence"], one.evaluations[0]["n_selections"]) == (pytest.approx(90), 1)
    assert (two.evaluations[0]["verdict_confidence"], two.evaluations[0]["n_selections"]) == (pytest.approx(95), 2)
    width = [row["high"] - row["low"] for row in (row_of(one), row_of(two))]
    assert width[1] / width[0] == pytest.approx(2.2622 / 1.8331, rel=1e-3)  # t for 9 degrees of freedom at 97.5 and 95 %
    assert "allows for 2 selections (Bonferroni)" in to_markdown(two) and "Bonferroni" not in to_markdown(one)
    for report, t in ((one, 1.8331), (two, 2.2622)):
        assert row_of(report)["detectable"] / row_of(report)["se"] == pytest.approx(t + 0.8834, rel=1e-3)


# Further models


def test_verdicts_allow_for_every_selection_with_every_model() -> None:
    report = reported(evaluations=with_models())
    found = {entry["name"]: (entry["n_selections"], entry["n_models"], entry["n_comparisons"]) for entry in report.evaluations}
    assert found == {"main": (1, 2, 2), "main.test_vit": (1, 2, 2), "second": (1, 1, 1)}
    assert [entry["verdict_confidence"] for entry in report.evaluations] == pytest.approx([95, 95, 90])
    alone = reported()
    width = [row["high"] - row["low"] for row in (row_of(alone), row_of(report))]
    assert width[1] / width[0] == pytest.approx(2.3060 / 1.8595, rel=1e-3)  # t for 8 degrees of freedom at 97.5 and 95 %
    text = to_markdown(report)
    assert text.count("allows for 2 comparisons, of selections with 2 models (Bonferroni)") == 2


def test_the_transfer_table_has_each_selection_with_each_model() -> None:
    report = reported(evaluations=with_models())
    (group,) = report.transfer
    assert (group["evaluation"], group["scorer"], group["confidence"]) == ("main", "timm:test_resnet", pytest.approx(95))
    of = {entry["model"]: entry for entry in report.evaluations if entry["name"] != "second"}
    assert [row["model"] for row in group["rows"]] == ["timm:test_resnet", "timm:test_vit"]
    for row in group["rows"]:
        there = next(each for each in of[row["model"]]["differences"] if (each["arm"], each["reference"]) == ("keep-50", "full"))
        assert row == {"selection": "keep-50", "model": row["model"]} | {
            key: there[key] for key in ("difference", "low", "high", "verdict", "n")
        }
    assert group["rows"][0]["difference"] > group["rows"][1]["difference"]
    shown = [table for table in tables(to_markdown(report)) if table[0][:2] == ["selection", "model"]]
    assert [[row[0], row[1], row[4]] for row in shown[0][1:]] == [["keep-50", row["model"], row["verdict"]] for row in group["rows"]]
    for text in (to_markdown(report), summary(report)):
        assert unexplained(text, report) == []
    assert "Accuracy of timm:test_vit on 12 rows" in summary(report)
    assert "The selections are those of evaluation main: another model's scores made them." in to_markdown(report)
    assert reported().transfer == () and "Transfer" not in to_markdown(reported())


def test_a_selection_that_a_model_has_not_seen_has_no_row() -> None:
    own, other, _ = with_models()
    more = evaluation(right={**RIGHT, "keep-new": (7, 7, 8)})
    (group,) = reported(evaluations=[more, other]).transfer
    assert [(row["selection"], row["model"]) for row in group["rows"]] == [
        ("keep-50", own.model),
        ("keep-50", other.model),
        ("keep-new", own.model),
    ]


def test_the_error_over_test_rows_is_kept_apart() -> None:
    report = judged_by([90.0, 90.1, 89.9, 90.0], [89.0, 91.0, 89.2, 90.8])
    row = row_of(report)
    assert row["test_low"] < row["difference"] < row["test_high"]
    assert (row["test_high"] - row["test_low"]) / 2 == pytest.approx(1.645 * row["test_se"], rel=0.05)
    assert (row["high"] - row["low"]) > 5 * (row["test_high"] - row["test_low"])
    shown = next(row for table in tables(to_markdown(report)) for row in table if row[0] == "keep-50 - full")
    assert shown[2] == f"{row['low']:+.2f} to {row['high']:+.2f}" and shown[3] == f"{row['test_low']:+.2f} to {row['test_high']:+.2f}"


# Costs


def test_scoring_is_paid_back_after_so_many_trainings() -> None:
    report = reported(evaluations=[evaluation(seconds={"full": 8.0, "keep-50": 2.0})])
    costs = report.costs
    assert (costs["scoring_train_seconds"], costs["scoring_observe_seconds"], costs["scoring_seconds"]) == (28.75, 3.75, 32.5)
    # Mean seconds: full 9, keep-50 3; every training on the kept rows saves 6 s.
    assert costs["evaluation_seconds"] == 3 * (9 + 3 + 4 + 4)
    about = {"evaluation": "main", "match": "epochs", "arm": "keep-50", "seconds": 3, "full_seconds": 9, "redrawn": None}
    assert costs["savings"] == [
        about | {"saved_seconds": pytest.approx(6), "tuning_seconds": 0.0, "break_even_runs": pytest.approx(32.5 / 6)}
    ]
    text = to_markdown(report)
    assert "Scoring took 32.5 s: 28.8 s of training and 3.8 s of observing." in text
    assert (
        "Training on keep-50 takes 3.0 s, and on all rows 9.0 s for as many epochs (evaluation main): each saves 6.0 s, "
        "so scoring is paid back after 5.4 such trainings."
    ) in text
    assert "The trainings that judge the selections took 60.0 s" in text


def test_what_chose_the_strategy_is_paid_back_too() -> None:
    right = {"hardest": (60, 70), "random": (50, 40)}
    chosen = replace(tuning(right), name="keep-50")
    report = reported(evaluations=[evaluation(seconds={"full": 8.0, "keep-50": 2.0})], tunings=[(chosen, about(right))])
    assert report.costs["tuning_seconds"] == 16 and report.costs["savings"][0]["tuning_seconds"] == 16
    assert report.costs["savings"][0]["break_even_runs"] == pytest.approx((32.5 + 16) / 6)
    text = to_markdown(report)
    assert "The trainings that chose strategies took 16.0 s." in text and "so scoring and choosing are paid back after 8.1 such" in text


def test_a_choice_is_shown_with_its_evidence() -> None:
    report = VARIANTS["tuned"]
    shown = next(table for table in tables(to_markdown(report)) if "candidate" in table[0])
    assert [row[0] for row in shown[1:]] == [*RIGHT_OF_ROWS] and [row[-1] for row in shown[1:]] == ["yes", "", ""]
    assert [row[3] for row in shown[1:]] == ["62.50", "62.50", "54.00"]
    assert "hardest is chosen: no other has a higher mean accuracy" in summary(report)
    assert "hardest, chosen on validation rows" in to_markdown(report).replace(" by `el2n`", "")
    doubt = next(warning for warning in report.warnings if warning["kind"] == "tuning undecided")
    assert doubt["value"] == 2 and "2 of 3 candidates are within one standard error of the best on 100 validation rows" in doubt["text"]
    far = {"hardest": (60, 61), "random": (90, 91)}
    assert not [w for w in reported(tunings=[(tuning(far), about(far))]).warnings if w["kind"] == "tuning undecided"]


WITH_REDRAWN = {**RIGHT, "redrawn-5": (8, 9, 9)}


def test_a_claim_of_time_saved_is_compared_with_rows_redrawn_in_every_epoch() -> None:
    without = "Rows drawn anew in every epoch (RS2) save as much and need no scores: `evaluate.redrawn: true` compares with them."
    assert without in to_markdown(reported())
    assert all(without not in to_markdown(reported(evaluations=[evaluation(match="steps")], selections=each)) for each in (None, []))
    report = reported(evaluations=[evaluation(right=WITH_REDRAWN)])
    row = row_of(report, reference="redrawn-5")
    found = report.costs["savings"][0]["redrawn"]
    assert found == {key: row[key] for key in ("reference", "difference", "low", "high", "verdict")}
    assert row["difference"] == pytest.approx(100 * (23 - 26) / 3 / 12) and row["verdict"] is not None
    text = to_markdown(report)
    assert without not in text and unexplained(text, report) == []
    assert (
        f"paid back after 6.5 such trainings. As many rows drawn anew in every epoch (redrawn-5) save the same without scores; against "
        f"them the selection is -8.33 points ({row['low']:+.2f} to {row['high']:+.2f}): {row['verdict']}."
    ) in text
    assert ("redrawn-5", "full") in {(each["arm"], each["reference"]) for each in report.evaluations[0]["differences"]}
    assert [saving["arm"] for saving in report.costs["savings"]] == ["keep-50"], "an arm that evaluation adds makes no claim"


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (evaluation(match="steps"), "(match: steps, evaluation main) saves no time, by design: scoring is never paid back."),
        (evaluation(seconds={"full": 2.0, "keep-50": 2.0}), "for as many epochs (evaluation main): no time is saved here."),
    ],
    ids=["steps", "not faster"],
)
def test_what_saves_no_time_is_never_paid_back(table: EvaluationTable, text: str) -> None:
    report = reported(evaluations=[table])
    assert [(entry["saved_seconds"], entry["break_even_runs"]) for entry in report.costs["savings"]] == [(0.0, None)]
    assert text in to_markdown(report)


# Warnings


def kinds(report: Report) -> list[str]:
    return [warning["kind"] for warning in report.warnings]


def with_reliability(value: float | None, score: str = "el2n", **about: Any) -> ScoreTable:
    table = score_table(label=np.arange(12) % 3)
    changed = replace(table.columns[score], reliability=value, **about)
    return replace(table, columns={**table.columns, score: changed})


HALF = [0, 1, 2, 3, 4, 5]


def test_nothing_to_warn_of() -> None:
    table = with_reliability(LOW_RELIABILITY)
    report = reported(table, [selection(table, table.example_id[HALF])], [])
    assert kinds(report) == [] and "Read with care" not in to_markdown(report)


def test_an_unreliable_ranking_is_worth_a_warning() -> None:
    table = with_reliability(0.7949)
    report = reported(table, [selection(table, table.example_id[HALF])], [])
    assert kinds(report) == ["low reliability"] and report.warnings[0]["value"] == 0.7949
    assert "keep-50 goes by el2n, whose ranking is unreliable: 0.79" in to_markdown(report)
    assert summary(report).splitlines()[-1].startswith("! keep-50 goes by el2n")
    other = selection(table, table.example_id[HALF], score="margin")
    assert kinds(reported(table, [other], [])) == [], "only of the score that a selection goes by"
    none = with_reliability(None)
    assert kinds(reported(none, [selection(none, none.example_id[HALF])], [])) == []


def test_grand_at_initialisation_is_worth_a_warning() -> None:
    for epoch, expected in ((0, ["grand at initialisation"]), (1, [])):
        table = with_reliability(0.95, score="el2n_e0", epoch=epoch)
        renamed = replace(table, columns={"grand_e0": replace(table.columns["el2n_e0"], score="grand"), "el2n": table.columns["el2n"]})
        report = reported(renamed, [selection(renamed, renamed.example_id[HALF], score="grand_e0")], [])
        assert kinds(report) == expected
    el2n = with_reliability(0.95, score="el2n_e0")
    assert kinds(reported(el2n, [selection(el2n, el2n.example_id[HALF], score="el2n_e0")], [])) == []


def test_text_before_one_epoch_is_worth_a_warning() -> None:
    table = score_table()
    chosen = [selection(table, table.example_id[[6, 8, 9, 10, 11]], score=name) for name in ("el2n_e0", "el2n")]
    for kind, expected in (("text", ["keep-50 goes by el2n_e0, from before the first epoch"]), ("image", [])):
        made = build_report(table, chosen, [], task={**TASK, "kind": kind}, seed_seconds=SECONDS, files=FILES)
        found = [warning["text"] for warning in made.warnings if warning["kind"] == "text before one epoch"]
        assert [text.partition(":")[0] for text in found] == expected


def test_what_was_cut_and_which_seeds_are_missing() -> None:
    table = score_table()

    def said(**more: Any) -> list[tuple[str, Any]]:
        made = build_report(table, [], [], task={**TASK, **more}, seed_seconds=SECONDS, files=FILES)
        for warning in made.warnings:
            assert warning["text"] in to_markdown(made) and warning["text"] in summary(made)
        return [(warning["kind"], warning["value"]) for warning in made.warnings]

    assert said() == said(n_truncated=0, seeds_asked=3) == []
    assert said(n_truncated=4, seeds_asked=5) == [("missing seeds", 2), ("truncated texts", 4)]
    made = build_report(table, [], [], task={**TASK, "n_truncated": 4}, seed_seconds=SECONDS, files=FILES)
    assert made.warnings[0]["text"] == "4 of 10 texts (40.0 %) are longer than task.max_length and were cut"


def test_the_hardest_few_are_worth_a_warning() -> None:
    label = np.arange(20) % 2
    table = score_table(20, label=label, classes=("cat", "dog"))
    few, more = table.example_id[:6], table.example_id[:8]
    assert len(few) / 20 == HARD_BUDGET
    report = reported(table, [selection(table, few)], [])
    assert kinds(report) == ["hardest at a small budget"] and report.warnings[0]["value"] == pytest.approx(30)
    assert "keeps the hardest 30 %" in to_markdown(report)
    assert kinds(reported(table, [selection(table, more)], [])) == []
    assert kinds(reported(table, [selection(table, few, strategy="easiest")], [])) == []


def test_an_imbalance_is_worth_a_warning() -> None:
    table = score_table(label=np.arange(12) % 3)
    exactly_twice, more, whole = [0, 3, 1, 4, 2], [0, 3, 6, 1, 2], [0, 3, 6, 1, 4, 7]
    assert IMBALANCE == 2.0
    assert kinds(reported(table, [selection(table, table.example_id[exactly_twice])], [])) == []
    report = reported(table, [selection(table, table.example_id[more])], [])
    assert kinds(report) == ["class imbalance"] and report.warnings[0]["value"] == pytest.approx(3)
    assert "one class is kept at 3.0 times the rate of another" in to_markdown(report)
    report = reported(table, [selection(table, table.example_id[whole])], [])
    assert report.selections[0]["rate_ratio"] is None and report.warnings[0]["value"] is None
    assert "keep-50: at least one class is dropped whole; see the class table" in to_markdown(report)


def of_kind(report: Report, kind: str) -> list[dict[str, Any]]:
    found = [dict(warning) for warning in report.warnings if warning["kind"] == kind]
    assert all(warning["text"] in to_markdown(report) and f"! {warning['text']}" in summary(report) for warning in found)
    return found


def test_few_seeds_are_worth_a_warning() -> None:
    two = judged_by([90.0, 90.1], [90.0, 90.1])
    assert [warning["value"] for warning in of_kind(two, "few seeds")] == [2]
    assert of_kind(judged_by([90.0, 90.1, 90.0], [90.0, 90.1, 90.0]), "few seeds") == []


def test_a_margin_that_no_result_could_meet_is_worth_a_warning() -> None:
    calm, wild = [90.0, 90.1, 89.9, 90.0], [89.0, 91.0, 89.0, 91.0]
    report = judged_by(calm, wild)
    row = row_of(report)
    half = (row["high"] - row["low"]) / 2
    found = of_kind(report, "margin not resolved")
    assert [warning["value"] for warning in found] == [pytest.approx(half)] and half > 0.5
    assert f"the interval of keep-50 - full reaches {half:.2f} points either way" in found[0]["text"]
    assert of_kind(judged_by(calm, wild, margin=half * 1.01), "margin not resolved") == []
    assert of_kind(judged_by(calm, wild, margin=half * 0.99), "margin not resolved") != []
    settled = judged_by(calm, [50.0, 52.0, 50.0, 52.0])
    assert row_of(settled)["verdict"] == "worse" and of_kind(settled, "margin not resolved") == [], "as wide, but clear enough"


def test_a_test_set_that_says_less_than_the_seeds_is_worth_a_warning() -> None:
    """The two arms differ on 10 % of the rows, each always on the same ones: no spread over seeds to speak of."""
    calm, lower = [90.0, 90.1, 89.9, 90.0], [80.0, 80.1, 79.9, 80.0]
    report = judged_by(calm, lower)
    row = row_of(report)
    found = of_kind(report, "small test set")
    assert [warning["value"] for warning in found] == [row["test_se"]]
    assert row["test_se"] > (row["high"] - row["low"]) / 2 == found[0]["half_width"]
    assert "has only 4000 test rows" in found[0]["text"]
    assert of_kind(judged_by(calm, [89.8, 90.0, 89.7, 89.9]), "small test set") == []


def test_a_class_that_pays_for_the_others_is_worth_a_warning() -> None:
    """Of 1,200 test rows in order, ship is every third; keep-50 loses some 40 of its 400, and wins as many of the others."""
    label = (np.arange(1200) % 3).astype(np.int32)
    rng = np.random.default_rng(5)
    ships, others = np.flatnonzero(label == 2), np.flatnonzero(label != 2)

    lost = {"full": [0, 1, 2, 3], "keep-50": [40, 41, 42, 43], "keep-alike": [3, 2, 1, 0], "keep-wild": [0, 80, 0, 80]}

    def right(name: str, seed: int) -> np.ndarray:
        correct = np.ones(1200, dtype=bool)
        correct[rng.choice(ships, 20 + lost[name][seed], replace=False)] = False
        correct[rng.choice(others, 100 - lost[name][seed], replace=False)] = False
        return correct

    def report(names: tuple[str, ...]) -> Report:
        results = tuple(synthetic.arm(name, seed, right(name, seed), label) for name in names for seed in range(4))
        table = evaluation(right={name: (0,) * 4 for name in names}, n_seeds=4)
        return reported(evaluations=[replace(table, test_id=np.arange(1200), test_label=label, results=results)])

    found = of_kind(report(("full", "keep-50")), "class harmed")
    assert [warning["selection"] for warning in found] == ["keep-50"]
    assert found[0]["value"] == pytest.approx(10, abs=1.5)
    assert re.match(r"keep-50 loses \d+\.\d points of class ship against the full data \(-", found[0]["text"])
    assert of_kind(report(("full", "keep-alike")), "class harmed") == []
    assert of_kind(report(("full", "keep-wild")), "class harmed") == [], "as many are lost on average, but that may be chance"


def test_a_score_that_follows_something_cheaper_is_worth_a_warning() -> None:
    label = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2])
    rising = np.arange(12.0)
    shuffled = np.array([3.0, 8, 1, 10, 0, 6, 11, 5, 9, 2, 7, 4])
    columns = {
        "el2n": column(rising[None], label),
        "other": column(shuffled[None], label),
        "input_norm": column(-(rising[None] ** 3), label, score="input_norm", higher_is="neither"),
    }
    table = replace(score_table(12, (0,), label=label), columns=columns)

    def found(score: str, **more: Any) -> dict[str, float]:
        kept = [selection(table, table.example_id[[0, 1, 4, 5, 8, 9]], score=score)]
        report = build_report(table, kept, [], task=TASK, seed_seconds=SECONDS, files=FILES, **more)
        assert unexplained(to_markdown(report), report) == []
        return {warning["confounder"]: warning["value"] for warning in of_kind(report, "confounder")}

    between = 4 * ((1.5 - 5.5) ** 2 + 0 + (9.5 - 5.5) ** 2) / ((rising - 5.5) ** 2).sum()
    assert found("el2n") == {"input_norm": pytest.approx(-1), "label": pytest.approx(between)}
    assert found("other") == {} and found("input_norm") == {"label": pytest.approx(between)}
    assert found("other", text_length=shuffled.astype(int) + 5) == {"text_length": pytest.approx(1)}
    assert 0.5 - 1e-9 < CONFOUNDED < 0.5 + 1e-9
    entry = next(entry for entry in reported(table, [], []).scores if entry["column"] == "other")["confounders"]
    assert set(entry) == {"label", "input_norm"} and abs(entry["input_norm"]) < 0.2


# Markdown


HOSTILE = ("a|b", "two\nlines", "back\\slash|pipe\\", "\r\n|", "<b>", "both\\|")


def tables(text: str) -> list[list[list[str]]]:
    """The tables as a CommonMark parser with GitHub's tables shows them: rows of cells."""
    found: list[list[list[str]]] = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and found and token.level >= 4:
            found[-1][-1].append("".join(child.content for child in token.children or ()))
    return found


def hostile_report() -> Report:
    label = np.arange(12) % 6
    table = score_table(label=label, classes=HOSTILE)
    kept = selection(table, table.example_id[[0, 1, 2, 3, 4, 5]], name="mine")
    spoiled = replace(kept, reasons=tuple("class quota two\nlines keeps 0 of 2" for _ in kept.reasons))
    judged = evaluation()
    label6 = (np.arange(12) % 6).astype(np.int32)
    return reported(replace(table, source=replace(table.source, name="x")), [spoiled], [replace(judged, test_label=label6)])


@pytest.mark.parametrize("name", [*VARIANTS, "hostile"])
def test_tables_are_well_formed(name: str) -> None:
    report = hostile_report() if name == "hostile" else VARIANTS[name]
    text = to_markdown(report)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rules = [line for line in lines if re.fullmatch(r"\|(-+:?\|)+", line)]
    found = tables(text)
    assert len(found) == len(rules) and sum(len(table) + 1 for table in found) == len(lines), "every line of a table is part of one"
    for table in found:
        assert {len(row) for row in table} == {len(table[0])} and len(table) > 1
    assert len({len(line) for line in text.split("\n\n") if line.startswith("|") for line in line.splitlines()}) <= len(found), "padded"


def images(text: str) -> dict[str, str]:
    """{source: text for those who do not see it} of the images, as a CommonMark parser reads them."""
    inline = [child for token in MarkdownIt("commonmark").enable("table").parse(text) for child in token.children or ()]
    return {str(token.attrs["src"]): said(token) for token in inline if token.type == "image"}


def said(image: Token) -> str:
    return "".join(child.content for child in image.children or ())


def test_pictures_stand_where_their_numbers_are() -> None:
    report = VARIANTS["illustrated"]
    text = to_markdown(report)
    order = ["reliability", "agreement", "histogram-el2n", "classes", "accuracy-main"]
    assert list(images(text)) == [f"pictures/{name}.png" for name in order] and "## What is kept" in text.splitlines()
    cut = report.pictures[0]["selections"][0]
    assert f"; keep-50 keeps the rows from {cut['from']:.3g} to {cut['to']:.3g}; keep-70 " in images(text)["pictures/histogram-el2n.png"]
    assert images(text)["pictures/reliability.png"] == "Reliability against the number of seeds of el2n, margin and forgetting"
    for name in order:
        assert f"[SVG](pictures/{name}.svg) and [PDF](pictures/{name}.pdf)" in text
    assert images(to_markdown(reported())) == {}, "what was not drawn is not linked"
    missing = [{**entry, "files": []} if entry["kind"] == "classes" else entry for entry in report.pictures]
    assert len(images(to_markdown(replace(report, pictures=tuple(missing))))) == 4


def test_hostile_names_of_columns_stay_in_the_text_beside_the_image() -> None:
    table = score_table()
    name = "a](x) <b> `c` $d$ _e_ *f* \\ ![g](h) & |\ni"
    odd = replace(table, columns={name: replace(table.columns["el2n"], score=name)})
    found = images(to_markdown(illustrated(reported(odd, [], []))))
    shown = {source: text for source, text in found.items() if source.startswith("pictures/")}
    assert list(shown) == ["pictures/reliability.png", f"pictures/histogram-{quote(quote(name, safe=''))}.png"]
    assert shown["pictures/reliability.png"] == f"Reliability against the number of seeds of {' '.join(name.split())}"


def test_hostile_names_of_classes_stay_in_their_cells() -> None:
    report = hostile_report()
    classes = [row[0] for table in tables(to_markdown(report)) for row in table[1:] if table[0][:2] == ["class", "rows"]]
    assert classes == ["a|b", "two lines", "back\\slash|pipe\\", "|", "<b>", "both\\|"]
    assert "- 6 dropped: class quota two lines keeps 0 of 2" in to_markdown(report).splitlines()
    assert "two\nlines" in [entry["class"] for entry in as_json(report)["selections"][0]["per_class"]], "JSON keeps the name as it is"


def test_the_report_names_what_it_was_made_with() -> None:
    text = to_markdown(VARIANTS["whole"])
    assert text.startswith("# Data diet of toys\n") and text.endswith("Hardware: device cpu.\n") and "\n\n\n" not in text
    assert "Made by `hf-datadiet score x.yaml` on 2026-01-02T03:04:05+00:00." in text and "Versions: torch 2.11.0." in text
    assert "| `selections/*/selection.parquet` | kept or dropped \\| why |" in text
    for heading in ("## Scores", "### Agreement between scores", "## Selection keep-50", "## Evaluation main", "## Cost", "## Files"):
        assert heading in text.splitlines()
    assert "## Evaluation" not in to_markdown(VARIANTS["no evaluation"]) and "## Selection" not in to_markdown(VARIANTS["no selection"])
    assert "as many steps as the full data" in to_markdown(VARIANTS["two evaluations"])


def test_the_summary_is_what_stands_in_the_report() -> None:
    report = reported()
    text = to_markdown(report)
    shown = [line for line in summary(report).splitlines() if line.startswith("|")]
    assert shown and all(line in text.splitlines() for line in shown)


def test_many_moments_are_shown_by_their_main_one() -> None:
    table = score_table()
    many = {f"el2n_e{epoch}": replace(table.columns["el2n_e0"], epoch=epoch) for epoch in range(MOST_COLUMNS)}
    shown = reported(replace(table, columns={**table.columns, **many}), [], [])
    assert [entry["column"] for entry in shown.scores] == ["el2n", "margin", "forgetting", "chance"]
    assert len(shown.correlations) == 6
    assert [entry["column"] for entry in reported(table, [], []).scores] == list(table.columns)


def test_a_mean_rank_warns_of_each_of_its_scores() -> None:
    """In the made-up table el2n at initialisation is unreliable, and margin is not."""
    table = score_table()
    by_two = {"score": "mean rank of el2n_e0 and margin", "parameters": {"keep": 5, "quotas": "none", "scores": ["el2n_e0", "margin"]}}
    chosen = selection(table, table.example_id[[6, 8, 9, 10, 11]], **by_two)
    report = reported(table, [chosen], [])
    assert [warning["text"] for warning in report.warnings if warning["kind"] == "low reliability"] == [
        "keep-50 goes by el2n_e0, whose ranking is unreliable: 0.40 (1 is perfect); add seeds or epochs"
    ]
    assert as_json(report)["selections"][0]["score"] == "mean rank of el2n_e0 and margin"
    assert "hardest by `mean rank of el2n_e0 and margin`;" in to_markdown(report)
