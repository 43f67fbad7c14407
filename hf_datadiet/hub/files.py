"""Datasets as files that stand alone: media embedded, no path of the machine inside."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict
from datasets.table import embed_table_storage

from hf_datadiet.errors import RecipeError

Form = Literal["parquet", "disk"]

BATCH = 1000


def write_splits(splits: Mapping[str, Dataset], folder: Path, form: Form) -> None:
    """Write the splits to `folder` as data/SPLIT-00000-of-00001.parquet (`load_dataset` finds a split of any name by that
    pattern) or as save_to_disk does; the folder appears whole or not at all.

    `load_dataset(folder)` or `load_from_disk(folder)` reads it back. An existing folder is replaced. `RecipeError` for a split
    that `load_dataset` would refuse.
    """
    refused = [name for name in splits if name.lower() == "all" or not re.fullmatch(r"\w+(\.\w+)*", name)]
    if form == "parquet" and refused:
        raise RecipeError(f"load_dataset takes no split named {refused[0]!r}, so it cannot be written as parquet; use --write disk")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        if form == "disk":
            DatasetDict({**splits}).save_to_disk(str(temporary))
        else:
            (temporary / "data").mkdir(parents=True)
            for name, split in splits.items():
                _write_parquet(split, temporary / "data" / f"{name}-00000-of-00001.parquet")
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_parquet(dataset: Dataset, path: Path) -> None:
    # `Dataset.to_parquet` keeps images that lie in files as paths; embedding them batch by batch keeps memory flat.
    schema = dataset.features.arrow_schema
    with pq.ParquetWriter(path, schema) as writer:
        arrow = dataset.with_format("arrow")
        for start in range(0, len(dataset), BATCH):
            batch = cast(pa.Table, arrow[start : start + BATCH])
            writer.write_table(embed_table_storage(batch).cast(schema), row_group_size=BATCH)
