"""What an evaluation found: accuracy against the rows trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from hf_datadiet.pictures.lettering import drawable
from hf_datadiet.pictures.panels import legend_above, note_below, panels
from hf_datadiet.pictures.style import BLACK, PALE, mark
from hf_datadiet.records import Report

APART = 0.012
"""Curves are drawn side by side, so much of the full data apart: most of them have their points at the same numbers of rows."""

REACH = 1.5
"""Intervals are shown as far as this multiple of the spread of all means (of one point at least) beyond them: those of two seeds would
press everything else into a line."""


def draw(figure: Figure, picture: Mapping[str, Any], report: Report) -> None:
    """A curve for each strategy and each kind of draw, the full data as a band."""
    evaluation = next(entry for entry in report.evaluations if entry["name"] == picture["evaluation"])
    arms = {arm["arm"]: arm for arm in evaluation["arms"]}
    (axis,) = panels(figure, 1, columns=1, height=3.2)
    full, n_curves = arms["full"], len(picture["curves"])
    handles: list[Any] = [(Patch(facecolor=PALE), Line2D([], [], color=BLACK))]
    axis.axhline(full["accuracy"], color=BLACK, linewidth=1.2)
    if full["low"] is not None:
        axis.axhspan(full["low"], full["high"], color=PALE, linewidth=0, zorder=0)
    several = len({arm["n"] for arm in arms.values()}) > 1
    for i, curve in enumerate(picture["curves"]):
        shift = (i - (n_curves - 1) / 2) * APART * full["n_rows"]
        handles.append(_curve(axis, sorted((arms[name] for name in curve["arms"]), key=lambda arm: arm["n_rows"]), i, shift, several))
    cut = _limit(axis, list(arms.values()))
    axis.set_xlim(0, 1.03 * full["n_rows"])
    axis.set_xlabel("rows trained on")
    axis.set_ylabel("accuracy, %")
    axis.grid(True, axis="y", linewidth=0.5)
    parts = [] if several else [f"means of n = {full['n']} trainings" if full["n"] > 1 else "one training each (n = 1)"]
    if any(arm["low"] is not None for arm in arms.values()):
        parts.append(f"bars and band: {evaluation['confidence']:.3g} % intervals{', cut off where they are wide' if cut else ''}")
    note_below(figure, "; ".join(parts), room=0.5)
    names = [f"full: {full['n_rows']} rows", *(drawable(curve["curve"], 44) for curve in picture["curves"])]
    legend_above(figure, handles, names, columns=2 if max(map(len, names)) <= 32 else 1, room=0.1)


def _curve(axis: Axes, arms: Sequence[Mapping[str, Any]], i: int, shift: float, counted: bool) -> Line2D:
    """`counted`: write at each point how many trainings it is the mean of."""
    how = mark(i)
    for arm in arms:
        at = arm["n_rows"] + shift
        if arm["low"] is not None:
            ends = [[arm["accuracy"] - arm["low"]], [arm["high"] - arm["accuracy"]]]
            axis.errorbar([at], [arm["accuracy"]], yerr=ends, fmt="none", ecolor=how.colour, elinewidth=1.2, capsize=3)
        if counted:
            axis.annotate(f"n={arm['n']}", (at, arm["accuracy"]), (5, 3), textcoords="offset points", fontsize=8, annotation_clip=True)
    places = [arm["n_rows"] + shift for arm in arms]
    return axis.plot(places, [arm["accuracy"] for arm in arms], color=how.colour, marker=how.marker, linestyle=how.line)[0]


def _limit(axis: Axes, arms: Sequence[Mapping[str, Any]]) -> bool:
    """Set the accuracies that are shown; whether any interval goes on beyond them."""
    means = [arm["accuracy"] for arm in arms]
    ends = [*means, *(arm[end] for arm in arms for end in ("low", "high") if arm[end] is not None)]
    room = REACH * max(max(means) - min(means), 1)
    low, high = max(min(ends), min(means) - room), min(max(ends), max(means) + room, 100)
    pad = 0.05 * max(high - low, 0.5)
    axis.set_ylim(low - pad, high + pad)
    return min(ends) < low - pad or max(ends) > high + pad
