"""ExampleScorer on texts, and on models of transformers: the numbers of a run, from a run, an object or a folder."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from datasets.fingerprint import Hasher
from multiprocess.reduction import ForkingPickler
from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

from hf_datadiet import ExampleScorer, score_dataset
from hf_datadiet.errors import DataDietError, RecipeError, SourceError
from hf_datadiet.records import RunResult
from hf_datadiet.store import RunFolder
from hf_datadiet.tasks._tokens import _from_json, kept_tokenizer, learn
from tests.synthetic import pictures
from tests.test_mapping import HALF, close, counted, saved, scored

__all__ = ["counted"]

SCORES = ["el2n", "grand"]
BERT: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
VIT: dict[str, Any] = {**BERT, "image_size": 8, "patch_size": 4}
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "dog", "barks", "at", "ships", "while", "seas", "of", "foam", "run"]
OPTIONS: dict[str, Any] = {
    "task.kind": "text",
    "task.vocab_size": 300,
    "task.max_length": 24,
    "task.model_args": {**BERT, "max_position_embeddings": 24, "initializer_range": 0.3},
    "task.training.optimizer": {"name": "AdamW", "lr": 0.003},
    "task.training.batch_size": 8,
}


def texts(n: int = 30, **more: Any) -> Dataset:
    """Texts of very different lengths, some of them longer than 24 tokens."""
    rng = np.random.default_rng(0)
    made = [" ".join(rng.choice(WORDS, rng.integers(1, 20))) for _ in range(n)]
    features = Features({"text": Value("string"), "label": ClassLabel(names=["a", "b", "c"])})
    dataset = Dataset.from_dict({"text": made, "label": [row % 3 for row in range(n)]}, features=features)
    for name, values in more.items():
        dataset = dataset.add_column(name, values)
    return dataset


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds on thirty texts, with a tokenizer that the run learned."""
    folder = tmp_path_factory.mktemp("text") / "run"
    score_dataset(texts(), model="transformers:bert", scores=SCORES, seeds=2, epochs=1, out=folder, options=OPTIONS, progress=False)
    return folder


@pytest.fixture(scope="module")
def observed(run: Path) -> RunResult:
    return RunFolder(run).load_seed(1)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return _from_json(learn(iter(texts()["text"]), 300).to_str())


def bert(positions: int = 24, seed: int = 0, n_classes: int = 3) -> BertForSequenceClassification:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = BertConfig(**BERT, vocab_size=300, max_position_embeddings=positions, num_labels=n_classes, initializer_range=0.3)
        return BertForSequenceClassification(config)


def vit() -> ViTForImageClassification:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ViTForImageClassification(ViTConfig(**VIT, num_labels=3))


# The numbers


@pytest.mark.parametrize("batch_size", [256, 7])
def test_a_seed_of_a_run_on_texts(run: Path, observed: RunResult, batch_size: int) -> None:
    made = scored(texts(), ExampleScorer.from_run(run, seed=1), batch_size=batch_size)
    for name in SCORES:
        assert made.features[name] == Value("float32")
        close(made[name], observed.observed[name][-1])
    assert not np.allclose(made["el2n"], RunFolder(run).load_seed(0).observed["el2n"][-1], rtol=1e-2)


def test_a_stream_of_texts(run: Path, observed: RunResult) -> None:
    rows = list(scored(texts().to_iterable_dataset(), ExampleScorer.from_run(run, seed=1), batch_size=11))
    for name in SCORES:
        close([row[name] for row in rows], observed.observed[name][-1])


def test_the_run_keeps_its_tokenizer(run: Path, observed: RunResult) -> None:
    fitted = RunFolder(run).fitted()
    assert 0 < fitted["n_truncated"] < 30
    for path in (run / "cache").glob("tokenizer-*"):
        shutil.rmtree(path)
    close(scored(texts(), ExampleScorer.from_run(run, seed=1))["el2n"], observed.observed["el2n"][-1])


def test_an_object_and_its_tokenizer(run: Path, tokenizer: Any) -> None:
    """By hand: each text alone, in float64, without padding."""
    model = bert()
    made = scored(texts(), ExampleScorer(model, SCORES, tokenizer=tokenizer, max_length=24), batch_size=16)
    exact: Any = copy.deepcopy(model).double().eval()
    for row, (text, label) in enumerate(zip(texts()["text"], texts()["label"], strict=True)):
        inputs = tokenizer(text, truncation=True, max_length=24, return_tensors="pt")
        logits = exact(**{name: inputs[name] for name in ("input_ids", "attention_mask", "token_type_ids")}).logits
        exact.zero_grad()
        torch.nn.functional.cross_entropy(logits, torch.tensor([label])).backward()
        squares = [parameter.grad.square().sum() for parameter in exact.parameters() if parameter.grad is not None]
        wrong = logits.detach().softmax(1)[0] - torch.nn.functional.one_hot(torch.tensor(label), 3)
        assert made["el2n"][row] == pytest.approx(float(wrong.norm()), rel=1e-4)
        assert made["grand"][row] == pytest.approx(float(torch.stack(squares).sum().sqrt()), rel=1e-3)


def test_pairs_of_texts(tokenizer: Any) -> None:
    data = texts(second=texts(30)["text"][::-1])
    columns = {"text": "text", "text_pair": "second"}
    pairs = scored(data, ExampleScorer(bert(), columns=columns, tokenizer=tokenizer, max_length=24))["el2n"]
    alone = scored(data, ExampleScorer(bert(), columns={"text": "text"}, tokenizer=tokenizer, max_length=24))["el2n"]
    assert not np.allclose(pairs, alone, rtol=1e-3)


def test_a_folder_is_its_model_and_tokenizer(tokenizer: Any, tmp_path: Path) -> None:
    model = bert()
    model.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    expected = scored(texts(), ExampleScorer(model, tokenizer=tokenizer, max_length=24))["el2n"]
    close(scored(texts(), ExampleScorer.from_pretrained(tmp_path / "bert", max_length=24))["el2n"], expected)
    picture_model, stated = vit(), {"image_processor_type": "ViTImageProcessor", "image_mean": HALF["mean"], "image_std": HALF["std"]}
    picture_model.save_pretrained(tmp_path / "vit")
    with pytest.raises(RecipeError, match=r"the model states no mean and s\.d\.; pass normalize="):
        ExampleScorer.from_pretrained(tmp_path / "vit")
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(stated))
    expected = scored(pictures(6), ExampleScorer(picture_model, SCORES, normalize=HALF))
    made = scored(pictures(6), ExampleScorer.from_pretrained(tmp_path / "vit", SCORES))
    for name in SCORES:
        close(made[name], expected[name])


def test_a_folder_with_its_classes_in_another_order(tokenizer: Any, tmp_path: Path) -> None:
    model = bert()
    model.config.id2label = {0: "b", 1: "a", 2: "c"}
    model.config.label2id = {"b": 0, "a": 1, "c": 2}
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    scorer = ExampleScorer.from_pretrained(tmp_path, max_length=24)
    with pytest.raises(SourceError, match="class 0 of label column 'label' is 'a', and 'b' for the model; align them") as error:
        scored(texts(), scorer)
    assert "\n" not in str(error.value)
    aligned = texts().align_labels_with_mapping(model.config.label2id, "label")
    plain = [{0: 1, 1: 0, 2: 2}[label] for label in texts()["label"]]
    expected = ExampleScorer(bert(), tokenizer=tokenizer, max_length=24)
    by_hand = scored(texts().remove_columns("label").add_column("label", plain), expected)["el2n"]
    close(scored(aligned, scorer)["el2n"], by_hand)


def test_a_seed_of_a_run_on_images_with_transformers(tmp_path: Path) -> None:
    how: Any = {"scores": SCORES, "seeds": 1, "epochs": 1, "progress": False}
    options = {"task.training.batch_size": 4, "task.model_args": VIT}
    score_dataset(pictures(9), model="transformers:vit", out=tmp_path / "run", options=options, **how)
    made = scored(pictures(9), ExampleScorer.from_run(tmp_path / "run"))
    for name in SCORES:
        close(made[name], RunFolder(tmp_path / "run").load_seed(0).observed[name][-1])


# Caching and processes


def test_the_second_map_of_texts_is_read_from_the_cache(run: Path, tokenizer: Any, tmp_path: Path, counted: list[int]) -> None:
    data, model = saved(texts(), tmp_path / "data"), bert()
    used = copy.deepcopy(tokenizer)
    used(["a", "cat"], truncation=True, max_length=3, padding=True)
    for make in (
        lambda: ExampleScorer.from_run(run),
        lambda: ExampleScorer(model, tokenizer=tokenizer, max_length=24),
        lambda: ExampleScorer(model, tokenizer=used, max_length=24),
    ):
        scorer = make()
        first = scored(data, scorer)["el2n"]
        assert scored(data, scorer)["el2n"] == first and scored(data, make())["el2n"] == first
    assert counted == [30, 30], "what a tokenizer did before changes nothing"
    scored(data, ExampleScorer(model, tokenizer=tokenizer, max_length=23))
    assert counted == [30, 30, 30]


@pytest.mark.parametrize("source", ["run", "model"])
def test_other_processes_give_the_same(run: Path, tokenizer: Any, source: str) -> None:
    scorer = ExampleScorer.from_run(run) if source == "run" else ExampleScorer(bert(), SCORES, tokenizer=tokenizer, max_length=24)
    one = scored(texts(), scorer)
    received = ForkingPickler.loads(bytes(ForkingPickler.dumps(scorer)))
    assert Hasher.hash(received) == Hasher.hash(scorer)
    two = scored(texts(), received, num_proc=2, with_rank=True, batch_size=8)
    for name in SCORES:
        close(two[name], one[name])


# What is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"a model of texts needs its tokenizer; pass tokenizer=AutoTokenizer\.from_pretrained"),
        ({"tokenizer": "given", "normalize": HALF}, "normalize and image_size are for images; leave them out beside a tokenizer"),
        ({"tokenizer": "given", "model": vit()}, "ViTForImageClassification takes no input_ids"),
        ({"tokenizer": "bare"}, r"the tokenizer has no pad token; add one: tokenizer\.pad_token = tokenizer\.eos_token"),
        ({"tokenizer": "given", "max_length": 25}, r"(; check |; set a smaller task\.)max_length"),
        ({"tokenizer": "given", "model": bert(n_classes=2)}, "has label 2, but the model has 2 classes"),
        ({"tokenizer": "given", "max_length": 1}, r"ExampleScorer\.max_length: .* greater than or equal to 8, not 1"),
    ],
)
def test_scorers_of_texts_that_cannot_be_used(arguments: dict[str, Any], message: str, tokenizer: Any) -> None:
    given = dict(arguments)
    if given.get("tokenizer") == "bare":
        given["tokenizer"] = copy.deepcopy(tokenizer)
        given["tokenizer"].pad_token = None
    elif "tokenizer" in given:
        given["tokenizer"] = tokenizer
    with pytest.raises(DataDietError, match=message) as error:
        scored(texts(), ExampleScorer(**{"model": bert(), "max_length": 24, **given} if given else {"model": bert()}))
    assert "\n" not in str(error.value)


def test_rows_without_a_text_or_a_label(tokenizer: Any) -> None:
    scorer = ExampleScorer(bert(), tokenizer=tokenizer, max_length=24)
    data = texts(4)
    holes = Dataset.from_dict({"text": [*data["text"][:3], None], "label": [0, None, -1, 1]})
    with pytest.raises(SourceError, match=r"in a batch, counted from 0: row 3 has no text in the batch \(it is null\)"):
        scored(holes, scorer)
    made = scored(holes.select(range(3)), scorer)
    close(made["el2n"][0], scored(data, scorer)["el2n"][0])
    assert made["el2n"][1:] == [None, None]


def test_a_tokenizer_that_is_another_one_now(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path / "tokens")
    options = {**OPTIONS, "task.tokenizer": str(tmp_path / "tokens")}
    how: Any = {"model": "transformers:bert", "seeds": 1, "epochs": 1, "progress": False, "out": tmp_path / "run", "options": options}
    score_dataset(texts(9), **how)
    close(scored(texts(9), ExampleScorer.from_run(tmp_path / "run"))["el2n"], RunFolder(tmp_path / "run").load_seed(0).observed["el2n"][-1])
    _from_json(learn(iter(["other words"]), 300).to_str()).save_pretrained(tmp_path / "tokens")
    kept_tokenizer.cache_clear()
    with pytest.raises(RecipeError, match="is not the one that the run used; give that one back its place"):
        scored(texts(9), ExampleScorer.from_run(tmp_path / "run"), load_from_cache_file=False)


def test_class_names_as_labels(run: Path, observed: RunResult) -> None:
    plain = texts()
    named = Dataset.from_dict({"text": plain["text"][:], "label": ["abc"[label] for label in plain["label"]]})
    scorer = ExampleScorer.from_run(run, seed=1, scores=["el2n"])
    found = named.map(scorer, batched=True, batch_size=7)
    close(found["el2n"][:], observed.observed["el2n"][0])
    streamed = list(named.to_iterable_dataset().map(scorer, batched=True, batch_size=7))
    close([row["el2n"] for row in streamed], observed.observed["el2n"][0])
    with pytest.raises(SourceError, match="row 0 of a batch has class 'd' in label column 'label', and the model knows: a, b, c; map the"):
        scorer({"text": ["the cat"], "label": ["d"]})
