"""A training that is stopped anywhere, put away as a file and put back ends with the bits of one that nothing stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from torch import nn

from hf_datadiet.training.feed import Feed
from hf_datadiet.training.loop import Step, train
from hf_datadiet.training.packing import Tree, pack, unpack
from hf_datadiet.training.randomness import streams_for, untouched_generators
from hf_datadiet.training.stopping import Stopped
from hf_datadiet.unfinished import UnusableError
from tests.training.toy import CPU, N_CLASSES, ask_to_stop, stopped, toy_feed, toy_model, training

STEPS = 14
"""37 rows in batches of at most 10: three epochs of four steps, and two steps of a fourth."""


class Noisy(nn.Module):
    """Draws from all three global generators, and keeps a buffer that its state dict does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, N_CLASSES)
        self.calls: torch.Tensor
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        import random

        self.calls += 1
        noise = random.random() + np.random.random() + torch.rand(())  # noqa: NPY002
        return self.linear(x) * (1 + 0.1 * noise) + 0.01 * self.calls


class Pictures(nn.Module):
    """Convolutions whose weights lie channels last, and a BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(5, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, N_CLASSES, 3, padding=1))
        self.to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x[:, :, None, None] * torch.ones(4, 4)).mean((2, 3))


def lengths(feed: Feed) -> Feed:
    return replace(feed, lengths=torch.arange(len(feed)) % 7)


@dataclass(frozen=True)
class Case:
    keys: dict[str, Any] = field(default_factory=dict)
    model: Callable[[], nn.Module] = toy_model
    feed: Callable[[Feed], Feed] = lambda feed: feed
    schedule_steps: int = STEPS


ADAM = {"name": "AdamW", "lr": 0.01}
CASES = {
    "momentum, cosine": Case({"schedule": {"name": "cosine", "warmup": 0.2}}),
    "plain, constant": Case({"optimizer": {"momentum": 0.0, "nesterov": None}, "schedule": {"name": "constant"}}),
    "multistep": Case({"schedule": {"name": "multistep", "milestones": [1, 2], "gamma": 0.3}}),
    "AdamW, linear, a longer schedule": Case({"optimizer": ADAM, "schedule": {"name": "linear"}}, schedule_steps=40),
    "dropout": Case(model=lambda: toy_model(dropout=0.4)),
    "rows of different lengths": Case(feed=lengths),
    "bf16": Case({"precision": "bf16"}),
    "all generators": Case(model=Noisy),
    "channels last": Case({"optimizer": ADAM}, model=Pictures),
    "smoothing": Case({"label_smoothing": 0.2}),
    "one epoch is one step": Case({"batch_size": 64}),
}
OPTIMIZERS = [name for name, cls in vars(torch.optim).items() if isinstance(cls, type)]
CASES |= {
    name: Case({"optimizer": {"name": name, "lr": 1e-3}})
    for name in OPTIMIZERS
    if name not in ("Optimizer", "LBFGS", "SparseAdam", "Muon", "SGD", "AdamW")
}


@dataclass
class Run:
    """What a training did, and what it kept."""

    model: nn.Module
    curve: list[dict[str, float]]
    seen: list[Step]
    kept: list[Tree]


def run(case: Case, resume: Tree | None = None, stop_after: int | None = None, kept: list[Tree] | None = None) -> Run:
    """All of it, or until a signal asks for a stop in step `stop_after`; each state goes through `away`."""
    seen: list[Step] = []
    kept = [] if kept is None else kept
    feed = case.feed(toy_feed())

    def on_step(step: Step) -> None:
        seen.append(step)
        if len(seen) == stop_after:
            ask_to_stop()

    with untouched_generators(CPU):
        torch.manual_seed(0)
        model = case.model()
        curve = train(
            model,
            feed,
            torch.arange(len(feed)),
            training(**{"epochs": 3, "batch_size": 10, **case.keys}),
            streams_for("score", 4),
            steps=STEPS,
            schedule_steps=case.schedule_steps,
            on_step=on_step,
            keep=lambda state: kept.append(away(state)),
            resume=resume,
        )
    return Run(model, curve, seen, kept)


def away(state: Tree) -> Tree:
    """Put away as arrays and text, and back."""
    arrays, plain = pack(state)
    return unpack(safetensors.numpy.load(safetensors.numpy.save(arrays)), json.loads(json.dumps(plain)), CPU)


def bits(model: nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in [*model.state_dict().items(), *model.named_buffers()]}


def same(whole: Run, *parts: Run) -> None:
    """The parts did together what the whole did, bit for bit."""
    assert bits(parts[-1].model) == bits(whole.model) and parts[-1].curve == whole.curve
    steps = [step for part in parts for step in part.seen]
    assert len(steps) == len(whole.seen)
    for found, expected in zip(steps, whole.seen, strict=True):
        assert found.epoch == expected.epoch and torch.equal(found.rows, expected.rows)
        assert torch.equal(found.logits, expected.logits) and torch.equal(found.labels, expected.labels)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_put_back_before_any_epoch(case: Case) -> None:
    whole = run(case)
    assert whole.seen and bits(whole.model) != bits(case.model())
    per_epoch = 1 if case.keys.get("batch_size") == 64 else 4
    assert [state["position"]["done"] for state in whole.kept] == list(range(0, STEPS, per_epoch))
    for state in whole.kept:
        rest = run(case, resume=state)
        before = Run(whole.model, [], whole.seen[: state["position"]["done"]], [])
        same(whole, before, rest)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("step", [1, 4, 6, 14])
def test_stopped_in_any_step(case: Case, step: int) -> None:
    """In the first, at the end of an epoch, within one, at the very end."""
    whole, first, kept = run(case), Run(nn.Module(), [], [], []), []
    with stopped():
        run(case, stop_after=step, kept=kept)
    assert kept[-1]["position"]["done"] == step
    rest = run(case, resume=kept[-1])
    first.seen = whole.seen[:step]
    same(whole, first, rest)


def test_stopped_again_and_again() -> None:
    case = CASES["dropout"]
    whole, seen, state = run(case), 0, None
    for _ in range(STEPS):
        kept: list[Tree] = []
        with stopped():
            run(case, resume=state, stop_after=1, kept=kept)
        state, seen = kept[-1], seen + 1
        assert state["position"]["done"] == seen
    last = run(case, resume=state)
    assert last.seen == [] and bits(last.model) == bits(whole.model) and last.curve == whole.curve


def test_stopped_while_an_epochs_end_is_looked_at() -> None:
    """What was begun at the end of an epoch is done again, from the same state: also of the generators that it drew from."""
    whole, kept, calls = run(CASES["dropout"]), [], []

    def once(stats: Any) -> None:
        calls.append(stats["epoch"])
        if calls == [1, 2]:
            torch.rand(5)
            raise Stopped

    def part(resume: Tree | None) -> tuple[nn.Module, Any]:
        with untouched_generators(CPU):
            torch.manual_seed(0)
            model, feed = toy_model(dropout=0.4), toy_feed()
            asked = training(epochs=3, batch_size=10)
            curve = train(
                model, feed, torch.arange(37), asked, streams_for("score", 4), steps=STEPS, schedule_steps=STEPS,
                on_epoch=once, keep=lambda state: kept.append(away(state)), resume=resume,
            )  # fmt: skip
        return model, curve

    with pytest.raises(Stopped):
        part(None)
    position = kept[-1]["position"]
    assert (position["epoch"], position["done"], position["in_epoch"]) == (2, 8, 4)
    model, curve = part(kept[-1])
    assert calls == [1, 2, 2, 3, 4]
    assert bits(model) == bits(whole.model) and curve == whole.curve


def test_another_trainings_state_does_not_fit() -> None:
    state = run(CASES["dropout"]).kept[1]
    with pytest.raises(UnusableError, match=r"what was kept does not fit \(RuntimeError: "):
        run(CASES["all generators"], resume=state)
    del state["position"]["done"]
    with pytest.raises(UnusableError, match="does not fit"):
        run(replace(CASES["dropout"]), resume={**state, "position": {}})


def test_each_part_of_the_state_is_needed() -> None:
    """Any of it left as it is at the beginning, and the training ends otherwise: nothing is kept in vain, or not put back."""
    case = replace(CASES["all generators"], keys={"optimizer": ADAM})
    whole = run(case)
    start, late = whole.kept[0], whole.kept[2]
    for part in ("model", "buffers", "optimizer", "scheduler", "augment"):
        assert bits(run(case, resume={**late, part: start[part]}).model) != bits(whole.model), part
    for part in ("torch", "numpy", "python"):
        noise = {**late["noise"], part: start["noise"][part]}
        assert bits(run(case, resume={**late, "noise": noise}).model) != bits(whole.model), part
    order = {**late["position"], "order": start["position"]["order"]}
    assert bits(run(case, resume={**late, "position": order}).model) != bits(whole.model)
