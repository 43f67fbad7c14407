"""TUNE end to end: candidates judged on validation rows alone, resumed training by training, and never mistaken for an evaluation."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from hf_datadiet import evaluate
from hf_datadiet.errors import RecipeError, StaleRecordError
from hf_datadiet.evaluate import evaluate_run
from hf_datadiet.prune import prune_run
from hf_datadiet.recipe import FIRST_TUNING_SEED, PruneSpec
from hf_datadiet.records import EvaluationTable
from hf_datadiet.reporting import report_run
from hf_datadiet.score import score_run
from hf_datadiet.status import status_of
from hf_datadiet.store import RunFolder
from hf_datadiet.training.session import Session, open_session
from hf_datadiet.tune import tune_run
from tests.steps.death import dying_at_rename
from tests.steps.test_evaluate import same
from tests.steps.test_score import VALUES, recipe

CANDIDATES = [{"strategy": "hardest"}, {"strategy": "window", "skip": 0.1}, {"strategy": "random"}]
NAMES = ["hardest", "window-skip-0.1", "random"]
Trained = list[tuple[str, int, tuple[int, ...]]]


def spec(name: str = "auto-50", **asked: Any) -> PruneSpec:
    parameters = {"validation": 0.2, "seeds": 2, "candidates": CANDIDATES} | asked
    keep = parameters.pop("keep", 0.5)
    return PruneSpec(name=name, score="el2n", strategy="auto", keep=keep, parameters=parameters)


def session(folder: Path, **overrides: Any) -> Session:
    return open_session(recipe(**overrides), RunFolder(folder), command="test")


def tune(folder: Path, asked: PruneSpec | None = None, **overrides: Any) -> EvaluationTable:
    asked = asked or spec()
    tune_run(session(folder, **overrides), asked, progress=False)
    return RunFolder(folder).tunings.load_evaluation(asked.name)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scored") / "run"
    score_run(session(folder), progress=False)
    return folder


@pytest.fixture
def folder(scored: Path, tmp_path: Path) -> Path:
    """A scored run to work on."""
    return Path(shutil.copytree(scored, tmp_path / "run"))


@pytest.fixture(scope="module")
def whole(scored: Path, tmp_path_factory: pytest.TempPathFactory) -> EvaluationTable:
    """A tuning that nothing interrupted."""
    return tune(Path(shutil.copytree(scored, tmp_path_factory.mktemp("whole") / "run")))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Trained:
    """Arm, seed and rows of each training from now on."""
    seen: Trained = []
    original = evaluate.retrain

    def counting(*given: Any, arm: str, seed: int, ids: Any, **named: Any) -> Any:
        seen.append((arm, seed, tuple(ids.tolist())))
        return original(*given, arm=arm, seed=seed, ids=ids, **named)

    monkeypatch.setattr(evaluate, "retrain", counting)
    return seen


def test_candidates_seeds_and_rows(folder: Path, whole: EvaluationTable, trained: Trained) -> None:
    at_work = session(folder)
    table = tune(folder, evaluate__keep_weights=True)
    assert same(table, whole) and not list(folder.rglob("weights")), "models that only chose are not kept"
    seeds = [FIRST_TUNING_SEED, FIRST_TUNING_SEED + 1]
    assert sorted((arm, seed) for arm, seed, _ in trained) == sorted(itertools.product(NAMES, seeds)), (
        "the candidates, and nothing beside them"
    )
    assert not {*seeds} & {*range(10_000), *range(10_000, 20_000)}, "neither scoring nor evaluation has these seeds"
    validation, labelled = set(table.test_id.tolist()), set(at_work.labelled.tolist())
    assert len(validation) == 16 and validation < labelled
    assert not validation & set(at_work.pinned.test_id.tolist()), "test rows do not judge candidates"
    for arm, _, rows in trained:
        assert len(rows) == 32 and not validation & set(rows) and set(rows) < labelled, arm
    label = at_work.pinned.label
    assert np.array_equal(table.test_label, label[table.test_id])


class Untouchable:
    """Held-out rows that nobody may read."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"test rows were read: {name}")

    def __len__(self) -> int:
        raise AssertionError("test rows were counted")


def test_test_rows_are_never_read(folder: Path, whole: EvaluationTable) -> None:
    opened = session(folder)
    untouchable: Any = Untouchable()
    pinned = replace(opened.pinned, test=untouchable, test_id=untouchable, test_label=untouchable)
    tune_run(replace(opened, pinned=pinned), spec(), progress=False)
    assert same(RunFolder(folder).tunings.load_evaluation("auto-50"), whole)


def test_how_selections_will_be_judged_has_no_influence(folder: Path, whole: EvaluationTable) -> None:
    assert same(tune(folder, evaluate__name="other", evaluate__seeds=7, evaluate__margin=3.0), whole)


def test_the_choice_is_carried_out_on_all_rows_and_recorded(folder: Path) -> None:
    at_work = session(folder)
    settled, evidence = tune_run(at_work, spec(), progress=False)
    made = prune_run(at_work.folder, settled, command="test", evidence=evidence)
    results = pq.read_table(folder / "tunings" / "auto-50" / "results.parquet").to_pylist()
    accuracy = {
        name: np.mean([100 * row["value"] for row in results if row["arm"] == name and row["metric"] == "accuracy"]) for name in NAMES
    }
    kept = at_work.folder.load_selection("auto-50").parameters["auto"]
    assert {entry["candidate"]: entry["accuracy"] for entry in kept["candidates"]} == pytest.approx(accuracy)
    assert (kept["validation"], kept["n_validation"], kept["n_seeds"]) == (0.2, 16, 2)
    # The rule again: the first within one standard error of the best.
    best = max(accuracy, key=lambda name: accuracy[name])
    error = {entry["candidate"]: entry["se"] or 0.0 for entry in kept["candidates"]}
    assert kept["best"] == best
    assert kept["chosen"] == next(name for name in NAMES if accuracy[best] - accuracy[name] <= error[name])
    plain = PruneSpec(name="plain", keep=0.5, score=settled.score, strategy=settled.strategy, parameters=settled.parameters)
    assert made.kept.tolist() == prune_run(at_work.folder, plain, command="test").kept.tolist() and made.kept.size == 40
    again, _ = tune_run(at_work, spec(), progress=False)
    assert again == settled
    prune_run(at_work.folder, again, command="test", evidence=evidence)


def test_finished_trainings_are_not_repeated(
    folder: Path, whole: EvaluationTable, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = evaluate.retrain

    def failing(*given: Any, **named: Any) -> Any:
        if len(trained) == 4:
            raise KeyboardInterrupt
        return counted(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "retrain", failing)
        with pytest.raises(KeyboardInterrupt):
            tune(folder)
    seen = status_of(RunFolder(folder))
    states = [training.state for candidate in seen.tunings["auto-50"].values() for training in candidate.values()]
    assert states.count("done") == 4 and seen.evaluations == {} and RunFolder(folder).tunings.evaluations() == []
    assert same(tune(folder), whole)
    assert len(trained) == 6 == len({(arm, seed) for arm, seed, _ in trained})
    tune(folder)
    assert len(trained) == 6


@pytest.mark.slow
def test_dead_at_any_rename(scored: Path, tmp_path: Path) -> None:
    asked = spec(seeds=1, candidates=CANDIDATES[:2])
    whole = tune(Path(shutil.copytree(scored, tmp_path / "whole")), asked)
    for k in itertools.count(0, 2):
        folder = Path(shutil.copytree(scored, tmp_path / f"run-{k}"))
        with dying_at_rename(k) as death:
            tune(folder, asked)
        if not death:
            break
        status_of(RunFolder(folder))
        assert same(tune(folder, asked), whole), death
        shutil.rmtree(folder)
    # What is compared, decoded rows twice, two trainings and how far they are, predictions, results, and the marker.
    assert k >= 10


def test_a_damaged_training_is_made_anew(folder: Path, whole: EvaluationTable, trained: Trained) -> None:
    tune(folder)
    del trained[:]
    files = RunFolder(folder).tunings
    path = files.arm_path("auto-50", "random", FIRST_TUNING_SEED)
    os.truncate(path, 100)
    assert status_of(RunFolder(folder)).tunings["auto-50"]["random"][FIRST_TUNING_SEED].state == "damaged"
    assert same(tune(folder), whole) and [(arm, seed) for arm, seed, _ in trained] == [("random", FIRST_TUNING_SEED)]
    for name in ("tuning.json", "evaluation.json", "predictions.parquet"):
        os.truncate(files.evaluation_path("auto-50") / name, 50)
        assert same(tune(folder), whole), name
    assert len(trained) == 1


def test_something_else_under_the_same_name_is_refused(folder: Path, trained: Trained) -> None:
    tune(folder)
    del trained[:]
    for asked in (spec(keep=0.4), spec(validation=0.1), spec(seeds=3), spec(candidates=CANDIDATES[:2]), spec(candidates=CANDIDATES[::-1])):
        with pytest.raises(
            StaleRecordError, match=r"tunings/auto-50 compares something else \(other .*asked.*give the selection another name"
        ):
            tune(folder, asked)
    with pytest.raises(
        StaleRecordError, match=r"tuning 'auto-50' .* for other steps; give the selection another name, or delete .*tunings"
    ):
        tune(folder, evaluate__match="steps")
    prune_run(RunFolder(folder), PruneSpec(name="half", keep=0.5, score="el2n"), command="test")
    with pytest.raises(StaleRecordError, match="has another selection named 'half'"):
        tune(folder, spec("half"))
    assert trained == []


def test_an_evaluation_of_a_tuned_selection_knows_nothing_of_the_tuning(folder: Path, trained: Trained) -> None:
    at_work = session(folder, evaluate__seeds=1)
    settled, evidence = tune_run(at_work, spec(seeds=1), progress=False)
    prune_run(at_work.folder, settled, command="test", evidence=evidence)
    del trained[:]
    table = evaluate_run(at_work, progress=False)
    assert table is not None and list(table.arms) == ["full", "auto-50", "random-40", "stratified-40"]
    assert table.arms["auto-50"].endswith(", chosen on validation rows")
    assert table.test_id.tolist() == at_work.pinned.test_id.tolist() and {seed for _, seed, _ in trained} == {10_000}
    assert at_work.folder.evaluations() == ["main"] and at_work.folder.tunings.evaluations() == ["auto-50"]
    report = report_run(at_work.recipe, at_work.folder)
    assert [entry["name"] for entry in report.evaluations] == ["main"] and [entry["selection"] for entry in report.tunings] == ["auto-50"]
    assert report.tunings[0]["n_validation"] == 16 and report.costs["tuning_seconds"] > 0
    said = (folder / "report.md").read_text()
    assert "## Choice of auto-50" in said and "on 16 validation rows that were split off the training rows, 1 fresh seed each" in said
    assert report.costs["savings"][0]["tuning_seconds"] == pytest.approx(report.costs["tuning_seconds"])
    # The same rows, chosen on other evidence; and other rows under the name, of which nobody says any more how they were chosen.
    with pytest.raises(StaleRecordError, match="another selection named 'auto-50'"):
        prune_run(at_work.folder, settled, command="test", evidence={**evidence, "n_seeds": 9})
    prune_run(at_work.folder, settled, command="test", evidence=evidence)
    shutil.rmtree(at_work.folder.selection_path("auto-50"))
    assert report_run(at_work.recipe, at_work.folder).tunings == ()


# The command line

Call = Callable[..., tuple[Any, str, str]]
AUTO = {"name": "auto-50", "score": "el2n", "strategy": "auto", "keep": 0.5, "seeds": 1, "candidates": CANDIDATES[:2]}


def written(here: Path, **more: Any) -> None:
    values = {**VALUES, "score": {"scores": ["el2n"], "seeds": 1}, "evaluate": {"seeds": 1}, "prune": [{**AUTO, **more}]}
    (here / "mine.yaml").write_text(yaml.safe_dump(values))


def test_a_run_tunes_between_scoring_and_pruning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path)
    code, said, _ = call("run", "mine.yaml", "--out", "run", "--dry-run")
    # 72 of 80 rows are left, 36 of them kept: three batches of 16, one epoch, two candidates.
    assert code == 0 and "auto-50: 1 seeds x 2 candidates (hardest, window-skip-0.1) of 36 rows, 8 rows to judge them = 6 steps" in said
    assert "tune" not in call("score", "mine.yaml", "--dry-run")[1]
    assert call("run", "mine.yaml", "--out", "run", "prune.0.candidates=[{strategy: hardest}, {strategy: windw}]")[0] == 2
    assert not Path("run").exists(), "found before anything is trained"

    code, said, err = call("run", "mine.yaml", "--out", "run")
    assert code == 0 and err.index("score ") < err.index("tune  hardest") < err.index("evaluate  full")
    assert "Candidates for auto-50 (strategy auto) on 8 validation rows" in said and "| window-skip-0.1 |" in said
    report = json.loads(Path("run/report.json").read_text())
    entry = report["tunings"][0]
    assert entry["chosen"] in NAMES and report["selections"][0]["parameters"]["auto"]["chosen"] == entry["chosen"]
    assert report["files"]["tunings/*/tuning.json"] == "what strategy auto compared"
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "retrain", lambda *_, **__: pytest.fail("trained again"))
        assert call("run", "mine.yaml", "--out", "run")[0] == 0
    text = call("status", "run")[1]
    assert "tuning      auto-50: 2 of 2 trainings done" in text and "evaluation  main: 4 of 4 trainings done" in text


def test_prune_trains_too_and_says_how_to_go_on(folder: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    words = ["prune", str(folder), "--name", "lean", "--score", "el2n", "--strategy", "auto", "--keep", "0.5", "--quotas", "proportional"]
    words += ["--set", "seeds=1", "--set", "candidates=[{strategy: hardest}, {strategy: random}]", "--mix", "0.1"]
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "retrain", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        assert call(*words)[0] == 130
    step = status_of(RunFolder(folder)).next
    assert step.startswith(f"hf-datadiet prune {folder} --name lean --score el2n --strategy auto --keep 0.5")
    code, said, err = call(*shlex.split(step)[1:])
    assert code == 0 and "tune  hardest" in err and "chosen among 2 candidates on 8 validation rows" in said
    chosen = RunFolder(folder).load_selection("lean")
    assert chosen.parameters["quotas"] == "proportional" and chosen.parameters["mix"] == 0.1 and chosen.kept.size == 40
    assert call(*words)[0] == 0, "the command as it was typed means the same"
    assert call(*words, "--num-processes", "1")[0] == 0
    code, _, err = call("prune", folder.as_posix(), "--name", "b", "--score", "el2n", "--keep", "0.5", "--num-processes", "2")
    assert code == 2 and "only strategy auto trains here" in err


@pytest.mark.parametrize(("key", "value"), [("task.kind", "logits"), ("task.kind", "in-memory"), ("task.model", "object:1f")])
def test_a_run_without_a_model_is_refused(key: str, value: str, folder: Path, call: Call) -> None:
    from hf_datadiet.recipe_yaml import kept_recipe, to_yaml

    RunFolder(folder).save_recipe(to_yaml(kept_recipe(folder, [f"{key}={value}"])))
    code, _, err = call("prune", str(folder), "--name", "lean", "--score", "el2n", "--strategy", "auto", "--keep", "0.5")
    assert code == 2 and err.count("\n") == 1 and "strategy auto trains models to choose with; name a strategy" in err
    assert not (folder / "tunings").exists()


def test_an_impossible_keep_is_refused_before_anything_is_written(folder: Path) -> None:
    with pytest.raises(RecipeError, match="nothing for strategy auto to choose"):
        tune(folder, spec(keep=1.0))
    assert not (folder / "tunings").exists()
