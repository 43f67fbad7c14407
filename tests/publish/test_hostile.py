"""Whatever the source calls its classes, columns, splits and rows, and whatever they say: in a publication these are words."""

from __future__ import annotations

import contextlib
import functools
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Image, load_dataset
from huggingface_hub import DatasetCard
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from hf_datadiet import answers, cli
from hf_datadiet.durable import notice
from hf_datadiet.hub.published import scores_dataset
from hf_datadiet.store import RunFolder
from hf_datadiet.verify import verify_publication
from tests.hub.server import LoopbackHub
from tests.publish.untrained import N, Words, source_of, untrained
from tests.test_card import HIDDEN, HOSTILE, drawn, elements

REPO = "me/toys-diet"

ADDED = {"example_id", *(f"{name}{se}" for name in ("el2n_e0", "el2n", "margin", "forgetting", "chance") for se in ("", "_se"))}
"""Columns of a variant that are not the source's."""

SPLITS = ["__init__", "_", "null", "on", "1", "1e3", "0x10", "1_000", "train.kept", "test", "scores", "İ", "ßſ", "تدريب", "évalué", "ǅ.١"]

NAMES = [
    *HOSTILE,
    "0o17",
    "-1.5e3",
    "config_name: keep-50",
    "~/x",
    "/etc/passwd",
    "C:\\data",
    "../up",
    "$HOME",
    "${HOME}",
    "data_files",
    "label",
    "a.b",
    "%s",
]


def several(n: int, names: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(names, min_size=n, max_size=n, unique=True).map(tuple)


named = drawn(NAMES).filter(bool)
hostile = st.builds(
    Words,
    classes=several(3, st.one_of(named, st.sampled_from(["", "\ud800"]))),
    # Arrow cuts the name of a column off at a null character, and then datasets finds none of that name.
    columns=several(4, named.filter(lambda name: name not in ADDED and "\0" not in name)),
    splits=several(3, st.one_of(st.sampled_from(SPLITS), st.from_regex(r"\w{1,12}(\.\w{1,5})?", fullmatch=True)).filter(str.isprintable)),
    ids=several(N, named),
    texts=st.lists(named, min_size=N, max_size=N).map(tuple),
    card=st.fixed_dictionaries(
        {},
        optional={
            "license": st.one_of(named, st.lists(named, min_size=1, max_size=2)),
            "license_name": named,
            "license_link": named,
            "language": named,
            "extra_gated_prompt": named,
            "extra_gated_fields": st.dictionaries(named, named, max_size=2),
        },
    ),
)  # fmt: skip


def said(*words: str, at: Path) -> tuple[Any, str, str]:
    """(exit code, stdout, stderr) of `hf-datadiet WORDS` in the folder `at`."""
    out, err, code = io.StringIO(), io.StringIO(), None
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr("sys.argv", ["hf-datadiet", *words])
        patch.chdir(at)
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
    for text in (out.getvalue(), err.getvalue()):
        assert not HIDDEN.search(text.replace("\n", "")), text
    return code, out.getvalue(), err.getvalue()


def written(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


def publish(place: Path, *words: str) -> Path:
    """The tree of the run in `place`; nothing else is written there, or where the command is run."""
    tree, before = place / "tree", written(place)
    (place / "here").mkdir()
    code, _, err = said("publish", str(place / "run"), "--to", REPO, "--out", str(tree), *words, at=place / "here")
    assert code in (0, None), err
    assert {path for path in changed(place, before) if not path.startswith("tree/")} == set()
    return tree


def changed(place: Path, before: dict[str, bytes]) -> set[str]:
    """Files that came, went or changed, but for the report, which each publication writes first."""
    after = written(place)
    found = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    return {path for path in found if not path.startswith(("run/report.", "run/pictures/"))}


@contextlib.contextmanager
def published(words: Words, kind: str, *more: str) -> Iterator[tuple[Path, Path]]:
    with tempfile.TemporaryDirectory() as temporary:
        place = untrained(Path(temporary), words, kind)
        yield place, publish(place, *more)


@functools.cache
def harmless(kind: str) -> tuple[dict[str, Any], set[str]]:
    """What the card and the report of the same run with harmless names are built of, and the files of its tree."""
    with published(Words(card={"license": "mit"}), kind, "--examples") as (_, tree):
        return built(tree), {*written(tree)}


def built(tree: Path) -> dict[str, Any]:
    texts = {"card": DatasetCard.load(tree / "README.md").text, "report": (tree / "evidence" / "report.md").read_text()}
    assert not any(HIDDEN.search(text.replace("\n", "")) for text in texts.values())
    return {name: elements(text) for name, text in texts.items()}


def plain(rows: Dataset) -> list[dict[str, Any]]:
    """Rows with images as the bytes that they are."""
    for name, feature in rows.features.items():
        if isinstance(feature, Image):
            rows = rows.cast_column(name, Image(decode=False))
    return [{key: value["bytes"] if isinstance(value, dict) else value for key, value in row.items()} for row in rows]


def loads(where: str, words: Words, kind: str, place: Path, **which: Any) -> None:
    """What comes back from `where` is what the source has, name by name and row by row."""
    folder = RunFolder(place / "run")
    source, kept = source_of(words, kind), folder.load_selection("keep-50").kept.tolist()
    with tempfile.TemporaryDirectory() as cache:
        variant: Any = load_dataset(where, "keep-50", cache_dir=cache, **which)
        assert {*map(str, variant)} == {*words.splits}
        for split, rows in variant.items():
            assert rows.features[words.columns[1]] == ClassLabel(names=[*words.classes])
            assert set(rows.column_names) == {*words.columns, *ADDED}
            own = plain(rows.select_columns([*words.columns]))
            assert own == plain(source[str(split)].select(kept) if split == words.splits[0] else source[str(split)])
        assert variant[words.splits[0]]["example_id"][:] == kept
        scores: Any = load_dataset(where, "scores", cache_dir=cache, **which)
        assert [*scores] == [words.splits[0]]
        expected = scores_dataset(folder.load_scores())
        assert scores[words.splits[0]].features == expected.features and plain(scores[words.splits[0]]) == plain(expected)
        assert expected["source_id"][:] == [*words.ids]


def names_of(card: dict[str, Any], config: str) -> tuple[list[str], list[str], dict[str, Any]]:
    """Splits as both halves of the metadata name them, columns, and the classes of each label column."""
    (files,) = (entry["data_files"] for entry in card["configs"] if entry["config_name"] == config)
    (info,) = (entry for entry in card["dataset_info"] if entry["config_name"] == config)
    splits = [entry["split"] for entry in files]
    assert [entry["name"] for entry in info["splits"]] == splits
    assert [entry["path"] for entry in files] == [f"{config}/{split}-*" for split in splits]
    kinds = {feature["name"]: feature["dtype"] for feature in info["features"]}
    classes = {name: [*kind["class_label"]["names"].values()] for name, kind in kinds.items() if isinstance(kind, dict)}
    return splits, [*kinds], classes


def check(words: Words, kind: str, place: Path, tree: Path) -> None:
    usual, files = harmless(kind)
    assert built(tree) == usual
    names = dict(zip(Words().splits, words.splits, strict=True))
    moved = {"/".join([*path.split("/")[:-1], place_of(path.split("/")[-1], names)]) for path in files}
    assert {*written(tree)} == moved, "no name but that of a split is one of a file"
    card = DatasetCard.load(tree / "README.md").data.to_dict()
    splits, columns, classes = names_of(card, "keep-50")
    assert (sorted(splits), columns[:4], classes) == (sorted(words.splits), [*words.columns], {words.columns[1]: [*words.classes]})
    assert names_of(card, "scores")[::2] == ([words.splits[0]], {"label": [*words.classes]})
    loads(str(tree), words, kind, place)
    found = verify_publication(tree, overrides=[f"source.path={place / 'source'}"])
    assert {each.what: each.details for each in found.checks if each.state == "differs"} == {}
    assert [each.what for each in found.checks if each.state == "not verifiable"] == ["timings", "trainings", "provenance"]
    assert not HIDDEN.search(answers.of_verification(found).in_form("text").replace("\n", ""))


def place_of(file: str, names: dict[str, str]) -> str:
    split, dash, rest = file.partition("-00000-of-")
    return f"{names[split]}{dash}{rest}" if dash else file


def a_publication_of(words: Words, kind: str) -> None:
    with published(words, kind, "--examples") as (place, tree):
        check(words, kind, place, tree)


def on_the_hub(hub: LoopbackHub, words: Words, kind: str) -> None:
    """As a stranger finds it there, in a cache that knows nothing of it."""
    hub.repos.clear()
    with published(words, kind, "--examples", "--push") as (place, tree):
        usual, _ = harmless(kind)
        assert hub.files(REPO)["README.md"] == (tree / "README.md").read_bytes() and built(tree) == usual
        assert {**hub.files(REPO), ".gitattributes": b""} == {**written(tree), ".gitattributes": b""}
        loads(REPO, words, kind, place, revision=hub.history(REPO)[-1].sha)
        code, out, err = said("verify", REPO, f"source.path={place / 'source'}", at=place)
        assert code in (0, None) and "nothing that data can prove differs" in out, out + err


kinds = st.sampled_from(["text", "text", "image"])
# To shrink what takes a second each time takes minutes, and what failed can be read as it is.
whole = settings(phases=[Phase.explicit, Phase.reuse, Phase.generate], suppress_health_check=[HealthCheck.too_slow])


@settings(whole, max_examples=8)
@given(hostile, kinds)
def test_words_of_the_data_stay_words(words: Words, kind: str) -> None:
    a_publication_of(words, kind)


@pytest.mark.slow
@settings(whole, max_examples=200)
@given(hostile, kinds)
def test_words_of_the_data_stay_words_200(words: Words, kind: str) -> None:
    a_publication_of(words, kind)


shared = settings(whole, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


@settings(shared, max_examples=2)
@given(hostile, kinds)
def test_words_of_the_data_on_the_hub(hub: LoopbackHub, me: str, words: Words, kind: str) -> None:
    on_the_hub(hub, words, kind)


@pytest.mark.slow
@settings(shared, max_examples=30)
@given(hostile, kinds)
def test_words_of_the_data_on_the_hub_30(hub: LoopbackHub, me: str, words: Words, kind: str) -> None:
    on_the_hub(hub, words, kind)


@pytest.mark.parametrize("place_in_splits", [0, 2])
@pytest.mark.parametrize("split", ["../evil", "</details><script>", "tr-ain", "a b", "all", "x\u202ey", "two\nlines", "\x1b[31m"])
def test_a_split_that_datasets_refuses_is_refused(split: str, place_in_splits: int, tmp_path: Path) -> None:
    splits = ["train", "test", "extra"]
    splits[place_in_splits] = split
    untrained(tmp_path, Words(splits=(splits[0], splits[1], splits[2])), "text", on_disk=True)
    before = written(tmp_path)
    code, out, err = said("publish", str(tmp_path / "run"), "--to", REPO, "--out", str(tmp_path / "tree"), at=tmp_path)
    assert code == 2 and out == "" and err.count("\n") == 1 and "load_dataset takes no split named" in err
    assert changed(tmp_path, before) == set() and not (tmp_path / "tree").exists()


TERMINAL = "\x1b[2J\u202eevil\x9b31m\u2028"


def test_the_terminal_obeys_no_word(tmp_path: Path) -> None:
    """`said` looks at all that is printed: answers, errors, notes."""
    words = Words(columns=(f"{TERMINAL}input", f"{TERMINAL}label", f"{TERMINAL}note", f"{TERMINAL}uid"))
    untrained(tmp_path, words, "text")
    run = str(tmp_path / "run")
    code, _, err = said("publish", run, "--to", REPO, "source.id_column=none", at=tmp_path)
    assert code == 2 and err.count("\n") == 1 and "\\x1b[2J\\u202eevil\\x9b31m" in err
    tree = tmp_path / f"{TERMINAL}tree"
    code, out, _ = said("publish", run, "--to", REPO, "--out", str(tree), at=tmp_path)
    assert code in (0, None) and "\\x1b[2J" in out
    (path,) = (tree / "keep-50").glob("train-*")
    rows = pq.read_table(path)
    at = rows.column_names.index(f"{TERMINAL}note")
    pq.write_table(rows.set_column(at, rows.schema.field(at), pa.array(["other"] * rows.num_rows)), path)
    code, out, _ = said("verify", str(tree), f"source.path={tmp_path / 'source'}", at=tmp_path)
    assert code == 1 and "\\x9b31m note differs from the source, first in row 0" in out
    with contextlib.redirect_stderr(io.StringIO()) as err:
        notice(f"split {TERMINAL}: left out")
    assert err.getvalue() == "split \\x1b[2J\\u202eevil\\x9b31m\\u2028: left out\n"


@pytest.mark.parametrize("column", ["example_id", "el2n", "margin_se"])
def test_a_column_that_would_be_there_twice_is_refused_or_moved(column: str, tmp_path: Path) -> None:
    words = Words(columns=("input", "kind", column, "uid"))
    untrained(tmp_path, words, "text")
    code, _, err = said("publish", str(tmp_path / "run"), "--to", REPO, "--out", str(tmp_path / "tree"), at=tmp_path)
    assert code == 2 and f"already has a column '{column}'" in err and not (tmp_path / "tree").exists()
    tree = publish(tmp_path, "--prefix", "diet_")
    assert load_dataset(str(tree), "keep-50", split="test", cache_dir=str(tmp_path / "cache"))[column][:] == [*words.texts]
    assert verify_publication(tree, overrides=[f"source.path={tmp_path / 'source'}"]).holds
