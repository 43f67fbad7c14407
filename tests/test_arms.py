from __future__ import annotations

from typing import Any

from hf_datadiet.arms import arms_of, describe, is_added
from tests.synthetic import score_table, selection


def test_only_selections_have_names_of_their_own() -> None:
    table = score_table()
    for arm in arms_of([selection(table, table.example_id[:5]), selection(table, table.example_id[:3], "randomly")], 10, redrawn=True):
        assert is_added(arm.name) == (arm.selection is None), arm.name


def test_redrawn_arms_stand_beside_the_drawn_ones_where_they_are_asked_for() -> None:
    table = score_table()
    chosen = [selection(table, table.example_id[:5]), selection(table, table.example_id[:3], "three")]
    names = [arm.name for arm in arms_of(chosen, 10)]
    more = [arm.name for arm in arms_of(chosen, 10, redrawn=True)]
    assert [name for name in more if name not in names] == ["redrawn-5", "redrawn-3"]
    assert [name for name in more if name in names] == names


def test_a_selection_in_words() -> None:
    table = score_table()

    def words(**about: Any) -> str:
        return describe(selection(table, table.example_id[:5], **about))

    assert words() == "5 rows: hardest by el2n"
    assert words(parameters={"keep": 5, "quotas": "equal"}) == "5 rows: hardest by el2n, equal per class"
    recalls = {"keep": 5, "quotas": {"recall": {"cat": 0.9}}, "mix": 0.2}
    assert words(parameters=recalls) == "5 rows: hardest by el2n, 20 % of them at random, by recall per class"
    by_two = words(score="mean rank of el2n and margin", parameters={"keep": 5, "quotas": {"cat": 2, "dog": 1, "ship": 1}})
    assert by_two == "5 rows: hardest by mean rank of el2n and margin, weighted per class"
