"""A finished run of records that fit a source, without a training: whatever its classes, columns, splits and rows are called."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as Picture

from hf_datadiet.hub.source import pin
from hf_datadiet.recipe_yaml import recipe_from, to_yaml
from hf_datadiet.records import UNLABELLED
from hf_datadiet.selection import select
from hf_datadiet.stats import reliability, seed_mean_se
from hf_datadiet.store import RunFolder
from hf_datadiet.training.redrawn import rows_digest
from hf_datadiet.training.task import find_task
from tests.synthetic import PROVENANCE, RIGHT, evaluation, score_table

N, N_EXTRA = 12, 3
SEEDS = (0, 1)


@dataclass(frozen=True)
class Words:
    """What the owner of a dataset, or who wrote its rows, calls things. All of one field are different."""

    classes: tuple[str, str, str] = ("cat", "dog", "ship")
    columns: tuple[str, str, str, str] = ("input", "kind", "note", "uid")
    splits: tuple[str, str, str] = ("train", "test", "extra")
    ids: tuple[str, ...] = tuple(f"id {row}" for row in range(N))
    texts: tuple[str, ...] = tuple(f"text {row}" for row in range(N))
    card: Mapping[str, Any] | None = None
    """What its README.md says at the top."""


def source_of(words: Words, kind: str) -> dict[str, Dataset]:
    """The scored split (rows 3 and 7 without a label), the held-out one and another one."""
    given, label, note, uid = words.columns
    inputs = Image() if kind == "image" else Value("string")
    features = Features({given: inputs, label: ClassLabel(names=[*words.classes]), note: Value("string"), uid: Value("string")})
    splits = {}
    for split, n in zip(words.splits, (N, N, N_EXTRA), strict=True):
        labels = [None if row in (3, 7) and split == words.splits[0] else row % 3 for row in range(n)]
        rows = [png(row) for row in range(n)] if kind == "image" else [*words.texts[:n]]
        columns = {given: rows, label: labels, note: [*words.texts[:n]], uid: [*words.ids[:n]]}
        splits[split] = Dataset.from_dict(columns, features=features)
    return splits


def png(row: int) -> dict[str, Any]:
    buffer = io.BytesIO()
    Picture.new("RGB", (8, 8), (20 * row, 50, 200)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def untrained(place: Path, words: Words, kind: str, *, on_disk: bool = False) -> Path:
    """A folder with `source/` (parquet files, or what save_to_disk writes) and the `run`."""
    splits = source_of(words, kind)
    if on_disk:
        DatasetDict({**splits}).save_to_disk(str(place / "source"))
    else:
        (place / "source" / "data").mkdir(parents=True)
        for name, rows in splits.items():
            rows.to_parquet(str(place / "source" / "data" / f"{name}-00000-of-00001.parquet"))
    if words.card is not None:
        (place / "source" / "README.md").write_text(f"---\n{yaml.safe_dump(dict(words.card))}---\n", encoding="utf-8")
    given, label, _, uid = words.columns
    recipe = recipe_from(
        {
            "source": {
                "path": str(place / "source"),
                "split": words.splits[0],
                "test": {"split": words.splits[1]},
                "columns": {kind: given, "label": label},
                "id_column": uid,
            },
            "task": {"kind": kind, "model": "timm:test_resnet" if kind == "image" else "transformers:bert"},
            "score": {"scores": ["el2n", "margin", "forgetting", "chance"], "seeds": len(SEEDS)},
            "evaluate": {"seeds": len(SEEDS)},
        }
    )
    folder = RunFolder(place / "run")
    pinned = pin(recipe.source, find_task(recipe).find_columns)
    folder.claim(recipe.identity(), pinned.record, to_yaml(recipe))
    labelled = int((pinned.label != UNLABELLED).sum())
    folder.save_fitted({"n_truncated": 0, "lengths": list(range(labelled))} if kind == "text" else {})
    folder.save_taken({"repo": None, "revision": None, "seed_seconds": [{"train": 2.0, "observe": 1.0} for _ in SEEDS]})

    made = score_table(N, SEEDS, classes=words.classes)
    columns = {}
    for name, column in made.columns.items():
        assert column.per_seed is not None
        mean, se = seed_mean_se(column.per_seed)
        agreed = None if column.reliability is None else reliability(column.per_seed[:, np.isfinite(mean)])
        columns[name] = replace(column, mean=mean, se=se, reliability=agreed)
    table = replace(made, source=pinned.record, example_id=pinned.scored, label=pinned.label, columns=columns, source_id=pinned.source_id)
    folder.save_scores(table)
    selection = select(table, name="keep-50", score="el2n", keep=0.5, provenance=PROVENANCE)
    folder.save_selection(selection)
    judged = evaluation(right={arm: right[: len(SEEDS)] for arm, right in RIGHT.items()}, n_seeds=len(SEEDS))
    trained = {"full": table.example_id[table.label != UNLABELLED], "keep-50": selection.kept}
    results = [
        replace(each, n_rows=rows.size, train_ids_digest=rows_digest(rows, each.epochs))
        if (rows := trained.get(each.arm)) is not None
        else each
        for each in judged.results
    ]
    about = {"test_id": pinned.test_id, "test_label": pinned.test_label, "source_digest": pinned.record.digest, "model": recipe.task.model}
    folder.save_evaluation(replace(judged, results=tuple(results), **about))
    return place
