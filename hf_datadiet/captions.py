"""The pictures of a report as Markdown: the image, what it shows for those who do not see it, and a line to read it by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from hf_datadiet.cells import short
from hf_datadiet.escaping import literal
from hf_datadiet.records import Report

Picture = Mapping[str, Any]
"""An entry of `report.pictures`."""


def pictures_of(report: Report, kind: str, evaluation: str | None = None) -> str:
    """All pictures of a kind that were drawn, with their captions; "" if there is none. `evaluation`: only of that one."""
    found = [each for each in report.pictures if each["kind"] == kind and each.get("files") and each.get("evaluation") == evaluation]
    return "\n\n".join(map(_picture, found))


def _picture(picture: Picture) -> str:
    shows, reading = WORDS["spread" if picture["kind"] == "histogram" and not picture["selections"] else picture["kind"]]
    image, *others = picture["files"]
    forms = " and ".join(f"[{PurePosixPath(name).suffix[1:].upper()}]({quote(name)})" for name in others)
    also = f" Also as {forms}." if forms else ""
    more = f" {picture['n_more']} more selections are not shown." if picture.get("n_more") else ""
    return f"![{literal(shows(picture))}]({quote(image)})\n\n{reading}{more}{also}"


def _histogram(picture: Picture) -> str:
    kept = [f"{each['selection']} keeps {_range(each)}" for each in picture["selections"]]
    axis = "on a logarithmic axis" if picture["scale"] == "log" else "over all scored rows"
    return "; ".join([f"Histogram of {picture['column']} {axis}", *kept])


def _range(selection: Mapping[str, Any]) -> str:
    low, high = selection["from"], selection["to"]
    if low is None:
        return "rows without a single cut" if high is None else f"the rows up to {short(high)}"
    return f"the rows from {short(low)} {'up' if high is None else f'to {short(high)}'}"


def _agreement(picture: Picture) -> str:
    names = dict.fromkeys(name for pair in picture["pairs"] for name in (pair["a"], pair["b"]))
    return f"Rank against rank for every pair of {_listed(names)}"


def _reliability(picture: Picture) -> str:
    return f"Reliability against the number of seeds of {_listed(score['column'] for score in picture['scores'])}"


def _accuracy(picture: Picture) -> str:
    curves = _listed(["the full data", *(curve["curve"] for curve in picture["curves"])])
    return f"Accuracy with intervals against the rows trained on, in evaluation {picture['evaluation']}: {curves}"


def _classes(picture: Picture) -> str:
    return f"Share kept of each class, sorted, beside the share kept of all rows: {_listed(picture['selections'])}"


def _listed(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


WORDS: Mapping[str, tuple[Callable[[Picture], str], str]] = {
    "histogram": (_histogram, "Solid: kept, hatched: dropped, dashed: the cut, where the score alone decides."),
    "spread": (_histogram, "All scored rows."),
    "agreement": (_agreement, "Ranks from easy to hard: the nearer to the dotted line the rows lie, the more do two scores say the same."),
    "reliability": (
        _reliability,
        "Filled: measured between sets of seeds that share none. Open: extended by Spearman-Brown, as is the reliability in the table.",
    ),
    "accuracy": (
        _accuracy,
        "Points at one number of rows are drawn side by side. The verdicts go by the differences below, and not by these intervals.",
    ),
    "classes": (_classes, "Each class by the share that is kept of it, dashed: of all rows. Of many classes the two ends are shown."),
}
"""Kind -> what is to be seen, and how to read it; "spread": a histogram without a selection."""
