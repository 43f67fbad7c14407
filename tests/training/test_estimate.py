from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from hf_datadiet.training.estimate import Forecast, forecast
from tests.training.toy import small_session


def small_forecast(folder: Path, match: str, arms: dict[str, int]) -> Forecast:
    session = small_session(
        folder / "run", {"evaluate.match": match, "evaluate.seeds": 3, "score.scores": ["el2n", "grand", "forgetting"]}, claim=False
    )
    return forecast(session, arms=arms)


@pytest.mark.parametrize(("match", "steps"), [("epochs", 3 * (12 + 6 + 6)), ("steps", 3 * (12 + 12 + 12))])
def test_rows_and_steps_are_exact(tmp_path: Path, match: str, steps: int) -> None:
    before = torch.random.get_rng_state()
    found = small_forecast(tmp_path, match, {"full": 60, "keep-50": 30, "random-30": 30})
    # 60 rows in batches of 16: four steps per epoch; two seeds of two epochs, evaluation of three.
    assert (found.n_rows, found.n_seeds, found.score_epochs, found.score_steps) == (60, 2, 2, 2 * 2 * 4)
    assert found.n_test == round(0.02 * 1797)
    assert found.moments == (0, 1, 2) and found.evaluate_seeds == 3 and found.evaluate_steps == steps
    assert found.score_seconds > 0 and found.evaluate_seconds > 0 and found.memory_bytes > 0
    # At least the kept weights of two seeds: 370,000 numbers of four bytes each.
    assert found.disk_bytes > 2 * 370_000 * 4
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(torch.random.get_rng_state(), before)


def test_without_arms_evaluation_costs_nothing(tmp_path: Path) -> None:
    found = small_forecast(tmp_path, "epochs", {})
    assert dataclasses.asdict(found)["evaluate_steps"] == 0 and found.evaluate_seconds == 0
