"""VERIFY: compute a publication's numbers anew from its data, and say what differs.

What data proves: that no file changed since it was written, that the selections follow from the scores and the scores from those of the
seeds, every number of report and card (counts, class tables, reliability, accuracies, intervals, verdicts), and, where the source can be
opened, that every row is the source's. What no data proves is said too: how long things took, on what, and that such trainings were made.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_datadiet.card import to_card
from hf_datadiet.durable import file_digest
from hf_datadiet.errors import DataDietError, PluginError, SourceError, StaleRecordError
from hf_datadiet.evidence import (
    labels_of_source,
    load_json,
    published_recipe,
    read_evidence,
    require_publication,
    restore,
    restore_judged,
)
from hf_datadiet.hub.fetching import fetched
from hf_datadiet.hub.files import write_shards
from hf_datadiet.hub.published import EVIDENCE, SCORES, variant_splits
from hf_datadiet.hub.reading import generated, metadata_of
from hf_datadiet.hub.source import Pinned, pin_again
from hf_datadiet.publication import Publication
from hf_datadiet.recipe import Recipe
from hf_datadiet.records import AUTO, ScoreTable, Selection
from hf_datadiet.reporting import assembled
from hf_datadiet.selection import select
from hf_datadiet.stats import reliability, seed_mean_se
from hf_datadiet.store import RunFolder
from hf_datadiet.tables import unpack_source

State: TypeAlias = Literal["holds", "differs", "not verifiable"]

TOLERANCE = 1e-6
"""Relative: other versions of numerical libraries round the last digits otherwise."""

SHOWN = 5
"""Differences of one kind that are named; the others are counted."""

UNPROVABLE = {
    "timings": "seconds and what they make of costs were read from a clock; the sums are right, the readings are nobody's to prove",
    "trainings": "that these scores and predictions come from the trainings that the recipe describes shows only who trains again",
    "provenance": "command, versions, hardware and date are what the publisher's machine said",
}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `details`: what differs, or why it cannot be known; at most `SHOWN` lines."""

    what: str
    state: State
    details: tuple[str, ...] = ()


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

    `overrides`: where the source lies here, for example ["source.path=FOLDER"]. Raises `PublishError` where no publication lies,
    `SourceError` where the Hub refuses; whatever is wrong with the publication itself is a `Check` that differs.
    """
    published, sha = fetched(str(place), revision)
    return Verification(str(place), sha, tuple(_checks(published, tuple(overrides))))


def _checks(published: Path, overrides: Sequence[str]) -> Iterator[Check]:
    require_publication(published)
    try:
        yield from _changed_files(published)
        yield from _records(published, overrides)
    except DataDietError as fault:
        yield Check("records are whole", "differs", (str(fault),))
    except Exception as fault:  # anybody may have written what is read here
        yield Check("records fit together", "differs", (f"{type(fault).__name__}: {_short(str(fault))}",))
    for what, why in UNPROVABLE.items():
        yield Check(what, "not verifiable", (why,))


def _records(published: Path, overrides: Sequence[str]) -> Iterator[Check]:
    about = read_evidence(published)
    publication = Publication.from_json(load_json(published / EVIDENCE / "publication.json"))
    recipe = published_recipe(published, overrides)
    pinned, reason = _source(recipe, about, published)
    if pinned is None and not about["labels"]:
        yield Check("scores, selections, evaluations, report and card", "not verifiable", (f"no labels were published, and {reason}",))
        return
    labels = None if pinned is None else labels_of_source(pinned)
    with tempfile.TemporaryDirectory() as temporary:
        folder = RunFolder(temporary)
        table = restore(published, folder, taken={}, recipe=published_recipe(published), labels=labels)
        restore_judged(published, folder, labels)
        selections = [folder.load_selection(name) for name in folder.selections() if name in publication.variants]
        yield _check("scores are the means of those of the seeds", _other_means(table))
        yield from _selections(table, selections)
        yield _check("accuracies are those of the predictions", _other_accuracies(folder))
        yield _check("report.json follows from the records", _other_report(published, folder))
        yield _check("the card says what the report says", _other_card(published, publication))
        yield _check("the card counts the rows that there are", _other_counts(published))
        yield _check(
            "every configuration has the rows that its selection keeps", _other_rows(published, table, selections, publication.prefix)
        )
        if pinned is None:
            yield Check("rows are those of the source", "not verifiable", (reason,))
        else:
            found = _other_than_source(published, publication, pinned, table, selections, skip=recipe.source.on_bad_row == "skip")
            yield _check("rows are those of the source", found)


def _check(what: str, differences: Iterator[str]) -> Check:
    found = list(differences)
    more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return Check(what, "differs" if found else "holds", (*found[:SHOWN], *more))


def _changed_files(published: Path) -> Iterator[Check]:
    yield _check("files are as they were written", _other_digests(published))


def _other_digests(published: Path) -> Iterator[str]:
    for name, digest in load_json(published / EVIDENCE / "manifest.json")["files"].items():
        path = published / name
        if not path.is_file():
            yield f"{name} is missing"
        elif file_digest(path) != digest:
            yield f"{name} was changed"


def _source(recipe: Recipe, about: Mapping[str, Any], published: Path) -> tuple[Pinned | None, str]:
    """The source as it was scored, or None and why it cannot be looked at."""
    if recipe.source.sample is None and recipe.source.path is None and recipe.source.repo is None:
        return None, "the source was a dataset in memory; pass where it lies: source.path=FOLDER"
    try:
        return pin_again(recipe.source, unpack_source(about["source"]), RunFolder(published / EVIDENCE).skipped()), ""
    except (SourceError, StaleRecordError) as fault:
        return None, f"the source cannot be looked at here: {fault}"


def _other_means(table: ScoreTable) -> Iterator[str]:
    """Means, standard errors and reliability once more from the values of each seed."""
    for name, column in table.columns.items():
        if column.per_seed is None:
            continue
        mean, se = seed_mean_se(column.per_seed)
        if not np.array_equal(mean, column.mean, equal_nan=True):
            rows = table.example_id[~((mean == column.mean) | (np.isnan(mean) & np.isnan(column.mean)))]
            yield f"{name}: {rows.size} rows are not the mean of the seeds, the first is example {rows[0]}"
        if column.se is not None and se is not None and not np.allclose(se, column.se, rtol=TOLERANCE, atol=0, equal_nan=True):
            yield f"{name}: the standard errors are not those of the seeds"
        if column.reliability is not None:
            found = reliability(column.per_seed[:, np.isfinite(column.mean)])
            if found is None or not math.isclose(found, column.reliability, rel_tol=TOLERANCE):
                yield f"{name}: reliability is {column.reliability} there, {found} from the seeds"


def _selections(table: ScoreTable, selections: Sequence[Selection]) -> Iterator[Check]:
    """Each selection made once more from the scores, by what it records of how it was made."""
    for selection in selections:
        what = f"selection {selection.name} follows from the scores"
        if selection.table_digest != table.digest:
            yield Check(what, "differs", ("it was made from other scores than those published",))
            continue
        try:
            again = _again(table, selection)
        except PluginError as fault:
            yield Check(what, "not verifiable", (str(fault),))
            continue
        lost, added = np.setdiff1d(again.kept, selection.kept), np.setdiff1d(selection.kept, again.kept)
        details = [f"example {row} should be kept" for row in lost.tolist()] + [
            f"example {row} should be dropped" for row in added.tolist()
        ]
        yield _check(what, iter(details))


def _again(table: ScoreTable, selection: Selection) -> Selection:
    settings = {key: value for key, value in selection.parameters.items() if key != AUTO}
    keep, quotas, mix = settings.pop("keep"), settings.pop("quotas"), settings.pop("mix", 0.0)
    score = settings.pop("scores", selection.score)
    threshold = selection.strategy == "threshold"
    return select(
        table,
        name=selection.name,
        keep=keep,
        score=None if threshold else score,
        strategy=None if threshold else selection.strategy,
        quotas=quotas,
        mix=mix,
        tie_seed=selection.tie_seed,
        parameters=settings,
        provenance=selection.provenance,
    )


def _other_report(published: Path, folder: RunFolder) -> Iterator[str]:
    """report.json beside the report that the records make."""
    there = load_json(published / EVIDENCE / "report.json")
    here = json.loads(json.dumps(dataclasses.asdict(assembled(published_recipe(published), folder))))
    for report in (there, here):
        # What lies in a folder, and which pictures could be drawn, are no numbers.
        report.pop("files")
        for picture in report["pictures"]:
            picture.pop("files", None)
    yield from _differences(there, here)


def _differences(there: Any, here: Any, at: str = "") -> Iterator[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in [*there, *(key for key in here if key not in there)]:
            yield from _differences(there.get(key), here.get(key), f"{at}.{key}" if at else key)
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for position, (one, other) in enumerate(zip(there, here, strict=True)):
            yield from _differences(one, other, f"{at}.{position}")
    elif isinstance(there, float) and isinstance(here, float):
        if not math.isclose(there, here, rel_tol=TOLERANCE, abs_tol=1e-12):
            yield f"{at}: {there} published, {here} recomputed"
    elif there != here:
        yield f"{at}: {_short(there)} published, {_short(here)} recomputed"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _other_card(published: Path, publication: Publication) -> Iterator[str]:
    """The generated part of README.md, line by line, beside the card that report.json makes."""
    there = generated((published / "README.md").read_text(encoding="utf-8"))
    here = to_card(load_json(published / EVIDENCE / "report.json"), publication)
    if there is None:
        yield "README.md has lost the part that was generated"
    elif there != here.strip("\n"):
        lines, others = there.splitlines(), here.strip("\n").splitlines()
        yield from (f"README.md says {_short(a)}, the records say {_short(b)}" for a, b in zip(lines, others, strict=False) if a != b)
        if len(lines) != len(others):
            yield f"README.md has {len(lines)} generated lines, the records make {len(others)}"


def _other_counts(published: Path) -> Iterator[str]:
    """`dataset_info` of the card beside the rows in the files."""
    infos = metadata_of((published / "README.md").read_text(encoding="utf-8")).get("dataset_info", [])
    for info in infos if isinstance(infos, list) else [infos]:
        for split in info.get("splits", []):
            rows = sum(
                pq.read_metadata(path).num_rows for path in (published / info["config_name"]).glob(f"{split['name']}-*-of-*.parquet")
            )
            if rows != split["num_examples"]:
                yield f"{info['config_name']}, split {split['name']}: the card counts {split['num_examples']} rows, the files have {rows}"


def _other_accuracies(folder: RunFolder) -> Iterator[str]:
    """What each training is said to have got right beside what it predicted."""
    for trials in (folder, folder.tunings):
        for name in trials.evaluations():
            table = trials.load_evaluation(name)
            for result in table.results:
                right = float(np.mean(result.predicted == table.test_label))
                if not math.isclose(right, result.metrics["accuracy"], rel_tol=TOLERANCE, abs_tol=TOLERANCE):
                    said = f"{result.metrics['accuracy']} published, {right} from its predictions"
                    yield f"{trials.trials.what} {name}, {result.arm}, seed {result.seed}: accuracy {said}"


def _other_rows(published: Path, table: ScoreTable, selections: Sequence[Selection], prefix: str) -> Iterator[str]:
    """Ids and scores of each configuration beside those of its selection and of the scores."""
    for selection in selections:
        paths = sorted((published / selection.name).glob(f"{table.source.split}-*-of-*.parquet"))
        names = {prefix + name: column for name, column in table.columns.items()}
        # The last one of that name: the source may have an `example_id` of its own, and its columns come first.
        found = [name for path in paths[:1] for name in pq.read_schema(path).names if name in ("example_id", f"{prefix}example_id")]
        rows = pa.concat_tables([pq.read_table(path, columns=[found[-1], *names]) for path in paths]) if found else None
        if rows is None or not np.array_equal(rows[found[-1]].to_numpy(), selection.kept):
            yield f"{selection.name} has other rows than its selection keeps"
            continue
        at = np.searchsorted(table.example_id, selection.kept)
        for name, column in names.items():
            if not np.array_equal(rows[name].to_numpy(), column.mean[at], equal_nan=True):
                yield f"{selection.name}: column {name} is not the score in config {SCORES}"


def _other_than_source(
    published: Path, publication: Publication, pinned: Pinned, table: ScoreTable, selections: Sequence[Selection], *, skip: bool
) -> Iterator[str]:
    """Each configuration made once more from the source, and compared row by row."""
    for selection in selections:
        variant = variant_splits(pinned, table, selection, publication.prefix, ids_only=publication.ids_only)
        for split, rows in variant.splits.items():
            with tempfile.TemporaryDirectory() as temporary:
                # Written as it was written there: rows, embedded media and all; equal rows give equal files.
                again = write_shards(rows, Path(temporary), split, skip=skip).files
                there = sorted((published / selection.name).glob(f"{split}-*-of-*.parquet"))
                yield from (f"{selection.name}, split {split}: {line}" for line in _other_files(again, there))


def _other_files(here: Sequence[Path], there: Sequence[Path]) -> Iterator[str]:
    """Where the tables in two lists of files differ, as far as the first row of each column."""
    if list(map(file_digest, here)) == list(map(file_digest, there)):
        return  # without taking them into memory
    one, other = (pa.concat_tables([pq.read_table(path) for path in paths]) if paths else None for paths in (here, there))
    if one is None or other is None or one.column_names != other.column_names or one.num_rows != other.num_rows:
        yield "other columns or another number of rows than the source makes"
        return
    for name in one.column_names:
        if not one[name].equals(other[name]):
            row = next(at for at, (a, b) in enumerate(zip(one[name], other[name], strict=True)) if a != b and not (a != a and b != b))
            yield f"column {name} differs from the source, first in row {row}"
