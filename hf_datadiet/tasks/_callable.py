"""CallableTask: a task from three functions, for rows of any kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from datasets import Dataset, Features
from numpy.typing import NDArray
from torch import nn

from hf_datadiet.errors import PluginError, SourceError
from hf_datadiet.gradients.forward import Inputs, each, logits_of
from hf_datadiet.gradients.rest import at_rest
from hf_datadiet.tasks.base import check_alone, label_column

Row: TypeAlias = dict[str, Any]
"""{role: value} of one row as the dataset gives it, in its own format; the label is not among them."""


@dataclass(frozen=True)
class CallableTask:
    """A task from functions; `hf_datadiet/tasks/base.py` has an example and says what the scores mean.

    `model_init(n_classes)`: a fresh torch.nn.Module whose output is logits [B, C], or has them as `logits`; random weights come
    from the global generators, which are seeded before each call. `collate_fn(rows)`: the model's input for a list of B rows,
    a tensor [B, ...] or a dict of keyword tensors; a row's input should not depend on the other rows beyond padding that the model
    ignores. It is called for every batch of every epoch, so costly decoding is better done before, by Dataset.map.
    `loss_fn(logits [B, C], labels int64 [B]) -> [B]`: the loss of each example; None is the cross-entropy.

    All columns but the label are in the rows, under their own names; `columns={"label": ..., "x": ...}` of `score_dataset` chooses
    and renames. Nothing is augmented. What the functions raise comes back as a `PluginError` with its cause.
    """

    model_init: Callable[[int], nn.Module]
    collate_fn: Callable[[list[Row]], Inputs]
    loss_fn: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None

    @property
    def loss(self) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None:
        """What the loop and the gradients ask for."""
        return self.loss_fn

    def find_columns(self, features: Features, named: Mapping[str, str]) -> dict[str, str]:
        """The label, and the columns named; all others if none is."""
        absent = [column for column in named.values() if column not in features]
        if absent:
            raise SourceError(f"source.columns names {absent[0]!r}; the dataset has: {', '.join(features)}")
        label = label_column(features, named.get("label"))
        roles = {role: column for role, column in named.items() if role != "label"}
        # A column called label that is not the label would take that role.
        found = roles or {name: name for name in features if name not in (label, "label")}
        if not found:
            raise SourceError(f"the dataset has no column beside the label {label!r}; give it what the model is to see")
        return {**found, "label": label}

    def prepare(
        self, dataset: Dataset, ids: NDArray[np.int64], columns: Mapping[str, str], cache: Path, key: str, like: Any = None
    ) -> Dataset:
        """The rows themselves, as they lie in Arrow."""
        roles = {role: column for role, column in columns.items() if role != "label"}
        rows = dataset.select(ids).select_columns([*roles.values()])
        return rows.rename_columns({column: role for role, column in roles.items() if column != role})

    def lengths(self, prepared: Any) -> None:
        """Rows are not grouped."""

    def prepare_batch(self, values: Mapping[str, Sequence[Any]], rows: Sequence[int], fitted: Mapping[str, Any]) -> list[Row]:
        """The same rows in memory."""
        roles = [role for role in values if role != "label"]
        return [{role: values[role][place] for role in roles} for place in range(len(rows))]

    def fit(self, prepared: Any, model: Any) -> dict[str, Any]:
        """Nothing is taken from the data."""
        return {}

    def build_model(self, model: Any, model_args: Mapping[str, Any], n_classes: int, prepared: Any, *, empty: bool = False) -> nn.Module:
        """What `model_init` makes (or `model`, if it is a module), `empty` or not, tried on one row, alone and beside another.

        `PluginError` if that gives no logits [1, C], `RecipeError` if the other row changes them.
        """
        net = model if isinstance(model, nn.Module) else _called("model_init", self.model_init, n_classes)
        if not isinstance(net, nn.Module):
            raise PluginError(f"model_init returned {type(net).__name__}; return a torch.nn.Module")
        cpu, pair = torch.device("cpu"), torch.tensor([0, len(prepared) - 1])
        one, two = (self.collate(prepared, rows, {}, cpu, None) for rows in (pair[:1], pair))
        with at_rest(net), torch.no_grad():
            logits, beside = (_called("the model", logits_of, net, inputs) for inputs in (one, two))
        if not isinstance(logits, torch.Tensor) or logits.shape != (1, n_classes):
            found = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise PluginError(f"the model gives {found} for one row, and [1, {n_classes}] is needed: one logit per class")
        check_alone(logits, beside, "the model of the task")
        return net.train()

    def collate(
        self, prepared: Any, rows: torch.Tensor, fitted: Mapping[str, Any], device: torch.device, augment: torch.Generator | None
    ) -> Inputs:
        """What `collate_fn` makes of the rows, on the device."""
        numbers = rows.tolist()
        # What torch's DataLoader calls: one access to Arrow for the whole batch.
        chosen = prepared.__getitems__(numbers) if isinstance(prepared, Dataset) else [prepared[number] for number in numbers]
        inputs = _called("collate_fn", self.collate_fn, chosen)
        tensors = list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]
        for values in tensors or [None]:
            if not isinstance(values, torch.Tensor) or values.shape[:1] != (len(numbers),):
                found = f"a tensor {list(values.shape)}" if isinstance(values, torch.Tensor) else type(values).__name__
                raise PluginError(
                    f"collate_fn returned {found} for {len(numbers)} rows; return a tensor [B, ...], or a dict of such tensors"
                )
        return each(lambda values: values.to(device, non_blocking=True), inputs)

    def metrics(self, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        """Accuracy, as a fraction."""
        return {"accuracy": float((logits.argmax(1) == labels).double().mean())}


def _called(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """What somebody else's function returns; what it raises is theirs to mend."""
    try:
        return function(*arguments)
    except Exception as cause:
        reason = (str(cause).splitlines() or [""])[0]
        raise PluginError(f"{name} of the task fails: {type(cause).__name__}: {reason}; mend it") from cause
