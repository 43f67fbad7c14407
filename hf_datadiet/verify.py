"""VERIFY: compute a publication's numbers anew from its data, and say what differs.

What data proves: that no file changed since it was written and none was added, that the selections follow from the scores and the scores
from those of the seeds, every number of report and card (counts, class tables, reliability, accuracies, intervals, verdicts), and, where
the source can be opened, that every row and every label is the source's. What no data proves is said too: how long things took, on what,
and that such trainings were made.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

from hf_datadiet.checked import Check, check, short
from hf_datadiet.errors import DataDietError, PublishError, SourceError, StaleRecordError
from hf_datadiet.evidence import (
    ScoredLabels,
    labels_of_source,
    load_json,
    published_recipe,
    read_evidence,
    require_publication,
    restore,
    restore_judged,
)
from hf_datadiet.hub.fetching import fetched
from hf_datadiet.hub.published import EVIDENCE
from hf_datadiet.hub.source import Pinned, pin_again
from hf_datadiet.publication import Publication
from hf_datadiet.recipe import Recipe
from hf_datadiet.store import RunFolder
from hf_datadiet.tables import unpack_source
from hf_datadiet.verified_card import other_card, other_metadata, other_publication
from hf_datadiet.verified_files import added, changed, config_folders, manifest
from hf_datadiet.verified_report import other_report
from hf_datadiet.verified_rows import other_rows, other_than_source
from hf_datadiet.verified_scores import other_columns, other_directions, other_means, other_than_scored
from hf_datadiet.verified_selections import selections_again
from hf_datadiet.verified_trainings import other_accuracies, other_settings, other_test_rows, other_training_rows

UNPROVABLE = {
    "timings": "seconds and what they make of costs were read from a clock; the sums are right, the readings are nobody's to prove",
    "trainings": "that these scores and predictions come from the trainings that the recipe describes shows only who trains again",
    "provenance": "command, versions, hardware, date, licence and access to the source are what the publisher's machine said",
}

FROM_SOURCE = ("labels and test rows are those of the source", "rows are those of the source")
"""What can be looked at only where the source is open."""


@dataclass(frozen=True)
class Verification:
    """What was looked at in one commit (`revision` None: in a folder)."""

    name: str
    revision: str | None
    checks: tuple[Check, ...]

    @property
    def holds(self) -> bool:
        """Whether nothing differs."""
        return all(check.state != "differs" for check in self.checks)


def verify_publication(place: str | Path, *, revision: str | None = None, overrides: Sequence[str] = ()) -> Verification:
    """Verify a dataset repository on the Hub at a revision (default: main), or a folder that `publish` wrote.

    `overrides`: where the source lies here, for example ["source.path=FOLDER"]. Raises `PublishError` where no publication lies and for
    a folder with a revision, `SourceError` where the Hub refuses; whatever is wrong with the publication itself is a `Check` that differs.
    """
    published, sha = fetched(str(place), revision, ("README.md", f"{EVIDENCE}/*"))
    require_publication(published)
    if sha is not None:
        with suppress(PublishError):  # without a manifest nothing is looked at but that
            fetched(str(place), sha, [f"{folder}/*" for folder in config_folders(published)])
    return Verification(str(place), sha, tuple(_checks(published, tuple(overrides))))


def _checks(published: Path, overrides: Sequence[str]) -> Iterator[Check]:
    try:
        yield _changed_files(published)
        yield from _records(published, overrides)
    except DataDietError as fault:
        yield Check("records are whole", "differs", (str(fault),))
    except Exception as fault:  # anybody may have written what is read here
        yield Check("records fit together", "differs", (f"{type(fault).__name__}: {short(str(fault))}",))
    for what, why in UNPROVABLE.items():
        yield Check(what, "not verifiable", (why,))


def _changed_files(published: Path) -> Check:
    found = chain(changed(published, manifest(published)), added(published, config_folders(published)))
    return check("files are as they were written", found)


def _records(published: Path, overrides: Sequence[str]) -> Iterator[Check]:
    about = read_evidence(published)
    pinned, reason = _source(published_recipe(published, overrides), about, published)
    if pinned is None and not about["labels"]:
        yield Check("scores, selections, evaluations, report and card", "not verifiable", (f"no labels were published, and {reason}",))
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield from _restored(published, RunFolder(temporary), about, pinned, reason)


def _restored(published: Path, folder: RunFolder, about: Mapping[str, Any], pinned: Pinned | None, reason: str) -> Iterator[Check]:
    """What the records say once they are a run folder again."""
    made_by, recipe = _made_by(about), published_recipe(published)
    publication = _publication(published, made_by)
    labels: ScoredLabels | None = None if pinned is None else labels_of_source(pinned)
    table = restore(published, folder, taken={}, recipe=recipe, labels=labels)
    restore_judged(published, folder, labels)
    selections = [folder.load_selection(name) for name in folder.selections() if name in publication.variants]
    yield check("scores are the means of those of the seeds", other_means(table))
    yield check("scores mean what their definitions say", other_directions(table, recipe.score.scores))
    yield from selections_again(table, selections)
    yield check("accuracies are those of the predictions", other_accuracies(folder))
    yield check("trainings are of the rows that they are said to be of", other_training_rows(folder, table))
    yield check("evaluations are those of the recipe", other_settings(folder, recipe, table))
    yield check("report.json follows from the records", other_report(published, folder, made_by))
    yield check("the card says what the report says", other_card(published, publication, made_by))
    yield check("the card's metadata are those of the files", other_metadata(published))
    facts = other_publication(published, publication, table, recipe, selections, pinned, made_by)
    yield check("publication.json says what lies there", facts)
    found = other_rows(published, table, selections, publication.prefix)
    columns = other_columns(published, table, ids_only=publication.ids_only)
    yield check("every configuration has the rows that its selection keeps", chain(columns, found))
    if pinned is None:
        yield from (Check(what, "not verifiable", (reason,)) for what in FROM_SOURCE)
        return
    yield check(FROM_SOURCE[0], chain(other_than_scored(table, pinned), other_test_rows(folder, pinned)))
    skip = recipe.source.on_bad_row == "skip"
    yield check(FROM_SOURCE[1], other_than_source(published, publication, pinned, table, selections, skip=skip))


def _made_by(about: Mapping[str, Any]) -> str | None:
    """None for a publication of this version; otherwise what to do to see whether its words are right."""
    theirs, ours = about["provenance"]["versions"].get("hf-datadiet"), version("hf-datadiet")
    if theirs == ours:
        return None
    return f"it was made by hf-datadiet {theirs}, and this is {ours}: install that version to check its words"


def _publication(published: Path, made_by: str | None) -> Publication:
    """publication.json; keys of another version are its own."""
    said = load_json(published / EVIDENCE / "publication.json")
    known = {field.name for field in dataclasses.fields(Publication)}
    return Publication.from_json(said if made_by is None else {key: value for key, value in said.items() if key in known})


def _source(recipe: Recipe, about: Mapping[str, Any], published: Path) -> tuple[Pinned | None, str]:
    """The source as it was scored, or None and why it cannot be looked at."""
    if recipe.source.sample is None and recipe.source.path is None and recipe.source.repo is None:
        return None, "the source was a dataset in memory; pass where it lies: source.path=FOLDER"
    try:
        return pin_again(recipe.source, unpack_source(about["source"]), RunFolder(published / EVIDENCE).skipped()), ""
    except (SourceError, StaleRecordError) as fault:
        return None, f"the source cannot be looked at here: {fault}"
