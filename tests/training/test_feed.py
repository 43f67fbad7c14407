from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_datadiet.training.feed import shuffled_batches, steps_per_epoch


def epoch_of(n: int, batch_size: int, seed: int) -> list[list[int]]:
    rows = torch.arange(100, 100 + n)
    return [batch.tolist() for batch in shuffled_batches(rows, batch_size, np.random.default_rng(seed))]


@given(st.integers(1, 400), st.integers(1, 130), st.integers(0, 9))
def test_every_row_once_in_even_batches(n: int, batch_size: int, seed: int) -> None:
    batches = epoch_of(n, batch_size, seed)
    assert Counter(row for batch in batches for row in batch) == Counter(range(100, 100 + n))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= batch_size and max(sizes) - min(sizes) <= 1
    # No more batches than that size needs.
    assert len(batches) == steps_per_epoch(n, batch_size) == -(-n // batch_size)


def test_the_order_is_the_seeds() -> None:
    assert epoch_of(50, 8, 3) == epoch_of(50, 8, 3) != epoch_of(50, 8, 4)


def test_each_epoch_has_an_order_of_its_own() -> None:
    rows, rng = torch.arange(50), np.random.default_rng(0)
    first, second = ([row for batch in shuffled_batches(rows, 8, rng) for row in batch.tolist()] for _ in range(2))
    assert first != second and first != sorted(first)
