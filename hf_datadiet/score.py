"""SCORE: seeds x moments -> one row of numbers per example."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from hf_datadiet.averaging import score_table
from hf_datadiet.defaults import recipe_for
from hf_datadiet.errors import CoverageError
from hf_datadiet.hub.columns import with_scores
from hf_datadiet.recipe import Recipe, to_yaml
from hf_datadiet.records import RunResult, ScoreTable
from hf_datadiet.store import RunFolder
from hf_datadiet.tasks.base import Task
from hf_datadiet.training.progress import Progress
from hf_datadiet.training.seeds import score_seed
from hf_datadiet.training.session import Session, decide_plan, open_session
from hf_datadiet.training.task import task_keys, task_object
from hf_datadiet.training.tracker import Log, tracked


def score_dataset(
    dataset: Dataset,
    *,
    model: str | None = None,
    task: Task | str | None = None,
    scores: Sequence[str] = ("el2n",),
    seeds: int = 4,
    epochs: int = 10,
    out: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    progress: bool = True,
    allow_plugins: bool = False,
) -> ScoreTable:
    """Score every labelled row of a dataset by `seeds` short trainings of `epochs` epochs.

    `dataset`: a datasets.Dataset with a column of images or texts and a label column (found from the features, or named by
    `columns`, for example {"label": "coarse_label"}). `model`: for images "timm:NAME", randomly initialised (default
    "timm:resnet18"); for texts "transformers:bert" from nothing or "transformers:org/name" pretrained (default: a small BERT
    from nothing). Texts are trained with AdamW, as `defaults.recipe_for` says. `task`: for other data an object of your own
    (`CallableTask`), or with `allow_plugins` one by its place, "package.module:NAME". `scores`: names from
    `hf_datadiet/scorers`, or with `allow_plugins` your own as "package.module:NAME".
    `out`: a run folder, in which an interrupted call goes on seed by seed; None keeps nothing.
    `options`: any other recipe key, dotted: {"task.training.batch_size": 64, "task.crop": 4, "score.observe_at": [0]}.

    Returns a `ScoreTable` of all N rows in order, null where a row has no label. Raises `DataDietError` for anything
    that the caller can mend.
    """
    wanted = {"scores": list(scores), "seeds": seeds}
    keys = task_keys(task, model) | dict(options or {})
    recipe = recipe_for(dataset, model=model, epochs=epochs, columns=columns, options=keys, score=wanted)
    with tempfile.TemporaryDirectory() as temporary:
        return score_run(
            recipe,
            RunFolder(out if out is not None else temporary),
            command="score_dataset(...)",
            dataset=dataset,
            task=task_object(task),
            progress=progress,
            allow_plugins=allow_plugins,
        )


def score_run(
    recipe: Recipe,
    folder: RunFolder,
    *,
    command: str,
    dataset: Dataset | None = None,
    task: Task | None = None,
    progress: bool = True,
    allow_plugins: bool = False,
) -> ScoreTable:
    """Train and observe the seeds that the folder does not hold yet, then write and return the table of all of them."""
    session = open_session(recipe, folder, command=command, dataset=dataset, task=task, allow_plugins=allow_plugins)
    folder.save_recipe(to_yaml(recipe))
    seeds = range(recipe.score.seeds)
    missing = [seed for seed in seeds if not folder.has_seed(seed)]
    if missing:
        _train_seeds(session, missing, Progress(len(missing) * recipe.score_epochs, shown=progress))
    results = [folder.load_seed(seed) for seed in seeds]
    table = _table(session, results)
    folder.save_scores(table)
    return table


def _train_seeds(session: Session, seeds: Sequence[int], progress: Progress) -> None:
    recipe = session.recipe
    progress.note(f"preparing {len(session.labelled)} rows of {session.pinned.record.name}")
    feed = session.train_feed()
    session.folder.save_fitted(feed.fitted)
    plan = decide_plan(session, feed)
    for position, seed in enumerate(seeds):
        with tracked(recipe.tracker, session.folder, f"score-{seed:03d}") as log:

            def report(stats: Mapping[str, float], position: int = position, log: Log = log) -> None:
                epoch = f"seed {position + 1}/{len(seeds)}  epoch {stats['epoch']:.0f}/{recipe.score_epochs}"
                progress.advance(1, f"score  {epoch}  loss {stats['loss']:.3f}  train accuracy {stats['accuracy']:.3f}")
                log({"train/loss": stats["loss"], "train/accuracy": stats["accuracy"]}, int(stats["epoch"]))

            session.folder.save_seed(score_seed(session, feed, plan, seed, report))


def _table(session: Session, results: Sequence[RunResult]) -> ScoreTable:
    """The table of all seeds; every one of them must have observed exactly this run's rows."""
    recipe, pinned = session.recipe, session.pinned
    for result in results:
        if not np.array_equal(result.example_id, session.labelled):
            raise CoverageError(f"seed {result.seed} observed other rows than this run has; choose another --out")
    return score_table(
        results,
        source=pinned.record,
        example_id=pinned.scored,
        label=pinned.label[pinned.scored],
        batch_scores=session.batch_scores,
        accumulators=session.accumulators,
        headline=recipe.headline,
        epochs=recipe.score_epochs,
        provenance=session.provenance,
    )


def add_scores(dataset: Dataset, scores: ScoreTable | str | Path, *, prefix: str = "") -> Dataset:
    """The dataset with float32 columns of scores and standard errors behind its own, rows in their original order.

    `scores`: a table, or the path of a run folder. Rows without a label, held out or outside `limit` are null. Raises
    `StaleRecordError` unless the dataset's role columns have exactly the content that was scored (same rows, same
    order), and `RecipeError` when a column of that name exists; nothing else about the dataset changes.
    """
    table = scores if isinstance(scores, ScoreTable) else RunFolder(scores).load_scores()
    return with_scores(dataset, table, prefix)
