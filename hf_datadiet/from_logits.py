"""SCORE without training: the scores that logits alone tell, from logits that the user's own training left behind."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from hf_datadiet import registry
from hf_datadiet.averaging import score_table
from hf_datadiet.errors import RecipeError, SourceError
from hf_datadiet.identity import label_digest, some_ids
from hf_datadiet.logits import Block, Given, Logits, check_labels, labels_of, open_logits
from hf_datadiet.recipe import LOGITS, Recipe
from hf_datadiet.recipe_yaml import recipe_from, to_yaml
from hf_datadiet.records import UNLABELLED, Provenance, RunResult, ScoreTable, Source
from hf_datadiet.scorers.base import Accumulator, BatchScore
from hf_datadiet.store import RunFolder
from hf_datadiet.training.environment import provenance
from hf_datadiet.training.session import find_scores

CPU = torch.device("cpu")

DIGEST = 16
"""Bytes of the digest of one row."""

TOLD = {"logits", "labels", "example_id", "seed"}
"""What a score may need here."""


def scores_from_logits(
    logits: Given | Sequence[Given],
    labels: ArrayLike | str | Path | None = None,
    *,
    scores: Sequence[str] | None = None,
    out: str | Path | None = None,
    allow_plugins: bool = False,
) -> ScoreTable:
    """The scores of N rows from the logits that your own trainings gave them after each epoch; nothing is trained.

    `logits`: float [E epochs, N, C], a numpy array or the path of a .npy or .parquet file (`hf_datadiet/logits.py` describes both); a
    list of them is one per training, each a seed. Rows are in the order of the dataset. Take them as `score_dataset` would: eval mode, no
    augmentation, before softmax. `labels`: int [N], an array or a .npy file, -1 where a row has none; a parquet file brings its own.
    `scores`: names from `hf_datadiet/scorers`; by default all that need nothing but logits and labels. `out`: a run folder.

    Returns a `ScoreTable` of the N rows: `el2n` is the last epoch, `el2n_e3` epoch 3. Scores that follow a training (forgetting) see each
    row once per epoch, after it, where Toneva et al. look at the training's own minibatches: their `origin` is "logits". The table knows
    the labels and no other content of the dataset. Files are read in blocks: memory holds the scores, not the logits. Raises
    `DataDietError` for wrong shapes, labels out of range, logits that are not finite, probabilities, and scores that need a model.
    """
    # A tensor is an array to numpy; to iterate over it would take its epochs for seeds.
    each = list(logits) if isinstance(logits, list | tuple) else [cast(Given, logits)]
    return score_logits(
        each,
        labels,
        scores=scores,
        folder=None if out is None else RunFolder(out),
        command="scores_from_logits(...)",
        allow_plugins=allow_plugins,
    )


def score_logits(
    given: Sequence[Given],
    labels: ArrayLike | str | Path | None,
    *,
    scores: Sequence[str] | None,
    folder: RunFolder | None,
    command: str,
    allow_plugins: bool = False,
) -> ScoreTable:
    """`scores_from_logits`; the folder is written when everything has been computed."""
    names = _told() if scores is None else list(scores)
    batch_scores, accumulators = find_scores(names, allow_plugins)
    _check_scores(batch_scores, accumulators)
    opened = [open_logits(each, f"logits of seed {seed}") for seed, each in enumerate(given)]
    if not opened:
        raise RecipeError("no logits are given; give at least one array [E, N, C] or file")
    label = _label(opened, labels)
    recipe = _recipe(opened, names)
    made = provenance(recipe.digest, command, CPU)
    digest = hashlib.sha256()
    results = [_SeedOfLogits(each, label, batch_scores, accumulators, seed, made).run(digest.update) for seed, each in enumerate(opened)]
    first = opened[0]
    path = given[0] if isinstance(given[0], str | Path) else None
    source = Source(
        name=Path(path).name if path is not None else "logits",
        config=None,
        split="train",
        revision=None,
        digest=label_digest(label),
        n_rows=first.n_rows,
        columns={},
        classes=tuple(map(str, range(first.n_classes))),
    )
    table = score_table(
        results,
        source=source,
        example_id=np.arange(first.n_rows, dtype=np.int64),
        label=label,
        batch_scores=batch_scores,
        accumulators=accumulators,
        headline=first.epochs[-1],
        epochs=first.epochs[-1],
        provenance=made,
        origin="logits",
    )
    if folder is not None:
        folder.claim({**recipe.identity(), "logits_digest": f"sha256:{digest.hexdigest()}"}, source, to_yaml(recipe))
        folder.save_fitted({})
        for result in results:
            folder.save_seed(result)
        folder.save_scores(table)
    return table


def _told() -> list[str]:
    """Every score that logits and labels alone tell; it is the same to have a baseline such as chance by asking for it."""
    found = {name: registry.find("scorers", name) for name in registry.names("scorers")}
    return [name for name, scorer in found.items() if not isinstance(scorer, BatchScore) or set(scorer.needs) <= {"logits", "labels"}]


def _check_scores(batch_scores: Mapping[str, BatchScore], accumulators: Mapping[str, Accumulator]) -> None:
    if not batch_scores and not accumulators:
        raise RecipeError("scores names no score; name at least one: scores=['el2n'], or leave it out for all")
    for name, scorer in batch_scores.items():
        lacking = [need for need in scorer.needs if need not in TOLD]
        if lacking:
            raise RecipeError(f"{name} needs {' and '.join(lacking)}, which logits do not tell; leave it out, or train with score_dataset")


def _label(opened: Sequence[Logits], labels: ArrayLike | str | Path | None) -> NDArray[np.int32]:
    """The labels int32 [N] of all seeds, which must agree about them and about their shape."""
    first = opened[0]
    for seed, other in enumerate(opened):
        for what, one, its in (
            ("rows", first.n_rows, other.n_rows),
            ("classes", first.n_classes, other.n_classes),
            ("epochs", first.epochs, other.epochs),
        ):
            if one != its:
                raise SourceError(
                    f"seed {seed} ({other.name}) has other {what} than seed 0 ({its}, not {one}); "
                    "all seeds score the same rows at the same epochs"
                )
    own = [(each.name, each.label) for each in opened if each.label is not None]
    if own and labels is not None:
        raise RecipeError(f"{own[0][0]} brings its own labels; leave out the labels")
    if not own and labels is None:
        raise RecipeError("the logits come without labels; give integers [N]: labels=..., on the command line --labels FILE.npy")
    label = own[0][1] if own else labels_of(labels if labels is not None else [])
    if label is None or any(not np.array_equal(label, other) for _, other in own if other is not None):
        raise SourceError("the seeds have different labels; all seeds score the same rows")
    check_labels(label, first)
    return label


def _recipe(opened: Sequence[Logits], names: Sequence[str]) -> Recipe:
    """What the run folder is told, so that it can be reported like any other."""
    epochs = opened[0].epochs
    training = {"epochs": max(1, epochs[-1])}
    return recipe_from(
        {
            "source": {},
            "task": {"kind": LOGITS, "model": "logits", "training": training},
            "score": {"scores": list(names), "seeds": len(opened), "observe_at": list(epochs), "keep_weights": "none"},
        }
    )


class _SeedOfLogits:
    """The logits of one training on their way to a `RunResult`, block by block."""

    def __init__(
        self,
        logits: Logits,
        label: NDArray[np.int32],
        batch_scores: Mapping[str, BatchScore],
        accumulators: Mapping[str, Accumulator],
        seed: int,
        made: Provenance,
    ) -> None:
        self.logits, self.batch_scores, self.accumulators, self.seed, self.made = logits, batch_scores, accumulators, seed, made
        self.labelled = label != UNLABELLED
        self.place = np.cumsum(self.labelled) - 1
        self.label = torch.from_numpy(label[self.labelled].astype(np.int64))
        n, m = len(self.label), len(logits.epochs)
        self.observed = {name: np.empty((m, n), np.float32) for name in batch_scores}
        self.predicted = np.empty((m, n), np.int32)
        self.p_label = np.empty((m, n), np.float16)
        self.states = {name: scorer.init(n, logits.n_classes, CPU) for name, scorer in accumulators.items()}

    def run(self, digest: Any) -> RunResult:
        """Go through all blocks once; `digest` is told what was read."""
        for epoch, blocks in groupby(self._checked(), key=lambda block: block.epoch):
            # The rows of an epoch come in any order and in blocks of any size; the digest goes by their ids.
            read = np.empty((len(self.label), DIGEST), np.uint8)
            for block in blocks:
                read[self.place[block.rows]] = _row_digests(block.logits)
                self._take(block)
            digest(f"{self.seed}/{epoch}".encode())
            digest(read)
        accumulated: dict[str, torch.Tensor] = {}
        for name, scorer in self.accumulators.items():
            accumulated |= scorer.finish(self.states[name])
        trained = [moment for moment, epoch in enumerate(self.logits.epochs) if epoch > 0]
        return RunResult(
            seed=self.seed,
            example_id=np.flatnonzero(self.labelled).astype(np.int64),
            moments=self.logits.epochs,
            observed=self.observed,
            accumulated={name: values.float().numpy() for name, values in accumulated.items()},
            predicted=self.predicted,
            p_label=self.p_label[trained],
            curve=(),
            seconds={"train": 0.0, "observe": 0.0},
            weights={},
            provenance=self.made,
        )

    def _checked(self) -> Iterator[Block]:
        """The labelled rows of each block that has any; `SourceError` names those that are not finite, or says that these are no logits."""
        first = True
        for block in self.logits.blocks():
            chosen = self.labelled[block.rows]
            rows, logits = block.rows[chosen], block.logits[chosen]
            if not rows.size:
                continue
            broken = ~np.isfinite(logits).all(axis=1)
            if broken.any():
                raise SourceError(
                    f"{self.logits.name}: epoch {block.epoch} has logits that are not finite for example ids {some_ids(rows[broken])}; "
                    "leave that epoch out, or give these rows the label -1"
                )
            if first and _are_probabilities(logits):
                raise SourceError(
                    f"{self.logits.name} holds probabilities: every row lies in [0, 1] and sums to 1; give logits, the outputs before "
                    "softmax (or numpy.log of the probabilities)"
                )
            first = False
            yield Block(block.epoch, rows, logits)

    def _take(self, block: Block) -> None:
        at, moment = self.place[block.rows], self.logits.epochs.index(block.epoch)
        rows, logits = torch.from_numpy(at), torch.from_numpy(block.logits)
        labels = self.label[rows]
        known = {"logits": logits, "labels": labels, "example_id": torch.from_numpy(block.rows), "seed": self.seed}
        for name, scorer in self.batch_scores.items():
            self.observed[name][moment, at] = scorer.function(**{need: known[need] for need in scorer.needs}).float().numpy()
        self.predicted[moment, at] = logits.argmax(1).numpy()
        self.p_label[moment, at] = logits.softmax(1).gather(1, labels[:, None])[:, 0].half().numpy()
        if block.epoch > 0:  # epoch 0 is before the training that accumulators follow
            for name, scorer in self.accumulators.items():
                scorer.update(self.states[name], rows, logits, labels, block.epoch)


def _row_digests(logits: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[B, DIGEST]: a digest of each row of [B, C]."""
    each = b"".join(hashlib.blake2b(row, digest_size=DIGEST).digest() for row in logits)
    return np.frombuffer(each, np.uint8).reshape(-1, DIGEST)


def _are_probabilities(logits: NDArray[np.float32]) -> bool:
    """Whether every row [B, C] lies in [0, 1] and sums to 1, to the precision of float16."""
    sums = logits.sum(axis=1, dtype=np.float64)
    return bool(logits.min() >= 0 and logits.max() <= 1 and np.allclose(sums, 1, atol=2e-3))
