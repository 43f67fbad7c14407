"""Models that cannot be used, on the command line: one line that names the fault and the remedy, and nothing written."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast, ViTConfig, ViTForImageClassification

from hf_datadiet import cli
from hf_datadiet.recipe_yaml import with_overrides
from hf_datadiet.store import RunFolder

SMALL: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
IMAGES: dict[str, Any] = {
    "source": {"sample": "digits", "limit": 40, "test": {"fraction": 0.1}},
    "task": {"kind": "image", "model": "timm:test_resnet", "training": {"epochs": 1, "batch_size": 8}},
    "score": {"scores": ["el2n"], "seeds": 2},
}
TEXTS: dict[str, Any] = {
    "source": {"path": "ROOT/texts.parquet"},
    "task": {
        "kind": "text",
        "model": "transformers:bert",
        "model_args": {**SMALL, "max_position_embeddings": 16},
        "max_length": 16,
        "vocab_size": 300,
        "training": {"epochs": 1, "batch_size": 8, "optimizer": {"name": "AdamW"}},
    },
    "score": {"scores": ["el2n"], "seeds": 1},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder per kind of bad model."""
    root = tmp_path_factory.mktemp("models")
    vit = ViTForImageClassification(ViTConfig(**SMALL, image_size=16, patch_size=4, num_labels=10))
    for name in ("vit", "pickled", "code"):
        vit.save_pretrained(root / name)
    (root / "pickled" / "model.safetensors").unlink()
    torch.save(vit.state_dict(), root / "pickled" / "pytorch_model.bin")
    config = json.loads((root / "code" / "config.json").read_text())
    (root / "code" / "config.json").write_text(json.dumps({**config, "model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}))
    (root / "code" / "mine.py").write_text("raise SystemExit(9)\n")
    BertForSequenceClassification(BertConfig(**SMALL, vocab_size=9, num_labels=2)).save_pretrained(root / "bert")
    rows = [f"{'a cat and a dog ' * (row % 5)}number {row}" for row in range(30)]
    Dataset.from_dict({"text": rows, "label": [row % 2 for row in range(30)]}).to_parquet(root / "texts.parquet")
    words = Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(root / "no-pad")
    return root


def said(
    values: dict[str, Any], overrides: dict[str, Any], where: Path, folders: Path, capsys: pytest.CaptureFixture[str]
) -> tuple[Any, list[str]]:
    """Exit code and lines on stderr of `hf-datadiet score`; an exception that is no exit goes on up."""
    recipe = where / "bad.yaml"
    recipe.write_text(yaml.safe_dump(with_overrides(values, overrides)).replace("ROOT", str(folders)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["hf-datadiet", "score", str(recipe), "--out", str(where / "run")])
        capsys.readouterr()
        code: Any = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
    return code, capsys.readouterr().err.splitlines()


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a timm name that does not exist": (IMAGES, {"task.model": "timm:resnet81"}, "timm has no model 'resnet81'; did you mean resnet"),
    "a type that does not exist": (IMAGES, {"task.model": "transformers:vitt"}, "transformers has no model type 'vitt'; did you mean vit"),
    "a Hub name that is not cached": (IMAGES, {"task.model": "transformers:no/such"}, "it is not in the local cache and the Hub cannot be"),
    "a library that is none": (IMAGES, {"task.model": "torchvision:resnet18"}, "'torchvision:resnet18' is not supported; write timm:NAME"),
    "images too small": (IMAGES, {"task.model": "transformers:vit", "task.model_args": {}}, "cannot take 8 x 8 images ("),
    "images too small for weights": (IMAGES, {"task.model": "transformers:ROOT/vit"}, "set task.image_size=16"),
    "pickled weights": (
        IMAGES,
        {"task.model": "transformers:ROOT/pickled"},
        "pytorch_model.bin, which can run code when it is read: refused",
    ),
    "code of its own": (IMAGES, {"task.model": "transformers:ROOT/code"}, "it needs code of its own (auto_map in config.json)"),
    "a tokenizer without a pad token": (TEXTS, {"task.tokenizer": "ROOT/no-pad"}, "has no pad token; add one"),
    "a tokenizer that is not cached": (
        TEXTS,
        {"task.tokenizer": "no/such"},
        "task.tokenizer no/such cannot be loaded: it is not in the local",
    ),
    "weights with other tokens": (TEXTS, {"task.model": "transformers:ROOT/bert"}, "is pretrained on its own tokens; set task.tokenizer="),
    "texts longer than the model": (TEXTS, {"task.max_length": 17}, "cannot take texts of 17 of these tokens"),
    "an optimizer that needs a closure": (IMAGES, {"task.training.optimizer": {"name": "LBFGS"}}, "LBFGS evaluates a batch several times"),
    "one row and BatchNorm": (IMAGES, {"source.limit": 1}, "the model's BatchNorm cannot train on a batch of one row; give it two rows or"),
}
LATE = "one row and BatchNorm"
"""Shows in the first step only."""


@pytest.mark.parametrize("case", CASES)
def test_a_bad_model_is_one_line(case: str, folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values, overrides, message = CASES[case]
    code, lines = said(values, overrides, tmp_path, folders, capsys)
    mistakes = [line for line in lines if line.startswith("hf-datadiet: ")]
    assert code == 2 and len(mistakes) == 1 and lines[-1] == mistakes[0] and message in mistakes[0], lines
    assert not (tmp_path / "run").exists() or case == LATE, "the run's folder waits for a model that can be built"
    assert not (tmp_path / "run" / "scores.parquet").exists()


def test_seeds_that_diverge(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    optimizer = {"name": "SGD", "lr": 1e30}
    code, lines = said(IMAGES, {"task.training.optimizer": optimizer}, tmp_path, folders, capsys)
    assert code == 2 and lines[-1].startswith("hf-datadiet: every seed diverged; seed 0: the training diverged")
    assert lines[-1].endswith("lower task.training.optimizer.lr")
    assert not RunFolder(tmp_path / "run").has_seed(0) and not (tmp_path / "run" / "scores.parquet").exists()


def test_what_was_cut_reaches_the_report(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = said(TEXTS, {}, tmp_path, folders, capsys)
    fitted = RunFolder(tmp_path / "run").fitted()
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert code == 0 and report["task"]["n_truncated"] == fitted["n_truncated"] > 0
    assert f"{fitted['n_truncated']} of 30 texts are longer than task.max_length tokens and are cut" in lines
    assert "longer than task.max_length and were cut" in (tmp_path / "run" / "report.md").read_text()
