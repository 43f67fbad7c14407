"""The processes of one launch: which one this is, what each has to do, and waiting for one another.

Results travel through the run folder; what the processes tell each other is when. Nothing is said while seeds are trained.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, parse_flag_from_env, reduce

from hf_datadiet.errors import RecipeError

T = TypeVar("T")

UNTRIED = {"DeepSpeed": "ACCELERATE_USE_DEEPSPEED", "Megatron-LM": "ACCELERATE_USE_MEGATRON_LM"}
"""What Accelerate can also start, and how it tells the processes."""

PATIENCE = timedelta(days=30)
"""How long a process that has finished waits for the others: a whole training may lie between them. A process that dies ends the wait."""


@dataclass(frozen=True)
class Processes:
    """`rank` of `world` processes; all of them see the same run folder."""

    rank: int
    world: int

    @property
    def main(self) -> bool:
        """Whether this is the process that writes what belongs to all, and that speaks."""
        return self.rank == 0

    def share(self, units: Sequence[T], cost: Callable[[T], float] = lambda unit: 1.0) -> list[T]:
        """This process's part of independent pieces of work, in their order. Every process must ask for the same ones."""
        return split(units, self.world, cost)[self.rank]

    def agreed(self, answers: Sequence[bool]) -> list[bool]:
        """What the main process answers: files may appear between two looks at the same folder."""
        if self.world == 1:
            return list(answers)
        return self.total(torch.tensor(answers if self.main else [False] * len(answers), dtype=torch.int32)).bool().tolist()

    def any(self, answers: Sequence[bool]) -> list[bool]:
        """For each of them whether any process says so."""
        return self.total(torch.tensor(answers, dtype=torch.int32)).bool().tolist()

    def wait(self) -> None:
        """Until every process has come here."""
        if self.world > 1:
            accelerator().wait_for_everyone()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process goes through the block alone, then all the others; each finds what it has left."""
        if not self.main:
            self.wait()
        yield
        if self.main:
            self.wait()

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all processes of a tensor that has the same shape in each, on this process's device."""
        if self.world == 1:
            return values
        return reduce(values.to(accelerator().device), "sum")  # pyright: ignore[reportReturnType]


def split(units: Sequence[T], n: int, cost: Callable[[T], float] = lambda unit: 1.0) -> list[list[T]]:
    """Share `units` out over n workers, the costliest first and each to whom has least so far; their order stays within each part."""
    parts: list[list[int]] = [[] for _ in range(n)]
    load = [0.0] * n
    for position in sorted(range(len(units)), key=lambda position: -cost(units[position])):
        worker = load.index(min(load))
        parts[worker].append(position)
        load[worker] += cost(units[position])
    return [[units[position] for position in sorted(part)] for part in parts]


def processes() -> Processes:
    """Those of this launch, as Accelerate sees them."""
    found = accelerator()
    return Processes(found.process_index, found.num_processes)


def sharding_asked() -> bool:
    """Whether this launch is to shard models (FSDP). Accelerate itself passes over that on CPUs."""
    return parse_flag_from_env("ACCELERATE_USE_FSDP")


def accelerator() -> Accelerator:
    """Accelerate's view of this process. `RecipeError` if the launcher started something else than was asked for, or untried."""
    for name, flag in UNTRIED.items():
        if parse_flag_from_env(flag):
            raise RecipeError(
                f"this launch is set up for {name}, with which no result was ever compared; start it with --num-processes n, torchrun, or "
                "accelerate launch --multi_gpu"
            )
    asked = int(os.environ.get("WORLD_SIZE", "1"))
    if asked > 1 and not torch.accelerator.is_available():
        # Without it every process of a launch on CPUs believes that it is alone.
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    found = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)])
    if found.num_processes != asked:
        raise RecipeError(
            f"{asked} processes were started and this one sees {found.num_processes}; start them with --num-processes {asked}, torchrun, "
            "or accelerate launch --multi_gpu"
        )
    return found
