"""EVALUATE: retrain from scratch on each kept set, on random sets of equal size and on everything, with fresh seeds.

Held-out rows are neither scored nor pruned. What counts is the model after the last epoch, never the best on test.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import Dataset, DatasetDict
from numpy.typing import NDArray

from hf_datadiet.arms import Arm, arms_of, is_added
from hf_datadiet.defaults import recipe_for
from hf_datadiet.errors import CoverageError, RecipeError, StaleRecordError
from hf_datadiet.identity import digest_of, label_digest
from hf_datadiet.recipe import FIRST_EVALUATION_SEED, Recipe
from hf_datadiet.records import ArmResult, EvaluationTable, Selection
from hf_datadiet.store import RunFolder
from hf_datadiet.tasks.base import Task
from hf_datadiet.training.given import Given, by_name
from hf_datadiet.training.loop import steps_of
from hf_datadiet.training.progress import Progress
from hf_datadiet.training.randomness import generator_for
from hf_datadiet.training.retrain import retrain
from hf_datadiet.training.session import Session, decide_plan, open_session
from hf_datadiet.training.task import task_keys, task_object
from hf_datadiet.training.tracker import Log, tracked


def evaluate_run(session: Session, *, progress: bool = True) -> EvaluationTable:
    """Judge all selections of the session's folder, and write the table.

    Finished trainings are not repeated. `StaleRecordError` for a selection made from other data.
    """
    folder = session.folder
    names = folder.selections()
    if not names:
        raise RecipeError(f"{folder.path} has no selection to evaluate; run hf-datadiet prune first")
    return judge(session, [folder.load_selection(name) for name in names], progress=progress)


def judge(session: Session, selections: Sequence[Selection], *, progress: bool) -> EvaluationTable:
    """All arms times all seeds on the session's rows."""
    recipe, folder, spec = session.recipe, session.folder, session.recipe.evaluate
    _check(session, selections)
    train = session.train_feed()
    test = session.test_feed(train)
    if np.intersect1d(test.example_id, train.example_id).size and session.pinned.test is session.pinned.dataset:
        raise CoverageError("held-out rows are among the training rows")
    plan = decide_plan(session, train)
    arms = arms_of(selections, len(train))
    label = session.pinned.label[session.labelled]
    seeds = [FIRST_EVALUATION_SEED + k for k in range(spec.seeds)]
    cells = {(arm.name, seed): arm.ids(session.labelled, label, generator_for(f"draw/{arm.name}", seed)) for arm in arms for seed in seeds}
    steps = {arm.name: arm_steps(recipe, arm.size, len(train)) for arm in arms}
    done = {(arm.name, seed): _finished(session, arm, seed, cells[arm.name, seed], steps[arm.name]) for arm in arms for seed in seeds}
    todo = [(arm, seed) for seed in seeds for arm in arms if done[arm.name, seed] is None]
    bar = Progress(sum(steps[arm.name] for arm, _ in todo), shown=progress)
    for arm, seed in todo:
        with tracked(recipe.tracker, folder, f"{arm.name}-{seed}") as log:

            def report(stats: Mapping[str, float], arm: Arm = arm, seed: int = seed, log: Log = log) -> None:
                where = f"{arm.name}  seed {seed - FIRST_EVALUATION_SEED + 1}/{spec.seeds}  epoch {stats['epoch']:.0f}"
                bar.advance(stats["steps"], f"evaluate  {where}  loss {stats['loss']:.3f}")
                log({"train/loss": stats["loss"], "train/accuracy": stats["accuracy"]}, int(stats["epoch"]))

            result = retrain(
                session, train, test, plan, arm=arm.name, seed=seed, ids=cells[arm.name, seed], steps=steps[arm.name], on_epoch=report
            )
            log({f"test/{metric}": value for metric, value in result.metrics.items()}, result.epochs)
        folder.save_arm(spec.name, result, test.example_id)
        done[arm.name, seed] = result
    table = EvaluationTable(
        name=spec.name,
        model=recipe.task.model,
        match=spec.match,
        margin=spec.margin,
        arms={arm.name: arm.meaning for arm in arms},
        arm_selections={arm.name: arm.selection.name for arm in arms if arm.selection is not None},
        n_seeds=spec.seeds,
        test_id=test.example_id,
        test_label=session.pinned.test_label,
        results=tuple(result for arm in arms for seed in seeds if (result := done[arm.name, seed]) is not None),
        source_digest=session.pinned.record.digest,
        provenance=session.provenance,
        test_source_id=None if session.pinned.test_source_id is None else session.pinned.test_source_id[test.example_id],
    )
    folder.save_evaluation(table)
    return table


def arm_steps(recipe: Recipe, n_rows: int, n_full: int) -> int:
    """Steps of a training on n_rows of n_full rows: as many epochs as the full data gets, or as many steps."""
    return steps_of(n_rows if recipe.evaluate.match == "epochs" else n_full, recipe.task.training)


def _check(session: Session, selections: Sequence[Selection]) -> None:
    # Scores from logits or from a Trainer know the labels alone; their selections are good for any dataset with these.
    known = {session.pinned.record.digest, label_digest(session.pinned.label)}
    for selection in selections:
        if selection.source_digest not in known:
            raise StaleRecordError(
                f"selection {selection.name!r} was made from other data, or with other columns; pass the columns (and source.id_column) "
                "that were scored, or prune again"
            )
        if is_added(selection.name):
            raise RecipeError(f"selection {selection.name!r} has the name of an arm that evaluation adds by itself; choose another name")


def _finished(session: Session, arm: Arm, seed: int, ids: NDArray[np.int64], steps: int) -> ArmResult | None:
    """The training as an earlier call finished it, or None; `StaleRecordError` if it had other rows or lasted otherwise."""
    name = session.recipe.evaluate.name
    result = session.folder.load_arm(name, arm.name, seed)
    if result is not None and (result.train_ids_digest != digest_of([ids]) or result.steps != steps):
        raise StaleRecordError(
            f"evaluation {name!r} in {session.folder.path} has trained arm {arm.name} on other rows or for other steps; "
            f"set evaluate.name to a new name, or delete {session.folder.evaluation_path(name)}"
        )
    return result


def evaluate_selections(
    dataset: Dataset | DatasetDict,
    selections: Sequence[Selection],
    *,
    test: Dataset | str = "test",
    model: str | Given | None = None,
    task: Task | str | None = None,
    seeds: int = 4,
    epochs: int = 10,
    match: Literal["epochs", "steps"] = "epochs",
    margin: float = 0.5,
    out: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    progress: bool = True,
    allow_plugins: bool = False,
) -> EvaluationTable:
    """Retrain on each selection of `dataset`, on random sets of equal size and on all of it; predict `test`.

    `dataset` may be a DatasetDict: its split `train` unless `options` has another source.split; `test` may name another of its splits.
    `seeds` fresh trainings per arm, disjoint from any scoring seed; `match`: equal epochs (pruning saves compute) or
    equal steps (the paper's protocol). `margin`: accuracy points that are declared not to matter. The rest as in
    `score_dataset`. Returns every test prediction of every training.
    """
    name, given = by_name(model)
    recipe = recipe_for(
        dataset,
        model=name,
        epochs=epochs,
        columns=columns,
        options=task_keys(task, name) | dict(options or {}),
        source={"test": {"split": test if isinstance(test, str) else "test"}},
        evaluate={"seeds": seeds, "match": match, "margin": margin},
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = RunFolder(out if out is not None else temporary)
        session = open_session(
            recipe,
            folder,
            command="evaluate_selections(...)",
            dataset=dataset,
            test=None if isinstance(test, str) else test,
            model=given,
            task=task_object(task),
            allow_plugins=allow_plugins,
        )
        return judge(session, selections, progress=progress)
