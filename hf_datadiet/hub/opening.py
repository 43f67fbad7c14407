"""Open what a recipe or a caller names: an embedded sample, files, a dataset on the Hub, or datasets in memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from datasets.exceptions import DatasetsError

from hf_datadiet.errors import SourceError
from hf_datadiet.hub.remote import snapshot
from hf_datadiet.hub.samples import SAMPLES
from hf_datadiet.recipe import SourceSpec

READERS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json"}
"""What reads a single file; what lies in a folder, datasets finds out by itself."""

REMEDIES = {
    "repo": "choose another source.repo, or download what can be read and pass source.path=FOLDER",
    "file": "write it again, or pass another: source.path=FILE",
    "folder": f"pass source.path=FOLDER with {', '.join(READERS)} files or images in it, or one that save_to_disk wrote",
}
"""What to do where the reason is a library's, by the kind of place."""

NO_DATA = ("doesn't contain any data files", "No task.toml")
"""What datasets says of a folder without data; one with a .md file it takes for a kind of its own."""

CANNOT_READ = (OSError, ValueError, LookupError, RuntimeError, EOFError, BadZipFile, DatasetsError)


@dataclass(frozen=True)
class Opened:
    """Splits by name, and what they are called in records. `revision` is a commit sha."""

    splits: Mapping[str, Dataset]
    name: str
    config: str | None = None
    revision: str | None = None


def opened(spec: SourceSpec) -> Opened:
    """Open the sample, path or repo of a recipe; `SourceError` where it cannot be read."""
    if spec.sample is not None:
        if spec.sample not in SAMPLES:
            raise SourceError(f"no embedded sample {spec.sample!r}; there are: {', '.join(SAMPLES)}")
        return Opened(SAMPLES[spec.sample](), f"sample:{spec.sample}")
    if spec.repo is not None:
        found = snapshot(spec.repo, spec.revision, spec.config)
        splits = _read(found.arguments, found.folder, spec.repo)
        return Opened(splits, spec.repo, found.config, found.sha)
    if spec.path is None:
        raise SourceError(
            "the recipe names no source; set source.path (a file or folder), source.repo (org/name) or source.sample (a run that was begun "
            "in Python goes on there: prune_dataset, evaluate_selections)"
        )
    path = Path(os.path.expandvars(spec.path)).expanduser()
    if "$" in str(path):
        raise SourceError(f"source.path {spec.path} uses an environment variable that is not set; set it, or pass source.path=FOLDER")
    if not path.exists():
        raise SourceError(f"source.path {path} does not exist; pass source.path=FOLDER")
    if path.is_file() and path.suffix not in READERS:
        raise SourceError(f"source.path {path} is no data file; give one of {', '.join(READERS)}, or a folder")
    if path.is_file():
        return Opened(_read({"path": READERS[path.suffix], "data_files": {"train": str(path)}}, path, str(path)), path.name)
    # Absolute: a folder may have the name of a reader of datasets, such as csv.
    return Opened(_read({"path": str(path.absolute()), "name": spec.config}, path, str(path)), path.name, spec.config)


def in_memory(split: str, dataset: Any, test: Any = None) -> Mapping[str, Dataset] | None:
    """{split: dataset}, or the splits of a DatasetDict, with `test` as "test" if that is given; None without a dataset."""
    if dataset is None:
        return None
    splits: dict[str, Any] = {str(name): rows for name, rows in dataset.items()} if isinstance(dataset, DatasetDict) else {split: dataset}
    if test is not None and split != "test":
        splits["test"] = test
    for given in splits.values():
        if not isinstance(given, Dataset):
            raise SourceError(
                f"the dataset is of type {type(given).__name__}; pass a datasets.Dataset or a DatasetDict (ExampleScorer takes streams)"
            )
    return splits


def _read(arguments: Mapping[str, Any], place: Path, name: str) -> dict[str, Dataset]:
    """The splits that `load_dataset(**arguments)` finds at `place`, which errors call `name`."""
    saved = any((place / marker).exists() for marker in ("state.json", "dataset_dict.json"))
    try:
        loaded: Any = load_from_disk(str(place)) if saved else load_dataset(**arguments)
    except CANNOT_READ as error:
        # datasets says "An error occurred" and keeps the reason as the cause.
        reason = error.__cause__ if isinstance(error, DatasetsError) and error.__cause__ is not None else error
        lines = str(reason).splitlines() or [type(reason).__name__]
        said = lines[0].replace(str(place.absolute()), name).rstrip(".")
        if said.startswith("Config name is missing"):
            said = f"it has several configs; set source.config to one of: {lines[1].partition(': ')[2].strip('[]')}"
        elif said.startswith("BuilderConfig"):
            said += "; set source.config"
        elif "corresponds to no data" in said or (saved and isinstance(error, IndexError)):
            said = "a split of it has no rows, which datasets cannot read; leave that split out"
        else:
            if any(sign in said for sign in NO_DATA):
                said = "it has no data files"
            said += f"; {REMEDIES['repo' if name != str(place) else 'file' if place.is_file() else 'folder']}"
        raise SourceError(f"cannot read {name}: {said}") from error
    return {str(split): rows for split, rows in loaded.items()} if isinstance(loaded, DatasetDict) else {"train": loaded}
