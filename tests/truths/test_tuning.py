"""With many wrong labels the hardest rows are the wrong ones: tuning must see that, from validation labels that are as wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from hf_datadiet.recipe import PruneSpec
from hf_datadiet.recipe_yaml import recipe_from
from hf_datadiet.score import score_run
from hf_datadiet.store import RunFolder
from hf_datadiet.training.session import open_session
from hf_datadiet.tune import tune_run

RECIPE = {
    "source": {"sample": "digits", "limit": 400, "test": {"fraction": 0.2}, "label_noise": {"fraction": 0.3}},
    "task": {"model": "timm:test_resnet", "crop": 1, "training": {"epochs": 10, "batch_size": 32, "schedule": {"warmup": 0.1}}},
    "score": {"scores": ["el2n"], "seeds": 1, "epochs": 6, "keep_weights": "none"},
}


def test_the_hardest_are_not_chosen_where_labels_are_wrong(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    session = open_session(recipe_from(RECIPE), folder, command="test")
    score_run(session, progress=False)
    candidates = [{"strategy": "hardest"}, {"strategy": "moderate"}]
    asked = PruneSpec(name="auto", score="el2n", strategy="auto", keep=0.5, parameters={"validation": 0.2, "candidates": candidates})
    settled, evidence = tune_run(session, asked, progress=False)
    assert settled.strategy != "hardest" and evidence["chosen"] != "hardest"

    # The planted truth: what the hardest half holds, and how well the noisy validation labels tell so.
    table = folder.tunings.load_evaluation("auto")
    changed = set(pq.read_table(folder.path / "label_noise.parquet")["example_id"].to_pylist())
    assert len(changed) == 120 and 0.15 < np.mean([row in changed for row in table.test_id.tolist()]) < 0.45
    accuracy = {name: table.metric(name).mean() for name in table.arms}
    assert accuracy["hardest"] + 0.1 < max(accuracy.values()), accuracy
    within = {entry["candidate"]: entry["se"] or 0.0 for entry in evidence["candidates"]}
    assert 100 * (max(accuracy.values()) - accuracy[evidence["chosen"]]) <= within[evidence["chosen"]] + 1e-9
