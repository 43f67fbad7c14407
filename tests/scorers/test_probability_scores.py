"""loss, margin and entropy against their second implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hf_datadiet.scorers.entropy import entropy
from hf_datadiet.scorers.loss import loss
from hf_datadiet.scorers.margin import margin
from tests.references import scores as reference


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(200, 6, generator=generator) * 4, torch.randint(0, 6, (200,), generator=generator)


def test_loss(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = batch
    expected = [reference.loss(row, label) for row, label in zip(logits.tolist(), labels.tolist(), strict=True)]
    np.testing.assert_allclose(loss(logits, labels).numpy(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss(logits, labels), torch.nn.functional.cross_entropy(logits, labels, reduction="none"))


def test_margin(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = batch
    expected = [reference.margin(row, label) for row, label in zip(logits.tolist(), labels.tolist(), strict=True)]
    np.testing.assert_allclose(margin(logits, labels).numpy(), expected, rtol=1e-5, atol=1e-6)
    right = (logits.argmax(dim=1) == labels).numpy()
    np.testing.assert_array_equal(margin(logits, labels).numpy() > 0, right)


def test_entropy(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, _ = batch
    expected = [reference.entropy(row) for row in logits.tolist()]
    np.testing.assert_allclose(entropy(logits).numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lead", [16.0, 30.0, 60.0])
def test_loss_and_entropy_keep_their_digits_when_the_model_is_sure(lead: float) -> None:
    others = [math.exp(-lead), math.exp(-lead - 1)]
    logits = torch.tensor([[lead, 0.0, -1.0]])
    assert loss(logits, torch.tensor([0])).item() == pytest.approx(math.log1p(sum(others)), rel=1e-5, abs=0)
    # To first order in the small probabilities: q (1 - log q) each.
    assert entropy(logits).item() == pytest.approx(sum(q * (1 - math.log(q)) for q in others), rel=1e-5, abs=0)


def test_a_probability_of_zero_adds_no_entropy() -> None:
    assert entropy(torch.tensor([[0.0, 0.0, float("-inf")], [0.0, 0.0, -1e30]])).tolist() == pytest.approx([math.log(2)] * 2)
    assert entropy(torch.zeros(1, 10)).item() == pytest.approx(math.log(10))


def test_half_precision_is_upcast_first(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = batch[0].half(), batch[1]
    assert torch.equal(loss(logits, labels), loss(logits.float(), labels))
    assert torch.equal(margin(logits, labels), margin(logits.float(), labels))
    assert torch.equal(entropy(logits), entropy(logits.float()))
