"""INSPECT: the rows whose label is most likely wrong, for a person to look at.

A ranking and no verdict. What training finds hard to believe is wrong, or ambiguous, or right and rare, and no score tells these apart;
how many labels are wrong is not said either. Nothing is written.

Beside its score every row has what the trainings said of its label, from what the scoring seeds keep:
  p(label)   mean over the seeds and over all epochs of the probability of the label in the training forward (train mode, augmented
             input, before the update). Training ends by knowing wrong labels by heart, so that the last epochs alone would say less.
  suggested  the class that was predicted most often and is not the label, over the seeds and the moments observed after epoch 0, the first
             of equals; its share is that of all these predictions. They come from models that were trained on the label: one that
             knows it by heart predicts it, and where all do there is no suggestion. Earlier moments (`score.observe_at`) know less.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hf_datadiet.errors import CoverageError, DataDietError, RecipeError
from hf_datadiet.ranking import column
from hf_datadiet.recipe import Recipe
from hf_datadiet.recipe_yaml import kept_recipe
from hf_datadiet.records import UNLABELLED, Direction, Origin, ScoreTable, Source
from hf_datadiet.store import RunFolder

if TYPE_CHECKING:
    import pandas as pd

EVIDENCED = (
    "aum",
    "confidence",
    "correctness",
    "loss",
    "el2n",
    "margin",
    "prototype",
    "forgetting",
    "grand_last",
    "never_learned",
    "grand",
)
"""Scores that were found to point at wrong labels, best first: by average precision on human labels of images and flipped ones of texts
(benchmarks/RESULTS.md, "Finding wrong human labels"). The first three follow the training instead of looking at its end, when
wrong labels are known by heart."""

SHOWN = 100
"""Characters of a text that are shown."""


@dataclass(frozen=True)
class Suspect:
    """One row. `label` and `suggested` are names of classes; `share` in (0, 1], `p_label` in [0, 1]; None is what is not known."""

    rank: int
    """From 1, the most suspect."""
    example_id: int
    source_id: int | str | None
    label: str
    suggested: str | None
    share: float | None
    p_label: float | None
    score: float
    """The mean over the seeds, as in scores.parquet."""
    text: str | None
    """Its beginning."""


@dataclass(frozen=True)
class Suspects:
    """The most suspect of `n_rows` rows with a label, worst first, and what their numbers are means of.

    `score`: the column that they are ranked by, and `higher_is` its direction: the hard end is the suspect one. `moments`: the epochs
    after which predictions were taken from each of `n_seeds` seeds; `n_epochs`: those that p(label) is a mean over. `notes`: lines
    for the user, about what is lacking.
    """

    score: str
    higher_is: Direction
    origin: Origin
    n_rows: int
    n_seeds: int
    n_epochs: int
    moments: tuple[int, ...]
    rows: tuple[Suspect, ...]
    notes: tuple[str, ...]

    def plain(self) -> list[dict[str, Any]]:
        """The rows as plain values; without `source_id` and `text` where no row has them."""
        absent = {name for name in ("source_id", "text") if all(getattr(row, name) is None for row in self.rows)}
        return [{name: value for name, value in dataclasses.asdict(row).items() if name not in absent} for row in self.rows]


def find_suspects(run: str | Path, *, top: int = 50, score: str | None = None) -> pd.DataFrame:
    """The `top` rows of a scored run folder whose labels are most likely wrong, worst first; the index is `example_id`.

    Columns: `rank`, `source_id` if the source has ids of its own, `label`, `suggested` (the class that the trainings predicted most often
    instead, null where they predicted no other), `share` (of all predictions that this class has), `p_label` (mean probability of the
    label while it was trained on), `score`, and for texts the beginning of `text`, if the source can be opened. `score`: the column to go
    by, from its hard end; by default the best evidenced one that the run has. Raises `RecipeError` for a run without scores, a column that
    does not exist or makes no claim about difficulty, and `top` below 1.
    """
    import pandas as pd

    folder = RunFolder(run)
    folder.require()
    return pd.DataFrame(suspects_of(folder, kept_recipe(folder.path), top=top, score=score).plain()).set_index("example_id")


def suspects_of(folder: RunFolder, recipe: Recipe, *, top: int, score: str | None) -> Suspects:
    """`find_suspects` as a record; `recipe` says where the source lies now."""
    if top < 1:
        raise RecipeError(f"top is {top}, which shows no row; give 1 or more")
    table = folder.load_scores()
    name = score if score is not None else _best(table)
    labelled = np.flatnonzero(table.label != UNLABELLED)
    by = column(table, labelled, name)
    if by.higher_is == "neither":
        raise RecipeError(
            f"{name} makes no claim about difficulty, so neither end of it is suspect; name one of: {', '.join(_hard(table))}"
        )
    said = _said(folder, table, table.example_id[labelled])
    # Many rows share a count such as forgetting: of equals, the less believed one first.
    worst = np.lexsort((table.example_id[labelled], said.p_label, -by.hardness))[:top]
    at = labelled[worst]
    texts, notes = _texts(recipe, table.source, table.example_id[at])
    if table.column(name).score not in EVIDENCED:
        notes.insert(
            0, f"{name} is none of the scores that were found to point at wrong labels; these are, best first: {', '.join(EVIDENCED)}"
        )
    if not said.n_seeds:
        notes.append(f"{folder.path} has no seeds any more, so that p(label) and the suggested labels are not known")
    return Suspects(
        score=name,
        higher_is=by.higher_is,
        origin=table.column(name).origin,
        n_rows=labelled.size,
        n_seeds=said.n_seeds,
        n_epochs=said.n_epochs,
        moments=said.moments,
        rows=tuple(
            _suspect(rank, table, row, place, name, said, texts) for rank, (row, place) in enumerate(zip(at, worst, strict=True), 1)
        ),
        notes=tuple(notes),
    )


def _hard(table: ScoreTable) -> list[str]:
    """The columns that have a hard end."""
    return [name for name, about in table.columns.items() if about.higher_is != "neither"]


def _best(table: ScoreTable) -> str:
    """The best evidenced of the columns, at the moment that its plain name means."""
    found = [name for name in EVIDENCED if name in table.columns]
    if not found:
        others = _hard(table)
        remedy = f"name one with --score: {', '.join(others)}" if others else f"score one of: {', '.join(EVIDENCED)}"
        raise RecipeError(f"no score of this run is known to point at wrong labels; {remedy}")
    return found[0]


@dataclass(frozen=True)
class _Said:
    """What all seeds said of the N labelled rows: `p_label` float64 [N], 0 where it is not known; `predicted` int32 [V votes, N]."""

    p_label: NDArray[np.float64]
    predicted: NDArray[np.int32]
    n_seeds: int
    n_epochs: int
    moments: tuple[int, ...]


def _said(folder: RunFolder, table: ScoreTable, ids: NDArray[np.int64]) -> _Said:
    """Read it, seed by seed; `ids` int64 [N]. A run may have been reduced to its tables: then no seed says anything."""
    total, predicted = np.zeros(ids.size), [np.empty((0, ids.size), np.int32)]
    seeds = table.seeds if folder.seeds() else ()
    n_epochs, moments = 0, ()
    for seed in seeds:
        result = folder.load_seed(seed)
        if not np.array_equal(result.example_id, ids):
            raise CoverageError(f"seed {seed} observed other rows than scores.parquet has; score again, with another --out")
        n_epochs = len(result.p_label)
        # Before training a model predicts by its random weights.
        trained = np.array(result.moments) > 0
        moments = tuple(np.array(result.moments)[trained].tolist())
        predicted.append(result.predicted[trained])
        # Sums of float16 are exact in float64: equal rows stay equal.
        total += result.p_label.sum(axis=0, dtype=np.float64)
    return _Said(total / max(1, n_epochs * len(seeds)), np.concatenate(predicted), len(seeds), n_epochs, moments)


def _suspect(rank: int, table: ScoreTable, row: int, place: int, score: str, said: _Said, texts: Sequence[str] | None) -> Suspect:
    """`row`: its position in the table; `place`: its position among the labelled rows."""
    label, classes = int(table.label[row]), table.source.classes
    suggested, share = _instead(label, said.predicted[:, place])
    return Suspect(
        rank=rank,
        example_id=int(table.example_id[row]),
        source_id=None if table.source_id is None else table.source_id[row : row + 1].tolist()[0],
        label=classes[label],
        suggested=None if suggested is None else classes[suggested],
        share=share,
        p_label=float(said.p_label[place]) if said.n_epochs else None,
        score=float(table.columns[score].mean[row]),
        text=None if texts is None else texts[rank - 1],
    )


def _instead(label: int, votes: NDArray[np.int32]) -> tuple[int | None, float | None]:
    """The class that most of the votes [V] name instead of the label, the first of equals, and its share of all V."""
    others, counts = np.unique(votes[votes != label], return_counts=True)
    if not others.size:
        return None, None
    return int(others[counts.argmax()]), float(counts.max() / votes.size)


def _texts(recipe: Recipe, source: Source, ids: NDArray[np.int64]) -> tuple[list[str] | None, list[str]]:
    """The beginnings of the texts of the rows `ids`, or None, and notes on why not.

    Only of a source that still has, row by row, what was scored. A dataset on the Hub is read from the cache, at the run's commit.
    """
    roles = [source.columns[role] for role in ("text", "text_pair") if role in source.columns]
    if not roles:
        return None, []
    from hf_datadiet.hub.opening import opened
    from hf_datadiet.hub.source import content_digest

    try:
        dataset = opened(recipe.source).splits.get(source.split)
        if dataset is None or len(dataset) != source.n_rows or content_digest(dataset, source.columns) != source.digest:
            return None, ["texts are not shown: the source has changed since it was scored"]
    except DataDietError as fault:
        return None, [f"texts are not shown: {fault}"]
    rows = dataset.select_columns(roles)[ids.tolist()]
    return [" / ".join(_beginning(str(part)) for part in parts) for parts in zip(*(rows[role] for role in roles), strict=True)], []


def _beginning(text: str) -> str:
    """Its first characters, on one line, without those that would steer a terminal."""
    head = "".join(letter if letter.isprintable() else " " for letter in text[: 10 * SHOWN])
    line = " ".join(head.split())
    return line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"
