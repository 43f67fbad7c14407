"""Rows on their way to a model: decoded once, trained on many times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hf_datadiet.gradients.forward import Inputs
from hf_datadiet.tasks.base import Task

DEVICE_SHARE = 0.25
"""Decoded data moves to a CUDA device whole if it takes at most this share of the free memory there."""

GROUP = 50
"""Consecutive batches among which rows are exchanged so that each holds similar lengths; a quarter of an epoch at most."""


@dataclass(frozen=True)
class Feed:
    """N labelled rows. `prepared` and `fitted` are the task's; `labels` int64 [N] lie on the device.

    `lengths` int64 [N] on the CPU where rows differ in length (text), otherwise None.
    """

    task: Task
    prepared: Any
    fitted: Mapping[str, Any]
    example_id: NDArray[np.int64]
    labels: torch.Tensor
    device: torch.device
    lengths: torch.Tensor | None = None

    def __len__(self) -> int:
        """N."""
        return self.example_id.size

    def inputs(self, rows: torch.Tensor, augment: torch.Generator | None = None) -> Inputs:
        """The model's input for rows (positions 0..N-1, int64 [B]); augmented only with a generator."""
        return self.task.collate(self.prepared, rows, self.fitted, self.device, augment)


def on_device(prepared: Any, device: torch.device) -> Any:
    """Move a prepared tensor to a CUDA device where it fits easily; leave anything else where it is."""
    if device.type != "cuda" or not isinstance(prepared, torch.Tensor):
        return prepared
    free, _ = torch.cuda.mem_get_info(device)
    return prepared.to(device) if prepared.nbytes <= DEVICE_SHARE * free else prepared


def steps_per_epoch(n_rows: int, batch_size: int) -> int:
    """Batches that show every row once. Fewer where a row would be alone: BatchNorm cannot train on one."""
    return min(ceil(n_rows / batch_size), max(1, n_rows // min(batch_size, 2)))


def shuffled_batches(
    rows: torch.Tensor, batch_size: int, rng: np.random.Generator, lengths: torch.Tensor | None = None
) -> Iterator[torch.Tensor]:
    """All rows once, in random order, in `steps_per_epoch` batches whose sizes differ by at most one.

    Even sizes instead of a small last batch: no row weighs more than another in its gradient step, and none is dropped.
    Two rows or more share a batch, unless batch_size or K is 1: an odd K in batches of two has one of three. With
    `lengths` [N] rows of similar length share a batch, which spares padding.
    """
    order = rows[torch.from_numpy(rng.permutation(len(rows)))]
    batches = order.tensor_split(steps_per_epoch(len(rows), batch_size))
    yield from batches if lengths is None else _by_length(batches, lengths, rng)


def _by_length(batches: Sequence[torch.Tensor], lengths: torch.Tensor, rng: np.random.Generator) -> Iterator[torch.Tensor]:
    """Sort the rows within groups of batches, then shuffle the batches: a random order of random batches of similar lengths.

    Groups far smaller than the epoch keep the company of a row random, as in transformers' `LengthGroupedSampler`.
    """
    size = min(GROUP, max(1, len(batches) // 4))
    grouped: list[torch.Tensor] = []
    for start in range(0, len(batches), size):
        group = batches[start : start + size]
        rows = torch.cat([*group])
        rows = rows[lengths[rows].argsort(stable=True)]
        grouped += rows.split([len(batch) for batch in group])
    for position in rng.permutation(len(grouped)):
        yield grouped[position]
