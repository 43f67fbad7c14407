"""A published report beside the report that the records make."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_datadiet.checked import TOLERANCE, Unknown, short
from hf_datadiet.evidence import load_json, published_recipe
from hf_datadiet.hub.published import EVIDENCE
from hf_datadiet.reporting import assembled
from hf_datadiet.store import RunFolder


def other_report(published: Path, folder: RunFolder, made_by: str | None) -> Iterator[str]:
    """report.json beside the one made here. `made_by`: another version, whose words and keys are its own; its numbers are compared."""
    there = load_json(published / EVIDENCE / "report.json")
    here = json.loads(json.dumps(dataclasses.asdict(assembled(published_recipe(published), folder))))
    for report in (there, here):
        # What lies in a folder, and which pictures could be drawn, are no numbers.
        report.pop("files")
        for picture in report["pictures"]:
            picture.pop("files", None)
    if made_by is None:
        yield from _differences(there, here)
        return
    found = list(_differences(there, here, strict=False))
    yield from (line for line in found if not isinstance(line, Unknown))
    if words := [line for line in found if isinstance(line, Unknown)]:
        yield Unknown(f"{len(words)} places are worded otherwise here ({words[0]}); {made_by}")


def _differences(there: Any, here: Any, at: str = "", *, strict: bool = True) -> Iterator[str]:
    """`strict`: words and keys too; otherwise these are `Unknown`."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in [*there, *(key for key in here if key not in there)]:
            yield from _differences(there.get(key), here.get(key), f"{at}.{key}" if at else key, strict=strict)
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for position, (one, other) in enumerate(zip(there, here, strict=True)):
            yield from _differences(one, other, f"{at}.{position}", strict=strict)
    elif not _equal(there, here):
        line = f"{at}: {short(there)} published, {short(here)} recomputed"
        # The format is a number that versions give to themselves.
        yield line if strict or (_is_number(there) and _is_number(here) and at != "format") else Unknown(line)


def _equal(there: Any, here: Any) -> bool:
    if isinstance(there, float) and isinstance(here, float):
        return math.isclose(there, here, rel_tol=TOLERANCE, abs_tol=1e-12)
    return there == here


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
