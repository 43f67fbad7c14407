"""One scoring seed: a short training with everything that is observed on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hf_datadiet.identity import digest_of
from hf_datadiet.records import Plan, RunResult
from hf_datadiet.scorers.base import State
from hf_datadiet.training.checkpoint import putting_back
from hf_datadiet.training.feed import Feed
from hf_datadiet.training.lives import Life, belonging, live
from hf_datadiet.training.loop import Step, steps_of, train
from hf_datadiet.training.observe import Observation, observe
from hf_datadiet.training.packing import Tree
from hf_datadiet.training.progress import Progress
from hf_datadiet.training.randomness import streams_for, untouched_generators
from hf_datadiet.training.session import Session
from hf_datadiet.training.together import together, whole_state
from hf_datadiet.unfinished import Unfinished

PURPOSE = "score"


def score_seed(
    session: Session,
    feed: Feed,
    plan: Plan,
    seed: int,
    unit: Unfinished,
    on_epoch: Callable[[Mapping[str, float]], None] = lambda stats: None,
    on_resume: Callable[[int, int], None] = lambda epochs, steps: None,
) -> RunResult:
    """Train one model from scratch for the recipe's scoring epochs and observe it at the recipe's moments.

    Bit-identical for an equal plan, in one go or resumed from `unit`; the global generators of torch, numpy and Python are left
    as they were found. `on_resume`: (epochs, steps) that an earlier call has done. Raises `Stopped` when a signal asked for it.
    """
    belongs = belonging(session, plan, digest_of([feed.example_id]), purpose=PURPOSE, seed=seed)
    with untouched_generators(session.device):
        return live(unit, belongs, session, lambda life: _SeedRun(session, feed, plan, seed, life).run(on_epoch, on_resume), plan)


class _SeedRun:
    """The state of one scoring seed while it runs."""

    def __init__(self, session: Session, feed: Feed, plan: Plan, seed: int, life: Life) -> None:
        self.session, self.feed, self.plan, self.seed, self.life = session, feed, plan, seed, life
        self.states: dict[str, State] = {
            name: scorer.init(len(feed), session.n_classes, feed.device) for name, scorer in session.accumulators.items()
        }
        self.p_label = torch.zeros((session.recipe.score_epochs, len(feed)), dtype=torch.float16, device=feed.device)
        self.observations: list[Observation] = []
        self.weights: dict[int, Mapping[str, NDArray[np.generic]]] = {}
        self.observe_seconds = 0.0

    def run(self, on_epoch: Callable[[Mapping[str, float]], None], on_resume: Callable[[int, int], None]) -> RunResult:
        recipe, training = self.session.recipe, self.session.recipe.task.training
        streams = streams_for(PURPOSE, self.seed)
        model = self.session.new_model(self.feed, streams.init)
        if self.life.own is None:
            self._moment(model, 0)
        else:
            self._put_back(self.life.own)
            self.life.resumed(on_resume)

        def epoch_done(stats: Mapping[str, float]) -> None:
            self._moment(model, int(stats["epoch"]))
            self.life.epoch_done(int(stats["epoch"]))
            on_epoch(stats)

        curve = train(
            model,
            self.feed,
            torch.arange(len(self.feed)),
            training,
            streams,
            steps=steps_of(len(self.feed), training, recipe.score_epochs),
            schedule_steps=steps_of(len(self.feed), training),
            shared=together(self.plan),
            on_step=self._step,
            on_epoch=epoch_done,
            keep=self._keep,
            resume=self.life.training,
        )
        return self._result(curve)

    def _result(self, curve: list[dict[str, float]]) -> RunResult:
        accumulated: dict[str, torch.Tensor] = {}
        for name, scorer in self.session.accumulators.items():
            accumulated |= scorer.finish(self.states[name])
        return RunResult(
            seed=self.seed,
            example_id=self.feed.example_id,
            moments=self.session.recipe.moments,
            observed={name: np.stack([seen.scores[name] for seen in self.observations]) for name in self.session.batch_scores},
            accumulated={name: values.float().cpu().numpy() for name, values in accumulated.items()},
            predicted=np.stack([seen.predicted for seen in self.observations]),
            p_label=self.p_label.cpu().numpy(),
            curve=tuple(curve),
            seconds={"train": self.life.seconds - self.observe_seconds, "observe": self.observe_seconds},
            weights=self.weights,
            provenance=self.session.provenance,
            plan=asdict(self.plan),
            switched={
                str(epoch): seen.switched
                for epoch, seen in zip(self.session.recipe.moments, self.observations, strict=True)
                if seen.switched
            },
        )

    def _step(self, step: Step) -> None:
        rows = step.rows.to(self.feed.device)
        for name, scorer in self.session.accumulators.items():
            scorer.update(self.states[name], rows, step.logits, step.labels, step.epoch)
        probability = step.logits.softmax(1).gather(1, step.labels[:, None])[:, 0]
        self.p_label[step.epoch - 1, rows] = probability.half()
        self.life.unit.alive()

    def _moment(self, model: nn.Module, epoch: int) -> None:
        if epoch in self.session.recipe.moments:
            before = self.life.seconds
            seen = observe(model, self.feed, self.session.batch_scores, self.seed, self.plan, between=self.life.between)
            self.observations.append(seen)
            if seen.switched:
                many = f", and {len(seen.switched) - 1} more" if len(seen.switched) > 1 else ""
                what = f"gradient norms of {next(iter(seen.switched))}{many} by plain autograd"
                Progress(0).note(f"seed {self.seed}, epoch {epoch}: {what}: the plan's route does not hold there")
            # What did not fit once is not tried again.
            self.plan = replace(self.plan, observe_batch_size=seen.batch_size)
            self.observe_seconds += self.life.seconds - before
        if epoch in self.session.recipe.kept_epochs:
            # A copy: the tensors go on changing.
            self.weights[epoch] = {name: tensor.cpu().numpy().copy() for name, tensor in whole_state(model).items()}
            if epoch < self.session.recipe.score_epochs:
                self.life.unit.keep_weights(epoch, self.weights[epoch], self.life.about)

    def _keep(self, training: Tree) -> None:
        own = {
            "accumulators": self.states,
            "p_label": self.p_label,
            "observations": [vars(seen) for seen in self.observations],
            "observe_batch_size": self.plan.observe_batch_size,
            "observe_seconds": self.observe_seconds,
            "weights": sorted(self.weights),
        }
        self.life.keep(training, own, observed=bool(self.observations))

    def _put_back(self, own: Tree) -> None:
        with putting_back():
            self.states, self.p_label = own["accumulators"], own["p_label"]
            # A second signal may have come between a pass and what belongs to it: then the pass is made again.
            behind = [epoch for epoch in self.session.recipe.moments if epoch <= self.life.epochs]
            self.observations = [Observation(**seen) for seen in own["observations"][: len(behind)]]
            self.plan = replace(self.plan, observe_batch_size=own["observe_batch_size"])
            self.observe_seconds = own["observe_seconds"]
            self.weights = self.life.weights
