"""What a fresh model says of a few rows: how a later call notices that it would go on with another one.

Names and settings stand in the recipe; what they stand for (the files of a pretrained model, a tokenizer, functions from
Python) may change behind them. Outputs tell, whatever changed: weights, tokens, the code of a forward, a loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_datadiet.errors import StaleRecordError
from hf_datadiet.gradients.forward import logits_of
from hf_datadiet.gradients.rest import at_rest
from hf_datadiet.store import RunFolder
from hf_datadiet.tasks.base import mean_loss
from hf_datadiet.training.feed import Feed

SAME = 1e-3
"""Relative difference up to which outputs are the same: a thousand times float32's rounding, for other machines and threads."""


def start_of(model: nn.Module, feed: Feed) -> dict[str, Any]:
    """{"example_id": [B], "logits": [B][C], "loss": [B]} of a model at rest, for all rows of a small feed."""
    loss = mean_loss(feed.task)
    with at_rest(model), torch.no_grad():
        logits = logits_of(model, feed.inputs(torch.arange(len(feed)))).float()
        losses = [float(loss(logits[row : row + 1], feed.labels[row : row + 1])) for row in range(len(feed))]
    return {"example_id": feed.example_id.tolist(), "logits": logits.cpu().tolist(), "loss": losses}


def check_start(folder: RunFolder, start: Mapping[str, Any], evaluation: str | None = None) -> None:
    """Keep how the run started, or the further model of an evaluation; `StaleRecordError` if it started otherwise."""
    kept = folder.save_start(start, evaluation)
    apart = max(_difference(kept[key], start[key]) for key in ("example_id", "logits", "loss"))
    if apart > SAME:
        begun, other = (f"{folder.path}", "choose another --out")
        if evaluation is not None:
            begun, other = f"evaluation {evaluation} in {folder.path}", "set evaluate.name to a new name"
        raise StaleRecordError(
            f"{begun} was begun with another model, tokenizer or task: a fresh one gives other outputs for the same rows than at "
            f"its start ({100 * apart:.1f} % apart); give back the files, functions and versions of then, or {other}"
        )


def _difference(kept: Any, found: Any) -> float:
    """Length of the difference over the length of what was kept; infinite for other shapes."""
    before, now = np.asarray(kept, np.float64), np.asarray(found, np.float64)
    if before.shape != now.shape:
        return float("inf")
    length, apart = float(np.linalg.norm(before)), float(np.linalg.norm(now - before))
    return apart / length if length else float("inf") if apart else 0.0
