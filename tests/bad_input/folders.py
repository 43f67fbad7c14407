"""Folders and datasets to be wrong about, and machines that fail."""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import io
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import accelerate.tracking
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast, ViTConfig, ViTForImageClassification

from hf_datadiet import cli
from hf_datadiet.training import seeds
from tests.bad_input.case import RECIPE, SMALL, Patch, Prepare
from tests.hub.server import LoopbackHub
from tests.synthetic import pictures


def _kept() -> Path:
    """A folder that stays until the end, for what several cases share."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def all_of(*steps: Prepare) -> Prepare:
    """One preparation after the other."""

    def prepare(folder: Path) -> None:
        for step in steps:
            step(folder)

    return prepare


# Run folders


@functools.cache
def digits_run() -> Path:
    """60 rows of digits, scored by toy.yaml."""
    return _run("toy.yaml")


@functools.cache
def _noisy_run() -> Path:
    return _run("toy.yaml", "source.label_noise.fraction=0.1")


@functools.cache
def _logits_run() -> Path:
    return _run("--from-logits", "logits.npy", "--labels", "labels.npy", "--out", "runs/toy")


def _run(*words: str) -> Path:
    folder = _kept()
    (folder / "toy.yaml").write_text(yaml.safe_dump(RECIPE))
    logits(np.random.default_rng(0).normal(size=(2, 9, 3)))(folder)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["hf-datadiet", "score", *words])
        cli.main()
    return folder / "runs" / "toy"


def scored(folder: Path) -> None:
    """runs/toy: 60 rows of digits, scored."""
    shutil.copytree(digits_run(), folder / "runs" / "toy")


def damaged(folder: Path) -> None:
    """runs/toy, with a scores.parquet that was cut."""
    scored(folder)
    file = folder / "runs" / "toy" / "scores.parquet"
    file.write_bytes(file.read_bytes()[:100])


def scored_with_noise(folder: Path) -> None:
    """runs/toy: 60 rows of digits, a tenth of them with wrong labels."""
    shutil.copytree(_noisy_run(), folder / "runs" / "toy")


def scored_from_logits(folder: Path) -> None:
    """runs/toy: 9 rows, scored from logits."""
    shutil.copytree(_logits_run(), folder / "runs" / "toy")


# Files


def file(name: str, content: bytes = b"") -> Prepare:
    """A file of that name and content."""

    def prepare(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return prepare


def logits(values: Any, labels: Any = (0, 1, 2) * 3) -> Prepare:
    """logits.npy, and labels.npy for 9 rows."""

    def prepare(folder: Path) -> None:
        np.save(folder / "logits.npy", np.asarray(values), allow_pickle=True)
        np.save(folder / "labels.npy", np.asarray(labels))

    return prepare


def without_row_2(folder: Path) -> None:
    """logits.parquet, where one epoch of two lacks an example."""
    ids, epochs = [0, 1, 2, 3, 0, 1, 3], [1, 1, 1, 1, 2, 2, 2]
    columns = {"epoch": epochs, "example_id": ids, "label": [row % 2 for row in ids], "logits": [[0.5, 1.5]] * 7}
    pq.write_table(pa.table(columns), folder / "logits.parquet")


# Datasets


def rows(dataset: Dataset | DatasetDict) -> Prepare:
    """`data`: a dataset as save_to_disk writes it."""

    def prepare(folder: Path) -> None:
        dataset.save_to_disk(str(folder / "data"))

    return prepare


def tables(**splits: Dataset) -> Prepare:
    """`data`: a folder with a parquet file for each split."""

    def prepare(folder: Path) -> None:
        (folder / "data").mkdir()
        for name, dataset in splits.items():
            dataset.to_parquet(str(folder / "data" / f"{name}.parquet"))

    return prepare


def labelled(values: list[Any], feature: Any) -> Dataset:
    """Pictures with these labels."""
    return pictures(len(values)).remove_columns("label").add_column("label", values).cast_column("label", feature)


def broken_images(*broken: int) -> Dataset:
    """Eight images of two classes, those ones no images."""
    pixels = [{"bytes": b"no image at all" if row in broken else _png(row), "path": None} for row in range(8)]
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    return Dataset.from_dict({"image": pixels, "label": [0, 1] * 4}, features=features)


def _png(row: int) -> bytes:
    buffer = io.BytesIO()
    pictures(8)[row]["image"].save(buffer, "png")
    return buffer.getvalue()


def texts(*null: int) -> Dataset:
    """Eight texts of two classes, those ones null."""
    values = [None if row in null else f"text number {row} of some words" for row in range(8)]
    features = Features({"text": Value("string"), "label": ClassLabel(names=["a", "b"])})
    return Dataset.from_dict({"text": values, "label": [0, 1] * 4}, features=features)


# Models


@functools.cache
def _models() -> Path:
    """One folder per kind of bad model."""
    root = _kept()
    vit = ViTForImageClassification(ViTConfig(**SMALL, image_size=16, patch_size=4, num_labels=10))
    for name in ("vit", "pickled", "code"):
        vit.save_pretrained(root / name)
    (root / "pickled" / "model.safetensors").unlink()
    torch.save(vit.state_dict(), root / "pickled" / "pytorch_model.bin")
    config = json.loads((root / "code" / "config.json").read_text())
    (root / "code" / "config.json").write_text(json.dumps({**config, "model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}))
    (root / "code" / "mine.py").write_text("raise SystemExit(9)\n")
    BertForSequenceClassification(BertConfig(**SMALL, vocab_size=9, num_labels=2)).save_pretrained(root / "bert")
    words = Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(root / "no-pad")
    return root


def model(name: str) -> Prepare:
    """One of these folders."""

    def prepare(folder: Path) -> None:
        shutil.copytree(_models() / name, folder / name)

    return prepare


# Machines


def failing(function: str, error: BaseException) -> Patch:
    """The function raises the error instead of doing its work."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    return lambda monkeypatch: monkeypatch.setattr(function, fail)


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first seed that is trained finds no room."""

    def sync(path: Path) -> None:
        if "seeds" in path.parts:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("hf_datadiet.durable.sync", sync)


def diverging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed 0 ends with outputs that are not finite."""
    original = seeds.observe

    def observe(net: Any, feed: Any, scorers: Any, seed: int, plan: Any, **named: Any) -> Any:
        if seed == 0:
            with torch.no_grad():
                next(net.parameters()).fill_(float("nan"))
        return original(net, feed, scorers, seed, plan, **named)

    monkeypatch.setattr(seeds, "observe", observe)


def no_trackers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [])


def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)


def one_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")


@functools.cache
def _hub() -> LoopbackHub:
    hub = LoopbackHub().__enter__()
    atexit.register(hub.__exit__)
    hub.commit("org/toys", {"README.md": b"---\nconfigs:\n- config_name: a\n  data_files: a.csv\n---\n", "a.csv": b"text,label\nx,1\n"})
    hub.commit("org/gated", {"a.csv": b""}, access="gated")
    return hub


def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Hub with a dataset of one config, and one that is gated."""
    _hub().connect(monkeypatch, _kept())


def logged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
