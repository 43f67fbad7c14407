"""A run folder made fit for work: what is damaged is named on stderr and put aside, so that it is made anew.

Only what can be made anew without changing a bit: seeds, trainings of evaluations and tunings, the task's constants, the rows that were
skipped, and the plan, which every training carries. Reading alone mends nothing: it names what is damaged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from hf_datadiet.arms import is_drawn
from hf_datadiet.durable import read_record, read_safetensors, sound
from hf_datadiet.records import ArmResult, Plan, RunResult
from hf_datadiet.sealed import remove_forgotten
from hf_datadiet.store import RunFolder


def mend(folder: RunFolder, *, keep_weights: bool = False) -> None:
    """Put aside what is damaged and remove what killed processes left behind; `StaleRecordError` for a training of another plan.

    `keep_weights`: a finished training that has kept no weights may be on its way again, for these.
    """
    remove_forgotten(folder.path)
    for path in (folder.path / "fitted.json", folder.path / "plan.json", *folder.path.glob("models/*/fitted.json")):
        sound(path, partial(read_record, path))
    sound(folder.path / "skipped.parquet", folder.skipped)
    plans: dict[Path, Mapping[str, Any]] = {}
    for path, load in _trainings(folder):

        def keep_its_plan(path: Path = path, load: Callable[[], RunResult | ArmResult | None] = load) -> None:
            if (result := load()) is not None:
                plans[path] = result.plan

        sound(path, keep_its_plan)
    for path in folder.path.glob("evaluations/*/weights/*.safetensors"):
        sound(path, partial(read_safetensors, path))
    _clear_finished(folder, keep_weights)
    known = [plan for plan in plans.values() if plan]
    if known and folder.plan() is None:
        folder.save_plan(Plan(**known[0]))
        for path, plan in plans.items():
            folder.require_plan(plan, path)


def _clear_finished(folder: RunFolder, keep_weights: bool) -> None:
    """Remove what is kept of trainings that are finished: the slower one of two launches may have left it."""
    for seed in folder.seeds():
        folder.unfinished_seed(seed).clear()
    for trials, name, arm, seed in _arms(folder):
        again = keep_weights and not is_drawn(arm) and not trials.weights_path(name, arm, seed).exists()
        if not again:
            trials.unfinished_arm(name, arm, seed).clear()


def _trainings(folder: RunFolder) -> Iterator[tuple[Path, Callable[[], RunResult | ArmResult | None]]]:
    """Every finished training, and what reads it."""
    for seed in folder.seeds():
        yield folder.seed_path(seed), partial(folder.load_seed, seed)
    for trials, name, arm, seed in _arms(folder):
        yield trials.arm_path(name, arm, seed), partial(trials.load_arm, name, arm, seed)


def _arms(folder: RunFolder) -> Iterator[tuple[RunFolder, str, str, int]]:
    """(where it lies, evaluation, arm, seed) of every finished training that judged selections or candidates."""
    for trials in (folder, folder.tunings):
        for name in trials.begun_evaluations():
            for arm, seeds in trials.trained(name).items():
                yield from ((trials, name, arm, seed) for seed in seeds)
