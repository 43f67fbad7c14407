"""The pictures of a run folder: written with the report, linked from it, gone with what they show."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from click.testing import CliRunner
from markdown_it import MarkdownIt

from hf_datadiet.cli import commands
from hf_datadiet.pictures import gallery
from hf_datadiet.pictures.gallery import files_of
from hf_datadiet.records import Report

Call = Callable[..., tuple[Any, str, str]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scored from logits, which takes no training, pruned once and reported."""
    where = tmp_path_factory.mktemp("finished")
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(where)
        for seed in range(2):
            np.save(f"{seed}.npy", rng.normal(0, 2, (3, 60, 3)).astype(np.float32))
        np.save("labels.npy", rng.integers(0, 3, 60))
        words = ["score", "--from-logits", "0.npy", "--from-logits", "1.npy", "--labels", "labels.npy", "--out", "run"]
        CliRunner().invoke(commands, words, catch_exceptions=False)
        CliRunner().invoke(commands, ["prune", "run", "--name", "keep-50", "--score", "el2n", "--keep", "0.5"], catch_exceptions=False)
        patch.setattr(gallery, "files_of", files_of)  # elsewhere nothing is drawn
        ended = CliRunner().invoke(commands, ["report", "run"], catch_exceptions=False)
        assert ended.exit_code == 0 and ended.stderr == ""
    return where / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, where reports are drawn."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gallery, "files_of", files_of)
    return Path(shutil.copytree(finished, "run"))


def links(run: Path) -> dict[str, str]:
    """{what report.md links to, as a viewer resolves it: the text for those who do not see it, or of the link}"""
    found: dict[str, str] = {}
    for token in MarkdownIt("commonmark").enable("table").parse((run / "report.md").read_text()):
        for child in token.children or ():
            if child.type == "image":
                found[unquote(str(child.attrs["src"]))] = "".join(part.content for part in child.children or ())
            elif child.type == "link_open":
                found[unquote(str(child.attrs["href"]))] = ""
    return found


def on_disk(run: Path) -> set[str]:
    return {str(path.relative_to(run)) for path in run.glob("pictures/*")}


def test_what_the_report_links_is_there_and_nothing_else(run: Path) -> None:
    found = links(run)
    assert set(found) == on_disk(run) and len(found) == 3 * 4
    assert {Path(name).stem for name in found} == {"histogram-el2n", "agreement", "reliability", "classes"}
    cut = json.loads((run / "report.json").read_text())["pictures"][0]["selections"][0]["from"]
    shown = {name: alt for name, alt in found.items() if name.endswith(".png")}
    assert f"keep-50 keeps the rows from {cut:.3g} up" in shown["pictures/histogram-el2n.png"]
    assert len(shown) == 4 and all(len(alt) > 40 for alt in shown.values())
    assert "| `pictures/*` " in (run / "report.md").read_text()


def test_the_report_can_be_drawn_again_from_its_json(run: Path) -> None:
    made = Report(**json.loads((run / "report.json").read_text()))
    for picture in made.pictures:
        for name, content in files_of(picture, made).items():
            assert (run / "pictures" / name).read_bytes() == content, name


def test_what_did_not_change_is_not_written_again(run: Path, call: Call) -> None:
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in run.glob("pictures/*")}
    report = (run / "report.md").read_text()
    assert call("report", "run")[0] == 0
    assert {path: (path.stat().st_ino, path.read_bytes()) for path in run.glob("pictures/*")} == before
    assert (run / "report.md").read_text() == report


def test_pictures_go_with_what_they_show(run: Path, call: Call) -> None:
    (run / "pictures" / "notes.txt").write_text("mine")
    call("prune", "run", "--name", "by-loss", "--score", "loss", "--keep", "0.3")
    call("report", "run")
    assert {"pictures/histogram-loss.png", "pictures/histogram-el2n.svg"} <= on_disk(run)
    (run / "selections" / "by-loss" / "selection.parquet").unlink()
    (run / "selections" / "by-loss").rmdir()
    call("report", "run")
    assert "pictures/histogram-loss.png" not in on_disk(run) and set(links(run)) | {"pictures/notes.txt"} == on_disk(run)


def test_a_picture_that_cannot_be_drawn_costs_no_report(run: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    before = json.loads((run / "report.json").read_text())

    def broken(*_: Any) -> None:
        raise RuntimeError("no\nfont")

    monkeypatch.setitem(gallery.DRAWN_BY, "agreement", broken)  # pyright: ignore[reportArgumentType]
    code, out, err = call("report", "run")
    assert code == 0 and "el2n" in out
    assert err == "the report goes without pictures that could not be drawn: agreement (RuntimeError: no font)\n"
    after = json.loads((run / "report.json").read_text())
    assert [(entry["kind"], len(entry["files"])) for entry in after["pictures"] if not entry["files"]] == [("agreement", 0)]
    assert {**after, "pictures": None} == {**before, "pictures": None}
    assert set(links(run)) == on_disk(run) and not any("agreement" in name for name in on_disk(run))


def test_a_run_without_matplotlib_has_its_report(run: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hf_datadiet.pictures.gallery", None)
    code, _, err = call("report", "run")
    assert code == 0 and len(err.splitlines()) == 1 and "histogram-el2n, agreement, reliability, classes (ModuleNotFoundError" in err
    assert on_disk(run) == set() == set(links(run)) and "pictures/*" not in (run / "report.md").read_text()
    assert re.search(r"\| el2n ", (run / "report.md").read_text())
