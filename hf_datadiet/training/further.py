"""Further models of an evaluation (`evaluate.models`): everything is trained with each of them as with the scorer's own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from hf_datadiet.errors import DataDietError, RecipeError, StaleRecordError
from hf_datadiet.tasks._callable import CallableTask
from hf_datadiet.tasks.base import Task

if TYPE_CHECKING:
    from hf_datadiet.training.session import Session


def further(session: Session) -> list[Session]:
    """The session with each of `evaluate.models` in place of its model: same rows, same training, same folder.

    Only the name of such a model is known: `task.model_args` are the scorer's. Its evaluation is called as `Recipe.evaluations` says.
    """
    recipe = session.recipe
    sessions: list[Session] = []
    for model in recipe.evaluate.models:
        evaluate = replace(recipe.evaluate, name=recipe.evaluate.name_with(model), models=())
        asked = replace(recipe, task=replace(recipe.task, model=model, model_args={}), evaluate=evaluate)
        task = task_for(session.task, model)
        sessions.append(replace(session, recipe=asked, task=task, given=None, transfer_of=recipe.evaluate.name))
    return sessions


def task_for(task: Task, model: str) -> Task:
    """The task as a further model needs it; `RecipeError` where no model can be named."""
    with naming(model):
        if isinstance(task, CallableTask):
            raise RecipeError("the task makes its model itself and knows no others by name; leave evaluate.models out")
        for_model = getattr(task, "for_model", None)
        return task if for_model is None else for_model(model)


@contextlib.contextmanager
def naming(model: str) -> Iterator[None]:
    """Faults of a further model say where it stands in the recipe: the task knows it as `task.model`."""
    try:
        yield
    except StaleRecordError:
        raise
    except DataDietError as error:
        raise RecipeError(f"evaluate.models {model}: {str(error).replace('task.model ', '')}") from error
