"""A run that goes on must go on with the same model, tokenizer and task, whatever their names say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from torch import nn

from hf_datadiet import CallableTask, score_dataset
from hf_datadiet.errors import StaleRecordError
from hf_datadiet.store import RunFolder

RNG = np.random.default_rng(0)
ROWS = Dataset.from_dict(
    {"x": RNG.normal(size=(40, 6)).tolist(), "label": [0, 1] * 20},
    features=Features({"x": List(Value("float32")), "label": ClassLabel(names=["a", "b"])}),
)


class Scaled(nn.Module):
    """Two of these print alike and weigh alike, and say different things."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(6, 2), scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * self.layer(x)


def task(scale: float = 1.0, factor: float = 1.0, loss: Any = None) -> CallableTask:
    return CallableTask(
        model_init=lambda n_classes: Scaled(scale), collate_fn=lambda rows: factor * torch.tensor([row["x"] for row in rows]), loss_fn=loss
    )


def smoothed(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits, labels, label_smoothing=0.1, reduction="none")


def score(out: Path, given: CallableTask, seeds: int = 1) -> None:
    options = {"task.training.batch_size": 8, "task.training.optimizer.lr": 0.01}
    score_dataset(ROWS, task=given, seeds=seeds, epochs=1, out=out, options=options, progress=False)


@pytest.mark.parametrize("other", [task(scale=2), task(factor=100), task(loss=smoothed)], ids=["forward", "collate", "loss"])
def test_a_run_goes_on_with_its_own_task_only(tmp_path: Path, other: CallableTask) -> None:
    score(tmp_path / "run", task())
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(StaleRecordError, match=r"begun with another model, tokenizer or task: .* \(\d[\d.]* % apart\)"):
        score(tmp_path / "run", other, seeds=2)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    score(tmp_path / "run", task(), seeds=2)
    assert RunFolder(tmp_path / "run").load_scores().seeds == (0, 1)


def test_models_that_print_alike(tmp_path: Path) -> None:
    def run(net: Any, seeds: int) -> None:
        keep = CallableTask(model_init=Scaled, collate_fn=lambda rows: torch.tensor([row["x"] for row in rows]))
        score_dataset(ROWS, model=net, task=keep, seeds=seeds, epochs=1, out=tmp_path, progress=False)

    run(lambda: Scaled(1), 1)
    with pytest.raises(StaleRecordError, match="begun with another model"):
        run(lambda: Scaled(50), 2)
    run(lambda: Scaled(1), 2)


def test_rounding_of_another_machine_is_the_same_start(tmp_path: Path) -> None:
    score(tmp_path, task())
    folder = RunFolder(tmp_path)
    kept = folder.start()
    assert kept is not None and np.shape(kept["logits"]) == (16, 2) and len(kept["loss"]) == len(kept["example_id"]) == 16

    def began(other: float) -> None:
        (tmp_path / "start.json").unlink()
        folder.save_start({**kept, "logits": (np.array(kept["logits"]) * (1 + other)).tolist()})

    began(1e-5)
    score(tmp_path, task(), seeds=2)
    began(1e-2)
    with pytest.raises(StaleRecordError, match=r"1\.0 % apart"):
        score(tmp_path, task(), seeds=3)
