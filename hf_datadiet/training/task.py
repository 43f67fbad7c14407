"""The task of a run: named in its recipe, or an object from Python."""

from __future__ import annotations

from typing import Any

from hf_datadiet import registry
from hf_datadiet.errors import PluginError, RecipeError
from hf_datadiet.recipe import IN_MEMORY, LOGITS, Recipe
from hf_datadiet.recipe_yaml import build
from hf_datadiet.tasks.base import Task


def find_task(recipe: Recipe, allow_plugins: bool = False) -> Task:
    """The task that a recipe names: a class built from its options, or an object as it stands in somebody's module."""
    kind, options = recipe.task.kind, recipe.task.options
    if kind == LOGITS:
        raise RecipeError(
            "this run was scored from logits and knows no dataset to train on; use prune_dataset and evaluate_selections in Python"
        )
    if kind == IN_MEMORY:
        raise RecipeError("the task of this run was an object in Python; go on there, and pass it again: task=...")
    found = registry.find("tasks", kind, allow_plugins)
    if isinstance(found, type):
        return build(found, options, "task")
    _check(found, f"task {kind!r}")
    if options:
        raise RecipeError(f"task.{next(iter(options))}: task {kind} is an object and takes no keys; leave it out, or name its class")
    return found


def task_again(recipe: Recipe, task: Task | None, allow_plugins: bool = False) -> Task:
    """The task of a finished run: the object passed if it had one, else the one that its recipe names."""
    if task is None:
        return find_task(recipe, allow_plugins)
    _check(task, "task")
    if recipe.task.kind != IN_MEMORY:
        raise RecipeError(f"the task of this run is found by its name, {recipe.task.kind}; leave task out")
    return task


def task_keys(task: Task | str | None, model: object) -> dict[str, Any]:
    """The recipe keys, dotted, that an argument `task` stands for; for an object without `model`, its class is named as the model."""
    if task is None:
        return {}
    if isinstance(task, str):
        return {"task.kind": task}
    _check(task, "task")
    return {"task.kind": IN_MEMORY} | ({} if model is not None else {"task.model": f"{type(task).__module__}.{type(task).__qualname__}"})


def task_object(task: Task | str | None) -> Task | None:
    """The task itself if it is no name."""
    return None if isinstance(task, str) else task


def _check(task: Any, what: str) -> None:
    if isinstance(task, type):
        raise PluginError(f"{what} is the class {task.__name__}; pass an object: {task.__name__}(...)")
    missing = [name for name in vars(Task) if not name.startswith("_") and not callable(getattr(task, name, None))]
    if missing:
        raise PluginError(
            f"{what} ({type(task).__name__}) has no method {', '.join(missing)}; hf_datadiet/tasks/base.py says what each does"
        )
