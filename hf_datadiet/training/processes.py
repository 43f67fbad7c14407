"""The processes of one launch: which one this is, what each has to do, and waiting for one another.

Results travel through the run folder; what the processes tell each other is when. Nothing is said while seeds are trained.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
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

    def share(self, units: Sequence[T]) -> list[T]:
        """This process's part of independent pieces of work: every `world`-th of them."""
        return list(units[self.rank :: self.world])

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
        """The sum over all processes of a tensor that has the same shape in each."""
        return reduce(values, "sum") if self.world > 1 else values  # pyright: ignore[reportReturnType]


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
