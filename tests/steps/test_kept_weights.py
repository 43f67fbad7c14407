"""EVALUATE with `keep_weights`: the models whose predictions the table has stay, and keeping them changes no prediction."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hf_datadiet import evaluate, store
from hf_datadiet.durable import write_safetensors
from hf_datadiet.errors import RecipeError, StaleRecordError
from hf_datadiet.recipe import FIRST_EVALUATION_SEED
from hf_datadiet.records import EvaluationTable
from hf_datadiet.score import score_run
from hf_datadiet.store import RunFolder
from hf_datadiet.training.observe import observe
from hf_datadiet.training.session import open_session
from hf_datadiet.unfinished import Unfinished
from tests.steps.death import dying_at_rename
from tests.steps.test_evaluate import asked, prune, run, same

Call = Callable[..., tuple[Any, str, str]]
Weights = dict[str, NDArray[Any]]

SEED = FIRST_EVALUATION_SEED
KEPT = [f"full-{SEED}.safetensors", f"keep-50-{SEED}.safetensors"]
TWO_EPOCHS: dict[str, Any] = {"task__training__epochs": 2, "score__seeds": 1}
KEEPING: dict[str, Any] = {**TWO_EPOCHS, "evaluate__keep_weights": True}


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pruned") / "run"
    score_run(open_session(asked(**TWO_EPOCHS), RunFolder(folder), command="test"), progress=False)
    prune(folder)
    return folder


@pytest.fixture(scope="module")
def without(pruned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Evaluated, and no weights kept; no test changes it."""
    folder = Path(shutil.copytree(pruned, tmp_path_factory.mktemp("without") / "run"))
    run(folder, **TWO_EPOCHS)
    return folder


@pytest.fixture(scope="module")
def whole(pruned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Evaluated at once with weights; no test changes it."""
    folder = Path(shutil.copytree(pruned, tmp_path_factory.mktemp("whole") / "run"))
    run(folder, **KEEPING)
    return folder


@pytest.fixture
def folder(without: Path, tmp_path: Path) -> Path:
    """Evaluated without weights, to work on."""
    return Path(shutil.copytree(without, tmp_path / "run"))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Arm and seed of each training from now on, and where it went on if it was resumed."""
    seen: list[Any] = []
    original = evaluate.retrain

    def counting(*given: Any, **named: Any) -> Any:
        seen.append((named["arm"], named["seed"]))
        named["on_resume"] = lambda epochs, steps: seen.append(f"goes on after epoch {epochs}")
        return original(*given, **named)

    monkeypatch.setattr(evaluate, "retrain", counting)
    return seen


def table(folder: Path) -> EvaluationTable:
    return RunFolder(folder).load_evaluation("main")


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "evaluations" / "main" / "weights").glob("[!.]*"))


def weights(folder: Path, arm: str = "keep-50") -> Weights:
    return dict(RunFolder(folder).load_weights("main", arm, SEED))


def alike(one: Weights, two: Weights) -> bool:
    return one.keys() == two.keys() and all(np.array_equal(values, two[name]) for name, values in one.items())


def test_the_first_seed_of_each_selection_and_of_the_full_data_stays(whole: Path, without: Path) -> None:
    assert files(whole) == KEPT and files(without) == []
    assert same(table(whole), table(without)), "keeping weights changes no prediction"


@pytest.mark.parametrize("arm", ["full", "keep-50"])
def test_they_are_those_of_the_model_that_predicted(whole: Path, arm: str) -> None:
    session = open_session(asked(**KEEPING), RunFolder(whole), command="test")
    train = session.train_feed()
    test = session.test_feed(train)
    model = session.new_model(train, 77)
    kept = weights(whole, arm)
    assert set(kept) == set(model.state_dict()) and any("running_mean" in name for name in kept)
    model.load_state_dict({name: torch.from_numpy(np.array(values)) for name, values in kept.items()})
    plan = session.folder.plan()
    assert plan is not None
    seen = observe(model, test, {}, 0, plan, keep_logits=True)
    assert seen.logits is not None
    said = next(result for result in table(whole).results if (result.arm, result.seed) == (arm, SEED))
    p_label = seen.logits.softmax(1).gather(1, test.labels[:, None])[:, 0].half().numpy()
    assert np.array_equal(seen.predicted, said.predicted) and np.array_equal(p_label, said.p_label)


def test_only_trainings_without_weights_are_repeated(folder: Path, whole: Path, trained: list[Any]) -> None:
    arms = {path.name: path.read_bytes() for path in (folder / "evaluations" / "main" / "arms").iterdir()}
    run(folder, **KEEPING)
    assert sorted(trained) == [("full", SEED), ("keep-50", SEED)]
    assert {path.name: path.read_bytes() for path in (folder / "evaluations" / "main" / "arms").iterdir()} == arms
    assert files(folder) == KEPT and same(table(folder), table(whole))
    assert all(alike(weights(folder, arm), weights(whole, arm)) for arm in ("full", "keep-50"))
    del trained[:]
    run(folder, **KEEPING)
    run(folder, **TWO_EPOCHS)
    assert trained == [] and files(folder) == KEPT, "and they stay where nobody asks for them"


def test_weights_of_another_training_are_not_taken_for_this_ones(folder: Path, whole: Path, trained: list[Any]) -> None:
    """As if the arm's file had been removed, and made anew from other rows."""
    path = RunFolder(folder).weights_path("main", "keep-50", SEED)
    write_safetensors(path, weights(whole), {"arm": "keep-50", "seed": SEED, "predictions": "sha256:other"})
    with pytest.raises(
        RecipeError, match=r"no weights of keep-50, evaluation main; evaluate again \(hf-datadiet evaluate .*keep_weights=true"
    ):
        weights(folder)
    run(folder, **KEEPING)
    assert ("keep-50", SEED) in trained and alike(weights(folder), weights(whole))


def test_a_repeated_training_that_predicts_otherwise_is_refused(folder: Path) -> None:
    kept = RunFolder(folder)
    before = kept.load_arm("main", "keep-50", SEED)
    assert before is not None
    path = kept.arm_path("main", "keep-50", SEED)
    path.unlink()
    other = before.p_label.copy()
    other[3] += np.float16(0.01)
    kept.save_arm("main", replace(before, p_label=other), table(folder).test_id)
    there = path.read_bytes()
    with pytest.raises(StaleRecordError, match=f"keep-50-{SEED}.safetensors: trained again to keep its weights, it predicts otherwise"):
        run(folder, **KEEPING)
    assert path.read_bytes() == there and f"keep-50-{SEED}.safetensors" not in files(folder)


def test_killed_between_the_weights_and_the_result(
    pruned: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, trained: list[Any]
) -> None:
    folder, write = Path(shutil.copytree(pruned, tmp_path / "run")), store.write_safetensors

    def dying(path: Path, *given: Any, **named: Any) -> None:
        if path.parent.name == "arms":
            raise KeyboardInterrupt
        write(path, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_safetensors", dying)
        with pytest.raises(KeyboardInterrupt):
            run(folder, **KEEPING)
    assert files(folder) == KEPT[:1] and RunFolder(folder).trained("main") == {}, "weights alone are no result"
    run(folder, **KEEPING)
    assert trained[:3] == [("full", SEED), ("full", SEED), "goes on after epoch 1"]
    assert files(folder) == KEPT and same(table(folder), table(whole)) and alike(weights(folder, "full"), weights(whole, "full"))


def test_a_repeated_training_goes_on_where_it_was_stopped(
    folder: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, trained: list[Any]
) -> None:
    steps, alive = itertools.count(), Unfinished.alive

    def dying(unit: Unfinished) -> None:
        if next(steps) == 7:  # of ten
            raise KeyboardInterrupt
        alive(unit)

    with monkeypatch.context() as patch:
        patch.setattr(Unfinished, "alive", dying)
        with pytest.raises(KeyboardInterrupt):
            run(folder, **KEEPING)
    assert trained == [("full", SEED)]
    run(folder, **KEEPING)
    assert trained[1:] == [("full", SEED), "goes on after epoch 1", ("keep-50", SEED)]
    assert alike(weights(folder, "full"), weights(whole, "full")) and not list(folder.glob("unfinished/*"))


def test_what_a_repeated_training_left_goes_when_nobody_asks_for_its_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "_check_repeated", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(folder, **KEEPING)
    assert list(folder.glob("unfinished/evaluate/main/full-*"))
    run(folder, **TWO_EPOCHS)
    assert not list(folder.glob("unfinished/*"))


@pytest.mark.slow
@pytest.mark.parametrize("repeated", [False, True])
def test_dead_at_any_rename(pruned: Path, tmp_path: Path, repeated: bool) -> None:
    """Whatever file was about to get its name, the second life ends with the same weights; with one seed for each arm."""
    before, whole = (Path(shutil.copytree(pruned, tmp_path / name)) for name in ("before", "whole"))
    keeping = {**KEEPING, "evaluate__seeds": 1}
    run(whole, **keeping)
    if repeated:
        run(before, **{**keeping, "evaluate__keep_weights": False})
    for k in itertools.count():
        folder = Path(shutil.copytree(before, tmp_path / f"run-{k}"))
        with dying_at_rename(k) as death:
            run(folder, **keeping)
        if not death:
            break
        run(folder, **keeping)
        assert files(folder) == KEPT and same(table(folder), table(whole)), death
        assert all(alike(weights(folder, arm), weights(whole, arm)) for arm in ("full", "keep-50")), death
        shutil.rmtree(folder)
    assert k >= 10


@pytest.mark.slow
def test_two_processes_and_two_launches_keep_the_same(pruned: Path, whole: Path, tmp_path: Path, call: Call) -> None:
    for words in (["--num-processes", "2"], ["--share", "1/2"]):
        folder = Path(shutil.copytree(pruned, tmp_path / words[1].replace("/", "-")))
        more = ["evaluate.seeds=2", "evaluate.keep_weights=true"]
        code, _, err = call("evaluate", str(folder), *more, *words)
        assert code == 0, err
        if "--share" in words:
            assert call("evaluate", str(folder), *more, "--share", "2/2")[0] == 0
        assert files(folder) == KEPT and same(table(folder), table(whole))
        assert all(alike(weights(folder, arm), weights(whole, arm)) for arm in ("full", "keep-50"))
