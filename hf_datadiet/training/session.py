"""Everything a verb needs before it can train: the recipe's task, the pinned source, the prepared rows and the plan."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray

from hf_datadiet import registry
from hf_datadiet.errors import RecipeError
from hf_datadiet.gradients.norms import Engine, fastest_engine
from hf_datadiet.hub.source import Pinned, pin
from hf_datadiet.recipe import Recipe, to_yaml
from hf_datadiet.records import UNLABELLED, Direction, Plan, Provenance
from hf_datadiet.scorers.base import Accumulator, BatchScore
from hf_datadiet.store import RunFolder
from hf_datadiet.tasks.base import Task, mean_loss
from hf_datadiet.training.environment import accelerator, provenance
from hf_datadiet.training.feed import Feed, on_device
from hf_datadiet.training.loop import train
from hf_datadiet.training.randomness import streams_for, untouched_generators
from hf_datadiet.training.task import find_task
from hf_datadiet.training.tracker import check_tracker

OBSERVE_BATCH_SIZE = 256
"""What `observe_batch_size: auto` means."""

PROBE_ROWS = 16
"""Rows on which a run is tried out, and on which the engines for gradient norms are timed."""


@dataclass(frozen=True)
class Session:
    """One recipe at work in one run folder."""

    recipe: Recipe
    folder: RunFolder
    task: Task
    pinned: Pinned
    device: torch.device
    provenance: Provenance
    batch_scores: Mapping[str, BatchScore]
    accumulators: Mapping[str, Accumulator]

    @property
    def n_classes(self) -> int:
        """C."""
        return len(self.pinned.record.classes)

    @property
    def labelled(self) -> NDArray[np.int64]:
        """Ids of the rows that are trained on and scored, ascending."""
        return self.pinned.scored[self.pinned.label[self.pinned.scored] != UNLABELLED]

    @property
    def columns(self) -> dict[str, Direction]:
        """{score column: its direction}, as scoring will make them."""
        batch: dict[str, Direction] = {
            self.recipe.column(name, epoch): s.higher_is for name, s in self.batch_scores.items() for epoch in self.recipe.moments
        }
        return batch | {column.name: column.higher_is for scorer in self.accumulators.values() for column in scorer.columns}

    def train_feed(self, limit: int | None = None) -> Feed:
        """The N rows to be scored, or a few of them spread evenly, for an estimate."""
        ids = self.labelled
        if limit is not None and limit < ids.size:
            ids = ids[np.linspace(0, ids.size - 1, limit).astype(np.int64)]
        prepared = self._prepare(self.pinned.dataset, ids, self.pinned.record.split)
        fitted = self.task.fit(prepared, self.recipe.task.model)
        return self._feed(prepared, fitted, ids, self.pinned.label[ids])

    def test_feed(self, train: Feed) -> Feed:
        """The T held-out rows, normalised and tokenised as the training rows are."""
        if self.pinned.test is None:
            raise RecipeError("the recipe holds no rows out; set source.test.split=NAME or source.test.fraction=0.2")
        spec = self.recipe.source.test
        split = spec.split if spec is not None and spec.split is not None else self.pinned.record.split
        prepared = self._prepare(self.pinned.test, self.pinned.test_id, split, train.prepared)
        return self._feed(prepared, train.fitted, self.pinned.test_id, self.pinned.test_label)

    def _prepare(self, dataset: Dataset, ids: NDArray[np.int64], split: str, like: Any = None) -> Any:
        key = hashlib.sha256(f"{self.pinned.record.digest}{split}".encode() + ids.tobytes()).hexdigest()[:16]
        return self.task.prepare(dataset, ids, self.pinned.record.columns, self.folder.path / "cache", key, like)

    def _feed(self, prepared: Any, fitted: Mapping[str, Any], ids: NDArray[np.int64], label: NDArray[np.int32]) -> Feed:
        labels = torch.from_numpy(label.astype(np.int64)).to(self.device)
        lengths = self.task.lengths(prepared)
        grouped = None if lengths is None else torch.from_numpy(lengths)
        return Feed(self.task, on_device(prepared, self.device), fitted, ids, labels, self.device, grouped)

    def new_model(self, feed: Feed, init_seed: int) -> torch.nn.Module:
        """A fresh model on the device, its weights drawn on the CPU so that every device starts alike."""
        torch.manual_seed(init_seed)
        spec = self.recipe.task
        return self.task.build_model(spec.model, spec.model_args, self.n_classes, feed.prepared).to(self.device)


def open_session(
    recipe: Recipe,
    folder: RunFolder,
    *,
    command: str,
    dataset: Dataset | None = None,
    test: Dataset | None = None,
    task: Task | None = None,
    claim: bool = True,
    allow_plugins: bool = False,
) -> Session:
    """Check every name in the recipe, pin the source and make the folder this run's. Nothing is written before that.

    A folder that is not yet this run's is claimed only after one training step on a few rows: by then the model, its
    arguments, the tokenizer and the optimizer have been found to work together.

    `dataset`, `test` and `task` take the place of what the recipe would open and build. Without `claim` nothing is written at all.
    `allow_plugins` admits tasks and scores written `package.module:NAME`.
    """
    check_tracker(recipe.tracker)
    task = task or find_task(recipe, allow_plugins)
    batch_scores, accumulators = find_scores(recipe.score.scores, allow_plugins)
    given = {"test": test, recipe.source.split: dataset}
    pinned = pin(recipe.source, task.find_columns, {name: split for name, split in given.items() if split is not None})
    device = accelerator().device
    made = provenance(recipe.digest, command, device)
    session = Session(recipe, folder, task, pinned, device, made, batch_scores, accumulators)
    if claim:
        if not folder.exists():
            try_out(session)
        folder.claim(recipe.identity(), pinned.record, to_yaml(recipe))
        if pinned.noise is not None:
            folder.save_label_noise(pinned.noise.ids, pinned.noise.before, pinned.noise.after)
    return session


def try_out(session: Session) -> None:
    """Train one step on a few rows in a temporary folder, so that faults show before anything is written."""
    with tempfile.TemporaryDirectory() as temporary, untouched_generators(session.device):
        probe = replace(session, folder=RunFolder(temporary))
        feed = probe.train_feed(limit=PROBE_ROWS)
        streams = streams_for("probe", 0)
        model = probe.new_model(feed, streams.init)
        train(model, feed, torch.arange(len(feed)), session.recipe.task.training, streams, steps=1, schedule_steps=1)


def find_scores(names: Sequence[str], allow_plugins: bool = False) -> tuple[dict[str, BatchScore], dict[str, Accumulator]]:
    """The scores of both kinds, by the names of their columns; `PluginError` for one that does not exist."""
    found = {name: registry.find("scorers", name, allow_plugins) for name in names}
    # A score written package.module:NAME gives its column the name of its function.
    batch_scores = {s.function.__name__ if ":" in name else name: s for name, s in found.items() if isinstance(s, BatchScore)}
    accumulators = {name: scorer for name, scorer in found.items() if not isinstance(scorer, BatchScore)}
    if len(batch_scores) + len(accumulators) < len(found):
        raise RecipeError(f"two of the scores {', '.join(found)} have the same name; rename the function of one")
    return batch_scores, accumulators


def decide_plan(session: Session, feed: Feed) -> Plan:
    """The plan kept in the folder, or a new one: what needs measuring is measured once, on a fresh model."""
    recipe, kept = session.recipe, session.folder.plan()
    if kept is not None:
        if kept.device != session.device.type:
            raise RecipeError(
                f"{session.folder.path} was begun on {kept.device} and this is {session.device.type}: "
                "their seeds would differ in the last bits; go on there, or choose another --out"
            )
        torch.set_num_threads(kept.threads)
        return kept
    wanted = recipe.score.observe_batch_size
    plan = Plan(
        device=session.device.type,
        threads=torch.get_num_threads(),
        precision=recipe.task.training.precision,
        observe_batch_size=min(OBSERVE_BATCH_SIZE if wanted == "auto" else wanted, len(feed)),
        gradient_engine=measured_engine(session, feed),
    )
    session.folder.save_plan(plan)
    return plan


def measured_engine(session: Session, feed: Feed) -> Engine:
    """The engine for gradient norms that is faster on a fresh model, here and now; not measured if no score needs it."""
    if not any("grad_norms" in scorer.needs for scorer in session.batch_scores.values()):
        return "loop"
    rows = torch.arange(min(PROBE_ROWS, len(feed)))
    with untouched_generators(session.device):
        model = session.new_model(feed, streams_for("probe", 0).init)
        return fastest_engine(model, feed.inputs(rows), feed.labels[rows.to(session.device)], mean_loss(session.task))
