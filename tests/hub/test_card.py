"""The metadata of a card and its merging: `load_dataset` agrees, and what others wrote is still there."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import ClassLabel, Dataset, Features, Value, load_dataset
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, DatasetCardData
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_datadiet.errors import PublishError
from hf_datadiet.hub.card import SourceCard, config_info, metadata, size_category, source_card
from hf_datadiet.hub.licence import LISTED
from hf_datadiet.hub.merging import BEGIN, END, merged
from tests.test_card import HIDDEN, HOSTILE

OURS = ("scores", "keep-50")
BODY = "# toys-diet\n\nSmaller versions.\n"


def features(classes: Any = ("cat", "dog"), text: str = "text") -> Features:
    return Features({text: Value("string"), "label": ClassLabel(names=[*classes]), "example_id": Value("int64"), "el2n": Value("float32")})


def a_metadata(kind: Features | None = None, **more: Any) -> dict[str, Any]:
    kind = kind or features()
    infos = {
        "scores": config_info(kind, {"train": 6}, {"train": 96}, 1000),
        "keep-50": config_info(kind, {"train": 3, "test": 2}, {"train": 48, "test": 32}, 2000),
    }
    usual: dict[str, Any] = {"repo": "me/toys-diet", "task": "text", "scores": ["el2n"], "source": SourceCard(("cc-by-4.0",))}
    return metadata(infos, **{**usual, **more})


def read(card: str) -> dict[str, Any]:
    """The metadata as huggingface_hub finds it."""
    found = REGEX_YAML_BLOCK.search(card)
    assert found is not None
    return yaml.safe_load(found[2])


# Metadata


def test_the_metadata_of_a_plain_publication() -> None:
    found = a_metadata(source_repo="org/toys", source=SourceCard(("cc-by-4.0",), language=("en", "no")))
    infos = found.pop("dataset_info")
    assert found == {
        "pretty_name": "toys-diet",
        "language": ["en", "no"],
        "license": "cc-by-4.0",
        "source_datasets": ["org/toys"],
        "task_categories": ["text-classification"],
        "size_categories": ["n<1K"],
        "tags": ["data-pruning", "datadiet", "text", "el2n"],
        "configs": [
            {"config_name": "scores", "data_files": [{"split": "train", "path": "scores/train-*"}], "default": True},
            {
                "config_name": "keep-50",
                "data_files": [{"split": "train", "path": "keep-50/train-*"}, {"split": "test", "path": "keep-50/test-*"}],
            },
        ],
    }
    assert [entry["config_name"] for entry in infos] == ["scores", "keep-50"]
    assert infos[1]["splits"][1] == {"name": "test", "num_bytes": 32, "num_examples": 2}
    assert infos[1]["dataset_size"] == 80 and infos[1]["download_size"] == 2000
    assert read(merged(None, {**found, "dataset_info": infos}, BODY, OURS)) == {**found, "dataset_info": infos}


def test_what_is_not_known_is_left_out() -> None:
    found = a_metadata(task=None, scores=["el2n", "package.module:NAME"], source=SourceCard())
    assert not {"language", "source_datasets", "task_categories", "license_name"} & set(found)
    assert found["license"] == "unknown" and found["tags"] == ["data-pruning", "datadiet", "el2n"]


@pytest.mark.parametrize(
    ("source", "asserted", "expected"),
    [
        (SourceCard(("mit",)), None, {"license": "mit"}),
        (SourceCard(("MIT",)), None, {"license": "mit"}),
        (SourceCard(("mit", "odc-by")), None, {"license": ["mit", "odc-by"]}),
        (SourceCard(), None, {"license": "unknown"}),
        (SourceCard(("other",), "toy-terms", "https://x/y"), None, {"license_name": "toy-terms", "license_link": "https://x/y"}),
        (SourceCard(("other",)), None, {}),
        (SourceCard(("Toy Terms v1.0",)), None, {"license_name": "toy-terms-v1.0"}),
        (SourceCard(("mit", "strange")), None, {"license_name": "mit-strange"}),
        (SourceCard(("other",), "toy-terms", "https://x/y"), "cc0-1.0", {"license": "cc0-1.0"}),
        (SourceCard(("other",), "toy-terms", "https://x/y"), "ours", {"license_name": "ours"}),
    ],
)
def test_the_licence_by_the_rules_of_the_hub(source: SourceCard, asserted: str | None, expected: dict[str, Any]) -> None:
    found = a_metadata(source=source, asserted=asserted)
    assert {key: value for key, value in found.items() if key.startswith("license")} == {"license": "other", **expected}
    assert set([found["license"]] if isinstance(found["license"], str) else found["license"]) <= LISTED


@pytest.mark.parametrize(
    ("n", "bucket"),
    [
        (0, "n<1K"),
        (999, "n<1K"),
        (1000, "1K<n<10K"),
        (99_999, "10K<n<100K"),
        (10**5, "100K<n<1M"),
        (10**6, "1M<n<10M"),
        (10**9 - 1, "100M<n<1B"),
        (10**9, "1B<n<10B"),
        (10**12 - 1, "100B<n<1T"),
        (10**12, "n>1T"),
    ],
)
def test_size_categories(n: int, bucket: str) -> None:
    assert (
        size_category([{"splits": [{"name": "a", "num_examples": n // 2}, {"num_examples": n - n // 2}]}, {}, {"splits": None}]) == bucket
    )


def test_the_terms_of_a_gate_are_passed_on() -> None:
    gate = {"extra_gated_prompt": "You agree: to\n- nothing", "extra_gated_fields": {"Name": "text", "I agree": "checkbox"}}
    found = read(merged(None, a_metadata(source=SourceCard(("mit",), gate=gate)), BODY, OURS))
    assert {key: found[key] for key in gate} == gate


# The card of the source


def test_a_source_card_is_read() -> None:
    text = (
        "---\nlicense: other\nlicense_name: toy-terms\nlicense_link: LICENSE.md\nlanguage: [en, no]\n"
        "extra_gated_prompt: Behave.\nextra_gated_fields: {Name: text}\n---\n# Toys\n"
    )
    assert source_card(text, "org/toys", "0a1b") == SourceCard(
        ("other",),
        "toy-terms",
        "https://huggingface.co/datasets/org/toys/blob/0a1b/LICENSE.md",
        ("en", "no"),
        {"extra_gated_prompt": "Behave.", "extra_gated_fields": {"Name": "text"}},
    )
    assert source_card("---\nlicense:\n- mit\n- odc-by\nlanguage: en\n---\n", "a/b", "1").license == ("mit", "odc-by")
    whole = source_card("---\nlicense: other\nlicense_link: https://x.example/y\n---\n", "a/b", "1")
    assert whole.license_link == "https://x.example/y"


@pytest.mark.parametrize(
    "text", ["", "# no metadata", "---\n- a\n---\n", "---\nlicense: [\n---\n", "---\nlicense: 5\nlicense_name: {}\n---\n"]
)
def test_a_source_card_that_says_nothing_leaves_the_licence_unknown(text: str) -> None:
    assert source_card(text, "a/b", "1") == SourceCard()


# What datasets makes of it


def written(folder: Path, kind: Features, rows: dict[str, list[Any]], parts: dict[str, dict[str, list[int]]]) -> dict[str, Dataset]:
    """Configs as files, with their card: {config: {split: positions}} of the rows."""
    whole = Dataset.from_dict(rows, features=kind)
    infos, made = {}, {}
    for config, splits in parts.items():
        (folder / config).mkdir(parents=True)
        for split, positions in splits.items():
            made[config, split] = whole.select(positions).flatten_indices()
            made[config, split].to_parquet(folder / config / f"{split}-00000-of-00001.parquet")
        counts = {split: len(positions) for split, positions in splits.items()}
        infos[config] = config_info(kind, counts, dict.fromkeys(splits, 10), 20)
    about = metadata(infos, repo="me/toys", task="text", scores=["el2n"], source=SourceCard(("mit",)))
    # As bytes: a card may have any line breaks.
    (folder / "README.md").write_bytes(merged(None, about, BODY, list(parts)).encode())
    return {f"{config}/{split}": dataset for (config, split), dataset in made.items()}


PARTS = {"scores": {"train": [0, 1, 2, 3]}, "keep-50": {"train": [1, 3], "test": [2]}}
ROWS = {"text": ["a", "b", "c", "d"], "label": [0, 1, 0, 1], "example_id": [0, 1, 2, 3], "el2n": [0.0, 0.5, None, 1.0]}


def test_every_config_loads_and_the_scores_are_the_default(tmp_path: Path) -> None:
    made = written(tmp_path / "repo", features(), ROWS, PARTS)
    cache = str(tmp_path / "cache")
    for config, splits in PARTS.items():
        found = load_dataset(str(tmp_path / "repo"), config, cache_dir=cache)
        assert list(found) == list(splits)
        for split in splits:
            assert found[split].features == features() and found[split].to_dict() == made[f"{config}/{split}"].to_dict()
    assert load_dataset(str(tmp_path / "repo"), cache_dir=cache)["train"].num_rows == 4


@pytest.mark.parametrize("number", range(3))
def test_hostile_names_load(tmp_path: Path, number: int) -> None:
    words = [word for word in HOSTILE if word and "\x00" not in word][number::3]
    kind = features(words, text=words[0])
    written(tmp_path / "repo", kind, {**{key: value for key, value in ROWS.items() if key != "text"}, words[0]: words[:4]}, PARTS)
    found = load_dataset(str(tmp_path / "repo"), "keep-50", cache_dir=str(tmp_path / "cache"))
    assert found["train"].features == kind and found["train"][words[0]][:] == [words[1], words[3]]


NAMES = st.lists(st.one_of(st.sampled_from(HOSTILE), st.text()), min_size=2, max_size=6, unique=True)


@settings(max_examples=200)
@given(NAMES, NAMES.filter(lambda names: all(names)), st.text())
def test_the_yaml_gives_back_every_name(classes: list[str], columns: list[str], prompt: str) -> None:
    kind = Features({columns[0]: ClassLabel(names=classes), **{name: Value("string") for name in columns[1:]}})
    about = a_metadata(kind, source=SourceCard(("mit",), gate={"extra_gated_prompt": prompt}))
    text = merged(None, about, BODY, OURS)
    found = read(text)
    assert found == about and found["extra_gated_prompt"] == prompt
    data: Any = DatasetCardData(**found)
    assert {name: info.features for name, info in DatasetInfosDict.from_dataset_card_data(data).items()} == dict.fromkeys(OURS, kind)
    assert list(MetadataConfigs.from_dataset_card_data(data)) == ["scores", "keep-50"]
    assert text.endswith(f"---\n\n{BEGIN}\n\n{BODY}\n{END}\n") and not HIDDEN.search(text.replace("\n", ""))
    assert DatasetCard(text).text == f"\n{BEGIN}\n\n{BODY}\n{END}\n"


# Merging

BY_HAND = """---
# what this is
license: mit # as we agreed
license_link: LICENSE
pretty_name: |
  Toys,
  fewer
language: no
tags:
- "mine"
- datadiet

# about the configs
configs:
- config_name: keep-50
  description: the half
  data_files:
  - split: train
    path: old/*
  drop_labels: true
- config_name: theirs
  data_files: "a.csv"
  default: true
dataset_info:
  config_name: theirs
  features:
  - {name: x, dtype: int64}
  splits:
  - {name: train, num_bytes: 1, num_examples: 5000}
viewer: false
# the end
---
# Toys

By hand.
"""


def test_what_was_written_by_hand_stays() -> None:
    text = merged(BY_HAND, a_metadata(), BODY, OURS)
    found = read(text)
    before, after = text.split("---\n# Toys\n\nBy hand.\n")
    assert after == f"\n{BEGIN}\n\n{BODY}\n{END}\n"
    for line in (
        "# what this is",
        "license: cc-by-4.0 # as we agreed",
        "pretty_name: |\n  Toys,\n  fewer",
        "language: no",
        "viewer: false",
    ):
        assert f"{line}\n" in before
    assert "\n\n# about the configs\nconfigs:\n" in before and "\n# the end\n" in before
    assert "license_link" not in found, "it led to the terms of another licence"
    assert found["tags"] == ["mine", "datadiet", "data-pruning", "text", "el2n"]
    configs = {entry["config_name"]: entry for entry in found["configs"]}
    assert list(configs) == ["keep-50", "theirs", "scores"]
    assert configs["keep-50"]["description"] == "the half" and configs["keep-50"]["drop_labels"] is True
    assert configs["keep-50"]["data_files"] == a_metadata()["configs"][1]["data_files"]
    assert configs["theirs"] == {"config_name": "theirs", "data_files": "a.csv", "default": True}
    assert "default" not in configs["scores"], "there can be one only"
    assert [entry["config_name"] for entry in found["dataset_info"]] == ["theirs", "scores", "keep-50"]
    assert found["size_categories"] == ["1K<n<10K"], "of all rows, theirs too"
    assert list(found)[: list(found).index("viewer")] == ["license", "pretty_name", "language", "tags", "configs", "dataset_info"]


def test_a_default_that_was_moved_stays_where_it_is() -> None:
    card = merged(None, a_metadata(), BODY, OURS)
    moved = card.replace("  default: true\n", "").replace(
        "- config_name: keep-50\n  data", "- config_name: keep-50\n  default: true\n  data", 1
    )
    configs = {entry["config_name"]: entry.get("default") for entry in read(merged(moved, a_metadata(), BODY, OURS))["configs"]}
    assert configs == {"scores": None, "keep-50": True}
    without = card.replace("  default: true\n", "")
    assert merged(without, a_metadata(), BODY, OURS) == without, "somebody wants none"


def test_a_variant_that_comes_later_leaves_the_first_alone() -> None:
    first = merged(None, a_metadata(), BODY, OURS)
    later = {
        "keep-30": config_info(features(), {"train": 2}, {"train": 9}, 9),
        "scores": config_info(features(), {"train": 6}, {"train": 9}, 9),
    }
    about = metadata(later, repo="me/toys", task="text", scores=["el2n", "grand"], source=SourceCard(("cc-by-4.0",)))
    found, before = read(merged(first, about, BODY, [*OURS, "keep-30"])), read(first)
    assert [entry["config_name"] for entry in found["configs"]] == ["scores", "keep-50", "keep-30"]
    assert found["configs"][1] == before["configs"][1] and found["dataset_info"][1] == before["dataset_info"][1]
    assert found["configs"][0]["default"] is True and found["tags"] == ["data-pruning", "datadiet", "text", "el2n", "grand"]


def test_a_licence_that_somebody_knew_is_not_forgotten() -> None:
    unknown = a_metadata(source=SourceCard())
    assert read(merged("---\nlicense: mit\n---\n", unknown, BODY, OURS))["license"] == "mit"
    assert read(merged("---\nlicense: unknown\n---\n", a_metadata(), BODY, OURS))["license"] == "cc-by-4.0"
    assert read(merged("---\nviewer: true\n---\n", unknown, BODY, OURS))["license"] == "unknown"


def test_a_config_of_somebody_else_is_not_taken() -> None:
    with pytest.raises(PublishError, match="has a config 'keep-50' that was not published by this tool; choose another name"):
        merged(BY_HAND, a_metadata(), BODY, ["scores"])


BROKEN = {
    "a: [": "is not valid YAML",
    "a: b: c": "is not valid YAML",
    "when: 2024-13-45": "is not valid YAML",
    "a: !!python/object:os.system x": "is not valid YAML",
    "- a\n- b": "is no mapping",
    "just words": "is no mapping",
    "license: mit\nlicense: gpl": "has the key 'license' twice",
    "configs: [theirs]": "configs in the metadata",
    "configs:\n- data_files: x": "configs in the metadata",
    "dataset_info: words": "dataset_info in the metadata",
}


@pytest.mark.parametrize("block", BROKEN)
def test_metadata_that_nobody_can_read_is_refused(block: str) -> None:
    with pytest.raises(PublishError, match=BROKEN[block]) as caught:
        merged(f"---\n{block}\n---\n# Mine\n", a_metadata(), BODY, OURS)
    assert "\n" not in str(caught.value)


def test_metadata_that_does_not_end_is_refused() -> None:
    for text in ("---\nlicense: mit\n\n# Mine\n", "---\r\nlicense: mit\r\n", "---"):
        with pytest.raises(PublishError, match="its metadata does not end"):
            merged(text, a_metadata(), BODY, OURS)


WHOLE = f"before\n\n{BEGIN}\nold\n{END}\nafter"


@pytest.mark.parametrize(
    "damaged",
    [
        f"x\n{BEGIN}\nold\n",
        f"x\nold\n{END}\n",
        f"{END}\nold\n{BEGIN}\n",
        f"{WHOLE}\n{BEGIN}\n",
        f"{WHOLE}\n{WHOLE}",
        f"{BEGIN}\n{BEGIN}\n{END}\n{END}",
    ],
)
def test_damaged_markers_are_refused(damaged: str) -> None:
    with pytest.raises(PublishError, match="restore them around the generated part, or remove both"):
        merged(damaged, a_metadata(), BODY, OURS)


def test_only_what_lies_between_the_markers_changes() -> None:
    text = merged(f"---\nlicense: mit\n---\n{WHOLE}", a_metadata(), BODY, OURS)
    assert text.partition("\n---\n")[2] == f"before\n\n{BEGIN}\n\n{BODY}\n{END}\nafter"
    quoted = f"`{BEGIN}` and {END} in a line are no markers\n"
    assert merged(quoted, a_metadata(), BODY, OURS).endswith(f"{quoted}\n{BEGIN}\n\n{BODY}\n{END}\n")


@pytest.mark.parametrize(
    "text", [BY_HAND, f"# Mine\n\n{WHOLE}\n", "---\nlicense: mit\n---", "---\n{license: mit, tags: [a]}\n---\n# Mine\n"]
)
def test_windows_line_breaks_and_a_byte_order_mark_stay(text: str) -> None:
    plain = merged(text, a_metadata(), BODY, OURS)
    windows = merged("\ufeff" + text.replace("\n", "\r\n"), a_metadata(), BODY, OURS)
    assert windows.replace("\r\n", "\n") == "\ufeff" + plain and "\n" not in windows.replace("\r\n", "")
    assert read(windows.removeprefix("\ufeff")) == read(plain)


@pytest.mark.parametrize(
    "block",
    [
        "{license: mit, viewer: false}",
        "base: &b {x: 1}\nother:\n  <<: *b\nconfigs: &c\n- config_name: theirs\nagain: *c",
        "<<: {viewer: false}\nlicense: mit",
        "? viewer\n: false\nlicense: mit",
        "1: one\nyes: two\nnull: three",
        '"license": "mit"\n\'tags\': [a, b] # c\nprompt: >-\n  a\n\n  # no comment\n  b\n',
        "text: |2\n    # indented\n   x\n# out\nlicense: mit",
        "# only a comment",
        "tags:\n  - a\n\n\n# far away\n\nviewer: false",
    ],
)
def test_unusual_yaml_keeps_its_values(block: str) -> None:
    before = yaml.safe_load(block) or {}
    text = merged(f"---\n{block}\n---\nbody", a_metadata(), BODY, OURS)
    found = read(text)
    ours = {*a_metadata(), "configs", "tags", "license"}
    assert {key: value for key, value in found.items() if key not in ours} == {k: v for k, v in before.items() if k not in ours}
    assert merged(text, a_metadata(), BODY, OURS) == text


WRITTEN = {*a_metadata(), "language", "source_datasets"}
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.sampled_from(HOSTILE), st.text(max_size=8))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6
)
KEYS = st.one_of(st.sampled_from(["viewer", "annotations_creators", "train-eval-index"]), st.text(min_size=1, max_size=6)).filter(
    lambda key: key not in WRITTEN and not key.startswith("license")
)
LINES = st.lists(st.sampled_from(["# Mine", "", "text  ", "---", "```", "<!-- note -->", f" {BEGIN}", "| a |", "\ttab"]), max_size=6)


@settings(max_examples=200)
@given(st.dictionaries(KEYS, VALUES, max_size=4), LINES, LINES, st.booleans(), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_merging_loses_nothing_and_twice_is_once(
    there: dict[str, Any], above: list[str], below: list[str], marked: bool, line_break: str, style: bool
) -> None:
    front = f"---\n{yaml.safe_dump(there, default_flow_style=style, sort_keys=False)}---\n" if there else ""
    marks = [BEGIN, "old", END] if marked else []
    above = above if front else ["x", *above]
    existing = (front + "\n".join([*above, *marks, *below, ""])).replace("\n", line_break)
    about = a_metadata()
    once = merged(existing, copy.deepcopy(about), BODY, OURS)
    assert merged(once, about, BODY, OURS) == once
    found = read(once)
    assert {key: found[key] for key in there} == there and list(found)[: len(there)] == list(there)
    body = once[REGEX_YAML_BLOCK.search(once).end() :]  # type: ignore[union-attr]
    rest = existing[len(front.replace("\n", line_break)) :]
    block = line_break.join([BEGIN, "", *BODY.strip().split("\n"), "", END])
    assert body.count(block) == 1
    if marked:
        assert body.replace(block, "") in [space + rest.replace(line_break.join(marks), "", 1) for space in ("", line_break)]
    else:
        assert rest in body and body.replace(block, "").strip("\r\n") == rest.strip("\r\n")


def test_an_unchanged_publication_changes_no_letter() -> None:
    once = merged(BY_HAND, a_metadata(), BODY, OURS)
    assert merged(once, a_metadata(), BODY, OURS) == once
    other = merged(once, a_metadata(), BODY.replace("Smaller", "Fewer"), OURS)
    assert other == once.replace("Smaller", "Fewer")


def test_the_arguments_stay_as_they_were() -> None:
    about = a_metadata()
    before = copy.deepcopy(about)
    merged(BY_HAND, about, BODY, OURS)
    assert about == before
