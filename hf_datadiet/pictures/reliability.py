"""How well a ranking would come out again, against the number of seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from hf_datadiet.pictures.lettering import drawable
from hf_datadiet.pictures.panels import legend_above, panels
from hf_datadiet.pictures.style import BLACK, GREY, mark
from hf_datadiet.records import Report


def draw(figure: Figure, picture: Mapping[str, Any], report: Report) -> None:
    """Filled marks were measured between disjoint sets of so many seeds; open ones are Spearman-Brown's."""
    (axis,) = panels(figure, 1, columns=1, height=2.8)
    handles: list[Line2D] = []
    for i, score in enumerate(picture["scores"]):
        how = mark(i)
        about: dict[str, Any] = {"color": how.colour, "marker": how.marker, "linestyle": how.line}
        for part, face in (("extended", "white"), ("measured", how.colour)):
            points = score[part]
            axis.plot([at["seeds"] for at in points], [at["value"] for at in points], **about, markerfacecolor=face)
        handles.append(Line2D([], [], **about))
    n_seeds, low = picture["n_seeds"], picture["low"]
    axis.axvline(n_seeds, color=GREY, linestyle=":", linewidth=1)
    axis.annotate(
        f"this run: {n_seeds}", (n_seeds, 0.02), (4, 0), xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=9
    )
    axis.axhline(low, color=GREY, linestyle=":", linewidth=1)
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right", "va": "top"}
    axis.annotate(f"below {low:g}: a warning", (1, low), (0, -3), **place, fontsize=9)
    least = min(at["value"] for score in picture["scores"] for part in ("measured", "extended") for at in score[part])
    axis.set_ylim(min(0, least) - 0.03, 1.03)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("seeds that the score is a mean of")
    axis.set_ylabel("reliability (Spearman)")
    axis.grid(True, linewidth=0.5)
    point: dict[str, Any] = {"color": BLACK, "marker": "o", "linestyle": ""}
    handles += [Line2D([], [], **point), Line2D([], [], **point, markerfacecolor="white")]
    names = [drawable(score["column"], 24) for score in picture["scores"]]
    legend_above(figure, handles, [*names, "measured", "extended (Spearman-Brown)"], columns=3, room=0.1)
