"""Whose folder it is: `run.json` says what makes a run this run. Of several launches the first one writes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_datadiet.durable import GONE, TEMPORARY, read_record, write_record
from hf_datadiet.errors import DamagedError, StaleRecordError

MARKER = "run.json"
REMEDY = "nothing else says whose run this is: put a copy of it back, or choose another --out"


def claim(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Write what the run is, or raise `StaleRecordError` with the difference if the folder is another run's."""
    require_free(folder)
    write_record(folder / MARKER, wanted, first_wins=True)
    found = read_record(folder / MARKER, REMEDY)
    if all(found.get(key) == wanted[key] for key in ("source_digest", "test_digest")):
        # Another commit with the same content is the same source.
        found["source_revision"] = wanted["source_revision"]
    other = differences(found, wanted)
    if other:
        raise StaleRecordError(f"{folder} holds another run ({'; '.join(other)}); choose another --out or delete the folder")


def is_claimed(folder: Path) -> bool:
    """Whether a run lies here."""
    return (folder / MARKER).exists()


def require_free(folder: Path) -> None:
    """Raise `StaleRecordError` if something lies here that is no run."""
    if folder.exists() and not folder.is_dir():
        raise StaleRecordError(f"{folder} is a file and no folder; choose another --out")
    # A run that was killed before its first record was whole leaves no more than these behind.
    foreign = folder.exists() and any(entry.name != "cache" and not TEMPORARY.fullmatch(entry.name) for entry in folder.iterdir())
    # Looked at last: another launch may claim the folder meanwhile.
    if foreign and not is_claimed(folder):
        require_marker(folder)
        raise StaleRecordError(f"{folder} is not empty and holds no run; choose another --out")


def require_marker(folder: Path) -> None:
    """Raise `DamagedError` if a run lies here that has lost its `run.json`."""
    if not is_claimed(folder) and (folder / "recipe.yaml").exists() and (folder / "source.json").exists():
        raise DamagedError(folder / MARKER, GONE, REMEDY)


def differences(found: Any, wanted: Any, at: str = "") -> list[str]:
    """What is other in the identity of a run than asked: lines such as "score.epochs: 6 there, 10 asked", for nested plain values."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        return [
            line for key in sorted({*found, *wanted}) for line in differences(found.get(key), wanted.get(key), f"{at}.{key}" if at else key)
        ]
    return [] if found == wanted else [f"{at}: {found} there, {wanted} asked"]
