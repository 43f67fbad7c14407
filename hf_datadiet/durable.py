"""Files that are whole or not there, and that know their own digest.

Every file is written to a temporary name in the same folder, synced and renamed. Parquet and safetensors files carry
a digest of their content in their metadata; one that does not match is named, never used.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from hf_datadiet.errors import StaleRecordError
from hf_datadiet.identity import digest_of

META = b"hf_datadiet"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; renamed over it, synced, when the block ends well, and removed when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def json_text(value: Any) -> str:
    """Indented JSON. NaN and infinity are not JSON and raise ValueError."""
    return json.dumps(value, indent=2, allow_nan=False, default=_plain) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write `json_text` atomically."""
    write_text(path, json_text(value))


def read_json(path: Path) -> Any:
    """Read JSON; a missing or broken file is a `StaleRecordError` that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise StaleRecordError(f"{path} is missing or damaged; delete it and run the step that writes it again") from None


def write_record(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object that knows its own digest."""
    plain = json.loads(json.dumps(value, allow_nan=False, default=_plain))
    write_json(path, {**plain, "record_digest": _json_digest(plain)})


def read_record(path: Path) -> dict[str, Any]:
    """The object of `write_record` without its digest; raises `StaleRecordError` if missing, damaged or changed."""
    value = read_json(path)
    digest = value.pop("record_digest", None) if isinstance(value, dict) else None
    if digest is None or digest != _json_digest(value):
        raise StaleRecordError(f"{path} was changed after it was written; delete it and run the step that writes it again")
    return value


def _json_digest(value: Any) -> str:
    return digest_of([json.dumps(value, sort_keys=True)])


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def sync(path: Path) -> None:
    """Make sure that a file, or the names in a folder, have reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes: "sha256:<hex>"."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def write_parquet(path: Path, columns: Mapping[str, pa.Array | NDArray[Any]], meta: Mapping[str, Any]) -> None:
    """Write columns and a JSON-able `meta` as one parquet file whose metadata holds the digest of both."""
    table = pa.table({name: column if isinstance(column, pa.Array) else pa.array(column) for name, column in columns.items()})
    text = json.dumps(meta, default=_plain)
    digest = _table_digest(table, text)
    table = table.replace_schema_metadata({META: text, META + b"_digest": digest})
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def read_parquet(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    """The table and the meta of `write_parquet`; raises `StaleRecordError` if missing, damaged or changed."""
    try:
        table = pq.read_table(path)
        metadata = table.schema.metadata or {}
        text = metadata.get(META, b"").decode()
        digest = _table_digest(table, text)
    except (OSError, pa.ArrowException, UnicodeDecodeError):
        raise StaleRecordError(f"{path} is missing or damaged; delete it and run the step that writes it again") from None
    if metadata.get(META + b"_digest") != digest.encode():
        raise StaleRecordError(f"{path} was changed after it was written; delete it and run the step that writes it again")
    return table, json.loads(text)


def glance_parquet(path: Path, columns: Sequence[str] = ()) -> tuple[pa.Table, dict[str, Any]]:
    """Some columns and the meta of `write_parquet`, cheaply: whether the content is unchanged is not verified."""
    try:
        table = pq.read_table(path, columns=list(columns))
        return table, json.loads((table.schema.metadata or {})[META])
    except (OSError, pa.ArrowException, KeyError, ValueError):
        raise StaleRecordError(f"{path} is missing or damaged; delete it and run the step that writes it again") from None


def _table_digest(table: pa.Table, text: str) -> str:
    parts: list[Any] = [text]
    for name in table.column_names:
        column = table[name].combine_chunks()
        parts += [name, np.asarray(column.is_null())]
        if pa.types.is_dictionary(column.type) or pa.types.is_string(column.type):
            parts.append("\x1f".join(str(value) for value in column.to_pylist()))
        else:
            parts.append(np.asarray(column.drop_null()))
    return digest_of(parts)


def write_safetensors(path: Path, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> None:
    """Write arrays and a JSON-able `meta` as one safetensors file whose metadata holds the digest of both."""
    # Not ascontiguousarray: that makes a row of one out of a single number.
    arrays = {name: np.asarray(array, order="C") for name, array in sorted(arrays.items())}
    text = json.dumps(meta, default=_plain)
    digest = digest_of([text, *(part for name, array in arrays.items() for part in (name, array))])
    with replacing(path) as temporary:
        try:
            safetensors.numpy.save_file(dict(arrays), temporary, metadata={"meta": text, "digest": digest})
        except SafetensorError as error:
            # It is the system's error in words: "... (os error 28)".
            code = re.search(r"os error (\d+)", str(error))
            raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) if code else error from error


def read_safetensors(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The arrays and the meta of `write_safetensors`; raises `StaleRecordError` if missing, damaged or changed."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (OSError, SafetensorError):
        raise StaleRecordError(f"{path} is missing or damaged; delete it and run again: it is computed anew") from None
    if metadata.get("digest") != digest_of([metadata.get("meta", ""), *(part for name, array in arrays.items() for part in (name, array))]):
        raise StaleRecordError(f"{path} was changed after it was written; delete it and run again: it is computed anew")
    return arrays, json.loads(metadata["meta"])
