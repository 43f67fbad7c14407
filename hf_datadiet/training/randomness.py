"""Independent random streams for one training, each named by what it is for.

Initial weights, data order, augmentation and dropout draw from streams of their own, so that changing one (a smaller
data set, no augmentation) leaves the others as they were. Trainings with different purposes share nothing, even at
the same seed: two arms of an evaluation are independent samples, as their intervals assume.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Streams:
    """Seeds for the global generators (`init`, `noise`: dropout and the like) and generators of our own."""

    init: int
    noise: int
    order: np.random.Generator
    augment: torch.Generator


def generator_for(purpose: str, seed: int) -> np.random.Generator:
    """A numpy generator for one purpose ("draw/random-700") and seed."""
    return np.random.default_rng(_root(purpose, seed))


def streams_for(purpose: str, seed: int) -> Streams:
    """The streams of one training ("score", "evaluate/full") with one seed."""
    init, noise, order, augment = _root(purpose, seed).spawn(4)
    return Streams(_number(init), _number(noise), np.random.default_rng(order), torch.Generator().manual_seed(_number(augment)))


def seed_generators(seed: int) -> None:
    """Seed the global generators of torch, numpy and Python: a model or a task from outside may draw from any of them.

    `seed` is below 2^63, as `Streams` has them; numpy's generator takes 32 bits at a time.
    """
    torch.manual_seed(seed)
    np.random.seed([seed >> 32, seed & 0xFFFFFFFF])  # noqa: NPY002, the global one is meant
    random.seed(seed)


@contextmanager
def untouched_generators(device: torch.device) -> Iterator[None]:
    """Give the global generators of torch, numpy and Python back as they were: a library must not reseed its user's program."""
    devices = [device] if device.type == "cuda" else []
    of_numpy, of_python = np.random.get_state(), random.getstate()  # noqa: NPY002, the global one is meant
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        np.random.set_state(of_numpy)  # noqa: NPY002
        random.setstate(of_python)


def _root(purpose: str, seed: int) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(purpose.encode())])


def _number(sequence: np.random.SeedSequence) -> int:
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)
