from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hf_datadiet.scorers.el2n import SCORER, el2n
from tests.references import scores as reference


def test_against_the_second_implementation() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 7, generator=generator) * 4
    labels = torch.randint(0, 7, (200,), generator=generator)
    expected = [reference.el2n(row, label) for row, label in zip(logits.tolist(), labels.tolist(), strict=True)]
    np.testing.assert_allclose(el2n(logits, labels).numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("margin", [8, 16, 30, 60])
def test_no_digit_is_lost_when_the_model_is_sure(margin: float) -> None:
    logits = torch.tensor([[margin, 0.0, -1.0, 0.5]])
    got = el2n(logits, torch.tensor([0])).item()
    assert got == pytest.approx(reference.el2n([margin, 0.0, -1.0, 0.5], 0), rel=1e-5, abs=0)


def test_values_known_by_hand() -> None:
    """Uniform over C: sqrt((1 - 1/C)^2 + (C - 1) / C^2) = sqrt(1 - 1/C); surely wrong: sqrt 2; surely right: 0."""
    labels = torch.tensor([0])
    assert el2n(torch.zeros(1, 4), labels).item() == pytest.approx(math.sqrt(3 / 4))
    assert el2n(torch.tensor([[-500.0, 500.0, -500.0]]), labels).item() == pytest.approx(math.sqrt(2))
    assert el2n(torch.tensor([[500.0, -500.0, -500.0]]), labels).item() == 0.0


def test_half_precision_is_upcast_before_the_softmax() -> None:
    logits = (torch.randn(50, 5, generator=torch.Generator().manual_seed(1)) * 5).half()
    labels = torch.arange(50) % 5
    assert torch.equal(el2n(logits, labels), el2n(logits.float(), labels))
    assert el2n(logits.bfloat16(), labels).dtype == torch.float32


def test_the_declared_range_and_needs() -> None:
    assert (SCORER.needs, SCORER.higher_is, SCORER.low, SCORER.high, SCORER.seeded) == (
        ("logits", "labels"),
        "harder",
        0.0,
        math.sqrt(2),
        True,
    )
