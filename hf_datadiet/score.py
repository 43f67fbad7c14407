"""SCORE: seeds x moments -> one row of numbers per example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict

from hf_datadiet.averaging import score_table
from hf_datadiet.defaults import recipe_for
from hf_datadiet.errors import CoverageError, DivergedError, RecipeError
from hf_datadiet.hub.columns import AnyDataset, in_scored_split, with_scores
from hf_datadiet.recipe_yaml import to_yaml
from hf_datadiet.records import RunResult, ScoreTable
from hf_datadiet.store import RunFolder
from hf_datadiet.tasks.base import Task
from hf_datadiet.training.feed import Feed
from hf_datadiet.training.given import Given, by_name
from hf_datadiet.training.plan import decide_plan
from hf_datadiet.training.progress import Progress
from hf_datadiet.training.seeds import score_seed
from hf_datadiet.training.session import Session, folder_for, open_session
from hf_datadiet.training.stopping import stoppable
from hf_datadiet.training.task import task_keys, task_object
from hf_datadiet.training.tracker import Log, tracked


def score_dataset(
    dataset: Dataset | DatasetDict,
    *,
    model: str | Given | None = None,
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
    `columns`, for example {"label": "coarse_label"}), or a DatasetDict, whose split `train` is scored unless `options` has
    another source.split. `scores`: names from `hf_datadiet/scorers`, or with `allow_plugins` your own as "package.module:NAME".
    `model`: a name, where each seed draws new weights ("timm:resnet18", "transformers:vit", "transformers:bert") or a new head
    on pretrained ones ("transformers:org/name"); or a function without arguments that returns a new torch.nn.Module, called
    once per seed with torch's generator seeded; or a module, from whose weights every seed starts, so that only the order of
    the rows, augmentation and dropout differ between seeds. Its outputs are logits [B, C], or have them as `logits`.
    Without one: "timm:resnet18" for images, a small BERT from nothing for texts. Texts are trained with AdamW, as
    `defaults.recipe_for` says. `task`: for other data an object of your own (`CallableTask`), or with `allow_plugins` one by its
    place, "package.module:NAME".
    `out`: a run folder, in which an interrupted call goes on where it stopped; None keeps nothing.
    `options`: any other recipe key, dotted: {"task.training.batch_size": 64, "task.crop": 4, "score.observe_at": [0]};
    {"source.id_column": "uid"} carries your own ids along, {"source.on_bad_row": "skip"} passes over rows that cannot be read.

    Returns a `ScoreTable` of all N rows in order, null where a row has no label or was skipped. Raises `DataDietError` for
    anything that the caller can mend; `DivergedError` where seeds diverged, after the table of the others has been written to
    `out`.
    """
    name, given = by_name(model)
    wanted = {"scores": list(scores), "seeds": seeds}
    keys = task_keys(task, name) | dict(options or {})
    recipe = recipe_for(dataset, model=name, epochs=epochs, columns=columns, options=keys, score=wanted)
    with folder_for(out) as folder:
        session = open_session(
            recipe,
            folder,
            command="score_dataset(...)",
            dataset=dataset,
            model=given,
            task=task_object(task),
            allow_plugins=allow_plugins,
        )
        table = score_run(session, progress=progress)
        assert table is not None, "this launch takes all parts"
        return table


def score_run(session: Session, *, progress: bool = True) -> ScoreTable | None:
    """Train and observe the seeds that the folder does not hold yet, then write and return the table of all of them.

    Several processes share the seeds; None while other launches (`--share`) still have some to train. A seed whose training
    diverges does not stop the others: the table of those that are finished is written, and then `DivergedError` raised.
    """
    folder, processes = session.folder, session.processes
    if folder.taken() is not None:
        return _taken(session)
    seeds = range(session.recipe.score.seeds)
    if processes.main:
        folder.save_recipe(to_yaml(session.recipe))
    there = _there(session, seeds)
    missing = [seed for seed in processes.taken(seeds) if seed not in there]
    diverged = _train_seeds(session, missing, progress) if missing else {}
    lost = [seed for seed, anywhere in zip(seeds, processes.any([seed in diverged for seed in seeds]), strict=True) if anywhere]
    there = _there(session, seeds)
    # Nobody need wait for a seed that has diverged in another launch.
    elsewhere = processes.agreed([seed not in [*there, *lost] and folder.unfinished_seed(seed).has_diverged() for seed in seeds])
    lost += [seed for seed in seeds if elsewhere[seed]]
    complete = set(seeds) <= {*there, *lost}
    if complete and there and processes.main:
        folder.save_scores(_table(session, [folder.load_seed(seed) for seed in there]))
    processes.wait()
    if lost:
        raise _lost(lost, diverged.get(lost[0]), len(there) if complete else None)
    return folder.load_scores() if complete else None


def _taken(session: Session) -> ScoreTable:
    """Scores that came from the Hub; `RecipeError` for more seeds than they have: what is trained here would not mix with them."""
    table, asked = session.folder.load_scores(), session.recipe.score.seeds
    if asked != len(table.seeds):
        raise RecipeError(
            f"the scores of {session.folder.path} were taken from elsewhere and are those of {len(table.seeds)} seeds, not {asked}; "
            "leave score.seeds as it is, or score in another --out"
        )
    return table


def _there(session: Session, seeds: Sequence[int]) -> list[int]:
    """The seeds that are finished, as the main process sees it."""
    found = session.processes.agreed([session.folder.has_seed(seed) for seed in seeds])
    return [seed for seed, is_there in zip(seeds, found, strict=True) if is_there]


def _lost(seeds: Sequence[int], reason: DivergedError | None, n_left: int | None) -> DivergedError:
    """`n_left`: how many others scores.parquet has; None if it waits for other launches."""
    why = reason or "the training diverged elsewhere; lower task.training.optimizer.lr"
    if n_left == 0:
        return DivergedError(f"every seed diverged; seed {seeds[0]}: {why}")
    which = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    others = "" if n_left is None else f"; scores.parquet has the other {n_left} of {n_left + len(seeds)} seeds"
    return DivergedError(f"{which}: {why}, with another --out{others}")


def _train_seeds(session: Session, missing: Sequence[int], shown: bool) -> dict[int, DivergedError]:
    """Train and save this process's share of the missing seeds; those that diverged, and how."""
    recipe, processes = session.recipe, session.processes
    feed = _feed(session, Progress(0, shown=shown and processes.main, processes=processes))
    plan = decide_plan(session, feed, ceil(recipe.score.seeds / processes.parts))
    seeds = missing if plan.world > 1 else processes.share(missing)
    # Of several processes at one training the main one speaks and writes.
    speaks = plan.world == 1 or processes.main
    progress = Progress(len(seeds) * recipe.score_epochs, shown=shown and speaks, processes=processes)
    if plan.world > 1:
        progress.note(f"{plan.world} processes train each model together" + (f"; BatchNorm: {plan.batch_norm}" if plan.batch_norm else ""))
    diverged: dict[int, DivergedError] = {}
    for position, seed in enumerate(seeds):
        with tracked(recipe.tracker if speaks else None, session.folder, f"score-{seed:03d}") as log:

            def report(stats: Mapping[str, float], position: int = position, log: Log = log) -> None:
                epoch = f"seed {position + 1}/{len(seeds)}  epoch {stats['epoch']:.0f}/{recipe.score_epochs}"
                progress.advance(1, f"score  {epoch}  loss {stats['loss']:.3f}  train accuracy {stats['accuracy']:.3f}")
                log({"train/loss": stats["loss"], "train/accuracy": stats["accuracy"]}, int(stats["epoch"]))

            def resumed(epochs: int, steps: int, seed: int = seed) -> None:
                progress.skip(epochs, f"seed {seed} goes on after epoch {epochs} (step {steps})")

            try:
                with stoppable(), session.folder.unfinished_seed(seed, progress.note, writes=speaks).at_work(recipe.score_epochs) as unit:
                    result = score_seed(session, feed, plan, seed, unit, report, resumed)
                    if speaks:
                        session.folder.save_seed(result)
                # The next seed begins with the batches that fitted here.
                plan = replace(plan, observe_batch_size=result.plan["observe_batch_size"])
            except DivergedError as error:
                progress.note(f"seed {seed}: {error}")
                diverged[seed] = error
    return diverged


def _feed(session: Session, progress: Progress) -> Feed:
    """The rows to be scored."""
    progress.note(f"preparing {len(session.labelled)} rows of {session.pinned.record.name}")
    feed = session.train_feed()
    if n_truncated := feed.fitted.get("n_truncated"):
        progress.note(f"{n_truncated} of {len(feed)} texts are longer than task.max_length tokens and are cut")
    return feed


def _table(session: Session, results: Sequence[RunResult]) -> ScoreTable:
    """The table of all seeds; every one of them must have observed exactly this run's rows."""
    recipe, pinned = session.recipe, session.pinned
    for result in results:
        if not np.array_equal(result.example_id, session.labelled):
            raise CoverageError(f"seed {result.seed} observed other rows than this run has; choose another --out")
    table = score_table(
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
    own = None if pinned.source_id is None else pinned.source_id[pinned.scored]
    return replace(table, source_id=own, skipped=pinned.skipped)


def add_scores(dataset: AnyDataset, scores: ScoreTable | str | Path, *, prefix: str = "") -> AnyDataset:
    """The dataset with float32 columns of scores and standard errors behind its own, rows in their original order.

    Of a DatasetDict the split that was scored gets the columns; the others come back as they are (its `push_to_hub` wants equal
    columns in all splits, so push that split by itself). `scores`: a table, or the path of a run folder. Rows without a label,
    held out or outside `limit` are null. Raises `StaleRecordError` unless the dataset's role columns have exactly the content
    that was scored (same rows, same order), and `RecipeError` when a column of that name exists; nothing else about the dataset
    changes.
    """
    table = scores if isinstance(scores, ScoreTable) else RunFolder(scores).load_scores()
    return in_scored_split(dataset, table, lambda rows: with_scores(rows, table, prefix))
