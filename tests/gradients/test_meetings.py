"""Parameters without a layer of their own, and what modules keep of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hf_datadiet.gradients import GradientNorms
from hf_datadiet.gradients.raw import LARGEST_COPIED
from tests.references import gradients as reference

N = 5


class Functional(nn.Module):
    """A layer's matrix, too large for copies, with a bias that is put together; and a matrix that is made of a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(512, 600, bias=False)
        self.q, self.v = nn.Parameter(torch.randn(300)), nn.Parameter(torch.randn(300))
        self.direction, self.length = nn.Parameter(torch.randn(4, 600)), nn.Parameter(torch.ones(4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.linear(x, self.qkv.weight, torch.cat([self.q, self.v])).tanh()
        return nn.functional.linear(x, self.length * nn.functional.normalize(self.direction), bias=None).mean(1)


class Relative(nn.Module):
    """Positions that meet the queries in a sum of products."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.head = nn.Linear(512, 12), nn.Linear(9, 4)
        self.table = nn.Parameter(torch.randn(17, 12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        near = self.table[torch.arange(9)[:, None] - torch.arange(9)[None] + 8]
        return self.head(torch.einsum("bqc,qkc->bqk", self.q(x), near).softmax(-1)[:, 0])


class Keeping(nn.Module):
    """Keeps at rest what it made of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(512, 12), nn.Linear(12, 4)
        self.table = nn.Parameter(torch.randn(3, 12))
        self.kept: dict[str, torch.Tensor] = {}

    def train(self, mode: bool = True) -> Keeping:
        self.kept.clear()
        return super().train(mode)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if "places" not in self.kept:
            self.kept["places"] = self.table[torch.arange(9) % 3]
        return self.head((self.first(x) + self.kept["places"]).tanh().mean(1))


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(N, 9, 512, generator=generator), torch.randint(0, 4, (N,), generator=generator)


def exact(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """A copy for each example: what one keeps has the graph of another."""
    return torch.tensor([reference.norms(model, inputs[i : i + 1], targets[i : i + 1])[0] for i in range(N)])


def seeded(make: type[nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return make().eval()


@pytest.mark.parametrize("make", [Functional, Relative])
def test_functions_of_parameters_are_followed(make: type[nn.Module]) -> None:
    model = seeded(make)
    assert make is Relative or model.get_parameter("qkv.weight").numel() > LARGEST_COPIED
    got = GradientNorms(model, measure=False)(*batch(1))
    torch.testing.assert_close(got.norms, exact(model, *batch(1)), rtol=1e-4, atol=0, check_dtype=False)
    assert not [route for route in got.routes.values() if route.startswith("fallback")]


def test_what_a_module_keeps_of_its_weights_is_made_anew() -> None:
    model = seeded(Keeping)
    truth = [exact(model, *batch(seed)) for seed in (1, 2)]
    with torch.no_grad():
        model(batch(1)[0])
    engine = GradientNorms(model, measure=False)
    for seed, norms in zip((1, 2), truth, strict=True):
        got = engine(*batch(seed))
        torch.testing.assert_close(got.norms, norms, rtol=1e-4, atol=0, check_dtype=False)
        assert (got.by_parameter["table"] > 0).all()
        assert model.kept == {}
