"""The models that an evaluation trained and kept, as folders for the Hub: weights, what their library reads, and a card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hf_datadiet.cells import short
from hf_datadiet.errors import PublishError
from hf_datadiet.exported import Exported, Trained
from hf_datadiet.hub.merging import merged
from hf_datadiet.hub.model_card import metadata, model_repo
from hf_datadiet.model_card import Facts, body
from hf_datadiet.recipe import IN_MEMORY, HeldOut, Recipe
from hf_datadiet.records import EvaluationTable, Report, Source
from hf_datadiet.store import RunFolder
from hf_datadiet.swapping import swapping
from hf_datadiet.training.further import task_for
from hf_datadiet.training.given import is_given
from hf_datadiet.training.randomness import untouched_generators
from hf_datadiet.training.task import find_task

WITHOUT = "publish without --push-models"


def model_folders(
    folder: RunFolder, recipe: Recipe, report: Report, selections: Sequence[str], dataset_repo: str, license: Mapping[str, Any], out: Path
) -> dict[str, Path]:
    """{selection: a folder below `out` for the repository `model_repo(dataset_repo, selection)`}, each whole or not there.

    The models are those of the recipe's evaluation, of its first seed; "full" among the selections is the one of all rows. `report`: that
    of the run, from which every number of a card comes but the one accuracy of this seed. `license`: what the dataset's card says of it
    (`license`, `license_name`, `license_link`). `RecipeError` says how to keep weights that were not kept, `PublishError` why a model
    cannot be written.
    """
    evaluation = recipe.evaluate.name
    if evaluation not in folder.evaluations():
        raise PublishError(
            f"nothing was evaluated, so no model was kept; hf-datadiet evaluate {folder.path} evaluate.keep_weights=true, or {WITHOUT}"
        )
    table, seed = folder.load_evaluation(evaluation), folder.trials.first_seed
    # All of them are looked at before the first is written.
    for name in selections:
        model_repo(dataset_repo, name)
        folder.load_weights(evaluation, name, seed)
    made: dict[str, Path] = {}
    for name in selections:
        made[name] = out / name
        with swapping(made[name]) as target:
            exported = _write(folder, recipe, table, name, seed, target)
            card = _card(recipe, report, folder.source(), table, name, exported, dataset_repo, license)
            (target / "README.md").write_text(card, encoding="utf-8")
    return made


def write_model(folder: RunFolder, recipe: Recipe, evaluation: str, arm: str, seed: int, target: Path) -> Exported:
    """Write one model that an evaluation kept as the new folder `target`, which its library reads; what there is to say of it.

    A folder that lies there is replaced. Raises as `model_folders`.
    """
    with swapping(target) as temporary:
        return _write(folder, recipe, folder.load_evaluation(evaluation), arm, seed, temporary)


def _write(folder: RunFolder, recipe: Recipe, table: EvaluationTable, arm: str, seed: int, target: Path) -> Exported:
    if is_given(recipe.task.model) and table.transfer_of is None:
        raise PublishError(f"the model of this run ({recipe.task.model}) came from Python, so nobody can build it by name; {WITHOUT}")
    if recipe.task.kind == IN_MEMORY or ":" in recipe.task.kind:
        raise PublishError(f"the models of task {recipe.task.kind} are none that timm or transformers can read; {WITHOUT}")
    task, arguments, apart = find_task(recipe), recipe.task.model_args, None
    if table.transfer_of is not None:
        task, arguments, apart = task_for(task, table.model), {}, table.name
    export = getattr(task, "export", None)
    if export is None:
        raise PublishError(f"the models of task {recipe.task.kind} are none that timm or transformers can read; {WITHOUT}")
    source = folder.source()
    weights = folder.load_weights(table.name, arm, seed)
    with untouched_generators(torch.device("cpu")):
        return export(Trained(table.model, arguments, weights, source.classes, folder.fitted(apart), source.columns), target)


def _card(
    recipe: Recipe,
    report: Report,
    source: Source,
    table: EvaluationTable,
    arm: str,
    exported: Exported,
    dataset_repo: str,
    license: Mapping[str, Any],
) -> str:
    """README.md of one model: metadata and text."""
    trained = min((result for result in table.results if result.arm == arm), key=lambda result: result.seed)
    repo, held_out, accuracy = model_repo(dataset_repo, arm), recipe.source.test or HeldOut(split="test"), trained.metrics["accuracy"]
    facts = Facts(
        repo=repo,
        dataset_repo=dataset_repo,
        arm=arm,
        exported=exported,
        seed=trained.seed,
        accuracy=accuracy,
        evaluation=next(entry for entry in report.evaluations if entry["name"] == table.name),
        source=report.source,
        held_out=f"split {held_out.split}" if held_out.split else f"{short(100 * (held_out.fraction or 0))} % of split {source.split}",
        training=asdict(recipe.task.training),
        options=recipe.task.options,
        versions=table.provenance.versions,
    )
    head = metadata(
        exported,
        repo=repo,
        dataset_repo=dataset_repo,
        license=license,
        source=source,
        held_out=held_out,
        selection=arm,
        seed=trained.seed,
        accuracy=accuracy,
    )
    return merged(None, head, body(facts), ())
