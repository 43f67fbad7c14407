"""Learning curves go to the tracker that the recipe names, one tracker run for each training, and change no score."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import accelerate.tracking
import pytest
from accelerate.utils import LoggerType
from datasets import Dataset

from hf_datadiet.errors import RecipeError
from hf_datadiet.evaluate import evaluate_run
from hf_datadiet.prune import prune_run
from hf_datadiet.recipe_yaml import recipe_from
from hf_datadiet.score import score_run
from hf_datadiet.store import RunFolder
from hf_datadiet.training.environment import accelerator
from hf_datadiet.training.session import open_session
from hf_datadiet.training.tracker import check_tracker, tracked
from tests.synthetic import pictures

VALUES: dict[str, Any] = {
    "source": {"test": {"fraction": 0.2}},
    "task": {"kind": "image", "model": "timm:test_resnet", "training": {"epochs": 2, "batch_size": 16}},
    "score": {"seeds": 2},
    "prune": [{"name": "half", "score": "el2n", "keep": 0.5}],
    "evaluate": {"seeds": 1},
}


class FakeRun:
    """What trackio and wandb give back: it keeps what it is told, and talks on stdout."""

    def __init__(self, **settings: Any) -> None:
        self.settings, self.logged, self.finished = settings, [], False
        sys.stdout.write("hello\n")

    def log(self, values: dict[str, float], step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished = True
        sys.stdout.write("goodbye\n")


@pytest.fixture(params=["trackio", "wandb"])
def fake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module in the place of the tracker's, reached by Accelerate's own class for it."""
    module: Any = types.ModuleType(request.param)
    module.runs = []

    def init(**settings: Any) -> FakeRun:
        module.runs.append(FakeRun(**settings))
        return module.runs[-1]

    module.init = init
    monkeypatch.setitem(sys.modules, request.param, module)
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [LoggerType(request.param)])
    return module


@pytest.fixture
def dataset() -> Dataset:
    return pictures(40)


def test_each_training_is_a_run_of_the_tracker(fake: Any, dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, folder = recipe_from({**VALUES, "tracker": fake.__name__}), RunFolder(tmp_path / "toys")
    with_tracker = score_run(open_session(recipe, folder, command="x", dataset=dataset), progress=False)
    prune_run(folder, recipe.prune[0], command="x")
    judged = evaluate_run(open_session(recipe, folder, command="x", dataset=dataset), progress=False)

    assert {run.settings["project"] for run in fake.runs} == {"toys"}
    assert [run.settings["name"] for run in fake.runs] == [
        "score-000",
        "score-001",
        *(f"{arm}-10000" for arm in ("full", "half", "random-16", "stratified-16")),
    ]
    assert all(run.finished for run in fake.runs)
    first = folder.load_seed(0).curve
    expected = [(entry["epoch"], {"train/loss": entry["loss"], "train/accuracy": entry["accuracy"]}) for entry in first]
    assert fake.runs[0].logged == expected
    for run, result in zip(fake.runs[2:], judged.results, strict=True):
        assert [step for step, _ in run.logged] == [1, 2, 2] and run.logged[-1][1] == {"test/accuracy": result.metrics["accuracy"]}
    assert capsys.readouterr().out == "", "stdout belongs to the answer"

    bare = recipe_from(VALUES)
    assert recipe.identity() == bare.identity()
    without = score_run(open_session(bare, RunFolder(tmp_path / "bare"), command="x", dataset=dataset), progress=False)
    assert without.digest == with_tracker.digest
    again = score_run(open_session(bare, folder, command="x", dataset=dataset), progress=False)
    assert again.digest == with_tracker.digest, "the folder goes on without the tracker"


def test_a_training_that_fails_still_ends_its_run(fake: Any, tmp_path: Path) -> None:
    accelerator()
    with pytest.raises(KeyboardInterrupt), tracked(fake.__name__, RunFolder(tmp_path), "score-000"):
        raise KeyboardInterrupt
    assert fake.runs[0].finished


def test_a_tracker_that_does_not_start_is_one_line(fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        raise PermissionError("no key\nlog in first")

    monkeypatch.setattr(fake, "init", init)
    accelerator()
    with (
        pytest.raises(RecipeError, match=r"does not start \(PermissionError: no key\); mend that, or leave out tracker"),
        tracked(fake.__name__, RunFolder(tmp_path), "score-000"),
    ):
        pass


@pytest.mark.parametrize("name", ["trackio", "tensorboard", "wandb"])
def test_a_missing_package_names_the_pip_line(name: str, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [])
    recipe = recipe_from({**VALUES, "tracker": name})
    with pytest.raises(RecipeError, match=f"tracker {name} is not installed; pip install {name}, or leave out tracker"):
        score_run(open_session(recipe, RunFolder(tmp_path / "run"), command="x", dataset=dataset), progress=False)
    assert not (tmp_path / "run").exists()
    check_tracker(None)


def test_tensorboard_gets_a_folder_for_each_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            opened.append(folder)

        def add_scalar(self, name: str, value: float, global_step: int) -> None:
            opened.append(f"{name}={value} at {global_step}")

        def flush(self) -> None: ...

        def close(self) -> None:
            opened.append("closed")

    module: Any = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(sys.modules["torch.utils"], "tensorboard", module, raising=False)
    accelerator()
    with tracked("tensorboard", RunFolder(tmp_path / "run"), "score-000") as log:
        log({"train/loss": 0.5}, 3)
    assert opened == [str(tmp_path / "run" / "tracker" / "score-000"), "train/loss=0.5 at 3", "closed"]


def test_without_a_tracker_nothing_is_shown(tmp_path: Path) -> None:
    with tracked(None, RunFolder(tmp_path), "score-000") as log:
        log({"train/loss": 0.5}, 1)
    assert list(tmp_path.iterdir()) == []
