"""The arms of an evaluation: what each trains on, and under which name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hf_datadiet.quotas import in_words
from hf_datadiet.records import Selection
from hf_datadiet.stats import stratified_draw

REDRAWN = "redrawn-"
"""How the arms begin that draw their rows anew in every epoch."""


@dataclass(frozen=True)
class Arm:
    """One way to choose training rows. `selection` is None for arms that take everything or draw per seed."""

    name: str
    meaning: str
    kind: Literal["full", "random", "stratified", "redrawn", "selection"]
    size: int
    selection: Selection | None = None

    def ids(self, labelled: NDArray[np.int64], label: NDArray[np.int32], rng: np.random.Generator) -> NDArray[np.int64]:
        """Ids of the rows to train on, ascending; random arms draw them from `rng`. Of a redrawn arm those that each epoch draws from."""
        if self.selection is not None:
            return self.selection.kept
        if self.kind == "random":
            return np.sort(rng.choice(labelled, self.size, replace=False))
        if self.kind == "stratified":
            return labelled[stratified_draw(label, self.size, rng)]
        return labelled


def arms_of(selections: Sequence[Selection], n_rows: int, *, redrawn: bool = False) -> list[Arm]:
    """Full data, each selection, and the random sets beside them (`drawn_arms`)."""
    chosen = [Arm(selection.name, describe(selection), "selection", selection.kept.size, selection) for selection in selections]
    return [Arm("full", f"all {n_rows} rows", "full", n_rows), *chosen, *drawn_arms([arm.size for arm in chosen], n_rows, redrawn=redrawn)]


def drawn_arms(sizes: Iterable[int], n_rows: int, *, redrawn: bool = False) -> list[Arm]:
    """For each size a random and a class-stratified random set of n_rows rows; none beside a selection of all rows.

    `redrawn`: also one that is drawn anew in every epoch (RS2).
    """
    arms: list[Arm] = []
    for size in sorted({size for size in sizes if size < n_rows}, reverse=True):
        arms.append(Arm(f"random-{size}", f"{size} rows at random, drawn anew for each seed", "random", size))
        arms.append(Arm(f"stratified-{size}", f"{size} rows at random within each class, drawn anew for each seed", "stratified", size))
        if redrawn:
            arms.append(Arm(f"{REDRAWN}{size}", f"{size} rows at random, drawn anew in every epoch", "redrawn", size))
    return arms


def is_added(name: str) -> bool:
    """Whether evaluation adds an arm of that name by itself, so that no selection can have it."""
    return name == "full" or is_drawn(name)


def is_drawn(name: str) -> bool:
    """Whether an arm of that name draws its rows."""
    return name.startswith(("random-", "stratified-", REDRAWN))


def describe(selection: Selection) -> str:
    """A selection in words."""
    by = f" by {selection.score}" if selection.score else ""
    mix = selection.parameters.get("mix", 0)
    mixed = f", {100 * mix:.4g} % of them at random" if mix else ""
    tuned = ", chosen on validation rows" if "auto" in selection.parameters else ""
    return f"{selection.kept.size} rows: {selection.strategy}{by}{mixed}{in_words(selection.parameters.get('quotas', 'none'))}{tuned}"
