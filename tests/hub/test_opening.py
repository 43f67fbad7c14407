from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, IterableDatasetDict
from PIL import Image as Pillow

from hf_datadiet.errors import SourceError
from hf_datadiet.hub.opening import in_memory, opened
from hf_datadiet.hub.source import pin
from hf_datadiet.recipe import HeldOut, SourceSpec
from hf_datadiet.tasks.image import ImageTask
from hf_datadiet.tasks.text import TextTask
from tests.synthetic import pictures

TEXTS = [f'text {row}, "quoted" and so on' for row in range(8)]
LABELS = [row % 3 for row in range(8)]
NAMES = ["ball", "boat", "bird"]


def write(path: Path, label: list[Any], rows: range = range(8)) -> Path:
    """The texts of these rows with their labels, in the form that the name of the file says."""
    columns = {"text": [TEXTS[row] for row in rows], "label": [label[row] for row in rows], "uid": [f"r{row}" for row in rows]}
    table = Dataset.from_dict(columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        table.to_parquet(str(path))
    elif path.suffix == ".csv":
        table.to_csv(str(path))
    else:
        path.write_text("\n".join(json.dumps(row) for row in table))
    return path


@pytest.mark.parametrize("kind", ["parquet", "csv", "json", "jsonl"])
def test_files_and_folders_of_tables(kind: str, tmp_path: Path) -> None:
    """One file, and a folder with one for each split: the same source, whether labels are numbers or names."""
    expected = pin(
        SourceSpec(id_column="uid"),
        TextTask().find_columns,
        {"train": Dataset.from_dict({"text": TEXTS, "label": LABELS, "uid": [f"r{row}" for row in range(8)]})},
    )
    for name, label in (("numbers", LABELS), ("names", [NAMES[label] for label in LABELS])):
        file = write(tmp_path / name / f"train.{kind}", label)
        write(tmp_path / name / f"test.{kind}", label, range(2, 6))
        single = pin(SourceSpec(path=str(file), id_column="uid"), TextTask().find_columns)
        folder = pin(SourceSpec(path=str(file.parent), id_column="uid", test=HeldOut(split="test")), TextTask().find_columns)
        assert single.record.name == f"train.{kind}" and folder.record.name == name
        assert single.record.digest == folder.record.digest
        assert (single.record.digest == expected.record.digest) == (name == "numbers")
        classes = ("0", "1", "2") if name == "numbers" else tuple(sorted(NAMES))
        for pinned in (single, folder):
            assert [pinned.record.classes[label] for label in pinned.label] == [str(value) for value in label]
            assert pinned.record.classes == classes and pinned.source_id is not None and pinned.source_id.tolist()[3] == "r3"
        assert folder.test_label.tolist() == folder.label[2:6].tolist()
        assert folder.test_source_id is not None and folder.test_source_id.tolist() == ["r2", "r3", "r4", "r5"]


def test_a_folder_with_the_name_of_a_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "csv" / "train.csv", LABELS)
    monkeypatch.chdir(tmp_path)
    assert len(opened(SourceSpec(path="csv")).splits["train"]) == 8


def test_a_folder_with_several_configs(tmp_path: Path) -> None:
    """A copy of a repository."""
    for name in ("a", "b"):
        write(tmp_path / "toys" / f"{name}.csv", LABELS if name == "a" else NAMES * 2 + NAMES[:2])
    (tmp_path / "toys" / "README.md").write_text(
        "---\nconfigs:\n- {config_name: a, data_files: a.csv}\n- {config_name: b, data_files: b.csv}\n---\n"
    )
    found = opened(SourceSpec(path=str(tmp_path / "toys"), config="b"))
    assert (found.name, found.config, found.splits["train"]["label"][:3]) == ("toys", "b", NAMES)
    with pytest.raises(SourceError, match=r"toys: it has several configs; set source.config to one of: 'a', 'b'$"):
        opened(SourceSpec(path=str(tmp_path / "toys")))
    with pytest.raises(SourceError, match=r"cannot read .*toys: BuilderConfig 'c' not found. Available: \['a', 'b'\]"):
        opened(SourceSpec(path=str(tmp_path / "toys"), config="c"))


def test_gaps_in_a_csv(tmp_path: Path) -> None:
    """A missing number makes floats of all the others."""
    path = write(tmp_path / "x.csv", [0, None, 1, 2, None, 0, 1, 2])
    assert "float" in str(opened(SourceSpec(path=str(path))).splits["train"].features["label"])
    assert pin(SourceSpec(path=str(path)), TextTask().find_columns).label.tolist() == [0, -1, 1, 2, -1, 0, 1, 2]


def test_a_folder_of_images(tmp_path: Path) -> None:
    """One folder per class and split; classes are the names of the folders, rows lie in the order of the paths."""
    rng = np.random.default_rng(0)
    for split, n in (("train", 6), ("test", 4)):
        for row in range(n):
            path = tmp_path / "toys" / split / ("dog" if row % 2 else "cat") / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Pillow.fromarray(rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(path)
    spec = SourceSpec(path=str(tmp_path / "toys"), test=HeldOut(split="test"))
    pinned = pin(spec, ImageTask().find_columns)
    assert (
        pinned.record.classes == ("cat", "dog")
        and pinned.label.tolist() == [0, 0, 0, 1, 1, 1]
        and pinned.test_label.tolist() == [0, 0, 1, 1]
    )
    for row, name in enumerate(("cat/0", "cat/2", "cat/4", "dog/1", "dog/3", "dog/5")):
        with Pillow.open(tmp_path / "toys" / "train" / f"{name}.png") as image:
            assert np.array_equal(np.asarray(pinned.dataset[row]["image"]), np.asarray(image))
    (tmp_path / "toys").rename(tmp_path / "moved")
    moved = pin(SourceSpec(path=str(tmp_path / "moved"), test=HeldOut(split="test")), ImageTask().find_columns)
    assert (moved.record.digest, moved.record.test_digest) == (pinned.record.digest, pinned.record.test_digest)


def test_what_cannot_be_opened_says_why(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("text.parquet", "text.json", "text.csv", "text.xlsx"):
        (tmp_path / name).write_text('{"no": data\n at all, "but" long\nenough to, be, "something"')
    (tmp_path / "nothing.csv").write_text("")
    (tmp_path / "empty").mkdir()
    pictures(12).to_parquet(str(tmp_path / "cut.parquet"))
    whole = (tmp_path / "cut.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:4] + b"\0" * 400 + whole[404:])
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "state.json").write_text("{}")
    for spec, message in [
        (SourceSpec(), r"the recipe names no source; set source.path \(a file or folder\), source.repo \(org/name\) or source.sample"),
        (SourceSpec(sample="digit"), "no embedded sample 'digit'; there are: digits"),
        (SourceSpec(path=str(tmp_path / "none")), "does not exist; pass source.path=FOLDER"),
        (SourceSpec(path=str(tmp_path / "text.parquet")), r"cannot read .*text\.parquet: "),
        (SourceSpec(path=str(tmp_path / "text.json")), r"cannot read .*text\.json: "),
        (SourceSpec(path=str(tmp_path / "text.csv")), r"cannot read .*text\.csv: "),
        (SourceSpec(path=str(tmp_path / "nothing.csv")), r"cannot read .*nothing\.csv: "),
        (
            SourceSpec(path=str(tmp_path / "text.xlsx")),
            r"text\.xlsx is no data file; give one of \.parquet, \.csv, \.json, \.jsonl, or a folder",
        ),
        (SourceSpec(path=str(tmp_path / "cut.parquet")), r"cannot read .*cut\.parquet: "),
        (SourceSpec(path=str(tmp_path / "empty")), "cannot read .*empty: "),
        (SourceSpec(path=str(tmp_path / "disk")), "cannot read .*disk: "),
    ]:
        with pytest.raises(SourceError, match=message) as error:
            opened(spec)
        assert "\n" not in str(error.value)


def test_what_is_in_memory() -> None:
    one, two = pictures(6), pictures(4, seed=1)
    assert in_memory("train", None) is None
    assert in_memory("dev", one) == {"dev": one}
    assert in_memory("train", one, two) == {"test": two, "train": one}
    assert in_memory("train", DatasetDict(train=one, dev=two)) == {"train": one, "dev": two}
    assert in_memory("train", DatasetDict(train=one, test=one), two) == {"train": one, "test": two}, "the one given wins"
    assert in_memory("test", one, two) == {"test": one}, "but never takes the place of the rows to be scored"
    for odd in ([1, 2], one.to_iterable_dataset(), IterableDatasetDict(train=one.to_iterable_dataset()), {"train": one}):
        with pytest.raises(
            SourceError, match=rf"is of type {type(odd).__name__}; pass a datasets.Dataset or a DatasetDict \(ExampleScorer"
        ):
            in_memory("train", odd)
    with pytest.raises(SourceError, match="is of type str"):
        in_memory("train", one, "test")
