"""The command line, where it speaks with the Hub: publish and verify."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from hf_datadiet import answers
from hf_datadiet.errors import RecipeError
from hf_datadiet.options import FORM, OVERRIDES, RUN
from hf_datadiet.store import RunFolder
from hf_datadiet.typed import recipe_of, say

DIFFERS = 1
"""Exit code where a publication does not hold."""


@click.command()
@RUN
@OVERRIDES
@click.option("--to", required=True, metavar="OWNER/NAME", help="The dataset repository.")
@click.option("--push", is_flag=True, help="Send it to the Hub; without, it is only written to a folder.")
@click.option("--public", is_flag=True, help="For everybody to see; otherwise it is private.")
@click.option("--ids-only", is_flag=True, help="Kept ids and scores, no column of the source: where its licence or gate forbids copies.")
@click.option("--i-may-share", "asserted", metavar="LICENSE", help="You say that you may publish the rows, under this licence.")
@click.option(
    "--examples/--no-examples",
    default=None,
    help="Show the hardest and easiest rows in the card; not by default where the source is private.",
)
@click.option("--push-models", "models", is_flag=True, help="Also publish a model of each selection, as evaluation trained it.")
@click.option("--create-pr", is_flag=True, help="Open a pull request instead of committing to main.")
@click.option("--dry-run", is_flag=True, help="List what would be sent, and send nothing.")
@click.option("--prefix", default="", help="Put before the names of the score columns.")
@click.option("--out", type=click.Path(path_type=Path), help="Where the tree is written; default RUN/published.")
@FORM
def publish(folder: Path, overrides: tuple[str, ...], form: answers.Form, **asked: Any) -> None:
    """Publish the scores and selections of RUN with their evidence. Overrides say where the source lies now: source.path=FOLDER."""
    from hf_datadiet.publication import Asked
    from hf_datadiet.publish import publish_run

    kept = RunFolder(folder)
    kept.require()
    other = [word for word in overrides if not word.startswith("source")]
    if other:
        raise RecipeError(f"{other[0]} has no effect on what was scored; only source.KEY=VALUE can be set, where the source lies")
    found = publish_run(kept, recipe_of(kept, overrides), Asked(**asked))
    say(answers.of_publication(found), form)


@click.command()
@click.argument("place", metavar="REPO")
@OVERRIDES
@click.option("--revision", help="Branch, tag or commit; default main.")
@FORM
def verify(place: str, overrides: tuple[str, ...], revision: str | None, form: answers.Form) -> None:
    """Compute the numbers of a publication anew from its data; exit code 1 if something differs. REPO may also be a folder."""
    from hf_datadiet.verify import verify_publication

    found = verify_publication(place, revision=revision, overrides=overrides)
    say(answers.of_verification(found), form)
    if not found.holds:
        sys.exit(DIFFERS)
