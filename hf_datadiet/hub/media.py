"""Media that stand alone: the bytes inside, no folder of this machine in the name, and images without metadata."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from datasets import Features, Image, LargeList, List
from datasets.features.features import require_storage_embed
from datasets.table import embed_array_storage

from hf_datadiet.errors import PublishError
from hf_datadiet.hub.containers import TellingError, UnreadableError, without_metadata

REENCODE = "save such images as PNG or JPEG first, or publish with --ids-only"
MEND = "mend the data, or have what cannot be read be null: source.on_bad_row=skip"

LONGEST_NAME = 255


def standing_alone(
    table: pa.Table, features: Features, *, split: str = "train", first: int = 0, skip: bool = False
) -> tuple[pa.Table, dict[str, int]]:
    """Rows in the schema of `features` with all their media embedded, and {column: how many of its media became null}.

    Every image, also inside lists and structs, loses its metadata (`without_metadata`); its pixels stay as they are, and so do the
    bytes of one that has none. Of a path the file's name stays, unless it is hostile. Media other than images keep their tags
    (`with_tags` names these columns). What cannot be read becomes null if `skip`; otherwise, and for an image whose metadata cannot be
    removed, `PublishError` names column and row, `first` being that of the first one of the table.
    """
    columns: list[Any] = []
    nulls: dict[str, int] = {}
    for name, feature in features.items():
        column = table[name]
        if require_storage_embed(feature):
            faults: list[Exception] = []
            try:
                column = _embedded(column, _embedding(feature, skip, faults))
            except (UnreadableError, TellingError):
                row, error = _first_fault(column, _embedding(feature, skip, []))
                remedy = REENCODE if isinstance(error, TellingError) else MEND
                raise PublishError(f"split {split}, column {name!r}, {_called(table, row, first)}: {error}; {remedy}") from error
            nulls |= {name: len(faults)} if faults else {}
        columns.append(column)
    return pa.table(columns, names=list(features)).cast(features.arrow_schema), nulls


def with_tags(features: Features) -> list[str]:
    """The columns with media other than images: their tags (artist, place, time) stay in them."""
    return [name for name, feature in features.items() if any(not isinstance(kind, Image) for kind in _media_of(feature))]


def _media_of(feature: Any) -> list[Any]:
    if isinstance(feature, dict):
        return [kind for part in feature.values() for kind in _media_of(part)]
    if isinstance(feature, List | LargeList):
        return _media_of(feature.feature)
    return [feature] if require_storage_embed(feature) else []


def _embedded(column: pa.ChunkedArray, embedding: Any) -> pa.ChunkedArray:
    with warnings.catch_warnings():
        # Pillow warns of odd EXIF, which goes anyway.
        warnings.simplefilter("ignore")
        return embed_array_storage(column, embedding)


def _first_fault(column: pa.ChunkedArray, embedding: Any) -> tuple[int, Exception]:
    """The first row that cannot be embedded, and why: inside a list, nothing says which row an image belongs to."""
    for row in range(len(column)):
        try:
            _embedded(column.slice(row, 1), embedding)
        except (UnreadableError, TellingError) as error:
            return row, error
    raise AssertionError("some row cannot be embedded")


def _called(table: pa.Table, row: int, first: int) -> str:
    """What an error calls a row: its example id, if it has one."""
    known = table["example_id"][row].as_py() if "example_id" in table.column_names else None
    return f"row {first + row}" if known is None else f"example_id {known}"


def _embedding(feature: Any, skip: bool, faults: list[Exception]) -> Any:
    """The feature with an `_Embedding` in the place of all its media: datasets finds its way to these through lists and structs."""
    if isinstance(feature, dict):
        return {name: _embedding(part, skip, faults) for name, part in feature.items()}
    if isinstance(feature, List):
        return List(_embedding(feature.feature, skip, faults), length=feature.length)
    if isinstance(feature, LargeList):
        return LargeList(_embedding(feature.feature, skip, faults))
    return _Embedding(feature, skip, faults) if require_storage_embed(feature) else feature


@dataclass(frozen=True)
class _Embedding:
    """Embeds what a medium's feature describes. `faults` takes the reason of each one that became null."""

    kind: Any
    skip: bool
    faults: list[Exception] = field(default_factory=list)

    def embed_storage(self, storage: pa.StructArray, **_: Any) -> pa.StructArray:
        return pa.array([None if cell is None else self._alone(cell) for cell in storage.to_pylist()], self.kind.pa_type)

    def _alone(self, cell: dict[str, Any]) -> dict[str, Any] | None:
        try:
            content = self._read(cell)
            return {"bytes": without_metadata(content) if isinstance(self.kind, Image) else content, "path": file_name(cell["path"])}
        except UnreadableError as error:
            if not self.skip:
                raise
            self.faults.append(error)
            return None

    def _read(self, cell: dict[str, Any]) -> bytes:
        if cell["bytes"] is not None:
            return cell["bytes"]
        if cell["path"] is None:
            raise UnreadableError("has neither bytes nor a file")
        try:
            return self.kind.embed_storage(pa.array([cell], self.kind.pa_type))[0]["bytes"].as_py()
        except (OSError, ValueError) as error:
            raise UnreadableError(f"cannot be read ({type(error).__name__}: {file_name(cell['path'])})") from error


def file_name(path: str | None) -> str | None:
    """The name of a file without its folders, or None where that is no plain name.

    Of a URL without query and fragment, which may hold a token; of a member of an archive (`zip://a/b.png::c.zip`), its own.
    """
    if path is None:
        return None
    inner = path.partition("::")[0]
    if "://" in inner:
        inner = re.split(r"[?#]", inner, maxsplit=1)[0]
    name = re.split(r"[/\\]", inner)[-1]
    plain = name.isprintable() and name.strip(". ") and len(name.encode()) <= LONGEST_NAME and not re.match(r"^[A-Za-z]:", name)
    return name if plain else None
