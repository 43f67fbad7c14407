"""Loaders of a Trainer's training set whose batches know which rows they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer

from hf_datadiet.errors import RecipeError

ID = "hf_datadiet_example_id"
"""The key under which a row's position travels through the data collator."""


class _Numbered(Dataset):
    """The rows of a dataset, each with its position under `ID`."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: list[int]) -> list[dict[str, Any]]:
        """The way a DataLoader asks for a whole batch."""
        whole = getattr(self.dataset, "__getitems__", None)
        found = whole(rows) if whole is not None else [self.dataset[row] for row in rows]
        if not all(isinstance(values, Mapping) for values in found):
            raise RecipeError("rows of trainer.train_dataset are not mappings of names to values; give it such a dataset")
        return [{**values, ID: row} for row, values in zip(rows, found, strict=True)]


@dataclass(frozen=True)
class _NumberedCollator:
    """A data collator that lets the positions pass beside what it makes of the rows."""

    collate: Callable[[list[dict[str, Any]]], Any]

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        numbers = torch.tensor([row[ID] for row in rows])
        batch = self.collate([{name: value for name, value in row.items() if name != ID} for row in rows])
        batch[ID] = numbers
        return batch


def in_order(trainer: Trainer) -> Iterator[Any]:
    """Batches of the training set on the trainer's device, with their rows' positions.

    The trainer's own loaders, those for evaluation too, group rows by length and drop the last batch when its arguments say so.
    """
    args = trainer.args
    loader = DataLoader(
        _Numbered(trainer.train_dataset),
        batch_size=args.eval_batch_size,
        collate_fn=_NumberedCollator(trainer._get_collator_with_removed_columns(trainer.data_collator)),
        num_workers=args.dataloader_num_workers,
        multiprocessing_context=args.dataloader_multiprocessing_context,
    )
    return map(trainer._prepare_inputs, loader)


@contextmanager
def numbered(trainer: Trainer) -> Iterator[None]:
    """Inside the block the trainer makes training loaders whose batches carry their rows' positions.

    `remove_unused_columns` would drop them before the collator sees them, unless the model's signature seems to have them. The
    sampler is made from the dataset itself, which may have a column of lengths.
    """
    dataset, collate, sampler = trainer.train_dataset, trainer.data_collator, trainer._get_train_sampler
    trainer._set_signature_columns_if_needed()
    signature = trainer._signature_columns
    sampled = trainer._remove_unused_columns(dataset) if isinstance(dataset, datasets.Dataset) else dataset
    trainer.train_dataset, trainer.data_collator = _Numbered(dataset), _NumberedCollator(collate)
    trainer._get_train_sampler = lambda train_dataset=None: sampler(sampled)  # pyright: ignore[reportArgumentType]
    trainer._signature_columns = [*(signature or []), ID]
    try:
        yield
    finally:
        trainer.train_dataset, trainer.data_collator, trainer._signature_columns = dataset, collate, signature
        trainer._get_train_sampler = sampler
