"""Several small diagrams of one size in rows, and the legend that they share."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_datadiet.pictures.lettering import label
from hf_datadiet.pictures.style import WIDTH

GAP = 0.6
"""Inches between diagrams: a title and the numbers along an axis."""


def panels(figure: Figure, n: int, *, columns: int, height: float, gap: float = GAP, rows_apart: float = GAP) -> list[Axes]:
    """n diagrams, `height` inches high, row by row; `gap`: inches between columns, `rows_apart` between rows. The figure is made to fit."""
    columns, rows = min(n, columns), ceil(n / columns)
    width, whole = (WIDTH - (columns - 1) * gap) / columns, rows * height + (rows - 1) * rows_apart
    figure.set_size_inches(WIDTH, whole)
    return [
        figure.add_axes(
            (
                i % columns * (width + gap) / WIDTH,
                (whole - i // columns * (height + rows_apart) - height) / whole,
                width / WIDTH,
                height / whole,
            )
        )
        for i in range(n)
    ]


def legend_above(figure: Figure, handles: Sequence[Any], names: Sequence[str], *, columns: int, room: float = 0.3) -> None:
    """A legend over the diagrams, `room` inches above them."""
    place = (0.5, 1 + room / figure.get_size_inches()[1])
    made = figure.legend(handles, [" "] * len(names), loc="lower center", bbox_to_anchor=place, ncols=columns, borderaxespad=0)
    label(made, names)


def note_below(figure: Figure, text: str, *, room: float) -> None:
    """A line under the diagrams, `room` inches below them."""
    figure.text(0.5, -room / figure.get_size_inches()[1], text, ha="center", va="top", fontsize=9)
