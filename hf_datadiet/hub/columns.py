"""Scores as columns of the dataset that was scored."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, concatenate_datasets
from numpy.typing import NDArray

from hf_datadiet.errors import RecipeError, StaleRecordError
from hf_datadiet.hub.source import content_digest
from hf_datadiet.records import UNLABELLED, ScoreTable, Source
from hf_datadiet.tables import SE

AnyDataset = TypeVar("AnyDataset", Dataset, DatasetDict)


def with_scores(dataset: Dataset, table: ScoreTable, prefix: str = "") -> Dataset:
    """The dataset with float32 columns of scores and standard errors behind its own, null where a row has no score.

    Raises `StaleRecordError` unless the role columns have exactly the content that was scored (for a table that knows no
    columns but only labels: unless some column holds exactly these labels), `RecipeError` for a column name that exists already.
    """
    source = table.source
    if len(dataset) == source.n_rows and not source.columns:
        _check_labels(dataset, table)
    elif len(dataset) != source.n_rows or content_digest(dataset, source.columns) != source.digest:
        raise another_dataset(source)
    return beside(dataset, score_columns(table, np.arange(source.n_rows), prefix))


def another_dataset(source: Source) -> StaleRecordError:
    """The error for a dataset that is not `source`."""
    return StaleRecordError(
        f"this dataset is not the one that was scored ({source.n_rows} rows of {source.name}, split {source.split}): "
        "rows, order or labels differ; pass the dataset as it was loaded"
    )


def score_columns(table: ScoreTable, ids: NDArray[np.int64], prefix: str = "") -> Dataset:
    """The scores and standard errors of the examples `ids` as float32 columns, null where an example has none."""
    added: dict[str, pa.Array] = {}
    for name, column in table.columns.items():
        for suffix, values in (("", column.mean), (SE, column.se)):
            if values is not None:
                whole = np.full(table.source.n_rows, np.nan, np.float32)
                whole[table.example_id] = values
                added[f"{prefix}{name}{suffix}"] = pa.array(whole[ids], mask=np.isnan(whole[ids]))
    features = Features({name: Value("float32") for name in added})
    return Dataset(pa.table(added, schema=features.arrow_schema))


def beside(dataset: Dataset, added: Dataset) -> Dataset:
    """The columns `added` behind those of the dataset; `RecipeError` for a name that exists already."""
    taken = [name for name in added.column_names if name in dataset.column_names]
    if taken:
        raise RecipeError(f'the dataset already has a column {taken[0]!r}; choose a prefix for the scores: prefix="diet_" (--prefix diet_)')
    return concatenate_datasets([dataset, added], axis=1)


def in_scored_split(dataset: AnyDataset, table: ScoreTable, change: Callable[[Dataset], Dataset]) -> AnyDataset:
    """`change` of a Dataset; of a DatasetDict, with the split that was scored changed and the others as they are."""
    if isinstance(dataset, Dataset):
        return change(dataset)
    split = table.source.split
    if split not in dataset:
        raise StaleRecordError(
            f"split {split!r} was scored and this dataset has {', '.join(map(str, dataset)) or 'none'}; pass the dataset as it was loaded"
        )
    return DatasetDict({**dataset, split: change(dataset[split])})


def _check_labels(dataset: Dataset, table: ScoreTable) -> None:
    """Scores that came from logits or from a Trainer: their only tie to a dataset is its length and its labels."""
    plain = dataset.with_format("arrow")
    for name, kind in dataset.features.items():
        if isinstance(kind, ClassLabel) or (isinstance(kind, Value) and kind.dtype.startswith(("int", "uint"))):
            values = plain[:][name].cast("int64").combine_chunks().fill_null(UNLABELLED).to_numpy(zero_copy_only=False)[table.example_id]
            # Some datasets mark a missing label by another negative number, as Trainer does.
            if np.array_equal(np.maximum(values, UNLABELLED), table.label):
                return
    raise StaleRecordError(
        f"no column of this dataset holds the {table.example_id.size} labels that were scored; pass the dataset as the model saw it, "
        "in the order of its rows"
    )
