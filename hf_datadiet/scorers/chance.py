"""Chance: a number drawn for each example, the baseline that every score has to beat.

Formula: the upper 24 bits of SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014)
at the counter `example_id` of the stream that `seed` starts, over 2^24. A function of (seed, example id) alone:
batches, order, processes and devices change nothing.
Range: [0, 1). Direction: neither. Cost: none. Its reliability over seeds is zero.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from hf_datadiet.scorers.base import BatchScore

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's output function; unsigned arrays wrap around modulo 2^64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def chance(example_id: torch.Tensor, seed: int) -> torch.Tensor:
    """A uniform draw for each example: example_id int64 [B], seed >= 0 -> float32 [B] in [0, 1), on the device of the ids."""
    # Computed on the host: unsigned 64-bit arithmetic is the same there for every device.
    ids = example_id.cpu().numpy().astype(np.uint64)
    start = _mix(np.array([seed], dtype=np.uint64) + _GAMMA)
    bits = _mix(start + (ids + np.uint64(1)) * _GAMMA)
    draws = (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    return torch.from_numpy(draws).to(example_id.device)


SCORER = BatchScore(chance, higher_is="neither", low=0.0, high=1.0)
