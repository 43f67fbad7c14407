"""A published card, its metadata and publication.json beside the files and the records that they speak of."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Features

from hf_datadiet import registry
from hf_datadiet.card import to_card
from hf_datadiet.checked import Unknown, short
from hf_datadiet.evidence import load_json
from hf_datadiet.hub.card import SourceCard, config_info, metadata
from hf_datadiet.hub.model_card import model_repo
from hf_datadiet.hub.published import EVIDENCE, SCORES, held_out_split
from hf_datadiet.hub.reading import generated, info_of, metadata_of
from hf_datadiet.hub.source import Pinned
from hf_datadiet.publication import Example, Examples, Publication
from hf_datadiet.recipe import Recipe
from hf_datadiet.records import ScoreTable, Selection
from hf_datadiet.showcase import end_rows, ends
from hf_datadiet.verified_files import config_folders, splits_of

HARMLESS = {"config_name", "data_files", "default", "description"}
"""Keys of a config in the card that do not change what is read of its files."""


def other_card(published: Path, publication: Publication, made_by: str | None) -> Iterator[str]:
    """The generated part of README.md, line by line, beside the card that report.json makes. `made_by`: another version."""
    there = generated((published / "README.md").read_text(encoding="utf-8"))
    if there is None:
        yield "README.md has lost the part that was generated"
        return
    found = _other_lines(there, published, publication)
    if made_by is None:
        yield from found
        return
    try:
        other = any(True for _ in found)
    except Exception:  # whatever this version misses in the report of another
        other = True
    if other:
        yield Unknown(f"README.md is worded otherwise here; {made_by}")


def _other_lines(there: str, published: Path, publication: Publication) -> Iterator[str]:
    here = to_card(load_json(published / EVIDENCE / "report.json"), publication).strip("\n")
    if there != here:
        lines, others = there.splitlines(), here.splitlines()
        yield from (f"README.md says {short(a)}, the records say {short(b)}" for a, b in zip(lines, others, strict=False) if a != b)
        if len(lines) != len(others):
            yield f"README.md has {len(lines)} generated lines, the records make {len(others)}"


# Metadata


def other_metadata(published: Path) -> Iterator[str]:
    """What `load_dataset` reads of the card about our configs beside their files. What it says of others is theirs."""
    data = metadata_of((published / "README.md").read_text(encoding="utf-8"))
    for config in config_folders(published):
        about, info = (_entries(data.get(key), config) for key in ("configs", "dataset_info"))
        if len(about) != 1 or len(info) != 1:
            yield f"{config}: README.md should have one entry for it in configs, and one in dataset_info"
            continue
        files = splits_of(published, config)
        if not files:
            yield f"{config}: it has no files"
            continue
        features, *others = [Features.from_arrow_schema(pq.read_schema(path)) for paths in files.values() for path in paths]
        if any(other != features for other in others):
            yield f"{config}: its files have not all the same columns and classes"
        rows = {split: sum(pq.read_metadata(path).num_rows for path in paths) for split, paths in files.items()}
        made = metadata(
            {config: config_info(features, rows, dict.fromkeys(rows, 0), 0)}, repo="", task=None, scores=(), source=SourceCard()
        )
        if odd := sorted(set(map(str, about[0])) - HARMLESS):
            yield f"{config}: its entry in configs has {short(odd[0])}, which changes what is read"
        if _patterns(about[0]) != _patterns(made["configs"][0]):
            yield f"{config}: its data_files in README.md are not its own files"
        yield from _other_info(config, info[0], made["dataset_info"][0])


def _entries(listed: Any, config: str) -> list[dict[str, Any]]:
    entries = listed if isinstance(listed, list) else [listed]
    return [entry for entry in entries if isinstance(entry, dict) and entry.get("config_name") == config]


def _patterns(about: Mapping[str, Any]) -> list[str]:
    """In any order, and however badly they are written."""
    listed = about.get("data_files")
    return sorted(repr(sorted(entry.items(), key=repr) if isinstance(entry, dict) else entry) for entry in listed or ())


def _other_info(config: str, info: dict[str, Any], made: dict[str, Any]) -> Iterator[str]:
    try:
        there, here = info_of(info), info_of(made)
        counts = [{str(name): split.num_examples for name, split in (each.splits or {}).items()} for each in (there, here)]
    except Exception as fault:  # anybody may have written what is read here
        yield f"{config}: its dataset_info in README.md cannot be read: {type(fault).__name__}"
        return
    if there.features != here.features:
        yield f"{config}: README.md says other columns or classes than its files have"
    for split in dict.fromkeys([*counts[0], *counts[1]]):
        said, found = (count.get(split, 0) for count in counts)
        if said != found:
            yield f"{config}, split {split}: the card counts {said} rows, the files have {found}"


# publication.json


def other_publication(
    published: Path,
    publication: Publication,
    table: ScoreTable,
    recipe: Recipe,
    selections: Sequence[Selection],
    pinned: Pinned | None,
    made_by: str | None,
) -> Iterator[str]:
    """What publication.json says beyond the report beside files, scores and registry."""
    yield from _other_rows(published, publication)
    yield from _other_facts(published, publication, pinned)
    strategies = sorted({selection.strategy for selection in selections})
    yield from _other_definitions("scorers", publication.definitions, recipe.score.scores, made_by)
    yield from _other_definitions("selectors", publication.strategies, strategies, made_by)
    for examples in publication.examples:
        yield from _other_examples(examples, table, pinned)


def _other_rows(published: Path, publication: Publication) -> Iterator[str]:
    for config, said in {SCORES: publication.scores, **publication.variants}.items():
        files = splits_of(published, config)
        found = {split: sum(pq.read_metadata(path).num_rows for path in paths) for split, paths in files.items()}
        if dict(said) != found:
            yield f"{config}: {short(dict(said))} rows published, the files have {short(found)}"


def _other_facts(published: Path, publication: Publication, pinned: Pinned | None) -> Iterator[str]:
    """What follows from what lies there."""
    configs = [SCORES, *publication.variants]
    facts = {
        "command": load_json(published / EVIDENCE / "report.json")["provenance"]["command"],
        "recipe": f"{EVIDENCE}/recipe.yaml",
        "ids_only": not load_json(published / EVIDENCE / "scores.json")["labels"],
        "held_rows": publication.held_rows or not publication.ids_only,
        "earlier": tuple(name for name in publication.earlier if name in config_folders(published) and name not in configs),
        "models": {name: model_repo(publication.repo, name) for name in publication.models if name in publication.variants},
        "pictures": tuple(sorted(str(path.relative_to(published)) for path in (published / EVIDENCE).glob("pictures/*.png"))),
    }
    if pinned is not None:
        facts["held_out"] = None if publication.ids_only else held_out_split(pinned)
    for key, found in facts.items():
        if getattr(publication, key) != found:
            yield f"{key}: {short(getattr(publication, key))} published, {short(found)} found"


def _other_definitions(kind: registry.Kind, said: Mapping[str, str], wanted: Sequence[str], made_by: str | None) -> Iterator[str]:
    found, known = registry.definitions(kind, wanted), registry.names(kind)
    for name in dict.fromkeys([*said, *found]):
        if name not in known and name in wanted:
            yield Unknown(f"{name} is defined by a plug-in that is not installed here")
        elif said.get(name) != found.get(name):
            line = f"the definition of {name} is another one here"
            yield line if made_by is None else Unknown(f"{line}; {made_by}")


def _other_examples(examples: Examples, table: ScoreTable, pinned: Pinned | None) -> Iterator[str]:
    """The rows that are shown, their scores and labels; where the source is open, also their texts."""
    if pinned is None:
        said: Any = [_without_content(row) for row in (*examples.hardest, *examples.easiest)]
        found: Any = [_example(table, examples.column, int(at)) for places in end_rows(table, examples.column) for at in places]
    else:
        with tempfile.TemporaryDirectory() as temporary:
            again = ends(pinned, table, examples.column, Path(temporary), f"{EVIDENCE}/examples")
        said, found = [*examples.hardest, *examples.easiest], [*again.hardest, *again.easiest]
    if len(said) != len(found):
        yield f"{len(said)} examples are shown, {len(found)} would be"
    yield from (
        f"the example {short(dataclasses.asdict(a))} should be {short(dataclasses.asdict(b))}"
        for a, b in zip(said, found, strict=False)
        if a != b
    )


def _without_content(row: Example) -> Example:
    return dataclasses.replace(row, text=None, image=None)


def _example(table: ScoreTable, score: str, at: int) -> Example:
    return Example(int(table.example_id[at]), table.source.classes[int(table.label[at])], float(table.columns[score].mean[at]))
