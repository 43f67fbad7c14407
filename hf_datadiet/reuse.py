"""Scores that somebody has published, taken for the same rows instead of computing them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hf_datadiet.claim import differences
from hf_datadiet.errors import RecipeError, StaleRecordError
from hf_datadiet.evidence import labels_of_source, published_recipe, read_evidence, restore
from hf_datadiet.hub.fetching import fetched
from hf_datadiet.hub.published import EVIDENCE, SCORES
from hf_datadiet.hub.source import pin_again
from hf_datadiet.recipe import Recipe
from hf_datadiet.records import ScoreTable
from hf_datadiet.store import RunFolder
from hf_datadiet.tables import unpack_source
from hf_datadiet.training.task import find_task

NEEDED = (f"{EVIDENCE}/*.json", f"{EVIDENCE}/recipe.yaml", f"{EVIDENCE}/skipped.parquet", f"{SCORES}/*")


def reuse_scores(
    place: str, folder: RunFolder, *, recipe: Recipe | None = None, overrides: Sequence[str] = (), allow_plugins: bool = False
) -> ScoreTable:
    """Make the scores of a publication (org/name, org/name@REVISION, or a folder) those of a new run folder, and return them.

    `recipe`: what the run is to go on with; by default the published one, with `overrides` that say where the source lies now. Raises
    `RecipeError` for a recipe that would score otherwise, `StaleRecordError` where the source has not, row by row, the content that was
    scored, or where the folder is a run already.
    """
    name, _, revision = place.partition("@") if not Path(place).is_dir() else (place, "", "")
    published, sha = fetched(name, revision or None, NEEDED)
    about, theirs = read_evidence(published), published_recipe(published)
    ours = recipe or published_recipe(published, tuple(overrides))
    other = differences(theirs.identity(), ours.identity())
    if other:
        raise RecipeError(
            f"{name} was scored otherwise ({'; '.join(other)}); leave these as they are, or score yourself, without --from-hub"
        )
    if folder.exists():
        raise StaleRecordError(f"{folder.path} holds a run already; choose another --out, or delete it")
    folder.require_free()
    find_task(ours, allow_plugins)
    skipped = RunFolder(published / EVIDENCE).skipped()
    pinned = pin_again(ours.source, unpack_source(about["source"]), skipped)
    labels = labels_of_source(pinned)
    return restore(published, folder, taken={"repo": name if sha else None, "revision": sha}, recipe=ours, labels=labels)
