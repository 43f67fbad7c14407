"""The order by hardness, equal values in an order drawn by the generator."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hf_datadiet.selectors.base import Candidates


def shuffled(candidates: Candidates, rng: np.random.Generator) -> NDArray[np.int64]:
    """Positions int64 [n] in a drawn order. The draw belongs to the example ids: the order in which they stand has no influence."""
    return np.argsort(candidates.example_id)[rng.permutation(candidates.example_id.size)]


def easiest_first(candidates: Candidates, rng: np.random.Generator) -> NDArray[np.int64]:
    """Positions int64 [n] by rising hardness, equal values in drawn order."""
    drawn = shuffled(candidates, rng)
    rank = np.empty_like(drawn)
    rank[drawn] = np.arange(drawn.size)
    return np.lexsort((rank, candidates.hardness))
