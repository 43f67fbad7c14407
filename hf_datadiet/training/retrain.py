"""One arm of an evaluation: train from scratch on some of the rows, then predict every test row."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict

import numpy as np
import torch
from numpy.typing import NDArray

from hf_datadiet.errors import CoverageError
from hf_datadiet.identity import digest_of
from hf_datadiet.records import ArmResult, Plan
from hf_datadiet.training.feed import Feed
from hf_datadiet.training.loop import train
from hf_datadiet.training.observe import observe
from hf_datadiet.training.randomness import streams_for, untouched_generators
from hf_datadiet.training.session import Session


def retrain(
    session: Session,
    feed: Feed,
    test: Feed,
    plan: Plan,
    *,
    arm: str,
    seed: int,
    ids: NDArray[np.int64],
    steps: int,
    on_epoch: Callable[[Mapping[str, float]], None] = lambda stats: None,
) -> ArmResult:
    """Train on the rows `ids` (int64 [K], a subset of the feed's) and return what the last epoch's model predicts.

    The learning-rate schedule runs to its end within `steps`. Raises `CoverageError` for an id that the feed does not have.
    """
    rows = np.searchsorted(feed.example_id, ids)
    if np.any(rows >= len(feed)) or not np.array_equal(feed.example_id[rows], ids):
        raise CoverageError(f"arm {arm}: a kept row is none of the {len(feed)} rows that are trained on")
    start = time.perf_counter()
    with untouched_generators(session.device):
        streams = streams_for(f"evaluate/{arm}", seed)
        model = session.new_model(feed, streams.init)
        training, chosen = session.recipe.task.training, torch.from_numpy(rows)
        curve = train(model, feed, chosen, training, streams, steps=steps, schedule_steps=steps, on_epoch=on_epoch)
        seen = observe(model, test, {}, seed, plan, keep_logits=True)
    assert seen.logits is not None
    labels = test.labels.cpu()
    p_label = seen.logits.softmax(1).gather(1, labels[:, None])[:, 0]
    return ArmResult(
        arm=arm,
        seed=seed,
        n_rows=len(ids),
        epochs=len(curve),
        steps=steps,
        seconds=time.perf_counter() - start,
        train_ids_digest=digest_of([ids]),
        predicted=seen.predicted,
        p_label=p_label.half().numpy(),
        metrics=session.task.metrics(seen.logits, labels),
        plan=asdict(plan),
    )
