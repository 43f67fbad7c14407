"""A model's card: its numbers are the report's and the table's, its metadata is read back, and words of the data are words alone."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_datadiet import evaluate
from hf_datadiet.cells import interval
from hf_datadiet.errors import PublishError, RecipeError, StaleRecordError
from hf_datadiet.export import model_folders, write_model
from hf_datadiet.exported import REPO, Exported
from hf_datadiet.hub.merging import BEGIN, END, merged
from hf_datadiet.hub.model_card import card_over, metadata, model_repo
from hf_datadiet.model_card import Facts, body
from hf_datadiet.prune import prune_run
from hf_datadiet.recipe import FIRST_EVALUATION_SEED, HeldOut, PruneSpec, Recipe, Training
from hf_datadiet.records import Report
from hf_datadiet.reporting import report_run
from hf_datadiet.score import score_run
from hf_datadiet.store import RunFolder
from hf_datadiet.training.session import open_session
from tests.steps.test_score import recipe
from tests.synthetic import source
from tests.test_card import HIDDEN, HOSTILE, READER, REPORT, WORDS, elements, with_words
from tests.test_report import unexplained

SEED, DATASET = FIRST_EVALUATION_SEED, "me/toys-diet"
ASKED: dict[str, Any] = {"evaluate__seeds": 2, "evaluate__keep_weights": True, "evaluate__models": ["timm:test_byobnet"]}
MIT = {"license": "mit"}


def asked(**more: Any) -> Recipe:
    return recipe(**{**ASKED, **more})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Digits, two models, two seeds of each arm."""
    folder = RunFolder(tmp_path_factory.mktemp("run") / "run")
    session = open_session(asked(), folder, command="test")
    score_run(session, progress=False)
    for name, keep in (("keep-50", 0.5), ("keep-25", 0.25)):
        prune_run(folder, PruneSpec(name=name, score="el2n", keep=keep), command="test")
    evaluate.evaluate_run(session, progress=False)
    return folder


@pytest.fixture(scope="module")
def report(run: RunFolder) -> Report:
    return report_run(asked(), run)


@pytest.fixture(scope="module")
def made(run: RunFolder, report: Report, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("models")
    return model_folders(run, asked(), report, ["keep-50", "full"], DATASET, MIT, out)


# What it says


def test_a_folder_for_each_selection(made: Mapping[str, Path]) -> None:
    assert list(made) == ["keep-50", "full"]
    assert [sorted(path.name for path in folder.iterdir()) for folder in made.values()] == [
        ["README.md", "labels.json", "model.safetensors"]
    ] * 2
    assert len({(folder / "model.safetensors").read_bytes() for folder in made.values()}) == 2


@pytest.mark.parametrize("name", ["keep-50", "full"])
def test_the_metadata_is_read_back(made: Mapping[str, Path], run: RunFolder, name: str) -> None:
    data = ModelCard.load(made[name] / "README.md").data
    said = pq.read_table(run.path / "evaluations" / "main" / "predictions.parquet").to_pandas()
    mine = said[(said.arm == name) & (said.seed == SEED)]
    (result,) = data.eval_results
    assert result.metric_value == float((mine.predicted == mine.label).mean()) and result.metric_args == {"seed": SEED}
    assert (result.task_type, result.metric_type) == ("image-classification", "accuracy") == (data.pipeline_tag, data.metrics[0])
    assert (result.dataset_type, result.dataset_name, result.dataset_config, result.dataset_split) == (
        DATASET,
        "sample:digits",
        name,
        "train",
    )
    assert result.dataset_args == {"held_out": 0.02, "seed": 0} and result.dataset_revision is None
    assert data.datasets == [DATASET] and data.license == "mit" and data.get("base_model") is None
    assert data.get("library_name") is None, "timm cannot load it by its name"
    assert data.model_name == f"toys-diet-{name}"


@pytest.mark.parametrize("name", ["keep-50", "full"])
def test_every_number_is_a_field_of_the_report_or_of_the_training(
    made: Mapping[str, Path], run: RunFolder, report: Report, name: str
) -> None:
    text = (made[name] / "README.md").read_text().split("\n---\n", 1)[1]
    prose = text.split("```python")[0] + text.split("```\n", 1)[1]
    trained = next(each for each in run.load_evaluation("main").results if (each.arm, each.seed) == (name, SEED))
    settings = asked().to_dict()
    more = [trained.metrics, SEED, 100 * settings["source"]["test"]["fraction"], settings["task"], 0, 1, "8 x 8"]
    assert unexplained(prose, report, more) == []
    entry = report.evaluations[0]
    arm = next(each for each in entry["arms"] if each["arm"] == name)
    this = rf"\| this model \({name}, seed {SEED}\) +\| +{arm['n_rows']} \| +{100 * trained.metrics['accuracy']:.2f} \| +- +\| +1 \|"
    all_seeds = rf"\| {name} +\| +{arm['n_rows']} \| +{arm['accuracy']:.2f} \| +{interval(arm['low'], arm['high'])} +\| +2 \|"
    assert re.search(this, text) and re.search(all_seeds, text)
    assert ("random-40" in text, "random-20" in text) == (name == "keep-50", False), "beside sets of its own size"
    verdicts = [row for row in entry["differences"] if (row["arm"], row["reference"]) == (name, "full")]
    for row in verdicts:
        assert f"{row['difference']:+.2f} points" in text and f"n = 2: **{row['verdict']}**" in text
    assert len(verdicts) == (name == "keep-50")


def test_it_names_what_it_was_trained_on_and_how(made: Mapping[str, Path]) -> None:
    text = (made["keep-50"] / "README.md").read_text()
    for words in (
        "# toys-diet-keep-50\n",
        "on its variant `keep-50`: 40 of the 80 scored rows of `sample:digits`, split `train` (40 rows: hardest by el2n)",
        "[me/toys-diet](https://huggingface.co/datasets/me/toys-diet)",
        'hf_hub_download("me/toys-diet-keep-50", "model.safetensors")',
        "does not work; the lines above do",
        f"1 epoch, 3 steps of at most 16 rows, seed {SEED}",
        "optimizer SGD (lr 0.1, momentum 0.9, nesterov True, weight_decay 0.0005)",
        "learning rate cosine\n",
        "random crops of images reflected at each border by 1 pixel\n",
        "unless by chance it is not the best of them",
        f"`evidence/evaluations/main/predictions.parquet`: arm `keep-50`, seed {SEED}",
        f"torch {__import__('torch').__version__.split('+')[0]}",
    ):
        assert words in text, words
    assert REPO not in text and "beside its variants, on all rows" in (made["full"] / "README.md").read_text()


def test_the_card_is_well_formed(made: Mapping[str, Path]) -> None:
    text = ModelCard.load(made["keep-50"] / "README.md").text
    found = [token[:2] for token in elements(text)]
    assert [html.strip() for kind, _, html, _, _ in elements(text) if kind.startswith("html")] == [BEGIN, END]
    assert found.count(("heading_open", "h2")) == 4 and ("fence", "code") in found and ("table_open", "table") in found
    assert [leads for kind, _, _, leads, _ in elements(text) if kind == "link_open"] == ["https://huggingface.co/datasets/me/toys-diet"]


def test_another_model_of_the_evaluation_can_be_written(run: RunFolder, tmp_path: Path) -> None:
    exported = write_model(run, asked(), "main.test_byobnet", "keep-50", SEED, tmp_path / "model")
    assert (exported.model, exported.by_name, exported.library) == ("timm:test_byobnet", True, "timm")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["architecture"] == "test_byobnet"


def test_what_others_wrote_into_a_model_card_stays(made: Mapping[str, Path]) -> None:
    ours = (made["keep-50"] / "README.md").read_text()
    assert card_over(None, ours) == ours == card_over(ours, ours)
    theirs = ours.replace("tags:\n", "tags:\n- mine  # of mine\n").replace("---\n\n<!--", "custom: 1\n---\n\nMy words.\n\n<!--")
    theirs = theirs.replace("datasets:\n", "datasets:\n- me/pretraining\n")
    older = theirs.replace("## Limits", "## Older limits").replace("value: 0.", "value: 1.")
    again = card_over(older, ours)
    data = ModelCard(again).data
    assert "My words." in again and "## Older limits" not in again and data.custom == 1
    assert data.datasets == ["me/pretraining", DATASET]
    assert data.tags == ["mine", "data-pruning", "datadiet"] and data.eval_results == ModelCard(ours).data.eval_results
    assert card_over(again, ours) == again


# What cannot be


def test_models_that_were_not_kept_are_asked_for_before_anything_is_written(run: RunFolder, report: Report, tmp_path: Path) -> None:
    folder = RunFolder(shutil.copytree(run.path, tmp_path / "run"))
    folder.weights_path("main", "keep-25", SEED).unlink()
    with pytest.raises(RecipeError, match=r"no weights of keep-25, evaluation main; evaluate again .*evaluate\.keep_weights=true"):
        model_folders(folder, asked(), report, ["keep-50", "keep-25"], DATASET, MIT, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_nothing_is_reported_of_other_rows_than_were_judged(run: RunFolder, tmp_path: Path) -> None:
    folder = RunFolder(shutil.copytree(run.path, tmp_path / "run"))
    shutil.rmtree(folder.selection_path("keep-50"))
    prune_run(folder, PruneSpec(name="keep-50", score="el2n", strategy="easiest", keep=0.5), command="test")
    with pytest.raises(StaleRecordError, match="selection 'keep-50' has other rows now than evaluation main has judged; delete "):
        report_run(asked(), folder)


@pytest.mark.parametrize("selection", ["keep--50", "keep..50", "a" * 90, "keep-50.git"])
def test_a_name_that_no_hub_takes_is_refused_before_anything_is_written(
    run: RunFolder, report: Report, tmp_path: Path, selection: str
) -> None:
    with pytest.raises(PublishError, match="a model cannot be called me/toys-diet-"):
        model_repo(DATASET, selection)
    with pytest.raises(PublishError, match="a model cannot be called"):
        model_folders(run, asked(), report, [selection], DATASET, MIT, tmp_path / "models")
    assert not (tmp_path / "models").exists()


# Words of the data

CODE = "model = 1\n```\n# not a heading\n````"


def facts(words: Mapping[str, str]) -> Facts:
    """A card of the synthetic report, in which every word of the data is one of these."""
    values = with_words(REPORT, dict(words))
    entry = {**values["evaluations"][0], "arms": [{**arm, "meaning": words["REASON"]} for arm in values["evaluations"][0]["arms"]]}
    return Facts(
        repo="me/toys-diet-keep-50",
        dataset_repo=DATASET,
        arm="keep-50",
        exported=Exported("timm", "image-classification", words["MODEL"], True, CODE, f"the weights of {words['EXAMPLE']}", None, "images"),
        seed=10_000,
        accuracy=0.5,
        evaluation=entry,
        source=values["source"],
        held_out=f"split {words['SPLIT']}",
        training=dataclasses.asdict(Training()),
        options={},
        versions={"torch": "2.11.0"},
    )


PLAIN = elements(body(facts({word: word for word in WORDS})))


def test_a_word_let_through_would_be_noticed() -> None:
    assert elements(body(facts(dict.fromkeys(WORDS, "<b>"))).replace("\\<b\\>", "<b>")) != PLAIN


@pytest.mark.parametrize("word", [word for word in HOSTILE if word])
def test_no_element_comes_from_the_data(word: str) -> None:
    text = body(facts(dict.fromkeys(WORDS, word)))
    assert elements(text) == PLAIN and not HIDDEN.search(text.replace("\n", ""))


def test_the_code_ends_where_it_ends() -> None:
    (fence,) = [token for token in READER.parse(body(facts({word: word for word in WORDS}))) if token.type == "fence"]
    assert fence.content == CODE + "\n" and fence.info == "python"


@settings(max_examples=200)
@given(words=st.lists(st.one_of(st.sampled_from(HOSTILE), st.text()), min_size=3, max_size=3))
def test_the_metadata_of_hostile_names_is_read_back(words: list[str]) -> None:
    name, config, split = words
    told = replace(source(), name=name, config=config or None, split=split, revision="0a1b")
    exported = facts({word: word for word in WORDS}).exported
    head = metadata(
        exported,
        repo="me/toys-diet-keep-50",
        dataset_repo=DATASET,
        license={"license": "other", "license_name": "toys"},
        source=told,
        held_out=HeldOut(fraction=0.25),
        selection="keep-50",
        seed=10_000,
        accuracy=1 / 3,
    )
    card = ModelCard(merged(None, head, "# text\n\n---\n", ()))
    (result,) = card.data.eval_results
    assert (result.dataset_type, result.dataset_config, result.dataset_split) == (name, config or None, split)
    assert result.dataset_revision == "0a1b" and result.metric_value == 1 / 3
    assert card.data.datasets == [DATASET, name] and card.data.library_name == "timm" and card.data.license_name == "toys"
    assert card.text.strip() == f"{BEGIN}\n\n# text\n\n---\n\n{END}"
