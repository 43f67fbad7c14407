from __future__ import annotations

from math import sqrt
from typing import Any

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
        halves = stats._halves(n_seeds)
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


def test_t_interval_by_table() -> None:
    """Mean 3, sd 1.5811 of five values, t(0.975, 4) = 2.7764."""
    interval = stats.t_interval([1, 2, 3, 4, 5])
    assert (interval.mean, interval.n) == (3, 5)
    assert (interval.low, interval.high) == pytest.approx((3 - 1.9632, 3 + 1.9632), abs=1e-4)
    narrow = stats.t_interval([1, 2, 3, 4, 5], confidence=0.8)
    assert narrow.high == pytest.approx(3 + 1.5332 * 0.70711, abs=1e-4)
    assert stats.t_interval([2.0]) == stats.Interval(2.0, None, None, 1)


def test_equal_values_are_no_certainty() -> None:
    assert stats.t_interval([2.0, 2.0]) == stats.Interval(2.0, None, None, 2)
    same = stats.difference_intervals({"full": [95.0, 95.0], "a": [90.0, 90.0]}, reference="full")["a"]
    assert (same.mean, same.se, same.df, same.low, same.high, same.method, same.n) == (-5, None, None, None, None, None, 2)
    one = stats.difference_intervals({"full": [95.0, 95.0], "a": [90.0, 90.0], "b": [91.0, 92.0]}, reference="full")["a"]
    assert one.low is not None and one.low < -5, "the spread of another arm is pooled"


def test_pooled_differences_against_the_t_test_of_two_arms() -> None:
    a, b = RNG.normal(1, 1, 6), RNG.normal(0, 1, 9)
    result = stats.difference_intervals({"a": a, "b": b}, reference="b")
    assert list(result) == ["a"]
    test: Any = scipy_stats.ttest_ind(a, b)
    expected = test.confidence_interval(0.95)
    got = result["a"]
    assert (got.method, got.df, got.n, got.n_reference) == ("pooled", 13, 6, 9)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high))
    assert got.se == pytest.approx(got.mean / test.statistic)


def test_the_residual_is_pooled_over_all_arms() -> None:
    """Squares within: 2 + 8 + 2 = 12 over 6 degrees of freedom, so s^2 = 2 and se = sqrt(2 (1/3 + 1/3))."""
    arms = {"full": [1, 2, 3], "pruned": [3, 5, 7], "random": [0, 1, 2]}
    got = stats.difference_intervals(arms, reference="full")
    assert (got["pruned"].mean, got["pruned"].df, got["random"].mean) == (3, 6, -1)
    assert got["pruned"].se == pytest.approx(sqrt(4 / 3)) == got["random"].se
    assert got["pruned"].high == pytest.approx(3 + 2.4469 * sqrt(4 / 3), abs=1e-3)


def test_welch_when_the_spreads_differ() -> None:
    rng = np.random.default_rng(3)
    arms = {"calm": rng.normal(0, 0.1, 12), "wild": rng.normal(1, 5, 12), "reference": rng.normal(0, 0.1, 12)}
    got = stats.difference_intervals(arms, reference="reference", confidence=0.9)
    for name in ("calm", "wild"):
        test: Any = scipy_stats.ttest_ind(arms[name], arms["reference"], equal_var=False)
        expected = test.confidence_interval(0.9)
        assert got[name].method == "welch"
        assert got[name].df == pytest.approx(test.df)
        assert (got[name].low, got[name].high) == pytest.approx((expected.low, expected.high))


def test_one_run_has_no_interval() -> None:
    got = stats.difference_intervals({"a": [3.0], "b": [1.0, 2.0], "c": [1.0, 1.5]}, reference="b")
    assert got["a"] == stats.Difference(1.5, None, None, None, None, 1, 2, None)
    assert got["c"].df == 2
    alone = stats.difference_intervals({"a": [3.0], "b": [1.0]}, reference="b")
    assert (alone["a"].mean, alone["a"].low) == (2.0, None)


def test_two_runs_per_arm_never_count_as_unequal_spreads() -> None:
    """Two values are equally far from their median, so that Levene's statistic would be infinite."""
    got = stats.difference_intervals({"a": [0.0, 1.0], "b": [0.0, 100.0]}, reference="b")
    assert (got["a"].method, got["a"].df) == ("pooled", 2)


def test_intervals_cover_as_often_as_they_say() -> None:
    """400 experiments of three arms of four runs: 95 % intervals, standard error of the count 1.1 %."""
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(400):
        arms = {name: rng.normal(centre, 0.2, 4) for name, centre in (("full", 95.0), ("a", 94.5), ("b", 95.2))}
        interval = stats.difference_intervals(arms, reference="full")["a"]
        assert interval.low is not None and interval.high is not None
        covered += interval.low <= -0.5 <= interval.high
    assert 0.91 < covered / 400 < 0.985


@pytest.mark.parametrize(("sd", "expected"), [(0.15, 0.36), (0.20, 0.47), (0.30, 0.71)])
def test_the_smallest_detectable_difference_of_four_runs(sd: float, expected: float) -> None:
    got = stats.minimum_detectable(sd * np.sqrt(2 / 4), 6)
    assert round(got, 2) == expected


def test_the_smallest_detectable_difference_is_detected_that_often() -> None:
    rng = np.random.default_rng(7)
    for n in (4, 10):
        difference = stats.minimum_detectable(np.sqrt(2 / n), 2 * (n - 1))
        test: Any = scipy_stats.ttest_ind(rng.normal(difference, 1, (4000, n)), rng.normal(0, 1, (4000, n)), axis=1)
        assert (test.pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.025)


def test_the_paired_error_over_test_rows() -> None:
    a = np.array([[1, 1, 0, 1], [1, 0, 0, 1]], dtype=bool)
    b = np.array([[1, 1, 1, 0]], dtype=bool)
    assert stats.paired_test_error(a, b) == pytest.approx(np.std([0, -0.5, -1, 1], ddof=1) / 2)
    assert stats.paired_test_error(a, a) == 0
    with pytest.raises(ValueError, match="at least two"):
        stats.paired_test_error(a[:, :1], b[:, :1])


def test_pairing_takes_the_common_difficulty_of_test_rows_out() -> None:
    """Rows that both arms find hard or easy: the paired error is the spread of the difference over fresh test sets."""
    rng = np.random.default_rng(11)

    def arms(rows: int) -> tuple[np.ndarray, np.ndarray]:
        difficulty = rng.beta(0.4, 0.1, rows)
        return rng.random((4, rows)) < difficulty, rng.random((4, rows)) < difficulty

    observed = [float(a.mean() - b.mean()) for a, b in (arms(500) for _ in range(400))]
    a, b = arms(20_000)
    paired = stats.paired_test_error(a, b) * sqrt(20_000 / 500)
    assert np.std(observed) == pytest.approx(paired, rel=0.12)
    unpaired = sqrt((a.mean(axis=0).var() + b.mean(axis=0).var()) / 500)
    assert paired < 0.5 * unpaired
