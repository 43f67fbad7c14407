"""How far a run has come: from its files alone, at every stage of it."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hf_datadiet import answers
from hf_datadiet.arms import arms_of, drawn_arms
from hf_datadiet.errors import RecipeError, StaleRecordError
from hf_datadiet.recipe import Recipe
from hf_datadiet.recipe_yaml import recipe_from, to_yaml, with_overrides
from hf_datadiet.status import headline, status_of
from hf_datadiet.store import RunFolder
from hf_datadiet.trainings import State, Training, seconds_left, unfinished
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


def states(trainings: Mapping[int, Training]) -> dict[int, State]:
    return {seed: training.state for seed, training in trainings.items()}


def begun(path: Path, **overrides: Any) -> RunFolder:
    recipe: Recipe = recipe_from(with_overrides(VALUES, overrides))
    folder = RunFolder(path)
    folder.claim(recipe.identity(), source(24), to_yaml(recipe))
    return folder


def test_a_run_from_its_first_file_to_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = begun(Path("my runs/a"))
    seen = status_of(folder)
    assert states(seen.seeds) == {0: "to do", 1: "to do", 2: "to do"} and seen.source == "toys" and seen.model == "timm:resnet18"
    assert (seen.scores, seen.selections, seen.evaluations, seen.report) == ((), {}, {}, False)
    assert seen.next == "hf-datadiet run 'my runs/a/recipe.yaml' --out 'my runs/a'"

    folder.save_seed(run_result(1))
    assert states(status_of(folder).seeds) == {0: "to do", 1: "done", 2: "to do"}
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
    found = {arm: states(trainings) for arm, trainings in seen.evaluations["main"].items()}
    assert found == {arm: dict.fromkeys([10_000, 10_001, 10_002], "to do") for arm in arms} and list(seen.evaluations) == ["main"]
    assert seen.next == "hf-datadiet evaluate 'my runs/a'"


def test_a_selection_that_is_still_to_be_chosen_is_not_passed_over(tmp_path: Path) -> None:
    folder = begun(
        tmp_path / "a",
        prune=[{"name": "half", "score": "el2n", "keep": 0.5}, {"name": "best", "strategy": "auto", "score": "el2n", "keep": 0.5}],
    )
    for seed in range(3):
        folder.save_seed(run_result(seed))
    folder.save_scores(score_table())
    folder.save_selection(selection(score_table(), KEPT))
    assert status_of(folder).next.startswith("hf-datadiet run ")


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
        (arm, seed)
        for arm, trainings in status_of(folder).evaluations["main"].items()
        for seed, training in trainings.items()
        if training.state == "done"
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


# Trainings that are not finished


def told(folder: Path, age: float = 0.0, **about: Any) -> None:
    """A training's sign of life, `age` seconds ago."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {"state": "running", "epoch": 1, "epochs": 2, "seconds": 8.0, "reason": None}
    path = folder / "progress.json"
    path.write_text(json.dumps(plain | about))
    os.utime(path, (time.time() - age,) * 2)


def test_trainings_on_their_way(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run", **{"score.seeds": 5})
    folder.save_seed(run_result(0))
    waiting = folder.path / "unfinished" / "score"
    told(waiting / "000")  # it has its result: its folder means nothing any more
    told(waiting / "001")
    told(waiting / "002", age=90)
    told(waiting / "003", state="failed", epoch=0, reason="the training diverged")
    seen = status_of(folder)
    assert states(seen.seeds) == {0: "done", 1: "running", 2: "interrupted", 3: "failed", 4: "to do"} and seen.running == 1
    assert (
        "seeds       1 of 5 done: running 1 (epoch 1 of 2), interrupted 2 (epoch 1 of 2), failed 3 (epoch 0 of 2; the training diverged)"
        in answers.of_status(seen).text.splitlines()
    )
    told(waiting / "001", state="stopped")
    assert states(status_of(folder).seeds)[1] == "interrupted"
    assert json.loads(json.dumps(answers.of_status(seen).data))["seeds"]["2"]["epoch"] == 1

    folder.save_scores(score_table())
    folder.save_selection(selection(score_table(), KEPT))
    told(folder.path / "unfinished" / "evaluate" / "other" / "random-5-10001")
    seen = status_of(folder)
    assert list(seen.evaluations) == ["other"] and seen.evaluations["other"]["random-5"][10_001].state == "running"
    assert seen.next.startswith("hf-datadiet run ") and seen.seconds_left
    told(folder.path / "unfinished" / "evaluate" / "main" / "random-5-10001")
    assert status_of(folder).evaluations["main"]["random-5"][10_001].state == "running"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"state": "sleeping", "epoch": 1, "epochs": 2, "seconds": 1, "reason": null}',
                                  '{"state": "running", "epoch": 3, "epochs": 2, "seconds": 1, "reason": null}',
                                  '{"state": "running", "epoch": 1, "epochs": 2, "seconds": "1", "reason": null}'])  # fmt: skip
def test_progress_that_cannot_be_read_counts_as_not_there(text: str, tmp_path: Path) -> None:
    (tmp_path / "progress.json").write_text(text)
    assert unfinished(tmp_path, 3.0) == unfinished(tmp_path / "nothing", 3.0) == Training("to do", work=3.0)


def test_the_time_that_is_left() -> None:
    to_do = Training("to do", work=10)
    assert seconds_left([to_do]) is None and seconds_left([Training("running", 0, 4, 1.0, work=10), to_do]) is None
    done = Training("done", 4, 4, 20.0, work=10)
    assert seconds_left([done]) == 0
    # Two seconds per unit of work.
    assert seconds_left([done, to_do]) == pytest.approx(20)
    half = Training("running", 2, 4, 10.0, work=10)
    assert seconds_left([done, half, to_do]) == pytest.approx(30)
    assert seconds_left([done, half, half, to_do]) == pytest.approx(20), "two at a time"
    assert seconds_left([done, Training("interrupted", 2, 4, 10.0, work=10)]) == pytest.approx(10)
    # An arm of half the rows takes half the time.
    assert seconds_left([done, Training("to do", work=5)]) == pytest.approx(10)


def test_damaged_trainings_are_named(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run", **{"score.seeds": 2})
    for seed in (0, 1):
        folder.save_seed(run_result(seed))
    folder.save_scores(score_table())
    folder.save_selection(selection(score_table(), KEPT))
    table = evaluation()
    for result in table.results:
        folder.save_arm("main", result, table.test_id)
    folder.save_evaluation(table)
    assert status_of(folder).next == f"hf-datadiet report {folder.path}"
    arm = folder.arm_path("main", "full", 10_001)
    os.truncate(arm, 100)
    seen = status_of(folder)
    assert states(seen.evaluations["main"]["full"])[10_001] == "damaged" and seen.next == f"hf-datadiet evaluate {folder.path}"
    assert f"damaged 10001 ({arm} is missing or damaged)" in answers.of_status(seen).text
    os.truncate(folder.seed_path(1) / "result.safetensors", 100)
    seen = status_of(folder)
    assert states(seen.seeds) == {0: "done", 1: "damaged"} and seen.next.startswith("hf-datadiet run ")


def test_an_evaluation_without_its_last_file_is_not_done(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run", **{"score.seeds": 1})
    folder.save_seed(run_result(0))
    folder.save_scores(score_table())
    folder.save_selection(selection(score_table(), KEPT))
    table = evaluation()
    for result in table.results:
        folder.save_arm("main", result, table.test_id)
    assert status_of(folder).next == f"hf-datadiet evaluate {folder.path}"
