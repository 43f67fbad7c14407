"""Every score against every other: where the rows of one ranking stand in the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from hf_datadiet.pictures.lettering import PLAIN, drawable
from hf_datadiet.pictures.panels import note_below, panels
from hf_datadiet.pictures.style import BLACK, WIDTH
from hf_datadiet.records import Report

COLUMNS = 3
MAP = "cividis_r"
"""Its lightness falls evenly, and it looks the same to eyes that see no red or green (Nunez, Anderton, Renslow, PLoS ONE 13, 2018)."""


def draw(figure: Figure, picture: Mapping[str, Any], report: Report) -> None:
    """A panel for each pair; axes of ranks, since values of skewed scores would all lie in a corner."""
    pairs = picture["pairs"]
    few = min(len(pairs), COLUMNS)
    gap, bar = 0.7, 1.6
    side = 1.65 if few > 1 else 2.6
    axes = panels(figure, len(pairs), columns=COLUMNS, height=side, gap=gap, rows_apart=0.85)
    high = figure.get_size_inches()[1]
    counts = [np.ma.masked_equal(np.array(pair["counts"]), 0) for pair in pairs]
    shade = LogNorm(1, max(10, *(int(table.max()) for table in counts)))
    for i, (axis, pair, table) in enumerate(zip(axes, pairs, counts, strict=True)):
        box = (i % few * (side + gap) / WIDTH, axis.get_position().y0, side / WIDTH, side / high)
        axis.set_position(box)
        axis.imshow(table.T, origin="lower", extent=(0, 100, 0, 100), norm=shade, cmap=MAP, aspect="auto")
        axis.plot([0, 100], [0, 100], color=BLACK, linewidth=0.6, linestyle=":")
        axis.set_title("Spearman -" if pair["spearman"] is None else f"Spearman {pair['spearman']:.2f}")
        axis.set_xlabel(drawable(pair["a"], 22), **PLAIN)
        axis.set_ylabel(drawable(pair["b"], 22), **PLAIN)
        axis.set_xticks([0, 50, 100])
        axis.set_yticks([0, 50, 100])
    right = few * side + (few - 1) * gap + 0.2
    tall = min(bar, high)
    beside = figure.add_axes((right / WIDTH, 1 - tall / high, 0.14 / WIDTH, tall / high))
    shown = figure.colorbar(ScalarMappable(shade, MAP), cax=beside, ticks=LogLocator(), format=FuncFormatter(lambda value, _: f"{value:g}"))
    shown.ax.minorticks_off()
    shown.set_label("rows")
    note_below(figure, "ranks in % of the rows, from the easiest (0) to the hardest (100); dotted: equal ranks", room=0.6)
