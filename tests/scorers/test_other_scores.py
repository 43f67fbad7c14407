"""grand, chance and input_norm."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from hf_datadiet.scorers.chance import chance
from hf_datadiet.scorers.grand import grand
from hf_datadiet.scorers.input_norm import SCORER as INPUT_NORM
from hf_datadiet.scorers.input_norm import input_norm
from tests.references import scores as reference


def test_grand_is_the_norm_it_is_given() -> None:
    norms = torch.tensor([0.0, 1.5, 1e-20, 7e20])
    assert torch.equal(grand(norms), norms)


def test_input_norm_is_the_length_of_the_whole_input() -> None:
    assert input_norm(torch.tensor([[[3.0, 0.0], [0.0, 4.0]], [[1.0, 1.0], [1.0, -1.0]]])).tolist() == [5.0, 2.0]
    assert input_norm(torch.full((1, 3, 2, 2), 200, dtype=torch.uint8)).item() == pytest.approx(200 * 12**0.5)
    assert not INPUT_NORM.seeded


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**63 - 1])
def test_chance_against_unbounded_integers(seed: int) -> None:
    ids = [0, 1, 2, 49_999, 2**31, 2**40, 2**62]
    assert chance(torch.tensor(ids), seed).tolist() == [reference.chance(example, seed) for example in ids]


def test_chance_is_the_published_splitmix64() -> None:
    """First outputs of the published generator for the seed 1234567, reached through ids that count from its state."""
    from hf_datadiet.scorers.chance import _GAMMA, _mix

    states = np.array([1234567], dtype=np.uint64) + np.arange(1, 4, dtype=np.uint64) * _GAMMA
    assert _mix(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_chance_is_uniform_and_independent_between_seeds_and_neighbours() -> None:
    ids = torch.arange(20_000)
    first, second = chance(ids, 0).numpy(), chance(ids, 1).numpy()
    assert stats.kstest(first, "uniform").pvalue > 1e-3
    assert first.min() >= 0 and first.max() < 1
    for a, b in [(first, second), (first[1:], first[:-1]), (first[1:], second[:-1])]:
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.03


def test_chance_does_not_depend_on_batch_or_order() -> None:
    ids = torch.tensor([5, 3, 900, 17])
    alone = [chance(example[None], 7).item() for example in ids]
    assert chance(ids, 7).tolist() == alone
    assert chance(ids.flip(0), 7).tolist() == alone[::-1]
