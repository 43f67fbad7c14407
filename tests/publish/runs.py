"""Two finished runs, of pictures and of texts, with two selections each: what the tests of publishing publish."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Picture

from hf_datadiet import cli
from tests.synthetic import CLASSES

CARD = "---\nlicense: cc-by-4.0\nlanguage: en\n---\n# Toys\n"
SELECTIONS = [{"name": "keep-50", "score": "el2n", "keep": 0.5}, {"name": "keep-25", "score": "el2n", "keep": 0.25, "quotas": "equal"}]
IMAGES: dict[str, Any] = {
    "source": {"test": {"split": "test"}, "id_column": "uid"},
    "task": {"model": "timm:test_resnet", "training": {"epochs": 1, "batch_size": 16}},
    "score": {"scores": ["el2n", "forgetting"], "seeds": 2},
    "prune": SELECTIONS,
    "evaluate": {"seeds": 2},
}
TEXTS: dict[str, Any] = {
    **IMAGES,
    "source": {"test": {"fraction": 0.2}},
    "task": {
        "kind": "text",
        "model": "transformers:bert",
        "model_args": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8},
        "max_length": 8,
        "vocab_size": 300,
        "training": {"epochs": 1, "batch_size": 16, "optimizer": {"name": "AdamW"}},
    },
}


def images(n: int, seed: int) -> Dataset:
    """JPEG files, lossy, so that an image that was encoded again would show."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        buffer = io.BytesIO()
        Picture.fromarray(rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(buffer, "JPEG")
        rows.append({"bytes": buffer.getvalue(), "path": None})
    columns = {"image": rows, "label": [row % len(CLASSES) for row in range(n)], "uid": [f"{seed}-{row}" for row in range(n)]}
    return Dataset.from_dict(columns, features=Features({"image": Image(), "label": ClassLabel(names=[*CLASSES]), "uid": Value("string")}))


def texts(n: int) -> Dataset:
    columns = {"text": [f"{'a cat ' * (row % 4)}number {row}" for row in range(n)], "label": [row % 2 for row in range(n)]}
    return Dataset.from_dict(columns, features=Features({"text": Value("string"), "label": ClassLabel(names=["a", "b"])}))


def finished(place: Path, recipe: dict[str, Any], splits: dict[str, Dataset]) -> Path:
    """A folder with `source/` (a copy of a dataset on the Hub), mine.yaml and the finished `run`."""
    (place / "source" / "data").mkdir(parents=True)
    (place / "source" / "README.md").write_text(CARD, encoding="utf-8")
    for name, rows in splits.items():
        rows.to_parquet(str(place / "source" / "data" / f"{name}-00000-of-00001.parquet"))
    # Absolute, as a path often is: it must be nowhere in what is published.
    asked = {**recipe, "source": {**recipe["source"], "path": str(place / "source")}}
    (place / "mine.yaml").write_text(yaml.safe_dump(asked), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr("sys.argv", ["hf-datadiet", "run", str(place / "mine.yaml"), "--out", str(place / "run")])
        cli.main()
    return place


def source_files(place: Path) -> dict[str, bytes]:
    """The source as the files of a repository."""
    return {str(path.relative_to(place / "source")): path.read_bytes() for path in (place / "source").rglob("*") if path.is_file()}
