"""Published evaluations and tunings beside their predictions, the source, the selections and the recipe."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa

from hf_datadiet.checked import TOLERANCE, Unknown
from hf_datadiet.durable import read_parquet
from hf_datadiet.hub.source import Pinned
from hf_datadiet.identity import digest_of
from hf_datadiet.recipe import Recipe
from hf_datadiet.records import UNLABELLED, EvaluationTable, ScoreTable
from hf_datadiet.store import RunFolder
from hf_datadiet.tables import Columns, pack_predictions, pack_results
from hf_datadiet.training.redrawn import rows_digest


def _tables(folder: RunFolder) -> Iterator[tuple[RunFolder, EvaluationTable, str]]:
    """Every evaluation and tuning, and what to call it."""
    for trials in (folder, folder.tunings):
        for name in trials.evaluations():
            yield trials, trials.load_evaluation(name), f"{trials.trials.what} {name}"


def other_accuracies(folder: RunFolder) -> Iterator[str]:
    """What each training is said to have got right beside what it predicted."""
    for trials, table, called in _tables(folder):
        for result in table.results:
            right = float(np.mean(result.predicted == table.test_label))
            if not math.isclose(right, result.metrics["accuracy"], rel_tol=TOLERANCE, abs_tol=TOLERANCE):
                said = f"{result.metrics['accuracy']} published, {right} from its predictions"
                yield f"{called}, {result.arm}, seed {result.seed}: accuracy {said}"
        place = trials.evaluation_path(table.name)
        if not _is(read_parquet(place / "predictions.parquet")[0], pack_predictions(table)):
            yield f"{called}: its predictions are not of the same rows for every training"
        if (place / "results.parquet").exists() and not _is(read_parquet(place / "results.parquet")[0], pack_results(table)):
            yield f"{called}: results.parquet has other numbers than its record"


def _is(there: pa.Table, columns: Columns) -> bool:
    """Whether a file has these columns, in any order."""
    if set(there.column_names) != set(columns):
        return False
    arrays = {name: pa.array(values) for name, values in columns.items()}
    return all(there[name].cast(array.type).equals(pa.chunked_array([array])) for name, array in arrays.items())


def other_test_rows(folder: RunFolder, pinned: Pinned) -> Iterator[str]:
    """The rows that judge, and their labels, beside those of the source."""
    for trials, table, called in _tables(folder):
        if trials.trials == folder.trials:
            ids, label, own = pinned.test_id, pinned.test_label, pinned.test_source_id
            if not np.array_equal(table.test_id, ids):
                yield f"{called} was judged on {table.test_id.size} rows, which are not the {ids.size} that the source holds out"
                continue
        else:
            ids, own = table.test_id, pinned.source_id
            among = np.isin(ids, pinned.scored[pinned.label[pinned.scored] != UNLABELLED])
            if not among.all() or digest_of([ids]) != trials.load_tuning(table.name)["validation_digest"]:
                yield f"{called} was judged on rows that are not its validation rows"
                continue
            label = pinned.label[ids]
        wrong = ids[table.test_label != label]
        if wrong.size:
            yield f"{called}: {wrong.size} of {ids.size} rows have another label than in the source, the first is example {wrong[0]}"
        if table.test_source_id is not None and (own is None or not np.array_equal(table.test_source_id, own[ids])):
            yield f"{called}: its rows have other ids (source_id) than in the source"


def other_training_rows(folder: RunFolder, scores: ScoreTable) -> Iterator[str]:
    """What trainings on everything and on a selection were shown beside the rows that these are."""
    kept = {name: folder.load_selection(name).kept for name in folder.selections()}
    labelled = scores.example_id[scores.label != UNLABELLED]
    for name in folder.evaluations():
        table = folder.load_evaluation(name)
        for result in table.results:
            # A selection that was removed since is described nowhere.
            rows = labelled if result.arm == "full" else kept.get(table.arm_selections.get(result.arm, ""))
            if rows is not None and (result.n_rows, result.train_ids_digest) != (rows.size, rows_digest(rows, result.epochs)):
                yield f"evaluation {name}, {result.arm}, seed {result.seed}: it was trained on other rows than these"


def other_settings(folder: RunFolder, recipe: Recipe, scores: ScoreTable) -> Iterator[str]:
    """Settings of the evaluations that the recipe names beside the recipe. Others were asked for in other ways."""
    spec = recipe.evaluate
    models: Mapping[str, str] = {spec.name: recipe.task.model, **{spec.name_with(model): model for model in spec.models}}
    for name in folder.evaluations():
        if name not in models:
            continue
        table = folder.load_evaluation(name)
        # Of a model that lies in a folder a recipe may be published with the last name alone.
        asked = {"model": _last_name(models[name]), "margin": spec.margin, "match": spec.match, "seeds": spec.seeds}
        said = {"model": _last_name(table.model), "margin": table.margin, "match": table.match, "seeds": table.n_seeds}
        # An evaluation that says that its recipe was another one, by overrides, does not claim to follow this one.
        overridden = table.provenance.recipe_digest != scores.provenance.recipe_digest
        for key in asked:
            if asked[key] != said[key]:
                line = f"evaluation {name}: {key} {said[key]} there, {asked[key]} in the recipe"
                yield Unknown(f"{line}, and it was made from another recipe than the scores") if overridden else line


def _last_name(model: str) -> str:
    return re.split(r"[:/\\]", model)[-1]
