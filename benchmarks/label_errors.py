"""How well scores find wrong labels: real ones of people in images, and planted ones in texts.

Images: 5,000 rows of CIFAR-10 trained on human labels (CIFAR-10N, "worst"); a label is wrong where it differs from CIFAR-10's own.
Texts: 3,000 rows of AG News, a tenth of their labels flipped. Prints for each score the area under the ROC curve (0.5 is
chance) of the mean over seeds, and the mean over single seeds.

    DATADIET_DATA=FOLDER python -m benchmarks.label_errors [images|texts] [KEY=VALUE]...     (FOLDER holds cifar10/ and agnews/)
"""

from __future__ import annotations

import os
import sys
import tempfile
import time

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from hf_datadiet.catalogue import recipes_folder
from hf_datadiet.hub.source import pin
from hf_datadiet.recipe import Recipe
from hf_datadiet.recipe_yaml import load_recipe
from hf_datadiet.records import ScoreTable
from hf_datadiet.score import score_run
from hf_datadiet.store import RunFolder
from hf_datadiet.tasks.image import ImageTask
from hf_datadiet.training.session import open_session

SCORES = "score.scores=[el2n, loss, margin, entropy, forgetting, input_norm, chance]"
RECIPES = {
    "images": ("cifar10-quick.yaml", ("source.columns.label=label_human_worst", "source.test=null", SCORES)),
    "texts": ("agnews-bert.yaml", ("source.label_noise={fraction: 0.1}", "source.test=null", SCORES.replace(" input_norm,", ""))),
}


def main() -> None:
    """Score, compare with the true labels, print one line per score."""
    if "DATADIET_DATA" not in os.environ:
        print("label_errors: skipped, set DATADIET_DATA to the folder that holds cifar10/ and agnews/")
        return
    words = sys.argv[1:]
    chosen = [word for word in words if word in RECIPES] or list(RECIPES)
    for name in chosen:
        file, asked = RECIPES[name]
        recipe = load_recipe(recipes_folder() / file, [*asked, *(word for word in words if word not in RECIPES)])
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as temporary:
            table = score_run(open_session(recipe, RunFolder(temporary), command="benchmarks/label_errors.py"))
            wrong = _human(recipe, table) if name == "images" else _planted(RunFolder(temporary), table)
        print(f"{name}: {wrong.size} rows, {100 * wrong.mean():.1f} % wrong labels, {time.perf_counter() - start:.0f} s\n")
        _print(table, wrong)


def _human(recipe: Recipe, table: ScoreTable) -> NDArray[np.bool_]:
    true = np.asarray(pin(recipe.source, ImageTask().find_columns).dataset["label"])[table.example_id]
    return true != table.label


def _planted(folder: RunFolder, table: ScoreTable) -> NDArray[np.bool_]:
    return np.isin(table.example_id, pq.read_table(folder.path / "label_noise.parquet")["example_id"].to_numpy())


def _print(table: ScoreTable, wrong: NDArray[np.bool_]) -> None:
    print(f"| score | AUROC, mean of {len(table.seeds)} seeds | AUROC, one seed (mean) |\n|---|---:|---:|")
    for name, column in table.columns.items():
        assert column.per_seed is not None
        sign = -1 if column.higher_is == "easier" else 1
        single = np.mean([roc_auc_score(wrong, sign * values) for values in column.per_seed])
        print(f"| {name} | {roc_auc_score(wrong, sign * column.mean):.3f} | {single:.3f} |")


if __name__ == "__main__":
    main()
