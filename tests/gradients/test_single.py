"""An example alone has the norm that it has beside others, also where torch's batch norms mistake the order of memory."""

from __future__ import annotations

import torch
from torch import nn

from hf_datadiet.gradients import GradientNorms


class Tokens(nn.Module):
    """A batch norm over a map that is read as tokens behind it, so that its gradient is laid out channels-last."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.norm, self.after, self.head = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.norm(self.before(x)).flatten(2).permute(0, 2, 1).contiguous()
        return self.head(self.after(tokens).tanh().mean(1))


def test_an_example_alone_has_the_norm_that_it_has_beside_others() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = Tokens().eval()
        inputs, targets = torch.randn(3, 3, 4, 4), torch.tensor([0, 1, 2])
    losses = nn.functional.cross_entropy(model(inputs), targets, reduction="none")
    exact = torch.stack(
        [nn.utils.get_total_norm(torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)) for loss in losses]
    )
    compute = GradientNorms(model, measure=False)
    result = compute(inputs, targets)
    assert not any("fallback" in route for route in result.routes.values()), result.routes
    torch.testing.assert_close(result.norms, exact, rtol=1e-5, atol=0)
    alone = torch.cat([compute(inputs[i : i + 1], targets[i : i + 1]).norms for i in range(3)])
    torch.testing.assert_close(alone, exact, rtol=1e-5, atol=0)
