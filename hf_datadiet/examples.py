"""The hardest and the easiest rows of a run as people look at them: pictures as small PNG, texts by their beginning."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hf_datadiet.card import Example
from hf_datadiet.errors import PublishError
from hf_datadiet.hub.source import Pinned
from hf_datadiet.ranking import column
from hf_datadiet.records import UNLABELLED, ScoreTable

SHOWN = 5
"""Rows of each end."""

SIDE = 128
"""Pixels of the longer side of a picture, at most."""

LENGTH = 300
"""Characters of a text, at most."""


def ends(pinned: Pinned, table: ScoreTable, score: str, target: Path, within: str) -> tuple[Example, ...]:
    """The `SHOWN` hardest rows by a score column, worst first, then the easiest, easiest first; pictures are written to `target`.

    `within`: what `target` is called in the repository. Of equals the row that comes first.
    """
    labelled = np.flatnonzero(table.label != UNLABELLED)
    hardness = column(table, labelled, score).hardness
    hardest = np.lexsort((table.example_id[labelled], -hardness))[:SHOWN]
    easiest = np.lexsort((table.example_id[labelled], hardness))[:SHOWN]
    found: list[Example] = []
    for end, places in (("hardest", hardest), ("easiest", easiest)):
        for place in labelled[places].tolist():
            row = int(table.example_id[place])
            shown = _shown(pinned, row, target, within)
            label = table.source.classes[int(table.label[place])]
            found.append(Example(end=end, example_id=row, label=label, score=float(table.columns[score].mean[place]), **shown))
    return tuple(found)


def _shown(pinned: Pinned, row: int, target: Path, within: str) -> dict[str, Any]:
    columns, values = pinned.record.columns, pinned.dataset[row]
    if "image" in columns:
        name = f"{row}.png"
        _write_picture(values[columns["image"]], target / name, row)
        return {"text": None, "image": f"{within}/{name}"}
    texts = [str(values[columns[role]]) for role in ("text", "text_pair") if role in columns]
    text = " / ".join(" ".join(part.split()) for part in texts)
    return {"text": text if len(text) <= LENGTH else text[: LENGTH - 1] + "…", "image": None}


def _write_picture(picture: Any, path: Path, row: int) -> None:
    if not isinstance(picture, Image.Image):
        raise PublishError(f"row {row} is no picture that can be shown; leave examples out: --no-examples")
    path.parent.mkdir(parents=True, exist_ok=True)
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    plain = io.BytesIO()
    # A new picture of the pixels alone: what came with the old one (position, camera, names) stays behind.
    Image.frombytes("RGB", small.size, small.tobytes()).save(plain, "PNG")
    path.write_bytes(plain.getvalue())
