"""The command line: the verbs, chained. A user's mistake is one line and exit code 2; a traceback is our bug."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hf_datadiet.errors import DataDietError, RecipeError
from hf_datadiet.recipe import LOGITS, PruneSpec, Recipe, load_recipe, recipe_from, recipes_folder
from hf_datadiet.store import RunFolder

if TYPE_CHECKING:
    from hf_datadiet.records import Report

MISTAKE = 2


def main() -> None:
    """Entry point of `hf-datadiet` and `python -m hf_datadiet`."""
    try:
        commands.main(None if sys.argv[1:] else ["--help"], standalone_mode=False, prog_name="hf-datadiet")
        if not sys.argv[1:]:
            sys.exit(MISTAKE)
    except DataDietError as error:
        sys.exit(_one_line(str(error)))
    except click.ClickException as error:
        sys.exit(_one_line(error.format_message()))
    except (KeyboardInterrupt, click.Abort):
        sys.exit(_one_line("interrupted; the same command goes on from the last finished seed", 130))


def _one_line(message: str, code: int = MISTAKE) -> int:
    sys.stderr.write(f"hf-datadiet: {' '.join(message.split())}\n")
    return code


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hf-datadiet")
def commands() -> None:
    """Score a dataset, prune it, and measure by retraining what pruning costs."""


RUN = click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
RECIPE = click.argument("recipe", metavar="RECIPE", type=click.Path(path_type=Path))
OVERRIDES = click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
OUT = click.option("--out", type=click.Path(path_type=Path), help="Run folder; default runs/<recipe name>.")
LIMIT = click.option("--limit", type=int, help="Use that many rows only; the same as source.limit=N.")
PLUGINS = click.option("--allow-plugins", is_flag=True, help="Admit scores and strategies written package.module:NAME.")
DRY_RUN = click.option("--dry-run", is_flag=True, help="Measure a few steps, print what would happen, write nothing.")


@commands.command()
@RECIPE
@OVERRIDES
@OUT
@LIMIT
@DRY_RUN
@PLUGINS
def run(recipe: Path, overrides: tuple[str, ...], out: Path | None, limit: int | None, dry_run: bool, allow_plugins: bool) -> None:
    """Score, prune, evaluate and report, as RECIPE says. Goes on where an earlier call stopped."""
    loaded, folder = _load(recipe, overrides, limit, out)
    if dry_run:
        return _estimate(loaded, folder, whole=True, allow_plugins=allow_plugins)
    if not loaded.prune:
        raise RecipeError("the recipe makes no selection; add prune: [{name: keep-50, score: el2n, keep: 0.5}]")
    from hf_datadiet.evaluate import evaluate_run
    from hf_datadiet.prune import prune_run
    from hf_datadiet.score import score_run

    if loaded.source.test is None:
        raise RecipeError("the recipe holds no rows out to evaluate on; set source.test.split=NAME or source.test.fraction=0.2")
    command = _command()
    score_run(loaded, folder, command=command, allow_plugins=allow_plugins)
    for spec in loaded.prune:
        prune_run(folder, spec, command=command, allow_plugins=allow_plugins)
    evaluate_run(loaded, folder, command=command, allow_plugins=allow_plugins)
    _finish(folder, _write_report(loaded, folder))


@commands.command()
@click.argument("recipe", metavar="RECIPE", type=click.Path(path_type=Path), required=False)
@OVERRIDES
@OUT
@LIMIT
@DRY_RUN
@click.option("--from-logits", "logits", metavar="FILE", multiple=True, help="Train nothing: [E, N, C] in .npy, or .parquet; one per seed.")
@click.option("--labels", type=click.Path(path_type=Path), help="With --from-logits FILE.npy: the labels, integers [N] in .npy.")
@PLUGINS
def score(
    recipe: Path | None,
    overrides: tuple[str, ...],
    out: Path | None,
    limit: int | None,
    dry_run: bool,
    logits: tuple[str, ...],
    labels: Path | None,
    allow_plugins: bool,
) -> None:
    """Train the scoring seeds that are missing and write scores.parquet; or score logits that are there already."""
    if logits:
        words = [*([str(recipe)] if recipe else []), *overrides]
        if limit is not None or dry_run:
            raise RecipeError("--limit and --dry-run are for trainings; leave them out with --from-logits")
        return _score_logits(logits, labels, words, out or Path("runs") / Path(logits[0]).stem, allow_plugins)
    if labels is not None:
        raise RecipeError("--labels goes with --from-logits FILE; the labels of a RECIPE are a column of its source")
    if recipe is None:
        raise RecipeError("nothing to score is named; give a RECIPE, or --from-logits FILE --labels FILE")
    loaded, folder = _load(recipe, overrides, limit, out)
    if dry_run:
        return _estimate(loaded, folder, whole=False, allow_plugins=allow_plugins)
    from hf_datadiet.score import score_run

    score_run(loaded, folder, command=_command(), allow_plugins=allow_plugins)
    _finish(folder, _write_report(loaded, folder))


@commands.command()
@RUN
@click.option("--name", required=True, help="Name of the selection, for example keep-70.")
@click.option("--keep", required=True, help="Fraction (0.7), count (35000), or threshold ({score: el2n, below: 0.3}).")
@click.option("--score", "score_column", help="Column of scores.parquet to go by.")
@click.option("--strategy", help="hardest (default), easiest, window, random.")
@click.option("--quotas", type=click.Choice(["none", "proportional", "equal"]), default="none", help="Rows per class.")
@click.option("--tie-seed", type=int, default=0, help="Seed that orders equal scores.")
@click.option("--set", "parameters", multiple=True, metavar="KEY=VALUE", help="A parameter of the strategy: --set skip=0.05.")
@click.option("--write", type=click.Choice(["parquet", "disk"]), help="Also write the pruned dataset, with score columns.")
@click.option("--prefix", default="", help="Put before the names of the score columns of --write.")
@PLUGINS
def prune(
    folder: Path,
    name: str,
    keep: str,
    score_column: str | None,
    strategy: str | None,
    quotas: str,
    tie_seed: int,
    parameters: tuple[str, ...],
    write: Any,
    prefix: str,
    allow_plugins: bool,
) -> None:
    """Choose the rows of RUN that stay."""
    from hf_datadiet.prune import prune_run, write_pruned
    from hf_datadiet.recipe import parse_overrides

    asked = {
        "name": name,
        "keep": parse_overrides([f"keep={keep}"])["keep"],
        "score": score_column,
        "strategy": strategy,
        "quotas": quotas,
        "tie_seed": tie_seed,
    }
    spec: PruneSpec = recipe_from({"source": {}, "prune": [asked | parse_overrides(parameters)]}).prune[0]
    kept = RunFolder(folder)
    kept.require()
    selection = prune_run(kept, spec, command=_command(), allow_plugins=allow_plugins)
    click.echo(f"{selection.kept.size} rows kept, {selection.dropped.size} dropped: {kept.selection_path(name) / 'selection.parquet'}")
    if write:
        written = write_pruned(kept, _recipe_of(kept), selection, form=write, prefix=prefix, allow_plugins=allow_plugins)
        click.echo(f"pruned dataset: {written}")
    if _recipe_of(kept).task.kind != LOGITS:
        click.echo(f"next: hf-datadiet evaluate {folder}")


@commands.command()
@RUN
@OVERRIDES
@PLUGINS
def evaluate(folder: Path, overrides: tuple[str, ...], allow_plugins: bool) -> None:
    """Retrain on every selection of RUN, on random sets of equal size and on everything. Overrides: evaluate.seeds=8."""
    from hf_datadiet.evaluate import evaluate_run

    kept = RunFolder(folder)
    kept.require()
    recipe = _recipe_of(kept, overrides)
    evaluate_run(recipe, kept, command=_command(), allow_plugins=allow_plugins)
    _finish(kept, _write_report(recipe, kept))


@commands.command()
@RUN
def report(folder: Path) -> None:
    """Write report.json and report.md of RUN anew and print the tables."""
    kept = RunFolder(folder)
    kept.require()
    _finish(kept, _write_report(_recipe_of(kept), kept))


def _score_logits(logits: Sequence[str], labels: Path | None, words: Sequence[str], out: Path, allow_plugins: bool) -> None:
    from hf_datadiet.from_logits import score_logits
    from hf_datadiet.recipe import parse_overrides

    asked = parse_overrides(words)
    scores = asked.pop("score.scores", None)
    if asked:
        raise RecipeError(
            f"with --from-logits nothing is trained, so {next(iter(asked))} has no effect; only score.scores=[...] can be set"
        )
    names = [scores] if isinstance(scores, str) else scores
    folder = RunFolder(out)
    score_logits(logits, labels, scores=names, folder=folder, command=_command(), allow_plugins=allow_plugins)
    _finish(folder, _write_report(_recipe_of(folder), folder))


def _load(recipe: Path, overrides: Sequence[str], limit: int | None, out: Path | None) -> tuple[Recipe, RunFolder]:
    # A recipe that comes with the package may be named as the README names it, wherever the command is run.
    shipped = recipes_folder() / recipe.name
    path = shipped if not recipe.exists() and recipe.parent in (Path(), Path("recipes")) and shipped.exists() else recipe
    more = [f"source.limit={limit}"] if limit is not None else []
    return load_recipe(path, [*overrides, *more]), RunFolder(out or Path("runs") / path.stem)


def _estimate(recipe: Recipe, folder: RunFolder, *, whole: bool, allow_plugins: bool) -> None:
    from hf_datadiet.prune import budget
    from hf_datadiet.training.estimate import forecast
    from hf_datadiet.training.progress import clock
    from hf_datadiet.training.session import open_session

    session = open_session(recipe, folder, command=_command(), claim=False, allow_plugins=allow_plugins)
    n = len(session.labelled)
    arms = {"full": n} if whole else {}
    for spec in recipe.prune if whole else ():
        # How many rows pass a threshold is not known before scoring: all of them at most.
        size = n if isinstance(spec.keep, Mapping) else budget(spec.keep, n)
        arms |= {spec.name: size} | ({f"random-{size}": size, f"stratified-{size}": size} if size < n else {})
    found = forecast(session, arms=arms)
    done = sum(folder.has_seed(seed) for seed in range(recipe.score.seeds))
    lines = [
        f"rows      {found.n_rows} scored, {found.n_test} held out, of {session.pinned.record.name} ({session.pinned.record.n_rows} rows)",
        f"score     {found.n_seeds} seeds ({done} done) x {found.score_epochs} epochs = {found.score_steps} steps, "
        f"observed after epoch {', '.join(map(str, found.moments))}: about {clock(found.score_seconds)} for all",
    ]
    if arms:
        sizes = ", ".join(f"{arm} {rows}" for arm, rows in found.arms.items())
        lines.append(
            f"evaluate  {found.evaluate_seeds} seeds x {len(found.arms)} arms ({sizes}) = {found.evaluate_steps} steps: "
            f"about {clock(found.evaluate_seconds)}"
        )
    lines += [
        f"memory    about {found.memory_bytes / 2**30:.1f} GiB of this process, decoded rows not counted (they are mapped from disk)",
        f"disk      about {found.disk_bytes / 2**20:.0f} MiB in {folder.path}",
        "nothing was written; times are from a few measured steps on this machine as busy as it is now",
    ]
    click.echo("\n".join(lines))


def _recipe_of(folder: RunFolder, overrides: Sequence[str] = ()) -> Recipe:
    return load_recipe(folder.path / "recipe.yaml", overrides)


def _command() -> str:
    """The command as typed, without the path of the program; absolute paths of arguments are reduced to their names."""
    return " ".join(["hf-datadiet", *(_without_folders(word) for word in sys.argv[1:])])


def _without_folders(word: str) -> str:
    key, equals, value = word.partition("=")
    if Path(word).is_absolute() or Path(value).is_absolute():
        return Path(word).name if Path(word).is_absolute() else key + equals + Path(value).name
    # Inside a YAML value: source={path: /a/b}.
    return re.sub(r"(?<=[\s\[{:,'\"=])/(?:[^\s/,}\]'\"]+/)*", "", word)


def _write_report(recipe: Recipe, folder: RunFolder) -> Report:
    from hf_datadiet.markdown import to_markdown
    from hf_datadiet.report import build_report

    table = folder.load_scores()
    files = {name: meaning for name, meaning in FILES.items() if list(folder.path.glob(name))}
    task = {
        "kind": recipe.task.kind,
        "model": recipe.task.model,
        "epochs": recipe.task.training.epochs,
        "score_epochs": recipe.score_epochs,
        "batch_size": recipe.task.training.batch_size,
    }
    made = build_report(
        table,
        [folder.load_selection(name) for name in folder.selections()],
        [folder.load_evaluation(name) for name in folder.evaluations()],
        task=task,
        seed_seconds=[folder.load_seed(seed).seconds for seed in table.seeds],
        files=files,
    )
    folder.save_report(made, to_markdown(made))
    return made


FILES = {
    "scores.parquet": "one row per example: scores, standard errors, null where there is no label",
    "seeds.parquet": "the same per seed and epoch",
    "seeds/*": "what each scoring seed observed, predicted and weighed",
    "selections/*/selection.parquet": "every scored id: kept or dropped, and why",
    "evaluations/*/results.parquet": "accuracy of every training",
    "evaluations/*/predictions.parquet": "what every training said of every held-out row",
    "label_noise.parquet": "labels changed by source.label_noise",
    "recipe.yaml": "the recipe as it was understood",
}


def _finish(folder: RunFolder, made: Report) -> None:
    from hf_datadiet.markdown import summary

    click.echo(f"\n{summary(made)}\n")
    click.echo(f"report  {folder.path / 'report.md'}")
    click.echo(f"scores  {folder.path / 'scores.parquet'}")
    if made.selections and made.task["kind"] == LOGITS:
        click.echo("next    train on the rows that a selection keeps: its selection.parquet, or prune_dataset in Python")
    elif made.selections and not made.evaluations:
        click.echo(f"next    hf-datadiet evaluate {folder.path}")
    elif made.selections:
        first = made.selections[0]["name"]
        click.echo(f"kept    {folder.selection_path(first) / 'selection.parquet'}")
        click.echo(f"next    read the report; another budget: hf-datadiet prune {folder.path} --name keep-70 --score el2n --keep 0.7")
    else:
        column = next((score["column"] for score in made.scores if score["column"] == score["score"]), made.scores[0]["column"])
        click.echo(f"next    hf-datadiet prune {folder.path} --name keep-50 --score {column} --keep 0.5")
