from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Value, concatenate_datasets

from hf_datadiet.errors import RecipeError, StaleRecordError
from hf_datadiet.hub.columns import with_scores
from hf_datadiet.hub.source import content_digest
from hf_datadiet.prune import prune_dataset
from hf_datadiet.records import UNLABELLED, ScoreTable
from hf_datadiet.score import add_scores
from hf_datadiet.store import RunFolder
from tests.synthetic import pictures, score_table

ROLES = {"image": "image", "label": "label"}


def table_for(dataset: Dataset) -> ScoreTable:
    """Scores of every other row of 24, as after `limit`; two of these rows have no score."""
    table = score_table()
    return replace(table, source=replace(table.source, digest=content_digest(dataset, ROLES), n_rows=len(dataset)))


@pytest.fixture
def dataset() -> Dataset:
    return pictures(24, note=[f"n{row}" for row in range(24)], weight=[row / 7 for row in range(24)])


@pytest.fixture
def table(dataset: Dataset) -> ScoreTable:
    return table_for(dataset)


NAMES = ["el2n_e0", "el2n_e0_se", "el2n", "el2n_se", "margin", "margin_se", "forgetting", "forgetting_se", "chance", "chance_se"]


def images(dataset: Dataset) -> list[bytes]:
    return [np.asarray(image).tobytes() for image in dataset["image"]]


def test_scores_stand_behind_the_datasets_own_columns(dataset: Dataset, table: ScoreTable) -> None:
    scored = with_scores(dataset, table)
    assert scored.column_names == [*dataset.column_names, *NAMES]
    for name in NAMES:
        assert scored.features[name] == Value("float32")
        column = table.columns[name.removesuffix("_se")]
        values: Any = column.se if name.endswith("_se") else column.mean
        expected = {int(row): float(value) for row, value in zip(table.example_id, values, strict=True) if np.isfinite(value)}
        found = scored[name]
        assert len(expected) == 10
        assert {row: value for row, value in enumerate(found) if value is not None} == expected, (
            "each score with its own row, null elsewhere"
        )
    assert (table.label == UNLABELLED).sum() == 2


def test_nothing_else_changes(dataset: Dataset, table: ScoreTable) -> None:
    before = dataset.features.copy()
    scored = with_scores(dataset, table)
    for name in dataset.column_names:
        assert scored.features[name] == dataset.features[name]
        if name != "image":
            assert scored[name] == dataset[name]
    assert images(scored) == images(dataset)
    assert dataset.features == before and "el2n" not in dataset.column_names, "the dataset passed in is untouched"
    formatted = with_scores(dataset.with_format("numpy"), table)
    assert formatted["el2n"][:] == with_scores(dataset, table)["el2n"][:] and formatted["note"][:] == dataset["note"][:]


def test_a_view_with_the_same_rows_is_the_same_dataset(dataset: Dataset, table: ScoreTable) -> None:
    """`select` leaves an indices mapping behind, which concatenation must not lose."""
    backwards = dataset.select(list(reversed(range(24)))).flatten_indices()
    view = backwards.select(list(reversed(range(24))))
    parts = concatenate_datasets([dataset.select(range(9)), dataset.select(range(9, 24))])
    expected = with_scores(dataset, table)
    for other in (view, parts):
        scored = with_scores(other, table)
        assert scored["el2n"] == expected["el2n"] and scored["note"] == dataset["note"] and images(scored) == images(dataset)


def test_another_dataset_is_refused(dataset: Dataset, table: ScoreTable) -> None:
    relabelled = dataset.map(lambda row: {"label": (row["label"] + 1) % 3})
    for other in (
        dataset.shuffle(seed=0),
        dataset.select(range(23)),
        dataset.select([1, 0, *range(2, 24)]),
        relabelled,
        pictures(24, seed=9),
    ):
        with pytest.raises(StaleRecordError, match=r"is not the one that was scored \(24 rows of toys, split train\).*as it was loaded"):
            with_scores(other, table)


def test_a_name_that_is_taken_proposes_a_prefix(dataset: Dataset, table: ScoreTable) -> None:
    taken = dataset.add_column("el2n_se", [0.0] * 24)
    with pytest.raises(RecipeError, match=r"already has a column 'el2n_se'; choose a prefix .*prefix=\"diet_\" \(--prefix diet_\)"):
        with_scores(taken, table)
    scored = with_scores(taken, table, "diet_")
    assert scored.column_names == [*taken.column_names, *(f"diet_{name}" for name in NAMES)]
    assert scored["el2n_se"] == [0.0] * 24
    with pytest.raises(RecipeError, match="already has a column 'diet_el2n_e0'"):
        with_scores(scored, table, "diet_")


def test_of_a_dataset_with_splits_the_scored_one_changes(dataset: Dataset, table: ScoreTable) -> None:
    held_out = pictures(6, seed=1)
    splits = DatasetDict(test=held_out, train=dataset)
    scored = add_scores(splits, table)
    assert isinstance(scored, DatasetDict) and list(scored) == ["test", "train"] and scored["test"] is held_out
    assert scored["train"].to_pandas().equals(with_scores(dataset, table).to_pandas()) and splits["train"] is dataset
    lean, selection = prune_dataset(splits, table, score="el2n", keep=0.5)
    alone, again = prune_dataset(dataset, table, score="el2n", keep=0.5)
    assert isinstance(lean, DatasetDict) and list(lean) == ["test", "train"] and lean["test"] is held_out
    assert selection.digest == again.digest and lean["train"]["note"] == alone["note"] == [f"n{row}" for row in selection.kept]
    for other, message in (
        (DatasetDict(test=held_out), "split 'train' was scored and this dataset has test; pass the dataset as it was loaded"),
        (DatasetDict(train=held_out), "this dataset"),
    ):
        for change in (lambda other=other: add_scores(other, table), lambda other=other: prune_dataset(other, table, score="el2n", keep=1)):
            with pytest.raises(StaleRecordError, match=message):
                change()


def test_one_seed_has_no_error_column(dataset: Dataset) -> None:
    one = score_table(seeds=(0,))
    table = replace(one, source=table_for(dataset).source)
    assert with_scores(dataset, table).column_names == [*dataset.column_names, "el2n_e0", "el2n", "margin", "forgetting", "chance"]


def test_add_scores_takes_a_table_or_a_run_folder(dataset: Dataset, table: ScoreTable, tmp_path: Path) -> None:
    RunFolder(tmp_path).save_scores(table)
    expected = with_scores(dataset, table, "x_").to_pandas().drop(columns="image")
    for scores in (table, tmp_path, str(tmp_path)):
        scored = add_scores(dataset, scores, prefix="x_")
        assert scored.features == with_scores(dataset, table, "x_").features
        assert scored.to_pandas().drop(columns="image").equals(expected)
