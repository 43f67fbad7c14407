"""A run that takes a second, and commands around it in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from hf_datadiet.recipe_yaml import recipe_from
from hf_datadiet.score import score_run
from hf_datadiet.store import RunFolder
from hf_datadiet.training.session import open_session

ROOT = Path(__file__).parents[2]

RECIPE: dict[str, Any] = {
    "source": {"sample": "digits", "test": {"fraction": 0.2}, "limit": 60},
    "task": {"kind": "image", "model": "timm:test_resnet", "training": {"epochs": 2, "batch_size": 32}},
    "score": {"scores": ["el2n", "margin", "forgetting"], "seeds": 5, "observe_at": [1]},
    "prune": [{"name": "keep-50", "score": "el2n", "keep": 0.5}],
    "evaluate": {"seeds": 1},
}
"""More seeds than processes anywhere, and never a multiple of them."""

PYTHON = (sys.executable, "-m")
DATADIET = (*PYTHON, "hf_datadiet")
ACCELERATE = (*PYTHON, "accelerate.commands.launch")
TORCHRUN = (*PYTHON, "torch.distributed.run")

LIMIT = 120
"""Seconds that no command here should need, even where several are at work."""


@dataclass(frozen=True)
class Ended:
    """Exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """What stands on stderr beside progress."""
        return [line for line in self.err.splitlines() if line and not line.startswith("process ")]


def write_recipe(folder: Path) -> None:
    """`toy.yaml` in the folder."""
    (folder / "toy.yaml").write_text(yaml.safe_dump(RECIPE))


def alone(folder: Path) -> Path:
    """`RECIPE` scored by this process: the run folder."""
    score_run(open_session(recipe_from(RECIPE), RunFolder(folder), command="test"), progress=False)
    return folder


def start(words: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """A command in the folder that imports this checkout."""
    given = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    return subprocess.Popen(words, cwd=folder, env=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str]) -> Ended:
    """How the command ends, which it must within `LIMIT`."""
    with process:
        try:
            out, err = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            process.terminate()  # a launcher passes it on
            raise
    return Ended(process.returncode, out, err)


def ends(processes: Sequence[subprocess.Popen[str]]) -> list[Ended]:
    """How commands end that are at work at the same time; when one does not, none is left behind."""
    try:
        return [end(process) for process in processes]
    finally:
        for process in processes:
            process.terminate()


def said(words: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> Ended:
    """`start` and `end`."""
    return end(start(words, folder, environment))


def assert_same_scores(one: Path, other: Path) -> None:
    """Every column of both run folders has the same bits, seed by seed and in the mean."""
    for name in ("scores.parquet", "seeds.parquet"):
        assert pq.read_table(one / name).equals(pq.read_table(other / name)), name
