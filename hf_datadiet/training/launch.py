"""Start the processes of a launch on this machine by Accelerate's own launcher, and end as they end."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate.commands.launch import launch_command, launch_command_parser
from accelerate.utils import patch_environment
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from hf_datadiet.errors import RecipeError
from hf_datadiet.training.processes import asked_for, check_room

MISTAKE = 2
"""Exit code of a process that has named a fault of the user's."""


@dataclass(frozen=True)
class End:
    """How a launch ended: the exit code for the command, and what is to be said about it, unless a process has said it."""

    code: int
    reason: str | None = None


def to_start(n: int | None) -> bool:
    """Whether `--num-processes n` is still to be obeyed: not for one process, and not in one that was started for it.

    `RecipeError` if another launcher has started another number, or if the GPUs do not suffice.
    """
    # SLURM tells a lone task that it is one of one.
    started = asked_for() if asked_for() > 1 or "WORLD_SIZE" in os.environ else None
    if n is not None and started not in (None, n):
        raise RecipeError(f"--num-processes {n}, but the launcher that started this process has started {started}; leave it out")
    if n is None or n == 1 or started is not None:
        return False
    check_room(n)
    return True


def launch(n: int, words: Sequence[str], configuration: Path, threads: int | None = None) -> End:
    """`python -m hf_datadiet WORDS` in n processes of this machine, after the Accelerate `configuration` that is given.

    `threads`: of each process on the CPU; as many as they can have without crowding each other if None. Signals are passed on;
    when one process dies the others are asked to stop, and ended after half a minute.
    """
    given = [
        f"--config_file={configuration}",
        f"--num_processes={n}",
        f"--num_cpu_threads_per_process={threads or threads_for(n)}",
        f"--log_dir={os.devnull}",
    ]
    # Started as modules they would look for modules in this folder first, where the command itself may not.
    alike = {} if {"", str(Path.cwd())} & set(sys.path) else {"PYTHONSAFEPATH": "1"}
    with _silence(), patch_environment(**alike):
        try:
            launch_command(launch_command_parser().parse_args([*given, "--module", "hf_datadiet", *words]))
        except ChildFailedError as error:
            return _end_of(n, *error.get_first_failure())
        except SignalException as stop:
            return End(128 + stop.sigval)
    return End(0)


def threads_for(n: int) -> int:
    """What each of n processes gets of the threads that one would use: OMP_NUM_THREADS if that is set."""
    return torch.get_num_threads() if "OMP_NUM_THREADS" in os.environ else max(1, torch.get_num_threads() // n)


def _end_of(n: int, rank: int, failure: ProcessFailure) -> End:
    if failure.exitcode == MISTAKE:
        return End(MISTAKE)
    how = f"exit code {failure.exitcode}" if failure.exitcode > 0 else failure.signal_name()
    if how == "SIGKILL":
        how += ", as the system does when memory runs out"
    return End(1, f"process {rank} of {n} has ended ({how}) and the others were stopped; the same command goes on from what is finished")


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """The launcher's own lines on stderr belong to nobody: what matters is said by the processes, or as a reason."""
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
