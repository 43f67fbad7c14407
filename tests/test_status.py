"""How far a run has come: from its files alone, at every stage of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from hf_datadiet.arms import arms_of, drawn_arms
from hf_datadiet.errors import RecipeError, StaleRecordError
from hf_datadiet.recipe import Recipe
from hf_datadiet.recipe_yaml import recipe_from, to_yaml, with_overrides
from hf_datadiet.status import headline, status_of
from hf_datadiet.store import RunFolder
from tests.synthetic import evaluation, run_result, score_table, selection, source

VALUES: dict[str, Any] = {
    "source": {"sample": "digits", "test": {"fraction": 0.2}},
    "task": {"model": "timm:resnet18", "training": {"epochs": 2}},
    "score": {"scores": ["el2n"], "seeds": 3, "observe_at": [0, 1]},
    "prune": [{"name": "half", "score": "el2n", "keep": 0.5}],
    "evaluate": {"seeds": 3},
}


KEPT = [0, 2, 4, 8, 10]
"""Five of the ten labelled rows of `score_table`."""


def begun(path: Path, **overrides: Any) -> RunFolder:
    recipe: Recipe = recipe_from(with_overrides(VALUES, overrides))
    folder = RunFolder(path)
    folder.claim(recipe.identity(), source(24), to_yaml(recipe))
    return folder


def test_a_run_from_its_first_file_to_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = begun(Path("my runs/a"))
    seen = status_of(folder)
    assert seen.seeds == {0: "to do", 1: "to do", 2: "to do"} and seen.source == "toys" and seen.model == "timm:resnet18"
    assert (seen.scores, seen.selections, seen.evaluations, seen.report) == ((), {}, {}, False)
    assert seen.next == "hf-datadiet run 'my runs/a/recipe.yaml' --out 'my runs/a'"

    folder.save_seed(run_result(1))
    assert status_of(folder).seeds == {0: "to do", 1: "done", 2: "to do"}
    for seed in (0, 2):
        folder.save_seed(run_result(seed))
    assert status_of(folder).next.startswith("hf-datadiet run "), "no table yet"

    folder.save_scores(score_table())
    seen = status_of(folder)
    assert seen.scores == ("el2n_e0", "el2n", "margin", "forgetting", "chance")
    assert seen.next == "hf-datadiet prune 'my runs/a' --name keep-50 --score el2n --keep 0.5"

    chosen = selection(score_table(), KEPT)
    folder.save_selection(chosen)
    size = chosen.kept.size
    arms = ["full", chosen.name, f"random-{size}", f"stratified-{size}"]
    seen = status_of(folder)
    assert seen.selections == {chosen.name: size}
    assert seen.evaluations == {"main": {arm: dict.fromkeys([10_000, 10_001, 10_002], "to do") for arm in arms}}
    assert seen.next == "hf-datadiet evaluate 'my runs/a'"


def test_the_arms_named_are_those_that_evaluation_trains() -> None:
    chosen, n = selection(score_table(), KEPT), 10
    assert [arm.name for arm in arms_of([chosen], n)] == ["full", chosen.name, *(arm.name for arm in drawn_arms([chosen.kept.size], n))]


def test_trainings_are_counted_one_by_one(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run", **{"score.seeds": 1})
    folder.save_seed(run_result(0))
    folder.save_scores(score_table())
    folder.save_selection(selection(score_table(), KEPT))
    table = evaluation()
    for result in table.results[:3]:
        folder.save_arm("main", result, table.test_id)
    done = {
        (arm, seed) for arm, states in status_of(folder).evaluations["main"].items() for seed, state in states.items() if state == "done"
    }
    assert done == {(result.arm, result.seed) for result in table.results[:3]}

    shutil.rmtree(folder.evaluation_path("main"))
    for result in table.results[:1]:
        folder.save_arm("longer", result, table.test_id)
    seen = status_of(folder)
    assert list(seen.evaluations) == ["longer"] and seen.next == f"hf-datadiet evaluate {folder.path} evaluate.name=longer"


def test_without_held_out_rows_there_is_nothing_to_evaluate(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run", **{"source.test": None})
    assert status_of(folder).next.startswith("hf-datadiet score ")
    for seed in range(3):
        folder.save_seed(run_result(seed))
    folder.save_scores(score_table())
    folder.save_selection(selection(score_table(), KEPT))
    assert status_of(folder).evaluations == {} and status_of(folder).next == f"hf-datadiet report {folder.path}"


def test_what_is_no_run_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="holds no run; score one first"):
        status_of(RunFolder(tmp_path))
    folder = begun(tmp_path / "run")
    folder.save_scores(score_table())
    (folder.path / "scores.parquet").write_bytes(b"PAR1")
    with pytest.raises(StaleRecordError, match=r"scores\.parquet is missing or damaged"):
        status_of(folder)


def test_the_headline_is_the_plain_name() -> None:
    about = {"el2n_e0": {"score": "el2n"}, "el2n": {"score": "el2n"}, "margin": {"score": "margin"}}
    assert headline(about) == "el2n" and headline({"a_e1": {"score": "a"}}) == "a_e1"
