"""A picture of a report -> the bytes of its files. Equal reports give equal bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from threading import Lock
from typing import Any

import matplotlib.style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hf_datadiet.pictures import accuracy, agreement, classes, histogram, reliability
from hf_datadiet.pictures.style import SETTINGS
from hf_datadiet.records import Report

Draw = Callable[[Figure, Mapping[str, Any], Report], None]

DRAWN_BY: Mapping[str, Draw] = {
    "histogram": histogram.draw,
    "agreement": agreement.draw,
    "reliability": reliability.draw,
    "accuracy": accuracy.draw,
    "classes": classes.draw,
}
"""Kind -> who draws it."""

UNDATED: Mapping[str, Mapping[str, None]] = {
    "png": {"Software": None},
    "svg": {"Creator": None, "Date": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
}
"""Format -> what is left out of it: times and versions, which differ where the picture does not."""

MARGIN = 0.08
"""Inches of white around everything that is drawn."""

_one_at_a_time = Lock()
"""matplotlib's settings belong to the whole process; while a picture is drawn they are those of `SETTINGS`."""


def files_of(picture: Mapping[str, Any], report: Report) -> dict[str, bytes]:
    """{"histogram-el2n.png": its bytes, ...}: one entry of `report.pictures`, drawn in every format."""
    with _one_at_a_time, matplotlib.style.context(["default", SETTINGS]):
        figure = Figure()
        canvas = FigureCanvasAgg(figure)
        DRAWN_BY[picture["kind"]](figure, picture, report)
        figure.draw_without_rendering()
        # Once for all formats: as much canvas as what is drawn needs, whatever the names in it.
        whole = figure.get_tightbbox(canvas.get_renderer()).padded(MARGIN)
        return {f"{picture['name']}.{form}": _printed(canvas, form, whole) for form in UNDATED}


def _printed(canvas: FigureCanvasAgg, form: str, whole: Any) -> bytes:
    file = BytesIO()
    canvas.print_figure(file, format=form, metadata=UNDATED[form], bbox_inches=whole)
    return file.getvalue()
