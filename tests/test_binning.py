from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_datadiet.binning import BEYOND, BINS, RANK_BINS, bins_for, rank_table

RNG = np.random.default_rng(0)


def counted(values: np.ndarray, edges: np.ndarray) -> list[int]:
    """One value after the other: a bin has its lower edge, the last one both, and what lies outside goes to the nearest."""
    found = [0] * (len(edges) - 1)
    for value in values:
        below = [i for i in range(len(found)) if edges[i] <= value]
        found[below[-1] if below else 0] += 1
    return found


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        (RNG.random(500), "linear"),
        (RNG.normal(size=500), "linear"),
        (np.exp(2.5 * RNG.normal(size=500)), "log"),
        (-np.exp(2.5 * RNG.normal(size=500)), "linear"),  # a log axis has no negative numbers
        (np.append(np.exp(2.5 * RNG.normal(size=500)), [0.0, 0.0]), "linear"),  # nor zero, which two in 500 are
        (np.append(np.exp(2.5 * RNG.normal(size=5000)), 0.0), "log"),  # but one in 5,000 does not forbid it
    ],
)
def test_every_value_is_counted_once(values: np.ndarray, scale: str) -> None:
    bins = bins_for(values)
    assert bins.scale == scale and bins.edges.size == BINS + 1
    assert bins.count(values).tolist() == counted(values, bins.edges)
    width = np.diff(np.log(bins.edges) if scale == "log" else bins.edges)
    np.testing.assert_allclose(width, width[0], rtol=1e-9)


@pytest.mark.parametrize(("top", "scale"), [(19.0, "linear"), (21.0, "log")])
def test_a_log_axis_is_for_values_that_reach_twenty_times_their_median(top: float, scale: str) -> None:
    assert bins_for(np.append(np.linspace(0.5, 1.5, 101), [top])).scale == scale


def test_one_huge_value_does_not_flatten_the_others() -> None:
    plain = RNG.random(4000)
    values = np.append(plain, 1e9)
    bins = bins_for(values)
    assert bins.edges[-1] < 2 and bins.count(values).sum() == 4001
    assert bins.count(values)[-1] >= 1, "and it is counted all the same"
    few = bins_for(np.append(plain[:100], 1e9))
    assert few.edges[-1] == 1e9, f"one in a hundred is more than {BEYOND} of them"


def test_values_of_few_steps_stand_in_the_middle_of_a_bin_each() -> None:
    values = RNG.integers(0, 10, 300) / 4
    bins = bins_for(values)
    np.testing.assert_allclose((bins.edges[1:] + bins.edges[:-1]) / 2, np.arange(10) / 4)
    assert bins.count(values).tolist() == [int((values == step / 4).sum()) for step in range(10)]


def test_equal_values_are_one_bin() -> None:
    for value in (0.0, -3.5, 1e30):
        bins = bins_for([value] * 7)
        assert bins.count([value] * 7).tolist() == [7] and bins.edges[0] < value < bins.edges[1]


@settings(max_examples=200, database=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=60))
def test_any_finite_values_can_be_shown(values: list[float]) -> None:
    bins = bins_for(values)
    assert np.isfinite(bins.edges).all() and (np.diff(bins.edges) > 0).all() and 2 <= bins.edges.size <= BINS + 1
    assert bins.count(values).sum() == len(values)


def test_ranks_of_two_scores() -> None:
    a = RNG.permutation(400).astype(float)
    same = rank_table(a, np.exp(a / 50))
    assert np.array_equal(same, np.diag([400 // RANK_BINS] * RANK_BINS)), "equal rankings lie on the diagonal, whatever the values"
    assert np.array_equal(rank_table(a, -a), np.fliplr(same))
    b = RNG.random(400)
    table = rank_table(a, b)
    by_hand = np.zeros_like(table)
    for row in range(400):
        by_hand[int((a < a[row]).sum() / 400 * RANK_BINS), int((b < b[row]).sum() / 400 * RANK_BINS)] += 1
    assert np.array_equal(table, by_hand) and table[0].sum() == 400 // RANK_BINS


def test_equal_values_share_a_rank() -> None:
    table = rank_table([5.0] * 6 + [9.0] * 2, np.arange(8.0))
    assert table.sum() == 8 and sorted(table.sum(axis=1).tolist())[-2:] == [2, 6]
    assert rank_table([1.0], [1.0]).sum() == 1
