"""The command line: the verbs, chained."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hf_datadiet import answers, completion
from hf_datadiet.arms import drawn_arms
from hf_datadiet.catalogue import SHELVES, Shelf, catalogue, copy_recipe, recipes_folder, shipped
from hf_datadiet.cli_hub import publish, verify
from hf_datadiet.durable import notice
from hf_datadiet.ending import MISTAKE, ended, first, one_line
from hf_datadiet.errors import DamagedError, RecipeError
from hf_datadiet.options import FORM, NUM_PROCESSES, OVERRIDES, PLUGINS, RECIPE, RUN, SHARE, TABLE_FORM, with_recipe
from hf_datadiet.recipe import PruneSpec, Recipe
from hf_datadiet.recipe_yaml import load_recipe, recipe_from
from hf_datadiet.records import AUTO
from hf_datadiet.reporting import report_run
from hf_datadiet.status import status_of
from hf_datadiet.store import RunFolder
from hf_datadiet.typed import command, recipe_of, say

if TYPE_CHECKING:
    from hf_datadiet.training.session import Session


def main() -> None:
    """Entry point of `hf-datadiet` and `python -m hf_datadiet`."""
    # It would log what is raised as well, and a mistake is one line.
    os.environ.setdefault("DATASETS_VERBOSITY", "critical")
    with ended():
        commands.main(None if sys.argv[1:] else ["--help"], standalone_mode=False, prog_name="hf-datadiet")
        if not sys.argv[1:]:
            sys.exit(MISTAKE)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hf-datadiet")
def commands() -> None:
    """Score a dataset, prune it, and measure by retraining what pruning costs."""


@commands.command()
@RECIPE
@with_recipe
def run(recipe: Path, dry_run: bool, num_processes: int | None, allow_plugins: bool, form: answers.Form, **where: Any) -> None:
    """Score, prune, evaluate and report, as RECIPE says. Goes on where an earlier call stopped."""
    loaded, folder = _load(recipe, **where)
    if dry_run:
        return _estimate(loaded, folder, whole=True, num_processes=num_processes, allow_plugins=allow_plugins, form=form)
    if not loaded.prune:
        raise RecipeError("the recipe makes no selection; add prune: [{name: keep-50, score: el2n, keep: 0.5}]")
    if loaded.source.test is None:
        raise RecipeError("the recipe holds no rows out to evaluate on; set source.test.split=NAME or source.test.fraction=0.2")
    _share_out(num_processes, loaded, folder, allow_plugins)
    from hf_datadiet.evaluate import evaluate_run
    from hf_datadiet.prune import prune_run, rehearse
    from hf_datadiet.score import score_run
    from hf_datadiet.training.session import claimed, open_session
    from hf_datadiet.tune import tune_run

    typed = command()
    session = open_session(loaded, folder, command=typed, claim=False, allow_plugins=allow_plugins)
    rehearse(session, loaded.prune, allow_plugins=allow_plugins)
    session = claimed(session)
    score_run(session)
    for spec in loaded.prune:
        evidence = None
        if spec.strategy == AUTO:
            spec, evidence = tune_run(session, spec, allow_plugins=allow_plugins)
        if session.processes.main:
            prune_run(folder, spec, command=typed, evidence=evidence, allow_plugins=allow_plugins)
    session.processes.wait()
    evaluate_run(session)
    _report(session, form)


@commands.command()
@click.argument("recipe", metavar="[RECIPE]", type=click.Path(path_type=Path), required=False, shell_complete=completion.recipes)
@with_recipe
@SHARE
@click.option("--from-logits", "logits", metavar="FILE", multiple=True, help="Train nothing: [E, N, C] in .npy, or .parquet; one per seed.")
@click.option("--labels", type=click.Path(path_type=Path), help="With --from-logits FILE.npy: the labels, integers [N] in .npy.")
@click.option("--from-hub", "published", metavar="REPO[@REVISION]", help="Train nothing: take the scores that were published there.")
def score(
    recipe: Path | None,
    logits: tuple[str, ...],
    labels: Path | None,
    published: str | None,
    dry_run: bool,
    num_processes: int | None,
    share: tuple[int, int],
    allow_plugins: bool,
    form: answers.Form,
    **where: Any,
) -> None:
    """Train the scoring seeds that are missing and write scores.parquet; or take logits, or scores, that are there already."""
    of_trainings = dry_run or num_processes or share != (1, 1) or where["limit"] is not None or where["on_bad_row"] is not None
    if of_trainings and (logits or published is not None):
        words = "--limit, --on-bad-row, --num-processes, --share and --dry-run are for trainings"
        raise RecipeError(f"{words}; leave them out with --from-{'logits' if logits else 'hub'}")
    if published is not None:
        if logits or labels is not None:
            raise RecipeError("--from-hub takes scores and --from-logits computes them; give one of them")
        return _take_scores(published, recipe, where["overrides"], where["out"], allow_plugins, form)
    if logits:
        words = [*([str(recipe)] if recipe else []), *where["overrides"]]
        return _score_logits(logits, labels, words, where["out"] or Path("runs") / Path(logits[0]).stem, allow_plugins, form)
    if labels is not None:
        raise RecipeError("--labels goes with --from-logits FILE; the labels of a RECIPE are a column of its source")
    if recipe is None:
        raise RecipeError("nothing to score is named; give a RECIPE, or --from-logits FILE --labels FILE")
    loaded, folder = _load(recipe, **where)
    if dry_run:
        return _estimate(loaded, folder, whole=False, num_processes=num_processes, allow_plugins=allow_plugins, form=form)
    _share_out(num_processes, loaded, folder, allow_plugins)
    from hf_datadiet.score import score_run
    from hf_datadiet.training.session import open_session

    session = open_session(loaded, folder, command=command(), allow_plugins=allow_plugins, share=share)
    _report(session, form, complete=score_run(session) is not None)


@commands.command()
@RUN
@OVERRIDES
@click.option("--name", required=True, help="Name of the selection, for example keep-70.")
@click.option("--keep", required=True, help="Fraction (0.7), count (35000), or threshold ({score: el2n, below: 0.3}).")
@click.option(
    "--score", "columns", multiple=True, help="Column of scores.parquet to go by; several: mean rank.", shell_complete=completion.columns
)
@click.option(
    "--strategy",
    help="hardest (default) or another of: hf-datadiet list selectors; auto trains to choose one.",
    shell_complete=completion.strategies,
)
@click.option(
    "--quotas",
    default="none",
    help="Rows per class: proportional, equal, {cat: 2, dog: 1}, {recall: {cat: 0.9, dog: 0.7}}.",
    shell_complete=completion.quotas,
)
@click.option("--mix", type=float, default=0.0, help="Fraction of the budget to draw at random from what the strategy leaves.")
@click.option("--tie-seed", type=int, default=0, help="Seed that orders equal scores.")
@click.option("--set", "parameters", multiple=True, metavar="KEY=VALUE", help="A parameter of the strategy: --set skip=0.05.")
@click.option("--write", type=click.Choice(["parquet", "disk"]), help="Also write the pruned dataset, with score columns.")
@click.option("--prefix", default="", help="Put before the names of the score columns of --write.")
@NUM_PROCESSES
@PLUGINS
@FORM
def prune(
    folder: Path,
    overrides: tuple[str, ...],
    name: str,
    keep: str,
    columns: tuple[str, ...],
    strategy: str | None,
    quotas: str,
    mix: float,
    tie_seed: int,
    parameters: tuple[str, ...],
    write: Any,
    prefix: str,
    num_processes: int | None,
    allow_plugins: bool,
    form: answers.Form,
) -> None:
    """Choose the rows of RUN that stay. Overrides say where the source lies now, for --write and --strategy auto: source.path=FOLDER."""
    from hf_datadiet.prune import choose, write_pruned
    from hf_datadiet.recipe_yaml import parse_overrides

    asked = {
        "name": name,
        **parse_overrides([f"keep={keep}", f"quotas={quotas}"]),
        "score": columns[0] if len(columns) == 1 else columns or None,
        "strategy": strategy,
        "mix": mix,
        "tie_seed": tie_seed,
    }
    spec: PruneSpec = recipe_from({"source": {}, "prune": [asked | parse_overrides(parameters)]}).prune[0]
    kept = RunFolder(folder)
    kept.require()
    evidence, speaks = None, True
    if spec.strategy == AUTO:
        spec, evidence, speaks = _tuned(kept, spec, overrides, num_processes, allow_plugins)
    elif num_processes is not None:
        raise RecipeError("--num-processes is for trainings, and only strategy auto trains here; leave it out")
    if not speaks:
        return
    selection = choose(kept, spec, command=command(), evidence=evidence, allow_plugins=allow_plugins)
    # Before the selection, so that a dataset that cannot be written leaves nothing behind.
    written = (
        write_pruned(kept, recipe_of(kept, overrides), selection, form=write, prefix=prefix, allow_plugins=allow_plugins) if write else None
    )
    kept.save_selection(selection)
    say(answers.of_selection(kept, selection, written), form)


@commands.command()
@RUN
@OVERRIDES
@NUM_PROCESSES
@SHARE
@PLUGINS
@FORM
def evaluate(
    folder: Path, overrides: tuple[str, ...], num_processes: int | None, share: tuple[int, int], allow_plugins: bool, form: answers.Form
) -> None:
    """Retrain on every selection of RUN, on random sets of equal size and on everything. Overrides: evaluate.seeds=8."""
    kept = RunFolder(folder)
    kept.require()
    other = [word for word in overrides if not word.startswith(("evaluate", "source.", "tracker=", "parallel="))]
    if other:
        raise RecipeError(f"{other[0]} has no effect on what was scored; only evaluate.KEY=VALUE can be set, or where the source lies")
    recipe = recipe_of(kept, overrides)
    if num_processes is not None:
        kept.to_judge()
    _share_out(num_processes, recipe, kept, allow_plugins)
    from hf_datadiet.evaluate import evaluate_run
    from hf_datadiet.training.session import open_session

    session = open_session(recipe, kept, command=command(), allow_plugins=allow_plugins, share=share)
    _report(session, form, complete=evaluate_run(session) is not None)


@commands.command()
@RUN
@OVERRIDES
@click.option("--top", type=int, default=50, help="How many rows; default 50.")
@click.option(
    "--score", help="Column to go by, from its hard end; default: the best evidenced one there is.", shell_complete=completion.columns
)
@TABLE_FORM
def inspect(folder: Path, overrides: tuple[str, ...], top: int, score: str | None, form: answers.Form) -> None:
    """List the rows of RUN whose labels are most likely wrong. Writes nothing. Overrides say where the source lies now, for texts."""
    from hf_datadiet.suspects import suspects_of

    kept = RunFolder(folder)
    kept.require()
    other = [word for word in overrides if not word.startswith("source")]
    if other:
        raise RecipeError(f"{other[0]} has no effect on what was scored; only source.KEY=VALUE can be set, where the source lies")
    found = suspects_of(kept, recipe_of(kept, overrides), top=top, score=score)
    for note in found.notes if first() else ():
        notice(note)
    say(answers.of_suspects(kept, found), form)


@commands.command()
@RUN
@FORM
def report(folder: Path, form: answers.Form) -> None:
    """Write report.json and report.md of RUN anew and print the tables."""
    kept = RunFolder(folder)
    kept.require()
    say(answers.of_report(kept, report_run(recipe_of(kept), kept)), form)


@commands.command()
@RUN
@FORM
def status(folder: Path, form: answers.Form) -> None:
    """How far RUN has come, and what to do next. Trains nothing, writes nothing."""
    say(answers.of_status(status_of(RunFolder(folder))), form)


@commands.command("list")
@click.argument("shelf", metavar="|".join(SHELVES), type=click.Choice(SHELVES))
@FORM
def list_(shelf: Shelf, form: answers.Form) -> None:
    """Name what there is, each with its meaning."""
    say(answers.of_catalogue(shelf, catalogue(shelf)), form)


@commands.command()
@RECIPE
@click.argument("target", metavar="[TARGET]", required=False, type=click.Path(path_type=Path))
@FORM
def cp(recipe: Path, target: Path | None, form: answers.Form) -> None:
    """Copy a recipe that comes along, to be edited; nothing is overwritten."""
    copied = str(copy_recipe(recipe, target))
    say(answers.Answer(copied, {"recipe": copied}), form)


commands.add_command(publish)
commands.add_command(verify)


def _share_out(n: int | None, recipe: Recipe, folder: RunFolder, allow_plugins: bool) -> None:
    """Carry this very command out in n processes and end as they end; return if it is to be carried out here.

    What can be said against it without training is said before any of them is started.
    """
    if n is None:
        return
    from hf_datadiet.training.launch import launch, to_start
    from hf_datadiet.training.session import check

    if not to_start(n):
        return
    check(recipe, folder, allow_plugins=allow_plugins)
    try:
        plan = folder.plan()
    except DamagedError:
        plan = None  # it is made anew there
    end = launch(n, sys.argv[1:], recipes_folder() / "accelerate" / "multi_gpu.yaml", plan.threads if plan else None)
    sys.exit(end.code if end.reason is None else one_line(end.reason, end.code))


def _report(session: Session, form: answers.Form, *, complete: bool = True) -> None:
    """Write the reports of a run and say them, or how far it is while other launches are at work; one of several processes does."""
    if not session.processes.main:
        return
    if complete:
        say(answers.of_report(session.folder, report_run(session.recipe, session.folder)), form)
    else:
        say(answers.of_status(status_of(session.folder)), form)


def _tuned(
    folder: RunFolder, spec: PruneSpec, overrides: Sequence[str], num_processes: int | None, allow_plugins: bool
) -> tuple[PruneSpec, dict[str, Any], bool]:
    """What strategy auto chooses, why, and whether this is the process that goes on with it."""
    from hf_datadiet.training.session import open_session
    from hf_datadiet.tune import require_model, tune_run

    recipe = recipe_of(folder, overrides)
    require_model(recipe)
    _share_out(num_processes, recipe, folder, allow_plugins)
    session = open_session(recipe, folder, command=command(), allow_plugins=allow_plugins)
    return *tune_run(session, spec, allow_plugins=allow_plugins), session.processes.main


def _score_logits(
    logits: Sequence[str], labels: Path | None, words: Sequence[str], out: Path, allow_plugins: bool, form: answers.Form
) -> None:
    from hf_datadiet.from_logits import score_logits
    from hf_datadiet.recipe_yaml import parse_overrides

    asked = parse_overrides(words)
    scores = asked.pop("score.scores", None)
    if asked:
        raise RecipeError(
            f"with --from-logits nothing is trained, so {next(iter(asked))} has no effect; only score.scores=[...] can be set"
        )
    names = [scores] if isinstance(scores, str) else scores
    folder = RunFolder(out)
    score_logits(logits, labels, scores=names, folder=folder, command=command(), allow_plugins=allow_plugins)
    say(answers.of_report(folder, report_run(recipe_of(folder), folder)), form)


def _take_scores(
    published: str, recipe: Path | None, overrides: Sequence[str], out: Path | None, allow_plugins: bool, form: answers.Form
) -> None:
    from hf_datadiet.reuse import reuse_scores

    # Without a recipe the first word may be an override.
    if recipe is not None and "=" in str(recipe) and not recipe.exists():
        recipe, overrides = None, [str(recipe), *overrides]
    loaded = None if recipe is None else _load(recipe, overrides, None, None, None)[0]
    folder = RunFolder(out or Path("runs") / Path(published.partition("@")[0]).name)
    reuse_scores(published, folder, recipe=loaded, overrides=overrides, allow_plugins=allow_plugins)
    say(answers.of_report(folder, report_run(recipe_of(folder), folder)), form)


def _load(recipe: Path, overrides: Sequence[str], limit: int | None, out: Path | None, on_bad_row: str | None) -> tuple[Recipe, RunFolder]:
    # A recipe that comes with the package may be named as the README names it, wherever the command is run.
    path = recipe if recipe.exists() else shipped(recipe) or recipe
    more = [f"source.limit={limit}"] if limit is not None else []
    more += [f"source.on_bad_row={on_bad_row}"] if on_bad_row is not None else []
    return load_recipe(path, [*overrides, *more]), RunFolder(out or Path("runs") / path.stem)


def _estimate(
    recipe: Recipe, folder: RunFolder, *, whole: bool, num_processes: int | None, allow_plugins: bool, form: answers.Form
) -> None:
    from hf_datadiet.budget import budget
    from hf_datadiet.prune import rehearse
    from hf_datadiet.training.estimate import forecast
    from hf_datadiet.training.launch import to_start
    from hf_datadiet.training.session import open_session

    to_start(num_processes)
    session = open_session(recipe, folder, command=command(), claim=False, allow_plugins=allow_plugins)
    comparisons = rehearse(session, recipe.prune, allow_plugins=allow_plugins)
    n = len(session.labelled)
    # How many rows pass a threshold is not known before scoring: all of them at most.
    sizes = {spec.name: n if isinstance(spec.keep, Mapping) else budget(spec.keep, n) for spec in recipe.prune if whole}
    drawn = drawn_arms(sizes.values(), n, redrawn=recipe.evaluate.redrawn)
    arms = {"full": n, **sizes, **{arm.name: arm.size for arm in drawn}} if whole else {}
    found = forecast(session, arms=arms, processes=num_processes or 1, tunings=comparisons if whole else {})
    record, done = session.pinned.record, sum(folder.has_seed(seed) for seed in range(recipe.score.seeds))
    say(answers.of_forecast(found, source=record.name, n_source_rows=record.n_rows, seeds_done=done, folder=folder.path), form)
