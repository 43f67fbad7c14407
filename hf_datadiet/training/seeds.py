"""One scoring seed: a short training with everything that is observed on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hf_datadiet.records import Plan, RunResult
from hf_datadiet.scorers.base import State
from hf_datadiet.training.feed import Feed
from hf_datadiet.training.loop import Step, steps_of, train
from hf_datadiet.training.observe import Observation, observe
from hf_datadiet.training.randomness import streams_for, untouched_generators
from hf_datadiet.training.session import Session

PURPOSE = "score"


def score_seed(
    session: Session, feed: Feed, plan: Plan, seed: int, on_epoch: Callable[[Mapping[str, float]], None] = lambda stats: None
) -> RunResult:
    """Train one model from scratch for the recipe's scoring epochs and observe it at the recipe's moments.

    Bit-identical for an equal plan; the global generators of torch, numpy and Python are left as they were found.
    """
    with untouched_generators(session.device):
        return _SeedRun(session, feed, plan, seed).run(on_epoch)


class _SeedRun:
    """The state of one scoring seed while it runs."""

    def __init__(self, session: Session, feed: Feed, plan: Plan, seed: int) -> None:
        self.session, self.feed, self.plan, self.seed = session, feed, plan, seed
        self.states: dict[str, State] = {
            name: scorer.init(len(feed), session.n_classes, feed.device) for name, scorer in session.accumulators.items()
        }
        self.p_label = torch.zeros((session.recipe.score_epochs, len(feed)), dtype=torch.float16, device=feed.device)
        self.observations: list[Observation] = []
        self.weights: dict[int, dict[str, NDArray[np.generic]]] = {}
        self.observe_seconds = 0.0

    def run(self, on_epoch: Callable[[Mapping[str, float]], None]) -> RunResult:
        recipe, training = self.session.recipe, self.session.recipe.task.training
        streams = streams_for(PURPOSE, self.seed)
        start = time.perf_counter()
        model = self.session.new_model(self.feed, streams.init)
        self._moment(model, 0)

        def epoch_done(stats: Mapping[str, float]) -> None:
            self._moment(model, int(stats["epoch"]))
            on_epoch(stats)

        curve = train(
            model,
            self.feed,
            torch.arange(len(self.feed)),
            training,
            streams,
            steps=steps_of(len(self.feed), training, recipe.score_epochs),
            schedule_steps=steps_of(len(self.feed), training),
            on_step=self._step,
            on_epoch=epoch_done,
        )
        seconds = time.perf_counter() - start
        accumulated: dict[str, torch.Tensor] = {}
        for name, scorer in self.session.accumulators.items():
            accumulated |= scorer.finish(self.states[name])
        return RunResult(
            seed=self.seed,
            example_id=self.feed.example_id,
            moments=recipe.moments,
            observed={name: np.stack([seen.scores[name] for seen in self.observations]) for name in self.session.batch_scores},
            accumulated={name: values.float().cpu().numpy() for name, values in accumulated.items()},
            predicted=np.stack([seen.predicted for seen in self.observations]),
            p_label=self.p_label.cpu().numpy(),
            curve=tuple(curve),
            seconds={"train": seconds - self.observe_seconds, "observe": self.observe_seconds},
            weights=self.weights,
            provenance=self.session.provenance,
            plan=asdict(self.plan),
        )

    def _step(self, step: Step) -> None:
        rows = step.rows.to(self.feed.device)
        for name, scorer in self.session.accumulators.items():
            scorer.update(self.states[name], rows, step.logits, step.labels, step.epoch)
        probability = step.logits.softmax(1).gather(1, step.labels[:, None])[:, 0]
        self.p_label[step.epoch - 1, rows] = probability.half()

    def _moment(self, model: nn.Module, epoch: int) -> None:
        if epoch in self.session.recipe.moments:
            start = time.perf_counter()
            self.observations.append(observe(model, self.feed, self.session.batch_scores, self.seed, self.plan))
            self.observe_seconds += time.perf_counter() - start
        if epoch in self.session.recipe.kept_epochs:
            # A copy: the tensors go on changing.
            self.weights[epoch] = {name: tensor.detach().cpu().numpy().copy() for name, tensor in model.state_dict().items()}
