"""A publication, wherever it lies: in a folder, or at one commit of a dataset repository on the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hf_datadiet.hub.remote import downloaded


def fetched(place: str, revision: str | None, patterns: Sequence[str] | None = None) -> tuple[Path, str | None]:
    """Its folder, and the sha of the commit; None for a folder that is here already.

    `patterns`: the files that are needed; by default all. A name org/name that is also a folder here is the folder. `SourceError` as
    for any dataset on the Hub.
    """
    if Path(place).is_dir():
        return Path(place), None
    folder = downloaded(place, revision or "main", None if patterns is None else list(patterns))
    return folder, folder.name
