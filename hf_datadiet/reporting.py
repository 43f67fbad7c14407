"""REPORT: everything that lies in a run folder -> report.json, report.md and the pictures that it links."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from hf_datadiet.durable import notice
from hf_datadiet.errors import StaleRecordError
from hf_datadiet.identity import digest_of
from hf_datadiet.markdown import to_markdown
from hf_datadiet.recipe import Recipe
from hf_datadiet.records import AUTO, Report
from hf_datadiet.report import build_report
from hf_datadiet.store import PICTURES, RunFolder, from_where

FILES = {
    "scores.parquet": "one row per example: scores, standard errors, null where there is no label",
    "seeds.parquet": "the same per seed and epoch",
    "seeds/*": "what each scoring seed observed, predicted and weighed",
    "selections/*/selection.parquet": "every scored id: kept or dropped, and why",
    "evaluations/*/results.parquet": "accuracy of every training",
    "evaluations/*/predictions.parquet": "what every training said of every held-out row",
    "evaluations/*/weights/*": "the models of the first seed after the last epoch",
    "tunings/*/tuning.json": "what strategy auto compared",
    "tunings/*/results.parquet": "accuracy of every training on a candidate, on validation rows",
    "taken.json": "where the scores were taken from",
    "skipped.parquet": "rows that cannot be read, and why",
    "label_noise.parquet": "labels changed by source.label_noise",
    f"{PICTURES}/*": "the pictures above, as PNG, SVG and PDF",
    "recipe.yaml": "the recipe as it was understood",
}
"""What may lie in a run folder, in words; the report names what does."""


def report_run(recipe: Recipe, folder: RunFolder) -> Report:
    """Write both reports and the pictures of the folder anew, and return the report. `RecipeError` if nothing has been scored,
    `StaleRecordError` if an evaluation has judged other rows under the name of a selection.
    """
    report = assembled(recipe, folder)
    _require_judged_rows(folder)
    made = _illustrated(report, folder)
    made = dataclasses.replace(made, files={name: meaning for name, meaning in FILES.items() if list(folder.path.glob(name))})
    folder.save_report(made, to_markdown(made))
    return made


def assembled(recipe: Recipe, folder: RunFolder) -> Report:
    """The report that the records of the folder make, without its files; nothing is written. `RecipeError` if nothing has been scored."""
    table = folder.load_scores()
    folder.require_markers()
    folder.tunings.require_markers()
    folder.require_judged()
    skipped = folder.skipped()
    if skipped is None and recipe.source.on_bad_row == "skip":
        raise folder.missing("skipped.parquet")
    fitted = folder.fitted()
    task = {
        "kind": recipe.task.kind,
        "model": recipe.task.model,
        "epochs": recipe.task.training.epochs,
        "score_epochs": recipe.score_epochs,
        "batch_size": recipe.task.training.batch_size,
        "seeds_asked": recipe.score.seeds,
        "n_truncated": fitted.get("n_truncated", 0),
    }
    if (taken := folder.taken()) is not None and taken["repo"] is not None:
        task["taken_from"] = from_where(taken)
    selections = [folder.load_selection(name) for name in folder.selections()]
    # A tuning whose selection has gone, or was made another way since, chose nothing that is there.
    by_auto = {selection.name for selection in selections if AUTO in selection.parameters}
    tuned = [name for name in folder.tunings.evaluations() if name in by_auto]
    return build_report(
        table,
        selections,
        [folder.load_evaluation(name) for name in folder.evaluations()],
        tunings=[
            (folder.tunings.load_evaluation(name), folder.load_tuning(name)) for name in folder.tunings.evaluations() if name in tuned
        ],
        task=task,
        seed_seconds=folder.seed_seconds(table.seeds),
        text_length=np.array(fitted["lengths"]) if recipe.task.kind == "text" and "lengths" in fitted else None,
        n_test_skipped=len((skipped or ({}, {}))[1]),
        files={},
    )


def _require_judged_rows(folder: RunFolder) -> None:
    """Raise `StaleRecordError` where a selection was made anew, from other rows, since it was judged."""
    kept = {name: folder.load_selection(name).kept for name in folder.selections()}
    for name in folder.evaluations():
        table = folder.load_evaluation(name)
        for result in table.results:
            rows = kept.get(table.arm_selections.get(result.arm, ""))
            # As `training.redrawn.rows_digest` of rows that stay the same in each epoch.
            if rows is not None and digest_of([rows]) != result.train_ids_digest:
                raise StaleRecordError(
                    f"selection {table.arm_selections[result.arm]!r} has other rows now than evaluation {name} has judged; delete "
                    f"{folder.evaluation_path(name)}, or the selection, and evaluate again"
                )


def _illustrated(report: Report, folder: RunFolder) -> Report:
    """The report with its pictures, drawn and saved.

    What cannot be drawn is said in a line and left out: hours of training must not lose their report to a font.
    """
    drawn: dict[str, bytes] = {}
    entries: list[Mapping[str, Any]] = []
    faults: dict[str, str] = {}
    for picture in report.pictures:
        files: dict[str, bytes] = {}
        try:
            # Not before there is something to draw: matplotlib takes half a second to import.
            from hf_datadiet.pictures.gallery import files_of

            files = files_of(picture, report)
        except Exception as fault:  # whatever it is, the numbers are sound
            faults[picture["name"]] = " ".join(f"{type(fault).__name__}: {fault}".split())
        drawn |= files
        entries.append({**picture, "files": [f"{PICTURES}/{name}" for name in files]})
    if faults:
        notice(f"the report goes without pictures that could not be drawn: {', '.join(faults)} ({next(iter(faults.values()))})")
    folder.save_pictures(drawn)
    return dataclasses.replace(report, pictures=tuple(entries))
