"""PUBLISH: the scores and selections of a run as one dataset repository with the evidence for them; in a folder unless it is pushed.

What may go where is decided first (licence, gate, privacy), then the tree is written (`tree`), then pushed in one commit (`hub.push`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from hf_datadiet.durable import notice
from hf_datadiet.errors import PublishError, RecipeError
from hf_datadiet.export import model_folders
from hf_datadiet.hub.access import TITLE
from hf_datadiet.hub.card import licence_of, source_card
from hf_datadiet.hub.licence import may_publish
from hf_datadiet.hub.model_card import card_over, model_repo
from hf_datadiet.hub.opening import in_memory
from hf_datadiet.hub.origin import origin_of
from hf_datadiet.hub.published import SCORES, require_config_name
from hf_datadiet.hub.push import Change, Planned, Pushed, Remote, Target, ask_first, planned, push
from hf_datadiet.hub.reading import generated
from hf_datadiet.hub.source import pin_again
from hf_datadiet.publication import Asked
from hf_datadiet.recipe import Recipe
from hf_datadiet.recipe_yaml import kept_recipe
from hf_datadiet.records import ScoreTable, Selection
from hf_datadiet.reporting import report_run
from hf_datadiet.store import RunFolder
from hf_datadiet.swapping import swapping
from hf_datadiet.tree import CARD, MANIFEST, change_of, write_tree


@dataclass(frozen=True)
class Published:
    """What was written to `tree`; `configs`: rows of each split of each config; `models`: the folders of models, by repository.

    `pushed`: what became of it, one for each repository; `planned`: what a dry run found.
    """

    to: str
    tree: Path
    models: Mapping[str, Path]
    configs: Mapping[str, Mapping[str, int]]
    pushed: tuple[Pushed, ...] = ()
    planned: tuple[Planned, ...] = ()


def publish_dataset(
    run: str | Path,
    to: str,
    *,
    push: bool = False,
    public: bool = False,
    ids_only: bool = False,
    i_may_share: str | None = None,
    examples: bool | None = None,
    models: bool = False,
    create_pr: bool = False,
    dry_run: bool = False,
    prefix: str = "",
    out: str | Path | None = None,
    dataset: Dataset | DatasetDict | None = None,
    test: Dataset | None = None,
    options: Mapping[str, Any] | None = None,
) -> Published:
    """Publish the scores and selections of a run folder with their evidence; without `push` they are written to a folder.

    As `hf-datadiet publish`: the keywords are its options. `dataset` and `test`: the source of a run that was begun in Python. `options`:
    where another source lies now, for example {"source.path": FOLDER}. Errors as in `publish_run`.
    """
    folder = RunFolder(run)
    folder.require()
    recipe = kept_recipe(folder.path, [f"{key}={json.dumps(value)}" for key, value in (options or {}).items()])
    asked = Asked(to, push, public, ids_only, i_may_share, examples, models, create_pr, dry_run, prefix, None if out is None else Path(out))
    return publish_run(folder, recipe, asked, given=in_memory(recipe.source.split, dataset, test))


def publish_run(
    folder: RunFolder,
    recipe: Recipe,
    asked: Asked,
    *,
    given: Mapping[str, Dataset] | None = None,
    note: Callable[[str], None] = notice,
) -> Published:
    """Write the report of a run anew, then the tree, and push it if that is asked. `given`: the splits of a source in memory.

    Raises `PublishError` for what must not be published (licence, gate, privacy), before anything is written, and for what the Hub
    refuses; `RecipeError` for a run that cannot be published at all.
    """
    table = folder.load_scores()
    selections = [folder.load_selection(name) for name in folder.selections()]
    tree = asked.out or folder.path / "published"
    _check(recipe, selections, table, asked, tree)
    origin = origin_of(table.source, recipe.source, ask=asked.push or asked.dry_run)
    target = Target(asked.to, public=asked.public, gate=origin.gate, create_pr=asked.create_pr)
    source = source_card(origin.card, table.source.name, table.source.revision or "main")
    may_publish(
        source.license,
        public=asked.public,
        ids_only=asked.ids_only,
        models=asked.models,
        asserted=asked.asserted,
        source_private=origin.private is not False,
    )
    if asked.push and not asked.dry_run:
        ask_first(target, note=note)
    pinned = pin_again(recipe.source, table.source, folder.skipped(), given)
    report = report_run(recipe, folder)
    models: dict[str, Path] = {}
    if asked.models:
        names, out = [selection.name for selection in selections], tree.with_name(f"{tree.name}-models")
        folders = model_folders(folder, recipe, report, names, asked.to, licence_of(source, asked.asserted), out)
        models = {model_repo(asked.to, name): place for name, place in folders.items()}
    with swapping(tree) as temporary:
        content = write_tree(folder, recipe, report, asked, origin, source, pinned, selections, temporary, note)
    configs = {SCORES: content.publication.scores, **content.publication.variants}
    written = Published(asked.to, tree, models, configs)
    # Models first: the card that names them comes last.
    changes = [(replace(target, repo=repo, kind="model"), partial(_all_of, repo, place)) for repo, place in models.items()]
    changes.append((target, partial(change_of, tree, content)))
    if asked.dry_run:
        return replace(written, planned=tuple(planned(each, change) for each, change in changes))
    if not asked.push:
        return written
    if models:
        # None of them is pushed if another is refused.
        for each, change in changes:
            ask_first(each, change, note=note)
    message = f"{TITLE}{table.source.name}: {', '.join(configs)}"
    return replace(written, pushed=tuple(push(each, change, message=message, note=note) for each, change in changes))


def _all_of(repo: str, place: Path, remote: Remote) -> Change:
    """Every file of a folder; others that lie there stay, and what others wrote into the card."""
    adds: dict[str, Path | bytes] = {str(path.relative_to(place)): path for path in sorted(place.rglob("*")) if path.is_file()}
    there = remote.text(CARD)
    foreign = sorted(set(adds) & set(remote.files) - {CARD})
    if foreign and generated(there or "") is None:
        raise PublishError(f"{repo} has a file {foreign[0]} that no publication wrote; choose another --to, or remove it")
    if there is not None:
        adds[CARD] = card_over(there, (place / CARD).read_text(encoding="utf-8")).encode()
    return Change(adds)


def _check(recipe: Recipe, selections: Sequence[Selection], table: ScoreTable, asked: Asked, tree: Path) -> None:
    if recipe.source.label_noise is not None:
        raise RecipeError("this run has label noise, so its labels are not the source's; publish a run without source.label_noise")
    if asked.create_pr and not (asked.push or asked.dry_run):
        raise PublishError("--create-pr is a way to push, and without --push nothing is sent; add --push")
    if asked.ids_only and asked.examples:
        raise PublishError("--examples shows rows of the source, and --ids-only publishes none; give one of them")
    if tree.exists() and not (tree / MANIFEST).exists():
        raise PublishError(f"{tree} is there already and is no publication; choose another --out, or remove it")
    for selection in selections:
        require_config_name(selection.name)
        if selection.table_digest != table.digest:
            raise PublishError(
                f"selection {selection.name!r} was made from other scores than the run has now; prune again, under another name"
            )
