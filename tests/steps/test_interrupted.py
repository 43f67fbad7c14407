"""The real command, stopped by signals or killed: given again, it goes on, and ends with the bits of a run that nothing stopped."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors import SafetensorError, safe_open

from hf_datadiet.store import RunFolder
from tests.steps.kills import COMMAND, kill_one_of_two, killed, start
from tests.steps.test_score import columns
from tests.training.test_seeds import same_bits

RECIPE: Mapping[str, Any] = {
    "source": {"sample": "digits", "limit": 48, "test": {"fraction": 0.02}},
    "task": {"model": "timm:test_resnet", "crop": 1, "training": {"epochs": 50, "batch_size": 16}},
    "score": {"scores": ["el2n", "forgetting"], "seeds": 2, "observe_at": [0, 20, 40], "keep_weights": "moments"},
    "prune": [{"name": "keep-50", "score": "el2n", "keep": 0.5}],
}
"""Two seeds of fifty epochs of three steps."""


def recipe(folder: Path, **changed: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "asked.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **changed}))
    return path


def finished(words: list[str], cwd: Path) -> str:
    """What the command, undisturbed, says on stderr."""
    ended = subprocess.run([*COMMAND, *words], cwd=cwd, capture_output=True, text=True, timeout=500, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


def position(run: Path) -> tuple[int, dict[str, int]]:
    """Results there are, and steps in each checkpoint."""
    steps: dict[str, int] = {}
    for path in run.glob("unfinished/**/checkpoint.safetensors"):
        try:
            with safe_open(path, framework="numpy") as file:
                training = dict(json.loads(file.metadata()["meta"])["plain"]["dict"])["training"]
        except SafetensorError as error:
            raise AssertionError(f"{path} is torn") from error
        steps[str(path.parent)] = dict(dict(training["dict"])["position"]["dict"])["done"]
    return len([*run.glob("seeds/[0-9]*"), *run.glob("evaluations/*/arms/[a-z]*")]), steps


def nothing_stray(run: Path) -> None:
    """What has a name is a whole result, and no training is unfinished."""
    assert not (run / "unfinished").exists() or not [path for path in (run / "unfinished").rglob("[!.]*") if path.is_file()]
    folder = RunFolder(run)
    assert sorted(path.name for path in run.glob("seeds/[!.]*")) == ["000", "001"]
    for seed in (0, 1):
        assert set(folder.load_seed(seed, with_weights=True).weights) == {0, 20, 40, 50}


def same_run(one: Path, two: Path) -> None:
    """Every column, and all that the seeds keep."""
    for name in ("scores.parquet", "seeds.parquet"):
        assert columns(one, name) == columns(two, name)
    for seed in (0, 1):
        same_bits(*(RunFolder(run).load_seed(seed, with_weights=True) for run in (one, two)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    finished(["score", str(recipe(folder)), "--out", "run"], folder)
    nothing_stray(folder / "run")
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_answered_at_the_end_of_a_step(tmp_path: Path, whole: Path, number: signal.Signals) -> None:
    words = ["score", str(recipe(tmp_path)), "--out", "run"]
    with start([*COMMAND, *words], tmp_path) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("score  seed 2/2  epoch 3/"):
                process.send_signal(number)
                break
        rest = process.stderr.read().splitlines()
    assert process.returncode == 128 + number
    assert rest[-1] == "hf-datadiet: interrupted; the same command goes on where it stopped"
    assert all(line.startswith("score  seed 2/2") for line in rest[:-1] if line)
    left = tmp_path / "run" / "unfinished" / "score" / "001"
    progress = json.loads((left / "progress.json").read_text())
    assert progress["state"] == "stopped" and progress["epoch"] >= 3 and progress["epochs"] == 50 and progress["seconds"] > 0
    assert not list(tmp_path.rglob("*.tmp"))
    _, steps = position(tmp_path / "run")
    (step,) = steps.values()
    said = finished(words, tmp_path).splitlines()
    assert f"seed 1 goes on after epoch {(step - 1) // 3} (step {step})" in said, "from that step, not from the end of an epoch"
    assert not [line for line in said if line.startswith("score  ") and "epoch 1/" in line]
    nothing_stray(tmp_path / "run")
    same_run(tmp_path / "run", whole)


@pytest.mark.slow
def test_scoring_killed_at_twenty_random_moments(tmp_path: Path, whole: Path) -> None:
    words, run = ["score", str(recipe(tmp_path)), "--out", "run"], tmp_path / "run"
    further = killed(words, tmp_path, times=20, rng=np.random.default_rng(0), position=lambda: position(run))
    assert further >= 10, f"{further} of 20 kills hit a training that had got further"
    finished(words, tmp_path)
    nothing_stray(run)
    same_run(run, whole)


@pytest.mark.slow
def test_one_of_two_processes_killed(tmp_path: Path) -> None:
    """The other one is stopped, and keeps what it has; the same command goes on with both. Long enough for that: it takes seconds."""
    training = {**RECIPE["task"]["training"], "epochs": 400}
    asked = recipe(tmp_path, task={**RECIPE["task"], "training": training}, score={"seeds": 2, "observe_at": [0]})
    finished(["score", str(asked), "--out", "whole"], tmp_path)
    words, two, run = ["score", str(asked), "--out", "run"], ["--num-processes", "2"], tmp_path / "run"
    rng, at = np.random.default_rng(2), partial(position, run)
    further = killed(words, tmp_path, times=5, rng=rng, position=at, behind=two, end=kill_one_of_two, code=1)
    assert further >= 2, f"{further} of 5 kills hit a training that had got further"
    finished([*words, *two], tmp_path)
    assert not (run / "unfinished").exists() or not [path for path in (run / "unfinished").rglob("[!.]*") if path.is_file()]
    same_run(run, tmp_path / "whole")


@pytest.mark.slow
def test_an_evaluation_killed_at_twenty_random_moments(tmp_path: Path) -> None:
    training = {**RECIPE["task"]["training"], "epochs": 14}
    asked = recipe(tmp_path, task={**RECIPE["task"], "training": training}, score={"epochs": 1, "seeds": 1}, evaluate={"seeds": 2})
    for name in ("whole", "run"):
        finished(["score", str(asked), "--out", name], tmp_path)
        finished(["prune", name, "--name", "keep-50", "--score", "el2n", "--keep", "0.5"], tmp_path)
    finished(["evaluate", "whole"], tmp_path)
    run = tmp_path / "run"
    further = killed(["evaluate", "run"], tmp_path, times=20, rng=np.random.default_rng(1), position=lambda: position(run))
    assert further >= 10, f"{further} of 20 kills hit a training that had got further"
    finished(["evaluate", "run"], tmp_path)
    assert not (run / "unfinished").exists() or not [path for path in (run / "unfinished").rglob("[!.]*") if path.is_file()]
    ours, theirs = RunFolder(run).load_evaluation("main"), RunFolder(tmp_path / "whole").load_evaluation("main")
    assert [(one.arm, one.seed, one.train_ids_digest, one.metrics) for one in ours.results] == [
        (one.arm, one.seed, one.train_ids_digest, one.metrics) for one in theirs.results
    ]
    predictions = [pq.read_table(tmp_path / name / "evaluations" / "main" / "predictions.parquet") for name in ("run", "whole")]
    assert predictions[0].equals(predictions[1])
    assert sorted(path.name for path in run.glob("evaluations/main/arms/[!.]*")) == sorted(
        path.name for path in (tmp_path / "whole").glob("evaluations/main/arms/*")
    )
