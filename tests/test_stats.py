from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from hf_datadiet import stats
from tests.references import scores as reference

RNG = np.random.default_rng(0)


def test_mean_and_standard_error_over_seeds() -> None:
    values = np.array([[1, 2, np.nan], [3, 2, np.nan], [8, 2, np.nan]], dtype=np.float32)
    mean, se = stats.seed_mean_se(values)
    assert se is not None
    assert mean.dtype == se.dtype == np.float32
    np.testing.assert_allclose(mean, [4, 2, np.nan])
    np.testing.assert_allclose(se, [sqrt(13) / sqrt(3), 0, np.nan], rtol=1e-6)


def test_the_mean_over_seeds_does_not_lose_digits_in_float32() -> None:
    values = np.array([[2**24], [1], [1]], dtype=np.float32)
    assert stats.seed_mean_se(values)[0][0] == np.float32((2**24 + 2) / 3)
    close = np.array([[4096.0], [4096.0005]], dtype=np.float32)
    se = stats.seed_mean_se(close)[1]
    assert se is not None
    assert se[0] == pytest.approx((float(close[1, 0]) - 4096.0) / 2, rel=1e-6)


def test_one_seed_has_no_standard_error_and_no_reliability() -> None:
    assert stats.seed_mean_se(np.ones((1, 4)))[1] is None
    assert stats.reliability(RNG.random((1, 9))) is None


@settings(max_examples=60, deadline=None, database=None)
@given(st.integers(2, 12).flatmap(lambda n: st.tuples(*[st.lists(st.integers(0, 4), min_size=n, max_size=n)] * 2)))
def test_spearman_against_ranks_by_hand(columns: tuple[list[int], list[int]]) -> None:
    a, b = columns
    got = stats.spearman(a, b)
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert got is None
    else:
        assert got == pytest.approx(reference.spearman(a, b), abs=1e-12)
        assert got == pytest.approx(float(scipy_stats.spearmanr(a, b)[0]), abs=1e-12)  # pyright: ignore[reportArgumentType]


def test_spearman_leaves_null_rows_out() -> None:
    assert stats.spearman([1, 2, np.nan, 3], [1, 5, 0, 9]) == pytest.approx(1)
    assert stats.spearman([1, np.nan], [1, 2]) is None


def test_mean_pairwise_is_the_mean_over_all_pairs() -> None:
    values = RNG.random((4, 30))
    pairs = [reference.spearman(values[i].tolist(), values[j].tolist()) for i in range(4) for j in range(i)]
    assert stats.mean_pairwise(values) == pytest.approx(sum(pairs) / 6)


def test_reliability_by_hand_and_at_its_ends() -> None:
    values = np.array([[1, 2, 3, 4], [2, 1, 3, 4]])  # Spearman 0.8
    assert stats.reliability(values) == pytest.approx(1.6 / 1.8)
    assert stats.reliability(np.stack([values[0]] * 3)) == pytest.approx(1)
    assert stats.reliability(np.array([[1, 2, 3], [3, 2, 1]])) == float("-inf")
    assert stats.reliability(np.array([[1, 2, 3], [5, 5, 5]])) is None


def test_reliability_halves_the_seeds_in_every_way() -> None:
    values = RNG.random((4, 30)) + np.arange(30) / 15
    ways = [((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2))]
    r = np.mean([reference.spearman(values[list(a)].mean(axis=0).tolist(), values[list(b)].mean(axis=0).tolist()) for a, b in ways])
    assert stats.reliability(values) == pytest.approx(2 * r / (1 + r))
    for n_seeds, n_ways in [(2, 1), (3, 3), (5, 15), (8, 35), (7, 35), (40, 35)]:
        halves = stats._disjoint(n_seeds, n_seeds // 2, stats.MOST_SPLITS)
        assert len(halves) == len({frozenset(map(frozenset, half)) for half in halves}) == n_ways
        assert all(len({*a, *b}) == 2 * (n_seeds // 2) and len(a) == len(b) and max(a + b) < n_seeds for a, b in halves)


def test_reliability_of_skewed_scores_is_not_what_pairs_promise() -> None:
    """Each seed agrees well on ranks, but a few large values make the mean of raw scores follow other seeds here and there."""
    rng = np.random.default_rng(2)
    values = np.exp(3 * (rng.normal(size=5_000) + 0.8 * rng.normal(size=(16, 5_000))))
    measured = stats.spearman(values[:8].mean(axis=0), values[8:].mean(axis=0))
    pairs, found = stats.mean_pairwise(values[:8]), stats.reliability(values[:8])
    assert measured is not None and pairs is not None
    assert found is not None and abs(found - measured) < abs(stats.spearman_brown(pairs, 8) - measured) / 1.5


def test_reliability_predicts_the_correlation_with_other_seeds() -> None:
    """A truth with as much noise as signal: r = 0.5 between seeds, so 5 r / (1 + 4 r) = 0.83 for the mean of five."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=20_000) + rng.normal(size=(10, 20_000))
    predicted = stats.reliability(values[:5])
    assert predicted == pytest.approx(0.83, abs=0.02)
    assert stats.spearman(values[:5].mean(axis=0), values[5:].mean(axis=0)) == pytest.approx(predicted, abs=0.02)
    assert abs(stats.reliability(rng.random((5, 20_000))) or 0) < 0.05


def test_spearman_brown_on_the_published_stability_of_el2n() -> None:
    assert stats.spearman_brown(0.5, 5) == pytest.approx(0.8333, abs=1e-4)
    assert stats.spearman_brown(0.3, 1) == pytest.approx(0.3)


@settings(max_examples=150, deadline=None, database=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 12)), min_size=1, max_size=8), st.data())
def test_apportion_is_exact_capped_and_proportional(groups: list[tuple[int, int]], data: st.DataObject) -> None:
    weights, capacities = [weight for weight, _ in groups], [capacity for _, capacity in groups]
    k = data.draw(st.integers(0, sum(capacities)))
    seats = stats.apportion(k, weights, capacities)
    assert seats.dtype == np.int64 and seats.sum() == k
    assert (seats >= 0).all() and (seats <= capacities).all()
    assert np.array_equal(seats, stats.apportion(k, [weight * 0.125 for weight in weights], capacities)), "only proportions matter"
    for (w_a, c_a), a in zip(groups, seats, strict=True):
        for (w_b, _), b in zip(groups, seats, strict=True):
            if w_a > w_b and a < b:
                assert a == c_a, "a heavier group has fewer seats only when it is full"
            if w_a == w_b and a < b - 1:
                assert a == c_a, "equal weights differ by more than one seat only when one is full"


@settings(max_examples=60, deadline=None, database=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=9).filter(any), st.integers(0, 300))
def test_apportion_without_caps_is_hamilton(weights: list[int], k: int) -> None:
    assert stats.apportion(k, weights, [k] * len(weights)).tolist() == reference.largest_remainder(k, weights)


def test_apportion_by_hand() -> None:
    assert stats.apportion(10, [1, 1, 1], [99, 99, 99]).tolist() == [4, 3, 3], "equal remainders: the first group"
    assert stats.apportion(10, [1, 1, 1], [2, 99, 99]).tolist() == [2, 4, 4], "overflow goes to the others"
    assert stats.apportion(9, [1, 2, 6], [99, 99, 3]).tolist() == [2, 4, 3]
    assert stats.apportion(5, [1, 0, 0], [3, 9, 9]).tolist() == [3, 1, 1], "weight zero only when the others are full"
    assert stats.apportion(6, [0.1, 0.2, 0.3], [9, 9, 9]).tolist() == [1, 2, 3]


@pytest.mark.parametrize(("k", "weights", "capacities"), [(7, [1, 1], [3, 3]), (-1, [1], [3]), (1, [-1, 2], [3, 3]), (1, [1], [3, 3])])
def test_apportion_refuses_the_impossible(k: int, weights: list[float], capacities: list[int]) -> None:
    with pytest.raises(ValueError, match="cannot apportion"):
        stats.apportion(k, weights, capacities)


def test_epsilon_squared_is_the_share_of_rank_variance_between_classes() -> None:
    label = RNG.integers(0, 4, 200)
    values = np.round(RNG.normal(size=200) + label, 1)  # with equal values
    ranks = scipy_stats.rankdata(values)
    between = sum((label == name).sum() * (ranks[label == name].mean() - ranks.mean()) ** 2 for name in range(4))
    found = stats.epsilon_squared(values, label)
    assert found == pytest.approx(between / ((ranks - ranks.mean()) ** 2).sum()) and found is not None and 0.2 < found < 0.9
    assert stats.epsilon_squared(values, np.array([2, 0, 3, 1])[label]) == pytest.approx(found), "classes have no order"
    assert stats.epsilon_squared(label, label) == pytest.approx(1)
    assert stats.epsilon_squared(values, np.zeros(200)) is None and stats.epsilon_squared(np.ones(200), label) is None
