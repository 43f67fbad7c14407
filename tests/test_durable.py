from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_datadiet import durable
from hf_datadiet.errors import StaleRecordError

ARRAYS = {"a": np.arange(20, dtype=np.int64), "b": np.linspace(0, 1, 20, dtype=np.float32), "c": np.zeros((2, 3), np.float16)}
COLUMNS = {
    "example_id": np.arange(20),
    "value": pa.array(np.linspace(0, 1, 20, dtype=np.float32), mask=np.arange(20) == 4),
    "name": pa.array([None, "x|y", "é"] * 6 + ["", "z"]),
    "reason": pa.array(["far", "near"] * 10).dictionary_encode(),
}
META = {"seed": 3, "names": ["é", "b"], "none": None, "number": np.float64(0.5)}


def plain(table: pa.Table) -> dict[str, list[Any]]:
    return table.to_pydict()


def write(kind: str, path: Path) -> Callable[[], Any]:
    """Write a file of that kind and return what reads it, as plain values."""
    if kind == "json":
        durable.write_record(path, META)
        return lambda: durable.read_record(path)
    if kind == "parquet":
        durable.write_parquet(path, COLUMNS, META)

        def read() -> Any:
            table, meta = durable.read_parquet(path)
            return plain(table), meta

        return read
    durable.write_safetensors(path, ARRAYS, META)

    def read_arrays() -> Any:
        arrays, meta = durable.read_safetensors(path)
        return {name: (array.dtype.str, array.tolist()) for name, array in arrays.items()}, meta

    return read_arrays


KINDS = ["json", "parquet", "safetensors"]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    meta = {"seed": 3, "names": ["é", "b"], "none": None, "number": 0.5}
    assert write("json", tmp_path / "x")() == meta
    table, found = write("parquet", tmp_path / "y")()
    assert found == meta and table == plain(pa.table({name: pa.array(column) for name, column in COLUMNS.items()}))
    arrays, found = write("safetensors", tmp_path / "z")()
    assert found == meta and arrays == {name: (array.dtype.str, array.tolist()) for name, array in ARRAYS.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_file_is_named(kind: str, tmp_path: Path) -> None:
    read = write(kind, tmp_path / "record.x")
    (tmp_path / "record.x").unlink()
    with pytest.raises(StaleRecordError, match=r"record\.x is missing or damaged; delete it and run"):
        read()


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_file_is_named_wherever_it_ends(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "record.x"
    read = write(kind, path)
    whole = path.read_bytes()
    last = len(whole) - (2 if kind == "json" else 1)  # JSON ends with a newline that means nothing
    for size in {0, 1, *range(2, last, 37), last}:
        path.write_bytes(whole[:size])
        with pytest.raises(StaleRecordError, match=r"record\.x"):
            read()


@pytest.mark.parametrize("kind", KINDS)
def test_no_flipped_byte_gives_other_values(kind: str, tmp_path: Path) -> None:
    """Every byte in turn: the file is refused by name, or (padding, statistics that nobody reads) the values are the same."""
    path = tmp_path / "record.x"
    read = write(kind, path)
    whole, expected = path.read_bytes(), repr(read())
    refused = 0
    for position in range(len(whole)):
        for mask in (0x01, 0x80):
            broken = bytearray(whole)
            broken[position] ^= mask
            path.write_bytes(bytes(broken))
            try:
                found = repr(read())
            except StaleRecordError as error:
                found, refused = str(error), refused + 1
            assert found == expected or "record.x" in found, (position, mask)
    assert refused > len(whole), "more than half of all flips are noticed as such"


def test_a_value_changed_by_another_program_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    durable.write_parquet(path, COLUMNS, META)
    table = pq.read_table(path)
    pq.write_table(table, path, compression="zstd", row_group_size=3)
    assert plain(durable.read_parquet(path)[0]) == plain(table), "the same values in another layout are the same"
    values = table["value"].to_pylist()
    assert values[4] is None
    changes = [
        table.set_column(1, "value", pa.array(np.zeros(20, np.float32))),
        table.set_column(1, "value", table["value"].fill_null(0)),
        table.set_column(1, "value", pa.array([*values[:4], values[5], None, *values[6:]], pa.float32())),
        table.set_column(0, "example_id", table["example_id"].cast(pa.int32())),
        table.rename_columns(["example_id", "value", "name", "reasons"]),
        table.slice(1),
        table.select(["example_id", "value", "name"]),
        table.replace_schema_metadata({**table.schema.metadata, durable.META: b"{}"}),
        table.replace_schema_metadata(None),
    ]
    for changed in changes:
        pq.write_table(changed, path)
        with pytest.raises(StaleRecordError, match=r"scores\.parquet was changed after it was written"):
            durable.read_parquet(path)


def test_a_number_edited_in_json_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    for text in ('{"margin": 0.5}', "[1]", '{"record_digest": 3}', "{}", "3"):
        path.write_text(text)
        with pytest.raises(StaleRecordError, match=r"evaluation\.json"):
            durable.read_record(path)
    durable.write_record(path, {"margin": 0.5})
    path.write_text(path.read_text().replace("0.5", "0.05"))
    with pytest.raises(StaleRecordError, match=r"evaluation\.json was changed"):
        durable.read_record(path)


def test_json_has_no_nan(tmp_path: Path) -> None:
    for value in (float("nan"), float("inf")):
        for write_it in (durable.write_json, durable.write_record):
            with pytest.raises(ValueError, match="JSON"):
                write_it(tmp_path / "x.json", {"a": value})
    with pytest.raises(TypeError, match="set is not JSON"):
        durable.write_json(tmp_path / "x.json", {"a": {1}})
    assert list(tmp_path.iterdir()) == []


def broken(*_: Any, **__: Any) -> None:
    raise RuntimeError("the plug is pulled")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", [False, True])
def test_an_interrupted_write_leaves_what_was_there(kind: str, before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sub" / "record.x"
    if before:
        expected = repr(write(kind, path)())
    monkeypatch.setattr(durable, "sync", broken)  # everything is written, nothing is renamed
    with pytest.raises(RuntimeError, match="plug"):
        write(kind, path)
    monkeypatch.undo()
    assert [entry.name for entry in path.parent.iterdir()] == (["record.x"] if before else [])
    if before:
        assert repr(write(kind, path)()) == expected


def test_an_exception_inside_the_block_removes_the_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"

    def interrupted() -> None:
        with durable.replacing(path) as temporary:
            temporary.write_text("half")
            assert temporary.parent == tmp_path and temporary != path, "a rename within one folder is atomic"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_the_target_appears_only_when_its_bytes_are_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []

    def sync(path: Path) -> None:
        steps.append("file" if path.is_file() else "folder")
        steps.append("there" if (tmp_path / "x.json").exists() else "not there")

    monkeypatch.setattr(durable, "sync", sync)
    durable.write_json(tmp_path / "x.json", {"a": 1})
    assert steps == ["file", "not there", "folder", "there"]
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}


def test_a_file_digest_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert durable.file_digest(tmp_path / "x") == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
