"""TUNE: `strategy: auto`. Train on what each candidate keeps, judge on validation rows, and take the strategy that is best there.

It is an evaluation (`evaluate`) whose held-out rows are split off the training rows and whose arms are the candidates alone; the rows that
judge selections (test rows) are not even in the session that it works in. Its records lie apart, in `tunings/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_datadiet.candidates import compared
from hf_datadiet.choice import tuned
from hf_datadiet.errors import DamagedError, RecipeError, StaleRecordError
from hf_datadiet.evaluate import judge
from hf_datadiet.hub.source import Pinned
from hf_datadiet.recipe import IN_MEMORY, LOGITS, PruneSpec, Recipe
from hf_datadiet.records import AUTO
from hf_datadiet.store import RunFolder
from hf_datadiet.training.given import is_given
from hf_datadiet.training.session import Session


def require_model(recipe: Recipe) -> None:
    """Raise `RecipeError` for a run whose model no command can build again."""
    if recipe.task.kind in (LOGITS, IN_MEMORY) or is_given(recipe.task.model):
        where = "was scored from logits" if recipe.task.kind == LOGITS else "has its model or task from Python"
        raise RecipeError(
            f"this run {where}, and strategy auto trains models to choose with; name a strategy, such as --strategy window --set skip=0.05"
        )


def tune_run(session: Session, spec: PruneSpec, *, progress: bool = True, allow_plugins: bool = False) -> tuple[PruneSpec, dict[str, Any]]:
    """`spec` with the chosen strategy in the place of `auto`, and the evidence, which its selection is to record.

    Finished trainings are not repeated; several processes share them, and all of them return the same. `StaleRecordError` where the folder
    has a tuning of that name that compared something else, or a selection of that name that was not tuned.
    """
    folder = session.folder
    _require_free(folder, spec.name)
    comparison = compared(folder.load_scores(), spec, session.provenance, allow_plugins=allow_plugins)
    recipe = replace(
        session.recipe, evaluate=replace(session.recipe.evaluate, name=spec.name, seeds=comparison.asked.seeds, keep_weights=False)
    )
    trials = replace(session, recipe=recipe, folder=folder.tunings, pinned=without_test(session.pinned, comparison.validation))
    trials.folder.save_tuning(spec.name, comparison.record)
    table = judge(trials, list(comparison.selections.values()), progress=progress, beside=False)
    assert table is not None, "this launch takes all parts"
    entry = tuned(table, comparison.record)
    return comparison.settled(entry["chosen"]), evidence(entry)


def without_test(pinned: Pinned, validation: NDArray[np.int64]) -> Pinned:
    """The source where these rows (ids, ascending) are held out instead of the test rows, and are no longer among the rows in play."""
    return replace(
        pinned,
        scored=np.setdiff1d(pinned.scored, validation),
        test=pinned.dataset,
        test_id=validation,
        test_label=pinned.label[validation],
        test_source_id=pinned.source_id,
        test_skipped={},
    )


def evidence(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What a selection records of its tuning: the choice and the accuracies (points) that it rests on; `tunings/NAME/` has the rest."""
    keys = ("candidate", "strategy", "parameters", "accuracy", "difference", "se", "n")
    about = {key: entry[key] for key in ("chosen", "best", "n_validation", "n_seeds")}
    return about | {
        "validation": entry["asked"]["validation"],
        "candidates": [{key: candidate[key] for key in keys} for candidate in entry["candidates"]],
    }


def _require_free(folder: RunFolder, name: str) -> None:
    """Before hours are spent: a selection of that name is one that was tuned."""
    if name in folder.selections():
        with suppress(DamagedError):
            if AUTO not in folder.load_selection(name).parameters:
                raise StaleRecordError(
                    f"{folder.path} has another selection named {name!r}; choose another name, or delete {folder.selection_path(name)}"
                )
