"""What a modality must be able to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from datasets import Dataset, Features
from numpy.typing import NDArray
from torch import nn

from hf_datadiet.gradients.forward import Inputs


class Task(Protocol):
    """A frozen dataclass whose fields are the task's own recipe keys; a file defines `TASK`, the class itself.

    The training loop knows nothing of the modality: it passes what `prepare` returned back to the task.
    """

    def find_columns(self, features: Features, named: Mapping[str, str]) -> dict[str, str]:
        """The columns of the roles ("label" always among them), or a `SourceError` that lists the candidates."""
        ...

    def prepare(self, dataset: Dataset, ids: NDArray[np.int64], columns: Mapping[str, str], cache: Path, key: str) -> Any:
        """Decode or tokenise the rows `ids` once, into files below `cache` named by `key`; reuse what lies there."""
        ...

    def prepare_batch(self, values: Mapping[str, Sequence[Any]], rows: Sequence[int], fitted: Mapping[str, Any]) -> Any:
        """The same of B >= 1 rows in memory, for a model that was trained with `fitted`.

        `values[role]` holds what a dataset gives for each row; `rows` are their numbers in messages.
        """
        ...

    def fit(self, prepared: Any, model: str) -> Mapping[str, Any]:
        """Constants that depend on the training data or the model (normalisation), as plain values."""
        ...

    def build_model(self, model: str, model_args: Mapping[str, Any], n_classes: int, prepared: Any) -> nn.Module:
        """A fresh model; its initial weights come from torch's global generator, which the caller has seeded."""
        ...

    def collate(
        self, prepared: Any, rows: torch.Tensor, fitted: Mapping[str, Any], device: torch.device, augment: torch.Generator | None
    ) -> Inputs:
        """The model's input for int64 `rows` [B] (positions in `prepared`), augmented only with a generator."""
        ...

    def metrics(self, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        """Metrics over all T test rows, as fractions; "accuracy" among them."""
        ...
