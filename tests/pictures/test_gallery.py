from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image

from hf_datadiet.pictures import style
from hf_datadiet.pictures.gallery import DRAWN_BY, files_of
from hf_datadiet.pictures.histogram import DROPPED, KEPT
from hf_datadiet.pictures.lettering import drawable
from hf_datadiet.pictures.style import SETTINGS, mark
from hf_datadiet.records import Report
from tests.pictures.albums import ALBUMS, HOSTILE, album, table_of

REPORTS: dict[str, Report] = {}


def report(name: str) -> Report:
    """Made once, and read back from JSON as another program would."""
    if name not in REPORTS:
        REPORTS[name] = Report(**json.loads(json.dumps(asdict(ALBUMS[name]()), allow_nan=False)))
    return REPORTS[name]


def of_kind(made: Report, kind: str) -> Any:
    return next(entry for entry in made.pictures if entry["kind"] == kind)


def drawn(made: Report, picture: Any) -> Figure:
    """Drawn on a figure that can be looked into."""
    with matplotlib.style.context(["default", SETTINGS]):
        figure = Figure()
        FigureCanvasAgg(figure)
        DRAWN_BY[picture["kind"]](figure, picture, made)
        figure.draw_without_rendering()
    return figure


# Files


def test_every_kind_is_drawn_in_every_format() -> None:
    made = report("plain")
    assert [entry["kind"] for entry in made.pictures] == ["histogram", "agreement", "reliability", "classes", "accuracy"]
    for picture in made.pictures:
        files = files_of(picture, made)
        assert list(files) == [f"{picture['name']}.{form}" for form in ("png", "svg", "pdf")]
        png, svg, pdf = files.values()
        image = Image.open(io.BytesIO(png))
        assert image.format == "PNG" and 700 < image.width < 1500 and 200 < image.height < 1200 and len(png) < 150_000
        assert np.asarray(image.convert("L")).std() > 5, "something is on it"
        assert ET.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg" and len(svg) < 600_000
        assert pdf.startswith(b"%PDF-") and pdf.rstrip().endswith(b"%%EOF") and len(pdf) < 100_000


DIGESTS = """
import hashlib, sys, warnings
warnings.simplefilter("error")
from hf_datadiet.pictures.gallery import files_of
from tests.pictures.albums import album, table_of
made = album(table_of())
print([hashlib.sha256(content).hexdigest() for picture in made.pictures for content in files_of(picture, made).values()])
assert "matplotlib.pyplot" not in sys.modules
"""


def test_equal_reports_give_equal_bytes_in_every_process(tmp_path: Path) -> None:
    """Whatever the hash seed, the time zone and the user's own settings; without a display, and where matplotlib can keep nothing."""
    settings = tmp_path / "matplotlibrc"
    settings.write_text("text.usetex: True\nfont.family: serif\nfont.size: 30\nfigure.facecolor: black\nbackend: TkAgg\n")
    path = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(Path(__file__).parents[2])])
    where = {**os.environ, "PYTHONPATH": path, "MATPLOTLIBRC": str(settings), "MPLCONFIGDIR": "/dev/null/none"}
    odd = {"HOME": "/dev/null", "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "SOURCE_DATE_EPOCH": "86400", "DISPLAY": ""}
    ended = subprocess.run([sys.executable, "-c", DIGESTS], cwd=tmp_path, env=where | odd, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    made = report("plain")
    here = [hashlib.sha256(content).hexdigest() for picture in made.pictures for content in files_of(picture, made).values()]
    assert ended.stdout == f"{here}\n" and len(here) == 3 * 5


def settings_now() -> dict[str, Any]:
    """Asking for the backend would choose one, and import pyplot."""
    return {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != "backend"}


def test_drawing_leaves_no_settings_behind_and_works_in_threads() -> None:
    before, made = settings_now(), report("plain")
    two = [of_kind(made, kind) for kind in ("classes", "histogram")]
    alone = [files_of(picture, made) for picture in two]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda picture: files_of(picture, made), two)) == alone
    assert settings_now() == before


# What is hard to draw: a warning is an error here


@pytest.mark.parametrize("name", ALBUMS)
def test_nothing_is_too_hard_to_draw_and_letters_lie_over_no_other_panel(name: str) -> None:
    made = report(name)
    assert made.pictures
    for picture in made.pictures:
        figure = drawn(made, picture)
        assert min(text.get_fontsize() for text in texts_of(figure)) >= 8
        inside = {axis: axis.get_window_extent() for axis in figure.axes}
        for axis in figure.axes:
            for text in [text for text in texts_of(axis) if text not in axis.texts]:
                box = text.get_window_extent()
                over = [other for other in figure.axes if other is not axis and overlap(box, inside[other])]
                assert not over, f"{picture['name']}: {text.get_text()!r} lies over another panel"


def test_hostile_names_are_printed_too() -> None:
    made = report("hostile names")
    assert len(files_of(of_kind(made, "classes"), made)) == 3


def texts_of(part: Figure | Axes) -> list[Text]:
    return [text for text in part.findobj(Text) if isinstance(text, Text) and text.get_visible() and text.get_text().strip()]


def overlap(one: Bbox, other: Bbox) -> bool:
    common = Bbox.intersection(one, other)
    return common is not None and common.width > 1 and common.height > 1


def test_names_are_drawn_literally_and_told_apart() -> None:
    made = report("hostile names")
    figure = drawn(made, of_kind(made, "classes"))
    shown = {text.get_text(): text.get_parse_math() for axis in figure.axes for text in axis.get_yticklabels()}
    assert set(shown) == {drawable(name, 20) for name in HOSTILE} and len(shown) == len(HOSTILE) and not any(shown.values())
    assert {"a_b$c^d", "_hidden", "naïve \\u4e…ass"} <= {*shown, "naïve \\u4e…ass"} and "&<b>" in shown and "l1 l2" in shown
    odd = album(table_of(), strategies=({"strategy": "hardest"},))
    entry = dict(of_kind(odd, "accuracy"))
    entry["curves"] = [{"curve": name, "arms": ["hardest-50"]} for name in ("_a", "$b_c$", "\\d")]
    legend = drawn(odd, entry).legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["full: 600 rows", "_a", "$b_c$", "\\d"]
    assert not any(text.get_parse_math() for text in legend.get_texts())


@pytest.mark.parametrize(
    ("name", "most", "shown"),
    [
        ("plain", 20, "plain"),
        ("two\nlines\tand  more", 20, "two lines and more"),
        ("naïve", 20, "naïve"),
        ("中文", 20, "\\u4e2d\\u6587"),
        ("a\x1bb\u202ec", 20, "a\\x1bb\\u202ec"),
        ("\ud800", 20, "\\ud800"),
        ("keep-50-by-el2n-and-this", 11, "keep-…-this"),
        ("", 20, ""),
    ],
)
def test_a_name_is_made_drawable(name: str, most: int, shown: str) -> None:
    assert drawable(name, most) == shown and len(shown) <= most


# The numbers are those of the report


def test_the_histogram_shows_the_counts() -> None:
    made = report("three strategies at four budgets")
    picture = of_kind(made, "histogram")
    figure = drawn(made, picture)
    for axis, panel in zip(figure.axes, picture["selections"], strict=True):
        dropped, kept = (patch.get_data() for patch in axis.patches if isinstance(patch, StepPatch))
        assert kept.values.tolist() == panel["kept"] == np.asarray(dropped.baseline).tolist()
        assert dropped.values.tolist() == picture["rows"] and kept.edges.tolist() == picture["edges"]
        assert [line.get_xdata()[0] for line in axis.lines] == [panel[end] for end in ("from", "to") if panel[end] is not None]
        assert axis.get_title().startswith(panel["selection"]) and axis.get_xscale() == picture["scale"] == "log"
    assert any("logarithmic axis" in text.get_text() for text in figure.texts)


def test_a_cut_beyond_the_axis_does_not_stretch_the_picture() -> None:
    made = report("three strategies at four budgets")
    picture = of_kind(made, "histogram")
    far = [{**selection, "from": None, "to": 1e6 * picture["edges"][-1]} for selection in picture["selections"]]

    def width(entry: Any) -> int:
        (png,) = (data for name, data in files_of(entry, made).items() if name.endswith(".png"))
        return Image.open(io.BytesIO(png)).size[0]

    assert width({**picture, "selections": far}) <= 1.1 * width(picture)


def test_rows_beyond_the_axis_are_said() -> None:
    made = report("plain")
    picture = {**of_kind(made, "histogram"), "beyond": [0, 7]}
    assert any("7 rows beyond the axis" in text.get_text() for text in drawn(made, picture).texts)


def test_the_agreement_shows_the_counts() -> None:
    made = report("plain")
    picture = of_kind(made, "agreement")
    figure = drawn(made, picture)
    assert len(picture["pairs"]) == 6 == len(figure.axes) - 1
    for axis, pair in zip(figure.axes, picture["pairs"], strict=False):
        assert axis.images[0].get_array().filled(0).T.tolist() == pair["counts"]
        assert (axis.get_xlabel(), axis.get_ylabel()) == (pair["a"], pair["b"]) and axis.get_title() == f"Spearman {pair['spearman']:.2f}"


def test_the_reliability_curve_shows_which_points_were_measured() -> None:
    made = report("plain")
    picture = of_kind(made, "reliability")
    (axis,) = drawn(made, picture).axes
    curves = [line for line in axis.lines if len(line.get_xdata()) > 2 or line.get_marker() != "None"]
    for i, score in enumerate(picture["scores"]):
        extended, measured = curves[2 * i : 2 * i + 2]
        for line, part in ((extended, "extended"), (measured, "measured")):
            assert [*zip(line.get_xdata(), line.get_ydata(), strict=True)] == [(at["seeds"], at["value"]) for at in score[part]]
        assert (
            extended.get_markerfacecolor() == "white" != measured.get_markerfacecolor() and extended.get_marker() == measured.get_marker()
        )


def with_arms(made: Report, arms: list[Any]) -> Report:
    return replace(made, evaluations=({**made.evaluations[0], "arms": arms},))


def test_the_accuracy_curve_shows_means_and_intervals() -> None:
    made = report("three strategies at four budgets")
    # One-sided on purpose: the two ends are not to be exchanged.
    made = with_arms(made, [{**arm, "high": (arm["accuracy"] + arm["high"]) / 2} for arm in made.evaluations[0]["arms"]])
    picture = of_kind(made, "accuracy")
    (axis,) = drawn(made, picture).axes
    arms = {arm["arm"]: arm for arm in made.evaluations[0]["arms"]}
    curves = [line for line in axis.lines if line.get_marker() not in ("None", "_") and len(line.get_xdata()) == 4]
    assert [curve["curve"] for curve in picture["curves"]][:2] == ["hardest by el2n", "window by el2n, skip 0.05"]
    assert len(curves) == 5 == len(picture["curves"])
    for line, curve in zip(curves, picture["curves"], strict=True):
        expected = sorted((arms[name] for name in curve["arms"]), key=lambda arm: arm["n_rows"])
        assert line.get_ydata() == pytest.approx([arm["accuracy"] for arm in expected])
        assert np.abs(np.array(line.get_xdata()) - [arm["n_rows"] for arm in expected]).max() < 0.03 * 600
    reach = [segment[:, 1] for bars in axis.collections for segment in bars.get_segments()]
    ends = sorted((arm["low"], arm["high"]) for name, arm in arms.items() if name != "full")
    assert np.array(sorted(map(tuple, reach))) == pytest.approx(np.array(ends))
    assert axis.lines[0].get_ydata()[0] == arms["full"]["accuracy"]
    assert any("n = 4 trainings; bars and band: 95 % intervals" in text.get_text() for text in axis.figure.texts)


def test_arms_of_different_n_say_it_at_their_points() -> None:
    made = report("plain")
    arms = [{**arm, "n": arm["n"] + (arm["arm"] == "full")} for arm in made.evaluations[0]["arms"]]
    figure = drawn(with_arms(made, arms), of_kind(made, "accuracy"))
    assert [text.get_text() for text in figure.axes[0].texts] == ["n=4"] * 3
    assert not any("trainings" in text.get_text() for text in figure.texts)


def test_wide_intervals_do_not_press_the_rest_into_a_line() -> None:
    made = report("two seeds")
    (axis,) = drawn(made, of_kind(made, "accuracy")).axes
    arms = made.evaluations[0]["arms"]
    means = [arm["accuracy"] for arm in arms]
    low, high = axis.get_ylim()
    ends = [arm[end] for arm in arms for end in ("low", "high") if arm[end] is not None]
    assert min(ends) < low < min(means) and max(means) < high < 102 < max(ends)
    assert (max(means) - min(means)) / (high - low) > 0.2
    assert any("cut off where they are wide" in text.get_text() for text in axis.figure.texts)


def test_classes_are_sorted_by_the_share_kept() -> None:
    made = report("hostile names")
    figure = drawn(made, of_kind(made, "classes"))
    for axis, entry in zip(figure.axes, made.selections, strict=True):
        expected = sorted(entry["per_class"], key=lambda item: item["rate"])
        points = {line.get_ydata()[0]: (line.get_xdata()[0], line.get_marker()) for line in axis.lines if len(line.get_xdata()) == 1}
        assert [points[place][0] for place in range(len(expected))] == pytest.approx([100 * item["rate"] for item in expected])
        assert [points[place][1] for place in range(len(expected))] == [">" if item["rate"] >= entry["share"] else "<" for item in expected]
        assert [text.get_text() for text in axis.get_yticklabels()] == [drawable(item["class"], 20) for item in expected]
        assert axis.lines[0].get_xdata()[0] == pytest.approx(100 * entry["share"])


def test_of_a_thousand_classes_the_two_ends_are_shown() -> None:
    made = report("a thousand classes")
    (axis,) = drawn(made, of_kind(made, "classes")).axes
    names = [text.get_text() for text in axis.get_yticklabels()]
    assert len(names) == 25 and names[12] == "(976 more)"
    ranked = [entry["class"] for entry in sorted(made.selections[0]["per_class"], key=lambda item: item["rate"])]
    assert names[:12] == ranked[:12] and names[13:] == ranked[-12:]


# Seen by all eyes


def brightness(colour: str) -> float:
    red, green, blue = matplotlib.colors.to_rgb(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_nothing_is_told_by_colour_alone() -> None:
    marks = [mark(i) for i in range(44)]
    assert len({(each.marker, each.line) for each in marks}) == 44
    assert len({each.marker for each in marks[:11]}) == 11 and len({each.colour for each in marks[:7]}) == 7
    assert "hatch" in DROPPED and "hatch" not in KEPT
    assert abs(brightness(DROPPED["facecolor"]) - brightness(KEPT["facecolor"])) > 0.5
    made = report("three strategies at four budgets")
    (axis,) = drawn(made, of_kind(made, "accuracy")).axes
    curves = [line for line in axis.lines if len(line.get_xdata()) == 4]
    assert len({(line.get_marker(), line.get_linestyle()) for line in curves}) == 5


def test_lines_are_dark_enough_on_white() -> None:
    """Three to one, as the Web Content Accessibility Guidelines ask of graphics; orange and sky blue, which come late, have markers."""
    dark = [style.BLUE, style.VERMILION, style.GREEN, style.GREY, style.BLACK]
    assert all(1.05 / (0.05 + linear(colour)) >= 3 for colour in dark)


def linear(colour: str) -> float:
    """Relative luminance of the guidelines."""
    parts = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in matplotlib.colors.to_rgb(colour)]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
