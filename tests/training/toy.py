"""A task on vectors that needs no dataset, and small real sessions on digits."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hf_datadiet.recipe import Training
from hf_datadiet.recipe_yaml import build, recipe_from, with_overrides
from hf_datadiet.records import Plan
from hf_datadiet.store import RunFolder
from hf_datadiet.training import stopping
from hf_datadiet.training.feed import Feed
from hf_datadiet.training.session import Session, open_session
from hf_datadiet.training.stopping import Stopped
from hf_datadiet.unfinished import Unfinished

CPU = torch.device("cpu")
PLAN = Plan("cpu", 1, "float32", 256)
N_CLASSES = 3


class ToyTask:
    """Rows are vectors; augmentation adds noise."""

    def collate(self, prepared: torch.Tensor, rows: torch.Tensor, fitted: Any, device: torch.device, augment: Any) -> torch.Tensor:
        clean = prepared[rows]
        return clean if augment is None else clean + 0.3 * torch.randn(clean.shape, generator=augment)

    def logits(self, output: torch.Tensor) -> torch.Tensor:
        return output

    def metrics(self, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        return {"accuracy": float((logits.argmax(1) == labels).double().mean())}


def toy_feed(n: int = 37, width: int = 5) -> Feed:
    """N rows of three classes, not all alike; ids are 10, 13, 16, ..."""
    generator = torch.Generator().manual_seed(11)
    labels = torch.randint(0, N_CLASSES, (n,), generator=generator)
    prepared = torch.randn(n, width, generator=generator) + nn.functional.one_hot(labels, width)
    task: Any = ToyTask()
    return Feed(task, prepared, {}, 10 + 3 * np.arange(n, dtype=np.int64), labels, CPU)


def toy_model(width: int = 5, dropout: float = 0.0, seed: int = 0) -> nn.Module:
    """BatchNorm, and dropout on request."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(width, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, N_CLASSES))


def training(**keys: Any) -> Training:
    """The recipe's keys of `task.training`."""
    return build(Training, keys, "task.training")


SMALL: Mapping[str, Any] = {
    "source": {"sample": "digits", "limit": 60, "test": {"fraction": 0.02}},
    "task": {
        "model": "timm:test_resnet",
        "crop": 1,
        "training": {"epochs": 3, "batch_size": 16, "optimizer": {"lr": 0.05}},
    },
    "score": {"scores": ["el2n", "forgetting"], "seeds": 2, "observe_at": [0, 1], "epochs": 2},
}


def new_unit(session: Session) -> Unfinished:
    """A training that nobody has begun."""
    return Unfinished(session.folder.path / "units" / uuid.uuid4().hex)


def ask_to_stop() -> None:
    """As a first SIGTERM does."""
    stopping._asked = signal.SIGTERM


@contextmanager
def stopped() -> Iterator[None]:
    """The block ends because `ask_to_stop` was called."""
    try:
        with pytest.raises(Stopped) as error:
            yield
    finally:
        stopping._asked = None
    assert error.value.number == signal.SIGTERM


def small_session(folder: Path, overrides: Mapping[str, Any] | None = None, *, claim: bool = True) -> Session:
    """Sixty digits, two of three epochs."""
    return open_session(recipe_from(with_overrides(SMALL, overrides or {})), RunFolder(folder), command="test", claim=claim)


def by(way: str, model: nn.Module) -> Plan:
    """The plan with gradient norms by the rules of layers ("rules"), or by either fallback ("loop", "vmap")."""
    fallen = {} if way == "rules" else {name: "fallback: asked for" for name, _ in model.named_parameters()}
    return replace(PLAN, gradient_routes=fallen, gradient_rest="vmap" if way == "vmap" else "loop")
