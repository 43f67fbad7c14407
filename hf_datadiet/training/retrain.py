"""One arm of an evaluation: train from scratch on some of the rows, then predict every test row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hf_datadiet.errors import CoverageError
from hf_datadiet.records import ArmResult, Plan
from hf_datadiet.training.feed import Feed
from hf_datadiet.training.lives import Life, belonging, live
from hf_datadiet.training.loop import epochs_of, train
from hf_datadiet.training.observe import Observation, observe
from hf_datadiet.training.randomness import streams_for, untouched_generators
from hf_datadiet.training.redrawn import Redrawn, rows_digest
from hf_datadiet.training.session import Session
from hf_datadiet.training.together import together, whole_state
from hf_datadiet.unfinished import Unfinished

OF_THE_SCORER = ("gradient_routes", "gradient_rest", "batch_norm")
"""The parts of a plan that were decided for the run's own model."""


def retrain(
    session: Session,
    feed: Feed,
    test: Feed,
    plan: Plan,
    *,
    arm: str,
    seed: int,
    ids: NDArray[np.int64] | Redrawn,
    steps: int,
    unit: Unfinished,
    keep_weights: bool = False,
    on_epoch: Callable[[Mapping[str, float]], None] = lambda stats: None,
    on_resume: Callable[[int, int], None] = lambda epochs, steps: None,
) -> ArmResult:
    """Train on the rows `ids` (int64 [K], a subset of the feed's) and return what the last epoch's model predicts.

    `ids` may also be `Redrawn`: K others in each epoch. The learning-rate schedule runs to its end within `steps`. Bit-identical for an
    equal plan, in one go or resumed from `unit`. With `keep_weights` the result has the model's weights too, those of the last epoch.
    `on_resume`: (epochs, steps) that an earlier call has done. Raises `CoverageError` for an id that the feed does not have,
    `Stopped` when a signal asked for it.
    """
    rows, epochs = _rows(feed, ids, arm), epochs_of(steps, len(ids), session.recipe.task.training)
    digest = rows_digest(ids, epochs)
    belongs = belonging(session, plan, digest, purpose=f"evaluate/{arm}", seed=seed, steps=steps)
    shared = together(plan)

    def trained(life: Life) -> tuple[list[dict[str, float]], Observation, dict[str, NDArray[Any]] | None, float]:
        streams = streams_for(f"evaluate/{arm}", seed)
        model = session.new_model(feed, streams.init)
        life.resumed(on_resume)
        seen: list[Observation] = []

        def epoch_done(stats: Mapping[str, float]) -> None:
            if stats["epoch"] == epochs:
                seen.append(observe(model, test, {}, seed, plan, keep_logits=True, between=life.between))
            life.epoch_done(int(stats["epoch"]))
            on_epoch(stats)

        curve = train(
            model,
            feed,
            rows,
            session.recipe.task.training,
            streams,
            steps=steps,
            schedule_steps=steps,
            shared=shared,
            on_step=lambda step: unit.alive(),
            on_epoch=epoch_done,
            keep=life.keep,
            resume=life.training,
        )
        weights = {name: tensor.cpu().numpy() for name, tensor in whole_state(model).items()} if keep_weights else None
        return curve, seen[0], weights, life.seconds

    with untouched_generators(session.device):
        curve, seen, weights, seconds = live(unit, belongs, session, trained, plan)
    assert seen.logits is not None
    labels = test.labels.cpu()
    p_label = seen.logits.softmax(1).gather(1, labels[:, None])[:, 0]
    return ArmResult(
        arm=arm,
        seed=seed,
        n_rows=len(ids),
        epochs=len(curve),
        steps=steps,
        seconds=seconds,
        train_ids_digest=digest,
        predicted=seen.predicted,
        p_label=p_label.half().numpy(),
        metrics=session.task.metrics(seen.logits, labels),
        plan=_plan_of(session, replace(plan, observe_batch_size=seen.batch_size)),
        model=session.recipe.task.model,
        weights=weights,
    )


def _plan_of(session: Session, plan: Plan) -> dict[str, Any]:
    """What of the plan says something of the model that was trained: parts of it were decided for the run's own."""
    own = session.transfer_of is None
    return {key: value for key, value in asdict(plan).items() if own or key not in OF_THE_SCORER}


def _rows(feed: Feed, ids: NDArray[np.int64] | Redrawn, arm: str) -> torch.Tensor | Callable[[int], torch.Tensor]:
    """Where the rows lie in the feed, int64 [K], or what tells it of each epoch; `CoverageError` unless all of them lie there."""
    pool = ids if isinstance(ids, np.ndarray) else ids.ids
    places = np.searchsorted(feed.example_id, pool)
    if np.any(places >= len(feed)) or not np.array_equal(feed.example_id[places], pool):
        raise CoverageError(f"arm {arm}: a kept row is none of the {len(feed)} rows that are trained on")
    if isinstance(ids, Redrawn):
        return lambda epoch: torch.from_numpy(np.searchsorted(feed.example_id, ids.of(epoch)))
    return torch.from_numpy(places)
