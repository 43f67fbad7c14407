"""What a run would cost, from a few measured steps: nothing is written."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import psutil
import torch

from hf_datadiet.records import Plan
from hf_datadiet.store import RunFolder
from hf_datadiet.training.loop import train
from hf_datadiet.training.observe import observe
from hf_datadiet.training.randomness import streams_for, untouched_generators
from hf_datadiet.training.session import OBSERVE_BATCH_SIZE, Session, measured_engine, scorers_of

PROBE_ROWS = 512
"""Rows that are decoded for the measurement."""

PROBE_STEPS = 4

T = TypeVar("T")


@dataclass(frozen=True)
class Cost:
    """Measured seconds per unit of work, and sizes in bytes. `memory`: of this process at its peak, while measuring."""

    train_seconds_per_row: float
    observe_seconds_per_row: float
    decode_seconds_per_row: float
    model_bytes: int
    row_bytes: int
    memory: int


def measure(session: Session) -> Cost:
    """Decode a few rows, take a few steps, observe a few batches, in a temporary folder."""
    with tempfile.TemporaryDirectory() as temporary, untouched_generators(session.device):
        probe = replace(session, folder=RunFolder(Path(temporary)))
        decode, feed = _timed(lambda: probe.train_feed(limit=PROBE_ROWS))
        training = session.recipe.task.training
        streams = streams_for("probe", 0)
        model = probe.new_model(feed, streams.init)
        rows = torch.arange(len(feed))

        def some_steps() -> object:
            return train(model, feed, rows, training, streams_for("probe", 0), steps=PROBE_STEPS, schedule_steps=PROBE_STEPS)

        some_steps()
        shown = min(PROBE_STEPS * training.batch_size, PROBE_STEPS * len(feed))
        step_seconds, _ = _timed(some_steps)
        scorers, _ = scorers_of(session.recipe)
        needs_norms = any("grad_norms" in scorer.needs for scorer in scorers.values())
        engine = measured_engine(probe, feed) if needs_norms else "loop"
        plan = Plan(session.device.type, torch.get_num_threads(), training.precision, min(OBSERVE_BATCH_SIZE, len(feed)), engine)
        observe_seconds, _ = _timed(lambda: observe(model, feed, scorers, 0, plan))
        size = getattr(feed.prepared, "nbytes", 0)
        return Cost(
            train_seconds_per_row=step_seconds / shown,
            observe_seconds_per_row=observe_seconds / len(feed),
            decode_seconds_per_row=decode / len(feed),
            model_bytes=sum(tensor.nbytes for tensor in model.state_dict().values()),
            row_bytes=size // len(feed),
            memory=psutil.Process().memory_info().rss,
        )


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result
