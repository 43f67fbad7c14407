"""What S seeds said of each example -> one table: means, standard errors, and how far the seeds agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hf_datadiet.records import Origin, Provenance, RunResult, ScoreColumn, ScoreTable, Source, column_name
from hf_datadiet.scorers.base import Accumulator, BatchScore, Column
from hf_datadiet.stats import reliability, seed_mean_se


def score_table(
    results: Sequence[RunResult],
    *,
    source: Source,
    example_id: NDArray[np.int64],
    label: NDArray[np.int32],
    batch_scores: Mapping[str, BatchScore],
    accumulators: Mapping[str, Accumulator],
    headline: int,
    epochs: int,
    provenance: Provenance,
    origin: Origin | None = None,
) -> ScoreTable:
    """Mean, standard error, per-seed values and reliability of every score at every moment, of N rows, null without label.

    `results`: at least one seed, all of the same labelled rows and moments. `example_id` int64 [N] ascending, `label` int32 [N].
    The plain column name of a batch score means the moment `headline`; the others are `NAME_e<epoch>`. Accumulators ended after
    `epochs`. `origin`: that of every column; by default batch scores were observed and accumulators followed the training.
    """
    labelled_at = np.searchsorted(example_id, results[0].example_id)
    columns: dict[str, ScoreColumn] = {}

    def add(name: str, score: str, epoch: int, values: NDArray[np.float32], about: BatchScore | Column, usual: Origin) -> None:
        seeded = about.seeded if isinstance(about, BatchScore) else True
        per_seed = np.full((len(results), example_id.size), np.nan, np.float32)
        per_seed[:, labelled_at] = values
        mean, se = seed_mean_se(per_seed)
        measured = reliability(values) if seeded else None
        columns[name] = ScoreColumn(
            score=score,
            epoch=epoch,
            mean=mean,
            se=se if seeded else None,
            per_seed=per_seed,
            higher_is=about.higher_is,
            low=about.low,
            high=about.high,
            reliability=measured if measured is not None and np.isfinite(measured) else None,
            origin=origin or usual,
        )

    for name, scorer in batch_scores.items():
        for moment, epoch in enumerate(results[0].moments):
            values = np.stack([result.observed[name][moment] for result in results])
            add(column_name(name, epoch, headline), name, epoch, values, scorer, "observed")
    for accumulator in accumulators.values():
        for column in accumulator.columns:
            values = np.stack([result.accumulated[column.name] for result in results])
            add(column.name, column.name, epochs, values, column, "training")
    return ScoreTable(source, example_id, label, tuple(result.seed for result in results), columns, provenance)
