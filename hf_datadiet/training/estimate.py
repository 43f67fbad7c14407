"""What a run would cost, from a few measured steps: nothing is written."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import psutil
import torch

from hf_datadiet.candidates import Comparison
from hf_datadiet.recipe import Training
from hf_datadiet.records import Plan
from hf_datadiet.store import RunFolder
from hf_datadiet.training.feed import Feed
from hf_datadiet.training.further import further, naming
from hf_datadiet.training.launch import threads_for
from hf_datadiet.training.loop import steps_of, train
from hf_datadiet.training.observe import observe
from hf_datadiet.training.plan import OBSERVE_BATCH_SIZE, measured_routes
from hf_datadiet.training.randomness import streams_for, untouched_generators
from hf_datadiet.training.session import Session

PROBE_ROWS = 512
"""Rows that are decoded for the measurement."""

PROBE_STEPS = 4

T = TypeVar("T")


@dataclass(frozen=True)
class Cost:
    """Measured seconds per unit of work, and sizes in bytes."""

    train_seconds_per_row: float
    observe_seconds_per_row: float
    decode_seconds_per_row: float
    model_bytes: int
    row_bytes: int


@dataclass(frozen=True)
class Forecast:
    """What would happen. `arms`: rows per arm of the evaluation, empty when only scoring. `memory_bytes`: of each process."""

    n_rows: int
    n_test: int
    n_seeds: int
    score_epochs: int
    score_steps: int
    moments: tuple[int, ...]
    arms: Mapping[str, int]
    evaluate_seeds: int
    evaluate_steps: int
    score_seconds: float
    evaluate_seconds: float
    processes: int
    memory_bytes: int
    disk_bytes: int
    tunings: Mapping[str, str] = field(default_factory=dict)
    """Of each selection by strategy auto the trainings, in words."""
    tune_steps: int = 0
    tune_seconds: float = 0.0
    models: int = 1
    """How many models are trained on each arm."""


def forecast(session: Session, *, arms: Mapping[str, int], processes: int = 1, tunings: Mapping[str, Comparison] | None = None) -> Forecast:
    """Rows, steps, seconds and bytes of a run, from `measure`. Seconds are for this machine as busy as it is now.

    `processes` share whole trainings; each is measured with the threads that it would have, but without the others beside it.
    `tunings`: what strategy auto will compare, by selection.
    """
    torch.set_num_threads(threads_for(processes))
    cost, recipe = measure(session), session.recipe
    n, n_test = len(session.labelled), session.pinned.test_id.size
    training = recipe.task.training
    paces = [cost.train_seconds_per_row, *(_pace(each) for each in further(session))] if arms else []
    held = psutil.Process().memory_info().rss
    steps = {arm: steps_of(rows if recipe.evaluate.match == "epochs" else n, training) for arm, rows in arms.items()}
    shown = sum(training.epochs * (rows if recipe.evaluate.match == "epochs" else n) for rows in arms.values()) * recipe.evaluate.seeds
    tuned = {name: len(of.selections) * of.asked.seeds for name, of in (tunings or {}).items()}
    tuned_rows = {name: of.n_kept if recipe.evaluate.match == "epochs" else of.n_rest for name, of in (tunings or {}).items()}
    tune_shown = sum(trainings * training.epochs * tuned_rows[name] for name, trainings in tuned.items())
    score_seconds = n * (
        cost.decode_seconds_per_row
        + math.ceil(recipe.score.seeds / processes)
        * (recipe.score_epochs * cost.train_seconds_per_row + len(recipe.moments) * cost.observe_seconds_per_row)
    )
    values = len(session.batch_scores) * len(recipe.moments) + 3 * len(session.accumulators)
    seed_bytes = n * (4 * values + 4 * len(recipe.moments) + 2 * recipe.score_epochs) + len(recipe.kept_epochs) * cost.model_bytes
    return Forecast(
        n_rows=n,
        n_test=n_test,
        n_seeds=recipe.score.seeds,
        score_epochs=recipe.score_epochs,
        score_steps=recipe.score.seeds * steps_of(n, training, recipe.score_epochs),
        moments=recipe.moments,
        arms=arms,
        evaluate_seeds=recipe.evaluate.seeds,
        evaluate_steps=recipe.evaluate.seeds * sum(steps.values()) * len(paces),
        score_seconds=score_seconds,
        evaluate_seconds=shown * sum(paces) / max(1, min(processes, recipe.evaluate.seeds * len(arms)))
        + (n_test * cost.decode_seconds_per_row if arms else 0.0),
        processes=processes,
        memory_bytes=held + n * values * 4 * (1 + recipe.score.seeds),
        # Per seed its record and its share of seeds.parquet; the decoded rows once.
        disk_bytes=recipe.score.seeds * (seed_bytes + 4 * n * values) + (n + (n_test if arms else 0) + len(tuned) * n) * cost.row_bytes,
        models=len(recipe.evaluations),
        tunings={name: _in_words(name, of) for name, of in (tunings or {}).items()},
        tune_steps=sum(trainings * steps_of(tuned_rows[name], training) for name, trainings in tuned.items()),
        tune_seconds=tune_shown * cost.train_seconds_per_row / max(1, min(processes, sum(tuned.values()))),
    )


def _in_words(name: str, of: Comparison) -> str:
    candidates = f"{len(of.selections)} candidates ({', '.join(of.selections)}) of {of.n_kept} rows"
    return f"{name}: {of.asked.seeds} seeds x {candidates}, {of.validation.size} rows to judge them"


def measure(session: Session) -> Cost:
    """Decode a few rows, take a few steps, observe a few batches, in a temporary folder."""
    with tempfile.TemporaryDirectory() as temporary, untouched_generators(session.device):
        probe = replace(session, folder=RunFolder(Path(temporary)))
        decode, feed = _timed(lambda: probe.train_feed(probe.few(PROBE_ROWS)))
        training = session.recipe.task.training
        model = probe.new_model(feed, streams_for("probe", 0).init)
        train_seconds_per_row = _seconds_per_row(model, feed, training)
        routes = measured_routes(probe, feed)
        size = min(OBSERVE_BATCH_SIZE, len(feed))
        plan = Plan(session.device.type, torch.get_num_threads(), training.precision, size, routes.of, routes.rest)
        observe_seconds, _ = _timed(lambda: observe(model, feed, session.batch_scores, 0, plan))
        size = getattr(feed.prepared, "nbytes", 0)
        return Cost(
            train_seconds_per_row=train_seconds_per_row,
            observe_seconds_per_row=observe_seconds / len(feed),
            decode_seconds_per_row=decode / len(feed),
            model_bytes=sum(tensor.nbytes for tensor in model.state_dict().values()),
            row_bytes=size // len(feed),
        )


def _pace(session: Session) -> float:
    """Seconds of training per row, of a further model; its faults show here too."""
    with tempfile.TemporaryDirectory() as temporary, untouched_generators(session.device), naming(session.recipe.task.model):
        probe = replace(session, folder=RunFolder(Path(temporary)))
        feed = probe.train_feed(probe.few(PROBE_ROWS))
        return _seconds_per_row(probe.new_model(feed, streams_for("probe", 0).init), feed, session.recipe.task.training)


def _seconds_per_row(model: torch.nn.Module, feed: Feed, training: Training) -> float:
    """Of a few training steps, the second time round."""

    def some_steps() -> object:
        rows = torch.arange(len(feed))
        return train(model, feed, rows, training, streams_for("probe", 0), steps=PROBE_STEPS, schedule_steps=PROBE_STEPS)

    some_steps()
    seconds, _ = _timed(some_steps)
    return seconds / min(PROBE_STEPS * training.batch_size, PROBE_STEPS * len(feed))


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result
