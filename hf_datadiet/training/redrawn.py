"""Rows that are drawn anew in every epoch: RS2, Repeated Sampling of Random Subsets (Okanovic et al., ICLR 2024, arXiv 2305.18424).

It needs no scores and takes the steps of a training on K rows, so it is what a claim about speed has to beat. Of the two variants this is
the one without replacement, which the authors' README runs (github PatrikOkanovic/RS2, `UniformNoReplacement`): the N rows are put into
a random order, each epoch takes the next K of them, and when all have been taken they are put into a new order. The epoch in which an
order runs out begins with what is left and goes on with the order's own beginning, as in their code (which takes K - 1 rows there).
The other variant draws the K rows of each epoch independently of those before; it shows some rows often and some hardly ever.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from hf_datadiet.identity import digest_of
from hf_datadiet.training.randomness import generator_for


@dataclass(frozen=True, eq=False)
class Redrawn:
    """`size` K of the rows `ids` (int64 [N], ascending) in each epoch, K <= N. A function of `seed` and the epoch: nothing to resume."""

    ids: NDArray[np.int64]
    size: int
    seed: int

    def __len__(self) -> int:
        """K."""
        return self.size

    def of(self, epoch: int) -> NDArray[np.int64]:
        """The rows of an epoch, counted from 1: K distinct ids, ascending. Each N / K epochs, rounded up, show every row once or twice."""
        orders, place = divmod(epoch - 1, ceil(len(self.ids) / self.size))
        order = generator_for(f"draw/redrawn-{self.size}/{orders}", self.seed).permutation(len(self.ids))
        return np.sort(self.ids[order.take(np.arange(place * self.size, (place + 1) * self.size), mode="wrap")])


def rows_digest(ids: NDArray[np.int64] | Redrawn, epochs: int) -> str:
    """Digest of what a training is shown: its rows, or the rows of each of its epochs, whole also where the last is cut short."""
    drawn: Iterable[NDArray[np.int64]] = [ids] if isinstance(ids, np.ndarray) else (ids.of(epoch) for epoch in range(1, epochs + 1))
    return digest_of(drawn)
