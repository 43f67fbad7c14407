"""Batches that fit: when the device runs out of memory, the rest goes through in smaller ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from hf_datadiet.errors import RecipeError
from hf_datadiet.training.progress import Progress

T = TypeVar("T")


def in_batches(work: Callable[[torch.Tensor], T], rows: torch.Tensor, size: int) -> tuple[list[T], int]:
    """What `work` makes of consecutive batches of at most `size` rows, and the size that it ended with.

    Out of memory halves the size and says so on stderr; what has been done is kept. `RecipeError` when one row alone does not fit.
    """
    done: list[T] = []
    start = 0
    while start < len(rows):
        batch = rows[start : start + size]
        try:
            done.append(work(batch))
            start += len(batch)
            continue
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            if len(batch) == 1:
                raise RecipeError(
                    "out of memory: one row alone does not fit in the observe pass; choose a smaller model or smaller inputs, or a device "
                    "with more memory"
                ) from error
        # Only here, outside of the except block, nothing holds the failed batch's tensors any more.
        clear_device_cache(garbage_collection=True)
        size = len(batch) // 2
        Progress(0).note(f"out of memory: observing {size} row{'s' if size > 1 else ''} at a time instead of {len(batch)}")
    return done, size
