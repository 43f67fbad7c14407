"""When memory runs out in the observe pass: smaller batches, the same scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hf_datadiet import registry
from hf_datadiet.errors import RecipeError
from hf_datadiet.training.feed import Feed
from hf_datadiet.training.memory import in_batches
from hf_datadiet.training.observe import observe
from hf_datadiet.training.seeds import score_seed
from tests.training.toy import PLAN, ToyTask, by, new_unit, small_session, toy_feed, toy_model

SCORERS: Any = {name: registry.find("scorers", name) for name in ("el2n", "grand", "loss")}


def out_of_memory() -> torch.OutOfMemoryError:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB")


class Crowded(ToyTask):
    """More than `room` rows do not fit onto the device."""

    def __init__(self, room: int) -> None:
        self.room = room

    def collate(self, prepared: Any, rows: torch.Tensor, fitted: Any, device: Any, augment: Any) -> torch.Tensor:
        if len(rows) > self.room:
            raise out_of_memory()
        return super().collate(prepared, rows, fitted, device, augment)


class Wide(nn.Module):
    """A model whose activations of more than `room` rows do not fit."""

    def __init__(self, model: nn.Module, room: int) -> None:
        super().__init__()
        self.model, self.room = model, room

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.room:
            raise out_of_memory()
        return self.model(x)


def crowded(room: int) -> Feed:
    task: Any = Crowded(room)
    return replace(toy_feed(), task=task)


@pytest.mark.parametrize("way", ["rules", "loop", "vmap"])
@pytest.mark.parametrize(("room", "size"), [(15, 8), (8, 8), (1, 1), (32, 32), (31, 16)])
def test_the_scores_stay(way: str, room: int, size: int, capfd: pytest.CaptureFixture[str]) -> None:
    plan = replace(by(way, toy_model()), observe_batch_size=32)
    expected = observe(toy_model(), toy_feed(), SCORERS, 0, plan, keep_logits=True)
    assert expected.batch_size == 32 and capfd.readouterr().err == ""
    seen = observe(toy_model(), crowded(room), SCORERS, 0, plan, keep_logits=True)
    for name in SCORERS:
        np.testing.assert_allclose(seen.scores[name], expected.scores[name], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(seen.logits, expected.logits, rtol=1e-5, atol=1e-6)
    assert np.array_equal(seen.predicted, expected.predicted) and seen.batch_size == size
    told = capfd.readouterr().err.splitlines()
    assert len(told) == {8: 2, 1: 5, 32: 0, 16: 1}[size]
    assert not told or "observing 16 rows at a time instead of 32" in told[0]


def test_a_model_that_is_too_wide() -> None:
    scorers = {name: SCORERS[name] for name in ("el2n", "loss")}
    expected = observe(toy_model(), toy_feed(), scorers, 0, PLAN)
    seen = observe(Wide(toy_model(), 5), toy_feed(), scorers, 0, PLAN)
    assert seen.batch_size == 4
    for name in scorers:
        np.testing.assert_allclose(seen.scores[name], expected.scores[name], rtol=1e-5, atol=1e-6)


def test_one_row_that_does_not_fit() -> None:
    model = Wide(toy_model(), 0).train()
    with pytest.raises(RecipeError, match="one row alone does not fit") as caught:
        observe(model, toy_feed(), {"el2n": SCORERS["el2n"]}, 0, PLAN)
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError) and model.training


def test_other_errors_are_not_about_memory() -> None:
    def broken(rows: torch.Tensor) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        in_batches(broken, torch.arange(4), 2)


def test_what_was_done_is_kept() -> None:
    asked: list[list[int]] = []

    def work(rows: torch.Tensor) -> list[int]:
        asked.append(rows.tolist())
        if len(rows) > 2 and 4 in rows:
            raise out_of_memory()
        return rows.tolist()

    done, size = in_batches(work, torch.arange(9), 4)
    assert done == [[0, 1, 2, 3], [4, 5], [6, 7], [8]] and size == 2
    assert asked == [[0, 1, 2, 3], [4, 5, 6, 7], [4, 5], [6, 7], [8]]


def test_the_seed_goes_on_with_what_fitted_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    session = small_session(tmp_path)
    collate, sizes = type(session.task).collate, []

    def narrow(self: Any, prepared: Any, rows: torch.Tensor, fitted: Any, device: Any, augment: Any) -> Any:
        if augment is None:
            sizes.append(len(rows))
            if len(rows) > 20:
                raise out_of_memory()
        return collate(self, prepared, rows, fitted, device, augment)

    feed = session.train_feed()
    plain = score_seed(session, feed, replace(PLAN, observe_batch_size=48), 0, new_unit(session))
    assert plain.plan == {**vars(PLAN), "observe_batch_size": 48}
    monkeypatch.setattr(type(session.task), "collate", narrow)
    result = score_seed(session, feed, replace(PLAN, observe_batch_size=48), 0, new_unit(session))
    assert result.plan == {**vars(PLAN), "observe_batch_size": 12}
    assert len(result.moments) == 3 and sizes[:3] == [48, 24, 12] and set(sizes[2:]) <= {12, len(feed) % 12}
    assert capfd.readouterr().err.count("out of memory") == 2
    np.testing.assert_allclose(result.observed["el2n"], plain.observed["el2n"], rtol=1e-5, atol=1e-6)
