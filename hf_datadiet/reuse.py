"""Scores that somebody has published, taken for the same rows instead of computing them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path

from hf_datadiet.checked import Unknown
from hf_datadiet.claim import differences
from hf_datadiet.errors import RecipeError, StaleRecordError
from hf_datadiet.evidence import labels_of_source, published_recipe, published_table, read_evidence, require_publication, restore
from hf_datadiet.hub.fetching import fetched
from hf_datadiet.hub.published import EVIDENCE, SCORES
from hf_datadiet.hub.source import pin_again
from hf_datadiet.recipe import Recipe
from hf_datadiet.records import ScoreTable
from hf_datadiet.store import RunFolder
from hf_datadiet.tables import unpack_source
from hf_datadiet.training.task import find_task
from hf_datadiet.verified_files import added, changed, manifest
from hf_datadiet.verified_scores import other_means, other_than_scored

NEEDED = (f"{EVIDENCE}/*.json", f"{EVIDENCE}/recipe.yaml", f"{EVIDENCE}/skipped.parquet", f"{SCORES}/*")


def reuse_scores(
    place: str, folder: RunFolder, *, recipe: Recipe | None = None, overrides: Sequence[str] = (), allow_plugins: bool = False
) -> ScoreTable:
    """Make the scores of a publication (org/name, org/name@REVISION, or a folder) those of a new run folder, and return them.

    `recipe`: what the run is to go on with; by default the published one, with `overrides` that say where the source lies now. Raises
    `RecipeError` for a recipe that would score otherwise, `StaleRecordError` where the source has not, row by row, the content that was
    scored, where the scores are not those that were published, or where the folder is a run already.
    """
    name, _, revision = place.partition("@") if not Path(place).is_dir() else (place, "", "")
    published, sha = fetched(name, revision or None, NEEDED)
    require_publication(published)
    _require_none(f"{name} is not as it was published", _changed_files(published))
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
    table = published_table(published, about, labels)
    _require_none(f"the scores of {name} do not hold", chain(other_means(table), other_than_scored(table, pinned)))
    return restore(published, folder, taken={"repo": name if sha else None, "revision": sha}, recipe=ours, labels=labels)


def _changed_files(published: Path) -> Iterator[str]:
    """Of the files that are read here; the others are not."""
    names = [name for name in manifest(published) if any(fnmatch(name, pattern) for pattern in NEEDED)]
    return chain(changed(published, names), added(published, [SCORES]))


def _require_none(fault: str, found: Iterator[str]) -> None:
    """Raise `StaleRecordError` with the first line that says what differs."""
    for line in found:
        if not isinstance(line, Unknown):
            raise StaleRecordError(f"{fault}: {line}; take another revision, or score yourself, without --from-hub")
