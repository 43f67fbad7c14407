"""PUBLISH: score columns, pruned configurations and the evidence for them as one dataset repository; in a folder unless it is pushed.

README.md     the card; text of others in it stays
scores/       config `scores`: every number of every example
NAME/         one config for each selection: the kept rows, and the other splits of the source
evidence/     what proves the card (`evidence`), publication.json, and manifest.json with the digest of every file but these two
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from datasets import DatasetInfo

from hf_datadiet import registry
from hf_datadiet.card import to_card
from hf_datadiet.durable import file_digest, json_text, notice, temporary_beside, write_bytes
from hf_datadiet.errors import PublishError, RecipeError
from hf_datadiet.evidence import require_no_places, write_evidence
from hf_datadiet.hub.card import config_info, metadata, source_card
from hf_datadiet.hub.files import write_shards
from hf_datadiet.hub.licence import may_publish
from hf_datadiet.hub.merging import merged
from hf_datadiet.hub.origin import Origin, origin_of
from hf_datadiet.hub.published import EVIDENCE, SCORES, held_out_split, require_config_name, scores_dataset, variant_splits
from hf_datadiet.hub.push import Change, Planned, Pushed, Remote, Target, planned, push
from hf_datadiet.hub.source import Pinned
from hf_datadiet.publication import Publication
from hf_datadiet.recipe import Recipe
from hf_datadiet.records import Report, ScoreTable, Selection
from hf_datadiet.showcase import ends
from hf_datadiet.store import RunFolder
from hf_datadiet.training.session import Session, open_session

CARD, PUBLICATION, MANIFEST = "README.md", f"{EVIDENCE}/publication.json", f"{EVIDENCE}/manifest.json"


@dataclass(frozen=True)
class Asked:
    """How a run is to be published.

    `to`: the dataset repository; `push`: send it; `public`: for everybody; `ids_only`: no column of the source; `asserted`: a licence under
    which the user says that the rows may be shared; `examples`: show rows in the card (None: where everybody may read the source);
    `models`: also a model of each selection; `create_pr`: as a pull request; `dry_run`: say what would be sent, and send nothing;
    `prefix`: before the names of the score columns; `out`: where the tree is written (None: RUN/published).
    """

    to: str
    push: bool = False
    public: bool = False
    ids_only: bool = False
    asserted: str | None = None
    examples: bool | None = None
    models: bool = False
    create_pr: bool = False
    dry_run: bool = False
    prefix: str = ""
    out: Path | None = None


@dataclass(frozen=True)
class Published:
    """What was written to `tree`; `configs`: rows of each split of each config.

    `pushed`: what became of it, one for each repository; `planned`: what a dry run found.
    """

    to: str
    tree: Path
    configs: Mapping[str, Mapping[str, int]]
    pushed: tuple[Pushed, ...] = ()
    planned: tuple[Planned, ...] = ()


def publish_run(
    folder: RunFolder,
    recipe: Recipe,
    report: Report,
    asked: Asked,
    *,
    command: str,
    allow_plugins: bool = False,
    note: Callable[[str], None] = notice,
) -> Published:
    """Write the tree of a reported run, and push it if that is asked.

    Raises `PublishError` for what must not be published (licence, gate, privacy), before anything is written, and for what the Hub
    refuses; `RecipeError` for a run that cannot be published at all.
    """
    table = folder.load_scores()
    selections = [folder.load_selection(name) for name in folder.selections()]
    _check(recipe, selections, table, asked)
    origin = origin_of(table.source, recipe.source, ask=asked.push or asked.dry_run)
    target = Target(asked.to, public=asked.public, gate=origin.gate, create_pr=asked.create_pr)
    may_publish(
        source_card(origin.card, table.source.name, table.source.revision or "main").license,
        public=asked.public,
        ids_only=asked.ids_only,
        asserted=asked.asserted,
        source_private=origin.private is not False,
        source_gated=origin.gate is not None,
        gated=True,  # the gate of the source goes along
    )
    session = open_session(recipe, folder, command=command, claim=False, allow_plugins=allow_plugins)
    tree = asked.out or folder.path / "published"
    with _appearing(tree) as temporary:
        content = _write(folder, recipe, report, asked, origin, session, selections, temporary, note)
    change = partial(_change, tree, content)
    configs = {SCORES: content.publication.scores, **content.publication.variants}
    if asked.dry_run:
        return Published(asked.to, tree, configs, planned=(planned(target, change),))
    if not asked.push:
        return Published(asked.to, tree, configs)
    message = f"Data diet of {table.source.name}: {', '.join(configs)}"
    return Published(asked.to, tree, configs, pushed=(push(target, change, message=message, note=note),))


@dataclass(frozen=True)
class _Content:
    """What a tree holds whatever lies on the Hub: `files` {path: digest}, and what the card is made of."""

    files: Mapping[str, str]
    report: Report
    publication: Publication
    metadata: Mapping[str, Any]
    source_digest: str


def _check(recipe: Recipe, selections: Sequence[Selection], table: ScoreTable, asked: Asked) -> None:
    if recipe.source.label_noise is not None:
        raise RecipeError("this run has label noise, so its labels are not the source's; publish a run without source.label_noise")
    if asked.ids_only and asked.examples:
        raise PublishError("--examples shows rows of the source, and --ids-only publishes none; give one of them")
    for selection in selections:
        require_config_name(selection.name)
        if selection.table_digest != table.digest:
            raise PublishError(
                f"selection {selection.name!r} was made from other scores than the run has now; prune again, under another name"
            )


@contextmanager
def _appearing(tree: Path) -> Iterator[Path]:
    """A folder that takes the place of `tree` when the block ends well."""
    if tree.exists() and not (tree / MANIFEST).exists():
        raise PublishError(f"{tree} is there already and is no publication; choose another --out, or remove it")
    temporary = temporary_beside(tree)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        shutil.rmtree(tree, ignore_errors=True)
        temporary.rename(tree)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(
    folder: RunFolder,
    recipe: Recipe,
    report: Report,
    asked: Asked,
    origin: Origin,
    session: Session,
    selections: Sequence[Selection],
    tree: Path,
    note: Callable[[str], None],
) -> _Content:
    """All files of a new tree, and what its card is made of."""
    table, evidence = folder.load_scores(), tree / EVIDENCE
    infos = _write_configs(table, selections, session.pinned, asked, tree, recipe.source.on_bad_row == "skip", note)
    write_evidence(folder, table, evidence, labels=not asked.ids_only)
    shown = asked.examples if asked.examples is not None else origin.private is False and origin.gate is None and not asked.ids_only
    headline = next(name for name, column in table.columns.items() if name == column.score)
    rows = {config: {str(split): info.num_examples for split, info in (about.splits or {}).items()} for config, about in infos.items()}
    source = source_card(origin.card, table.source.name, table.source.revision or "main")
    publication = Publication(
        repo=asked.to,
        scores=rows.pop(SCORES),
        variants=rows,
        command=report.provenance["command"],
        recipe=f"{EVIDENCE}/recipe.yaml",
        source_repo=origin.repo,
        source_license=source.license,
        asserted_license=asked.asserted,
        source_private=bool(origin.private),
        source_gated=origin.gate is not None,
        ids_only=asked.ids_only,
        prefix=asked.prefix,
        held_out=None if asked.ids_only else held_out_split(session.pinned),
        definitions=registry.definitions("scorers", recipe.score.scores),
        strategies=registry.definitions("selectors", sorted({selection.strategy for selection in selections})),
        examples=(ends(session.pinned, table, headline, evidence / "examples", f"{EVIDENCE}/examples"),) if shown else (),
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
    require_no_places(evidence, (folder.path, Path.home(), Path.cwd()))
    files = {str(path.relative_to(tree)): file_digest(path) for path in sorted(tree.rglob("*")) if path.is_file()}
    content = _Content(files, report, publication, about, table.source.digest)
    for path, made in _change(tree, content, Remote(None, {}, lambda path: None)).adds.items():
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
        size = sum(path.stat().st_size for shards in written.values() for path in shards.files)
        counts, bytes_ = ({split: shards.n_rows for split, shards in written.items()}, {split: s.n_bytes for split, s in written.items()})
        infos[config] = config_info(features, counts, bytes_, size)
    return infos


def _change(tree: Path, content: _Content, remote: Remote) -> Change:
    """What the repository is to become: our files, the card of both, and nothing of an earlier push that this one has made anew.

    `PublishError` where other files, or the scores of another source, lie in its place.
    """
    before = _json(remote, MANIFEST).get("files", {})
    scored = _json(remote, f"{EVIDENCE}/scores.json").get("source", {}).get("digest", content.source_digest)
    if scored != content.source_digest:
        raise PublishError(f"{content.publication.repo} holds the scores of another source; choose another --to")
    foreign = sorted(set(remote.files) & set(content.files) - set(before))
    if foreign:
        raise PublishError(
            f"{content.publication.repo} has a file {foreign[0]} that no publication wrote; choose another --to, or remove it"
        )
    there = _json(remote, PUBLICATION)
    published = [*there.get("variants", {}), *there.get("earlier", ())]
    earlier = tuple(name for name in dict.fromkeys(published) if name not in content.publication.variants)
    stays = {path: digest for path, digest in before.items() if path.split("/")[0] in earlier}
    publication = dataclasses.replace(content.publication, earlier=earlier)
    card = remote.read(CARD)
    text = merged(
        None if card is None else card.decode(),
        content.metadata,
        to_card(content.report, publication),
        {SCORES, *published} if there else (),
    )
    adds: dict[str, Path | bytes] = {path: tree / path for path in content.files}
    adds[CARD] = text.encode()
    adds[PUBLICATION] = json_text(dataclasses.asdict(publication)).encode()
    adds[MANIFEST] = json_text({"files": {**stays, **content.files}}).encode()
    return Change(adds, tuple(sorted(set(before) - set(stays) - set(content.files))))


def _json(remote: Remote, path: str) -> dict[str, Any]:
    """A JSON object that lies there; empty if none does."""
    content = remote.read(path)
    try:
        value = json.loads(content) if content is not None else {}
    except ValueError:
        raise PublishError(f"{path} of the repository cannot be read; mend it there, or choose another --to") from None
    return value if isinstance(value, dict) else {}
