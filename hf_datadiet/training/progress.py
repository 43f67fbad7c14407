"""How far long work has come, on stderr: one rewritten line on a terminal, one line per report elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hf_datadiet.training.processes import Processes


class Progress:
    """Counts work done of a known total and estimates the time left from the pace so far.

    The estimate is withheld until there is a pace to speak of.
    """

    def __init__(self, total: float, *, shown: bool = True, processes: Processes | None = None) -> None:
        self.total = total
        self.done = 0.0
        self.shown = shown
        self.start = time.monotonic()
        # Lines of several processes are not rewritten, for each would rewrite another's; they say whose they are.
        self.whose = f"process {processes.rank}  " if processes is not None and processes.world > 1 else ""
        self.live = sys.stderr.isatty() and not self.whose

    def advance(self, work: float, text: str) -> None:
        """Report `work` more units done; `text` says what."""
        self.done += work
        elapsed = time.monotonic() - self.start
        left = elapsed / self.done * (self.total - self.done) if self.done else None
        tail = f"{clock(elapsed)} gone" + (f", about {clock(left)} left" if left is not None and self.done < self.total else "")
        self._show(f"{text}  [{tail}]", end="\n" if self.done >= self.total else "")

    def skip(self, work: float, text: str) -> None:
        """`work` units were done by an earlier call; `text` says so."""
        self.total -= work
        self.note(text)

    def note(self, text: str) -> None:
        """A line of its own."""
        self._show(text, end="\n")

    def _show(self, line: str, end: str) -> None:
        if not self.shown:
            return
        # The terminal's line is cleared before it is written again.
        sys.stderr.write(f"\r\x1b[K{line}{end}" if self.live else f"{self.whose}{line}\n")
        sys.stderr.flush()


def clock(seconds: float) -> str:
    """12 s, 3:05 min or 2:10 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"
