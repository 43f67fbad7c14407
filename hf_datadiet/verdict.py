"""What may be said of a selection against a reference: better, non-inferior, equivalent, worse, or cannot tell. Pure numpy and scipy.

A verdict is read off one interval: [low, high] of arm minus reference, and the margin that the recipe declares not to matter, in points.

| verdict      | is said when                        | that is                                                                   |
|--------------|-------------------------------------|---------------------------------------------------------------------------|
| equivalent   | -margin < low and high < margin     | what difference there is does not matter, as the recipe declared          |
| better       | low > 0, and not equivalent         | a gain is shown; that it is larger than the margin need not be            |
| non-inferior | -margin < low <= 0, margin <= high  | a loss of the margin or more is excluded, a gain is not shown             |
| worse        | high < 0, and not equivalent        | a loss is shown, and one of the margin or more is not excluded            |
| cannot tell  | low <= -margin and high >= 0        | a loss that matters and no loss at all are both possible; or no interval  |

Exactly one holds. Equivalent comes first, although the interval may exclude zero at the same time: the margin was declared before the
numbers were there, and with enough seeds every difference excludes zero. `Verdict.shown` then says that there is a small loss (or gain).
"worse" with high > -margin has a shown loss whose size is open; `Verdict.beyond` is false then, so that nobody need call it a loss that
matters.

Levels. The interval has confidence 1 - 2 `ALPHA` / m for m selections (90 % for one), each counted once for every model that it is judged
with. Reading it is doing the tests: equivalent is two one-sided tests, each at `ALPHA` / m (TOST: Schuirmann, J. Pharmacokinet. Biopharm.
15, 1987; the interval within the margins: Westlake, Biometrics 32, 1976); non-inferior is the lower of the two (margin fixed in advance:
Piaggio et al., JAMA 308, 2012); better and worse are one-sided t tests. Where the true difference is a loss of the margin, each selection
is called equivalent, non-inferior or better with probability <= `ALPHA` / m; so at most 5 % of evaluations say so of any of their
selections (against one reference). Measured with 2 to 10 seeds, spreads alike and not: at most 5.4 % (benchmarks/RESULTS.md).

Correction. Bonferroni, because it has simultaneous intervals with which its tests agree: anybody can check a verdict from the interval
beside it. Holm's tests reject more, but the intervals that belong to them tell nothing new of what was rejected; Dunnett's need one
residual for all arms, which the arms do not always have. Both gain little for the few selections of an evaluation. References are
questions of their own and are not corrected for.

Everything is conditional on the selection: its scores were drawn once, and another scoring would keep other rows. The error over test
rows is no part of it either and is reported beside it (`intervals.bootstrap_test_interval`).
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from math import sqrt
from typing import Literal, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from hf_datadiet.intervals import Difference

Word: TypeAlias = Literal["better", "non-inferior", "equivalent", "worse", "cannot tell"]

ALPHA = 0.05
"""Level of each one-sided test before the correction: the usual one of TOST, whose interval is then one of 90 %."""

POWER = 0.8
"""Power that a number of seeds is planned for: the conventional 80 % (Cohen 1988)."""

MOST_SEEDS = 1_000_000
"""More seeds per arm than this are not looked for."""


@dataclass(frozen=True)
class Verdict:
    """`word`, with what it does not say by itself.

    `shown`: "gain" or "loss" where the interval excludes zero, else None. `beyond`: whether it also excludes everything within the margin.
    `seeds`: seeds per arm that would settle it (`seeds_to_settle`), None unless the word is "cannot tell" and there is an interval.
    """

    word: Word
    shown: Literal["gain", "loss"] | None
    beyond: bool
    seeds: int | None


def confidence_for(n_comparisons: int) -> float:
    """Confidence of the two-sided interval that decides, for m comparisons: 1 - 2 `ALPHA` / m, in [0.9, 1).

    Each selection with each model that it is judged with is one.
    """
    return 1 - 2 * ALPHA / max(1, n_comparisons)


def decide(low: ArrayLike, high: ArrayLike, margin: float) -> NDArray[np.str_]:
    """The verdict of each interval, by the table above: low, high [...] and the margin (> 0) in points -> words [...]."""
    low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    inside, under = low > -margin, high < margin
    return np.select([inside & under, low > 0, inside, high < 0], ["equivalent", "better", "non-inferior", "worse"], "cannot tell")


def judge(difference: Difference, margin: float, confidence: float) -> Verdict:
    """The verdict on a difference whose interval has the given confidence; `margin` > 0 in its unit."""
    low, high = difference.low, difference.high
    if low is None or high is None:
        return Verdict("cannot tell", None, False, None)
    word = cast(Word, str(decide(low, high, margin)))
    shown = "gain" if low > 0 else "loss" if high < 0 else None
    seeds = seeds_to_settle(difference, margin, confidence) if word == "cannot tell" else None
    return Verdict(word, shown, low >= margin or high <= -margin, seeds)


def seeds_to_settle(difference: Difference, margin: float, confidence: float) -> int | None:
    """Seeds per arm, more than there are, after which any verdict but "cannot tell" is reached with probability `POWER`.

    All seeds anew, the true difference being the one observed and the true residual the one estimated: se falls as 1 / sqrt(n), and
    df grows as n - 1. There is always such a number: once the interval's half-width is below margin / 2 it cannot reach from -margin to 0.
    An estimate from an estimate: with a residual of few degrees of freedom it is good to a factor of two.
    None without an interval, and above `MOST_SEEDS`. Both arms have the same n, as in every evaluation.
    """
    n, se, df = difference.n, difference.se, difference.df
    if se is None or df is None:
        return None

    def enough(seeds: int) -> bool:
        power = chance_to_decide(difference.mean, se * sqrt(n / seeds), df * (seeds - 1) / (n - 1), margin, confidence)
        return power >= POWER

    more = n + 1
    while not enough(more):
        if more > MOST_SEEDS:
            return None
        more *= 2
    return bisect_left(range(more), True, lo=max(n + 1, more // 2), key=enough)


def chance_to_decide(difference: float, se: float, df: float, margin: float, confidence: float) -> float:
    """Probability of any verdict but "cannot tell", for a true difference and a true standard error in the unit of the margin.

    The residual is drawn as sqrt(chi^2 / df), at 200 equally likely values; given it, the difference is normal and "cannot tell" is
    that it lies between -half and half - margin, half being the interval's half-width.
    """
    residual = np.sqrt(stats.chi2.ppf((np.arange(200) + 0.5) / 200, df) / df)
    half = stats.t.ppf((1 + confidence) / 2, df) * se * residual
    between = stats.norm.cdf((half - margin - difference) / se) - stats.norm.cdf((-half - difference) / se)
    return float(1 - np.clip(between, 0, None).mean())
