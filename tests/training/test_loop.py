"""The loop against a second one: stochastic gradient descent and its schedules written out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hf_datadiet.errors import RecipeError
from hf_datadiet.training.loop import Step, steps_of, train
from hf_datadiet.training.randomness import streams_for
from tests.training.toy import N_CLASSES, toy_feed, toy_model, training

STEPS = 12
"""Three epochs of 37 rows in batches of at most 10."""


def run(model: nn.Module, steps: int = STEPS, schedule_steps: int = STEPS, seed: int = 4, **keys: Any) -> tuple[list[Any], list[Step]]:
    feed, seen = toy_feed(), []
    asked = training(**{"epochs": 3, "batch_size": 10, **keys})
    streams = streams_for("score", seed)
    curve = train(model, feed, torch.arange(len(feed)), asked, streams, steps=steps, schedule_steps=schedule_steps, on_step=seen.append)
    return curve, seen


def by_hand(
    model: nn.Module, lr_of: Callable[[int], float], momentum: float, decay: float, nesterov: bool, smoothing: float, seed: int = 4
) -> list[torch.Tensor]:
    """Train `model` in place on the same rows in the same order; the logits of each step."""
    feed, streams = toy_feed(), streams_for("score", seed)
    parameters = list(model.parameters())
    velocity = [torch.zeros_like(parameter) for parameter in parameters]
    model.train()
    torch.manual_seed(streams.noise)
    logits_seen = []
    for step in range(STEPS):
        if step % 4 == 0:
            parts = np.array_split(streams.order.permutation(len(feed)), 4)
        rows = torch.from_numpy(parts[step % 4])
        logits = model(feed.task.collate(feed.prepared, rows, {}, feed.device, streams.augment))
        wanted = torch.full((len(rows), N_CLASSES), smoothing / N_CLASSES)
        wanted[torch.arange(len(rows)), feed.labels[rows]] += 1 - smoothing
        loss = -(wanted * (logits - logits.logsumexp(1, keepdim=True))).sum() / len(rows)
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, gradient, v in zip(parameters, gradients, velocity, strict=True):
                g = gradient + decay * parameter
                v.mul_(momentum).add_(g)
                parameter -= lr_of(step) * (g + momentum * v if nesterov else v)
        logits_seen.append(logits.detach())
    return logits_seen


CASES: dict[str, tuple[dict[str, Any], Callable[[int], float], dict[str, Any]]] = {
    "plain": (
        {"optimizer": {"lr": 0.2, "momentum": 0.0, "nesterov": None, "weight_decay": 0.0}, "schedule": {"name": "constant"}},
        lambda k: 0.2,
        {"momentum": 0.0, "decay": 0.0, "nesterov": False, "smoothing": 0.0},
    ),
    "the paper's": (
        {"optimizer": {"lr": 0.1}, "schedule": {"name": "multistep", "milestones": [1, 2], "gamma": 0.2}},
        lambda k: 0.1 * 0.2 ** (k // 4),
        {"momentum": 0.9, "decay": 5e-4, "nesterov": True, "smoothing": 0.0},
    ),
    "smoothed cosine": (
        {"optimizer": {"lr": 0.1, "nesterov": False, "weight_decay": 0.01}, "label_smoothing": 0.3},
        lambda k: 0.1 * 0.5 * (1 + math.cos(math.pi * k / STEPS)),
        {"momentum": 0.9, "decay": 0.01, "nesterov": False, "smoothing": 0.3},
    ),
}


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("case", CASES)
def test_against_the_loop_by_hand(case: str, dropout: float) -> None:
    keys, lr_of, rest = CASES[case]
    ours, theirs = toy_model(dropout=dropout), toy_model(dropout=dropout)
    # Whatever the caller's own generator is at.
    torch.manual_seed(1)
    _, seen = run(ours, **keys)
    expected = by_hand(theirs, lr_of, **rest)
    assert any(not torch.equal(a, b) for a, b in zip(ours.parameters(), toy_model().parameters(), strict=True))
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    for step, logits in zip(seen, expected, strict=True):
        torch.testing.assert_close(step.logits, logits, rtol=1e-5, atol=1e-6)


def test_steps_tell_rows_labels_and_epoch() -> None:
    curve, seen = run(toy_model())
    feed = toy_feed()
    assert [step.epoch for step in seen] == [1] * 4 + [2] * 4 + [3] * 4
    for epoch in (1, 2, 3):
        steps = [step for step in seen if step.epoch == epoch]
        assert sorted(torch.cat([step.rows for step in steps]).tolist()) == list(range(len(feed)))
        logits, labels = torch.cat([step.logits for step in steps]), torch.cat([step.labels for step in steps])
        assert torch.equal(labels, feed.labels[torch.cat([step.rows for step in steps])])
        stats = curve[epoch - 1]
        assert stats["epoch"] == epoch and stats["steps"] == 4
        assert stats["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
        assert stats["loss"] == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-5)


def rates(monkeypatch: pytest.MonkeyPatch, steps: int, schedule_steps: int, **keys: Any) -> list[float]:
    """The learning rate that each step used."""
    used: list[float] = []

    class Recording(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            used.append(self.param_groups[0]["lr"])
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "Recording", Recording, raising=False)
    run(toy_model(), steps=steps, schedule_steps=schedule_steps, optimizer={"name": "Recording", "lr": 0.4}, **keys)
    return used


def test_cosine_with_warmup(monkeypatch: pytest.MonkeyPatch) -> None:
    used = rates(monkeypatch, STEPS, STEPS, schedule={"name": "cosine", "warmup": 0.25})
    up = [0.4 * k / 3 for k in range(3)]
    down = [0.4 * 0.5 * (1 + math.cos(math.pi * (k - 3) / 9)) for k in range(3, STEPS)]
    assert used == pytest.approx(up + down)


def test_linear_with_warmup(monkeypatch: pytest.MonkeyPatch) -> None:
    used = rates(monkeypatch, STEPS, STEPS, schedule={"name": "linear", "warmup": 0.25})
    assert used == pytest.approx([0.4 * k / 3 for k in range(3)] + [0.4 * (STEPS - k) / 9 for k in range(3, STEPS)])


def test_constant_with_warmup(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rates(monkeypatch, STEPS, STEPS, schedule={"name": "constant", "warmup": 0.5}) == pytest.approx(
        [0.4 * k / 6 for k in range(6)] + [0.4] * 6
    )


def test_multistep_changes_after_the_named_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    used = rates(monkeypatch, STEPS, STEPS, schedule={"name": "multistep", "milestones": [1, 2], "gamma": 0.5})
    assert used == pytest.approx([0.4] * 4 + [0.2] * 4 + [0.1] * 4)


def test_milestones_shrink_with_a_shorter_training(monkeypatch: pytest.MonkeyPatch) -> None:
    # Three planned epochs in six steps: an epoch of the plan is two steps.
    used = rates(monkeypatch, 6, 6, schedule={"name": "multistep", "milestones": [1, 2], "gamma": 0.5})
    assert used == pytest.approx([0.4, 0.4, 0.2, 0.2, 0.1, 0.1])


def test_a_scoring_run_follows_the_schedule_of_the_whole_training(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rates(monkeypatch, STEPS, STEPS, schedule={"name": "cosine"})
    assert rates(monkeypatch, 4, STEPS, schedule={"name": "cosine"}) == whole[:4]


@pytest.mark.parametrize(("steps", "per_epoch"), [(3, [3]), (4, [4]), (6, [4, 2])])
def test_training_may_end_within_an_epoch(steps: int, per_epoch: list[int]) -> None:
    curve, seen = run(toy_model(), steps=steps)
    assert [stats["steps"] for stats in curve] == per_epoch and len(seen) == steps
    last = [step for step in seen if step.epoch == len(per_epoch)]
    logits, labels = torch.cat([step.logits for step in last]), torch.cat([step.labels for step in last])
    assert curve[-1]["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))


def test_on_epoch_sees_every_epoch_in_train_mode() -> None:
    model, feed, calls = toy_model(), toy_feed(), []
    curve = train(
        model,
        feed,
        torch.arange(len(feed)),
        training(epochs=2, batch_size=10),
        streams_for("score", 0),
        steps=8,
        schedule_steps=8,
        on_epoch=lambda stats: calls.append((dict(stats), model.training)),
    )
    assert calls == [(stats, True) for stats in curve] and len(calls) == 2


def test_only_the_rows_given_are_shown() -> None:
    feed, shown = toy_feed(), []
    rows = torch.tensor([3, 30, 7, 12, 20])
    train(
        toy_model(),
        feed,
        rows,
        training(batch_size=3),
        streams_for("score", 0),
        steps=4,
        schedule_steps=4,
        on_step=lambda step: shown.extend(step.rows.tolist()),
    )
    assert sorted(shown) == sorted(rows.tolist() * 2)


def test_steps_of() -> None:
    asked = training(epochs=3, batch_size=10)
    assert steps_of(37, asked) == 12 and steps_of(40, asked) == 12 and steps_of(41, asked) == 15 and steps_of(37, asked, 1) == 4


def test_divergence_names_the_remedy() -> None:
    with pytest.raises(RecipeError, match=r"diverged in epoch \d.*lower task\.training\.optimizer\.lr"):
        run(toy_model(), optimizer={"lr": 1e9}, schedule={"name": "constant"})


def test_bf16_trains_in_mixed_precision() -> None:
    single, mixed = toy_model(), toy_model()
    curve, _ = run(single)
    curve16, seen = run(mixed, precision="bf16")
    assert all(step.logits.dtype == torch.float32 for step in seen)
    assert {parameter.dtype for parameter in mixed.parameters()} == {torch.float32}
    assert curve16 != curve
    assert curve16[-1]["loss"] == pytest.approx(curve[-1]["loss"], rel=0.2)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"name": "AdamW", "momentum": 0.9}, "AdamW does not take these parameters.*set the others to null"),
        ({"name": "SGD", "momentum": 0.0}, "SGD does not take these parameters.*Nesterov"),
        ({"name": "SGDD"}, "torch.optim has no optimizer 'SGDD'"),
        ({"name": "lr_scheduler"}, "torch.optim has no optimizer 'lr_scheduler'"),
        ({"name": "LBFGS"}, "LBFGS evaluates a batch several times per step.*; choose SGD or AdamW"),
        ({"name": "SparseAdam"}, "SparseAdam takes sparse gradients only; choose Adam or AdamW"),
    ],
)
def test_an_optimizer_that_does_not_fit(optimizer: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        run(toy_model(), optimizer=optimizer)


@pytest.mark.parametrize("name", [name for name, cls in vars(torch.optim).items() if isinstance(cls, type)])
def test_every_optimizer_trains_or_says_in_a_line_why_not(name: str) -> None:
    refused = {"Optimizer", "LBFGS", "SparseAdam", "Muon"}
    with pytest.raises(RecipeError, match=r"^.*$") if name in refused else nullcontext():
        curve, _ = run(toy_model(), steps=2, optimizer={"name": name, "lr": 1e-3})
        assert math.isfinite(curve[-1]["loss"])


@pytest.mark.parametrize(("n", "batch_size"), [(7, 2), (3, 2), (2, 1), (1, 8)])
def test_batches_of_one_row(n: int, batch_size: int) -> None:
    def trained(model: nn.Module) -> list[int]:
        shown: list[int] = []
        streams, asked = streams_for("score", 0), training(batch_size=batch_size, optimizer={"lr": 0.01})
        steps = steps_of(n, asked, 2)
        train(
            model,
            toy_feed(),
            torch.arange(n),
            asked,
            streams,
            steps=steps,
            schedule_steps=steps,
            on_step=lambda s: shown.extend(s.rows.tolist()),
        )
        return sorted(shown)

    if n > 1 and batch_size > 1:
        assert trained(toy_model()) == sorted([*range(n)] * 2), "every row once per epoch"
    else:
        with pytest.raises(
            RecipeError, match=r"BatchNorm cannot train on a batch of one row; give it two rows or more, and .*batch_size=2"
        ):
            trained(toy_model())
    assert trained(nn.Linear(5, N_CLASSES)) == sorted([*range(n)] * 2), "a model without BatchNorm takes single rows"


def test_another_fault_of_a_single_row_keeps_its_traceback() -> None:
    class Broken(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        run(Broken(5, N_CLASSES), batch_size=1)


def test_adamw_needs_nothing_but_its_name() -> None:
    curve, _ = run(toy_model(), optimizer={"name": "AdamW", "lr": 0.01})
    assert curve[-1]["loss"] < curve[0]["loss"]


def test_frozen_parameters_stay() -> None:
    model = toy_model()
    first = model.get_parameter("0.weight")
    first.requires_grad_(False)
    before = first.clone()
    run(model)
    assert torch.equal(first, before)
