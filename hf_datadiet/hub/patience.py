"""Asking the Hub again, with growing pauses, where it may answer another time."""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, TypeVar

from huggingface_hub import get_session, hf_raise_for_status

from hf_datadiet.errors import PublishError
from hf_datadiet.hub.faults import CAUGHT, fault_of, seconds_to_wait

T = TypeVar("T")

TRIES = 8
"""Of one request, or of one commit with the uploads before it."""

PATIENCE = 900.0
"""Seconds of pauses in a whole push; a rate limit of the Hub counts for 300."""

LONGEST = 60.0
"""Seconds of one pause, unless the Hub asks for more."""

SILENCE = 300.0
"""Seconds without a byte after which a connection counts as cut. The client itself would wait for ever."""


CONNECT = 30.0
"""Seconds to reach the Hub."""


class Patience:
    """Calls steps until they succeed, fail for good (`PublishError`) or took too long (`PublishError`). One for each push."""

    def __init__(self, repo: str, note: Callable[[str], None], tries: int = TRIES) -> None:
        self.repo, self.note, self.tries = repo, note, tries
        self.left = PATIENCE

    def __call__(self, step: Callable[[], T]) -> T:
        """The result of `step`, which must be the same when it is done twice."""
        for failed in count(1):
            _prepare_session()
            try:
                return step()
            except CAUGHT as error:
                self.after(error, failed)
        raise AssertionError

    def after(self, error: BaseException, failed: int) -> None:
        """Pause after the `failed`-th failure in a row, or raise `PublishError` if there is no point in another try."""
        fault = fault_of(error, self.repo)
        if fault is None:
            raise error
        if not fault.passes or self.tries == 1:
            raise PublishError(fault.said) from None
        pause = random.uniform(0.5, 1.0) * min(LONGEST, 2.0**failed)
        if fault.after is not None:
            pause = fault.after + random.uniform(0.0, 1.0)
        again = "what has been uploaded is not sent a second time"
        if failed >= self.tries:
            raise PublishError(f"{fault.said}, {failed} times in a row; push again later: {again}") from None
        if pause > self.left:
            raise PublishError(f"{fault.said}, and wants {pause:.0f} more seconds; push again later: {again}") from None
        self.left -= pause
        self.note(f"{fault.said}; try {failed + 1} of {self.tries} in {pause:.0f} s")
        time.sleep(pause)


@contextmanager
def patient(repo: str, note: Callable[[str], None], tries: int = TRIES) -> Iterator[Patience]:
    """A `Patience`, and a client that meanwhile hangs up on a silent Hub and tells of its own repetitions through `note`."""
    retold = _Retold(note)
    logger = logging.getLogger("huggingface_hub.utils._http")
    logger.addFilter(retold)
    before = get_session().timeout
    try:
        yield Patience(repo, note, tries)
    finally:
        session = get_session()
        session.timeout = before
        session.event_hooks["response"] = [hook for hook in session.event_hooks["response"] if hook is not _long_pauses_are_ours]
        logger.removeFilter(retold)


def _prepare_session() -> None:
    session = get_session()  # a new one after some errors
    if session.timeout.read is None:
        session.timeout = (CONNECT, SILENCE, SILENCE, None)
    if _long_pauses_are_ours not in session.event_hooks["response"]:
        session.event_hooks["response"].append(_long_pauses_are_ours)


def _long_pauses_are_ours(response: Any) -> None:
    """The client repeats some requests by itself, and would wait for hours if it were told to."""
    if response.status_code in (429, 503) and (seconds_to_wait(response.headers) or 0.0) > LONGEST:
        hf_raise_for_status(response)


class _Retold(logging.Filter):
    """The client repeats uploads by itself, and logs whole addresses, with signatures: one line without them instead."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self.note, self.why = note, ""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        reason, thrown, _ = text.partition(" thrown while requesting ")
        if thrown:
            self.why = reason
        elif "[Retry " in text:
            self.note(f"{self.why}: {text}")
        else:
            record.msg, record.args = re.sub(r"\?\S+", "?...", text), ()
            return True
        return False
