"""All that the rest of a training depends on: what it has become so far, and where it stands.

A training that is put back goes on as if nothing had been: the same rows in the same order, the same noise, the same bits.
What a module keeps elsewhere than in its parameters and buffers is not seen.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_datadiet.training.packing import Tree
from hf_datadiet.training.randomness import Streams
from hf_datadiet.unfinished import UnusableError


@contextmanager
def putting_back() -> Iterator[None]:
    """Whatever does not fit is an `UnusableError`."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UnusableError(f"what was kept does not fit ({type(error).__name__}: {error})") from error


@dataclass
class Position:
    """Where a training stands: `done` steps in all, `in_epoch` of them in epoch `epoch`, which may be its last.

    `order`: the generator of the data order as it was when the epoch began, so that its batches can be made again.
    `loss_sum`, `correct` (on the device) and `shown` are sums over the rows of the epoch. `curve`: the epochs before.
    """

    epoch: int
    order: Mapping[str, Any]
    loss_sum: torch.Tensor
    correct: torch.Tensor
    done: int = 0
    in_epoch: int = 0
    shown: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def first(cls, order: np.random.Generator, device: torch.device) -> Position:
        """Before the first step."""
        return cls(1, order.bit_generator.state, torch.zeros((), device=device), torch.zeros((), device=device))

    def step(self, loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """One step further: the mean loss [] and the logits [B, C] of its rows, whose labels are [B]."""
        self.loss_sum += loss * len(labels)
        self.correct += (logits.argmax(1) == labels).sum()
        self.shown += len(labels)
        self.done += 1
        self.in_epoch += 1

    @property
    def stats(self) -> dict[str, float]:
        """The epoch's line of the learning curve."""
        loss, accuracy = float(self.loss_sum) / self.shown, float(self.correct) / self.shown
        return {"epoch": self.epoch, "loss": loss, "accuracy": accuracy, "steps": self.in_epoch}

    def next_epoch(self, order: np.random.Generator) -> Position:
        """Behind the end of the epoch."""
        start = Position.first(order, self.loss_sum.device)
        return replace(start, epoch=self.epoch + 1, done=self.done, curve=[*self.curve, self.stats])


@dataclass(frozen=True)
class Learner:
    """What changes while a training goes on."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    streams: Streams
    device: torch.device

    def state(self, at: Position) -> Tree:
        """Everything at that position; its tensors are the training's own, and change with the next step."""
        kept = self.model.state_dict()
        return {
            "position": dict(vars(at)),
            "model": dict(kept),
            "buffers": {name: buffer for name, buffer in self.model.named_buffers() if name not in kept},
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "augment": self.streams.augment.get_state(),
            "noise": _noise(self.device),
        }

    def put_back(self, state: Tree) -> Position:
        """Make everything as it was, and say where; `UnusableError` for the state of another training."""
        with putting_back():
            self.model.load_state_dict(state["model"])
            for name, buffer in state["buffers"].items():
                module, _, own = name.rpartition(".")
                there = getattr(self.model.get_submodule(module), own)
                if isinstance(there, torch.Tensor) and there.shape == buffer.shape and there.dtype == buffer.dtype:
                    there.copy_(buffer)
                else:
                    setattr(self.model.get_submodule(module), own, buffer)
            self._put_back_optimizer(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            at = Position(**state["position"])
            self.streams.order.bit_generator.state = at.order
            self.streams.augment.set_state(state["augment"])
            _put_back_noise(state["noise"], self.device)
        return at

    def _put_back_optimizer(self, state: Tree) -> None:
        self.optimizer.load_state_dict(state)
        # Torch has put all of it where the parameters are, in their type; some optimizers keep a part of it otherwise.
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for position, values in state["state"].items():
            self.optimizer.state[parameters[position]].update(values)


def _noise(device: torch.device) -> Tree:
    """The global generators."""
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    # The global one of numpy is meant.
    return {"torch": torch.get_rng_state(), "device": on_device, "numpy": np.random.get_state(), "python": random.getstate()}  # noqa: NPY002


def _put_back_noise(state: Tree, device: torch.device) -> None:
    torch.set_rng_state(state["torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["device"], device)
    np.random.set_state(state["numpy"])  # noqa: NPY002
    random.setstate(state["python"])
