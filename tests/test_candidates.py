"""What `strategy: auto` compares: validation rows and candidates, against computations by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from hf_datadiet import prune_dataset
from hf_datadiet.candidates import DEFAULT, Comparison, compared, name_of
from hf_datadiet.errors import DataDietError, RecipeError
from hf_datadiet.recipe import PruneSpec
from hf_datadiet.recipe_yaml import recipe_from
from hf_datadiet.records import UNLABELLED, ScoreTable
from tests.synthetic import PROVENANCE, score_table

N = 200


def scores(n: int = N) -> ScoreTable:
    """Three classes of unequal size, five rows without a label, el2n in an order of its own."""
    rng = np.random.default_rng(3)
    label = rng.choice(3, n, p=[0.6, 0.3, 0.1])
    label[:5] = UNLABELLED
    return score_table(n, label=rng.permutation(label))


def spec(**asked: Any) -> PruneSpec:
    return recipe_from({"source": {}, "prune": [{"name": "auto", "score": "el2n", "strategy": "auto", "keep": 0.5, **asked}]}).prune[0]


def compare(table: ScoreTable | None = None, **asked: Any) -> Comparison:
    return compared(scores() if table is None else table, spec(**asked), PROVENANCE)


def test_validation_rows_are_drawn_class_by_class() -> None:
    table = scores()
    label = dict(zip(table.example_id.tolist(), table.label.tolist(), strict=True))
    of_all = np.bincount(table.label[table.label != UNLABELLED], minlength=3)
    for tie_seed in (4, 3, 2, 1, 0):
        found = compare(table, validation=0.2, tie_seed=tie_seed)
        drawn = np.bincount([label[row] for row in found.validation.tolist()], minlength=3)
        assert found.validation.size == 39 == len(set(found.validation.tolist())) and (abs(drawn - 0.2 * of_all) < 1).all(), tie_seed
    assert (np.diff(found.validation) > 0).all() and found.n_rest == 195 - 39
    assert np.array_equal(found.validation, compare(table, validation=0.2).validation)
    assert not np.array_equal(found.validation, compare(table, validation=0.2, tie_seed=1).validation)
    assert compare(table, validation=0.001).validation.size == 1


def test_the_order_of_the_table_has_no_influence() -> None:
    table = scores()
    order = np.random.default_rng(0).permutation(N)
    columns = {name: replace(column, mean=column.mean[order], se=None, per_seed=None) for name, column in table.columns.items()}
    mixed = replace(table, example_id=table.example_id[order], label=table.label[order], columns=columns)
    one, other = compare(table), compare(mixed)
    assert np.array_equal(one.validation, other.validation)
    for name, selection in one.selections.items():
        assert np.array_equal(selection.kept, other.selections[name].kept), name


@pytest.mark.parametrize("keep", [0.5, 0.4, 60, 1])
def test_every_candidate_keeps_the_same_share_of_the_rest_and_no_validation_row(keep: float | int) -> None:
    table = scores()
    found = compare(table, keep=keep, validation=0.2)
    k = keep if isinstance(keep, int) else round(keep * 195)
    assert found.n_kept == max(1, round(k / 195 * 156))
    for name, selection in found.selections.items():
        assert selection.kept.size == found.n_kept, name
        assert not np.isin(found.validation, np.concatenate([selection.kept, selection.dropped])).any(), name
    # The hardest of the rest, by hand: no two of these values are equal.
    values = table.columns["el2n"].mean
    among = [row for row in range(N) if table.label[row] != UNLABELLED and table.example_id[row] not in found.validation]
    hardest = sorted(among, key=lambda row: -values[row])[: found.n_kept]
    assert sorted(table.example_id[hardest].tolist()) == found.selections["hardest"].kept.tolist()


def test_of_the_usual_candidates_what_cannot_be_carried_out_is_left_out() -> None:
    assert list(compare(keep=0.5).selections) == [name_of(candidate) for candidate in DEFAULT]
    assert list(compare(keep=0.85).selections) == ["hardest", "window-skip-0.05", "window-skip-0.1", "moderate", "coverage", "random"]
    assert list(compare(keep=0.97).selections) == ["hardest", "moderate", "coverage", "random"]


def test_what_fits_the_rest_but_not_all_rows_is_left_out() -> None:
    """A winner is to be carried out on all 100 rows, of which 5 % skipped leave 95; of the 90 that are no validation rows they leave 86."""
    assert list(compare(scores(105), keep=95).selections) == ["hardest", "window-skip-0.05", "moderate", "coverage", "random"]
    found = compare(scores(105), keep=96)
    assert found.n_kept == 86 and found.n_rest - round(0.05 * found.n_rest) == 86, "it fits the rest"
    assert list(found.selections) == list(found.candidates) == ["hardest", "moderate", "coverage", "random"]


def test_a_winner_takes_the_place_of_auto() -> None:
    found = compare(quotas="equal", mix=0.2, tie_seed=4, candidates=[{"strategy": "window", "skip": 0.1}, {"strategy": "random"}])
    window, drawn = found.settled("window-skip-0.1"), found.settled("random")
    assert (window.strategy, window.parameters, window.score) == ("window", {"skip": 0.1}, "el2n")
    assert (drawn.strategy, drawn.parameters, drawn.score) == ("random", {}, None)
    for settled in (window, drawn):
        assert (settled.name, settled.keep, settled.quotas, settled.mix, settled.tie_seed) == ("auto", 0.5, "equal", 0.2, 4)


def test_quotas_and_mix_go_for_every_candidate() -> None:
    table = scores()
    label = dict(zip(table.example_id.tolist(), table.label.tolist(), strict=True))
    found = compare(table, quotas="equal", mix=0.5, keep=30)
    for name, selection in found.selections.items():
        assert selection.quotas is not None and set(selection.quotas.values()) == {found.n_kept // 3}, name
        assert np.bincount([label[row] for row in selection.kept.tolist()]).tolist() == [found.n_kept // 3] * 3, name
    without = compare(table, quotas="equal", keep=30)
    assert not np.array_equal(found.selections["hardest"].kept, without.selections["hardest"].kept)


def test_the_record_is_plain_and_tells_everything_apart() -> None:
    table = scores()
    plain = compare(table).record
    assert json.loads(json.dumps(plain)) == plain
    other_scores = {**table.columns, "el2n": replace(table.columns["el2n"], mean=table.columns["el2n"].mean + np.float32(0.5))}
    changed = {
        "keep": compare(table, keep=0.4),
        "score": compare(table, score="margin"),
        "several scores": compare(table, score=["el2n", "margin"]),
        "quotas": compare(table, quotas={"cat": 1, "dog": 1, "ship": 1}),
        "mix": compare(table, mix=0.1),
        "tie_seed": compare(table, tie_seed=1),
        "validation": compare(table, validation=0.11),
        "seeds": compare(table, seeds=3),
        "candidates": compare(table, candidates=[{"strategy": "random"}, {"strategy": "hardest"}]),
        "order": compare(table, candidates=[{"strategy": "hardest"}, {"strategy": "random"}]),
        "scores": compare(replace(table, columns=other_scores)),
    }
    records = [plain, *(found.record for found in changed.values())]
    assert len({json.dumps(record) for record in records}) == len(records)


MISTAKES: dict[str, tuple[Mapping[str, Any], str]] = {
    "unknown key": ({"seds": 3}, "prune auto.seds: unknown key; did you mean seeds?"),
    "no seed": ({"seeds": 0}, "prune auto.seeds: "),
    "validation above 1": ({"validation": 1.5}, "prune auto.validation: "),
    "one candidate": ({"candidates": [{"strategy": "hardest"}]}, "name at least two strategies"),
    "no strategy": ({"candidates": [{"skip": 0.1}, {"strategy": "random"}]}, "names no strategy to compare"),
    "itself": ({"candidates": [{"strategy": "auto"}, {"strategy": "random"}]}, "names no strategy to compare"),
    "words": ({"candidates": "hardest"}, "prune auto.candidates"),
    "twice": ({"candidates": [{"strategy": "random"}, {"strategy": "random"}]}, "random stands there twice; leave one out"),
    "unknown": ({"candidates": [{"strategy": "hardst"}, {"strategy": "random"}]}, "did you mean hardest"),
    "parameter": ({"candidates": [{"strategy": "hardest"}, {"strategy": "window", "skp": 0.1}]}, "did you mean skip?"),
    "infeasible": (
        {"keep": 0.9, "candidates": [{"strategy": "hardest"}, {"strategy": "window", "skip": 0.2}]},
        "cannot be kept when skip is",
    ),
    "everything": ({"keep": 1.0}, "all 195 rows are kept, so there is nothing for strategy auto to choose; lower keep"),
    "nothing": ({"keep": 0}, "keeps no row"),
    "seed": ({"tie_seed": -1}, "tie_seed is -1; give a whole number, 0 or more"),
    # Not a matter of the strategy, so that leaving candidates out is no way around it.
    "column": ({"score": "el3n"}, "no score column 'el3n'; did you mean el2n?"),
    "no score": ({"score": None}, "strategy hardest needs a score"),
    "quotas": ({"quotas": {"cat": 1}}, "no weight for class"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_cannot_be_compared_is_refused(name: str) -> None:
    asked, message = MISTAKES[name]
    with pytest.raises(DataDietError, match=message.replace("?", r"\?")) as fault:
        compare(**asked)
    assert "\n" not in str(fault.value)


def test_a_threshold_is_no_size() -> None:
    with pytest.raises(RecipeError, match=r"prune\.0: .*a threshold is none; make keep a number"):
        spec(keep={"score": "el2n", "below": 0.3}, score=None)


def test_a_table_alone_has_no_model_to_choose_with() -> None:
    table = score_table()
    dataset = Dataset.from_dict({"row": range(24)})
    with pytest.raises(RecipeError, match=r"strategy auto trains models to choose with, .* it works in a recipe \(hf-datadiet run\)"):
        prune_dataset(dataset, table, score="el2n", strategy="auto", keep=0.5)
