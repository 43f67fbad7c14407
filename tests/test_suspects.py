"""Likely label errors: planted ones are found, and every number is what the seeds say when it is counted again another way."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from hf_datadiet import find_suspects, scores_from_logits
from hf_datadiet.catalogue import recipes_folder
from hf_datadiet.errors import CoverageError, RecipeError
from hf_datadiet.hub.source import pin
from hf_datadiet.recipe_yaml import load_recipe, recipe_from, to_yaml
from hf_datadiet.records import UNLABELLED, RunResult, ScoreTable
from hf_datadiet.score import score_run
from hf_datadiet.spreadsheet import csv_text
from hf_datadiet.store import RunFolder
from hf_datadiet.suspects import EVIDENCED, suspects_of
from hf_datadiet.tasks.text import TextTask
from hf_datadiet.training.session import open_session
from tests.synthetic import column, run_result, score_table, source
from tests.test_cli import Said, call, everything, here, run  # fixtures

__all__ = ["call", "here", "run"]

NOTHING = recipe_from({"source": {}})


# Planted


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Digits of which a tenth has a wrong label, scored by two seeds of three epochs."""
    folder = RunFolder(tmp_path_factory.mktemp("noisy") / "run")
    asked = {
        "source.label_noise": "{fraction: 0.1}",
        "score.scores": "[el2n, chance, aum, forgetting]",
        "score.seeds": 2,
        "score.epochs": 3,
        "score.observe_at": "[0, 2]",
        "score.keep_weights": "none",
    }
    recipe = load_recipe(recipes_folder() / "digits.yaml", [f"{key}={value}" for key, value in asked.items()])
    score_run(open_session(recipe, folder, command="test"), progress=False)
    return folder


@pytest.mark.parametrize("score", [None, "el2n", "forgetting"])
def test_flipped_labels_come_first_and_their_own_is_suggested(noisy: RunFolder, score: str | None) -> None:
    flipped = pq.read_table(noisy.path / "label_noise.parquet").to_pandas().set_index("example_id")
    found = find_suspects(noisy.path, top=40, score=score)
    assert len(flipped) == 144 and found["rank"].tolist() == list(range(1, 41))
    wrong = found.index.isin(flipped.index)
    assert wrong.mean() >= 0.9, "a tenth of the rows are wrong"
    true = flipped["label_before"].reindex(found.index[wrong]).astype(int).astype(str)
    assert (found["suggested"][wrong] == true).mean() >= 0.7, "of nine others"
    assert (found["label"][wrong].astype(int) == flipped["label_after"].reindex(found.index[wrong])).all()
    assert (found["p_label"][wrong] < 0.3).all() and (found["share"].dropna().between(0, 1)).all()


def test_a_run_goes_by_its_best_evidenced_score(noisy: RunFolder) -> None:
    assert list(noisy.load_scores().columns)[:2] == ["el2n_e0", "el2n_e2"]
    found = suspects_of(noisy, NOTHING, top=3, score=None)
    assert found.score == "aum" and found.higher_is == "easier" and found.notes == ()
    assert (found.n_rows, found.n_seeds, found.n_epochs, found.moments) == (1438, 2, 3, (2, 3))


# Counted again


def folder_of(path: Path, table: ScoreTable, results: list[RunResult]) -> RunFolder:
    folder = RunFolder(path / "run")
    folder.claim({"kind": "test"}, table.source, to_yaml(NOTHING))
    for result in results:
        folder.save_seed(result)
    folder.save_scores(table)
    return folder


def drawn(n: int, seeds: int, draw: int) -> tuple[ScoreTable, list[RunResult]]:
    """Everything at random, with ties, rows without a label, and own ids."""
    rng = np.random.default_rng(draw)
    label = rng.integers(-1, 3, n).astype(np.int32)
    table = score_table(n, tuple(range(seeds)), label)
    table = replace(
        table,
        columns={**table.columns, "forgetting": column(rng.integers(0, 3, (seeds, n)), label, score="forgetting")},
        source_id=np.array([f"row {row}" for row in range(n)], object),
    )
    labelled = label != UNLABELLED
    results = []
    for seed in range(seeds):
        plain = run_result(seed, int(labelled.sum()))
        moments, epochs = (0, 1, 2), 2
        shape = (len(moments), int(labelled.sum()))
        results.append(
            replace(
                plain,
                example_id=table.example_id[labelled],
                moments=moments,
                observed={},
                accumulated={},
                predicted=rng.integers(0, 3, shape).astype(np.int32),
                p_label=np.round(rng.random((epochs, shape[1])), 1).astype(np.float16),
                weights={},
            )
        )
    return table, results


def by_hand(table: ScoreTable, results: list[RunResult], name: str) -> list[dict[str, Any]]:
    """All labelled rows, one after the other, as a reader of the documentation would do it."""
    about = table.columns[name]
    rows = []
    labelled = [place for place, label in enumerate(table.label.tolist()) if label != UNLABELLED]
    for at, place in enumerate(labelled):
        votes = [int(result.predicted[m, at]) for result in results for m, epoch in enumerate(result.moments) if epoch > 0]
        others = Counter(vote for vote in votes if vote != table.label[place])
        most = max(others.values(), default=0)
        suggested = min((vote for vote, count in others.items() if count == most), default=None)
        told = [float(p) for result in results for p in result.p_label[:, at]]
        rows.append(
            {
                "example_id": int(table.example_id[place]),
                "source_id": table.source_id[place],  # pyright: ignore[reportOptionalSubscript]
                "label": table.source.classes[table.label[place]],
                "suggested": None if suggested is None else table.source.classes[suggested],
                "share": most / len(votes) if most else None,
                "p_label": sum(told) / len(told),
                "score": float(about.mean[place]),
            }
        )
    sign = -1 if about.higher_is == "harder" else 1
    rows.sort(key=lambda row: (sign * row["score"], round(row["p_label"], 9), row["example_id"]))
    return [{"rank": rank, **row} for rank, row in enumerate(rows, 1)]


@pytest.mark.parametrize(("draw", "seeds"), [(0, 1), (1, 2), (2, 3), (3, 3)])
def test_the_same_comes_out_by_hand(draw: int, seeds: int, tmp_path: Path) -> None:
    table, results = drawn(40, seeds, draw)
    folder = folder_of(tmp_path, table, results)
    for name in ("el2n", "margin", "forgetting"):
        expected = by_hand(table, results, name)
        for top in (1, 7, 1000):
            rows = suspects_of(folder, NOTHING, top=top, score=name).plain()
            assert len(rows) == min(top, len(expected))
            for row, wanted in zip(rows, expected, strict=False):
                assert list(row) == list(wanted)
                assert row == wanted | {"p_label": pytest.approx(wanted["p_label"], abs=1e-9)}
    assert any(row["suggested"] is None for row in expected) or seeds > 1, "one seed sometimes says nothing else than the label"


# What there is less of


def test_a_run_without_seeds_knows_its_scores(tmp_path: Path) -> None:
    table, _ = drawn(20, 2, 0)
    folder = RunFolder(tmp_path)
    folder.save_scores(table)
    (tmp_path / "seeds.parquet").unlink()
    found = suspects_of(folder, NOTHING, top=5, score="el2n")
    assert found.n_seeds == 0 and found.moments == () and "has no seeds any more" in found.notes[0]
    assert all(row.p_label is None and row.suggested is None and row.share is None for row in found.rows)
    worst = table.example_id[np.argsort(-np.nan_to_num(table.columns["el2n"].mean, nan=-1))[:5]]
    assert [row.example_id for row in found.rows] == worst.tolist()


def test_given_logits_tell_it_all(tmp_path: Path, call: Callable[..., Said]) -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 30)
    logits = (4 * np.eye(3)[label] + rng.normal(size=(2, 30, 3))).astype(np.float32)
    given = label.copy()
    given[[4, 9]] = (given[[4, 9]] + 1) % 3
    scores_from_logits([logits, logits], given, out=tmp_path / "run")
    found = find_suspects(tmp_path / "run", top=2)
    assert set(found.index) == {4, 9} and found["suggested"].astype(int).tolist() == label[found.index].tolist()
    assert (found["share"] == 1).all()
    said = call("inspect", tmp_path / "run", "--top", "2")
    assert said.err == "" and "p(label)   probability of the label in the given logits, mean over 2 seeds and 2 epochs\n" in said.out


def test_a_seed_of_other_rows_is_refused(tmp_path: Path) -> None:
    table, results = drawn(20, 2, 0)
    other = replace(results[1], example_id=results[1].example_id + 1)
    with pytest.raises(CoverageError, match="seed 1 observed other rows"):
        suspects_of(folder_of(tmp_path, table, [results[0], other]), NOTHING, top=5, score="el2n")


def test_without_an_evidenced_score_one_has_to_be_named(tmp_path: Path) -> None:
    table, results = drawn(20, 2, 0)
    mine = replace(table, columns={"mine": replace(table.columns["el2n"], score="mine"), "chance": table.columns["chance"]})
    folder = folder_of(tmp_path / "a", mine, results)
    with pytest.raises(RecipeError, match=r"no score of this run is known to point at wrong labels; name one with --score: mine$"):
        find_suspects(folder.path)
    found = suspects_of(folder, NOTHING, top=2, score="mine")
    assert found.notes == (
        f"mine is none of the scores that were found to point at wrong labels; these are, best first: {', '.join(EVIDENCED)}",
    )
    folder = folder_of(tmp_path / "b", replace(table, columns={"chance": table.columns["chance"]}), results)
    with pytest.raises(RecipeError, match=r"; score one of: aum, "):
        find_suspects(folder.path)


# Texts


LONG = "\x1b[31mred\x07 and\nblue " + 30 * "ждать "


@pytest.fixture
def told(tmp_path: Path) -> tuple[RunFolder, Path]:
    """A run on texts, and where they lie."""
    features = Features({"text": Value("string"), "other": Value("string"), "label": ClassLabel(names=["cat", "dog", "ship"])})
    texts = {
        "text": [f"text {row}" if row % 4 else LONG for row in range(40)],
        "other": ["x"] * 40,
        "label": [row % 3 for row in range(40)],
    }
    path = tmp_path / "texts.parquet"
    Dataset.from_dict(texts, features=features).to_parquet(str(path))
    recipe = recipe_from({"source": {"path": str(path), "columns": {"text": "text"}}, "task": {"kind": "text"}})
    table, results = drawn(20, 2, 0)
    table = replace(table, source=pin(recipe.source, TextTask().find_columns).record, source_id=None)
    folder = folder_of(tmp_path, table, results)
    folder.save_recipe(to_yaml(recipe))
    return folder, path


def test_texts_are_shown_from_their_beginning(told: tuple[RunFolder, Path]) -> None:
    folder, _ = told
    found = find_suspects(folder.path, score="el2n")
    assert "source_id" not in found and {row % 4 for row in found.index} == {0, 2}
    for row, text in found["text"].items():
        if row % 4:  # pyright: ignore[reportOperatorIssue]
            assert text == f"text {row}"
        else:
            assert text.startswith("[31mred and blue ждать") and len(text) == 100 and text.endswith("…")


def test_texts_that_are_other_ones_now_are_not_shown(told: tuple[RunFolder, Path], call: Callable[..., Said], tmp_path: Path) -> None:
    folder, path = told
    path.rename(tmp_path / "moved.parquet")
    said = call("inspect", folder.path, "--format", "csv")
    assert said.code == 0 and said.err.startswith(f"texts are not shown: source.path {path} does not exist") and said.err.count("\n") == 1
    assert said.out.splitlines()[0] == '"rank","example_id","label","suggested","share","p_label","score"'
    said = call("inspect", folder.path, f"source.path={tmp_path / 'moved.parquet'}", "--format", "csv")
    assert said.err == "" and said.out.splitlines()[0].endswith(',"text"')
    rows = Dataset.from_parquet(str(tmp_path / "moved.parquet"))
    assert isinstance(rows, Dataset)
    rows.map(lambda row: {"text": row["text"] + "!"}).to_parquet(str(path))
    assert call("inspect", folder.path).err == "texts are not shown: the source has changed since it was scored\n"


# Forms


CLASSES = ("=1+1", 'a "b", c', "x|y")


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A run whose class names mean something to CSV, to spreadsheets and to Markdown."""
    table, results = drawn(30, 2, 1)
    return folder_of(tmp_path, replace(table, source=source(60, CLASSES)), results).path


@pytest.mark.parametrize("score", ["el2n", "margin"])
def test_all_forms_say_the_same(odd: Path, score: str, call: Callable[..., Said]) -> None:
    before = everything(odd)
    words = ("inspect", odd, "--top", "12", "--score", score)
    as_json, as_csv, as_text = (call(*words, "--format", form) for form in ("json", "csv", "text"))
    assert call(*words) == as_text and everything(odd) == before, "nothing is written"
    found = json.loads(as_json.out)
    assert (found["run"], found["score"], found["n_rows"], found["moments"]) == (
        str(odd),
        score,
        len(by_hand(*drawn(30, 2, 1), score)),
        [1, 2],
    )
    assert {said.err for said in (as_json, as_csv, as_text)} == {""}

    of_csv = list(csv.DictReader(io.StringIO(as_csv.out)))
    assert [list(row) for row in of_csv] == [list(row) for row in found["rows"]]
    for row, wanted in zip(of_csv, found["rows"], strict=True):
        for name, value in wanted.items():
            text = "" if value is None else str(value)
            assert row[name] == (f"'{text}" if text == "=1+1" else text)
        assert float(row["score"]) == wanted["score"], "a negative number stays one"

    lines = [line for line in as_text.out.splitlines() if line.startswith("| ")]
    cells = [[cell.strip().replace("\\|", "|") for cell in line.strip("| ").replace("x\\|y", "x\x00y").split("|")] for line in lines[1:]]
    assert len(cells) == 12
    for row, wanted in zip(cells, found["rows"], strict=True):
        assert row[:4] == [str(wanted["rank"]), str(wanted["example_id"]), wanted["source_id"], wanted["label"].replace("|", "\x00")]
        assert row[4] == (wanted["suggested"] or "-").replace("|", "\x00")
        assert row[5:7] == ["-" if wanted["share"] is None else f"{100 * wanted['share']:.0f} %", f"{wanted['p_label']:.3f}"]
        assert row[7] == f"{wanted['score']:.3g}"
    end = "low" if score == "margin" else "high"
    first = as_text.out.splitlines()[0]
    assert first == f"12 of {found['n_rows']} rows with a label, most suspect first, by {score} ({end} is suspect)"


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", " =1", "\t1", "\r1", "\n1", "＝1"])
def test_what_looks_like_a_formula_is_none(text: str) -> None:
    (row,) = csv.DictReader(io.StringIO(csv_text([{"label": text}]), newline=""))
    assert row["label"] == f"'{text}"


def test_other_cells_stay_as_they_are() -> None:
    cells = {"a": "1-1", "b": 'x "y", z', "c": -1.5, "d": None, "e": "two\nlines", "f": "'quoted'"}
    (row,) = csv.DictReader(io.StringIO(csv_text([cells]), newline=""))
    assert row == {**cells, "c": "-1.5", "d": ""}


# Mistakes


MISTAKES = {
    "a column that does not exist": (["--score", "el3n"], "no score column 'el3n'; did you mean el2n? This table has: el2n, margin"),
    "no rows": (["--top", "0"], "top is 0, which shows no row; give 1 or more"),
    "fewer than no rows": (["--top", "-3"], "top is -3, which"),
    "an override of what was scored": (["score.seeds=3"], "score.seeds=3 has no effect on what was scored; only source.KEY=VALUE"),
    "another form": (["--format", "xml"], "'xml' is not one of 'text', 'csv', 'json'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, run: Path, call: Callable[..., Said]) -> None:
    words, message = MISTAKES[name]
    before = everything(run)
    said = call("inspect", run, *words)
    assert said.code == 2 and said.out == "" and said.err.count("\n") == 1 and message in said.err
    assert everything(run) == before


def test_a_score_without_a_hard_end_names_those_that_have_one(odd: Path, call: Callable[..., Said]) -> None:
    said = call("inspect", odd, "--score", "chance")
    assert said.code == 2 and said.out == ""
    assert said.err == (
        "hf-datadiet: chance makes no claim about difficulty, so neither end of it is suspect; "
        "name one of: el2n_e0, el2n, margin, forgetting\n"
    )


def test_without_scores_there_is_nothing_to_inspect(odd: Path, here: Path, call: Callable[..., Said]) -> None:
    assert "toy holds no run; score one first" in call("inspect", here / "toy").err
    (odd / "scores.parquet").unlink()
    said = call("inspect", odd)
    assert said.code == 2 and said.err == f"hf-datadiet: {odd} holds no scores; run hf-datadiet score first\n"
