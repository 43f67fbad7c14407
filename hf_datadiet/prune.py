"""PRUNE: a selection of the rows that stay, made from a run's scores or from a table, and the dataset that it leaves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datadiet.budget import Keep, threshold_score
from hf_datadiet.candidates import Comparison, compared
from hf_datadiet.durable import notice
from hf_datadiet.errors import DamagedError, StaleRecordError
from hf_datadiet.quotas import Quotas
from hf_datadiet.recipe import PruneSpec, Recipe
from hf_datadiet.records import AUTO, UNLABELLED, Provenance, ScoreColumn, ScoreTable, Selection
from hf_datadiet.selection import select
from hf_datadiet.store import RunFolder

if TYPE_CHECKING:
    from pathlib import Path

    from datasets import Dataset

    from hf_datadiet.hub.columns import AnyDataset
    from hf_datadiet.hub.files import Form
    from hf_datadiet.training.session import Session


def prune_dataset(
    dataset: AnyDataset,
    table: ScoreTable | str | Path,
    *,
    keep: Keep,
    score: str | Sequence[str] | None = None,
    strategy: str | None = None,
    quotas: Quotas | None = None,
    mix: float = 0.0,
    tie_seed: int = 0,
    name: str = "pruned",
    **parameters: Any,
) -> tuple[AnyDataset, Selection]:
    """The dataset reduced to the rows that a selection keeps, in their original order, and the selection itself.

    `table`: scores, or the path of a run folder. `dataset` must be the one that was scored, whole (positions are example ids), or a
    DatasetDict that has it under the name of its split: that split is reduced, and the others come back as they are. The budget
    counts labelled, scored rows; rows that were never scored (held out, or outside `limit`) are in neither part of the
    selection and not in the result.
    Further keywords are the strategy's own parameters (window: skip). Errors as in `select`; `StaleRecordError` for a
    dataset of another length.
    """
    from hf_datadiet.hub.columns import in_scored_split

    table = table if isinstance(table, ScoreTable) else RunFolder(table).load_scores()
    selection = select(
        table,
        name=name,
        keep=keep,
        score=score,
        strategy=strategy,
        quotas=quotas,
        mix=mix,
        tie_seed=tie_seed,
        parameters=parameters,
        provenance=replace(table.provenance, command="prune_dataset(...)"),
    )

    def kept(rows: Dataset) -> Dataset:
        if len(rows) != table.source.n_rows:
            raise StaleRecordError(
                f"this dataset has {len(rows)} rows, the scored one {table.source.n_rows}; pass the dataset as it was scored"
            )
        return rows.select(selection.kept)

    return in_scored_split(dataset, table, kept), selection


def prune_run(
    folder: RunFolder, spec: PruneSpec, *, command: str, evidence: Mapping[str, Any] | None = None, allow_plugins: bool = False
) -> Selection:
    """Make the selection that `spec` asks for from the folder's scores, and write it."""
    selection = choose(folder, spec, command=command, evidence=evidence, allow_plugins=allow_plugins)
    folder.save_selection(selection)
    return selection


def choose(
    folder: RunFolder, spec: PruneSpec, *, command: str, evidence: Mapping[str, Any] | None = None, allow_plugins: bool = False
) -> Selection:
    """The selection that `spec` asks for from the folder's scores: an equal one that lies there under that name, or a new one.

    `evidence`: why its strategy was chosen, which it then records, if it was tuned. Nothing is written. `StaleRecordError` for a
    different one of that name; one that is damaged can be made anew.
    """
    table = folder.load_scores()
    selection = _as_specified(table, spec, replace(table.provenance, command=command), allow_plugins)
    if evidence is not None:
        selection = replace(selection, parameters={**selection.parameters, AUTO: dict(evidence)})
    if spec.name not in folder.selections():
        return selection
    try:
        there = folder.load_selection(spec.name)
    except DamagedError:
        return selection
    # The same rows on other evidence are no reason to keep the older evidence.
    if there.digest != selection.digest or (evidence is not None and there.parameters.get(AUTO) != evidence):
        raise StaleRecordError(
            f"{folder.path} has another selection named {spec.name!r}; choose another name, or delete {folder.selection_path(spec.name)}"
        )
    return there


def _as_specified(table: ScoreTable, spec: PruneSpec, provenance: Provenance, allow_plugins: bool) -> Selection:
    return select(
        table,
        name=spec.name,
        keep=spec.keep,
        score=spec.score,
        strategy=spec.strategy,
        quotas=spec.quotas,
        mix=spec.mix,
        tie_seed=spec.tie_seed,
        parameters=spec.parameters,
        provenance=provenance,
        allow_plugins=allow_plugins,
    )


def rehearse(session: Session, specs: Sequence[PruneSpec], *, allow_plugins: bool = False) -> dict[str, Comparison]:
    """Make each selection from scores that are still invented, and raise what `select` will raise hours later.

    Returns what those of strategy auto will compare, by name.

    The invented values run through the range that a score's definition allows, so that a strategy that cannot work with some of
    them says so. Whether any row passes a threshold is known only from the true scores.
    """
    ids, label = session.pinned.scored, session.pinned.label[session.pinned.scored]
    even = np.where(label != UNLABELLED, (np.arange(ids.size) + 0.5) / ids.size, np.nan)
    ranges = _ranges(session)
    columns: dict[str, ScoreColumn] = {}
    for name, direction in session.columns.items():
        low, high = ranges.get(name, (0.0, 1.0))
        mean = (low + (high - low) * even).astype(np.float32)
        columns[name] = ScoreColumn(name, 0, mean, None, None, higher_is=direction, low=low, high=high, reliability=None)
    table = ScoreTable(session.pinned.record, ids, label, (0,), columns, session.provenance)
    comparisons: dict[str, Comparison] = {}
    for spec in specs:
        if spec.strategy == AUTO:
            comparisons[spec.name] = compared(table, spec, session.provenance, allow_plugins=allow_plugins)
            continue
        # Every row passes the threshold that takes its place.
        keep = {"score": threshold_score(spec.keep), "above": -1e300} if isinstance(spec.keep, Mapping) else spec.keep
        _as_specified(table, replace(spec, keep=keep), session.provenance, allow_plugins)
    return comparisons


def _ranges(session: Session) -> dict[str, tuple[float, float]]:
    """{score column: the range that its definition allows}, 1 wide where that has no end."""
    batch = {session.recipe.column(name, epoch): score for name, score in session.batch_scores.items() for epoch in session.recipe.moments}
    found = batch | {column.name: column for accumulator in session.accumulators.values() for column in accumulator.columns}
    ranges: dict[str, tuple[float, float]] = {}
    for name, score in found.items():
        low = score.low if math.isfinite(score.low) else min(score.high - 1, 0.0)
        ranges[name] = (low, score.high if math.isfinite(score.high) else low + 1)
    return ranges


def write_pruned(
    folder: RunFolder, recipe: Recipe, selection: Selection, *, form: Form, prefix: str = "", allow_plugins: bool = False
) -> Path:
    """Write the dataset that a selection keeps below the selection's folder and return the path of what was written.

    Split by split, as in `variant_splits`, which has the errors: the kept rows with their `example_id` and score columns, the held-out
    rows and all other splits of the source, with null scores. Media are embedded, no path of this machine is inside, and images have no
    metadata (`standing_alone`); what cannot be read is null where `source.on_bad_row` is skip. A split that is left out is named on
    stderr.
    """
    from hf_datadiet.hub.files import write_splits
    from hf_datadiet.hub.published import variant_splits
    from hf_datadiet.training.session import open_session

    session = open_session(recipe, folder, command=selection.provenance.command, claim=False, allow_plugins=allow_plugins)
    variant = variant_splits(session.pinned, folder.load_scores(), selection, prefix)
    for split, reason in variant.left_out.items():
        notice(f"split {split} of the source is left out: {reason}")
    target = folder.selection_path(selection.name) / "dataset"
    write_splits(variant.splits, target, form, skip=recipe.source.on_bad_row == "skip")
    return target
