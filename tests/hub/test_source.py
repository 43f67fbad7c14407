from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value, concatenate_datasets
from PIL import Image as Pillow
from sklearn.datasets import load_digits

from hf_datadiet.errors import RecipeError, SourceError
from hf_datadiet.hub.source import Pinned, content_digest, pin
from hf_datadiet.recipe import HeldOut, LabelNoise, SourceSpec
from hf_datadiet.records import UNLABELLED
from hf_datadiet.tasks.image import ImageTask
from tests.synthetic import CLASSES, pictures

TASK = ImageTask()
ROLES = {"image": "image", "label": "label"}


def opened(spec: SourceSpec, **splits: Dataset) -> Pinned:
    return pin(spec, TASK.find_columns, splits or None)


def relabelled(label: Any, feature: Any, name: str = "label") -> Dataset:
    """As many pictures as labels, with a label column of that feature."""
    whole = pictures(len(label)).remove_columns("label")
    return concatenate_datasets([whole, Dataset.from_dict({name: label}, features=Features({name: feature}))], axis=1)


# Where rows come from


def test_the_digits_are_those_of_scikit_learn() -> None:
    pinned = opened(SourceSpec(sample="digits"))
    bunch: Any = load_digits()
    assert pinned.record.n_rows == 1797 and pinned.record.classes == tuple("0123456789")
    assert (pinned.record.name, pinned.record.split, pinned.record.columns) == ("sample:digits", "train", ROLES)
    assert pinned.label.tolist() == bunch.target.tolist() and pinned.scored.tolist() == list(range(1797))
    for row in (0, 900, 1796):
        pixels = np.asarray(pinned.dataset[row]["image"])
        assert pixels.shape == (8, 8) and np.array_equal(np.rint(pixels / 255 * 16), bunch.images[row])
    assert pixels.max() == 255, "full ink is white"


@pytest.fixture
def two() -> DatasetDict:
    return DatasetDict({"train": pictures(12, seed=1), "test": pictures(6, seed=2)})


def test_every_form_on_disk_is_the_same_source(two: DatasetDict, tmp_path: Path) -> None:
    two["train"].to_parquet(str(tmp_path / "one.parquet"))
    (tmp_path / "folder").mkdir()
    for name, split in two.items():
        split.to_parquet(str(tmp_path / "folder" / f"{name}.parquet"))
    two.save_to_disk(str(tmp_path / "dict"))
    two["train"].save_to_disk(str(tmp_path / "single"))
    in_memory = opened(SourceSpec(), train=two["train"])
    assert in_memory.record.name == "in-memory"
    for name in ("one.parquet", "folder", "dict", "single"):
        spec = SourceSpec(path=str(tmp_path / name), test=HeldOut(split="test") if name in ("folder", "dict") else None)
        pinned = opened(spec)
        assert pinned.record.name == name, "the name, and not the path"
        assert pinned.record.digest == in_memory.record.digest and pinned.record.classes == CLASSES
        assert pinned.label.tolist() == two["train"]["label"]
        if spec.test is not None:
            assert pinned.test is not None and pinned.test_id.tolist() == list(range(6))
            assert pinned.test_label.tolist() == two["test"]["label"] and pinned.scored.size == 12
            assert np.array_equal(np.asarray(pinned.test[3]["image"]), np.asarray(two["test"][3]["image"]))


def test_a_path_may_use_an_environment_variable(two: DatasetDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two.save_to_disk(str(tmp_path / "toys"))
    monkeypatch.setenv("TOYS_ROOT", str(tmp_path))
    assert opened(SourceSpec(path="$TOYS_ROOT/toys")).record.n_rows == 12
    monkeypatch.delenv("TOYS_ROOT")
    with pytest.raises(SourceError, match="uses an environment variable that is not set"):
        opened(SourceSpec(path="$TOYS_ROOT/toys"))


def test_splits(two: DatasetDict) -> None:
    with pytest.raises(SourceError, match=r"source has no split 'validation'; it has: train, test; set source.split"):
        opened(SourceSpec(split="validation"), **two)
    assert opened(SourceSpec(split="test"), **two).record.n_rows == 6
    with pytest.raises(SourceError, match=r"split 'test' is empty; choose another with source.test.split, or set source.test.fraction=0.2"):
        opened(SourceSpec(test=HeldOut(split="test")), train=two["train"], test=two["test"].select([]))
    with pytest.raises(SourceError, match="split 'train' is empty"):
        opened(SourceSpec(), train=two["train"].select([]))
    for name in ("train", "dev"):
        with pytest.raises(SourceError, match=f"source.test.split '{name}' is no other split; there are: test"):
            opened(SourceSpec(test=HeldOut(split=name)), **two)
    with pytest.raises(SourceError, match=r"there are: none, use source.test.fraction=0.2"):
        opened(SourceSpec(test=HeldOut(split="test")), train=two["train"])


# Which columns


def test_columns_are_found_by_their_features() -> None:
    renamed = pictures(12).rename_columns({"image": "photo", "label": "species"})
    assert opened(SourceSpec(), train=renamed).record.columns == {"image": "photo", "label": "species"}


def test_columns_may_be_named() -> None:
    second = pictures(12).rename_columns({"image": "back", "label": "colour"})
    both = concatenate_datasets([pictures(12).rename_columns({"image": "front", "label": "kind"}), second], axis=1)
    with pytest.raises(
        SourceError, match=r"cannot tell the image column: candidates are 2 \(front, back\); name it with source.columns.image"
    ):
        opened(SourceSpec(), train=both)
    with pytest.raises(SourceError, match=r"cannot tell the label column: candidates are 2 \(kind, colour\)"):
        opened(SourceSpec(columns={"image": "front"}), train=both)
    named = {"image": "front", "label": "colour"}
    assert opened(SourceSpec(columns=named), train=both).record.columns == named
    plain = both.rename_columns({"front": "image", "kind": "label"})
    assert opened(SourceSpec(), train=plain).record.columns == ROLES, "the role's own name wins"
    with pytest.raises(SourceError, match=r"source.columns.label names 'colour'; the dataset has: image, label"):
        opened(SourceSpec(columns={"label": "colour"}), train=pictures(12))
    with pytest.raises(RecipeError, match="no role 'text'; its roles are image and label"):
        opened(SourceSpec(columns={"text": "image"}), train=pictures(12))


def test_absent_columns() -> None:
    with pytest.raises(SourceError, match="cannot tell the image column: candidates are none among label"):
        opened(SourceSpec(), train=pictures(12).select_columns(["label"]))
    with pytest.raises(SourceError, match="cannot tell the label column: candidates are none among image"):
        opened(SourceSpec(), train=pictures(12).select_columns(["image"]))
    with pytest.raises(SourceError, match="split 'test' has no column 'label'; hold out a fraction"):
        opened(SourceSpec(test=HeldOut(split="test")), train=pictures(12), test=pictures(6).select_columns(["image"]))


@pytest.mark.parametrize("kind", ["int8", "int32", "int64", "uint8", "uint16", "uint64"])
def test_whole_numbers_are_labels(kind: str) -> None:
    label = [0, 2, None, 2, 0, 0]
    pinned = opened(SourceSpec(), train=relabelled(label, Value(kind)))
    assert pinned.label.tolist() == [0, 2, -1, 2, 0, 0] and pinned.label.dtype == np.int32
    assert pinned.record.classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("label", "feature", "message"),
    [
        (["a", "b", "c", None], Value("string"), "holds 3 texts, all different, and no classes; name another: source.columns.label=NAME"),
        ([0.0, 1.5, 0.0], Value("float32"), "holds 1.5, which is no class; labels are class names or whole numbers from 0"),
        ([0.0, float("inf"), 0.0], Value("float64"), "holds inf, which is no class"),
        ([0.0, 1e300, 0.0], Value("float64"), r"holds 1e\+300, which is no class"),
        (
            [True, False, True],
            Value("bool"),
            r"holds Value\('bool'\); labels are class names or whole numbers from 0: write them so, or name",
        ),
        ([0, 1, -2], Value("int64"), "holds -2..1 where 0..1 are classes; use these, and null or -1 for no label"),
        ([0, 1, 2**32], Value("int64"), "holds 0..4294967296"),
        ([0, 0, None], Value("int64"), "has labels of fewer than two classes"),
        ([-1, -1, None], ClassLabel(names=["a", "b"]), "has labels of fewer than two classes"),
        ([0, 0, 0], ClassLabel(names=["a"]), "has labels of fewer than two classes"),
        ([1, 1, None], ClassLabel(names=["a", "b"]), "has labels of fewer than two classes"),
        (["a", "a", None], Value("string"), "has labels of fewer than two classes"),
    ],
)
def test_labels_that_are_none(label: list[Any], feature: Any, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        opened(SourceSpec(), train=relabelled(label, feature))


def test_class_names_get_their_places_in_sorted_order() -> None:
    """Whatever the order of the rows, and recorded: the mapping is that of the scored split."""
    label = ["dog", "cat", None, "dog", "ship", "cat"]
    for kind in ("string", "large_string"):
        pinned = opened(SourceSpec(), train=relabelled(label, Value(kind)))
        assert pinned.record.classes == ("cat", "dog", "ship") and pinned.label.tolist() == [1, 0, UNLABELLED, 1, 2, 0]
    backwards = opened(SourceSpec(), train=relabelled(label[::-1], Value("string")))
    assert backwards.record.classes == ("cat", "dog", "ship") and backwards.label.tolist() == [0, 2, 1, UNLABELLED, 0, 1]
    named = opened(SourceSpec(columns={"label": "word"}), train=relabelled(["x", "y", "x"], Value("string"), "word"))
    assert named.record.classes == ("x", "y")

    test = relabelled(["ship", None, "dog"], Value("string"))
    held = opened(SourceSpec(test=HeldOut(split="test")), train=relabelled(label, Value("string")), test=test)
    assert held.test_id.tolist() == [0, 2] and held.test_label.tolist() == [2, 1], "numbered as in the scored split"
    with pytest.raises(
        SourceError, match="the held-out rows have the class 'moon' in column 'label', which the rows to be scored have not"
    ):
        opened(SourceSpec(test=HeldOut(split="test")), train=relabelled(label, Value("string")), test=relabelled(["moon"], Value("string")))


def test_whole_floats_are_labels() -> None:
    """Readers of CSV make floats of integers with gaps."""
    pinned = opened(SourceSpec(), train=relabelled([0.0, 2.0, None, float("nan"), -1.0, 1.0], Value("float64")))
    assert pinned.label.tolist() == [0, 2, -1, -1, -1, 1] and pinned.record.classes == ("0", "1", "2")


# The user's own ids


@pytest.mark.parametrize(("ids", "kind"), [([f"img-{row}" for row in range(12)], "string"), (list(range(70, 58, -1)), "int32")])
def test_own_ids_are_carried_and_pinned(ids: list[Any], kind: str) -> None:
    whole = pictures(12, uid=ids).cast_column("uid", Value(kind))
    pinned = opened(SourceSpec(id_column="uid", test=HeldOut(fraction=0.25)), train=whole)
    assert pinned.source_id is not None and pinned.source_id.tolist() == ids and pinned.test_source_id is pinned.source_id
    assert pinned.record.columns == {**ROLES, "id": "uid"}
    renamed = pictures(12, uid=[*ids[:-1], ids[0] * 2]).cast_column("uid", Value(kind))
    assert opened(SourceSpec(id_column="uid"), train=renamed).record.digest != pinned.record.digest
    test = pictures(4, uid=ids[4:8]).cast_column("uid", Value(kind))
    held = opened(SourceSpec(id_column="uid", test=HeldOut(split="test")), train=whole, test=test)
    assert held.test_source_id is not None and held.test_source_id.tolist() == ids[4:8]
    with pytest.raises(SourceError, match="split 'test' has no column 'uid'"):
        opened(SourceSpec(id_column="uid", test=HeldOut(split="test")), train=whole, test=pictures(4))


@pytest.mark.parametrize(
    ("ids", "kind", "message"),
    [
        (["a", "b", "c", "b"], "string", "source.id_column 'uid' has b in rows 1 and 3; every row needs an id of its own"),
        ([1, 2, 1, 4], "int64", "source.id_column 'uid' has 1 in rows 0 and 2"),
        ([1, None, 2, None], "int64", "source.id_column 'uid' is null in 2 rows; give every row an id, or leave id_column out"),
        ([0.5, 1.0, 2.0, 3.0], "float64", r"source.id_column 'uid' holds Value\('float64'\); ids are integers or strings"),
    ],
)
def test_ids_that_are_none(ids: list[Any], kind: str, message: str) -> None:
    whole = concatenate_datasets([pictures(4), Dataset.from_dict({"uid": ids}, features=Features({"uid": Value(kind)}))], axis=1)
    with pytest.raises(SourceError, match=message):
        opened(SourceSpec(id_column="uid"), train=whole)


def test_numbers_above_the_largest_integer() -> None:
    huge = Dataset(pa.table({"huge": pa.array([0, 1, 2**63], pa.uint64())}))
    whole = concatenate_datasets([pictures(3), huge], axis=1)
    with pytest.raises(SourceError, match=r"label column 'huge' holds numbers above 2\*\*63"):
        opened(SourceSpec(columns={"label": "huge"}), train=whole)
    with pytest.raises(SourceError, match=r"source.id_column 'huge' holds integers of 2\*\*63 or more; use strings"):
        opened(SourceSpec(id_column="huge"), train=whole)


def test_an_id_column_must_exist() -> None:
    with pytest.raises(SourceError, match=r"source.id_column names 'uid'; the dataset has: image, label"):
        opened(SourceSpec(id_column="uid"), train=pictures(12))


# Rows without a label


def test_rows_without_a_label_are_in_play_and_counted() -> None:
    pinned = opened(SourceSpec(), train=relabelled([0, 1, -1, None, 1, 0], ClassLabel(names=["a", "b"])))
    assert pinned.label.tolist() == [0, 1, UNLABELLED, UNLABELLED, 1, 0]
    assert pinned.scored.tolist() == [0, 1, 2, 3, 4, 5] and pinned.record.n_rows == 6


# What is pinned


def digest(dataset: Dataset) -> str:
    return content_digest(dataset, {"image": "image", "label": "label"})


def test_the_digest_goes_by_content(tmp_path: Path) -> None:
    whole = pictures(12)
    parts = concatenate_datasets([whole.select(range(5)), whole.select(range(5, 12))])
    alike = [
        parts,
        whole.select(reversed(range(12))).select(reversed(range(12))),
        pictures(12, note=list("abcdefghijkl")),
        whole.select_columns(["label", "image"]),
        whole.with_format("numpy"),
        whole.add_column("k", range(12)).remove_columns("k"),
    ]
    assert {digest(other) for other in alike} == {digest(whole)}
    assert content_digest(whole.rename_column("image", "photo"), {"image": "photo", "label": "label"}) == digest(whole)
    with pytest.raises(SourceError, match="the dataset has no column 'photo'; it has: image, label"):
        content_digest(whole, {"image": "photo"})


def test_bytes_and_files_are_the_same_image(tmp_path: Path) -> None:
    whole = pictures(4)
    stored = whole.cast_column("image", Image(decode=False))
    paths = []
    for row, image in enumerate(stored["image"]):
        paths.append(str(tmp_path / f"{row}.png"))
        Path(paths[-1]).write_bytes(image["bytes"])
    on_disk = Dataset.from_dict({"image": paths, "label": whole["label"]}, features=whole.features)
    assert digest(on_disk) == digest(whole)
    moved = tmp_path / "elsewhere.png"
    Path(paths[0]).rename(moved)
    assert digest(Dataset.from_dict({"image": [str(moved), *paths[1:]], "label": whole["label"]}, features=whole.features)) == digest(whole)


def test_the_digest_changes_with_every_row() -> None:
    whole = pictures(12)
    images, label = [np.asarray(image) for image in whole["image"]], whole["label"]

    def made(new_images: list[Any], new_label: list[int]) -> str:
        return digest(Dataset.from_dict({"image": new_images, "label": new_label}, features=whole.features))

    assert made(images, label) == digest(whole)
    pixel = [image.copy() for image in images]
    pixel[7][3, 4, 1] ^= 1
    other = label[:]
    other[5] = (other[5] + 1) % 3
    unlabelled = label[:]
    unlabelled[5] = -1
    swapped = [0, 4, 2, 3, 1, *range(5, 12)]  # rows 1 and 4 have the same label
    assert label[1] == label[4]
    changed = {
        made(pixel, label),
        made(images, other),
        made(images, unlabelled),
        made([images[row] for row in swapped], label),
        made([images[row] for row in reversed(range(12))], list(reversed(label))),
        made(images[:-1], label[:-1]),
    }
    assert len(changed | {digest(whole)}) == 7


def test_neighbouring_values_do_not_run_together() -> None:
    names = ["left", "right"]
    digests = {
        content_digest(Dataset.from_dict({"left": [left], "right": [right]}), {name: name for name in names})
        for left, right in (("ab", "c"), ("a", "bc"), ("abc", ""))
    }
    assert len(digests) == 3


# Rows in play


def test_a_fraction_is_held_out_by_class_and_never_scored() -> None:
    label = [0] * 20 + [1] * 12 + [2] * 8 + [-1] * 5
    whole = relabelled(label, ClassLabel(names=[*CLASSES]))
    pinned = opened(SourceSpec(test=HeldOut(fraction=0.25, seed=1)), train=whole)
    assert pinned.test is pinned.dataset and pinned.dataset is whole
    assert np.bincount(pinned.test_label).tolist() == [5, 3, 2]
    assert pinned.test_label.tolist() == [label[row] for row in pinned.test_id]
    assert np.intersect1d(pinned.test_id, pinned.scored).size == 0
    assert np.union1d(pinned.test_id, pinned.scored).tolist() == list(range(45)), "unlabelled rows are in play"
    assert np.all(np.diff(pinned.test_id) > 0) and np.all(np.diff(pinned.scored) > 0)
    again = opened(SourceSpec(test=HeldOut(fraction=0.25, seed=1)), train=whole)
    other = opened(SourceSpec(test=HeldOut(fraction=0.25, seed=2)), train=whole)
    assert again.test_id.tolist() == pinned.test_id.tolist() != other.test_id.tolist()
    assert pinned.record.digest == opened(SourceSpec(), train=whole).record.digest, "the whole split is pinned"


def test_a_split_is_held_out_whole_but_for_its_unlabelled_rows() -> None:
    test = relabelled([0, -1, 1, None, 1], ClassLabel(names=[*CLASSES]))
    pinned = opened(SourceSpec(test=HeldOut(split="final")), train=pictures(12), final=test)
    assert pinned.test is test and pinned.test_id.tolist() == [0, 2, 4] and pinned.test_label.tolist() == [0, 1, 1]
    assert pinned.scored.tolist() == list(range(12)), "ids of another split are not taken away"
    with pytest.raises(SourceError, match="split 'final' has no labels"):
        opened(SourceSpec(test=HeldOut(split="final")), train=pictures(12), final=test.select([1, 3]))


def test_classes_of_both_splits_are_the_same() -> None:
    more = pictures(8, classes=("cat", "dog", "ship", "moon"))
    with pytest.raises(SourceError, match="split 'test' has 4 classes, split 'train' has 3"):
        opened(SourceSpec(test=HeldOut(split="test")), train=pictures(12), test=more)
    swapped = pictures(6, classes=("dog", "cat", "ship"))
    with pytest.raises(SourceError, match="splits 'test' and 'train' name their classes differently"):
        opened(SourceSpec(test=HeldOut(split="test")), train=pictures(12), test=swapped)
    fewer = relabelled([0, 1], Value("int64"))
    assert opened(SourceSpec(test=HeldOut(split="test")), train=relabelled([0, 1, 2], Value("int64")), test=fewer).test_id.size == 2


def test_limit_is_a_stratified_draw_that_keeps_the_ids() -> None:
    label = [0] * 40 + [1] * 20 + [2] * 20
    whole = relabelled(label, ClassLabel(names=[*CLASSES]))
    spec = SourceSpec(limit=20, limit_seed=3)
    pinned = opened(spec, train=whole)
    assert np.bincount([label[row] for row in pinned.scored]).tolist() == [10, 5, 5]
    assert np.all(np.diff(pinned.scored) > 0) and pinned.scored.max() > 20, "ids are those of the full split"
    assert pinned.record.n_rows == 80 and pinned.label.size == 80
    assert pinned.record.digest == opened(SourceSpec(), train=whole).record.digest
    assert opened(spec, train=whole).scored.tolist() == pinned.scored.tolist()
    assert opened(SourceSpec(limit=20, limit_seed=4), train=whole).scored.tolist() != pinned.scored.tolist()
    for limit in (80, 1000):
        assert opened(SourceSpec(limit=limit), train=whole).scored.tolist() == list(range(80))
    held = opened(SourceSpec(limit=20, test=HeldOut(fraction=0.5)), train=whole)
    assert held.scored.size == 20 and held.test_id.size == 40 and np.intersect1d(held.scored, held.test_id).size == 0


def test_some_labelled_row_must_be_left() -> None:
    with pytest.raises(SourceError, match="no labelled row is left to be scored"):
        opened(SourceSpec(test=HeldOut(fraction=0.99)), train=pictures(12))


# Label noise


def test_noise_changes_exactly_so_many_labels_to_wrong_ones() -> None:
    label = [row % 3 for row in range(90)] + [-1] * 10
    whole = relabelled(label, ClassLabel(names=[*CLASSES]))
    clean = opened(SourceSpec(test=HeldOut(fraction=0.2)), train=whole)
    spec = SourceSpec(test=HeldOut(fraction=0.2), label_noise=LabelNoise(fraction=0.37, seed=5))
    pinned = opened(spec, train=whole)
    assert clean.noise is None and pinned.noise is not None
    noise = pinned.noise
    labelled = clean.scored[clean.label[clean.scored] != UNLABELLED]
    changed = np.flatnonzero(pinned.label != clean.label)
    assert labelled.size == 72 and changed.size == round(0.37 * 72) == 27
    assert changed.tolist() == noise.ids.tolist() and np.isin(changed, labelled).all(), "only rows in play, never held-out ones"
    assert noise.before.tolist() == clean.label[changed].tolist() and noise.after.tolist() == pinned.label[changed].tolist()
    assert np.all(noise.before != noise.after) and set(noise.after.tolist()) == {0, 1, 2}
    assert pinned.scored.tolist() == clean.scored.tolist() and pinned.test_label.tolist() == clean.test_label.tolist()
    assert pinned.record == clean.record, "the digest is that of the clean source"
    assert whole["label"] == label, "the dataset is untouched"
    assert opened(spec, train=whole).label.tolist() == pinned.label.tolist()
    other = SourceSpec(test=HeldOut(fraction=0.2), label_noise=LabelNoise(fraction=0.37, seed=6))
    assert opened(other, train=whole).label.tolist() != pinned.label.tolist()


def test_noise_is_uniform_over_the_other_classes() -> None:
    tiny = Dataset.from_dict(
        {"image": [b"x"] * 3000, "label": [0, 1, 2] * 1000}, features=Features({"image": Value("binary"), "label": Value("int64")})
    )
    noise = pin(SourceSpec(label_noise=LabelNoise(fraction=0.8)), lambda *_: ROLES, {"train": tiny}).noise
    assert noise is not None
    pairs = np.bincount(3 * noise.before + noise.after, minlength=9)
    assert pairs[[0, 4, 8]].tolist() == [0, 0, 0]
    assert np.abs(pairs[[1, 2, 3, 5, 6, 7]] - 400).max() < 80, "4 standard deviations of a count of 400"


def test_noise_and_limit() -> None:
    pinned = opened(
        SourceSpec(limit=30, label_noise=LabelNoise(fraction=0.5)), train=relabelled([0, 1, 2] * 30, ClassLabel(names=[*CLASSES]))
    )
    assert pinned.noise is not None and pinned.noise.ids.size == 15 and np.isin(pinned.noise.ids, pinned.scored).all()


def test_the_digest_of_pictures_in_lists_and_dictionaries_is_that_of_their_bytes() -> None:
    def films(*shades: int) -> Dataset:
        frames = [{"frames": [Pillow.new("RGB", (4, 4), (shade, 0, 0)), Pillow.new("RGB", (4, 4))], "n": 2} for shade in shades]
        features = Features({"film": {"frames": List(Image()), "n": Value("int64")}, "label": Value("int64")})
        return Dataset.from_dict({"film": frames, "label": [0] * len(shades)}, features=features)

    roles = {"film": "film", "label": "label"}
    digest = content_digest(films(1, 2), roles)
    assert digest == content_digest(films(1, 2), roles) == content_digest(films(1, 2).with_format("numpy"), roles)
    assert digest != content_digest(films(2, 1), roles) and digest != content_digest(films(1, 3), roles)
