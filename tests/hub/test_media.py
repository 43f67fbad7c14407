from __future__ import annotations

import io
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from datasets import Audio, Dataset, Features, Image, LargeList, List, Value
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags
from PIL import Image as Pillow

from hf_datadiet.errors import PublishError
from hf_datadiet.hub.media import file_name, standing_alone, with_tags

SECRET = "Ada.Lovelace@enigma"


def photograph(seed: int, form: str = "JPEG") -> bytes:
    file = io.BytesIO()
    exif = Pillow.Exif()
    exif[ExifTags.Base.Artist] = SECRET
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    Pillow.fromarray(pixels).save(file, form, exif=exif)
    return file.getvalue()


def cell(seed: int, path: str | None = "/home/ada/a.jpg") -> dict[str, Any]:
    return {"bytes": photograph(seed), "path": path}


def alone(dataset: Dataset, **options: Any) -> tuple[pa.Table, dict[str, int]]:
    return standing_alone(cast(pa.Table, dataset.with_format("arrow")[:]), dataset.features, **options)


def pixels(value: Any) -> Any:
    """The decoded images of a value, wherever in it they are."""
    if isinstance(value, Pillow.Image):
        return np.asarray(value).tolist()
    if isinstance(value, dict):
        return {key: pixels(part) for key, part in value.items()}
    return [pixels(part) for part in value] if isinstance(value, list) else value


NESTED = {
    "plain": (Image(), [cell(0), None, cell(1)]),
    "list": (List(Image()), [[cell(0), cell(1)], [], None]),
    "list with nulls": (List(Image()), [[cell(0), None], [None], [cell(2)]]),
    "pairs": (List(Image(), length=2), [[cell(0), cell(1)], [cell(2), cell(3)], [cell(4), cell(5)]]),
    "large list": (LargeList(Image()), [[cell(0)], [], [cell(1), cell(2)]]),
    "struct": ({"image": Image(), "n": Value("int64")}, [{"image": cell(0), "n": 1}, {"image": None, "n": 2}, None]),
    "list of structs": (List({"image": Image(), "box": List(Value("int64"))}), [[{"image": cell(0), "box": [1, 2]}], [], None]),
    "list of lists": (List(List(Image())), [[[cell(0)], [cell(1), cell(2)]], [[]], []]),
}


@pytest.mark.parametrize("kind", NESTED)
def test_images_are_found_wherever_they_are(kind: str) -> None:
    feature, cells = NESTED[kind]
    dataset = Dataset.from_dict({"x": cells, "n": [1, 2, 3]}, features=Features({"x": feature, "n": Value("int8")}))
    for rows in (dataset, dataset.select([2, 0, 1]), dataset.select([1, 2])):
        table, nulls = alone(rows)
        stream = io.BytesIO()
        with pa.ipc.new_stream(stream, table.schema) as writer:
            writer.write_table(table)
        assert SECRET.encode() not in stream.getvalue() and b"/home" not in stream.getvalue() and nulls == {}
        assert table.schema == dataset.features.arrow_schema and table["n"].to_pylist() == rows["n"]
        assert pixels(Dataset(table)[:]["x"]) == pixels(rows[:]["x"]), "in their places, with the same pixels"
    assert SECRET.encode() in dataset.data.table.to_batches()[0].serialize().to_pybytes(), "it was there"


def test_files_are_read(tmp_path: Path) -> None:
    for row in range(3):
        (tmp_path / f"{row}.jpg").write_bytes(photograph(row))
    dataset = Dataset.from_dict({"x": [str(tmp_path / f"{row}.jpg") for row in range(3)]}, features=Features({"x": Image()}))
    expected = pixels(dataset[:]["x"])
    table, _ = alone(dataset)
    for row in range(3):
        (tmp_path / f"{row}.jpg").unlink()
    assert [value["path"] for value in table["x"].to_pylist()] == ["0.jpg", "1.jpg", "2.jpg"]
    assert pixels(Dataset(table)[:]["x"]) == expected


def test_a_column_that_is_not_to_be_decoded_is_cleaned_as_well() -> None:
    table, _ = alone(Dataset.from_dict({"x": [cell(0)]}, features=Features({"x": Image(decode=False)})))
    assert SECRET.encode() not in table["x"][0]["bytes"].as_py()


BAD = {
    "no image": ({"bytes": b"no image", "path": "/home/ada/x.png"}, "cannot identify image file; mend the data"),
    "empty": ({"bytes": b"", "path": None}, "cannot identify image file; mend the data"),
    "half a picture": ({"bytes": photograph(0, "PNG")[:99], "path": None}, "is cut off; mend the data"),
    "a file that is gone": (
        {"bytes": None, "path": "/home/ada/gone.png"},
        r"cannot be read \(FileNotFoundError: gone.png\); mend the data",
    ),
    "nothing": ({"bytes": None, "path": None}, "has neither bytes nor a file; mend the data"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("nested", [False, True])
def test_what_cannot_be_read_is_named_or_null(kind: str, nested: bool) -> None:
    bad, message = BAD[kind]
    rows: list[Any] = [[cell(0), cell(1)], [cell(2), bad], [], [bad, bad]] if nested else [cell(0), bad, cell(1), bad]
    schema = Features({"x": List(Image()) if nested else Image()}).arrow_schema
    dataset = Dataset(pa.table([pa.array(rows, schema.field("x").type)], schema=schema))  # from_dict refuses a cell with nothing in it
    with pytest.raises(PublishError, match=rf"^split test, column 'x', row 7001: .*{message}, or .*on_bad_row=skip$"):
        alone(dataset, split="test", first=7000)
    table, nulls = alone(dataset, skip=True)
    found = table["x"].to_pylist()
    there = [[value is not None for value in row] for row in found] if nested else [value is not None for value in found]
    assert there == ([[True, True], [True, False], [], [False, False]] if nested else [True, False, True, False])
    assert nulls == {"x": 3 if nested else 2}


def test_metadata_that_cannot_be_removed_is_never_published() -> None:
    telling = {"bytes": photograph(0, "TIFF"), "path": None}
    features = Features({"x": Image(), "example_id": Value("int64")})
    dataset = Dataset.from_dict({"x": [cell(0), telling], "example_id": [3, 40]}, features=features)
    for skip in (False, True):
        with pytest.raises(
            PublishError, match=r"column 'x', example_id 40: TIFF file with metadata that cannot be removed; save .* as PNG or JPEG"
        ):
            alone(dataset, skip=skip)
    with pytest.raises(PublishError, match="column 'x', row 11: TIFF file"):
        alone(dataset.remove_columns("example_id"), first=10)


def test_other_media_keep_their_tags_and_say_so() -> None:
    features = Features({"a": Audio(decode=False), "b": List({"c": Audio(decode=False)}), "x": Image(), "n": Value("int64")})
    sound = {"bytes": b"RIFF" + SECRET.encode(), "path": "/home/ada/song.wav"}
    table = pa.table({"a": [sound], "b": [[{"c": sound}]], "x": [cell(0)], "n": [1]})
    made, _ = standing_alone(table.cast(features.arrow_schema), features)
    assert made["a"].to_pylist() == [{"bytes": sound["bytes"], "path": "song.wav"}] == [made["b"][0][0]["c"].as_py()]
    assert with_tags(features) == ["a", "b"]


# Names


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/home/ada/a b.jpg", "a b.jpg"),
        ("a.jpg", "a.jpg"),
        ("C:\\Users\\ada\\a.jpg", "a.jpg"),
        ("https://host/x/a.jpg?token=s3cret#top", "a.jpg"),
        ("zip://images/é.png::/home/ada/all.zip", "é.png"),
        ("hf://datasets/o/n@main/a.jpg", "a.jpg"),
        ("a?b.jpg", "a?b.jpg"),
        ("/home/ada/", None),
        ("..", None),
        ("a\nb.jpg", None),
        ("a\u202egpj.exe", None),
        ("C:a.jpg", None),
        ("x" * 300, None),
        ("", None),
        (None, None),
    ],
)
def test_of_a_path_the_name_stays(path: str | None, name: str | None) -> None:
    assert file_name(path) == name


@given(st.text(alphabet=st.sampled_from("ab/\\.: ?#\0\n\u202e\u2028é~")))
def test_no_name_leads_anywhere(path: str) -> None:
    name = file_name(path)
    if name is not None:
        assert name and name.isprintable() and not set(name) & set("/\\\0\n") and name not in (".", "..") and name in path
        assert (Path("/somewhere") / name).resolve().parent == Path("/somewhere")
