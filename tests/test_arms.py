from __future__ import annotations

from hf_datadiet.arms import arms_of, is_added
from tests.synthetic import score_table, selection


def test_only_selections_have_names_of_their_own() -> None:
    table = score_table()
    for arm in arms_of([selection(table, table.example_id[:5]), selection(table, table.example_id[:3], "randomly")], 10):
        assert is_added(arm.name) == (arm.selection is None), arm.name
