"""The processes of one launch: which one this is, what each has to do, and waiting for one another.

Results travel through the run folder; what the processes tell each other is when. Nothing is said while seeds are trained.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, get_int_from_env, parse_flag_from_env, reduce

from hf_datadiet.errors import RecipeError

T = TypeVar("T")

UNTRIED = {"DeepSpeed": "ACCELERATE_USE_DEEPSPEED", "Megatron-LM": "ACCELERATE_USE_MEGATRON_LM"}
"""What Accelerate can also start, and how it tells the processes."""

PATIENCE = timedelta(days=30)
"""How long a process that has finished waits for the others: a whole training may lie between them. A process that dies ends the wait."""

SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""How launchers tell a process the number of all: torchrun and Accelerate by the first, mpirun by one of the others."""


@dataclass(frozen=True)
class Processes:
    """`rank` of `world` processes, which all see the same run folder; together they do part `part` of `parts`, counted from 1.

    The other parts are left to other launches.
    """

    rank: int
    world: int
    part: int = 1
    parts: int = 1

    @property
    def main(self) -> bool:
        """Whether this is the process that writes what belongs to all, and that speaks."""
        return self.rank == 0

    def taken(self, units: Sequence[T], cost: Callable[[T], float] = lambda unit: 1.0) -> list[T]:
        """What falls to this launch of independent pieces of work, in their order. Every launch must ask for the same ones."""
        return split(units, self.parts, cost)[self.part - 1]

    def share(self, units: Sequence[T], cost: Callable[[T], float] = lambda unit: 1.0) -> list[T]:
        """What falls to this process of what the launch has to do, in its order. Every process must ask for the same pieces."""
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


def processes(part: int = 1, parts: int = 1) -> Processes:
    """Those of this launch, as Accelerate sees them; the launch takes `part` of `parts`."""
    found = accelerator()
    return Processes(found.process_index, found.num_processes, part, parts)


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
    asked = asked_for()
    if asked == 1 and _left_alone():
        raise RecipeError(
            "accelerate launch was asked for several processes and has started one, as it does on CPUs; start them with --num-processes N "
            "behind hf-datadiet, or accelerate launch --multi_gpu --num_processes N, which works on CPUs too"
        )
    check_room(get_int_from_env(["LOCAL_RANK"], 0) + 1)
    if asked > 1 and n_devices() == 0:
        # Without it every process of a launch on CPUs believes that it is alone.
        os.environ["ACCELERATE_USE_CPU"] = "true"
    found = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)])
    if found.num_processes != asked:
        raise RecipeError(
            f"{asked} processes were started and this one sees {found.num_processes}; start them with --num-processes {asked}, torchrun, "
            "or accelerate launch --multi_gpu"
        )
    return found


def asked_for() -> int:
    """The number of processes that a launcher says it has started; 1 without a launcher."""
    return get_int_from_env(SIZES, 1)


def n_devices() -> int:
    """GPUs (or what else there is to train on) of this machine; 0 if it trains on its CPU. Touches none of them."""
    return 0 if parse_flag_from_env("ACCELERATE_USE_CPU") else torch.accelerator.device_count()


def check_room(n: int) -> None:
    """`RecipeError` if n processes of this machine would have to share GPUs. A CPU has room for any number."""
    found = n_devices()
    if 0 < found < n:
        raise RecipeError(
            f"{n} processes need {n} GPUs, and this machine shows {found}; start {found}, or train on the CPU: ACCELERATE_USE_CPU=true"
        )


def _left_alone() -> bool:
    """Whether `accelerate launch` was to start several processes, and this is the only one.

    Its simple launcher starts one whatever it was asked for, and tells that one where the others are if there should be any.
    """
    if "ACCELERATE_DYNAMO_MODE" not in os.environ or any(size in os.environ for size in SIZES):
        return False
    before = _environment_of_launcher()
    return any(name in os.environ and os.environ[name] != before.get(name) for name in ("MASTER_ADDR", "MASTER_PORT"))


def _environment_of_launcher() -> Mapping[str, str]:
    """What the launcher itself was given, in which the user may have an address of his own; empty if that cannot be known."""
    try:
        return next(
            (given for process in psutil.Process().parents() if "ACCELERATE_DYNAMO_MODE" not in (given := process.environ())),
            dict[str, str](),
        )
    except psutil.Error:
        return {}
