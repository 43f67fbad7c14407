"""Whole commands in processes of their own. They are forked from one that has imported everything, which takes seconds."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
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


def started(
    hub: LoopbackHub, token: str, home: Path, *words: str, begin: Callable[[], object] | None = None, drawn: bool = False
) -> ForkServerProcess:
    """`hf-datadiet WORDS` of somebody who is logged in to the Hub; caches and all that it says (`said`) go to `home`.

    `begin` is called there before. `drawn`: whether pictures are drawn, as they are not in the process of the tests.
    """
    client = FORKING.Process(target=_run, args=(hub.url, token, home, words, begin, drawn))
    client.start()
    return client


def _run(url: str, token: str, home: Path, words: tuple[str, ...], begin: Callable[[], object] | None, drawn: bool) -> None:
    patch, hub = pytest.MonkeyPatch(), LoopbackHub()
    hub.url = url
    hub.connect(patch, home / "cache")
    hub.log_in(patch, token)
    if not drawn:
        named = lambda picture, report: {f"{picture['name']}.{form}": b"not drawn" for form in ("png", "svg", "pdf")}  # noqa: E731
        patch.setattr("hf_datadiet.pictures.gallery.files_of", named)
    home.mkdir(parents=True, exist_ok=True)
    sys.argv = ["hf-datadiet", *words]
    with (home / "said").open("wb") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    if begin is not None:
        begin()
    cli.main()


def die_at(folder: str, at: int, counted: Any = None) -> None:
    """From now on, of the calls of the system that change something in `folder`, the `at`-th kills this process before it is done.

    `at` 0: at none. `counted`: a shared value that takes how many there were.
    """
    sys.addaudithook(partial(_count, folder, at, counted, []))


def _count(folder: str, at: int, counted: Any, done: list[str], event: str, arguments: tuple[Any, ...]) -> None:
    writes = event in CHANGING or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    # Within a folder that is removed, names are relative.
    if (writes and any(str(argument).startswith(folder) for argument in arguments)) or event in ("os.remove", "os.rmdir"):
        done.append(event)
        if counted is not None:
            counted.value = len(done)
        if len(done) == at:
            os.kill(os.getpid(), signal.SIGKILL)
