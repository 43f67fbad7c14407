"""Real processes, killed while they work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import psutil

COMMAND = (sys.executable, "-m", "hf_datadiet")

DYING_AT_RENAME = """
import os, signal, sys
from pathlib import Path
from hf_datadiet import cli

left = int(sys.argv.pop(1))

def dying(original):
    def renaming(path, target):
        global left
        left -= "unfinished" in path.parts or "unfinished" in Path(target).parts
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(path, target)
    return renaming

Path.replace, Path.rename = dying(Path.replace), dying(Path.rename)
cli.main()
"""
"""Kills itself between write and rename, when so many files of unfinished trainings have got their names."""


def start(command: Sequence[str], cwd: Path) -> subprocess.Popen[str]:
    """The command in a process group of its own; what it says on stderr can be read."""
    return subprocess.Popen(
        command, cwd=cwd, env=dict(os.environ), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def kill(process: subprocess.Popen[str]) -> None:
    """It and all that it started."""
    os.killpg(process.pid, signal.SIGKILL)


def kill_one_of_two(process: subprocess.Popen[str]) -> None:
    """Rank 1 of those that a launcher has started, once it has."""
    ranks: list[psutil.Process] = []
    while not ranks:
        time.sleep(0.1)
        ranks = [child for child in psutil.Process(process.pid).children() if child.environ().get("RANK") == "1"]
    ranks[0].kill()


def killed(
    words: Sequence[str],
    cwd: Path,
    *,
    times: int,
    rng: np.random.Generator,
    position: Callable[[], object],
    behind: Sequence[str] = (),
    end: Callable[[subprocess.Popen[str]], None] = kill,
    code: int = -signal.SIGKILL,
) -> int:
    """Start the command with `words` and kill it, `times` times; in how many of them it had come further than it was (`position`).

    Every third time it dies between write and rename. Else, with what stands `behind` the words, it is ended (`end`) after a random
    number of finished epochs, from 0, and a random part of a second, so that it may die anywhere: at the start, in an epoch, while it
    saves or observes. `code`: that of the command when it has been ended so.
    """
    further = 0
    for life in range(times):
        before = position()
        if life % 3 == 2:
            process = start([sys.executable, "-c", DYING_AT_RENAME, str(rng.integers(1, 12)), *words], cwd)
            _, said = process.communicate(timeout=300)
            expected = -signal.SIGKILL
        else:
            process, epochs, lines = start([*COMMAND, *words, *behind], cwd), rng.integers(0, 4), []
            assert process.stderr is not None
            while len([line for line in lines if " epoch " in line and "loss" in line]) < epochs:
                line = process.stderr.readline()
                assert line, "it ended by itself:\n" + "".join(lines)
                lines.append(line)
            time.sleep(rng.uniform(0, 0.3))
            end(process)
            said = "".join(lines) + process.communicate(timeout=300)[1]
            expected = code
        assert process.returncode == expected, f"{process.returncode}: it ended by itself:\n{said}"
        further += position() != before
    return further
