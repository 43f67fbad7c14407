"""The hardest and the easiest rows of a run as people look at them: pictures as small PNG, texts by their beginning."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hf_datadiet.errors import PublishError
from hf_datadiet.hub.source import Pinned
from hf_datadiet.publication import Example, Examples
from hf_datadiet.ranking import column
from hf_datadiet.records import UNLABELLED, ScoreTable

SHOWN = 5
"""Rows of each end."""

SIDE = 128
"""Pixels of the longer side of a picture, at most; of a small one half as many, at least."""

LENGTH = 300
"""Characters of a text, at most."""


def ends(pinned: Pinned, table: ScoreTable, score: str, target: Path, within: str) -> Examples:
    """The `SHOWN` hardest rows by a score column, hardest first, and the easiest, easiest first; pictures are written to `target`.

    `within`: what `target` is called in the repository. Of equals the row that comes first. `PublishError` for a row that cannot be shown.
    """
    hardest, easiest = (
        tuple(_example(pinned, table, score, int(at), target, within) for at in places) for places in end_rows(table, score)
    )
    return Examples(score, hardest=hardest, easiest=easiest)


def end_rows(table: ScoreTable, score: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The positions in the table of the `SHOWN` hardest rows, hardest first, and of the easiest, easiest first."""
    labelled = np.flatnonzero(table.label != UNLABELLED)
    hardness = column(table, labelled, score).hardness
    hardest, easiest = (labelled[np.lexsort((table.example_id[labelled], order))[:SHOWN]] for order in (-hardness, hardness))
    return hardest, easiest


def _example(pinned: Pinned, table: ScoreTable, score: str, at: int, target: Path, within: str) -> Example:
    """`at`: the row's position in the table."""
    row, columns = int(table.example_id[at]), pinned.record.columns
    values, text, image = pinned.dataset[row], None, None
    if "image" in columns:
        _write_picture(values[columns["image"]], target / f"{row}.png", row)
        image = f"{within}/{row}.png"
    else:
        text = " / ".join(" ".join(str(values[columns[role]]).split()) for role in ("text", "text_pair") if role in columns)
        text = text if len(text) <= LENGTH else text[: LENGTH - 1] + "…"
    value = float(table.columns[score].mean[at])
    return Example(row, table.source.classes[int(table.label[at])], value, text=text, image=image)


def _write_picture(picture: Any, path: Path, row: int) -> None:
    if not isinstance(picture, Image.Image):
        raise PublishError(f"row {row} is no picture that can be shown; leave examples out: --no-examples")
    path.parent.mkdir(parents=True, exist_ok=True)
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    # Enlarged pixel by pixel: what a viewer enlarges is blurred.
    times = max(1, SIDE // max(small.size))
    small = small.resize((times * small.width, times * small.height), Image.Resampling.NEAREST)
    plain = io.BytesIO()
    # A new picture of the pixels alone: what came with the old one (position, camera, names) stays behind.
    Image.frombytes("RGB", small.size, small.tobytes()).save(plain, "PNG")
    path.write_bytes(plain.getvalue())
