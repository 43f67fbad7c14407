"""Wrong labels of real data: CIFAR-10 rows with human labels (CIFAR-10N, "worst", four in ten of them wrong), AG News with flipped ones."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from hf_datadiet.catalogue import recipes_folder
from hf_datadiet.hub.source import pin
from hf_datadiet.recipe_yaml import load_recipe
from hf_datadiet.score import score_run
from hf_datadiet.store import RunFolder
from hf_datadiet.tasks.image import ImageTask
from hf_datadiet.training.session import open_session

DATA = os.environ.get("DATADIET_DATA")


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(DATA is None, reason="set DATADIET_DATA to the folder that holds cifar10/ and agnews/")
def test_el2n_finds_wrong_human_labels(tmp_path: Path) -> None:
    overrides = ["source.columns.label=label_human_worst", "source.test=null", "score.scores=[el2n, chance]", "score.seeds=2"]
    recipe = load_recipe(recipes_folder() / "cifar10-quick.yaml", overrides)
    table = score_run(open_session(recipe, RunFolder(tmp_path / "run"), command="test"), progress=False)
    true = np.asarray(pin(recipe.source, ImageTask().find_columns).dataset["label"])[table.example_id]
    wrong = true != table.label
    assert wrong.size == 5000
    assert 0.35 < wrong.mean() < 0.45
    assert roc_auc_score(wrong, table.column("el2n").mean) >= 0.70
    # The same question to a score that knows nothing: the comparison itself is sound.
    assert abs(roc_auc_score(wrong, table.column("chance").mean) - 0.5) < 0.03


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(DATA is None, reason="set DATADIET_DATA to the folder that holds cifar10/ and agnews/")
def test_el2n_finds_flipped_labels_of_news(tmp_path: Path) -> None:
    overrides = ["source.label_noise={fraction: 0.1}", "source.test=null", "score.scores=[el2n, chance]"]
    recipe = load_recipe(recipes_folder() / "agnews-bert.yaml", overrides)
    table = score_run(open_session(recipe, RunFolder(tmp_path / "run"), command="test"), progress=False)
    wrong = np.isin(table.example_id, pq.read_table(tmp_path / "run" / "label_noise.parquet")["example_id"].to_numpy())
    assert (wrong.size, wrong.sum()) == (3000, 300)
    assert roc_auc_score(wrong, table.column("el2n").mean) > 0.75
    assert abs(roc_auc_score(wrong, table.column("chance").mean) - 0.5) < 4 / np.sqrt(12 * 300)
