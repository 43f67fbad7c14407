"""The statistics of the package: means over seeds, reliability, intervals, apportionment. Pure numpy and scipy.

Shapes: S seeds, N examples, T test rows. Everything is computed in float64. Where the data cannot answer (one seed, a constant
column) the answer is None, never a number that looks like one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from math import comb, floor, sqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

LEVENE_ALPHA = 0.05
"""Level of the test for unequal spreads, the usual 5 %."""

MOST_SPLITS = 35
"""Ways to halve the seeds that `reliability` averages over at most: all there are for 8 seeds. Each costs two sorts of N numbers."""


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval, in the unit of the values; `low` and `high` are None for one value."""

    mean: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """Mean of an arm minus mean of the reference, in the unit of the values, with its confidence interval.

    `method`: "pooled" (one residual for all arms) or "welch" (each arm its own). `se`, `df`, `low`, `high` and `method` are
    None when the arm or the reference has one value only. `n` and `n_reference`: values in the arm and in the reference.
    """

    mean: float
    se: float | None
    df: float | None
    low: float | None
    high: float | None
    n: int
    n_reference: int
    method: Literal["pooled", "welch"] | None


def seed_mean_se(values: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Mean over seeds and its standard error, sd / sqrt(S) with S - 1 in the sd: values [S, N] -> float32 [N] each.

    The standard error is None for one seed. Null (NaN) stays null.
    """
    values = np.asarray(values, dtype=np.float64)
    n_seeds = values.shape[0]
    mean = values.mean(axis=0).astype(np.float32)
    if n_seeds < 2:
        return mean, None
    return mean, (values.std(axis=0, ddof=1) / sqrt(n_seeds)).astype(np.float32)


def mean_pairwise(values: NDArray[Any]) -> float | None:
    """Mean of Spearman's correlation over all pairs of seeds: values [S, N] -> [-1, 1].

    Examples that are null (NaN) in any seed are left out. None for one seed, fewer than two examples or a seed whose values are all equal.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[:, np.isfinite(values).all(axis=0)]
    if values.shape[0] < 2 or values.shape[1] < 2 or (np.ptp(values, axis=1) == 0).any():
        return None
    # Spearman's r is Pearson's r of the average ranks; ranking each seed once spares the pairs the sorting.
    matrix = np.corrcoef(stats.rankdata(values, axis=1))
    return float(matrix[np.triu_indices(values.shape[0], k=1)].mean())


def spearman(a: ArrayLike, b: ArrayLike) -> float | None:
    """Spearman's rank correlation of two columns [N], equal values sharing their average rank; None as in `mean_pairwise`."""
    return mean_pairwise(np.stack([np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)]))


def spearman_brown(r: float, n: float) -> float:
    """Reliability of a mean of n measurements, one of which correlates r with another: n r / (1 + (n - 1) r), in [-inf, 1].

    Spearman 1910, Brown 1910. Minus infinity where the measurements cancel (r <= -1 / (n - 1)).
    """
    denominator = 1 + (n - 1) * r
    return n * r / denominator if denominator > 1e-12 else float("-inf")


def reliability(values: NDArray[Any]) -> float | None:
    """How well the mean over S seeds would rank the examples as the mean over S other seeds does; values [S, N] -> about [0, 1].

    Spearman's correlation of the means of two halves of the seeds, averaged over the ways to halve them (`MOST_SPLITS` drawn ways when
    there are more; one seed stands aside when S is odd), stepped up from a half to S by `spearman_brown`. It looks at means as they are
    used, so skewed scores, whose raw mean follows a few seeds, look no better than they are, as they would with single pairs of seeds
    (for 2 and 3 seeds there is nothing but pairs). The step from a half to S still assumes what Spearman and Brown do; columns
    with many equal values gain less from seeds than that (measured in benchmarks/RESULTS.md). None as in `mean_pairwise`.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[:, np.isfinite(values).all(axis=0)]
    n_seeds, half = len(values), len(values) // 2
    if half == 0:
        return None
    found = [spearman(values[list(one)].mean(axis=0), values[list(other)].mean(axis=0)) for one, other in _halves(n_seeds)]
    known = [r for r in found if r is not None]
    return spearman_brown(float(np.mean(known)), n_seeds / half) if len(known) == len(found) else None


def _halves(n_seeds: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Pairs of disjoint sets of n_seeds // 2 seeds: all of them, or `MOST_SPLITS` different ones from a fixed draw."""
    half = n_seeds // 2
    if comb(n_seeds, half) * comb(n_seeds - half, half) // 2 <= MOST_SPLITS:
        firsts = combinations(range(n_seeds), half)
        pairs = ((one, other) for one in firsts for other in combinations(sorted(set(range(n_seeds)) - set(one)), half))
        return [(one, other) for one, other in pairs if one < other]
    rng, drawn = np.random.default_rng(0), set[tuple[tuple[int, ...], tuple[int, ...]]]()
    while len(drawn) < MOST_SPLITS:
        order = rng.permutation(n_seeds).tolist()
        one, other = tuple(sorted(order[:half])), tuple(sorted(order[half : 2 * half]))
        drawn.add(min((one, other), (other, one)))
    return sorted(drawn)


def apportion(k: int, weights: Sequence[float] | NDArray[Any], capacities: Sequence[int] | NDArray[Any]) -> NDArray[np.int64]:
    """Share k seats among groups in proportion to weights, none above its capacity: int64 [groups], summing to k.

    Largest remainder (Hamilton); equal remainders go to the group that stands first. What a full group cannot take is shared among the
    others by their weights; groups of weight zero get seats, in equal shares, only when all others are full.
    Exact rational arithmetic, so that equal shares are equal. `ValueError` when k is negative or exceeds the sum of the capacities.
    """
    shares_of = [Fraction(float(weight)) for weight in weights]
    room = [int(capacity) for capacity in capacities]
    if not 0 <= k <= sum(room) or len(shares_of) != len(room) or any(weight < 0 for weight in shares_of):
        raise ValueError(f"cannot apportion {k} seats among capacities {room} with weights {[float(weight) for weight in shares_of]}")
    seats = [0] * len(room)
    open_groups = [group for group in range(len(room)) if room[group] > 0]
    left = k
    while left:
        total = sum(shares_of[group] for group in open_groups)
        if total == 0:
            shares_of = [Fraction(1)] * len(room)
            continue
        exact = {group: left * shares_of[group] / total for group in open_groups}
        full = [group for group in open_groups if exact[group] >= room[group]]
        if not full:
            for group in open_groups:
                seats[group] = floor(exact[group])
            by_remainder = sorted(open_groups, key=lambda group: (seats[group] - exact[group], group))
            for group in by_remainder[: k - sum(seats)]:
                seats[group] += 1
            break
        for group in full:
            seats[group] = room[group]
        open_groups = [group for group in open_groups if group not in set(full)]
        left = k - sum(seats)
    return np.array(seats, dtype=np.int64)


def t_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Student's t interval of the mean of independent values [n], two-sided; none for one value, or equal ones, which tell no spread."""
    sample = np.asarray(values, dtype=np.float64)
    mean = float(sample.mean())
    if sample.size < 2 or np.ptp(sample) == 0:
        return Interval(mean, None, None, sample.size)
    half = float(stats.t.ppf((1 + confidence) / 2, sample.size - 1) * sample.std(ddof=1) / sqrt(sample.size))
    return Interval(mean, mean - half, mean + half, sample.size)


def _spreads_differ(samples: Sequence[NDArray[np.float64]]) -> bool:
    """Levene's test around the medians (Brown and Forsythe 1974) at `LEVENE_ALPHA`; it has little power at a few values per arm.

    Two values are always equally far from their median, which would make the test reject every time: arms of one or two sit out.
    """
    samples = [sample for sample in samples if sample.size >= 3]
    if len(samples) < 2:
        return False
    with np.errstate(divide="ignore", invalid="ignore"):
        p_value = stats.levene(*samples, center="median").pvalue
    return bool(p_value < LEVENE_ALPHA)


def difference_intervals(arms: Mapping[str, ArrayLike], reference: str, confidence: float = 0.95) -> dict[str, Difference]:
    """Difference of each other arm's mean to the reference arm's, with two-sided t intervals; arms: {name: independent values [n]}.

    The residual is pooled over all arms, as in a one-way analysis of variance: s^2 = sum of squares within / sum(n_i - 1), which is
    also df, and se = s sqrt(1/n + 1/n_reference). If `_spreads_differ`, Welch's interval instead (Welch 1947): se^2 = the sum of
    s_i^2 / n_i of the two arms, df by Satterthwaite. Runs are not paired by seed: runs on different subsets barely correlate.
    The intervals are not corrected for the number of arms: pass a higher `confidence` for that. Where no arm has any spread there is none.
    """
    samples = {name: np.asarray(values, dtype=np.float64) for name, values in arms.items()}
    pooled_df = sum(sample.size - 1 for sample in samples.values())
    pooled_squares = sum(float(((sample - sample.mean()) ** 2).sum()) for sample in samples.values())
    welch = _spreads_differ(list(samples.values()))
    b = samples[reference]

    def difference(a: NDArray[np.float64]) -> Difference:
        mean = float(a.mean() - b.mean())
        if a.size < 2 or b.size < 2:
            return Difference(mean, None, None, None, None, a.size, b.size, None)
        square_a, square_b = float(a.var(ddof=1)) / a.size, float(b.var(ddof=1)) / b.size
        if welch and square_a + square_b > 0:
            method: Literal["pooled", "welch"] = "welch"
            se = sqrt(square_a + square_b)
            df = (square_a + square_b) ** 2 / (square_a**2 / (a.size - 1) + square_b**2 / (b.size - 1))
        else:
            method = "pooled"
            se = sqrt(pooled_squares / pooled_df * (1 / a.size + 1 / b.size))
            df = float(pooled_df)
        if se == 0:  # few test rows and few runs: as often as not they agree by chance, which is no certainty
            return Difference(mean, None, None, None, None, a.size, b.size, None)
        half = float(stats.t.ppf((1 + confidence) / 2, df)) * se
        return Difference(mean, se, df, mean - half, mean + half, a.size, b.size, method)

    return {name: difference(sample) for name, sample in samples.items() if name != reference}


def minimum_detectable(se: float, df: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """Smallest true difference that a two-sided t test finds with the given power; `se` and `df` are those of a `Difference`.

    (t_{1 - alpha/2} + t_power) se with df degrees of freedom, in the unit of `se`. The usual closed form; the noncentral t
    distribution gives 5 % more at df = 2 and 0.4 % at df = 6. Defaults: the conventional 80 % power at 5 %.
    """
    return float((stats.t.ppf(1 - alpha / 2, df) + stats.t.ppf(power, df)) * se)


def paired_test_error(correct_a: NDArray[Any], correct_b: NDArray[Any]) -> float:
    """Standard error, over the T shared test rows, of the mean accuracy difference of two arms; correct_*: bool [seeds, T].

    sd over rows of (share of a's seeds that are right - share of b's seeds that are right) / sqrt(T), a fraction of 1: what another
    test set of this size would change. It does not hold the run-to-run variation. `ValueError` for fewer than two test rows.
    """
    difference = np.asarray(correct_a, dtype=np.float64).mean(axis=0) - np.asarray(correct_b, dtype=np.float64).mean(axis=0)
    if difference.size < 2:
        raise ValueError(f"the error over test rows needs at least two of them, not {difference.size}")
    return float(difference.std(ddof=1) / sqrt(difference.size))


def stratified_draw(label: NDArray[Any], k: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """k positions of `label` [n], drawn without replacement, each class in proportion to its size (`apportion`): sorted int64 [k]."""
    classes, sizes = np.unique(label, return_counts=True)
    seats = apportion(k, sizes, sizes)
    drawn = [rng.choice(np.flatnonzero(label == name), seat, replace=False) for name, seat in zip(classes, seats, strict=True)]
    return np.sort(np.concatenate(drawn)).astype(np.int64)
