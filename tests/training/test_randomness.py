from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_datadiet.training.randomness import generator_for, seed_generators, streams_for, untouched_generators
from hf_datadiet.training.retrain import retrain
from hf_datadiet.training.seeds import score_seed
from tests.training.toy import CPU, PLAN, new_unit, small_session


def draws(purpose: str, seed: int) -> dict[str, Any]:
    streams = streams_for(purpose, seed)
    return {
        "init": streams.init,
        "noise": streams.noise,
        "order": tuple(streams.order.integers(0, 2**62, 4).tolist()),
        "augment": tuple(torch.randint(0, 2**62, (4,), generator=streams.augment).tolist()),
        "own": tuple(generator_for(purpose, seed).integers(0, 2**62, 4).tolist()),
    }


def test_same_purpose_and_seed_draw_the_same() -> None:
    assert draws("score", 3) == draws("score", 3)


@pytest.mark.parametrize("other", [("score", 4), ("evaluate/full", 3), ("evaluate/random-30", 3), ("draw/random-30", 3)])
def test_another_purpose_or_seed_shares_no_stream(other: tuple[str, int]) -> None:
    one, two = draws("score", 3), draws(*other)
    assert all(one[name] != two[name] for name in one)


def test_the_streams_of_one_training_differ_from_each_other() -> None:
    streams = streams_for("score", 0)
    assert streams.init != streams.noise
    again = np.random.default_rng(np.random.SeedSequence(streams.init))
    assert streams.order.integers(0, 2**62) != again.integers(0, 2**62)


def test_drawing_from_one_stream_leaves_the_others() -> None:
    busy, idle = streams_for("score", 1), streams_for("score", 1)
    torch.rand(100, generator=busy.augment)
    assert busy.order.integers(0, 2**62, 4).tolist() == idle.order.integers(0, 2**62, 4).tolist()


def test_untouched_generators_gives_the_global_state_back() -> None:
    seed_generators(5)
    expected = global_draws()
    seed_generators(5)
    with untouched_generators(CPU):
        seed_generators(99)
        global_draws()
    assert global_draws() == expected


def test_seeded_generators_follow_the_seed_and_nothing_else() -> None:
    with untouched_generators(CPU):
        draws = []
        for seed in (3, 3, 2**62, 2**62 + 1):
            seed_generators(seed)
            draws.append(global_draws())
    assert draws[0] == draws[1]
    assert all(len({draw[library] for draw in draws}) == 3 for library in range(3))


def global_draws() -> tuple[float, float, float]:
    """One number from each library."""
    return torch.rand(()).item(), np.random.random(), random.random()  # noqa: NPY002, the global one is meant


def test_scoring_and_retraining_leave_the_global_generator(tmp_path: Path) -> None:
    session = small_session(tmp_path, {"score.epochs": 1, "score.observe_at": []})
    feed = session.train_feed()
    before = torch.random.get_rng_state()
    score_seed(session, feed, PLAN, 0, new_unit(session))
    assert torch.equal(torch.random.get_rng_state(), before)
    retrain(session, feed, session.test_feed(feed), PLAN, arm="full", seed=10_000, ids=feed.example_id, steps=2, unit=new_unit(session))
    assert torch.equal(torch.random.get_rng_state(), before)
