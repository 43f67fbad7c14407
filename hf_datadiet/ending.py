"""How a command ends: a user's mistake is one line and exit code 2, a signal 128 + its number; a traceback is our bug."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click

from hf_datadiet.errors import DataDietError
from hf_datadiet.escaping import visible
from hf_datadiet.training.stopping import Stopped

MISTAKE = 2

PRECEDENCE = 10.0
"""Seconds in which the main process may say what is wrong for all. When it has ended, the launcher ends the others."""

LOST = re.compile(r"gloo/transport|Connection (closed|reset) by peer|NCCL|ProcessGroup")
"""What torch says where a process waits for one that is no more."""

REMEDIES = {
    errno.ENOSPC: "free some space, then give the same command again: what is finished is kept",
    errno.EDQUOT: "free some space, then give the same command again: what is finished is kept",
    errno.EACCES: "get the right to it, or choose another place",
    errno.EPERM: "get the right to it, or choose another place",
    errno.EROFS: "choose another place",
    errno.ENOTDIR: "choose another place",
    errno.ENAMETOOLONG: "choose a shorter name",
}
"""Errors of the system that a user can mend, wherever they come from."""


@contextmanager
def ended() -> Iterator[None]:
    """Around the command: whatever the user can mend, or has asked for, ends the process here."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        yield
    except DataDietError as error:
        sys.exit(one_line(str(error)))
    except click.ClickException as error:
        sys.exit(one_line(error.format_message()))
    except (KeyboardInterrupt, click.Abort) as error:
        # Click passes on an interruption as the cause of its own error.
        number = getattr(error.__cause__ or error, "number", signal.SIGINT)
        sys.exit(one_line("interrupted; the same command goes on where it stopped", 128 + number))
    except RuntimeError as error:
        if os.environ.get("WORLD_SIZE", "1") == "1" or not LOST.search(str(error)):
            raise
        sys.exit(one_line("another process of this launch has ended; the same command goes on from what is finished", 1, last=True))
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        sys.exit(one_line(f"{_place(error)}{error.strerror}; {REMEDIES[error.errno]}"))


def one_line(message: str, code: int = MISTAKE, *, last: bool = False) -> int:
    """Say on stderr why the command ends; its exit code. `last`: others have better reasons, and say them first."""
    # Under a launcher every process makes the same mistake: the first one says it. One that makes its own is not ended, and says it.
    if last or (not first() and code == MISTAKE):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(PRECEDENCE)
    if first() or last or code == MISTAKE:
        sys.stderr.write(f"hf-datadiet: {visible(message)}\n")
    return code


def first() -> bool:
    """Whether this is the only process, or the one that speaks for all that a launcher has started."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


def _terminated(number: int, frame: FrameType | None) -> None:
    """As Ctrl-C does: what is half written goes."""
    raise Stopped(number)


def _place(error: OSError) -> str:
    """Where it happened, without names that exist only while something is being written."""
    if not isinstance(error.filename, str):
        return ""
    path = Path(error.filename)
    return f"{next((folder for folder in [path, *path.parents] if '.tmp' not in [part[-4:] for part in folder.parts]), path)}: "
