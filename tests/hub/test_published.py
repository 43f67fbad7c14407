from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import ClassLabel, Dataset, Features, Image, List, Value, concatenate_datasets, load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags
from PIL import Image as Pillow

from hf_datadiet.errors import CoverageError, PublishError, RecipeError, StaleRecordError
from hf_datadiet.hub import files
from hf_datadiet.hub.files import write_shards
from hf_datadiet.hub.published import require_config_name, scores_dataset, scores_meta, table_from, variant_splits
from hf_datadiet.hub.source import Pinned, pin
from hf_datadiet.recipe import HeldOut, LabelNoise, SourceSpec
from hf_datadiet.records import UNLABELLED, ScoreColumn, ScoreTable, Selection
from hf_datadiet.tasks.image import ImageTask
from hf_datadiet.tasks.text import TextTask
from tests.synthetic import CLASSES, PROVENANCE, column, pictures, same, score_table, selection


def repository(folder: Path, configs: Mapping[str, Mapping[str, Dataset]], **options: Any) -> Path:
    """A folder as it would lie on the Hub, with a card that says no more than where the files are."""
    about = []
    for name, splits in configs.items():
        for split, rows in splits.items():
            write_shards(rows, folder / name, split, **options)
        about.append({"config_name": name, "data_files": [{"split": split, "path": f"{name}/{split}-*"} for split in splits]})
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': about})}---\n")
    return folder


def plain(dataset: Dataset) -> list[dict[str, Any]]:
    """The rows as they lie in Arrow; of an image in a file its bytes, and of a path the name."""

    def settled(value: Any) -> Any:
        if isinstance(value, dict) and set(value) == {"bytes", "path"}:
            content = Path(value["path"]).read_bytes() if value["bytes"] is None else value["bytes"]
            return {"bytes": content, "path": value["path"] and Path(value["path"]).name}
        if isinstance(value, dict):
            return {key: settled(part) for key, part in value.items()}
        return [settled(part) for part in value] if isinstance(value, list) else value

    arrow: Any = dataset.with_format("arrow")[:]
    return [settled(row) for row in arrow.to_pylist()]


# Scores


def read_back(table: ScoreTable, folder: Path, **options: Any) -> ScoreTable:
    """Through files, and through JSON as others understand it."""
    written = {"scores": {table.source.split: scores_dataset(table, ids_only=bool(options))}}
    loaded = load_dataset(str(repository(folder, written)), "scores", cache_dir=str(folder / "cache"))
    meta = json.loads(json.dumps(scores_meta(table), allow_nan=False))
    return table_from(loaded[table.source.split], meta, **options)


def tables() -> dict[str, ScoreTable]:
    whole = score_table()
    n = whole.example_id.size
    some = {**whole.columns, "none": dataclasses.replace(whole.columns["el2n"], per_seed=None, se=None, reliability=-np.inf)}
    strings = np.array([f"ü{row}" for row in range(n)], dtype=object)
    return {
        "three seeds": whole,
        "one seed": score_table(seeds=(4,)),
        "odd seeds": score_table(seeds=(10_000, 3, 7)),
        "own ids": dataclasses.replace(whole, source_id=strings),
        "own numbers": dataclasses.replace(whole, source_id=10**12 + np.arange(n)),
        "skipped": dataclasses.replace(whole, skipped={6: "image is null", 14: "cannot identify image file"}),
        "some without values of seeds": dataclasses.replace(whole, columns=some),
        "all labelled": score_table(label=np.arange(n) % 3),
    }


@pytest.mark.parametrize("name", tables())
def test_the_scores_come_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    table = tables()[name]
    back = read_back(table, tmp_path)
    same(back, dataclasses.replace(table, source=dataclasses.replace(table.source, columns=dict(table.source.columns))))
    assert back.digest == table.digest and scores_meta(back) == scores_meta(table)


names = st.sampled_from(["el2n", "el2n_e0", "grand last", "märgin", "x_seed"])
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=60)
@given(data=st.data())
def test_any_scores_come_back(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    n, seeds = data.draw(st.integers(1, 6)), tuple(data.draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=3, unique=True)))
    label = np.array(data.draw(st.lists(st.integers(-1, 2), min_size=n, max_size=n)), dtype=np.int32)
    label[0] = 0
    columns = {}
    for name in data.draw(st.lists(names, min_size=1, max_size=4, unique=True)):
        values = data.draw(st.lists(st.lists(floats, min_size=n, max_size=n), min_size=len(seeds), max_size=len(seeds)))
        per_seed = np.array(values, np.float32)
        per_seed[:, label == UNLABELLED] = np.nan
        columns[name] = ScoreColumn(
            score=name.split("_")[0],
            epoch=data.draw(st.integers(0, 9)),
            mean=per_seed[0],
            se=data.draw(st.none() | st.just(per_seed[-1])),
            per_seed=data.draw(st.none() | st.just(per_seed)),
            higher_is=data.draw(st.sampled_from(["harder", "easier", "neither"])),
            low=data.draw(st.sampled_from([0.0, -np.inf])),
            high=data.draw(st.sampled_from([1.5, np.inf])),
            reliability=data.draw(st.none() | st.sampled_from([0.25, -np.inf])),
            origin=data.draw(st.sampled_from(["observed", "training", "logits"])),
        )
    base = score_table(label=[0] * n, n=n)
    table = dataclasses.replace(base, label=label, seeds=seeds, columns=columns)
    written = write_shards(scores_dataset(table), tmp_path_factory.mktemp("any"), "train").files
    meta = json.loads(json.dumps(scores_meta(table), allow_nan=False))
    same(table_from(Dataset(pq.read_table(written[0])), meta), table)


def test_the_columns_of_the_scores() -> None:
    table = dataclasses.replace(tables()["skipped"], source_id=np.array([f"u{row}" for row in range(12)], dtype=object))
    made = scores_dataset(table)
    expected = ["example_id", "source_id", "label", "skipped"]
    for name in table.columns:
        expected += [name, f"{name}_se", f"{name}_seed0", f"{name}_seed1", f"{name}_seed2"]
    assert made.column_names == expected
    assert made.features["label"] == ClassLabel(names=list(CLASSES)) and made.features["example_id"] == Value("int64")
    assert all(made.features[name] == Value("float32") for name in expected[4:])
    assert made["label"] == [None if label == UNLABELLED else label for label in table.label.tolist()]
    assert made["skipped"][3] == "image is null" and made["skipped"][0] is None and made["el2n_seed1"][3] is None
    assert made["el2n_seed1"][4] == float(table.columns["el2n"].per_seed[1, 4])  # pyright: ignore
    assert scores_dataset(table, ids_only=True).column_names == [name for name in expected if name != "label"]


def test_scores_without_labels_take_those_of_the_source(tmp_path: Path) -> None:
    table = tables()["skipped"]
    labels = np.zeros(table.source.n_rows, np.int32)
    labels[table.example_id] = np.arange(12) % 3  # also of the rows that cannot be read
    same(read_back(table, tmp_path, labels=labels), table)
    with pytest.raises(StaleRecordError, match="published without labels; they need those of the source"):
        table_from(scores_dataset(table, ids_only=True), scores_meta(table))


def test_what_was_changed_there_is_found_out() -> None:
    table, meta = score_table(), scores_meta(score_table())
    whole = scores_dataset(table)
    with pytest.raises(StaleRecordError, match="have lost their column 'el2n'"):
        table_from(whole.remove_columns("el2n"), meta)
    values: list[Any] = whole["el2n"][:]
    values[0] = None
    changed = concatenate_datasets(
        [whole.remove_columns("el2n"), Dataset.from_dict({"el2n": values}, features=Features({"el2n": Value("float32")}))], axis=1
    )
    with pytest.raises(CoverageError, match="el2n must be finite"):
        table_from(changed, meta)
    values[0] = 0.125
    changed = concatenate_datasets(
        [whole.remove_columns("el2n"), Dataset.from_dict({"el2n": values}, features=Features({"el2n": Value("float32")}))], axis=1
    )
    assert table_from(changed, meta).digest != table.digest


@pytest.mark.parametrize("name", ["label", "example_id", "skipped", "el2n_se", "el2n_seed1"])
def test_two_columns_of_one_name_are_refused(name: str) -> None:
    table = score_table()
    clash = dataclasses.replace(table, columns={**table.columns, name: table.columns["margin"]}, skipped={6: "image is null"})
    with pytest.raises(PublishError, match=f"would be named '{name}'; score under another name"):
        scores_dataset(clash)


@pytest.mark.parametrize("name", ["data", "scores", "Evidence"])
def test_names_that_no_config_can_have(name: str) -> None:
    with pytest.raises(PublishError, match=f"{name!r}.*give that selection another name"):
        require_config_name(name)


@pytest.mark.parametrize("name", ["all", "default", "train", "keep-50", "a.b", "1e3", "null", "parquet"])
def test_other_names_are_found_again(name: str, tmp_path: Path) -> None:
    require_config_name(name)
    folder = repository(tmp_path / "repo", {name: {"train": pictures(3)}, "other": {"train": pictures(2)}})
    assert len(load_dataset(str(folder), name, cache_dir=str(tmp_path / "cache"))["train"]) == 3


# Selections


def photograph(path: Path, seed: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 5, 3)).astype(np.uint8)).save(path)
    return str(path)


def rich(folder: Path, n: int, seed: int = 0) -> Dataset:
    """Images that lie in files, beside columns of many kinds, one of them named like a score."""
    features = Features(
        {
            "image": Image(),
            "label": ClassLabel(names=[*CLASSES]),
            "margin": Value("string"),
            "lists": List(List(Value("float32"))),
            "about": {"who": Value("string"), "views": List(Image())},
        }
    )
    rows = range(n)
    return Dataset.from_dict(
        {
            "image": [photograph(folder / f"{row}.{'png' if row % 2 else 'jpg'}", seed + row) for row in rows],
            "label": [None if row % 5 == 4 else row % 3 for row in rows],
            "margin": [f"m{row}" for row in rows],
            "lists": [[[row / 7]] * (row % 3) for row in rows],
            "about": [{"who": f"w{row}", "views": [photograph(folder / f"view{row}.png", 99 + row)] * (row % 2)} for row in rows],
        },
        features=features,
    )


TASK = ImageTask()


def scored(pinned: Pinned, seed: int = 0) -> ScoreTable:
    """Invented scores of a source."""
    rng = np.random.default_rng(seed)
    ids, label = pinned.scored, pinned.label[pinned.scored]
    columns = {name: column(rng.random((2, ids.size)), label, score=name) for name in ("el2n", "margin")}
    return ScoreTable(pinned.record, ids, label, (0, 1), columns, PROVENANCE)


def half(table: ScoreTable, **about: Any) -> Selection:
    return selection(table, table.example_id[table.label != UNLABELLED][::2], **about)


def check_variant(
    back: Mapping[str, Dataset], pinned: Pinned, table: ScoreTable, kept: Selection, prefix: str, splits: Mapping[str, Any]
) -> None:
    """What was loaded against the source: `splits` has, by split, its rows and whether they are numbered."""
    added = ["example_id", *(f"{prefix}{name}{suffix}" for name in table.columns for suffix in ("", "_se"))]
    assert list(back) == [pinned.record.split, *splits]
    for name, split in back.items():
        rows = pinned.dataset.select(kept.kept) if name == pinned.record.split else splits[name][0]
        assert split.column_names == [*pinned.dataset.column_names, *added] and len(split) == len(rows)
        assert split.features == pinned.dataset.features | {key: Value("int64" if key == "example_id" else "float32") for key in added}
        found, expected = plain(split), plain(rows.select_columns(pinned.dataset.column_names))
        assert [{key: row[key] for key in pinned.dataset.column_names} for row in found] == expected, name
        if name != pinned.record.split:
            assert all(row[key] is None for row in found for key in added[1:])
            assert [row["example_id"] for row in found] == (splits[name][1] or [None] * len(rows))
    place = {row: k for k, row in enumerate(table.example_id.tolist())}
    for row in plain(back[pinned.record.split]):
        for name, scores in table.columns.items():
            assert row[f"{prefix}{name}"] == float(scores.mean[place[row["example_id"]]])
            assert row[f"{prefix}{name}_se"] == float(scores.se[place[row["example_id"]]])  # pyright: ignore
    assert [row["example_id"] for row in plain(back[pinned.record.split])] == kept.kept.tolist()


def check_alike(splits: Mapping[str, Dataset]) -> None:
    """All splits have the same columns in the same order: loading would fill those that lack, and order them."""
    first = next(iter(splits.values()))
    for split in splits.values():
        assert split.column_names == first.column_names and split.features == first.features


def test_images_in_files_with_all_their_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten shards, absolute paths inside, two further splits; loaded in a fresh cache."""
    given = {name: rich(tmp_path / "private" / name, n, seed) for seed, (name, n) in enumerate({"train": 60, "test": 9, "dev": 4}.items())}
    pinned = pin(SourceSpec(test=HeldOut(split="test")), TASK.find_columns, given)
    table = scored(pinned)
    with pytest.raises(RecipeError, match=r"already has a column 'margin'; choose a prefix .*\(--prefix diet_\)"):
        variant_splits(pinned, table, half(table))
    kept = half(table)
    variant = variant_splits(pinned, table, kept, "diet_")
    assert variant.left_out == {}
    check_alike(variant.splits)
    few = selection(table, table.example_id[:3], name="few")
    others = {"few": variant_splits(pinned, table, few, "diet_").splits, "scores": {"train": scores_dataset(table)}}
    monkeypatch.setattr(files, "BATCH_OF_MEDIA", 2)
    folder = repository(tmp_path / "repo", {"keep-50": variant.splits, **others}, shard_bytes=1_500)
    assert len(list((folder / "keep-50").glob("train-*-of-*.parquet"))) >= 10
    everything = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"private" not in everything and str(tmp_path).encode() not in everything
    for name, chosen in (("keep-50", kept), ("few", few)):
        back = load_dataset(str(folder), name, cache_dir=str(tmp_path / "cache"))
        check_variant(back, pinned, table, chosen, "diet_", {"test": (given["test"], None), "dev": (given["dev"], None)})
        image = back["train"][0]["image"]
        assert np.array_equal(np.asarray(image), np.asarray(pinned.dataset[int(chosen.kept[0])]["image"]))
        assert back["train"].features["about"]["views"] == List(Image())
    same(table_from(load_dataset(str(folder), "scores", cache_dir=str(tmp_path / "cache"))["train"], scores_meta(table)), table)


def labelled(label: Any) -> Features:
    return Features({"text": Value("string"), "label": label})


def texts(n: int, word: str) -> Dataset:
    columns = {"text": [f"{word} {row}" for row in range(n)], "label": [row % 3 for row in range(n)]}
    return Dataset.from_dict(columns, features=labelled(ClassLabel(names=[*CLASSES])))


def test_rows_held_out_of_the_scored_split(tmp_path: Path) -> None:
    given = {"train": texts(30, "a")}
    pinned = pin(SourceSpec(test=HeldOut(fraction=0.2), limit=15), TextTask().find_columns, given)
    assert pinned.scored.size == 15 and pinned.test_id.size == 6
    table = scored(pinned)
    kept = half(table)
    variant = variant_splits(pinned, table, kept)
    check_alike(variant.splits)
    back = load_dataset(str(repository(tmp_path / "repo", {"half": variant.splits})), "half", cache_dir=str(tmp_path / "cache"))
    check_variant(back, pinned, table, kept, "", {"test": (given["train"].select(pinned.test_id), pinned.test_id.tolist())})


@pytest.mark.parametrize(
    ("splits", "name"), [(("train", "test"), "held_out"), (("train", "test", "held_out"), "held_out_2"), (("test",), "held_out")]
)
def test_held_out_rows_take_no_other_splits_name(splits: tuple[str, ...], name: str) -> None:
    given = {split: texts(20 + k, split) for k, split in enumerate(splits)}
    pinned = pin(SourceSpec(split=splits[0], test=HeldOut(fraction=0.2)), TextTask().find_columns, given)
    table = scored(pinned)
    made = variant_splits(pinned, table, half(table)).splits
    assert list(made) == [*splits, name]
    assert [len(made[split]) for split in splits[1:]] == [len(given[split]) for split in splits[1:]]
    assert made[name]["example_id"] == pinned.test_id.tolist()


def test_splits_that_do_not_fit_are_left_out_and_those_that_can_be_made_to_fit_are(tmp_path: Path) -> None:
    whole = texts(12, "a")
    given = {
        "train": whole,
        "fewer": Dataset.from_dict({"text": ["b 0", "b 1"], "label": [1, None]}, features=labelled(ClassLabel(names=["cat", "dog"]))),
        "unlabelled": Dataset.from_dict({"text": ["c 0"], "label": [None]}, features=labelled(Value("null"))),
        "reordered": whole.select(range(4)).select_columns(["label", "text"]),
        "other": Dataset.from_dict({"text": ["d"], "label": [0]}, features=labelled(ClassLabel(names=["dog", "cat"]))),
        "numbers": Dataset.from_dict({"text": ["e"], "label": [0.5]}),
        "more": texts(2, "f").add_column("extra", [1, 2]),
        "less": texts(2, "g").remove_columns("label"),
        "empty": whole.select([]),
    }
    pinned = pin(SourceSpec(), TextTask().find_columns, given)
    table = scored(pinned)
    kept = half(table)
    variant = variant_splits(pinned, table, kept)
    odd = "its columns are not those of train"
    check_alike(variant.splits)
    assert variant.left_out == {"other": odd, "numbers": odd, "more": odd, "less": odd, "empty": "it has no rows"}
    back = load_dataset(str(repository(tmp_path / "repo", {"half": variant.splits})), "half", cache_dir=str(tmp_path / "cache"))
    expected = {name: (given[name], None) for name in ("fewer", "unlabelled", "reordered")}
    check_variant(back, pinned, table, kept, "", expected)


def test_ids_alone(tmp_path: Path) -> None:
    given = {
        "train": texts(20, "a").add_column("uid", [f"u{row}" for row in range(20)]),
        "test": texts(5, "b").add_column("uid", list("vwxyz")),
    }
    pinned = pin(SourceSpec(test=HeldOut(split="test"), id_column="uid"), TextTask().find_columns, given)
    table = dataclasses.replace(scored(pinned), source_id=pinned.source_id[pinned.scored])  # pyright: ignore
    kept = half(table)
    made = variant_splits(pinned, table, kept, ids_only=True)
    folder = repository(tmp_path / "repo", {"half": made.splits, "scores": {"train": scores_dataset(table, ids_only=True)}})
    back = load_dataset(str(folder), "half", cache_dir=str(tmp_path / "cache"))
    assert list(back) == ["train"] and back["train"].column_names == ["example_id", "source_id", "el2n", "el2n_se", "margin", "margin_se"]
    assert back["train"]["example_id"] == kept.kept.tolist() and back["train"]["source_id"] == [f"u{row}" for row in kept.kept]
    whole = plain(variant_splits(pinned, table, kept).splits["train"])
    assert [{key: row[key] for key in ("el2n", "el2n_se", "margin", "margin_se")} for row in whole] == [
        {key: value for key, value in row.items() if key not in ("example_id", "source_id")} for row in plain(back["train"])
    ]
    assert not [path for path in folder.rglob("*.parquet") if b"a 1" in path.read_bytes()]


def test_a_published_variant_can_be_the_source_of_the_next(tmp_path: Path) -> None:
    first = pin(SourceSpec(), TextTask().find_columns, {"train": texts(20, "a")})
    table = scored(first)
    lean = variant_splits(first, table, half(table)).splits["train"]
    second = pin(SourceSpec(), TextTask().find_columns, {"train": lean})
    again = scored(second, seed=1)
    with pytest.raises(RecipeError, match="already has a column 'example_id'"):
        variant_splits(second, again, half(again))
    made = variant_splits(second, again, half(again), "diet_").splits["train"]
    assert made.column_names == [*lean.column_names, "diet_example_id", "diet_el2n", "diet_el2n_se", "diet_margin", "diet_margin_se"]
    assert made["example_id"] == [lean["example_id"][row] for row in made["diet_example_id"]] == lean[::2]["example_id"]


def test_records_of_another_source_are_refused() -> None:
    pinned = pin(SourceSpec(), TextTask().find_columns, {"train": texts(20, "a")})
    other = pin(SourceSpec(), TextTask().find_columns, {"train": texts(20, "b")})
    table = scored(pinned)
    with pytest.raises(StaleRecordError, match="this dataset is not the one that was scored"):
        variant_splits(other, table, half(table))
    with pytest.raises(StaleRecordError, match="selection 'keep-50' was made from other scores than these; prune again"):
        variant_splits(pinned, table, half(scored(other)))
    few = pin(SourceSpec(limit=6), TextTask().find_columns, {"train": texts(20, "a")})
    with pytest.raises(StaleRecordError, match="was made from other scores"):
        variant_splits(few, scored(few), half(table))
    noisy = pin(SourceSpec(label_noise=LabelNoise(0.3)), TextTask().find_columns, {"train": texts(20, "a")})
    with pytest.raises(RecipeError, match="has label noise"):
        variant_splits(noisy, scored(noisy), half(scored(noisy)))


def test_metadata_of_images_is_not_published(tmp_path: Path) -> None:
    exif = Pillow.Exif()
    exif[ExifTags.Base.Artist], exif[ExifTags.Base.Orientation] = "Ada.Lovelace", 8
    cells = []
    for row in range(6):
        file = io.BytesIO()
        Pillow.fromarray(np.random.default_rng(row).integers(0, 256, (6, 5, 3)).astype(np.uint8)).save(file, "JPEG", exif=exif)
        cells.append({"bytes": file.getvalue(), "path": None})
    features = Features({"image": Image(), "label": ClassLabel(names=[*CLASSES])})
    pinned = pin(SourceSpec(), TASK.find_columns, {"train": Dataset.from_dict({"image": cells, "label": [0, 1, 2] * 2}, features=features)})
    table = scored(pinned)
    folder = repository(tmp_path / "repo", {"half": variant_splits(pinned, table, half(table)).splits})
    assert not [path for path in folder.rglob("*.parquet") if b"Ada" in path.read_bytes()]
    back = load_dataset(str(folder), "half", cache_dir=str(tmp_path / "cache"))["train"]
    for row in back:
        assert np.array_equal(np.asarray(row["image"]), np.asarray(pinned.dataset[row["example_id"]]["image"]))
        assert row["image"].size == (6, 5)
