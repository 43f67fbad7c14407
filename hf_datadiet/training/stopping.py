"""Stopping when asked: the first SIGINT or SIGTERM is a request, which a training answers at the end of its step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_asked: int | None = None
"""The signal that asked. Signals are the process's, so their memory is as well."""


class Stopped(KeyboardInterrupt):
    """Work that a signal has ended; what it had is kept. `number` is the signal's."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.number = number


def requested() -> bool:
    """Whether a signal has asked this process to stop, within `stoppable`."""
    return _asked is not None


def number() -> int:
    """The signal that asked; SIGINT where another process was asked."""
    return signal.SIGINT if _asked is None else _asked


def stop_if_requested() -> None:
    """Raise `Stopped` if a signal has asked for it."""
    if _asked is not None:
        raise Stopped(_asked)


@contextmanager
def stoppable() -> Iterator[None]:
    """Within the block the first SIGINT or SIGTERM is a request; when the block has ended it takes the effect that it would have had.

    So a Python caller sees its KeyboardInterrupt, or its own handler is called, after the work has kept what it had. A second
    signal takes effect at once, and signals that are ignored stay so. Outside the main thread nothing is changed: Python handles
    signals nowhere else.
    """
    global _asked
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    found = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: handler for number, handler in found.items() if handler not in (signal.SIG_IGN, None)}

    def give_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, frame: FrameType | None) -> None:
        global _asked
        _asked = number
        give_back()

    for number in before:
        signal.signal(number, ask)
    try:
        yield
    finally:
        give_back()
        asked, _asked = _asked, None
        if asked is not None:
            signal.raise_signal(asked)
