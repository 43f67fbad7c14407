"""What a modality must be able to do; and the shortest way to one of your own.

For data of any kind three functions are a task: one that makes a model, one that turns rows into its input, and, if it is not
the cross-entropy, a loss for each example.

    from hf_datadiet import CallableTask, score_dataset

    task = CallableTask(
        model_init=lambda n_classes: MyNet(n_classes),  # a fresh torch.nn.Module, whose output is logits [B, C]
        collate_fn=lambda rows: torch.tensor([row["x"] for row in rows]),  # B dicts -> a tensor [B, ...], or a dict of tensors
        loss_fn=None,  # or (logits [B, C], labels [B]) -> [B], not reduced
    )
    table = score_dataset(dataset, task=task, scores=["el2n", "grand"])

The label column is found as everywhere (the only ClassLabel, or "label", or `columns={"label": NAME}`); `rows` hold the other
columns. On the command line: put `TASK = CallableTask(...)` into a module and name it, `task.kind=my_module:TASK --allow-plugins`.

What the scores mean with a loss of your own: training minimises its mean; `grand` and `grand_last` are norms of its gradient, one
example at a time. `el2n`, `margin`, `entropy`, `loss`, `cartography`, `dual` and the forgetting counts stay what they are: functions of
the logits as those of a softmax over C >= 2 classes, cross-entropy included. A loss that reads the outputs otherwise (one-against-all,
hinge) trains the model, but then these scores measure a softmax that nobody trained. Targets that are no classes (regression, several
labels) are not supported.

To do more (decode once, augment, batch by length, keys in a recipe) write a class with the methods of `Task`; `image.py` and `text.py`
are two. A class in a file of this folder, called `TASK` there, is found by the name of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Value
from numpy.typing import NDArray
from torch import nn

from hf_datadiet.errors import RecipeError, SourceError
from hf_datadiet.gradients.forward import Inputs


class Task(Protocol):
    """A frozen dataclass whose fields are the task's own recipe keys; a file defines `TASK`, the class itself.

    The training loop knows nothing of the modality: it passes what `prepare` returned back to the task. A task may also have
    `loss(logits [B, C], labels int64 [B]) -> [B]`, without which it is the cross-entropy: see `losses_of`;
    `for_model(name) -> Task`, if another of `evaluate.models` needs its rows prepared otherwise; and
    `export(trained: Trained, target: Path) -> Exported`, without which its models cannot be published (`exported`): the files that the
    model's library reads, written into the folder `target`.
    """

    def find_columns(self, features: Features, named: Mapping[str, str]) -> dict[str, str]:
        """The columns of the roles ("label" always among them), or a `SourceError` that lists the candidates."""
        ...

    def prepare(self, dataset: Dataset, ids: NDArray[np.int64], columns: Mapping[str, str], cache: Path, key: str, like: Any = None) -> Any:
        """Decode or tokenise the rows `ids` once, into files below `cache` named by `key`; reuse what lies there.

        `like`: for held-out rows, the prepared training rows, whose vocabulary (if there is one) they share.
        """
        ...

    def lengths(self, prepared: Any) -> NDArray[np.int64] | None:
        """Tokens of each row, int64 [N]: rows of similar length share a training batch. None if all rows are alike."""
        ...

    def prepare_batch(self, values: Mapping[str, Sequence[Any]], rows: Sequence[int], fitted: Mapping[str, Any]) -> Any:
        """The same of B >= 1 rows in memory, for a model that was trained with `fitted`.

        `values[role]` holds what a dataset gives for each row; `rows` are their numbers in messages.
        """
        ...

    def fit(self, prepared: Any, model: str | nn.Module) -> Mapping[str, Any]:
        """Constants that depend on the training data or the model (normalisation), as plain values."""
        ...

    def build_model(
        self, model: str | nn.Module, model_args: Mapping[str, Any], n_classes: int, prepared: Any, *, empty: bool = False
    ) -> nn.Module:
        """A model in train mode that takes these rows: built anew by its name, or a module from Python as it is.

        Random weights come from the global generators, which the caller has seeded; `model_args["pretrained"]` False
        asks for them. `empty`: the same layers, but no weights are read: others will be put in their place. `RecipeError` for a
        model that cannot take the rows or does not give `n_classes` logits.
        """
        ...

    def collate(
        self, prepared: Any, rows: torch.Tensor, fitted: Mapping[str, Any], device: torch.device, augment: torch.Generator | None
    ) -> Inputs:
        """The model's input for int64 `rows` [B] (positions in `prepared`), augmented only with a generator."""
        ...

    def metrics(self, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        """Metrics over all T test rows, as fractions; "accuracy" among them."""
        ...


def check_classes(logits: torch.Tensor, n_classes: int, model: str) -> None:
    """Raise `RecipeError` unless a model's output for one row is [1, n_classes]."""
    if logits.shape != (1, n_classes):
        raise RecipeError(
            f"task.model {model} gives outputs {list(logits.shape)} for one row, and [1, {n_classes}] is needed: one logit per class"
        )


def check_alone(alone: torch.Tensor, beside: torch.Tensor, model: str) -> None:
    """Raise `RecipeError` if a row's logits `alone` [1, C] at rest are not the first of those [2, C] `beside` another row.

    Equal within 1e-3 of the largest logit and 1e-4. What is not finite passes: it is told from a model that diverged.
    """
    if beside.shape != (2, alone.shape[1]) or ((alone - beside[:1]).abs() > 1e-3 * alone.abs().max() + 1e-4).any():
        raise RecipeError(
            f"{model} says something else of a row that is padded or stands beside another, so its scores would depend on the batch; "
            "choose layers that keep to one row in eval mode (BatchNorm with track_running_stats=True)"
        )


def losses_of(task: Any) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The loss of each example: (logits float32 [B, C], labels int64 [B]) -> [B], the task's own `loss` or the cross-entropy.

    Raises `RecipeError` for a loss that is not one number per example.
    """
    own = getattr(task, "loss", None)
    if own is None:
        return partial(nn.functional.cross_entropy, reduction="none")

    def losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        found = own(logits, labels)
        if not isinstance(found, torch.Tensor) or found.shape != labels.shape:
            given = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise RecipeError(
                f"the task's loss gives {given} for {list(labels.shape)} labels; give one value per example: reduction='none'"
            )
        return found

    return losses


def mean_loss(task: Any, label_smoothing: float = 0.0) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The loss of a batch: (logits float32 [B, C], labels int64 [B]) -> the mean of `losses_of`.

    Raises `RecipeError` for label smoothing with a loss of the task's own: it belongs to the cross-entropy.
    """
    if getattr(task, "loss", None) is None:
        return partial(nn.functional.cross_entropy, label_smoothing=label_smoothing)
    if label_smoothing:
        raise RecipeError("the task has a loss of its own, which knows no label smoothing; set task.training.label_smoothing=0")
    losses = losses_of(task)
    return lambda logits, labels: losses(logits, labels).mean()


def label_column(features: Features, named: str | None) -> str:
    """The column of labels: the one named, else the only `ClassLabel`, else the column called "label"."""
    candidates = [name for name, kind in features.items() if isinstance(kind, ClassLabel)]
    plain = [name for name, kind in features.items() if name == "label" and isinstance(kind, Value)]
    return the_column(features, "label", candidates or plain, named)


def the_column(features: Features, role: str, candidates: list[str], named: str | None) -> str:
    """The column named, else the only candidate, else the candidate called like the role; otherwise a `SourceError`."""
    if named is not None:
        if named not in features:
            raise SourceError(f"source.columns.{role} names {named!r}; the dataset has: {', '.join(features)}")
        return named
    if len(candidates) > 1 and role in candidates:
        return role
    if len(candidates) != 1:
        which = f"{len(candidates)} ({', '.join(candidates)})" if candidates else f"none among {', '.join(features)}"
        raise SourceError(f"cannot tell the {role} column: candidates are {which}; name it with source.columns.{role}=NAME")
    return candidates[0]
