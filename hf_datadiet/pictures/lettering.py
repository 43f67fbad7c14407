"""Names from the data as a picture can show them: literally, on one line, not too long, in letters that the font has.

Every text that holds such a name is drawn with `**PLAIN`, so that no `$` in it starts a formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.legend import Legend

FONT = "DejaVu Sans"
"""Comes with matplotlib, so that a picture is the same everywhere."""

PLAIN: dict[str, Any] = {"parse_math": False}


def drawable(name: str, most: int) -> str:
    """The name in at most so many letters, its middle left out, with the code of every letter that the font lacks (backslash u4e2d)."""
    shown = "".join(letter if _has(letter) else _code(letter) for letter in " ".join(name.split()))
    if len(shown) <= most:
        return shown
    tail = (most - 1) // 2
    return f"{shown[: most - 1 - tail]}…{shown[len(shown) - tail :]}"


@cache
def _has(letter: str) -> bool:
    """Invisible letters are not drawn either: some of them turn the direction of the text around."""
    return letter.isprintable() and get_font(findfont(FontProperties(family=FONT))).get_char_index(ord(letter)) > 0


def _code(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


def label(legend: Legend, names: Sequence[str]) -> None:
    """Write the names into a legend that was made with as many blanks: it would leave out those that begin with "_"."""
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set(text=name, **PLAIN)
