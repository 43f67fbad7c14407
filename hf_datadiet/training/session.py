"""Everything a verb needs before it can train: the recipe's task, the pinned source and the prepared rows."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from numpy.typing import NDArray

from hf_datadiet import registry
from hf_datadiet.errors import DataDietError, RecipeError
from hf_datadiet.hub.opening import in_memory
from hf_datadiet.hub.source import Pinned, pin
from hf_datadiet.mending import mend
from hf_datadiet.recipe import Recipe
from hf_datadiet.recipe_yaml import to_yaml
from hf_datadiet.records import UNLABELLED, Direction, Provenance
from hf_datadiet.scorers.base import Accumulator, BatchScore
from hf_datadiet.store import RunFolder
from hf_datadiet.tasks.base import Task
from hf_datadiet.training.environment import provenance
from hf_datadiet.training.feed import Feed, on_device
from hf_datadiet.training.further import further, naming, task_for
from hf_datadiet.training.given import GivenModel, is_given
from hf_datadiet.training.heap import keep_memory
from hf_datadiet.training.loop import train
from hf_datadiet.training.processes import Processes, accelerator, processes
from hf_datadiet.training.randomness import seed_generators, streams_for, untouched_generators
from hf_datadiet.training.rows import Rows, readable, record, unreadable
from hf_datadiet.training.start import check_start, start_of
from hf_datadiet.training.task import find_task
from hf_datadiet.training.tracker import check_tracker

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
    given: GivenModel | None = None
    """The model if it comes from Python."""
    processes: Processes = field(default_factory=processes)
    transfer_of: str | None = None
    """The evaluation that this session repeats with a further model (`further`); None for a session of the run's own model."""

    @property
    def apart(self) -> str | None:
        """The name under which the folder keeps what depends on the model; None for the run's own."""
        return None if self.transfer_of is None else self.recipe.evaluate.name

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
        found: dict[str, Direction] = {}
        for name, scorer in self.batch_scores.items():
            found |= {self.recipe.column(name, epoch): scorer.higher_is for epoch in self.recipe.moments}
        for accumulator in self.accumulators.values():
            found |= {column.name: column.higher_is for column in accumulator.columns}
        return found

    def few(self, n: int) -> NDArray[np.int64]:
        """Ids of n of the rows to be scored, spread evenly; all of them if there are no more."""
        return self.labelled[np.unique(np.linspace(0, len(self.labelled) - 1, n).astype(np.int64))]

    def train_feed(self, ids: NDArray[np.int64] | None = None) -> Feed:
        """The N rows to be scored, or some of them."""
        ids = self.labelled if ids is None else ids
        prepared, bad = self.rows.prepared(ids)
        # Rows that cannot be read have been looked for, except before a dry run.
        ids = np.setdiff1d(ids, list(bad))
        return self._feed(prepared, self._fitted(prepared), ids, self.pinned.label[ids])

    def _fitted(self, prepared: Any) -> Mapping[str, Any]:
        """What the task takes from the rows: taken once per run and model, by the first launch, then read by all."""
        if not self.folder.has_fitted(self.apart):
            with untouched_generators(self.device):  # a function from Python may draw
                self.folder.save_fitted(self.task.fit(prepared, self._model()), self.apart)
        return self.folder.fitted(self.apart)

    def test_feed(self, train: Feed) -> Feed:
        """The T held-out rows, normalised and tokenised as the training rows are."""
        if self.pinned.test is None:
            raise RecipeError("the recipe holds no rows out; set source.test.split=NAME or source.test.fraction=0.2")
        prepared, _ = self.rows.prepared(self.pinned.test_id, held_out=True, like=train.prepared)
        return self._feed(prepared, train.fitted, self.pinned.test_id, self.pinned.test_label)

    @property
    def rows(self) -> Rows:
        """The rows of the source, made ready for the task."""
        return Rows(self.task, self.pinned, self.folder.path / "cache", self.recipe.source.on_bad_row == "skip")

    def _feed(self, prepared: Any, fitted: Mapping[str, Any], ids: NDArray[np.int64], label: NDArray[np.int32]) -> Feed:
        labels = torch.from_numpy(label.astype(np.int64)).to(self.device)
        lengths = self.task.lengths(prepared)
        grouped = None if lengths is None else torch.from_numpy(lengths)
        return Feed(self.task, on_device(prepared, self.device), fitted, ids, labels, self.device, grouped)

    def new_model(self, feed: Feed, init_seed: int) -> torch.nn.Module:
        """A fresh model on the device, its random weights drawn on the CPU so that every device starts alike."""
        seed_generators(init_seed)
        return self.task.build_model(self._model(), self.recipe.task.model_args, self.n_classes, feed.prepared).to(self.device)

    def _model(self) -> str | torch.nn.Module:
        return self.recipe.task.model if self.given is None else self.given.make()


def open_session(
    recipe: Recipe,
    folder: RunFolder,
    *,
    command: str,
    dataset: Dataset | DatasetDict | None = None,
    test: Dataset | None = None,
    model: GivenModel | None = None,
    task: Task | None = None,
    claim: bool = True,
    allow_plugins: bool = False,
    share: tuple[int, int] = (1, 1),
) -> Session:
    """Check every name in the recipe, pin the source and make the folder this run's (`claimed`).

    `dataset`, `test` and `task` take the place of what the recipe would open and build, `model` that of what `task.model`
    names. Without `claim` nothing is written at all. `allow_plugins` admits tasks and scores written `package.module:NAME`.
    `share` (k, n): this launch takes the k-th of n parts of what is to be trained.
    """
    task, batch_scores, accumulators = _looked_up(recipe, model, task, allow_plugins)
    pinned = pin(recipe.source, task.find_columns, in_memory(recipe.source.split, dataset, test))
    if recipe.source.repo is not None:
        # A branch may move; what was begun goes on with the same commit.
        recipe = replace(recipe, source=replace(recipe.source, revision=pinned.record.revision))
    keep_memory()
    device = accelerator().device
    made = provenance(recipe.digest, command, device)
    session = Session(recipe, folder, task, pinned, device, made, batch_scores, accumulators, model, processes(*share))
    return claimed(session) if claim else replace(session, pinned=readable(session.rows, folder))


def check(recipe: Recipe, folder: RunFolder, *, allow_plugins: bool = False) -> None:
    """Raise what `open_session` would of names, data and folder. No model is built, no device touched, nothing written."""
    task, _, _ = _looked_up(recipe, None, None, allow_plugins)
    pin(recipe.source, task.find_columns)
    if not folder.exists():
        folder.require_free()


def _looked_up(
    recipe: Recipe, model: GivenModel | None, task: Task | None, allow_plugins: bool
) -> tuple[Task, dict[str, BatchScore], dict[str, Accumulator]]:
    """What the names in the recipe stand for."""
    check_tracker(recipe.tracker)
    _check_given(recipe, model)
    task = task or find_task(recipe, allow_plugins)
    for other in recipe.evaluate.models:
        task_for(task, other)
    return task, *find_scores(recipe.score.scores, allow_plugins)


@contextlib.contextmanager
def folder_for(out: str | Path | None) -> Iterator[RunFolder]:
    """The run folder `out`, or one that is gone after the block. `RecipeError` where several processes have nowhere to meet."""
    if out is not None:
        yield RunFolder(out)
    elif processes().world > 1:
        raise RecipeError("several processes meet in a run folder; name one: out=FOLDER")
    else:
        with tempfile.TemporaryDirectory() as temporary:
            yield RunFolder(temporary)


def claimed(session: Session) -> Session:
    """The session once its folder is this run's, and the rows that cannot be read are known.

    A folder that is not yet this run's is claimed only after one training step on a few rows and a look at every row: by then
    the model, its arguments, the tokenizer, the optimizer and the data have been found to work together, and what failed has
    left nothing behind; that is also tried with each of `evaluate.models`, long before their turn. A folder that is, is refused if
    a fresh model now says something else than at its start. Of several processes the main one claims it, and the others then find it
    claimed.
    """
    with session.processes.main_first():
        return _claimed(session)


def _claimed(session: Session) -> Session:
    recipe, folder, rows = session.recipe, session.folder, session.rows
    found, others = None, further(session)
    new = [each for each in others if folder.start(each.apart) is None]
    if folder.exists():
        folder.claim(recipe.identity(), session.pinned.record, to_yaml(recipe))
        if session.processes.main:
            mend(folder, keep_weights=recipe.evaluate.keep_weights)
        starts = [(each.apart, try_out(each)) for each in (session, *others)]
        _read_all(new)
    else:
        folder.require_free()
        with _leaving_nothing_behind(folder.path):
            starts = [(each.apart, try_out(each)) for each in (session, *others)]
            found = unreadable(rows)
            _read_all(new)
        folder.claim(recipe.identity(), session.pinned.record, to_yaml(recipe))
    for evaluation, start in starts:
        check_start(folder, start, evaluation)
    if rows.skip and folder.skipped() is None:
        record(rows, folder, found or unreadable(rows))
    pinned = readable(rows, folder)
    if pinned.noise is not None:
        own = None if pinned.source_id is None else pinned.source_id[pinned.noise.ids]
        folder.save_label_noise(pinned.noise.ids, pinned.noise.before, pinned.noise.after, own)
    session = replace(session, pinned=pinned)
    if folder.seeds() and not folder.has_fitted():
        session.train_feed()
    return session


def _read_all(sessions: Sequence[Session]) -> None:
    """Prepare all rows for further models: their tokens may be other ones, and images lie there decoded."""
    for each in sessions:
        with naming(each.recipe.task.model):
            unreadable(each.rows)


@contextlib.contextmanager
def _leaving_nothing_behind(path: Path) -> Iterator[None]:
    """What cannot begin takes with it the decoded rows, and the folders that were made for them."""
    made = [folder for folder in (path / "cache", path, *path.parents) if not folder.exists()]
    try:
        yield
    except (DataDietError, OSError):
        # Another launch may have begun here meanwhile.
        if path / "cache" in made and not RunFolder(path).exists():
            shutil.rmtree(path / "cache", ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _check_given(recipe: Recipe, model: GivenModel | None) -> None:
    """A model from Python is given where the recipe says so, and nowhere else."""
    spec = recipe.task
    if model is None and is_given(spec.model):
        raise RecipeError(
            f"the model of this run ({spec.model}) came from Python; pass it there again: score_dataset(..., model=..., out=RUN)"
        )
    if model is not None and spec.model != model.name:
        raise RecipeError(f"the model is given twice, as an object and as task.model={spec.model}; leave one out")
    if model is not None and spec.model_args:
        raise RecipeError("task.model_args are for models that are built by name; give them where the model is made")


def try_out(session: Session) -> dict[str, Any]:
    """Train one step on a few rows in a temporary folder, so that faults show before anything is written; how it starts.

    Rows that cannot be read are passed over here: the pass over all of them names all of them.
    """
    if session.transfer_of is None:
        return _tried_out(session)
    with naming(session.recipe.task.model):
        return {**_tried_out(session), "model": session.recipe.task.model, "of": session.transfer_of}


def _tried_out(session: Session) -> dict[str, Any]:
    recipe = replace(session.recipe, source=replace(session.recipe.source, on_bad_row="skip"))
    with tempfile.TemporaryDirectory() as temporary, untouched_generators(session.device):
        probe = replace(session, recipe=recipe, folder=RunFolder(temporary))
        kept = session.folder.start(session.apart)
        feed = probe.train_feed(session.few(PROBE_ROWS) if kept is None else np.array(kept["example_id"]))
        streams = streams_for("probe", 0)
        model = probe.new_model(feed, streams.init)
        start = start_of(model, feed)
        if kept is None:
            train(model, feed, torch.arange(len(feed)), session.recipe.task.training, streams, steps=1, schedule_steps=1)
    return start


def find_scores(names: Sequence[str], allow_plugins: bool = False) -> tuple[dict[str, BatchScore], dict[str, Accumulator]]:
    """The scores of both kinds, by the names of their columns; `PluginError` for one that does not exist."""
    found = {name: registry.find("scorers", name, allow_plugins) for name in names}
    # A score written package.module:NAME gives its column the name of its function.
    named = [(s.function.__name__ if ":" in name else name, s) for name, s in found.items() if isinstance(s, BatchScore)]
    accumulators = {name: scorer for name, scorer in found.items() if not isinstance(scorer, BatchScore)}
    columns = [name for name, _ in named] + [column.name for scorer in accumulators.values() for column in scorer.columns]
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise RecipeError(f"two of the scores {', '.join(found)} have a column {twice!r}; leave one out, or rename its function")
    return dict(named), accumulators
