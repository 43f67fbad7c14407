"""EVALUATE: retrain from scratch on each kept set, on random sets of equal size and on everything, with fresh seeds.

Held-out rows are neither scored nor pruned. What counts is the model after the last epoch, never the best on test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import Dataset, DatasetDict
from numpy.typing import NDArray

from hf_datadiet.arms import REDRAWN, Arm, arms_of, is_added, is_drawn
from hf_datadiet.defaults import recipe_for
from hf_datadiet.errors import CoverageError, RecipeError, StaleRecordError
from hf_datadiet.identity import label_digest
from hf_datadiet.recipe import Recipe
from hf_datadiet.records import ArmResult, EvaluationTable, Plan, Selection
from hf_datadiet.tasks.base import Task
from hf_datadiet.training.feed import Feed
from hf_datadiet.training.further import further
from hf_datadiet.training.given import Given, by_name
from hf_datadiet.training.loop import epochs_of, steps_of
from hf_datadiet.training.plan import decide_plan
from hf_datadiet.training.progress import Progress
from hf_datadiet.training.randomness import generator_for
from hf_datadiet.training.redrawn import Redrawn, rows_digest
from hf_datadiet.training.retrain import retrain
from hf_datadiet.training.session import Session, folder_for, open_session
from hf_datadiet.training.stopping import stoppable
from hf_datadiet.training.task import task_keys, task_object
from hf_datadiet.training.tracker import Log, tracked


def evaluate_run(session: Session, *, progress: bool = True) -> EvaluationTable | None:
    """Judge all selections of the session's folder, and write the table; None while other launches (`--share`) are at work.

    With each of `evaluate.models` as well, one after the other, each with a table of its own. Finished trainings are not repeated.
    `StaleRecordError` for a selection made from other data.
    """
    folder = session.folder
    selections = [folder.load_selection(name) for name in folder.to_judge()]
    sessions = (session, *further(session))
    tables = [judge(each, selections, progress=progress) for each in sessions]
    # While this launch was at a later model, another one may have finished an earlier one: the last of all writes every table.
    tables = [table or judge(each, selections, progress=progress) for each, table in zip(sessions, tables, strict=True)]
    return None if any(table is None for table in tables) else tables[0]


def judge(session: Session, selections: Sequence[Selection], *, progress: bool, beside: bool = True) -> EvaluationTable | None:
    """All arms times all seeds on the session's rows; several processes share the trainings.

    `beside`: also on everything and on random sets, beside the selections. The records lie among those of the folder's `trials`.
    """
    recipe, folder, spec, processes = session.recipe, session.folder, session.recipe.evaluate, session.processes
    _check(session, selections)
    train = session.train_feed()
    test = session.test_feed(train)
    if np.intersect1d(test.example_id, train.example_id).size and session.pinned.test is session.pinned.dataset:
        raise CoverageError("held-out rows are among the training rows")
    # Arms that an earlier call has trained stay in the table, also where this one does not ask for them.
    redrawn = spec.redrawn or any(arm.startswith(REDRAWN) for arm in folder.trained(spec.name))
    arms = [arm for arm in arms_of(selections, len(train), redrawn=redrawn) if beside or arm.kind == "selection"]
    cells = _cells(session, arms, len(train))
    there = _there(session, cells)
    # Seed by seed: an evaluation that ends early has whole seeds to compare.
    ours = sorted(processes.taken(cells, lambda cell: cell.steps), key=lambda cell: cell.seed)
    todo = [cell for cell in ours if cell not in there]
    if todo:
        _retrain(session, train, test, decide_plan(session, train, ceil(len(cells) / processes.parts)), todo, progress)
    processes.wait()
    if len(_there(session, cells)) < len(cells):
        return None
    if processes.main:
        folder.save_evaluation(
            EvaluationTable(
                name=spec.name,
                model=recipe.task.model,
                match=spec.match,
                margin=spec.margin,
                arms={arm.name: arm.meaning for arm in arms},
                arm_selections={arm.name: arm.selection.name for arm in arms if arm.selection is not None},
                n_seeds=spec.seeds,
                test_id=test.example_id,
                test_label=session.pinned.test_label,
                results=tuple(result for cell in cells if (result := _finished(session, cell)) is not None),
                source_digest=session.pinned.record.digest,
                provenance=session.provenance,
                test_source_id=None if session.pinned.test_source_id is None else session.pinned.test_source_id[test.example_id],
                transfer_of=session.transfer_of,
            )
        )
    processes.wait()
    return folder.load_evaluation(spec.name)


def _there(session: Session, cells: Sequence[Cell]) -> list[Cell]:
    """The trainings that are finished, with weights where they are to be kept, as the main process sees it."""
    found = session.processes.agreed([_complete(session, cell) for cell in cells])
    return [cell for cell, is_there in zip(cells, found, strict=True) if is_there]


@dataclass(frozen=True, eq=False)
class Cell:
    """One training of an evaluation: an arm with a seed, the ids of its rows (int64 [K], or K others in each epoch), and its length.

    `keeps`: whether its weights are to stay.
    """

    arm: str
    seed: int
    ids: NDArray[np.int64] | Redrawn
    steps: int
    epochs: int
    keeps: bool

    @cached_property
    def digest(self) -> str:
        """Of the rows that it is shown."""
        return rows_digest(self.ids, self.epochs)


def _cells(session: Session, arms: Sequence[Arm], n_rows: int) -> list[Cell]:
    """Every arm with every seed."""
    recipe, labelled, first = session.recipe, session.labelled, session.folder.trials.first_seed
    label = session.pinned.label[labelled]

    def cell(arm: Arm, seed: int) -> Cell:
        ids = arm.ids(labelled, label, generator_for(f"draw/{arm.name}", seed))
        steps = arm_steps(recipe, arm.size, n_rows)
        rows = Redrawn(ids, arm.size, seed) if arm.kind == "redrawn" else ids
        keeps = recipe.evaluate.keep_weights and seed == first and not is_drawn(arm.name)
        return Cell(arm.name, seed, rows, steps, epochs_of(steps, arm.size, recipe.task.training), keeps)

    return [cell(arm, seed) for arm in arms for seed in range(first, first + recipe.evaluate.seeds)]


def _retrain(session: Session, train: Feed, test: Feed, plan: Plan, todo: Sequence[Cell], shown: bool) -> None:
    """Carry out this process's share of the trainings and save what they predict."""
    recipe, folder, spec, trials = session.recipe, session.folder, session.recipe.evaluate, session.folder.trials
    cells = todo if plan.world > 1 else session.processes.share(todo, lambda cell: cell.steps)
    # Of several processes at one training the main one speaks and writes.
    speaks = plan.world == 1 or session.processes.main
    bar = Progress(sum(cell.steps for cell in cells), shown=shown and speaks, processes=session.processes)
    # The run's own model needs no name; another one's evaluation has it.
    whose = "" if session.apart is None else f"{session.apart} "
    name = f"{spec.name}-" if trials.verb == "tune" else whose.replace(" ", "-")
    for cell in cells:
        before = _finished(session, cell)
        with tracked(recipe.tracker if speaks else None, folder, f"{name}{cell.arm}-{cell.seed}") as log:

            def report(stats: Mapping[str, float], cell: Cell = cell, log: Log = log) -> None:
                where = f"{whose}{cell.arm}  seed {cell.seed - trials.first_seed + 1}/{spec.seeds}  epoch {stats['epoch']:.0f}"
                bar.advance(stats["steps"], f"{trials.verb}  {where}  loss {stats['loss']:.3f}")
                log({"train/loss": stats["loss"], "train/accuracy": stats["accuracy"]}, int(stats["epoch"]))

            def resumed(epochs: int, steps: int, cell: Cell = cell) -> None:
                bar.skip(steps, f"{whose}{cell.arm}, seed {cell.seed}, goes on after epoch {epochs} (step {steps})")

            with stoppable(), folder.unfinished_arm(spec.name, cell.arm, cell.seed, bar.note, writes=speaks).at_work(cell.epochs) as unit:
                result = retrain(
                    session,
                    train,
                    test,
                    plan,
                    arm=cell.arm,
                    seed=cell.seed,
                    ids=cell.ids,
                    steps=cell.steps,
                    unit=unit,
                    keep_weights=cell.keeps,
                    on_epoch=report,
                    on_resume=resumed,
                )
                if before is not None:
                    _check_repeated(session, before, result)
                if speaks:
                    folder.save_arm(spec.name, result, test.example_id)
            log({f"{trials.held_out}/{metric}": value for metric, value in result.metrics.items()}, result.epochs)


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


def _finished(session: Session, cell: Cell) -> ArmResult | None:
    """The training as an earlier call finished it, or None; `StaleRecordError` if its model, its rows or its length were others."""
    name, model, trials = session.recipe.evaluate.name, session.recipe.task.model, session.folder.trials
    result = session.folder.load_arm(name, cell.arm, cell.seed)
    if result is not None and result.model != model and (result.model or session.transfer_of):
        before = result.model or "the model of the run"
        raise StaleRecordError(
            f"evaluation {name!r} in {session.folder.path} has trained {before}, and this is {model}; "
            f"set evaluate.name to a new name, or delete {session.folder.evaluation_path(name)}"
        )
    if result is not None and (result.train_ids_digest != cell.digest or result.steps != cell.steps):
        raise StaleRecordError(
            f"{trials.what} {name!r} in {session.folder.path} has trained arm {cell.arm} on other rows or for other steps; "
            f"{trials.rename}, or delete {session.folder.evaluation_path(name)}"
        )
    return result


def _complete(session: Session, cell: Cell) -> bool:
    """Whether nothing of the training is left to do."""
    result = _finished(session, cell)
    return result is not None and (not cell.keeps or session.folder.has_weights(session.recipe.evaluate.name, result))


def _check_repeated(session: Session, before: ArmResult, again: ArmResult) -> None:
    """Weights that were not kept are those of the same training made again, or none."""
    if again.digest != before.digest:
        name, folder = session.recipe.evaluate.name, session.folder
        raise StaleRecordError(
            f"{folder.arm_path(name, again.arm, again.seed)}: trained again to keep its weights, it predicts otherwise, so versions, "
            f"hardware or files are others by now; give back those of then, or {folder.trials.rename}"
        )


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
    if (options or {}).get("evaluate.models"):
        raise RecipeError("evaluate_selections returns the table of one model; call it once for each: model=NAME")
    recipe = recipe_for(
        dataset,
        model=name,
        epochs=epochs,
        columns=columns,
        options=task_keys(task, name) | dict(options or {}),
        source={"test": {"split": test if isinstance(test, str) else "test"}},
        evaluate={"seeds": seeds, "match": match, "margin": margin},
    )
    with folder_for(out) as folder:
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
        table = judge(session, selections, progress=progress)
        assert table is not None, "this launch takes all parts"
        return table
