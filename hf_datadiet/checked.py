"""One look at a publication, and what it found."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

State: TypeAlias = Literal["holds", "differs", "not verifiable"]

TOLERANCE = 1e-6
"""Relative: other versions of numerical libraries round the last digits otherwise."""

SHOWN = 5
"""Lines of one kind that are named; the others are counted."""


class Unknown(str):
    """A line that says why something cannot be known, among lines that say what differs."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `details`: what differs, or why it cannot be known; at most `SHOWN` lines."""

    what: str
    state: State
    details: tuple[str, ...] = ()


def check(what: str, found: Iterable[str]) -> Check:
    """It differs if any line says so; it is not verifiable if all there are say why (`Unknown`)."""
    lines = list(found)
    wrong = [line for line in lines if not isinstance(line, Unknown)]
    named = wrong or [str(line) for line in lines]
    more = [f"and {len(named) - SHOWN} more"] if len(named) > SHOWN else []
    return Check(what, "differs" if wrong else "not verifiable" if lines else "holds", (*named[:SHOWN], *more))


def short(value: Any) -> str:
    """A value in at most 80 characters."""
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
