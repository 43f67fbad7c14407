"""The rows of published configs beside their selections and beside the source."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features

from hf_datadiet.durable import file_digest
from hf_datadiet.hub.files import write_shards
from hf_datadiet.hub.published import SCORES, variant_splits
from hf_datadiet.hub.source import Pinned
from hf_datadiet.publication import Publication
from hf_datadiet.records import ScoreTable, Selection
from hf_datadiet.verified_files import splits_of

BATCH = 256
"""Rows of two files in memory at once, while they are compared."""


def other_rows(published: Path, table: ScoreTable, selections: Sequence[Selection], prefix: str) -> Iterator[str]:
    """Ids and scores of each configuration beside those of its selection and of the scores."""
    for selection in selections:
        paths = splits_of(published, selection.name).get(table.source.split, [])
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


def other_than_source(
    published: Path, publication: Publication, pinned: Pinned, table: ScoreTable, selections: Sequence[Selection], *, skip: bool
) -> Iterator[str]:
    """Each configuration made once more from the source, and compared row by row."""
    for selection in selections:
        variant = variant_splits(pinned, table, selection, publication.prefix, ids_only=publication.ids_only)
        there = splits_of(published, selection.name)
        yield from (
            f"{selection.name} has a split {split}, which the source does not make" for split in there if split not in variant.splits
        )
        for split, rows in variant.splits.items():
            with tempfile.TemporaryDirectory() as temporary:
                # Written as it was written there: rows, embedded media and all; equal rows give equal files.
                again = write_shards(rows, Path(temporary), split, skip=skip).files
                yield from (f"{selection.name}, split {split}: {line}" for line in _other_files(again, there.get(split, [])))


def _other_files(here: Sequence[Path], there: Sequence[Path]) -> Iterator[str]:
    """Where the tables in two lists of files differ, as far as the first row of each column."""
    if list(map(file_digest, here)) == list(map(file_digest, there)):
        return
    kinds = [[Features.from_arrow_schema(pq.read_schema(path)) for path in paths] for paths in (here, there)]
    counts = [sum(pq.read_metadata(path).num_rows for path in paths) for paths in (here, there)]
    first = kinds[0][0]
    if not there or counts[0] != counts[1] or any(list(kind.items()) != list(first.items()) for kind in kinds[1]):
        yield "other columns, classes or number of rows than the source makes"
        return
    # Bytes that another version of pyarrow writes for the same rows.
    found: set[str] = set()
    start = 0
    for one, other in zip(_batches(here), _batches(there), strict=True):
        for name in one.column_names:
            if name not in found and not one[name].equals(other[name]):
                row = _first_other(one[name], other[name])
                if row is not None:
                    found.add(name)
                    yield f"column {name} differs from the source, first in row {start + row}"
        start += one.num_rows


def _first_other(one: pa.ChunkedArray, other: pa.ChunkedArray) -> int | None:
    """The first row with another value; Arrow takes no NaN for equal, however deep it lies, and its words are the same."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=True)) if repr(a.as_py()) != repr(b.as_py())), None)


def _batches(paths: Sequence[Path]) -> Iterator[pa.Table]:
    """The rows of the files as tables of `BATCH` rows, the last one shorter, wherever a file or a row group ends."""
    waiting: list[pa.RecordBatch] = []
    n_rows = 0
    for batch in (batch for path in paths for batch in pq.ParquetFile(path).iter_batches(batch_size=BATCH)):
        while n_rows + batch.num_rows >= BATCH:
            rest = BATCH - n_rows
            yield _table([*waiting, batch.slice(0, rest)])
            waiting, n_rows, batch = [], 0, batch.slice(rest)
        waiting, n_rows = [*waiting, batch], n_rows + batch.num_rows
    if n_rows:
        yield _table(waiting)


def _table(batches: Sequence[pa.RecordBatch]) -> pa.Table:
    """One table of batches whose files may describe the same columns in other words."""
    return pa.Table.from_batches([batch.replace_schema_metadata(None) for batch in batches])
