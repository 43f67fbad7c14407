"""Whole commands in processes of their own, to be killed. They are forked from one that has imported everything, which takes seconds."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

import hf_datadiet.publish  # noqa: F401
from hf_datadiet import cli
from tests.hub.server import LoopbackHub

FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload([__name__])

CHANGING = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate", "shutil.copyfile", "shutil.rmtree"}


def started(hub: LoopbackHub, token: str, home: Path, *words: str, dies_at: int = 0, counted: Any = None) -> ForkServerProcess:
    """`hf-datadiet WORDS` of somebody who is logged in to the Hub; caches and all that it says go to `home`.

    The second word is the run folder. `dies_at`: at which of its calls of the system that change something there it kills itself, before
    that is carried out; 0: at none. `counted`: a shared value that takes how many there were.
    """
    client = FORKING.Process(target=_run, args=(hub.url, token, home, words, dies_at, counted))
    client.start()
    return client


def _run(url: str, token: str, home: Path, words: tuple[str, ...], dies_at: int, counted: Any) -> None:
    patch, hub = pytest.MonkeyPatch(), LoopbackHub()
    hub.url = url
    hub.connect(patch, home / "cache")
    hub.log_in(patch, token)
    # As in the process of the tests.
    named = lambda picture, report: {f"{picture['name']}.{form}": b"not drawn" for form in ("png", "svg", "pdf")}  # noqa: E731
    patch.setattr("hf_datadiet.pictures.gallery.files_of", named)
    home.mkdir(parents=True, exist_ok=True)
    sys.argv = ["hf-datadiet", *words]
    sys.stdout = sys.stderr = (home / "said").open("w")
    sys.addaudithook(_counting(words[1], dies_at, counted))
    cli.main()


def _counting(folder: str, dies_at: int, counted: Any) -> Callable[[str, tuple[Any, ...]], None]:
    done = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal done
        writes = event in CHANGING or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        # Within a folder that is removed, names are relative.
        if (writes and any(str(argument).startswith(folder) for argument in arguments)) or event in ("os.remove", "os.rmdir"):
            done += 1
            if counted is not None:
                counted.value = done
            if done == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)

    return count
