"""How every picture looks: sizes, type, and marks that are told apart without their colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hf_datadiet.pictures.lettering import FONT

WIDTH = 6.4
"""Inches. A page of GitHub is about twice as wide as a picture shown at half of it: type of 9 points is then still 9 pixels high."""

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000"
"""Okabe and Ito's colours (Color Universal Design, 2008) without their yellow, which is too pale for lines on white."""

GREY, PALE = "#555555", "#DDDDDD"

_COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*", ">", "h")
_LINES = ("-", "--", "-.", ":")

SETTINGS: dict[str, Any] = {
    "font.family": [FONT],
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-6, 7),
    "grid.color": PALE,
    "hatch.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 6,
    "savefig.dpi": 150,
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "hf_datadiet",
}
"""On top of matplotlib's own defaults, whatever a user's matplotlibrc says. TrueType in PDF, since publishers refuse Type 3; outlines in
SVG, since a browser need not have the font. The salt makes the ids in an SVG the same every time."""


@dataclass(frozen=True)
class Mark:
    """How the i-th of several curves is drawn. Of 44 no two share marker and line; colours come again after 7."""

    colour: str
    marker: str
    line: str


def mark(i: int) -> Mark:
    """The i-th, from 0."""
    n = len(_MARKERS)
    return Mark(_COLOURS[i % len(_COLOURS)], _MARKERS[i % n], _LINES[(i % n + i // n) % len(_LINES)])
