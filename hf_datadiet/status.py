"""STATUS: how far a run has come and what to do next. Reads names of files and a few columns, trains and imports nothing heavy."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_datadiet.arms import REDRAWN, drawn_arms
from hf_datadiet.errors import DamagedError
from hf_datadiet.recipe import FIRST_EVALUATION_SEED, FIRST_TUNING_SEED, Recipe
from hf_datadiet.recipe_yaml import kept_recipe
from hf_datadiet.records import AUTO
from hf_datadiet.store import RunFolder, from_where
from hf_datadiet.trainings import Training, running, seconds_left, unfinished


@dataclass(frozen=True)
class Status:
    """How far a run has come. `seeds` are the scoring seeds, 0..S-1, or none where the scores were `taken` from elsewhere; `scores` the
    columns of scores.parquet, empty before it exists.

    `selections`: rows kept by each. `tunings`: selection -> candidate -> seed -> training, of those that have begun. `evaluations`:
    name -> arm -> seed -> training; the evaluation that the recipe names is among them as soon as there is a selection to judge.
    `running`: how many trainings are running now. `seconds_left`: until
    all these trainings are done, with as many at a time; None while that cannot be known. `next`: the command to run now.
    """

    run: str
    source: str
    model: str
    taken: str | None
    seeds: Mapping[int, Training]
    scores: tuple[str, ...]
    selections: Mapping[str, int]
    tunings: Mapping[str, Mapping[str, Mapping[int, Training]]]
    evaluations: Mapping[str, Mapping[str, Mapping[int, Training]]]
    running: int
    seconds_left: float | None
    report: bool
    next: str


def status_of(folder: RunFolder) -> Status:
    """The status of a run folder; `RecipeError` if it holds no run, `DamagedError` for a file that cannot be read.

    Of damaged seeds and trainings that is their state. Of a seed only the sizes of files are looked at.
    """
    folder.require()
    recipe = kept_recipe(folder.path)
    # Scores that were taken from the Hub have no seeds here, and need none.
    taken = folder.taken()
    seeds = {seed: _seed(folder, recipe, seed) for seed in range(recipe.score.seeds)} if taken is None else {}
    about, n_labelled = folder.glance_scores()
    selections = {name: folder.glance_selection(name) for name in folder.selections()}
    tunings = {name: _tuning(folder.tunings, name) for name in folder.begun_tunings()}
    evaluations = {name: _trainings(folder, recipe, name, selections, n_labelled) for name in _evaluation_names(folder, recipe, selections)}
    report = (folder.path / "report.json").exists()
    # Seconds per row differ between stages: seeds are also observed.
    trials = (*tunings.values(), *evaluations.values())
    stages = [list(seeds.values()), *([each for arm in arms.values() for each in arm.values()] for arms in trials)]
    left = [seconds_left(stage) for stage in stages]
    return Status(
        run=str(folder.path),
        source=folder.source().name,
        model=recipe.task.model,
        taken=None if taken is None else from_where(taken),
        seeds=seeds,
        scores=tuple(about),
        selections=selections,
        tunings=tunings,
        evaluations=evaluations,
        running=sum(running(stage) for stage in stages),
        seconds_left=None if None in left else sum(seconds for seconds in left if seconds is not None),
        report=report,
        next=_next(folder, recipe, seeds, about, tunings, evaluations, report),
    )


def _seed(folder: RunFolder, recipe: Recipe, seed: int) -> Training:
    epochs = recipe.score_epochs
    if folder.has_seed(seed):
        try:
            seconds = folder.glance_seed(seed)["seconds"]
        except DamagedError as error:
            return Training("damaged", reason=f"{error.path} {error.fault}")
        return Training("done", epochs, epochs, seconds)
    return unfinished(folder.path / "unfinished" / "score" / f"{seed:03d}", 1.0)


def headline(columns: Mapping[str, Mapping[str, Any]]) -> str:
    """Of {column: {"score": its score}} the column that the first score's plain name means, at the moment `score.at`."""
    return next((name for name, about in columns.items() if name == about["score"]), next(iter(columns)))


def _evaluation_names(folder: RunFolder, recipe: Recipe, selections: Mapping[str, int]) -> list[str]:
    begun = sorted({*folder.begun_evaluations(), *folder.unfinished_evaluations()})
    # An evaluation under another name serves as well as the recipe's own.
    wanted = recipe.evaluations if not begun or recipe.evaluate.name in begun else ()
    if not selections or recipe.source.test is None:
        return begun
    return [*begun, *(name for name in wanted if name not in begun)]


def _trainings(
    folder: RunFolder, recipe: Recipe, name: str, selections: Mapping[str, int], n_labelled: int
) -> dict[str, dict[int, Training]]:
    done, begun = folder.trained(name), folder.in_training(name)
    # As the recipe says of its own evaluation; for any, another call may have asked for it.
    redrawn = (recipe.evaluate.redrawn and name in recipe.evaluations) or any(arm.startswith(REDRAWN) for arm in (*done, *begun))
    drawn = drawn_arms(selections.values(), n_labelled, redrawn=redrawn)
    sizes = {"full": n_labelled, **selections, **{arm.name: arm.size for arm in drawn}}
    # How many seeds an evaluation wants is only known of those in the recipe; another has at least those it began.
    wanted = range(FIRST_EVALUATION_SEED, FIRST_EVALUATION_SEED + recipe.evaluate.seeds) if name in recipe.evaluations else ()
    seeds = sorted({*wanted, *(seed for found in (*done.values(), *begun.values()) for seed in found)})
    # Equal steps take equal time whatever the number of rows.
    work = {
        arm: float(sizes.get(arm, n_labelled) if recipe.evaluate.match == "epochs" else n_labelled) for arm in {**sizes, **done, **begun}
    }
    return {arm: {seed: _training(folder, name, arm, seed, work[arm]) for seed in seeds} for arm in work}


def _tuning(folder: RunFolder, name: str) -> dict[str, dict[int, Training]]:
    """`folder`: that of tunings, in which every training has as many rows."""
    about = folder.load_tuning(name)
    seeds = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + about["asked"]["seeds"])
    return {candidate: {seed: _training(folder, name, candidate, seed, 1.0) for seed in seeds} for candidate in about["candidates"]}


def _training(folder: RunFolder, name: str, arm: str, seed: int, work: float) -> Training:
    try:
        result = folder.load_arm(name, arm, seed)
    except DamagedError as error:
        return Training("damaged", reason=f"{error.path} {error.fault}", work=work)
    if result is not None:
        return Training("done", result.epochs, result.epochs, result.seconds, work=work)
    return unfinished(folder.unfinished_path(name) / f"{arm}-{seed}", work)


def _next(
    folder: RunFolder,
    recipe: Recipe,
    seeds: Mapping[int, Training],
    about: Mapping[str, Mapping[str, Any]],
    tunings: Mapping[str, Mapping[str, Mapping[int, Training]]],
    evaluations: Mapping[str, Mapping[str, Mapping[int, Training]]],
    report: bool,
) -> str:
    run = shlex.quote(str(folder.path))
    verb = "run" if recipe.prune and recipe.source.test is not None else "score"
    again = f"hf-datadiet {verb} {shlex.quote(str(folder.path / 'recipe.yaml'))} --out {run}{folder.launched}"
    if not about or not _all_done(seeds):
        if not (recipe.source.sample or recipe.source.path or recipe.source.repo):
            return f"the same call in Python: score_dataset(..., out={str(folder.path)!r})"
        return again
    for name, candidates in tunings.items():
        if not all(_all_done(trainings) for trainings in candidates.values()):
            return again if verb == "run" and name in [spec.name for spec in recipe.prune] else _tune_again(folder, name)
    if verb == "run" and any(spec.strategy == AUTO and spec.name not in folder.selections() for spec in recipe.prune):
        return again
    if not folder.selections():
        return f"hf-datadiet prune {run} --name keep-50 --score {shlex.quote(headline(about))} --keep 0.5"
    finished = folder.evaluations()
    for name, arms in evaluations.items():
        if name not in finished or not all(_all_done(trainings) for trainings in arms.values()):
            asked = "" if name in recipe.evaluations else folder.asking_for(name)
            asked += " evaluate.redrawn=true" if not recipe.evaluate.redrawn and any(arm.startswith(REDRAWN) for arm in arms) else ""
            return f"hf-datadiet evaluate {run}{asked}{folder.launched}"
    if not report:
        return f"hf-datadiet report {run}"
    another = f"hf-datadiet prune {run} --name keep-70 --score {shlex.quote(headline(about))} --keep 0.7"
    return f"read {folder.path / 'report.md'}; another budget: {another}"


def _tune_again(folder: RunFolder, name: str) -> str:
    """The command that began a tuning."""
    asked = {key: value for key, value in folder.load_tuning(name)["asked"].items() if value not in (None, "none", 0)}
    scores = asked.pop("score", [])
    words = ["--name", name, *(word for score in ([scores] if isinstance(scores, str) else scores) for word in ("--score", score))]
    words += ["--strategy", "auto", "--keep", str(asked.pop("keep"))]
    for key in ("quotas", "mix", "tie_seed"):
        if key in asked:
            value = asked.pop(key)
            words += [f"--{key.replace('_', '-')}", value if isinstance(value, str) else json.dumps(value)]
    words += [word for key, value in asked.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    return shlex.join(["hf-datadiet", "prune", str(folder.path), *words]) + folder.launched


def _all_done(trainings: Mapping[int, Training]) -> bool:
    return all(training.state == "done" for training in trainings.values())
