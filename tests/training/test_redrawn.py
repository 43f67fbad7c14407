"""RS2: K other rows in each epoch, as the variant without replacement promises, in as many steps as K fixed ones take."""

from __future__ import annotations

from collections import Counter
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_datadiet.errors import CoverageError
from hf_datadiet.evaluate import arm_steps
from hf_datadiet.identity import digest_of
from hf_datadiet.tasks.image import ImageTask
from hf_datadiet.training.feed import Feed
from hf_datadiet.training.redrawn import Redrawn, rows_digest
from hf_datadiet.training.retrain import retrain
from hf_datadiet.training.session import Session
from hf_datadiet.unfinished import Unfinished
from tests.training.test_resumed_units import Killed, dying, same_arms
from tests.training.toy import PLAN, ask_to_stop, new_unit, small_session, stopped


@given(st.integers(1, 60), st.data(), st.integers(0, 5))
def test_each_order_shows_every_row_before_the_next(n: int, data: st.DataObject, seed: int) -> None:
    size = data.draw(st.integers(1, n))
    ids = 5 + 3 * np.arange(n, dtype=np.int64)
    drawn, once = Redrawn(ids, size, seed), ceil(n / size)
    for start in (1, once + 1):
        epochs = [drawn.of(epoch).tolist() for epoch in range(start, start + once)]
        for rows in epochs:
            assert len(rows) == len(set(rows)) == size and rows == sorted(rows)
        times = Counter(row for rows in epochs for row in rows)
        assert set(times) == set(ids.tolist()) and set(times.values()) <= {1, 2}
        # Only the epoch in which the order runs out repeats rows, and none of its own.
        before = [row for rows in epochs[: n // size] for row in rows]
        assert len(before) == len(set(before)) == size * (n // size)


def test_orders_and_seeds_are_independent_of_one_another() -> None:
    """Of 1,000 rows two draws of 500 share 250, give or take 8 (hypergeometric); complementary halves of one order share none."""
    ids = np.arange(1000, dtype=np.int64)
    one, other = Redrawn(ids, 500, 10_000), Redrawn(ids, 500, 10_001)
    assert np.intersect1d(one.of(1), one.of(2)).size == 0
    for rows in (one.of(3), one.of(4), one.of(5), other.of(1)):
        assert 200 < np.intersect1d(one.of(1), rows).size < 300
    assert np.array_equal(one.of(7), Redrawn(ids, 500, 10_000).of(7)), "whatever was drawn before"


def test_the_digest_is_that_of_every_epoch() -> None:
    ids = np.arange(20, dtype=np.int64)
    drawn = Redrawn(ids, 8, 0)
    assert rows_digest(drawn, 3) == digest_of([drawn.of(1), drawn.of(2), drawn.of(3)]) != rows_digest(drawn, 2)
    assert rows_digest(drawn, 3) != rows_digest(Redrawn(ids, 8, 1), 3)
    assert rows_digest(ids, 3) == digest_of([ids])


# As an arm


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Sixty digits in batches of 16: 25 rows are two steps."""
    return small_session(tmp_path_factory.mktemp("redrawn"))


@pytest.fixture(scope="module")
def feeds(session: Session) -> tuple[Feed, Feed]:
    train = session.train_feed()
    return train, session.test_feed(train)


def asked(feeds: tuple[Feed, Feed], **more: Any) -> dict[str, Any]:
    """Four epochs of two steps, the last of them half; the order runs out in the third."""
    return {"arm": "redrawn-25", "seed": 10_000, "ids": Redrawn(feeds[0].example_id, 25, 10_000), "steps": 7, **more}


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, feeds: tuple[Feed, Feed]) -> list[list[int]]:
    """The ids of each training batch from now on."""
    seen: list[list[int]] = []
    collate = ImageTask.collate

    def watching(self: Any, prepared: Any, rows: Any, fitted: Any, device: Any, augment: Any) -> torch.Tensor:
        if augment is not None:
            seen.append(feeds[0].example_id[rows].tolist())
        return collate(self, prepared, rows, fitted, device, augment)

    monkeypatch.setattr(ImageTask, "collate", watching)
    return seen


def test_every_epoch_trains_on_its_own_rows(session: Session, feeds: tuple[Feed, Feed], shown: list[list[int]]) -> None:
    assert arm_steps(session.recipe, 25, 60) == 6, "the steps that any 25 rows take"
    drawn = Redrawn(feeds[0].example_id, 25, 10_000)
    result = retrain(session, *feeds, PLAN, **asked(feeds), unit=new_unit(session))
    assert (result.n_rows, result.steps, result.epochs, len(shown)) == (25, 7, 4, 7)
    for epoch in (1, 2, 3):
        first, second = shown[2 * epoch - 2 : 2 * epoch]
        assert sorted(first + second) == drawn.of(epoch).tolist()
    assert set(shown[6]) < set(drawn.of(4).tolist())
    assert {row for batch in shown[:6] for row in batch} == set(feeds[0].example_id.tolist())
    assert result.train_ids_digest == digest_of([drawn.of(epoch) for epoch in (1, 2, 3, 4)])


def test_rows_that_are_not_trained_on_cannot_be_drawn(session: Session, feeds: tuple[Feed, Feed]) -> None:
    foreign = Redrawn(np.append(feeds[0].example_id, 10**6), 25, 10_000)
    with pytest.raises(CoverageError, match="a kept row is none of the 60 rows"):
        retrain(session, *feeds, PLAN, **asked(feeds, ids=foreign), unit=new_unit(session))


@pytest.mark.parametrize("when", ["first epoch", "second epoch", 1, 5])
def test_it_goes_on_with_the_same_bits(
    session: Session, feeds: tuple[Feed, Feed], tmp_path: Path, shown: list[list[int]], when: str | int
) -> None:
    whole = retrain(session, *feeds, PLAN, **asked(feeds), unit=new_unit(session))
    once, shown[:] = list(shown), []
    unit, count = Unfinished(tmp_path / "unit"), [0]

    def alive() -> None:
        count[0] += 1
        if count[0] == when:
            ask_to_stop()

    if isinstance(when, int):
        unit.alive = alive
        with stopped():
            retrain(session, *feeds, PLAN, **asked(feeds), unit=unit)
    else:
        dying(unit, 1 if when == "first epoch" else 2)
        with pytest.raises(Killed):
            retrain(session, *feeds, PLAN, **asked(feeds), unit=unit)
    assert 0 < len(shown) < 7
    resumed: list[tuple[int, int]] = []
    again = retrain(
        session, *feeds, PLAN, **asked(feeds), unit=Unfinished(unit.path), on_resume=lambda *done: resumed.append(done)
    )  # fmt: skip
    same_arms(again, whole)
    assert resumed == [{"first epoch": (1, 2), "second epoch": (2, 4), 1: (0, 1), 5: (2, 5)}[when]] and shown == once


def test_another_draw_starts_over(session: Session, feeds: tuple[Feed, Feed], tmp_path: Path) -> None:
    """As under a version that draws otherwise: what is left belongs to another training."""
    notes: list[str] = []
    unit = Unfinished(tmp_path / "unit", notes.append)
    dying(unit, 1)
    with pytest.raises(Killed):
        retrain(session, *feeds, PLAN, **asked(feeds), unit=unit)
    retrain(session, *feeds, PLAN, **asked(feeds, ids=Redrawn(feeds[0].example_id, 25, 1)), unit=Unfinished(unit.path, notes.append))
    assert len(notes) == 1 and notes[0].endswith("belongs to a training with another rows; this training starts over")
