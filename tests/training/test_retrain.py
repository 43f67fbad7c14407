from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from hf_datadiet.errors import CoverageError, RecipeError
from hf_datadiet.evaluate import arm_steps
from hf_datadiet.identity import digest_of
from hf_datadiet.recipe_yaml import recipe_from, with_overrides
from hf_datadiet.records import ArmResult
from hf_datadiet.tasks.image import ImageTask
from hf_datadiet.training.feed import Feed
from hf_datadiet.training.retrain import retrain
from hf_datadiet.training.session import Session
from tests.training.toy import PLAN, SMALL, new_unit, small_session


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return small_session(tmp_path_factory.mktemp("retrain"))


@pytest.fixture(scope="module")
def feeds(session: Session) -> tuple[Feed, Feed]:
    train = session.train_feed()
    return train, session.test_feed(train)


def arm(session: Session, feeds: tuple[Feed, Feed], **given: Any) -> ArmResult:
    train, test = feeds
    asked = {"arm": "mine", "seed": 10_000, "ids": train.example_id[::2], "steps": 4, "unit": new_unit(session)}
    return retrain(session, train, test, PLAN, **asked | given)


def test_it_trains_on_the_ids_given_only(session: Session, feeds: tuple[Feed, Feed], monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = feeds
    shown: list[int] = []
    collate = ImageTask.collate

    def watching(self: Any, prepared: Any, rows: Any, fitted: Any, device: Any, augment: Any) -> torch.Tensor:
        if augment is not None:
            shown.extend(train.example_id[rows].tolist())
        return collate(self, prepared, rows, fitted, device, augment)

    monkeypatch.setattr(ImageTask, "collate", watching)
    ids = train.example_id[3:50:3]
    result = arm(session, feeds, ids=ids, steps=1)
    assert sorted(shown) == ids.tolist() and result.n_rows == len(ids) and result.train_ids_digest == digest_of([ids])


@pytest.mark.parametrize("wrong", [-1, 10**6])
def test_an_unknown_id_is_refused(session: Session, feeds: tuple[Feed, Feed], wrong: int) -> None:
    ids = np.sort(np.append(feeds[0].example_id[:5], wrong)).astype(np.int64)
    with pytest.raises(CoverageError, match="a kept row is none of the 60 rows"):
        arm(session, feeds, ids=ids)


def test_a_held_out_id_is_refused(session: Session, feeds: tuple[Feed, Feed]) -> None:
    train, test = feeds
    assert not np.intersect1d(train.example_id, test.example_id).size
    with pytest.raises(CoverageError):
        arm(session, feeds, ids=np.sort(np.append(train.example_id[:5], test.example_id[0])))


@pytest.mark.parametrize(("match", "steps", "epochs"), [("epochs", 6, 3), ("steps", 12, 6)])
def test_equal_epochs_or_equal_steps(session: Session, feeds: tuple[Feed, Feed], match: str, steps: int, epochs: int) -> None:
    # 30 of 60 rows in batches of 16: two steps per epoch instead of four, three epochs planned.
    recipe = recipe_from(with_overrides(SMALL, {"evaluate.match": match}))
    assert arm_steps(recipe, 30, 60) == steps and arm_steps(recipe, 60, 60) == 12
    result = arm(session, feeds, steps=arm_steps(recipe, 30, 60))
    assert (result.steps, result.epochs) == (steps, epochs)


def test_the_order_of_the_test_rows_is_kept(session: Session, feeds: tuple[Feed, Feed]) -> None:
    train, test = feeds
    first = arm(session, feeds, steps=60)
    order = np.random.default_rng(0).permutation(len(test))
    moved = replace(test, prepared=test.prepared[order], labels=test.labels[order], example_id=test.example_id[order])
    second = arm(session, (train, moved), steps=60)
    assert np.array_equal(second.predicted, first.predicted[order])
    np.testing.assert_allclose(second.p_label, first.p_label[order], atol=1e-3)
    assert first.metrics["accuracy"] == pytest.approx(float((first.predicted == test.labels.numpy()).mean()))
    assert first.metrics["accuracy"] > 0.3 and len(set(first.predicted.tolist())) > 3


def test_the_same_arm_and_seed_twice_is_the_same(session: Session, feeds: tuple[Feed, Feed]) -> None:
    torch.manual_seed(4)
    one, two = arm(session, feeds), arm(session, feeds)
    assert np.array_equal(one.p_label, two.p_label) and one.metrics == two.metrics


@pytest.mark.parametrize("other", [{"seed": 10_001}, {"arm": "other"}])
def test_another_seed_or_arm_is_an_independent_training(session: Session, feeds: tuple[Feed, Feed], other: dict[str, Any]) -> None:
    assert not np.array_equal(arm(session, feeds).p_label, arm(session, feeds, **other).p_label)


def test_a_training_that_diverges_in_its_last_step_is_no_result(session: Session, feeds: tuple[Feed, Feed]) -> None:
    optimizer = replace(session.recipe.task.training.optimizer, lr=1e38)
    training = replace(session.recipe.task.training, optimizer=optimizer)
    wild = replace(session, recipe=replace(session.recipe, task=replace(session.recipe.task, training=training)))
    with pytest.raises(RecipeError, match=r"lower task\.training\.optimizer\.lr"):
        arm(wild, feeds, steps=1)
