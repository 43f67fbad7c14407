"""What the Python functions take for granted of a dataset in memory, where a recipe would say it: task, model, optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datasets import Dataset, DatasetDict, Image, Value

from hf_datadiet.recipe import Recipe
from hf_datadiet.recipe_yaml import recipe_from, with_overrides

IMAGE = {"model": "timm:resnet18"}
"""The rest is the recipe's own default: SGD as in arXiv 2107.07075."""

SMALL_BERT = {
    "model": "transformers:bert",
    "model_args": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "max_position_embeddings": 128,
        "initializer_range": 0.1,
    },
}
"""The network of recipes/docstrings.yaml, with room for the default `max_length`."""

FROM_NOTHING, PRETRAINED = 2e-3, 2e-5
"""Learning rates of AdamW: that of recipes/docstrings.yaml, and a usual one for a pretrained BERT (arXiv 1810.04805, A.3)."""


def recipe_for(
    dataset: Dataset | DatasetDict,
    *,
    model: str | None,
    epochs: int,
    columns: Mapping[str, str] | None,
    options: Mapping[str, Any] | None,
    source: Mapping[str, Any] | None = None,
    **sections: Mapping[str, Any],
) -> Recipe:
    """The recipe of a call: task and model as the dataset suggests, `sections` beside them, and `options` over everything.

    A dataset with an image column is an image task: `timm:resnet18`, SGD. One without, but with a column of strings, is a text
    task: batches of 32, AdamW with weight decay 0.01, linear decay after a tenth of warm-up; a small BERT from nothing with
    its own tokenizer and rate 2e-3, or for a pretrained model (`transformers:org/name`, `transformers:./folder`) its tokenizer
    and rate 2e-5. `columns` that name a text or an image, and `task.kind` in `options`, decide before the features do.
    """
    columns, options = dict(columns or {}), dict(options or {})
    split = dataset.get(options.get("source.split", "train")) if isinstance(dataset, DatasetDict) else dataset
    kind = options.get("task.kind") or _kind(split, columns)
    task: dict[str, Any] = _text(model) if kind == "text" else IMAGE | ({"model": model} if model is not None else {})
    task = {**task, "kind": kind, "training": {**task.get("training", {}), "epochs": epochs}}
    plain = {"source": {"columns": columns, **(source or {})}, "task": task, **sections}
    return recipe_from(with_overrides(plain, options))


def _kind(dataset: Any, columns: Mapping[str, str]) -> str:
    if "image" in columns or "text" in columns:
        return "image" if "image" in columns else "text"
    features = [feature for name, feature in getattr(dataset, "features", {}).items() if name != columns.get("label")]
    if any(isinstance(feature, Image) for feature in features):
        return "image"
    return "text" if any(isinstance(feature, Value) and "string" in feature.dtype for feature in features) else "image"


def _text(model: str | None) -> dict[str, Any]:
    name = (model or "").removeprefix("transformers:")
    pretrained = "/" in name
    chosen: dict[str, Any] = {"model": model} if model is not None else dict(SMALL_BERT)
    if pretrained:
        chosen["tokenizer"] = name
    optimizer = {"name": "AdamW", "lr": PRETRAINED if pretrained else FROM_NOTHING, "weight_decay": 0.01}
    return chosen | {"training": {"batch_size": 32, "optimizer": optimizer, "schedule": {"name": "linear", "warmup": 0.1}}}
