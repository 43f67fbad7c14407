"""One batch of columns as `Dataset.map` and `IterableDataset.map` pass it, and the columns that go back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Features, Image, Value
from PIL import Image as Pillow

from hf_datadiet.errors import RecipeError, SourceError
from hf_datadiet.records import UNLABELLED


class Float32(list[Any]):
    """A column: np.float32 values and None. A list, since `map` takes no Arrow array as a column.

    Arrow asks it for its type, which is float32 even where the first batch has only nulls.
    """

    def __arrow_array__(self, type: pa.DataType | None = None) -> pa.Array:
        return pa.array(list(self), type or pa.float32())


def features_of(batch: Mapping[str, Any]) -> Features:
    """The features of a batch: those that the dataset states, or for a stream what its values are."""
    stated = getattr(getattr(batch, "formatter", None), "features", None)
    if stated is not None:
        return Features({name: feature for name, feature in stated.items() if name in batch})
    return Features(
        {name: _feature(next((value for value in _plain(values) if value is not None), None)) for name, values in batch.items()}
    )


def _feature(value: Any) -> Image | Value:
    if isinstance(value, Pillow.Image):
        return Image()
    return Value("int64" if isinstance(value, int) else "string")


def column_of(batch: Mapping[str, Any], name: str) -> list[Any]:
    """The B values of a column."""
    try:
        values = batch[name]
    except OSError as error:
        reason = " ".join(str(error).split())
        raise SourceError(f"column {name!r} has a value that cannot be read ({reason}); mend or drop the row") from error
    return _plain(values)


def _plain(values: Any) -> list[Any]:
    """A column of a batch without a format."""
    if isinstance(values, torch.Tensor | np.ndarray):
        raise RecipeError(f"the dataset gives {type(values).__name__} where plain values are needed; map over dataset.with_format(None)")
    if not isinstance(values, list):
        raise RecipeError("an ExampleScorer takes batches; call map(scorer, batched=True, batch_size=256)")
    return values


def label_of(value: Any, row: int, column: str) -> int:
    """The class of a row, or `UNLABELLED`."""
    if value is None:
        return UNLABELLED
    if not isinstance(value, int) or isinstance(value, bool) or value < UNLABELLED:
        raise SourceError(f"row {row} of a batch has {value!r} in label column {column!r}; use 0..C-1, and null or -1 for no label")
    return value
