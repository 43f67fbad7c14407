from __future__ import annotations

import io
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import (
    Array2D,
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    List,
    Value,
    concatenate_datasets,
    load_dataset,
    load_from_disk,
)
from PIL import ExifTags
from PIL import Image as Pillow

from hf_datadiet.errors import PublishError, RecipeError
from hf_datadiet.hub import files
from hf_datadiet.hub.files import write_shards, write_splits
from tests.synthetic import CLASSES, pictures


@pytest.fixture
def lying_in_files(tmp_path: Path) -> Dataset:
    """Images of several formats that lie in files, one with its bytes inside, one missing; columns of several types."""
    folder = tmp_path / "private" / "pictures"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    cells: list[Any] = []
    for row in range(6):
        path = folder / f"{row}.{'png' if row % 2 else 'jpg'}"
        Pillow.fromarray(rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(path)
        cells.append({"bytes": None, "path": str(path)})
    cells[4] = {"bytes": (folder / "4.jpg").read_bytes(), "path": str(folder / "4.jpg")}
    cells[5] = None
    features = Features(
        {
            "image": Image(),
            "label": ClassLabel(names=[*CLASSES]),
            "el2n": Value("float32"),
            "note": Value("string"),
            "other": [Image()],
        }
    )
    columns = {
        "image": cells,
        "label": [0, 1, 2, -1, None, 0],
        "el2n": [0.5, None, 0.25, 0.0, 1.0, -1.0],
        "note": ["a", "", None, "é", "b", "c"],
        "other": [[cells[0]], [], [cells[1], cells[2]], [cells[0]], [cells[0]], [cells[3]]],
    }
    return Dataset.from_dict(columns, features=features)


def encoded(dataset: Dataset) -> list[bytes | None]:
    rows = dataset.cast_column("image", Image(decode=False))["image"]
    return [None if row is None else row["bytes"] or Path(row["path"]).read_bytes() for row in rows]


def read(folder: Path, form: str) -> DatasetDict:
    return load_from_disk(str(folder)) if form == "disk" else load_dataset(str(folder))


FORMS = pytest.mark.parametrize("form", ["parquet", "disk"])


@FORMS
def test_every_row_comes_back_with_its_image(form: Any, lying_in_files: Dataset, tmp_path: Path) -> None:
    splits = {"train": lying_in_files.select([5, 0, 3]), "test": lying_in_files}
    write_splits(splits, tmp_path / "out" / "toys", form)
    expected = {name: encoded(split) for name, split in splits.items()}
    for path in (tmp_path / "private" / "pictures").iterdir():
        path.unlink()  # what was written stands alone
    back = read(tmp_path / "out" / "toys", form)
    assert set(back) == set(splits)
    for name, split in splits.items():
        assert back[name].features == split.features
        assert encoded(back[name]) == expected[name], "bit for bit, not encoded anew"
        for column in ("label", "el2n", "note"):
            assert back[name][column] == split[column]
        others = [[np.asarray(image).shape for image in row] for row in back[name]["other"]]
        assert others == [[(8, 8, 3)] * len(row) for row in split.cast_column("other", [Image(decode=False)])["other"]]
    image = back["test"][1]["image"]
    assert np.array_equal(np.asarray(image), np.asarray(Pillow.open(io.BytesIO(expected["test"][1] or b""))))


@FORMS
def test_no_path_of_the_machine_is_inside(form: Any, lying_in_files: Dataset, tmp_path: Path) -> None:
    # As loaded from a file, a dataset remembers where that file lay.
    lying_in_files.remove_columns(["image", "other"]).to_parquet(str(tmp_path / "private" / "table.parquet"))
    loaded = load_dataset("parquet", data_files={"train": str(tmp_path / "private" / "table.parquet")})["train"]
    write_splits({"train": lying_in_files, "test": lying_in_files.select([1])}, tmp_path / "a", form)
    write_splits({"train": loaded, "test": loaded}, tmp_path / "b", form)
    written = [path for name in "ab" for path in (tmp_path / name).rglob("*") if path.is_file()]
    for path in written:
        content = path.read_bytes()
        assert str(tmp_path).encode() not in content and b"private" not in content, path.name
    if form == "parquet":
        pages = pq.read_table(next(path for path in written if "train" in path.name))["image"].to_pylist()
        assert [page["path"] for page in pages if page] == ["0.jpg", "1.png", "2.jpg", "3.png", "4.jpg"]
        assert all(page["bytes"] for page in pages if page)


@FORMS
@pytest.mark.parametrize("names", [("fold1", "test"), ("train", "held_out"), ("dev", "unsupervised"), ("everything",)])
def test_a_split_of_any_name_is_found_again(form: Any, names: tuple[str, ...], tmp_path: Path) -> None:
    splits = {name: pictures(3 + position, seed=position) for position, name in enumerate(names)}
    write_splits(splits, tmp_path / "toys", form)
    back = read(tmp_path / "toys", form)
    assert {name: len(split) for name, split in back.items()} == {name: len(split) for name, split in splits.items()}


@pytest.mark.parametrize("name", ["all", "tr-ain"])
def test_a_split_that_could_not_be_read_again_is_not_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=f"load_dataset takes no split named '{name}' .*; rename it in the source"):
        write_splits({name: pictures(3)}, tmp_path / "toys", "parquet")
    assert not (tmp_path / "toys").exists()
    write_splits({name: pictures(3)}, tmp_path / "toys", "disk")
    assert len(read(tmp_path / "toys", "disk")[name]) == 3


@FORMS
@pytest.mark.parametrize("name", ["../train", "/train", "a/b", "..", "a\\b"])
def test_no_split_leads_out_of_the_folder(form: Any, name: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no split named|the name of a path"):
        write_splits({"test": pictures(3), name: pictures(3)}, tmp_path / "out" / "toys", form)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_many_batches_and_a_view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BATCH_OF_MEDIA", 4)
    whole = pictures(11, note=[f"n{row}" for row in range(11)]).select([10, 3, 0, 1, 2, 9, 5])
    write_splits({"train": whole}, tmp_path / "toys", "parquet")
    back = read(tmp_path / "toys", "parquet")["train"]
    assert back["note"] == ["n10", "n3", "n0", "n1", "n2", "n9", "n5"] and encoded(back) == encoded(whole)


@FORMS
def test_a_failure_leaves_what_was_there(form: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "sub" / "toys"
    write_splits({"train": pictures(3)}, target, form)

    def fail(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_shards", fail)
        patch.setattr(DatasetDict, "save_to_disk", fail)
        for folder in (target, tmp_path / "new"):
            with pytest.raises(KeyboardInterrupt):
                write_splits({"train": pictures(5)}, folder, form)
    assert not (tmp_path / "new").exists() and [path.name for path in target.parent.iterdir()] == ["toys"]
    assert len(read(target, form)["train"]) == 3
    write_splits({"train": pictures(5)}, target, form)
    assert len(read(target, form)["train"]) == 5 and [path.name for path in target.parent.iterdir()] == ["toys"]


def test_a_form_may_replace_the_other(tmp_path: Path) -> None:
    write_splits({"train": pictures(3), "test": pictures(3)}, tmp_path / "toys", "parquet")
    write_splits({"train": pictures(3)}, tmp_path / "toys", "disk")
    assert set(load_from_disk(str(tmp_path / "toys"))) == {"train"} and not list((tmp_path / "toys").rglob("*.parquet"))


# Metadata


def test_metadata_goes_in_every_form(tmp_path: Path) -> None:
    exif = Pillow.Exif()
    exif[ExifTags.Base.Artist], exif[ExifTags.Base.Orientation] = "Ada.Lovelace", 6
    file = io.BytesIO()
    Pillow.fromarray(np.arange(96, dtype=np.uint8).reshape(4, 8, 3)).save(file, "PNG", exif=exif)
    cells = [{"bytes": file.getvalue(), "path": "/home/ada/a.png"}, {"bytes": b"no image", "path": None}]
    dataset = Dataset.from_dict({"image": cells}, features=Features({"image": Image()}))
    for form in ("parquet", "disk"):
        with pytest.raises(PublishError, match="split train, column 'image', row 1: cannot identify image file"):
            write_splits({"train": dataset}, tmp_path / form, form)
        assert not (tmp_path / form).exists()
        write_splits({"train": dataset}, tmp_path / form, form, skip=True)
        assert not [path for path in (tmp_path / form).rglob("*") if path.is_file() and b"Ada" in path.read_bytes()]
        back = read(tmp_path / form, form)["train"]
        assert back[0]["image"].size == (4, 8) and back[1]["image"] is None
        assert np.array_equal(np.asarray(back[0]["image"]), np.asarray(dataset[0]["image"])), "still turned"


# Shards


def test_a_long_split_is_several_files(tmp_path: Path) -> None:
    whole = pictures(200, size=16, note=[f"n{row}" for row in range(200)])
    limit = 20_000
    made = write_shards(whole, tmp_path / "keep", "train", shard_bytes=limit)
    n = len(made.files)
    assert n > 9 and [path.name for path in made.files] == [f"train-{k:05d}-of-{n:05d}.parquet" for k in range(n)]
    assert sorted(made.files) == sorted((tmp_path / "keep").iterdir()) and made.n_rows == 200 and made.nulls == {}
    tables = [pq.read_table(path) for path in made.files]
    assert all(table.nbytes < limit for table in tables) and all(table.nbytes > limit / 2 for table in tables[:-1])
    assert made.n_bytes == pytest.approx(sum(table.nbytes for table in tables), rel=0.1)
    for path in made.files:
        # Without a card, each one still says what its columns are.
        assert Features.from_arrow_schema(pq.read_schema(path)) == whole.features
    back = load_dataset("parquet", data_dir=str(tmp_path / "keep"))["train"]
    assert back.features == whole.features and back["note"] == whole["note"] and encoded(back) == encoded(whole)


def test_one_file_is_what_datasets_writes(tmp_path: Path) -> None:
    """Row groups, chunks, page index, compression: by these the Hub finds what two versions share, and the viewer a row."""
    rng = np.random.default_rng(0)
    words = [rng.bytes(int(rng.integers(50, 1500))).hex() for _ in range(6000)]
    long = Dataset.from_dict({"text": words, "lists": [["x"] * (row % 3) for row in range(6000)]})
    for name, whole in {"images": pictures(40, size=160, note=[f"n{row}" for row in range(40)]), "texts": long}.items():
        whole.to_parquet(str(tmp_path / "theirs.parquet"))
        ours = write_shards(whole, tmp_path / name, "train").files[0]
        assert ours.stat().st_size > 2_000_000 and ours.read_bytes() == (tmp_path / "theirs.parquet").read_bytes()


def test_row_groups_are_as_long_as_the_viewer_expects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "ROW_GROUP_BYTES", 50_000)
    path = write_shards(pictures(300, size=16), tmp_path, "train").files[0]
    about = pq.ParquetFile(path).metadata
    groups = [about.row_group(k) for k in range(about.num_row_groups)]
    assert len(groups) > 3 and all(25_000 < group.total_byte_size <= 50_000 for group in groups[:-1])
    assert groups[0].column(0).has_offset_index and sum(group.num_rows for group in groups) == 300


def test_equal_rows_give_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the table lies in memory: in pieces, as a view, with nulls cut off, from disk."""
    monkeypatch.setattr(files, "ROW_GROUP_BYTES", 3_000)
    notes = [None if row % 7 == 3 else f"n{row}" for row in range(120)]
    whole = pictures(120, note=notes, numbers=[[row] * (row % 4) for row in range(120)])
    longer = concatenate_datasets([whole.select(range(50, 120)), whole, whole.select([3])])
    whole.save_to_disk(str(tmp_path / "disk"))
    others = {
        "pieces": concatenate_datasets([whole.select(range(0, 33)), whole.select(range(33, 34)), whole.select(range(34, 120))]),
        "slice": longer.select(range(70, 190)),
        "view": whole.select(list(reversed(range(120)))).flatten_indices().select(list(reversed(range(120)))),
        "disk": load_from_disk(str(tmp_path / "disk")),
        "formatted": whole.with_format("numpy"),
    }
    for media in (True, False):
        columns = whole.column_names if media else whole.column_names[1:]
        made = write_shards(whole.select_columns(columns), tmp_path / f"whole {media}", "train", shard_bytes=9_000)
        expected = [path.read_bytes() for path in made.files]
        assert len(expected) > 3 or not media
        for name, other in others.items():
            made = write_shards(other.select_columns(columns), tmp_path / f"{name} {media}", "train", shard_bytes=9_000)
            assert [path.read_bytes() for path in made.files] == expected, name


def test_columns_of_every_type_come_back(tmp_path: Path) -> None:
    features = Features(
        {
            "matrix": Array2D((2, 3), "float32"),
            "lists": List(List(Value("int16"))),
            "vector": List(Value("float64"), length=2),
            "struct": {"text": Value("large_string"), "when": Value("timestamp[us]"), "raw": Value("binary")},
            "many": List(ClassLabel(names=["a", "b"])),
            "nothing": Value("null"),
            "flag": Value("bool"),
        }
    )
    rows = {
        "matrix": [[[1.5, 2, 3], [4, 5, 6]]] * 3,
        "lists": [[[1], []], None, []],
        "vector": [[0.5, 1.5], [2.0, 3.0], [4.0, 5.0]],
        "struct": [{"text": "a", "when": datetime(2026, 11, 23), "raw": b"0"}, None, {"text": None, "when": None, "raw": None}],
        "many": [["a", "b"], [], ["b"]],
        "nothing": [None] * 3,
        "flag": [True, None, False],
    }
    whole = Dataset.from_dict(rows, features=features)
    for form in ("parquet", "disk"):
        write_splits({"train": whole, "test": whole.select([2, 0])}, tmp_path / form, form)
        back = read(tmp_path / form, form)
        assert back["train"].features == features and back["train"][:] == whole[:] and back["test"][:] == whole.select([2, 0])[:]


@FORMS
def test_a_split_without_rows_is_refused(form: Any, tmp_path: Path) -> None:
    empty = {"train": pictures(3), "test": pictures(3).select([])}
    with pytest.raises(RecipeError, match="split 'test' has no rows, and datasets reads no such split; leave it out"):
        write_splits(empty, tmp_path / "toys", form)
    assert list(tmp_path.iterdir()) == []


def test_shards_that_fail_leave_nothing(tmp_path: Path) -> None:
    whole = pictures(60, size=16)
    cells: list[Any] = whole.cast_column("image", Image(decode=False))["image"][:]
    cells[55] = {"bytes": b"no image", "path": None}
    with pytest.raises(PublishError, match="row 55"):
        write_shards(Dataset.from_dict({"image": cells}, features=Features({"image": Image()})), tmp_path, "train", shard_bytes=5_000)
    assert list(tmp_path.iterdir()) == []
