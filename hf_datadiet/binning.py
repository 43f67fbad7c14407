"""Scores counted into bins, so that a picture of a million rows is a few numbers. Pure numpy and scipy.

Shapes: n rows, B bins of a histogram, R bins of ranks. Everything is computed in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

BINS = 40
"""Of a histogram at most: each is still a millimetre wide where a picture is shown at half its width."""

RANK_BINS = 20
"""Along each side of a table of ranks: 5 % of the rows each, and a few hundred numbers for a pair of scores."""

BEYOND = 0.001
"""At most this share of the rows, at either end, may lie outside an axis: one huge gradient would flatten all the others."""

SKEWED = 20.0
"""Positive values whose upper end (without `BEYOND`) is more than this multiple of their median get a logarithmic axis: on a plain one
half of the rows would share two of `BINS` bins."""


@dataclass(frozen=True)
class Bins:
    """`edges` float64 [B + 1], ascending, equally wide on an axis that is "linear" or "log"."""

    scale: Literal["linear", "log"]
    edges: NDArray[np.float64]

    def count(self, values: ArrayLike) -> NDArray[np.int64]:
        """How many of the values [n] lie in each bin, int64 [B], summing to n: what lies outside counts in the first and the last."""
        inside = np.clip(np.asarray(values, dtype=np.float64), self.edges[0], self.edges[-1])
        return np.histogram(inside, self.edges)[0].astype(np.int64)


def bins_for(values: ArrayLike) -> Bins:
    """Bins that show values [n], n >= 1, all finite.

    Values that take few steps (counts, and their means over seeds) have a bin each, with the value in its middle. An axis ends where the
    values do, or, where a few lie far outside, half its length beyond the quantiles `BEYOND` and 1 - `BEYOND`.
    """
    sample = np.sort(np.asarray(values, dtype=np.float64))
    low, median, high = (float(end) for end in np.quantile(sample, [BEYOND, 0.5, 1 - BEYOND], method="inverted_cdf"))
    if low > 0 and high > SKEWED * median:
        room = sqrt(high / low)
        return Bins("log", np.geomspace(max(sample[0], low / room), min(sample[-1], high * room), BINS + 1))
    steps = _steps(sample)
    if steps is not None:
        return Bins("linear", steps)
    room = (high - low) / 2 if high > low else np.inf
    return Bins("linear", np.linspace(max(sample[0], low - room), min(sample[-1], high + room), BINS + 1))


def _steps(sample: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The edges around values [n] that are whole steps apart, `BINS` of them at most; None for others."""
    distinct = np.unique(sample)
    if distinct.size == 1:
        half = max(abs(float(distinct[0])), 1.0) / 2
        return np.array([distinct[0] - half, distinct[0] + half])
    step = float(np.diff(distinct).min())
    if np.ptp(distinct) / step > BINS - 0.5:
        return None
    return distinct[0] + step * (np.arange(round(np.ptp(distinct) / step) + 2) - 0.5)


def rank_table(a: ArrayLike, b: ArrayLike) -> NDArray[np.int64]:
    """How many rows have which ranks by two scores: a, b [n] -> int64 [R, R], summing to n; the first axis is a's, low values first.

    Equal values share the average of their ranks, and so one bin.
    """
    places = [((rankdata(values) - 0.5) / np.size(values) * RANK_BINS).astype(np.int64) for values in (a, b)]
    table = np.zeros((RANK_BINS, RANK_BINS), dtype=np.int64)
    np.add.at(table, tuple(places), 1)
    return table
