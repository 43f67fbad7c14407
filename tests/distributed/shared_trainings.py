"""Small trainings whose results can be compared: by one process, and by several at the same model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hf_datadiet import registry
from hf_datadiet.records import Plan
from hf_datadiet.training.feed import Feed
from hf_datadiet.training.loop import Step, steps_of, train
from hf_datadiet.training.observe import observe
from hf_datadiet.training.randomness import streams_for, untouched_generators
from hf_datadiet.training.redrawn import Redrawn
from hf_datadiet.training.together import together, whole_state
from tests.training.toy import CPU, N_CLASSES, ToyTask, toy_feed, toy_model, training

Arrays = dict[str, NDArray[Any]]

ADAMW = {"name": "AdamW", "lr": 0.02, "weight_decay": 0.1}


class OwnLoss(ToyTask):
    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.multi_margin_loss(logits, labels, reduction="none") + (1 + labels) * nn.functional.cross_entropy(
            logits, labels, reduction="none"
        )


class Words:
    """Rows are token lists of different lengths, padded with 0 in each batch; a dict of inputs."""

    def collate(self, prepared: list[torch.Tensor], rows: torch.Tensor, fitted: Any, device: Any, augment: Any) -> dict[str, torch.Tensor]:
        tokens = nn.utils.rnn.pad_sequence([prepared[row] for row in rows.tolist()], batch_first=True)
        return {"tokens": tokens, "mask": (tokens > 0).float()}


class WordModel(nn.Module):
    """Its outputs are more than logits, one of its layers is never used, and one only in another output."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(30, 8, padding_idx=0), nn.Linear(8, N_CLASSES)
        self.unused, self.aside = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        mean = (self.embedding(tokens) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return {"aside": self.aside(mean), "logits": self.head(mean.tanh())}


def words() -> Feed:
    rng = np.random.default_rng(3)
    rows = [torch.from_numpy(rng.integers(1, 30, rng.integers(2, 9))) for _ in range(41)]
    labels = torch.from_numpy(rng.integers(0, N_CLASSES, len(rows)))
    task: Any = Words()
    lengths = torch.tensor([len(row) for row in rows])
    return Feed(task, rows, {}, 5 * np.arange(len(rows), dtype=np.int64), labels, CPU, lengths)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, N_CLASSES))


@dataclass(frozen=True)
class Case:
    feed: Callable[[], Feed] = toy_feed
    model: Callable[[], nn.Module] = plain
    keys: Mapping[str, Any] | None = None
    redrawn: int | None = None
    """Rows of each epoch, if they are redrawn; all in every epoch otherwise."""


def own_loss() -> Feed:
    task: Any = OwnLoss()
    return replace(toy_feed(), task=task)


CASES = {
    # 37 rows in batches of 10, 9, 9, 9.
    "sgd": Case(),
    "smoothed": Case(keys={"label_smoothing": 0.2}),
    "adamw": Case(keys={"optimizer": ADAMW}),
    "own loss": Case(feed=own_loss),
    "text": Case(feed=words, model=WordModel, keys={"optimizer": ADAMW}),
    "text sgd": Case(feed=words, model=WordModel),
    # With three processes one has no row in any batch; with two rows in all, one has nothing to observe either.
    "batches of two": Case(keys={"batch_size": 2, "optimizer": {"lr": 0.02}}),
    "two rows": Case(feed=lambda: toy_feed(2)),
    "redrawn": Case(redrawn=20),
}

WITH_CHANCE = {
    # What depends on the other rows of a process, or is drawn, is not that of one process.
    "dropout": Case(model=lambda: toy_model(dropout=0.3)),
}


SHARDED = ("sgd", "adamw", "text", "batches of two", "two rows", "dropout")
"""Also with a model that is spread over the processes; without `grand` and `grand_last`."""


def plan_for(world: int, sharded: bool = False) -> Plan:
    return Plan("cpu", 1, "float32", 8, parallel="data" if world > 1 else "seeds", world=world, sharded=sharded)


def result_of(case: Case, world: int, *, sharded: bool = False, epochs: int = 3) -> Arrays:
    """Scores at every moment, forgetting, logits of every step, learning curve and last weights."""
    feed, model, plan = case.feed(), seeded(case.model), plan_for(world, sharded)
    size = len(feed) if case.redrawn is None else case.redrawn
    drawn = Redrawn(np.arange(len(feed), dtype=np.int64), size, 0)
    asked = training(**{"epochs": epochs, "batch_size": 10, "optimizer": {"lr": 0.1}, **(case.keys or {})})
    scorers: Any = {
        name: registry.find("scorers", name) for name in ("el2n", "chance", "prototype", *(() if sharded else ("grand", "grand_last")))
    }
    forgetting: Any = registry.find("scorers", "forgetting")
    state, found, logits = forgetting.init(len(feed), N_CLASSES, CPU), {}, []

    def moment(epoch: int) -> None:
        seen = observe(model, feed, scorers, 0, plan, keep_logits=True)
        assert seen.logits is not None
        found.update({f"{name}/{epoch}": values for name, values in seen.scores.items()})
        found.update({f"predicted/{epoch}": seen.predicted, f"logits/{epoch}": seen.logits.numpy()})

    def on_step(step: Step) -> None:
        forgetting.update(state, step.rows, step.logits, step.labels, step.epoch)
        logits.append(step.logits)

    with untouched_generators(CPU):
        moment(0)
        curve = train(
            model,
            feed,
            torch.arange(len(feed)) if case.redrawn is None else lambda epoch: torch.from_numpy(drawn.of(epoch)),
            asked,
            streams_for("score", 1),
            steps=steps_of(size, asked),
            schedule_steps=steps_of(size, asked),
            shared=together(plan),
            on_step=on_step,
            on_epoch=lambda stats: moment(int(stats["epoch"])),
        )
    found |= {name: values.numpy() for name, values in forgetting.finish(state).items()}
    found |= {f"weights/{name}": tensor.numpy() for name, tensor in whole_state(model).items()}
    found["steps"] = torch.cat(logits).numpy()
    found["curve"] = np.array([[stats["loss"], stats["accuracy"]] for stats in curve])
    return found
