"""Work shared out over processes: all of it, each piece once, evenly."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from hf_datadiet.errors import RecipeError
from hf_datadiet.training.processes import Processes, processes, split
from hf_datadiet.training.session import folder_for


@given(st.lists(st.integers(1, 1000)), st.integers(1, 9))
def test_every_piece_once_and_in_order(costs: list[int], n: int) -> None:
    units = list(enumerate(costs))
    parts = split(units, n, lambda unit: unit[1])
    assert len(parts) == n and sorted(unit for part in parts for unit in part) == units
    assert all(part == sorted(part) for part in parts)
    # Graham (1969): a greedy share takes no longer than the mean and the longest piece together.
    assert max(sum(cost for _, cost in part) for part in parts) <= sum(costs) / n + max(costs, default=0)


def test_equal_pieces_are_dealt_like_cards() -> None:
    assert split(range(7), 3) == [[0, 3, 6], [1, 4], [2, 5]]
    assert [Processes(rank, 4).share([5, 9]) for rank in range(4)] == [[5], [9], [], []]


def test_the_longest_training_does_not_wait_for_its_turn() -> None:
    assert split([1, 1, 1, 1, 4], 2, float) == [[4], [1, 1, 1, 1]]


def test_one_process_asks_nobody() -> None:
    alone = processes()
    assert alone == Processes(0, 1) and alone.main
    assert alone.agreed([True, False]) == [True, False] == alone.any([True, False])
    alone.wait()


def test_several_processes_need_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_datadiet.training.session.processes", lambda: Processes(1, 2))
    with pytest.raises(RecipeError, match=r"name one: out=FOLDER"), folder_for(None):
        pass


def test_a_lone_rank_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    processes()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with pytest.raises(RecipeError, match=r"2 processes were started and this one sees 1; start them with --num-processes 2"):
        processes()
