"""The observe pass: what a model at rest says of every example.

Eval mode (BatchNorm's running statistics, no dropout), no augmentation, rows in order, float32, the last partial batch
like any other. Logits and gradient norms come out of the same pass; the scores are functions of a batch and see
nothing else, so neither the batch size nor the order of the rows changes them beyond float32 rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hf_datadiet.errors import DivergedError
from hf_datadiet.gradients import GradientNorms
from hf_datadiet.gradients.forward import Inputs, logits_of
from hf_datadiet.gradients.norms import Engine
from hf_datadiet.gradients.rest import at_rest
from hf_datadiet.records import Plan
from hf_datadiet.scorers.base import BatchScore
from hf_datadiet.tasks.base import mean_loss
from hf_datadiet.training.feed import Feed


@dataclass(frozen=True)
class Observation:
    """`scores[name]` float32 [N], `predicted` int32 [N], `logits` float32 [N, C] on the CPU if they were asked for."""

    scores: Mapping[str, NDArray[np.float32]]
    predicted: NDArray[np.int32]
    logits: torch.Tensor | None


def observe(
    model: nn.Module,
    feed: Feed,
    scorers: Mapping[str, BatchScore],
    seed: int,
    plan: Plan,
    *,
    keep_logits: bool = False,
    between: Callable[[], None] = lambda: None,
) -> Observation:
    """Observe all N rows of a feed; every module comes back in the mode it was in. `DivergedError` for outputs that are not finite.

    Logits are kept only on request: of ten million rows and a thousand classes they would take 40 GB. `between` is called after
    each batch, and may raise to end the pass.
    """
    norms = norms_for(model, scorers, plan.gradient_engine, mean_loss(feed.task))
    scores: dict[str, list[torch.Tensor]] = {name: [] for name in scorers}
    predicted: list[torch.Tensor] = []
    all_logits: list[torch.Tensor] = []
    with at_rest(model):
        for rows in torch.arange(len(feed)).split(plan.observe_batch_size):
            example_id = torch.from_numpy(feed.example_id)[rows].to(feed.device)
            known = {"example_id": example_id, "seed": seed}
            seen, logits = scores_of_batch(model, norms, feed.inputs(rows), feed.labels[rows.to(feed.device)], scorers, known)
            # The loss of a step is taken before its update: a training that diverges in its last step shows only here.
            if not torch.isfinite(logits).all():
                raise DivergedError("the training diverged: the model's outputs are not finite; lower task.training.optimizer.lr")
            for name, values in seen.items():
                scores[name].append(values)
            predicted.append(logits.argmax(1).to(torch.int32))
            if keep_logits:
                all_logits.append(logits)
            between()
    return Observation(
        {name: torch.cat(parts).numpy() for name, parts in scores.items()},
        torch.cat(predicted).numpy(),
        torch.cat(all_logits) if keep_logits else None,
    )


def norms_for(
    model: nn.Module, scorers: Mapping[str, BatchScore], engine: Engine, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> GradientNorms | None:
    """The norms of the gradient of `loss`, (logits [1, C], labels [1]) -> a number, or None if no score asks for them."""
    return GradientNorms(model, loss, engine=engine) if any("grad_norms" in scorer.needs for scorer in scorers.values()) else None


def scores_of_batch(
    model: nn.Module,
    norms: GradientNorms | None,
    inputs: Inputs,
    labels: torch.Tensor,
    scorers: Mapping[str, BatchScore],
    known: Mapping[str, object],
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """What a model at rest says of B examples: {score: float32 [B]} and the logits, float32 [B, C]; both on the CPU.

    `norms` is that of `norms_for`; `labels` int64 [B]; `known`: what else scores may ask for (`example_id`, `seed`).
    """
    available: dict[str, object] = {**known, "inputs": inputs, "labels": labels}
    if norms is not None:
        result = norms(inputs, labels)
        logits, available["grad_norms"] = result.logits, result.norms
    else:
        with torch.no_grad():
            logits = logits_of(model, inputs).float()
    available["logits"] = logits
    scores = {name: scorer.function(**{need: available[need] for need in scorer.needs}).float().cpu() for name, scorer in scorers.items()}
    return scores, logits.cpu()
