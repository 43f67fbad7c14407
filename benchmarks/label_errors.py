"""How well scores find wrong labels: 5,000 rows of CIFAR-10 trained on real human labels (CIFAR-10N, "worst").

A label counts as wrong where it differs from CIFAR-10's own. Prints the share of wrong labels and, for each score, the
area under the ROC curve (0.5 is chance) of the mean over seeds, and the mean over single seeds.

    DATADIET_DATA=FOLDER python -m benchmarks.label_errors      (FOLDER holds cifar10/train.parquet)
"""

from __future__ import annotations

import os
import sys
import tempfile
import time

import numpy as np
from sklearn.metrics import roc_auc_score

from hf_datadiet.catalogue import recipes_folder
from hf_datadiet.hub.source import pin
from hf_datadiet.recipe_yaml import load_recipe
from hf_datadiet.score import score_run
from hf_datadiet.store import RunFolder
from hf_datadiet.tasks.image import ImageTask
from hf_datadiet.training.session import open_session

OVERRIDES = (
    "source.columns.label=label_human_worst",
    "source.test=null",
    "score.scores=[el2n, loss, margin, entropy, forgetting, input_norm, chance]",
)


def main() -> None:
    """Score, compare with the true labels, print one line per score."""
    if "DATADIET_DATA" not in os.environ:
        print("label_errors: skipped, set DATADIET_DATA to the folder that holds cifar10/")
        return
    recipe = load_recipe(recipes_folder() / "cifar10-quick.yaml", [*OVERRIDES, *sys.argv[1:]])
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        table = score_run(open_session(recipe, RunFolder(temporary), command="benchmarks/label_errors.py"))
    seconds = time.perf_counter() - start
    true = np.asarray(pin(recipe.source, ImageTask().find_columns).dataset["label"])[table.example_id]
    wrong = true != table.label
    print(f"{wrong.size} rows, {100 * wrong.mean():.1f} % wrong labels, {len(table.seeds)} seeds, {seconds:.0f} s")
    for name, column in table.columns.items():
        assert column.per_seed is not None
        sign = -1 if column.higher_is == "easier" else 1
        single = np.mean([roc_auc_score(wrong, sign * values) for values in column.per_seed])
        print(f"{name:20} AUROC {roc_auc_score(wrong, sign * column.mean):.3f}   one seed {single:.3f}")


if __name__ == "__main__":
    main()
