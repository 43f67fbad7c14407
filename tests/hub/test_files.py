from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value, load_dataset, load_from_disk
from PIL import Image as Pillow

from hf_datadiet.errors import RecipeError
from hf_datadiet.hub import files
from hf_datadiet.hub.files import write_splits
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


def test_many_batches_and_a_view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BATCH", 4)
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
