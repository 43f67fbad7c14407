from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hf_datadiet import tables
from hf_datadiet.records import EvaluationTable, ScoreTable, Selection
from tests.synthetic import evaluation, same, score_table, selection

OWN = {"integers": np.arange(12) * 7, "texts": np.array([f"uid-{row}" for row in range(12)], dtype=object)}


def arrow(columns: tables.Columns) -> pa.Table:
    return pa.table(columns)


def plain(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata as a file gives it back."""
    return json.loads(json.dumps(meta, allow_nan=False))


def scores_again(scores: ScoreTable) -> ScoreTable:
    columns, meta = tables.pack_scores(scores)
    return tables.with_seed_values(tables.unpack_scores(arrow(columns), plain(meta)), arrow(tables.pack_seed_values(scores)))


def selection_again(chosen: Selection) -> Selection:
    columns, meta = tables.pack_selection(chosen)
    return tables.unpack_selection(arrow(columns), plain(meta))


def evaluation_again(judged: EvaluationTable) -> EvaluationTable:
    return tables.unpack_evaluation(arrow(tables.pack_predictions(judged)), plain(tables.evaluation_meta(judged)))


def chosen() -> Selection:
    return selection(score_table(), score_table().example_id[[8, 9, 10, 11]])


def test_a_record_survives_its_table() -> None:
    same(scores_again(score_table()), score_table())
    same(selection_again(chosen()), chosen())
    same(evaluation_again(evaluation()), evaluation())


@pytest.mark.parametrize("own", OWN.values(), ids=OWN)
def test_so_do_the_users_own_ids(own: Any) -> None:
    scores = replace(score_table(), source_id=own, skipped={6: "no image", 14: "cut short"})
    same(scores_again(scores), scores)
    mine = replace(chosen(), source_id=own)
    same(selection_again(mine), mine)
    judged = replace(evaluation(), test_source_id=own)
    same(evaluation_again(judged), judged)
    for columns in (tables.pack_scores(scores)[0], tables.pack_seed_values(scores), tables.pack_selection(mine)[0]):
        assert list(columns)[:2] == ["example_id", "source_id"]


def test_one_seed_and_unknown_per_seed_values() -> None:
    one = score_table(seeds=(4,))
    same(scores_again(one), one)
    bare = replace(one, columns={name: replace(column, per_seed=None) for name, column in one.columns.items()})
    same(scores_again(bare), bare)
    columns, meta = tables.pack_scores(one)
    same(tables.unpack_scores(arrow(columns), plain(meta)), bare)


def test_a_table_in_any_order_of_ids() -> None:
    table = score_table()
    order = np.random.default_rng(1).permutation(12)

    def pick(values: Any) -> Any:
        return None if values is None else values[..., order]

    columns = {
        name: replace(column, mean=pick(column.mean), se=pick(column.se), per_seed=pick(column.per_seed))
        for name, column in table.columns.items()
    }
    mixed = replace(table, example_id=table.example_id[order], label=table.label[order], columns=columns)
    same(scores_again(mixed), mixed)


def test_what_the_columns_of_scores_mean() -> None:
    table = score_table()
    scores = arrow(tables.pack_scores(table)[0]).to_pydict()
    assert list(scores)[:4] == ["example_id", "label", "el2n_e0", "el2n_e0_se"]
    assert scores["example_id"] == table.example_id.tolist()
    for name, values in scores.items():
        nulls = [row for row, value in enumerate(values) if value is None]
        assert nulls == ([] if name == "example_id" else [3, 7]), f"{name}: null, and never NaN"
    seeds = arrow(tables.pack_seed_values(table)).to_pandas().set_index(["seed", "epoch", "example_id"])
    assert len(seeds) == 3 * 2 * 10
    assert seeds.loc[(2, 0, 8), "el2n"] == table.columns["el2n_e0"].per_seed[2, 4]
    assert seeds.loc[(1, 2, 22), "forgetting"] == table.columns["forgetting"].per_seed[1, 11]
    assert seeds.loc[(1, 0, 22), ["forgetting", "margin"]].isna().all(), "what was not observed then is null"


def test_what_the_columns_of_a_selection_mean() -> None:
    found = arrow(tables.pack_selection(chosen())[0]).to_pydict()
    assert found["example_id"] == score_table().example_id.tolist() and found["kept"] == [False] * 8 + [True] * 4
    assert found["reason"][3] == "no label" and found["reason"][8:] == [None] * 4


def test_what_the_columns_of_an_evaluation_mean() -> None:
    results = arrow(tables.pack_results(evaluation())).to_pylist()
    assert results[1] == {"arm": "full", "model": "timm:test_resnet", "seed": 10_001, "metric": "accuracy", "value": 11 / 12}
    said = arrow(tables.pack_predictions(evaluation())).to_pandas()
    right = (said.predicted == said.label).groupby([said.arm, said.seed]).sum()
    assert right["full", 10_002] == 9 and right["keep-50", 10_000] == 7 and len(said) == 12 * 12


def test_rows_that_were_changed_or_cannot_be_read() -> None:
    noise = tables.pack_label_noise(np.array([2, 4]), np.array([0, 1], np.int32), np.array([1, 0], np.int32), None)
    assert arrow(noise).to_pydict() == {"example_id": [2, 4], "label_before": [0, 1], "label_after": [1, 0]}
    # Ids of the two splits may be equal.
    skipped, test_skipped = {5: "no image", 1: "cut short"}, {5: "no text"}
    table = arrow(tables.pack_skipped(skipped, test_skipped, np.array(["a", "b", "c"], dtype=object)))
    assert tables.unpack_skipped(table) == (skipped, test_skipped) and table["source_id"].to_pylist() == ["a", "b", "c"]
    assert tables.unpack_skipped(arrow(tables.pack_skipped({}, {}, None))) == ({}, {})
