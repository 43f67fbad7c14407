"""How well scores find wrong labels: real ones of people in images, and planted ones in texts; and how well cleanlab does.

Images: 5,000 rows of CIFAR-10 trained on human labels (CIFAR-10N, "worst"; a milder kind: source.columns.label=label_human_aggregate
or label_human_random1); a label is wrong where it differs from CIFAR-10's own. Texts: 3,000 rows of AG News, a tenth of their labels
flipped. Prints for each score the area under the ROC curve (0.5 is chance) of the mean over seeds, and the mean over single seeds,
the average precision, and the share of wrong labels among the first 100; then what `inspect` suggests for the first 100.

cleanlab's quality of each label is taken from out-of-sample probabilities, as its documentation asks: five folds, drawn by class, the same
network and training for each on the other four, its own rows predicted in eval mode; with several seeds from the mean of their
probabilities. cleanlab is not installed with the project: `pip install cleanlab`.

    DATADIET_DATA=FOLDER python -m benchmarks.label_errors [images|texts] [KEY=VALUE]...     (FOLDER holds cifar10/ and agnews/)
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold

from hf_datadiet.catalogue import recipes_folder
from hf_datadiet.gradients.forward import logits_of
from hf_datadiet.gradients.rest import at_rest
from hf_datadiet.hub.source import pin
from hf_datadiet.recipe import Recipe
from hf_datadiet.recipe_yaml import load_recipe
from hf_datadiet.records import UNLABELLED, ScoreTable
from hf_datadiet.score import score_run
from hf_datadiet.store import RunFolder
from hf_datadiet.suspects import suspects_of
from hf_datadiet.tasks.image import ImageTask
from hf_datadiet.training.loop import steps_of, train
from hf_datadiet.training.randomness import streams_for, untouched_generators
from hf_datadiet.training.session import Session, open_session

IMAGE_SCORES = "[el2n, loss, margin, entropy, grand, grand_last, prototype, forgetting, aum, cartography, dual, input_norm, chance]"
TEXT_SCORES = "[el2n, loss, margin, entropy, forgetting, aum, cartography, dual, chance]"
RECIPES = {
    "images": (
        "cifar10-quick.yaml",
        ("source.columns.label=label_human_worst", "source.test=null", f"score.scores={IMAGE_SCORES}", "score.keep_weights=none"),
    ),
    "texts": (
        "agnews-bert.yaml",
        ("source.label_noise={fraction: 0.1}", "source.test=null", f"score.scores={TEXT_SCORES}", "score.keep_weights=none"),
    ),
}
FOLDS = 5
FIRST = 100
"""Rows that somebody may look at."""
BATCH = 256
METHODS = ("self_confidence", "normalized_margin")
"""Of cleanlab: its default, and the other that works without thresholds."""


def main() -> None:
    """Score, compare with the true labels, print one line per score."""
    if "DATADIET_DATA" not in os.environ:
        print("label_errors: skipped, set DATADIET_DATA to the folder that holds cifar10/ and agnews/")
        return
    words = sys.argv[1:]
    for name in [word for word in words if word in RECIPES] or list(RECIPES):
        file, asked = RECIPES[name]
        recipe = load_recipe(recipes_folder() / file, [*asked, *(word for word in words if word not in RECIPES)])
        with tempfile.TemporaryDirectory() as temporary:
            _compare(name, recipe, RunFolder(temporary))


def _compare(name: str, recipe: Recipe, folder: RunFolder) -> None:
    session = open_session(recipe, folder, command="benchmarks/label_errors.py")
    table = score_run(session)
    assert table is not None
    true = _human(recipe) if name == "images" else _planted(folder, session)
    known = table.label != UNLABELLED
    ids, label = table.example_id[known], table.label[known]
    wrong = true[ids] != label
    print(f"{name}: {recipe.source.columns.get('label', 'label')}, {wrong.size} rows, {100 * wrong.mean():.1f} % wrong labels\n")
    n = len(table.seeds)
    print(f"| score | AUROC, {n} seeds | AUROC, one seed (mean) | average precision | wrong among the first {FIRST}, % |")
    print("|---|---:|---:|---:|---:|")
    for column, about in table.columns.items():
        assert about.per_seed is not None
        sign = -1 if about.higher_is == "easier" else 1
        _line(column, wrong, sign * about.mean[known], sign * about.per_seed[:, known])
    seconds = [sum(folder.load_seed(seed).seconds.values()) for seed in table.seeds]
    cost = f"scores: {n * recipe.score_epochs} epochs of all rows, {sum(seconds):.0f} s with what is observed"
    if importlib.util.find_spec("cleanlab") is None:
        print(f"\n{cost}\ncleanlab: skipped, it is not installed with the project: pip install cleanlab")
    else:
        start = time.perf_counter()
        each = np.stack([_out_of_sample(session, seed) for seed in table.seeds])
        took = time.perf_counter() - start
        doubts = {method: [-_quality(label, one, method) for one in (each.mean(axis=0), *each)] for method in METHODS}
        for method, (doubt, *alone) in doubts.items():
            _line(f"cleanlab, {method}", wrong, doubt, alone)
        print(f"\n{cost}\ncleanlab: {n * FOLDS * recipe.task.training.epochs} epochs of {1 - 1 / FOLDS:.0%} of the rows, {took:.0f} s")
        worst = np.argsort(doubts[METHODS[0]][0])[::-1][:FIRST]
        _suggestions(f"cleanlab, {METHODS[0]}", worst, each.mean(axis=0).argmax(axis=1), true[ids], label)
    _inspected(session, table, true)
    print()


def _human(recipe: Recipe) -> NDArray[np.int32]:
    """CIFAR-10's own labels, by example id."""
    return np.asarray(pin(recipe.source, ImageTask().find_columns).dataset["label"])


def _planted(folder: RunFolder, session: Session) -> NDArray[np.int32]:
    """The labels before the noise, by example id."""
    noise = pq.read_table(folder.path / "label_noise.parquet")
    true = session.pinned.label.copy()
    true[noise["example_id"].to_numpy()] = noise["label_before"].to_numpy()
    return true


def _line(name: str, wrong: NDArray[np.bool_], doubt: NDArray[np.float64], single: Sequence[NDArray[np.float64]] | NDArray) -> None:
    """One row of the table: `doubt` [N] of all seeds, and [N] of each."""
    alone = np.mean([roc_auc_score(wrong, values) for values in single])
    cells = [f"{roc_auc_score(wrong, doubt):.3f}", f"{alone:.3f}", f"{average_precision_score(wrong, doubt):.3f}"]
    print(f"| {name} | {' | '.join(cells)} | {100 * _precision(wrong, doubt, FIRST):.0f} |", flush=True)


def _precision(wrong: NDArray[np.bool_], doubt: NDArray[np.float64], k: int) -> float:
    """Share of wrong labels among the k highest; those that tie for the last places count by their mean."""
    cut = np.sort(doubt)[-k]
    above, tied = wrong[doubt > cut], wrong[doubt == cut]
    return float((above.sum() + (k - above.size) * tied.mean()) / k)


def _quality(label: NDArray[np.int32], probabilities: NDArray[np.float64], method: str) -> NDArray[np.float64]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cleanlab.rank import get_label_quality_scores  # pyright: ignore[reportMissingImports]

        return get_label_quality_scores(label, probabilities, method=method)


def _out_of_sample(session: Session, seed: int) -> NDArray[np.float64]:
    """Probabilities [N, C] of each row by a network that was not trained on it."""
    feed, training = session.train_feed(), session.recipe.task.training
    labels = feed.labels.cpu().numpy()
    found = np.zeros((len(feed), session.n_classes))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(labels, labels)
    for fold, (others, own) in enumerate(folds):
        with untouched_generators(session.device):
            streams = streams_for(f"fold {fold}", seed)
            model = session.new_model(feed, streams.init)
            steps = steps_of(others.size, training)
            train(model, feed, torch.from_numpy(others), training, streams, steps=steps, schedule_steps=steps)
            with at_rest(model), torch.no_grad():
                parts = [logits_of(model, feed.inputs(rows)).double().softmax(1) for rows in _batches(own)]
        found[own] = torch.cat(parts).cpu().numpy()
        print(f"fold {fold + 1} of {FOLDS}, seed {seed}", file=sys.stderr, flush=True)
    return found


def _batches(rows: NDArray[np.int64]) -> Iterator[torch.Tensor]:
    yield from torch.from_numpy(rows).split(BATCH)


def _inspected(session: Session, table: ScoreTable, true: NDArray[np.int32]) -> None:
    """What a person who looks at the first rows of `hf-datadiet inspect` finds, by the best scores and the usual one."""
    classes = table.source.classes
    label = np.full(table.source.n_rows, UNLABELLED, np.int32)
    label[table.example_id] = table.label
    for score in ("aum", "confidence", "el2n"):
        rows = suspects_of(session.folder, session.recipe, top=FIRST, score=score).rows
        suggested = np.array([UNLABELLED if row.suggested is None else classes.index(row.suggested) for row in rows])
        ids = np.array([row.example_id for row in rows])
        _suggestions(f"inspect by {score}", np.arange(len(rows)), suggested, true[ids], label[ids])


def _suggestions(name: str, rows: NDArray[np.int64], suggested: NDArray, true: NDArray, label: NDArray) -> None:
    wrong = true[rows] != label[rows]
    right = wrong & (suggested[rows] == true[rows])
    print(f"{name}: of the first {rows.size}, {wrong.sum()} are wrong; the true label is suggested for {right.sum()} of these")


if __name__ == "__main__":
    main()
