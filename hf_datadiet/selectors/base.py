"""What a strategy gets and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Candidates:
    """The n rows of one group, any order. `hardness` float64 [n]: high is hard, whatever the score's own direction."""

    example_id: NDArray[np.int64]
    hardness: NDArray[np.float64]


class Selector(Protocol):
    """A frozen dataclass whose fields are the strategy's parameters; a file defines `SELECTOR`, the class itself.

    Equal values are ordered by `rng`, never by position: the draw is part of the selection's record.
    """

    def __call__(self, candidates: Candidates, k: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Positions (not ids) of the k chosen candidates, int64 [k], each at most once, 0 <= k <= n."""
        ...
