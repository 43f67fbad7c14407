"""STATUS: how far a run has come and what to do next. Reads names of files and a few columns, trains and imports nothing heavy."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from hf_datadiet.arms import drawn_arms
from hf_datadiet.durable import glance_parquet
from hf_datadiet.recipe import FIRST_EVALUATION_SEED, Recipe
from hf_datadiet.recipe_yaml import kept_recipe
from hf_datadiet.store import RunFolder

State: TypeAlias = Literal["done", "to do"]


@dataclass(frozen=True)
class Status:
    """How far a run has come. `seeds` are the scoring seeds, 0..S-1; `scores` the columns of scores.parquet, empty before it exists.

    `selections`: rows kept by each. `evaluations`: name -> arm -> seed -> state; the evaluation that the recipe names is
    among them as soon as there is a selection to judge. `next`: the command to run now.
    """

    run: str
    source: str
    model: str
    seeds: Mapping[int, State]
    scores: tuple[str, ...]
    selections: Mapping[str, int]
    evaluations: Mapping[str, Mapping[str, Mapping[int, State]]]
    report: bool
    next: str


def status_of(folder: RunFolder) -> Status:
    """The status of a run folder; `RecipeError` if it holds no run, `StaleRecordError` for a file that cannot be read."""
    folder.require()
    recipe = kept_recipe(folder.path)
    seeds: dict[int, State] = {seed: "done" if folder.has_seed(seed) else "to do" for seed in range(recipe.score.seeds)}
    about, n_labelled = _scores(folder)
    selections = {name: _kept(folder, name) for name in folder.selections()}
    evaluations = {name: _trainings(folder, recipe, name, selections, n_labelled) for name in _evaluation_names(folder, recipe, selections)}
    report = (folder.path / "report.json").exists()
    return Status(
        run=str(folder.path),
        source=folder.source().name,
        model=recipe.task.model,
        seeds=seeds,
        scores=tuple(about),
        selections=selections,
        evaluations=evaluations,
        report=report,
        next=_next(folder, recipe, seeds, about, evaluations, report),
    )


def headline(columns: Mapping[str, Mapping[str, Any]]) -> str:
    """Of {column: {"score": its score}} the column that the first score's plain name means, at the moment `score.at`."""
    return next((name for name, about in columns.items() if name == about["score"]), next(iter(columns)))


def _scores(folder: RunFolder) -> tuple[Mapping[str, Mapping[str, Any]], int]:
    path = folder.path / "scores.parquet"
    if not path.exists():
        return {}, 0
    table, meta = glance_parquet(path, ["label"])
    return meta["columns"], table.num_rows - table["label"].null_count


def _kept(folder: RunFolder, name: str) -> int:
    table, _ = glance_parquet(folder.selection_path(name) / "selection.parquet", ["kept"])
    return int(np.asarray(table["kept"]).sum())


def _evaluation_names(folder: RunFolder, recipe: Recipe, selections: Mapping[str, int]) -> list[str]:
    begun = sorted(path.name for path in folder.path.glob("evaluations/*") if path.is_dir() and not path.name.startswith("."))
    # An evaluation under another name serves as well as the recipe's own.
    wanted = [recipe.evaluate.name] if selections and recipe.source.test is not None and not begun else []
    return wanted + begun


def _trainings(folder: RunFolder, recipe: Recipe, name: str, selections: Mapping[str, int], n_labelled: int) -> dict[str, dict[int, State]]:
    done = folder.trained(name)
    arms = ["full", *selections, *(arm.name for arm in drawn_arms(selections.values(), n_labelled))]
    # How many seeds an evaluation wants is only known of the one in the recipe; another has at least those it began.
    wanted = range(FIRST_EVALUATION_SEED, FIRST_EVALUATION_SEED + recipe.evaluate.seeds) if name == recipe.evaluate.name else ()
    seeds = sorted({*wanted, *(seed for found in done.values() for seed in found)})
    return {arm: {seed: "done" if seed in done.get(arm, ()) else "to do" for seed in seeds} for arm in [*arms, *(set(done) - set(arms))]}


def _next(
    folder: RunFolder,
    recipe: Recipe,
    seeds: Mapping[int, State],
    about: Mapping[str, Mapping[str, Any]],
    evaluations: Mapping[str, Mapping[str, Mapping[int, State]]],
    report: bool,
) -> str:
    run = shlex.quote(str(folder.path))
    if not about or "to do" in seeds.values():
        if not (recipe.source.sample or recipe.source.path or recipe.source.repo):
            return f"the same call in Python: score_dataset(..., out={str(folder.path)!r})"
        verb = "run" if recipe.prune and recipe.source.test is not None else "score"
        return f"hf-datadiet {verb} {shlex.quote(str(folder.path / 'recipe.yaml'))} --out {run}"
    if not folder.selections():
        return f"hf-datadiet prune {run} --name keep-50 --score {shlex.quote(headline(about))} --keep 0.5"
    if any("to do" in states.values() for arms in evaluations.values() for states in arms.values()):
        unfinished = next(name for name, arms in evaluations.items() if any("to do" in states.values() for states in arms.values()))
        other = "" if unfinished == recipe.evaluate.name else f" evaluate.name={unfinished}"
        return f"hf-datadiet evaluate {run}{other}"
    if not report:
        return f"hf-datadiet report {run}"
    another = f"hf-datadiet prune {run} --name keep-70 --score {shlex.quote(headline(about))} --keep 0.7"
    return f"read {folder.path / 'report.md'}; another budget: {another}"
