"""Files that are whole or not there, and that know their own digest.

Every file is written to a temporary name in the same folder, synced and renamed. Parquet and safetensors files carry
a digest of their content in their metadata; one that does not match is named, never used. Several processes may write the
same file at once: the last one wins, or with `first_wins` the first one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from hf_datadiet.errors import DamagedError
from hf_datadiet.escaping import coded
from hf_datadiet.identity import digest_of

META = b"hf_datadiet"
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
"""Names of what is being written, or of what was when its process died."""

GONE, CHANGED = "is missing or damaged", "was changed after it was written"
AGAIN = "delete it and run the step that writes it again"


def temporary_beside(path: Path) -> Path:
    """A name in the same folder that nothing else has: a rename within one folder is atomic."""
    return path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"


@contextmanager
def replacing(path: Path, *, first_wins: bool = False) -> Iterator[Path]:
    """A temporary path beside `path`; renamed over it, synced, when the block ends well, and removed when it does not.

    With `first_wins` a file that is there by then stays: of several processes all go by the same one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        yield temporary
        sync(temporary)
        if first_wins:
            _name_if_free(temporary, path)
        else:
            temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _name_if_free(temporary: Path, path: Path) -> None:
    try:
        # Unlike a rename, a link fails where something is.
        path.hardlink_to(temporary)
    except FileExistsError:
        pass
    except OSError:  # not every file system has links
        if not path.exists():
            temporary.replace(path)


def sound(path: Path, read: Callable[[], object]) -> bool:
    """Whether `path` is there and `read` can read it.

    What is damaged is named on stderr and put aside, so that it counts as not there and is made anew.
    """
    with suppress(FileNotFoundError):
        before = path.stat().st_ino
        try:
            read()
            return True
        except DamagedError as error:
            # Another process may have put it aside, and made it anew, while this one was reading.
            if path.stat().st_ino != before:
                return sound(path, read)
            notice(f"{error.path} {error.fault}: it is made anew")
            path.rename(temporary_beside(path))
    return False


def notice(text: str) -> None:
    """One line on stderr, whoever is calling: something was found that should not have happened."""
    sys.stderr.write(f"{coded(text)}\n")


def write_text(path: Path, text: str, *, first_wins: bool = False) -> None:
    """Write a text file atomically, UTF-8."""
    with replacing(path, first_wins=first_wins) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes atomically, unless they are there already."""
    if path.is_file() and path.read_bytes() == content:
        return
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def json_text(value: Any) -> str:
    """Indented JSON. NaN and infinity are not JSON and raise ValueError."""
    return json.dumps(value, indent=2, allow_nan=False, default=_plain) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write `json_text` atomically."""
    write_text(path, json_text(value))


def write_record(path: Path, value: Mapping[str, Any], *, first_wins: bool = False) -> None:
    """Write a JSON object that knows its own digest."""
    plain = json.loads(json.dumps(value, allow_nan=False, default=_plain))
    write_text(path, json_text({**plain, "record_digest": _json_digest(plain)}), first_wins=first_wins)


def read_record(path: Path, remedy: str = AGAIN) -> dict[str, Any]:
    """The object of `write_record` without its digest; raises `DamagedError` if missing, damaged or changed."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DamagedError(path, GONE, remedy) from None
    digest = value.pop("record_digest", None) if isinstance(value, dict) else None
    if digest is None or digest != _json_digest(value):
        raise DamagedError(path, CHANGED, remedy)
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


def write_parquet(path: Path, columns: Mapping[str, pa.Array | NDArray[Any]], meta: Mapping[str, Any], *, first_wins: bool = False) -> None:
    """Write columns and a JSON-able `meta` as one parquet file whose metadata holds the digest of both."""
    table = pa.table({name: column if isinstance(column, pa.Array) else pa.array(column) for name, column in columns.items()})
    text = json.dumps(meta, default=_plain)
    digests = {META + b"_digest": _table_digest(table, text), META + b"_meta_digest": digest_of([text])}
    table = table.replace_schema_metadata({META: text, **digests})
    with replacing(path, first_wins=first_wins) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)


def read_parquet(path: Path, remedy: str = AGAIN) -> tuple[pa.Table, dict[str, Any]]:
    """The table and the meta of `write_parquet`; raises `DamagedError` if missing, damaged or changed."""
    try:
        table = pq.read_table(path)
        metadata = table.schema.metadata or {}
        text = metadata.get(META, b"").decode()
        digest = _table_digest(table, text)
    except (OSError, pa.ArrowException, UnicodeDecodeError):
        raise DamagedError(path, GONE, remedy) from None
    if metadata.get(META + b"_digest") != digest.encode():
        raise DamagedError(path, CHANGED, remedy)
    return table, json.loads(text)


def glance_parquet(path: Path, columns: Sequence[str] = (), remedy: str = AGAIN) -> tuple[pa.Table, dict[str, Any]]:
    """Some columns and the meta of `write_parquet`, cheaply: what is not read is not verified."""
    try:
        table = pq.read_table(path, columns=list(columns), page_checksum_verification=True)
        metadata = table.schema.metadata or {}
        text = metadata[META].decode()
        if metadata[META + b"_meta_digest"] != digest_of([text]).encode():
            raise DamagedError(path, CHANGED, remedy)
        return table, json.loads(text)
    except (OSError, pa.ArrowException, KeyError, ValueError):
        raise DamagedError(path, GONE, remedy) from None


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


def write_safetensors(path: Path, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any], *, first_wins: bool = False) -> None:
    """Write arrays and a JSON-able `meta` as one safetensors file whose metadata holds the digest of both."""
    # Not ascontiguousarray: that makes a row of one out of a single number.
    arrays = {name: np.asarray(array, order="C") for name, array in sorted(arrays.items())}
    text = json.dumps(meta, default=_plain)
    digest = digest_of([text, *(part for name, array in arrays.items() for part in (name, array))])
    with replacing(path, first_wins=first_wins) as temporary:
        try:
            safetensors.numpy.save_file(dict(arrays), temporary, metadata={"meta": text, "digest": digest})
        except SafetensorError as error:
            # It is the system's error in words: "... (os error 28)".
            code = re.search(r"os error (\d+)", str(error))
            raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) if code else error from error


def glance_safetensors(path: Path, remedy: str = AGAIN) -> dict[str, Any]:
    """The meta of `write_safetensors`, cheaply: nothing is verified."""
    try:
        with safe_open(path, framework="numpy") as file:
            return json.loads(file.metadata()["meta"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        raise DamagedError(path, GONE, remedy) from None


def read_safetensors(path: Path, remedy: str = AGAIN) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The arrays and the meta of `write_safetensors`; raises `DamagedError` if missing, damaged or changed."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (OSError, SafetensorError):
        raise DamagedError(path, GONE, remedy) from None
    if metadata.get("digest") != digest_of([metadata.get("meta", ""), *(part for name, array in arrays.items() for part in (name, array))]):
        raise DamagedError(path, CHANGED, remedy)
    return arrays, json.loads(metadata["meta"])
