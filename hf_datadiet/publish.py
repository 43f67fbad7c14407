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
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hf_datadiet import registry
from hf_datadiet.card import to_card
from hf_datadiet.durable import file_digest, json_text, notice, temporary_beside, write_json, write_text
from hf_datadiet.errors import PublishError, RecipeError
from hf_datadiet.evidence import EVIDENCE, SCORES, write_evidence
from hf_datadiet.hub.card import merged, metadata
from hf_datadiet.hub.files import Shards, write_shards
from hf_datadiet.hub.licence import may_publish
from hf_datadiet.hub.origin import Origin, origin_of
from hf_datadiet.hub.published import require_config_name, scores_dataset, variant_splits
from hf_datadiet.hub.push import Change, Planned, Pushed, Remote, Target, planned, push
from hf_datadiet.hub.source import Pinned
from hf_datadiet.publication import Publication
from hf_datadiet.recipe import Recipe
from hf_datadiet.records import Report, ScoreTable, Selection
from hf_datadiet.showcase import ends
from hf_datadiet.store import RunFolder

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
    """What was written to `tree`; `pushed`: what became of it, one for each repository; `planned`: what a dry run found."""

    to: str
    tree: Path
    variants: Mapping[str, Mapping[str, int]]
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
    from hf_datadiet.training.session import open_session

    table = folder.load_scores()
    selections = [folder.load_selection(name) for name in folder.selections()]
    _check(recipe, selections, table)
    origin = origin_of(table.source, recipe.source, ask=asked.push or asked.dry_run)
    may_publish(origin, public=asked.public, ids_only=asked.ids_only, asserted=asked.asserted)
    pinned = open_session(recipe, folder, command=command, claim=False, allow_plugins=allow_plugins).pinned
    tree = asked.out or folder.path / "published"
    with _appearing(tree) as temporary:
        content = _write(folder, recipe, report, asked, origin, pinned, table, selections, temporary, command, note)
    variants = content.publication.variants
    if not (asked.push or asked.dry_run):
        return Published(asked.to, tree, variants)
    target = Target(asked.to, public=asked.public, gate=origin.gate, create_pr=asked.create_pr)
    change = partial(_change, tree, content)
    if asked.dry_run:
        return Published(asked.to, tree, variants, planned=(planned(target, change),))
    done = push(target, change, message=f"Data diet of {table.source.name}: {', '.join(variants) or SCORES}", note=note)
    return Published(asked.to, tree, variants, pushed=(done,))
