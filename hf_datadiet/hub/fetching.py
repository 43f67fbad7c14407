"""A publication, wherever it lies: in a folder, or at one commit of a dataset repository on the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hf_datadiet.errors import PublishError
from hf_datadiet.hub.remote import downloaded


def fetched(place: str, revision: str | None, patterns: Sequence[str]) -> tuple[Path, str | None]:
    """Its folder, and the sha of the commit; None for a folder that is here already.

    `patterns`: the files that are needed. A name org/name that is also a folder here is the folder, and `PublishError` says so where a
    revision was meant. `SourceError` as for any dataset on the Hub.
    """
    if Path(place).is_dir():
        if revision is not None:
            raise PublishError(
                f"{place} is a folder here, which has no revision; leave it out for the folder, or go elsewhere for the Hub's"
            )
        return Path(place), None
    folder = downloaded(place, revision or "main", list(patterns))
    return folder, folder.name
