"""The one training loop: every task, every seed, every arm."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from math import ceil
from typing import Any

import torch
from torch import nn
from transformers.optimization import get_scheduler

from hf_datadiet.errors import DivergedError, RecipeError
from hf_datadiet.gradients.forward import Inputs, logits_of
from hf_datadiet.recipe import Optimizer, Schedule, Training
from hf_datadiet.tasks.base import mean_loss
from hf_datadiet.training import stopping
from hf_datadiet.training.checkpoint import Learner, Position
from hf_datadiet.training.feed import Feed, shuffled_batches, steps_per_epoch
from hf_datadiet.training.packing import Tree
from hf_datadiet.training.randomness import Streams, seed_generators
from hf_datadiet.training.together import ALONE, Together


@dataclass(frozen=True)
class Step:
    """One training forward pass, before the update. `rows` int64 [B] on the CPU; `logits` float32 [B, C], detached."""

    epoch: int
    rows: torch.Tensor
    logits: torch.Tensor
    labels: torch.Tensor


def train(
    model: nn.Module,
    feed: Feed,
    rows: torch.Tensor | Callable[[int], torch.Tensor],
    training: Training,
    streams: Streams,
    *,
    steps: int,
    schedule_steps: int,
    shared: Together = ALONE,
    on_step: Callable[[Step], None] = lambda step: None,
    on_epoch: Callable[[Mapping[str, float]], None] = lambda stats: None,
    keep: Callable[[Tree], None] = lambda state: None,
    resume: Tree | None = None,
) -> list[dict[str, float]]:
    """Train `model` in place on `rows` (positions in the feed, int64 [K]) for `steps` steps.

    `rows` may be a function that gives those of an epoch, counted from 1: always K, always the same for the same epoch.

    The learning-rate schedule spans `schedule_steps`, which may be more. Returns the learning curve: one dict per
    epoch with its number, steps, and the mean loss and accuracy of the training forward passes. Raises `DivergedError` when
    the loss is no longer finite. `shared`: the processes that train this model together. `on_epoch` is called after each epoch,
    with the model in train mode.

    `keep` is given the state before each epoch, and before `Stopped` is raised: at the end of a step if a signal has asked for it,
    or when `on_epoch` raised it, which then is as if it had not been called. It is to be copied (`pack`) at once. With such a state
    as `resume`, for a new model and new streams of the same seed, the training goes on there and ends with the same bits;
    `UnusableError` if it does not fit.
    """
    forward = partial(_forward, shared.wrap(model), feed.device, training.precision)
    optimizer = optimizer_for(model, training.optimizer)
    learner = Learner(model, optimizer, _scheduler(optimizer, training, schedule_steps), streams, feed.device)
    criterion = mean_loss(feed.task, training.label_smoothing)
    seed_generators(streams.noise)
    model.train()
    at = Position.first(streams.order, feed.device) if resume is None else learner.put_back(resume)
    while at.in_epoch or at.done < steps:
        if not at.in_epoch:
            keep(learner.state(at))
        drawn = rows if isinstance(rows, torch.Tensor) else rows(at.epoch)
        batches = shuffled_batches(drawn, training.batch_size, streams.order, feed.lengths)
        for batch in islice(batches, at.in_epoch, at.in_epoch + steps - at.done):
            labels = feed.labels[batch.to(feed.device)]
            shared.seed_noise(streams.noise, at.done)
            inputs = feed.inputs(batch, streams.augment)
            optimizer.zero_grad(set_to_none=True)
            logits, loss = shared.backward(forward, criterion, inputs, labels)
            optimizer.step()
            learner.scheduler.step()
            on_step(Step(at.epoch, batch, logits, labels))
            at.step(loss, logits, labels)
            if shared.any(stopping.requested()):
                keep(learner.state(at))
                raise stopping.Stopped(stopping.number())
        if not torch.isfinite(at.loss_sum):
            raise DivergedError(f"the training diverged in epoch {at.epoch} (loss {at.stats['loss']}); lower task.training.optimizer.lr")
        shared.settle(model)
        ended = learner.state(at)
        try:
            on_epoch(at.stats)
        except stopping.Stopped:
            keep(ended)
            raise
        at = at.next_epoch(streams.order)
    return at.curve


def steps_of(n_rows: int, training: Training, epochs: int | None = None) -> int:
    """Steps of `epochs` epochs (default: the whole training) over n_rows rows."""
    return (epochs or training.epochs) * steps_per_epoch(n_rows, training.batch_size)


def epochs_of(steps: int, n_rows: int, training: Training) -> int:
    """Epochs over n_rows rows that `steps` steps take; the last of them may be cut short."""
    return ceil(steps / steps_per_epoch(n_rows, training.batch_size))


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bf16 autocast for training, or nothing. Accelerate's own is fixed once per process; a process may run two recipes."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def _forward(model: nn.Module, device: torch.device, precision: str, inputs: Inputs) -> torch.Tensor:
    """float32 [B, C]; a `RecipeError` where a single row is too few for the model (BatchNorm without positions)."""
    try:
        with autocast(device, precision):
            return logits_of(model, inputs).float()
    except ValueError as error:
        rows = next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs
        if len(rows) > 1 or "more than 1 value per channel" not in str(error):
            raise
        raise RecipeError(
            "the model's BatchNorm cannot train on a batch of one row; give it two rows or more, and task.training.batch_size=2 or more"
        ) from error


def optimizer_for(model: nn.Module, spec: Optimizer) -> torch.optim.Optimizer:
    """The optimizer of the parameters that require a gradient, or a `RecipeError` if it cannot train them in this loop."""
    cls: Any = getattr(torch.optim, spec.name, None)
    if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)):
        raise RecipeError(f"torch.optim has no optimizer {spec.name!r}; for example SGD or AdamW")
    closure = inspect.signature(cls.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise RecipeError(
            f"{spec.name} evaluates a batch several times per step, which would show rows more than once; choose SGD or AdamW"
        )
    if cls is torch.optim.SparseAdam:
        raise RecipeError("SparseAdam takes sparse gradients only; choose Adam or AdamW")
    given = {name: value for name, value in vars(spec).items() if name != "name" and value is not None}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise RecipeError("the model has no parameter that requires a gradient; call model.requires_grad_()")
    try:
        return cls(parameters, **given)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{spec.name} does not take these parameters ({error}); set the others to null") from None


def _scheduler(optimizer: torch.optim.Optimizer, training: Training, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    spec: Schedule = training.schedule
    if spec.name == "multistep":
        milestones = [round(milestone * steps / training.epochs) for milestone in spec.milestones]
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, spec.gamma)
    name = "constant_with_warmup" if spec.name == "constant" else spec.name
    return get_scheduler(name, optimizer, num_warmup_steps=round(spec.warmup * steps), num_training_steps=steps)
