"""What each selection keeps of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hf_datadiet.pictures.lettering import PLAIN, drawable
from hf_datadiet.pictures.panels import legend_above, note_below, panels
from hf_datadiet.pictures.style import BLACK, BLUE, VERMILION
from hf_datadiet.records import Report

MORE: dict[str, Any] = {"color": BLUE, "marker": ">", "linestyle": ""}
LESS: dict[str, Any] = {"color": VERMILION, "marker": "<", "linestyle": ""}
OVERALL: dict[str, Any] = {"color": BLACK, "linestyle": "--", "linewidth": 1.2}

LINE = 0.18
"""Inches for a class."""

LETTER = 0.075
"""Inches that a letter of a class's name takes, about."""


def draw(figure: Figure, picture: Mapping[str, Any], report: Report) -> None:
    """A panel for each selection, its classes sorted by the share kept; of many classes the two ends."""
    selections = [next(entry for entry in report.selections if entry["name"] == name) for name in picture["selections"]]
    most = 24 if len(selections) <= 2 else 16 if len(selections) <= 4 else 10
    lines = [_lines(entry["per_class"], most) for entry in selections]
    gap = 0.35 + LETTER * max(len(name) for shown in lines for name, _ in shown)
    axes = panels(figure, len(selections), columns=2, height=LINE * (len(lines[0]) + 0.5), gap=gap)
    for axis, entry, shown in zip(axes, selections, lines, strict=True):
        _panel(axis, entry, shown)
    note_below(figure, "rows kept, % of the class", room=0.3)
    handles = [Line2D([], [], **MORE), Line2D([], [], **LESS), Line2D([], [], **OVERALL)]
    legend_above(figure, handles, ["overall or more", "less", "overall"], columns=3)


def _lines(per_class: Sequence[Mapping[str, Any]], most: int) -> list[tuple[str, float | None]]:
    """Names and percents kept, the least first; of more than `most` classes the ends, and between them a line without a percent."""
    ranked = sorted(per_class, key=lambda entry: entry["rate"])
    shown = [(drawable(entry["class"], 20), 100 * entry["rate"]) for entry in ranked]
    if len(shown) <= most:
        return shown
    half = most // 2
    return [*shown[:half], (f"({len(shown) - 2 * half} more)", None), *shown[-half:]]


def _panel(axis: Axes, entry: Mapping[str, Any], lines: Sequence[tuple[str, float | None]]) -> None:
    overall = 100 * entry["share"]
    axis.axvline(overall, **OVERALL)
    for place, (_, rate) in enumerate(lines):
        if rate is not None:
            how = MORE if rate >= overall else LESS
            axis.plot([overall, rate], [place, place], color=how["color"], linewidth=1)
            axis.plot([rate], [place], **how)
    axis.set_yticks(range(len(lines)), labels=[name for name, _ in lines], **PLAIN)
    axis.tick_params(axis="y", length=0)
    axis.set_xlim(-2, 102)
    axis.set_ylim(-0.75, len(lines) - 0.25)
    axis.set_title(drawable(entry["name"], 28), **PLAIN)
