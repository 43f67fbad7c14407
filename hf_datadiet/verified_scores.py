"""Published scores beside the values of their seeds and beside their source."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from datasets import Features

from hf_datadiet.checked import TOLERANCE, Unknown
from hf_datadiet.errors import PluginError
from hf_datadiet.hub.published import SCORES, scores_dataset
from hf_datadiet.hub.source import Pinned
from hf_datadiet.records import Direction, ScoreColumn, ScoreTable
from hf_datadiet.stats import reliability, seed_mean_se
from hf_datadiet.training.session import find_scores
from hf_datadiet.verified_files import splits_of


def other_means(table: ScoreTable) -> Iterator[str]:
    """Means, standard errors and reliability once more from the values of each seed."""
    for name, column in table.columns.items():
        if column.per_seed is None:
            rests = [what for what, value in (("standard errors", column.se), ("reliability", column.reliability)) if value is not None]
            yield Unknown(f"{name}: no values of the seeds were published, so nothing proves its {', '.join(['means', *rests])}")
        else:
            yield from (f"{name}: {line}" for line in _other_than_seeds(table, column, column.per_seed))


def _other_than_seeds(table: ScoreTable, column: ScoreColumn, per_seed: np.ndarray) -> Iterator[str]:
    mean, se = seed_mean_se(per_seed)
    if not np.array_equal(mean, column.mean, equal_nan=True):
        rows = table.example_id[~((mean == column.mean) | (np.isnan(mean) & np.isnan(column.mean)))]
        yield f"{rows.size} rows are not the mean of the seeds, the first is example {rows[0]}"
    if column.se is not None and (se is None or not np.allclose(se, column.se, rtol=TOLERANCE, atol=0, equal_nan=True)):
        yield "the standard errors are not those of the seeds"
    if column.reliability is not None:
        found = reliability(per_seed[:, np.isfinite(column.mean)])
        if found is None or not math.isclose(found, column.reliability, rel_tol=TOLERANCE):
            yield f"reliability is {column.reliability} there, {found} from the seeds"


def other_than_scored(table: ScoreTable, pinned: Pinned) -> Iterator[str]:
    """Ids, labels, classes and the user's own ids beside those of the source."""
    if table.source.classes != pinned.record.classes or table.source.n_rows != pinned.record.n_rows:
        yield "the scores are of other classes, or another number of rows, than the source has"
    if not np.array_equal(table.example_id, pinned.scored):
        yield "other rows were scored than the recipe scores of the source"
        return
    wrong = table.example_id[table.label != pinned.label[pinned.scored]]
    if wrong.size:
        yield f"{wrong.size} scored rows have another label than in the source, the first is example {wrong[0]}"
    own = None if pinned.source_id is None else pinned.source_id[pinned.scored].tolist()
    if own != (None if table.source_id is None else table.source_id.tolist()):
        yield "the scored rows have other ids (source_id) than in the source"


def other_directions(table: ScoreTable, names: Sequence[str]) -> Iterator[str]:
    """Which end of each score is the hard one beside its definition. `names`: the scores of the recipe."""
    known: dict[str, Direction] = {}
    for name in names:
        try:
            batch, following = find_scores([name])
        except PluginError as fault:
            yield Unknown(str(fault))
            continue
        known |= {called: score.higher_is for called, score in batch.items()}
        known |= {column.name: column.higher_is for score in following.values() for column in score.columns}
    for name, column in table.columns.items():
        if known.get(column.score, column.higher_is) != column.higher_is:
            yield f"{name}: high is {column.higher_is} there, {known[column.score]} by its definition"


def other_columns(published: Path, table: ScoreTable, *, ids_only: bool) -> Iterator[str]:
    """Columns and classes of the files of config `scores` beside those that the records have."""
    features = scores_dataset(table, ids_only=ids_only).features
    for split, paths in splits_of(published, SCORES).items():
        if split != table.source.split:
            yield f"{SCORES} has a split {split}, and only {table.source.split} was scored"
        elif any(Features.from_arrow_schema(pq.read_schema(path)) != features for path in paths):
            yield f"{SCORES} has other columns or classes than its records"
