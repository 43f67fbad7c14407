from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from hf_datadiet.errors import BadRowsError, RecipeError, SourceError
from hf_datadiet.gradients.forward import logits_of
from hf_datadiet.hub.samples import PACKAGES, docstrings
from hf_datadiet.scorers.input_norm import input_norm
from hf_datadiet.tasks import _tokens
from hf_datadiet.tasks.text import TextTask

CPU = torch.device("cpu")
COLUMNS = {"text": "text", "label": "label"}
PAIR = {**COLUMNS, "text_pair": "second"}
SENTENCES = [
    "the cat sat on the mat",
    "a dog",
    "the ship sails over the sea and the cat sleeps",
    "dogs bark at the ship and the cat, and then at the sea again and again",
    "sea",
]
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 32}
TASK = TextTask(vocab_size=320, max_length=16)


def rows(texts: Any = SENTENCES, **more: Any) -> Dataset:
    return Dataset.from_dict({"text": texts, "label": [row % 2 for row in range(len(texts))], **more})


def prepared(dataset: Dataset, cache: Path, task: TextTask = TASK, columns: Any = None, ids: Any = None, like: Any = None) -> Any:
    chosen = np.arange(len(dataset)) if ids is None else np.asarray(ids)
    return task.prepare(dataset, chosen, columns or COLUMNS, cache, f"key{chosen.tolist()}", like)


def collated(tokens: Any, positions: Any, inputs: tuple[str, ...] = _tokens.INPUTS) -> dict[str, torch.Tensor]:
    return TASK.collate(tokens, torch.tensor(positions), {"inputs": list(inputs)}, CPU, None)


def features(**kinds: Any) -> Features:
    return Features({name: Value(kind) if isinstance(kind, str) else kind for name, kind in kinds.items()})


LABEL = ClassLabel(names=["a", "b"])


# Columns


@pytest.mark.parametrize(
    ("kinds", "named", "text"),
    [
        ({"words": "string", "label": LABEL}, {}, "words"),
        ({"title": "string", "text": "large_string", "n": "int64", "label": LABEL}, {}, "text"),
        ({"title": "string", "sentence": "string", "label": LABEL}, {}, "sentence"),
        ({"title": "string", "body": "string", "label": LABEL}, {"text": "body"}, "body"),
        ({"words": "string", "label": "string"}, {}, "words"),
    ],
)
def test_the_text_column(kinds: dict[str, Any], named: dict[str, str], text: str) -> None:
    assert TASK.find_columns(features(**kinds), named) == {"text": text, "label": "label"}


def test_a_pair_is_named(tmp_path: Path) -> None:
    kinds = features(premise="string", hypothesis="string", label=LABEL)
    found = TASK.find_columns(kinds, {"text_pair": "hypothesis"})
    assert found == {"text": "premise", "text_pair": "hypothesis", "label": "label"}


@pytest.mark.parametrize(
    ("kinds", "named", "message"),
    [
        (
            {"one": "string", "two": "string", "label": LABEL},
            {},
            r"the text column: candidates are 2 \(one, two\); name it with source\.col",
        ),
        ({"n": "int64", "label": LABEL}, {}, "the text column: candidates are none among n, label"),
        ({"words": "string", "label": LABEL}, {"text": "wrds"}, "source.columns.text names 'wrds'; the dataset has: words, label"),
        ({"words": "string", "label": LABEL}, {"text_pair": "no"}, "source.columns.text_pair names 'no'"),
        ({"words": "string", "a": LABEL, "b": LABEL}, {}, r"the label column: candidates are 2 \(a, b\)"),
    ],
)
def test_columns_that_cannot_be_told(kinds: dict[str, Any], named: dict[str, str], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        TASK.find_columns(features(**kinds), named)


def test_a_role_that_does_not_exist() -> None:
    with pytest.raises(RecipeError, match="a text task has no role 'image'; its roles are text, text_pair and label"):
        TASK.find_columns(features(text="string", label=LABEL), {"image": "text"})


# Tokens


def test_tokens_are_those_of_the_tokenizer_in_the_order_of_the_ids(tmp_path: Path) -> None:
    tokens = prepared(rows(), tmp_path, ids=[3, 1, 4])
    for position, row in enumerate((3, 1, 4)):
        expected = tokens.tokenizer(SENTENCES[row], truncation=True, max_length=16)["input_ids"]
        assert tokens.ids[tokens.offsets[position] : tokens.offsets[position + 1]].tolist() == expected
    assert TASK.lengths(tokens).tolist() == tokens.offsets.diff().tolist()
    assert tokens.ids.dtype == torch.int32 and tokens.nbytes > 0


def test_a_batch_is_padded_to_its_longest(tmp_path: Path) -> None:
    tokens = prepared(rows(), tmp_path)
    batch, lengths = collated(tokens, [4, 2, 1]), TASK.lengths(tokens)[[4, 2, 1]]
    assert set(batch) == set(_tokens.INPUTS) and all(values.dtype == torch.int64 for values in batch.values())
    assert batch["input_ids"].shape == (3, lengths.max())
    expected = tokens.tokenizer([SENTENCES[row] for row in (4, 2, 1)], padding=True)
    for name in ("input_ids", "attention_mask"):
        assert batch[name].tolist() == expected[name]
    assert list(collated(tokens, [0], ("input_ids", "attention_mask"))) == ["input_ids", "attention_mask"]


def test_pairs(tmp_path: Path) -> None:
    second = ["it purrs", "it barks loudly", "foam foam foam foam", "no", "waves and foam"]
    dataset = rows(second=second)
    tokens = prepared(dataset, tmp_path, columns=PAIR)
    batch = collated(tokens, [1, 4])
    expected = tokens.tokenizer([SENTENCES[1], SENTENCES[4]], [second[1], second[4]], padding=True, return_token_type_ids=True)
    for name in _tokens.INPUTS:
        assert batch[name].tolist() == expected[name]
    assert batch["token_type_ids"].max() == 1
    assert len(tokens.tokenizer.tokenize("foam")) == 1 < len(tokens.tokenizer.tokenize("loam")), "both texts teach the tokenizer"


def test_what_is_cut_is_counted(tmp_path: Path) -> None:
    exact = prepared(rows(), tmp_path / "a", TextTask(vocab_size=320, max_length=128))
    longest = int(TASK.lengths(exact).max())
    assert exact.n_truncated == 0
    assert prepared(rows(), tmp_path / "b", TextTask(vocab_size=320, max_length=longest)).n_truncated == 0
    task = TextTask(vocab_size=320, max_length=8)
    cut = prepared(rows(), tmp_path / "c", task)
    assert cut.n_truncated == int((TASK.lengths(exact) > 8).sum()) > 0
    assert TASK.lengths(cut).tolist() == np.minimum(TASK.lengths(exact), 8).tolist()
    assert prepared(rows(), tmp_path / "c", task).n_truncated == cut.n_truncated, "kept beside the tokens"


def test_texts_are_tokenised_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepared(rows(), tmp_path)

    def never(*args: Any, **keys: Any) -> None:
        raise AssertionError("tokenised again")

    with monkeypatch.context() as patch:
        patch.setattr(_tokens, "_write", never)
        patch.setattr(_tokens, "learn", never)
        again = prepared(rows(), tmp_path)
    assert torch.equal(first.ids, again.ids) and torch.equal(first.offsets, again.offsets) and first.fingerprint == again.fingerprint
    files = {path.name for path in tmp_path.iterdir()}
    prepared(rows(), tmp_path, TextTask(vocab_size=320, max_length=9))
    assert len({path.name for path in tmp_path.iterdir()} - files) == 1, "another length, other tokens, the same tokenizer"


def test_changing_tokens_in_memory_leaves_the_file(tmp_path: Path) -> None:
    tokens = prepared(rows(), tmp_path)
    before = tokens.ids.clone()
    tokens.ids.zero_()
    assert torch.equal(prepared(rows(), tmp_path).ids, before)


def test_held_out_rows_share_the_tokenizer(tmp_path: Path) -> None:
    train = prepared(rows(), tmp_path)
    other = rows(["the purple elephant and the cat", "sea"])
    test = prepared(other, tmp_path, like=train)
    assert test.tokenizer is train.tokenizer
    assert (
        test.ids[: test.offsets[1]].tolist()
        == train.tokenizer("the purple elephant and the cat", truncation=True, max_length=16)["input_ids"]
    )


def test_learning_a_tokenizer_is_deterministic() -> None:
    texts = docstrings()["train"]["text"][:300]
    assert len({_tokens.learn(iter(texts), 500).to_str() for _ in range(4)}) == 1


@pytest.mark.parametrize("bad", [0, 2])
def test_a_null_text_names_its_row(bad: int, tmp_path: Path) -> None:
    texts: list[str | None] = [*SENTENCES[:3]]
    texts[bad] = None
    with pytest.raises(BadRowsError, match=rf"1 row cannot be read: {bad} \(text is null\); mend the data, or leave"):
        prepared(rows(texts), tmp_path)
    with pytest.raises(BadRowsError, match=rf"1 row cannot be read: {bad} \(second is null\)"):
        prepared(rows(SENTENCES[:3], second=texts), tmp_path, columns=PAIR)
    with pytest.raises(SourceError, match=r"column 'label' holds int and no text; name another with source.columns"):
        prepared(rows(), tmp_path, columns={"text": "label", "label": "label"})
    assert not any(tmp_path.glob("**/*")), "nothing half made is left"


def test_an_empty_text_is_a_text(tmp_path: Path) -> None:
    assert TASK.lengths(prepared(rows(["", *SENTENCES]), tmp_path))[0] == 2


def plain_tokenizer(folder: Path, **special: str) -> str:
    """A tokenizer of whole words without special tokens of its own."""
    words = {word: position for position, word in enumerate(["<pad>", "<unk>", *sorted(set(" ".join(SENTENCES).split()))])}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(folder)
    return str(folder)


def test_a_tokenizer_from_a_folder(tmp_path: Path) -> None:
    task = TextTask(tokenizer=plain_tokenizer(tmp_path / "mine", pad_token="<pad>"))
    tokens = prepared(rows(), tmp_path / "cache", task)
    assert task.lengths(tokens).tolist() == [len(text.split()) for text in SENTENCES]
    with pytest.raises(SourceError, match="row 1 has a text without any token"):
        prepared(rows(["sea", ""]), tmp_path / "other", task)


@pytest.mark.parametrize("max_length", [8, 128])
def test_what_a_run_keeps_gives_the_same_tokens_again(max_length: int, tmp_path: Path) -> None:
    task = TextTask(vocab_size=320, max_length=max_length)
    tokens = prepared(rows(), tmp_path, task)
    fitted = json.loads(json.dumps(task.fit(tokens, "transformers:bert")))
    again = task.prepare_batch({"text": SENTENCES[1:4]}, [1, 2, 3], fitted)
    start, end = tokens.offsets[1], tokens.offsets[4]
    assert torch.equal(again.ids, tokens.ids[start:end]) and torch.equal(again.types, tokens.types[start:end])
    assert torch.equal(again.offsets, tokens.offsets[1:5] - start)


def test_tokenizers_that_cannot_be_used(tmp_path: Path) -> None:
    folder = plain_tokenizer(tmp_path / "mine")
    for name, message in {
        folder: "has no pad token; add one",
        str(tmp_path / "none"): "there is no folder",
        "nobody/nothing": "task.tokenizer nobody/nothing cannot be loaded: ",
    }.items():
        with pytest.raises(RecipeError, match=message) as error:
            prepared(rows(), tmp_path / "cache", TextTask(tokenizer=name))
        assert "\n" not in str(error.value)


# Models


def test_a_model_from_a_configuration(tmp_path: Path) -> None:
    tokens = prepared(rows(), tmp_path)
    torch.manual_seed(0)
    net: Any = TASK.build_model("transformers:bert", SMALL, 3, tokens)
    torch.manual_seed(0)
    twin = TASK.build_model("transformers:bert", SMALL, 3, tokens)
    assert net.training and net.config.num_labels == 3 and net.config.pad_token_id == tokens.tokenizer.pad_token_id
    assert net.config.vocab_size == len(tokens.tokenizer) and all(p.dtype == torch.float32 for p in net.parameters())
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True)), "the seed decides"
    fitted = TASK.fit(tokens, "transformers:bert")
    assert fitted["inputs"] == list(_tokens.INPUTS) and fitted["n_truncated"] == tokens.n_truncated == 1
    assert logits_of(net.eval(), collated(tokens, [0, 1])).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("distilbert", {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 32}),
        ("gpt2", {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}),
    ],
)
def test_other_models_take_what_they_know(name: str, arguments: dict[str, int], tmp_path: Path) -> None:
    tokens = prepared(rows(), tmp_path)
    net = TASK.build_model(f"transformers:{name}", arguments, 2, tokens).eval()
    fitted = TASK.fit(tokens, f"transformers:{name}")
    both = logits_of(net, TASK.collate(tokens, torch.tensor([1, 3]), fitted, CPU, None))
    alone = logits_of(net, TASK.collate(tokens, torch.tensor([1]), fitted, CPU, None))
    torch.testing.assert_close(both[:1], alone, rtol=1e-5, atol=1e-6)


def saved_bert(folder: Path, tokens: Any, **how: Any) -> str:
    torch.manual_seed(5)
    net = BertForSequenceClassification(BertConfig(**SMALL, vocab_size=len(tokens.tokenizer), num_labels=2))
    net.save_pretrained(folder, **how)
    tokens.tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_pretrained_model_from_a_folder(tmp_path: Path) -> None:
    tokens = prepared(rows(), tmp_path)
    folder = saved_bert(tmp_path / "bert", tokens)
    task = TextTask(tokenizer=folder, max_length=16)
    own = prepared(rows(), tmp_path, task)
    assert torch.equal(own.ids, tokens.ids)
    net: Any = task.build_model(f"transformers:{folder}", {"hidden_dropout_prob": 0.3}, 2, own)
    torch.manual_seed(5)
    expected = BertForSequenceClassification(BertConfig(**SMALL, vocab_size=len(tokens.tokenizer), num_labels=2))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), expected.parameters(), strict=True))
    assert net.config.hidden_dropout_prob == 0.3 and net.training
    assert task.fit(own, f"transformers:{folder}")["inputs"] == list(_tokens.INPUTS)
    with pytest.raises(RecipeError, match=r"is pretrained on its own tokens; set task\.tokenizer="):
        TASK.build_model(f"transformers:{folder}", {}, 2, tokens)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    tokens = prepared(rows(), tmp_path)
    folder = tmp_path / "bert"
    saved_bert(folder, tokens)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    task = TextTask(tokenizer=str(folder), max_length=16)
    with pytest.raises(RecipeError, match=r"no safetensors weights but pytorch_model\.bin, .*: refused; convert them"):
        task.build_model(f"transformers:{folder}", {}, 2, prepared(rows(), tmp_path, task))


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("bert", {}, "task.model 'bert' is not supported for text; write transformers:bert"),
        ("timm:resnet18", {}, "task.model 'timm:resnet18' is not supported for text"),
        ("transformers:brt", {}, "transformers has no model type 'brt'; did you mean bert"),
        ("transformers:vit", {}, "transformers has no sequence classification for transformers:vit"),
        ("transformers:./none", {}, "task.model: there is no folder ./none"),
        ("transformers:nobody/nothing", {}, "task.model transformers:nobody/nothing cannot be loaded: "),
        ("transformers:bert", {"hiden_size": 8}, r"task.model_args.hiden_size: bert has no such key; did you mean hidden_size\?"),
        (
            "transformers:bert",
            {**SMALL, "max_position_embeddings": 15},
            r"cannot take texts of 16 of these tokens .*set a smaller task.max_length",
        ),
        ("transformers:bert", {**SMALL, "vocab_size": 10}, "cannot take texts of 16 of these tokens .*a larger vocabulary"),
        ("transformers:bert", {**SMALL, "hidden_size": 15}, "task.model transformers:bert cannot be built: "),
        (
            "transformers:fnet",
            {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 24},
            "says something else of a row that is padded",
        ),
    ],
)
def test_models_that_cannot_be_used(model: str, arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    tokens = prepared(rows(), tmp_path)

    def both() -> None:
        TASK.fit(tokens, model)
        TASK.build_model(model, arguments, 2, tokens)

    with pytest.raises(RecipeError, match=message) as error:
        both()
    assert "\n" not in str(error.value)


def test_tokens_have_no_norm(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"leave it out of score\.scores"):
        input_norm(collated(prepared(rows(), tmp_path), [0]))


# The sample


def test_the_docstrings() -> None:
    first, second = docstrings()["train"], docstrings()["train"]
    assert first["text"] == second["text"] and first["label"] == second["label"]
    assert first.features["label"].names == list(PACKAGES) and len(set(first["text"])) == len(first) > 1000
    counts = np.bincount(first["label"], minlength=len(PACKAGES))
    assert counts.min() >= 40
    for text, label in zip(first["text"], first["label"], strict=True):
        assert PACKAGES[label] not in text.lower(), "the label is not given away"


def test_the_side_that_is_cut_is_part_of_a_tokenizer() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, "[UNK]")), pad_token="[UNK]")
    before = _tokens.fingerprint_of(tokenizer)
    tokenizer.truncation_side = "left"
    assert _tokens.fingerprint_of(tokenizer) != before
