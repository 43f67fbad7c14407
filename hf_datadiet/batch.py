"""One batch of columns as `Dataset.map` and `IterableDataset.map` pass it, and the columns that go back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import ClassLabel, Features, Image, Value
from PIL import Image as Pillow

from hf_datadiet.errors import RecipeError, SourceError
from hf_datadiet.records import UNLABELLED


class Float32(list[Any]):
    """A column: np.float32 values and None. A list, since `map` takes no Arrow array as a column.

    Arrow asks it for its type, which is float32 even where the first batch has only nulls.
    """

    def __arrow_array__(self, type: pa.DataType | None = None) -> pa.Array:
        return pa.array(list(self), type or pa.float32())


def stated_features(batch: Mapping[str, Any]) -> Features | None:
    """The features of a batch as its dataset states them; None for a stream, whose batches come without."""
    stated = getattr(getattr(batch, "formatter", None), "features", None)
    return None if stated is None else Features({name: feature for name, feature in stated.items() if name in batch})


def guessed_features(batch: Mapping[str, Any]) -> Features:
    """The features of a stream's batch: what its values are."""
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


def check_class_names(label: Any, column: str, classes: Sequence[str]) -> None:
    """Raise `SourceError` unless the label's feature names the classes as the model has them, in their order.

    Upper and lower case are one, as in datasets' `align_labels_with_mapping`. Nothing is compared where one side has
    only numbers (or transformers' LABEL_0, LABEL_1, ...) and shares none of the other's names.
    """
    if not isinstance(label, ClassLabel):
        return
    names, known = [name.lower() for name in label.names], [name.lower() for name in classes]
    same = list(label.names) == list(classes) or (names == known and len(set(known)) == len(known))
    if same or ((_numbered(names) or _numbered(known)) and not set(names) & set(known)):
        return
    pairs = enumerate(zip_longest(label.names, classes))
    number, (name, own) = next(pair for pair in pairs if pair[1][0] != pair[1][1])
    found, wanted = (repr(value) if value is not None else "no class" for value in (name, own))
    remedy = "align them: dataset.align_labels_with_mapping({NAME: NUMBER}, COLUMN) with the model's numbers"
    rename = "if only the names differ, rename them: dataset.cast_column(COLUMN, ClassLabel(names=[...]))"
    raise SourceError(f"class {number} of label column {column!r} is {found}, and {wanted} for the model; {remedy}, or {rename}")


def _numbered(names: Sequence[str]) -> bool:
    return all(name in (str(number), f"label_{number}") for number, name in enumerate(names))


def label_of(value: Any, row: int, column: str, classes: Sequence[str] = ()) -> int:
    """The class of a row, or `UNLABELLED`; a name is looked up among the `classes` of the model."""
    if value is None:
        return UNLABELLED
    if isinstance(value, str) and classes:
        if value not in classes:
            some = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
            raise SourceError(
                f"row {row} of a batch has class {value!r} in label column {column!r}, and the model knows: {some}; map the names"
            )
        return classes.index(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < UNLABELLED:
        raise SourceError(f"row {row} of a batch has {value!r} in label column {column!r}; use 0..C-1, and null or -1 for no label")
    return value
