"""The arguments and options of the verbs, each in one place."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import click

from hf_datadiet import completion
from hf_datadiet.errors import RecipeError


def part_of(typed: str) -> tuple[int, int]:
    """(k, n) from "k/n"."""
    found = re.fullmatch(r"(\d+)/(\d+)", typed)
    part, parts = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= part <= parts:
        raise RecipeError(f"--share {typed} is no part of a whole; give K/N with 1 <= K <= N: --share 1/4 ... --share 4/4")
    return part, parts


RUN = click.argument("folder", metavar="RUN", type=click.Path(path_type=Path), shell_complete=completion.runs)
RECIPE = click.argument("recipe", metavar="RECIPE", type=click.Path(path_type=Path), shell_complete=completion.recipes)
OVERRIDES = click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
OUT = click.option("--out", type=click.Path(path_type=Path), help="Run folder; default runs/<recipe name>.")
LIMIT = click.option("--limit", type=int, help="Use that many rows only; the same as source.limit=N.")
ON_BAD_ROW = click.option(
    "--on-bad-row", type=click.Choice(["error", "skip"]), help="Rows that cannot be read end the run, or go without a score."
)
PLUGINS = click.option("--allow-plugins", is_flag=True, help="Admit scores and strategies written package.module:NAME.")
DRY_RUN = click.option("--dry-run", is_flag=True, help="Measure a few steps, print what would happen, write nothing.")
NUM_PROCESSES = click.option(
    "--num-processes",
    type=click.IntRange(min=1),
    metavar="N",
    help="Share the trainings over N processes here: one for each GPU, or on the CPU.",
)
SHARE = click.option(
    "--share",
    metavar="K/N",
    default="1/1",
    callback=lambda _context, _option, typed: part_of(typed),
    help="Train the K-th of N parts only; other launches with the same RUN, on any machine, train the others.",
)
FORM = click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", help="What stdout holds.")
TABLE_FORM = click.option(
    "--format", "form", type=click.Choice(["text", "csv", "json"]), default="text", help="What stdout holds; notes go to stderr."
)


def with_recipe(verb: Callable[..., None]) -> Callable[..., None]:
    """The options that verbs share which begin with a recipe; what decides about recipe and folder is for the verb."""
    for option in (FORM, PLUGINS, NUM_PROCESSES, DRY_RUN, ON_BAD_ROW, LIMIT, OUT, OVERRIDES):
        verb = option(verb)
    return verb
