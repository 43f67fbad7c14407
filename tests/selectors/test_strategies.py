from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_datadiet.errors import RecipeError
from hf_datadiet.selectors.base import Candidates
from hf_datadiet.selectors.easiest import Easiest
from hf_datadiet.selectors.hardest import Hardest
from hf_datadiet.selectors.random import Random
from hf_datadiet.selectors.window import Window
from tests.references import scores as reference


def candidates_of(hardness: list[float]) -> Candidates:
    return Candidates(np.arange(len(hardness), dtype=np.int64) * 3 + 1, np.array(hardness, dtype=np.float64))


def chosen(selector: Hardest | Easiest | Window | Random, hardness: list[float], k: int, seed: int = 0) -> list[int]:
    return sorted(selector(candidates_of(hardness), k, np.random.default_rng(seed)).tolist())


@settings(max_examples=60, deadline=None, database=None)
@given(st.lists(st.floats(-1e6, 1e6), unique=True, min_size=1, max_size=30), st.data())
def test_distinct_values_leave_nothing_to_chance(hardness: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(0, len(hardness)))
    assert chosen(Hardest(), hardness, k) == sorted(reference.hardest(hardness, k))
    assert chosen(Easiest(), hardness, k) == sorted(reference.hardest([-value for value in hardness], k))
    skip = data.draw(st.floats(0, 0.99))
    skipped = round(skip * len(hardness))
    k = min(k, len(hardness) - skipped)
    assert chosen(Window(skip), hardness, k) == sorted(reference.hardest(hardness, skipped + k)[skipped:])


def test_a_window_without_skip_is_hardest() -> None:
    hardness = np.random.default_rng(0).integers(0, 4, size=50).astype(float).tolist()
    assert chosen(Window(0), hardness, 17, seed=3) == chosen(Hardest(), hardness, 17, seed=3)


def test_the_rows_to_skip_are_rounded() -> None:
    """A quarter of 7 is 1.75: two rows; a quarter of 5 is 1.25: one."""
    assert chosen(Window(0.25), [float(value) for value in range(7)], 2) == [3, 4]
    assert chosen(Window(0.25), [float(value) for value in range(5)], 2) == [2, 3]


def test_a_window_that_does_not_fit_names_the_largest_that_does() -> None:
    with pytest.raises(RecipeError, match=r"window: 9 of 10 cannot be kept when skip is 0.2; keep at most 8$"):
        chosen(Window(0.2), [float(value) for value in range(10)], 9)


@pytest.mark.parametrize("skip", [-0.1, 1.0, 1, float("nan"), True, "0.1", None])
def test_a_skip_that_is_no_fraction_is_refused(skip: object) -> None:
    with pytest.raises(RecipeError, match=r"window: skip is .*; it is a fraction"):
        Window(skip)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("selector", [Hardest(), Easiest(), Window(0.0), Random()], ids=lambda selector: type(selector).__name__)
def test_every_equal_row_is_as_likely_as_any_other(selector: Hardest | Easiest | Window | Random) -> None:
    """20 equal rows, 5 kept, 600 draws: each is expected 150 times, with a standard deviation of 10.6."""
    counts = np.zeros(20)
    for seed in range(600):
        counts[chosen(selector, [1.0] * 20, 5, seed)] += 1
    assert counts.sum() == 3000
    assert counts.min() > 105 and counts.max() < 195


def test_only_the_tied_rows_at_the_cut_are_drawn() -> None:
    hardness = [9.0, 5.0, 5.0, 5.0, 5.0, 1.0]
    draws = {tuple(chosen(Hardest(), hardness, 3, seed)) for seed in range(80)}
    assert draws == {(0, i, j) for i in range(1, 5) for j in range(i + 1, 5)}


def test_smaller_random_sets_lie_inside_larger_ones() -> None:
    assert set(chosen(Random(), [0.0] * 40, 10)) < set(chosen(Random(), [0.0] * 40, 25))
