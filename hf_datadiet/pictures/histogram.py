"""One score, and of each selection that goes by it what it keeps and where it cuts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from hf_datadiet.pictures.lettering import PLAIN, drawable
from hf_datadiet.pictures.panels import legend_above, note_below, panels
from hf_datadiet.pictures.style import BLACK, BLUE, GREY, ORANGE
from hf_datadiet.records import Report

KEPT: dict[str, Any] = {"facecolor": BLUE, "edgecolor": BLUE, "linewidth": 0.6}
DROPPED: dict[str, Any] = {"facecolor": "#FFF3D6", "edgecolor": ORANGE, "hatch": "/////", "linewidth": 0.6}
ALL: dict[str, Any] = {"facecolor": GREY, "edgecolor": GREY, "linewidth": 0.6}
CUT: dict[str, Any] = {"color": BLACK, "linestyle": "--", "linewidth": 1.2}


def draw(figure: Figure, picture: Mapping[str, Any], report: Report) -> None:
    """A panel for each selection; one of all rows where no selection goes by the score."""
    shown = picture["selections"]
    several, columns = len(shown) > 1, 2 if len(shown) <= 4 else 3
    axes = panels(figure, max(1, len(shown)), columns=columns, height=1.4 if several else 2.4, gap=0.5 if columns == 3 else 0.7)
    for axis, selection in zip(axes, shown, strict=False):
        _panel(axis, picture, selection)
    if not shown:
        axes[0].stairs(picture["rows"], picture["edges"], fill=True, **ALL)
    for i, axis in enumerate(axes):
        _scale(axis, picture, several)
        if i % columns == 0:
            axis.set_ylabel("rows")
    note_below(figure, "\n".join(_said(picture)), room=0.3)
    if shown:
        handles = [Patch(**KEPT), Patch(**DROPPED), Line2D([], [], **CUT)]
        n = 3 if any(selection[end] is not None for selection in shown for end in ("from", "to")) else 2
        legend_above(figure, handles[:n], ["kept", "dropped", "cut"][:n], columns=3)


def _panel(axis: Axes, picture: Mapping[str, Any], selection: Mapping[str, Any]) -> None:
    kept, edges = np.array(selection["kept"]), picture["edges"]
    axis.stairs(picture["rows"], edges, baseline=kept, fill=True, **DROPPED)
    axis.stairs(kept, edges, fill=True, **KEPT)
    axis.set_title(f"{drawable(selection['selection'], 18)}: {selection['n_kept']} kept", **PLAIN)
    for end, side in (("from", "right"), ("to", "left")):
        # A cut beyond the axis has no place in it; that rows lie there is said below.
        if selection[end] is not None and picture["edges"][0] <= selection[end] <= picture["edges"][-1]:
            axis.axvline(selection[end], **CUT)
            _number(axis, picture, selection[end], side)


def _number(axis: Axes, picture: Mapping[str, Any], value: float, side: str) -> None:
    """The cut's value at the top of its line, outside what is kept unless the axis ends there."""
    ends = np.array([picture["edges"][0], value, picture["edges"][-1]])
    ends = np.log(np.maximum(ends, ends[0])) if picture["scale"] == "log" else ends
    at = (ends[1] - ends[0]) / (ends[2] - ends[0])
    turned = at < 0.2 if side == "right" else at > 0.8
    side = {"left": "right", "right": "left"}[side] if turned else side
    axis.annotate(
        f"{value:.3g}",
        (value, 1),
        (-4 if side == "right" else 4, -3),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha=side,
        va="top",
        fontsize=9,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
    )


def _scale(axis: Axes, picture: Mapping[str, Any], several: bool) -> None:
    if picture["scale"] == "log":
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(numticks=4 if several else 9))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    else:
        axis.xaxis.set_major_locator(MaxNLocator(4 if several else 8))
    axis.yaxis.set_major_locator(MaxNLocator(3 if several else 5, integer=True))
    axis.set_xlim(picture["edges"][0], picture["edges"][-1])
    axis.set_ylim(0, (1.25 if picture["selections"] else 1.05) * max(picture["rows"]))


def _said(picture: Mapping[str, Any]) -> Iterator[str]:
    high = "" if picture["higher_is"] == "neither" else f" (high is {picture['higher_is']})"
    yield f"{drawable(picture['column'], 40)}{high}{', logarithmic axis' if picture['scale'] == 'log' else ''}"
    if sum(picture["beyond"]):
        yield f"{sum(picture['beyond'])} rows beyond the axis are counted at its ends"
