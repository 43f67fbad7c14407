"""A publication as a tree of files, and as the change that makes a repository of it.

README.md     the card; text of others in it stays
scores/       config `scores`: every number of every example
NAME/         one config for each selection: the kept rows, and the other splits of the source
evidence/     what proves the card (`evidence`), publication.json, and manifest.json with the digest of every file but these two
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import DatasetInfo

from hf_datadiet import registry
from hf_datadiet.card import to_card
from hf_datadiet.durable import file_digest, json_text, write_bytes
from hf_datadiet.errors import PublishError
from hf_datadiet.evidence import require_no_places, write_evidence
from hf_datadiet.hub.card import SourceCard, config_info, metadata
from hf_datadiet.hub.files import write_shards
from hf_datadiet.hub.media import with_tags
from hf_datadiet.hub.merging import merged
from hf_datadiet.hub.model_card import model_repo
from hf_datadiet.hub.origin import Origin
from hf_datadiet.hub.published import EVIDENCE, SCORES, held_out_split, scores_dataset, variant_splits
from hf_datadiet.hub.push import Change, Remote
from hf_datadiet.hub.reading import metadata_of
from hf_datadiet.hub.source import Pinned
from hf_datadiet.publication import Asked, Publication
from hf_datadiet.recipe import Recipe
from hf_datadiet.recipe_yaml import kept_recipe
from hf_datadiet.records import Report, ScoreTable, Selection
from hf_datadiet.showcase import ends
from hf_datadiet.store import RunFolder

DATA = (".parquet", ".csv", ".tsv", ".json", ".jsonl", ".arrow", ".txt", ".zip", ".tar", ".gz")
"""How files end that datasets reads as data."""

CARD, PUBLICATION, MANIFEST = "README.md", f"{EVIDENCE}/publication.json", f"{EVIDENCE}/manifest.json"


@dataclass(frozen=True)
class Content:
    """What a tree holds whatever lies on the Hub: `files` {path: digest}, and what the card is made of."""

    files: Mapping[str, str]
    report: Report
    publication: Publication
    metadata: Mapping[str, Any]
    table: ScoreTable
    only_ids_in_public: bool
    """Whether everybody may see the repository then, and no row of the source may be among what they see."""


def write_tree(
    folder: RunFolder,
    recipe: Recipe,
    report: Report,
    asked: Asked,
    origin: Origin,
    source: SourceCard,
    pinned: Pinned,
    selections: Sequence[Selection],
    tree: Path,
    note: Callable[[str], None],
) -> Content:
    """All files of a new tree, and what its card is made of."""
    table, evidence = folder.load_scores(), tree / EVIDENCE
    infos = _write_configs(table, selections, pinned, asked, tree, recipe.source.on_bad_row == "skip", note)
    write_evidence(folder, table, evidence, labels=not asked.ids_only)
    shown = asked.examples if asked.examples is not None else origin.private is False and origin.gate is None and not asked.ids_only
    headline = next(name for name, column in table.columns.items() if name == column.score)
    rows = {config: {str(split): info.num_examples for split, info in (about.splits or {}).items()} for config, about in infos.items()}
    publication = Publication(
        repo=asked.to,
        scores=rows[SCORES],
        variants={config: splits for config, splits in rows.items() if config != SCORES},
        command=report.provenance["command"],
        recipe=f"{EVIDENCE}/recipe.yaml",
        source_repo=origin.repo,
        source_license=source.license,
        asserted_license=asked.asserted,
        source_private=bool(origin.private),
        source_gated=origin.gate is not None,
        ids_only=asked.ids_only,
        prefix=asked.prefix,
        held_out=None if asked.ids_only else held_out_split(pinned),
        definitions=registry.definitions("scorers", recipe.score.scores),
        strategies=registry.definitions("selectors", sorted({selection.strategy for selection in selections})),
        models={name: model_repo(asked.to, name) for name in rows if name != SCORES} if asked.models else {},
        examples=(ends(pinned, table, headline, evidence / "examples", f"{EVIDENCE}/examples"),) if shown else (),
        pictures=tuple(sorted(f"{EVIDENCE}/{path.relative_to(evidence)}" for path in evidence.glob("pictures/*.png"))),
    )
    about = metadata(
        infos,
        repo=asked.to,
        task=recipe.task.kind,
        scores=recipe.score.scores,
        source=source,
        source_repo=origin.repo,
        asserted=asked.asserted,
    )
    require_no_places(evidence, kept_recipe(folder.path), (folder.path, Path.home(), Path.cwd()))
    files = {str(path.relative_to(tree)): file_digest(path) for path in sorted(tree.rglob("*")) if path.is_file()}
    content = Content(files, report, publication, about, table, only_ids_in_public=asked.public and asked.ids_only)
    for path, made in change_of(tree, content, Remote(None, {}, lambda path: None)).adds.items():
        if isinstance(made, bytes):
            write_bytes(tree / path, made)
    return content


def _write_configs(
    table: ScoreTable,
    selections: Sequence[Selection],
    pinned: Pinned,
    asked: Asked,
    tree: Path,
    skip: bool,
    note: Callable[[str], None],
) -> dict[str, DatasetInfo]:
    """The parquet files of every config, and what the card says of each."""
    splits = {SCORES: {table.source.split: scores_dataset(table, ids_only=asked.ids_only)}}
    for selection in selections:
        variant = variant_splits(pinned, table, selection, asked.prefix, ids_only=asked.ids_only)
        splits[selection.name] = dict(variant.splits)
        for split, reason in variant.left_out.items():
            note(f"{selection.name}: split {split} is left out: {reason}")
    infos: dict[str, DatasetInfo] = {}
    for config, parts in splits.items():
        written = {split: write_shards(rows, tree / config, split, skip=skip) for split, rows in parts.items()}
        for split, shards in written.items():
            for column, n in shards.nulls.items():
                note(f"{config}, split {split}: {n} values of {column} cannot be read and are null")
        features = next(iter(parts.values())).features
        if tagged := with_tags(features):
            note(f"{config}: what files in {tagged[0]} say of themselves (artist, place, time) stays in them")
        size = sum(path.stat().st_size for shards in written.values() for path in shards.files)
        counts, bytes_ = ({split: shards.n_rows for split, shards in written.items()}, {split: s.n_bytes for split, s in written.items()})
        infos[config] = config_info(features, counts, bytes_, size)
    return infos


def change_of(tree: Path, content: Content, remote: Remote) -> Change:
    """What the repository is to become: our files, the card of both, and nothing of an earlier push that this one has made anew.

    `PublishError` where other files, or the scores of another source or run, lie in its place.
    """
    before = _json(remote, MANIFEST).get("files", {})
    scored = _json(remote, f"{EVIDENCE}/scores.json")
    repo = content.publication.repo
    if scored.get("source", {}).get("digest", content.table.source.digest) != content.table.source.digest:
        raise PublishError(f"{repo} holds the scores of another source; choose another --to")
    foreign = sorted(set(remote.files) & set(content.files) - set(before))
    if foreign:
        raise PublishError(f"{repo} has a file {foreign[0]} that no publication wrote; choose another --to, or remove it")
    there, text = _json(remote, PUBLICATION), remote.text(CARD)
    hidden = [path for path in remote.files if path.endswith(DATA) and path not in before]
    if hidden and "configs" not in metadata_of(text or ""):
        # Until its card lists configs, a repository has one of all its files; from then on it has those.
        raise PublishError(
            f"the data of {repo} ({hidden[0]}) would no longer be found; list it under configs in its README.md, or choose another --to"
        )
    published = [*there.get("variants", {}), *there.get("earlier", ())]
    earlier = tuple(name for name in dict.fromkeys(published) if name not in content.publication.variants)
    if earlier and scored.get("digest", content.table.digest) != content.table.digest:
        raise PublishError(f"{repo} has selections by other scores ({earlier[0]}), which would lose them; choose another --to")
    stays = {path: digest for path, digest in before.items() if path.split("/")[0] in earlier}
    held_rows = there.get("held_rows", False)
    if content.only_ids_in_public and held_rows:
        # What was committed once can be read in the history.
        raise PublishError(f"{repo} has, or had, rows of the source, which would become public with it; choose another --to for the ids")
    publication = replace(content.publication, earlier=earlier, held_rows=held_rows or not content.publication.ids_only)
    readme = merged(text, content.metadata, to_card(content.report, publication), {SCORES, *published} if there else ())
    adds: dict[str, Path | bytes] = {path: tree / path for path in content.files}
    adds[CARD] = readme.encode()
    adds[PUBLICATION] = json_text(dataclasses.asdict(publication)).encode()
    adds[MANIFEST] = json_text({"files": {**stays, **content.files}}).encode()
    return Change(adds, tuple(sorted(set(before) - set(stays) - set(content.files))))


def _json(remote: Remote, path: str) -> dict[str, Any]:
    """A JSON object that lies there; empty if none does."""
    content = remote.text(path)
    try:
        value = json.loads(content) if content is not None else {}
    except ValueError:
        raise PublishError(f"{path} of the repository cannot be read; mend it there, or choose another --to") from None
    return value if isinstance(value, dict) else {}
