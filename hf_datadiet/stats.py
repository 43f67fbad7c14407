"""Statistics of scores and of draws: means over seeds, reliability, association, apportionment. Pure numpy and scipy.

Shapes: S seeds, N examples. Everything is computed in float64. Where the data cannot answer (one seed, a constant
column) the answer is None, never a number that looks like one.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations
from math import comb, floor, sqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

MOST_SPLITS = 35
"""Ways to halve the seeds that `reliability` averages over at most: all there are for 8 seeds. Each costs two sorts of N numbers."""


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


def epsilon_squared(values: ArrayLike, label: ArrayLike) -> float | None:
    """Share of the variance of a column's ranks that lies between classes, in [0, 1]: values [N], label [N] of any classes.

    Kruskal and Wallis's H / (N - 1), with their correction for equal values: the correlation ratio (eta squared) of the ranks, called
    epsilon squared of that test (Tomczak and Tomczak, Trends in Sport Sciences 1, 2014). It asks for no order among classes, and
    compares with Spearman's r squared. Classes that say nothing have (classes - 1) / (N - 1) on average. None for one class and for
    equal values.
    """
    column, classes = np.asarray(values, dtype=np.float64), np.asarray(label)
    groups = [column[classes == name] for name in np.unique(classes)]
    if len(groups) < 2 or np.ptp(column) == 0:
        return None
    return float(stats.kruskal(*groups).statistic / (column.size - 1))


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
    half = len(values) // 2
    measured = agreement(values, half) if half else None
    return None if measured is None else spearman_brown(measured, len(values) / half)


def agreement(values: NDArray[Any], size: int, most: int = MOST_SPLITS) -> float | None:
    """Spearman's correlation of the means over two sets of `size` seeds that share none: values [S, N], 1 <= size <= S / 2 -> [-1, 1].

    Averaged over the ways to choose the two sets, or over `most` drawn ways when there are more. None as in `mean_pairwise`.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[:, np.isfinite(values).all(axis=0)]
    pairs = _disjoint(len(values), size, most)
    found = [spearman(values[list(one)].mean(axis=0), values[list(other)].mean(axis=0)) for one, other in pairs]
    known = [r for r in found if r is not None]
    return float(np.mean(known)) if known and len(known) == len(found) else None


def _disjoint(n_seeds: int, size: int, most: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Pairs of disjoint sets of `size` of n seeds: all of them, or `most` different ones from a fixed draw."""
    if comb(n_seeds, size) * comb(n_seeds - size, size) // 2 <= most:
        firsts = combinations(range(n_seeds), size)
        pairs = ((one, other) for one in firsts for other in combinations(sorted(set(range(n_seeds)) - set(one)), size))
        return [(one, other) for one, other in pairs if one < other]
    rng, drawn = np.random.default_rng(0), set[tuple[tuple[int, ...], tuple[int, ...]]]()
    while len(drawn) < most:
        order = rng.permutation(n_seeds).tolist()
        one, other = tuple(sorted(order[:size])), tuple(sorted(order[size : 2 * size]))
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


def stratified_draw(label: NDArray[Any], k: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """k positions of `label` [n], drawn without replacement, each class in proportion to its size (`apportion`): sorted int64 [k]."""
    classes, sizes = np.unique(label, return_counts=True)
    seats = apportion(k, sizes, sizes)
    drawn = [rng.choice(np.flatnonzero(label == name), seat, replace=False) for name, seat in zip(classes, seats, strict=True)]
    return np.sort(np.concatenate(drawn)).astype(np.int64)
