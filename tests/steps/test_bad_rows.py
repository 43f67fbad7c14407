"""Rows that cannot be read: named in one line, or recorded and left without a score, never dropped silently."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Dataset, DatasetDict, Features, Image, Value, concatenate_datasets, load_dataset

from hf_datadiet import score_dataset
from hf_datadiet.errors import BadRowsError, SourceError
from hf_datadiet.store import RunFolder
from tests.synthetic import pictures

N = 24
RECIPE: dict[str, Any] = {
    "source": {"path": "toys", "test": {"split": "test"}, "id_column": "uid"},
    "task": {"kind": "image", "model": "timm:test_resnet", "training": {"epochs": 1, "batch_size": 8}},
    "score": {"scores": ["el2n"], "seeds": 1},
    "prune": [{"name": "keep-5", "score": "el2n", "keep": 5}],
    "evaluate": {"seeds": 1},
}


def broken(n: int, rows: dict[int, bytes | None], seed: int = 0) -> Dataset:
    """Pictures, some of them replaced by other bytes, or by null."""
    whole = pictures(n, seed=seed, uid=[f"{'ab'[seed]}{row}" for row in range(n)])
    cells: list[Any] = whole.cast_column("image", Image(decode=False))["image"]
    images = [
        None if row in rows and rows[row] is None else {**cell, "bytes": rows.get(row, cell["bytes"])} for row, cell in enumerate(cells)
    ]
    return concatenate_datasets(
        [Dataset.from_dict({"image": images}, features=Features({"image": Image()})), whole.remove_columns("image")], axis=1
    )


def half(row: int, seed: int = 0) -> bytes:
    data: bytes = pictures(N, seed=seed).cast_column("image", Image(decode=False))[row]["image"]["bytes"]
    return data[: len(data) // 2]


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three bad rows among those to be scored, one among those held out."""
    monkeypatch.chdir(tmp_path)
    splits = {"train": broken(N, {2: b"no image", 7: None, 11: half(11)}), "test": broken(9, {4: b""}, seed=1)}
    DatasetDict(splits).save_to_disk("toys")
    Path("toy.yaml").write_text(yaml.safe_dump(RECIPE))
    return tmp_path


def test_they_are_named_and_on_request_skipped(toys: Path, call: Callable[..., tuple[Any, str, str]]) -> None:
    code, out, err = call("run", "toy.yaml")
    last = err.splitlines()[-1]
    assert code == 2 and out == "" and "Traceback" not in err
    assert last.startswith("hf-datadiet: 3 rows cannot be read: 2 (a2: cannot identify image file), 7 (a7: image is null), 11 (a11: ")
    assert last.endswith("; mend the data, or leave these rows without a score: source.on_bad_row=skip (--on-bad-row skip)")
    folder = RunFolder("runs/toy")
    assert folder.skipped() is None and not folder.has_seed(0)

    assert call("run", "toy.yaml", "--on-bad-row", "skip", "--dry-run")[0] == 0 and folder.skipped() is None
    code, out, err = call("run", "toy.yaml", "--on-bad-row", "skip")
    assert code == 0
    assert "Scores of 21 rows; 3 that cannot be read have none; 1 held out that cannot be read have none" in out
    record = pq.read_table("runs/toy/skipped.parquet")
    assert record["example_id"].to_pylist() == [2, 7, 11, 4] and record["held_out"].to_pylist() == [False] * 3 + [True]
    assert record["source_id"].to_pylist() == ["a2", "a7", "a11", "b4"] and record["reason"][1].as_py() == "image is null"
    table = folder.load_scores()
    assert table.example_id.tolist() == list(range(N)) and np.flatnonzero(np.isnan(table.columns["el2n"].mean)).tolist() == [2, 7, 11]
    assert list(table.skipped) == [2, 7, 11] and table.skipped[7] == "image is null"
    selection = folder.load_selection("keep-5")
    assert dict(zip(selection.dropped.tolist(), selection.reasons, strict=True))[7] == "image is null"
    assert folder.load_evaluation("main").test_id.tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    source = json.loads(Path("runs/toy/report.json").read_text())["source"]
    assert (source["n_scored"], source["n_unlabelled"], source["n_skipped"], source["n_test_skipped"]) == (21, 0, 3, 1)
    assert "3 rows that cannot be read have no score, and 1 held-out ones are left out" in Path("runs/toy/report.md").read_text()
    code, _, err = call("prune", "runs/toy", "--name", "b", "--score", "el2n", "--keep", "4", "--write", "parquet")
    assert code == 0, "what was skipped does not keep the rest from being written"
    written = load_dataset("runs/toy/selections/b/dataset")
    assert {name: len(split) for name, split in written.items()} == {"train": 4, "test": 9}

    code, _, err = call("run", "toy.yaml")
    assert code == 2 and err.count("\n") == 1 and "3 rows cannot be read: 2 (a2: " in err, "what is recorded is not forgotten"
    assert call("run", "toy.yaml", "--on-bad-row", "skip")[0] == 0


def test_held_out_rows_are_named_as_such(toys: Path, call: Callable[..., tuple[Any, str, str]]) -> None:
    DatasetDict(train=broken(N, {}), test=broken(9, {4: b""}, seed=1)).save_to_disk("other")
    code, _, err = call("run", "toy.yaml", "source.path=other")
    assert code == 2 and "hf-datadiet: 1 row held out cannot be read: 4 (b4: " in err.splitlines()[-1]
    code, _, err = call("run", "toy.yaml", "source.path=other", "--on-bad-row", "skip")
    assert code == 0, "in the same folder: what was scored is not scored again"
    assert RunFolder("runs/toy").skipped() == ({}, {4: "cannot identify image file"})


def test_a_skipped_row_counts_like_one_without_a_label(toys: Path) -> None:
    bad = broken(N, {2: b"no image", 7: None, 11: half(11)})
    label = [None if row in (2, 7, 11) else value for row, value in enumerate(bad["label"])]
    unlabelled = bad.remove_columns("label").add_column("label", label, feature=bad.features["label"])  # pyright: ignore
    options = {"task.training.batch_size": 8}
    about: dict[str, Any] = {"model": "timm:test_resnet", "seeds": 1, "epochs": 1, "progress": False}
    skipped = score_dataset(bad, **about, options=options | {"source.on_bad_row": "skip"})
    expected = score_dataset(unlabelled, **about, options=options)
    assert np.array_equal(skipped.columns["el2n"].mean, expected.columns["el2n"].mean, equal_nan=True)
    assert list(skipped.skipped) == [2, 7, 11] and not expected.skipped
    with pytest.raises(BadRowsError, match="3 rows cannot be read"):
        score_dataset(bad, **about, options=options)


def test_nothing_that_can_be_read(toys: Path) -> None:
    bad = broken(6, dict.fromkeys(range(6)))
    with pytest.raises(SourceError, match=r"no row can be read \(image is null\); mend the data or name other columns"):
        score_dataset(bad, model="timm:test_resnet", seeds=1, epochs=1, progress=False, options={"source.on_bad_row": "skip"})


def test_many_rows_are_counted() -> None:
    assert str(BadRowsError(dict.fromkeys(range(9), "x"))).startswith(
        "9 rows cannot be read: 0 (x), 1 (x), 2 (x), 3 (x), 4 (x) and 4 more;"
    )


def test_null_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., tuple[Any, str, str]]) -> None:
    """Learning a tokenizer, too, passes over them."""
    monkeypatch.chdir(tmp_path)
    texts = [None if row in (3, 8) else f"a {['cat', 'ship', 'dog'][row % 3]} number {row}" for row in range(16)]
    columns = {"text": texts, "label": [row % 3 for row in range(16)]}
    Dataset.from_dict(columns, features=Features({"text": Value("string"), "label": Value("int64")})).to_csv("toys.csv")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    task = {"kind": "text", "model": "transformers:bert", "model_args": small, "vocab_size": 300, "max_length": 16}
    Path("toy.yaml").write_text(yaml.safe_dump({**RECIPE, "source": {"path": "toys.csv"}, "task": {**task, "training": {"epochs": 1}}}))
    code, _, err = call("score", "toy.yaml")
    assert code == 2 and "hf-datadiet: 2 rows cannot be read: 3 (text is null), 8 (text is null); mend" in err.splitlines()[-1]
    assert call("score", "toy.yaml", "--on-bad-row", "skip")[0] == 0
    table = RunFolder("runs/toy").load_scores()
    assert table.skipped == {3: "text is null", 8: "text is null"} and np.isnan(table.columns["el2n"].mean).sum() == 2
