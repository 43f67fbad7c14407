"""Datasets as files that stand alone: media embedded, images without metadata, no path of the machine inside."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Features, config
from datasets.arrow_writer import ArrowWriter, get_parquet_column_options
from datasets.features.features import require_storage_embed
from datasets.utils.py_utils import convert_file_size_to_int

from hf_datadiet.errors import RecipeError
from hf_datadiet.hub.media import standing_alone
from hf_datadiet.swapping import swapping

Form = Literal["parquet", "disk"]

BATCH, BATCH_OF_MEDIA = 1000, 16
"""Rows in memory at once, beside the row group that they go to: sixteen photographs are about as long as a thousand texts."""

SHARD_BYTES = convert_file_size_to_int(config.MAX_SHARD_SIZE)
ROW_GROUP_BYTES = convert_file_size_to_int(config.MAX_ROW_GROUP_SIZE)
"""What datasets itself writes, and the viewer expects: to show one row it reads the row group."""


@dataclass(frozen=True)
class Shards:
    """One split in parquet files, in their order: rows and bytes (uncompressed, as dataset_info counts them) of all of them.

    `nulls`: {column: media that could not be read and are null}.
    """

    files: tuple[Path, ...]
    n_rows: int
    n_bytes: int
    nulls: Mapping[str, int]


def write_splits(splits: Mapping[str, Dataset], folder: Path, form: Form, *, skip: bool = False) -> None:
    """Write the splits to `folder` as data/SPLIT-00000-of-00001.parquet (`load_dataset` finds a split of any name by that
    pattern) or as save_to_disk does; the folder appears whole or not at all.

    `load_dataset(folder)` or `load_from_disk(folder)` reads it back. An existing folder is replaced. `RecipeError` for a split
    that `load_dataset` would refuse; media as in `write_shards`.
    """
    for name, split in splits.items():
        require_loadable(name, split, form)
    with swapping(folder) as temporary:
        if form == "disk":
            _save_to_disk(splits, temporary, skip)
        else:
            for name, split in splits.items():
                write_shards(split, temporary / "data", name, skip=skip)


def require_loadable(name: str, split: Dataset, form: Form = "parquet") -> None:
    """Raise `RecipeError` for a split that datasets would not read again: one without rows, or of such a name."""
    if form == "parquet" and (name.lower() == "all" or not re.fullmatch(r"\w+(\.\w+)*", name)):
        raise RecipeError(f"load_dataset takes no split named {name!r} from parquet files; rename it in the source, or prune --write disk")
    if re.search(r"[/\\]", name) or not name.strip("."):
        raise RecipeError(f"split {name!r} has the name of a path; rename it")
    if len(split) == 0:
        raise RecipeError(f"split {name!r} has no rows, and datasets reads no such split; leave it out")


def write_shards(dataset: Dataset, folder: Path, split: str, *, skip: bool = False, shard_bytes: int = SHARD_BYTES) -> Shards:
    """Write a split to `folder` as SPLIT-0000i-of-0000n.parquet, n files of at most `shard_bytes` (uncompressed), in one pass.

    Media are embedded and images lose their metadata (`standing_alone`, which has the errors); what cannot be read becomes null if
    `skip`. Never more than one row group is in memory. Equal rows give equal bytes. Each file has the features in its schema. Row
    groups, chunks and page index are those of datasets: by them the Hub's storage finds what two versions share, and its viewer a row.
    `RecipeError` as in `require_loadable`.
    """
    require_loadable(split, dataset)
    folder.mkdir(parents=True, exist_ok=True)
    begun: list[Path] = []
    nulls: dict[str, int] = {}
    groups = _row_groups(_batches(dataset, split, skip, nulls), min(ROW_GROUP_BYTES, shard_bytes))
    try:
        total, following = 0, next(groups, None)
        while following is not None:
            begun.append(folder / f"{split}-{len(begun):05d}")
            with _shard(begun[-1], dataset.features) as writer:
                filled = 0
                while following is not None and (filled == 0 or filled + following[1] <= shard_bytes):
                    rows, size = following
                    # In one piece: how a table lies in memory must not show in the file.
                    writer.write_table(rows.combine_chunks(), row_group_size=len(rows))
                    filled, total = filled + size, total + size
                    following = next(groups, None)
    except BaseException:
        for path in begun:
            path.unlink(missing_ok=True)
        raise
    files = tuple(path.rename(f"{path}-of-{len(begun):05d}.parquet") for path in begun)
    return Shards(files, len(dataset), total, nulls)


@contextmanager
def _shard(path: Path, features: Features) -> Iterator[pq.ParquetWriter]:
    schema = features.arrow_schema
    cut: Any = config.DEFAULT_CDC_OPTIONS
    options = get_parquet_column_options(features, schema)
    with pq.ParquetWriter(path, schema, use_content_defined_chunking=cut, write_page_index=True, **options) as writer:
        yield writer
        # As datasets does: the Hub reads here how the file was cut.
        writer.add_key_value_metadata({"content_defined_chunking": json.dumps(cut)})


def _batches(dataset: Dataset, split: str, skip: bool, nulls: dict[str, int]) -> Iterator[pa.Table]:
    """The rows, standing alone, a few at a time; `nulls` counts up."""
    step = BATCH_OF_MEDIA if any(require_storage_embed(feature) for feature in dataset.features.values()) else BATCH
    arrow = dataset.with_format("arrow")
    for start in range(0, len(dataset), step):
        rows = cast(pa.Table, arrow[start : start + step])
        batch, missing = standing_alone(rows, dataset.features, split=split, first=start, skip=skip)
        for name, count in missing.items():
            nulls[name] = nulls.get(name, 0) + count
        yield batch


def _row_groups(batches: Iterator[pa.Table], limit: int) -> Iterator[tuple[pa.Table, int]]:
    """Row groups of at most `limit` bytes, where one batch has no more, and the size of each."""
    waiting: list[pa.Table] = []
    filled = 0
    for batch in batches:
        # Its length in a stream, which does not depend on what it is a part of.
        size = sum(pa.ipc.get_record_batch_size(part) for part in batch.combine_chunks().to_batches())
        if waiting and filled + size > limit:
            yield pa.concat_tables(waiting), filled
            waiting, filled = [], 0
        waiting.append(batch)
        filled += size
    if waiting:
        yield pa.concat_tables(waiting), filled


def _save_to_disk(splits: Mapping[str, Dataset], folder: Path, skip: bool) -> None:
    """`save_to_disk` embeds media but leaves metadata in images, and the paths that the dataset was loaded from in its description."""
    whole: dict[str, Dataset] = {}
    for position, (name, split) in enumerate(splits.items()):
        path = folder / f"{position}.arrow"
        folder.mkdir(parents=True, exist_ok=True)
        nulls: dict[str, Any] = {}
        with ArrowWriter(features=split.features, path=str(path)) as writer:
            for batch in _batches(split, name, skip, nulls):
                writer.write_table(batch)
            writer.finalize()
        whole[name] = Dataset.from_file(str(path))
    DatasetDict({**whole}).save_to_disk(str(folder))
    for position in range(len(whole)):
        (folder / f"{position}.arrow").unlink()
