from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_datadiet.training.feed import shuffled_batches, steps_per_epoch


def epoch_of(n: int, batch_size: int, seed: int, lengths: torch.Tensor | None = None) -> list[list[int]]:
    rows = torch.arange(100, 100 + n)
    return [batch.tolist() for batch in shuffled_batches(rows, batch_size, np.random.default_rng(seed), lengths)]


def lengths_of(n: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).geometric(0.05, 100 + n))


@given(st.integers(1, 400), st.integers(1, 130), st.integers(0, 9), st.booleans())
def test_every_row_once_in_even_batches(n: int, batch_size: int, seed: int, grouped: bool) -> None:
    batches = epoch_of(n, batch_size, seed, lengths_of(n) if grouped else None)
    assert Counter(row for batch in batches for row in batch) == Counter(range(100, 100 + n))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) - min(sizes) <= 1
    assert len(batches) == steps_per_epoch(n, batch_size)
    if batch_size == 2 and n % 2 and n > 1:
        assert sorted(sizes) == [2] * (n // 2 - 1) + [3], "no row is alone"
    else:
        # No more batches than that size needs.
        assert max(sizes) <= batch_size and len(batches) == -(-n // batch_size)
        assert min(sizes) > 1 or batch_size == 1 or n == 1


def test_the_order_is_the_seeds() -> None:
    assert epoch_of(50, 8, 3) == epoch_of(50, 8, 3) != epoch_of(50, 8, 4)


def test_each_epoch_has_an_order_of_its_own() -> None:
    rows, rng = torch.arange(50), np.random.default_rng(0)
    first, second = ([row for batch in shuffled_batches(rows, 8, rng) for row in batch.tolist()] for _ in range(2))
    assert first != second and first != sorted(first)


def test_rows_of_similar_length_share_a_batch() -> None:
    lengths = lengths_of(800)

    def padding(batches: list[list[int]]) -> float:
        """Share of the tokens that is padding."""
        sizes = [lengths[torch.tensor(batch)] for batch in batches]
        return 1 - sum(float(size.sum()) for size in sizes) / sum(float(size.max()) * len(size) for size in sizes)

    assert padding(epoch_of(800, 16, 0, lengths)) < 0.3 < 0.6 < padding(epoch_of(800, 16, 0))


def test_grouped_batches_are_random_too() -> None:
    lengths = lengths_of(800)
    assert epoch_of(800, 16, 0, lengths) == epoch_of(800, 16, 0, lengths) != epoch_of(800, 16, 1, lengths)
    means = np.array([float(lengths[torch.tensor(batch)].double().mean()) for batch in epoch_of(800, 16, 0, lengths)])
    assert 0.25 < (np.diff(means) > 0).mean() < 0.75, "short texts do not come first, nor last"
    # A row meets others from one epoch to the next, even where all lengths differ.
    rng, rows = np.random.default_rng(0), torch.arange(800)
    distinct = torch.from_numpy(np.random.default_rng(2).permutation(800))
    first, second = ([set(batch.tolist()) for batch in shuffled_batches(rows, 16, rng, distinct)] for _ in range(2))
    company = [next(batch for batch in epoch if 400 in batch) for epoch in (first, second)]
    assert len(company[0] & company[1]) < 12
