"""Both engines against float64 autograd, on the kinds of layers that are easily got wrong."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from hf_datadiet.gradients import GradientNorms, norms
from tests.references import gradients as reference

ENGINES = ("loop", "vmap")
# One more than a chunk of `vmap`, so that the last chunk holds a single example.
N = norms.VMAP_CHUNK + 1


class Block(nn.Module):
    """A residual block with strides, BatchNorm and in-place ReLU."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Conv2d(width_in, width, 1, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += self.shortcut(x)
        return self.relu(y)


def resnet() -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
    return nn.Sequential(stem, Block(6, 8, 1), Block(8, 10, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 4))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, width = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, n, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) / (width // self.heads) ** 0.5).softmax(dim=-1)
        return x + self.out((weights @ v).transpose(1, 2).reshape(b, n, width))


class ViT(nn.Module):
    """Patches, a class token and position embeddings that are bare parameters, LayerNorm, dropout; the same block applied twice."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.position = nn.Parameter(0.02 * torch.randn(1, 5, 8))
        self.attention = Attention(8, 2)
        self.mlp = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Dropout(0.5), nn.Linear(16, 8))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.position
        for _ in range(2):
            x = self.attention(x)
            x = x + self.mlp(x)
        return self.head(self.norm(x[:, 0]))


class Gated(nn.Module):
    """Which weights are used depends on values, which torch.func.vmap cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(192, 4), nn.Linear(192, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        return self.left(x) if x.sum() > 0 else self.right(x)


def batch(n: int = N) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return 2 * torch.randn(n, 3, 8, 8, generator=generator) + 0.5, torch.randint(0, 4, (n,), generator=generator)


def trained(model: nn.Module) -> nn.Module:
    """The model in eval mode after some steps: weights, biases and running statistics are no longer what they began as."""
    inputs, targets = batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval()


@pytest.fixture(params=[resnet, ViT], ids=["resnet", "vit"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return trained(request.param())


def assert_exact(got: torch.Tensor, model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> None:
    """Within the larger of 1e-4 relative and three times what float32 autograd itself is off."""
    exact, single = reference.norms(model, inputs, targets), reference.norms(model, inputs, targets, torch.float32)
    assert got.dtype == torch.float32 and got.shape == (len(targets),) and not got.requires_grad
    for value, truth, rounded in zip(got.tolist(), exact, single, strict=True):
        assert abs(value - truth) <= max(1e-4 * truth, 3 * abs(rounded - truth))


@pytest.mark.parametrize("engine", ENGINES)
def test_norms_are_those_of_float64_autograd(model: nn.Module, engine: norms.Engine) -> None:
    inputs, targets = batch()
    assert_exact(GradientNorms(model, engine=engine)(inputs, targets).norms, model, inputs, targets)


@pytest.mark.parametrize("engine", ENGINES)
def test_frozen_parameters_are_left_out(model: nn.Module, engine: norms.Engine) -> None:
    inputs, targets = batch(5)
    everything = GradientNorms(model, engine=engine)(inputs, targets).norms
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("bias" in name or name.endswith("5.weight"))
    got = GradientNorms(model, engine=engine)(inputs, targets).norms
    assert_exact(got, model, inputs, targets)
    assert (got < 0.99 * everything).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_parameter_without_use_adds_nothing(model: nn.Module, engine: norms.Engine) -> None:
    inputs, targets = batch(5)
    before = GradientNorms(model, engine=engine)(inputs, targets).norms
    model.register_parameter("unused", nn.Parameter(torch.ones(3)))
    model.get_submodule("0" if isinstance(model, nn.Sequential) else "mlp").register_parameter("never_called", nn.Parameter(torch.ones(2)))
    got = GradientNorms(model, engine=engine)(inputs, targets).norms
    assert_exact(got, model, inputs, targets)
    torch.testing.assert_close(got, before, rtol=1e-6, atol=0)


@pytest.mark.parametrize("engine", ENGINES)
def test_tied_weights_count_once_with_their_cross_terms(engine: norms.Engine) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        first, second = nn.Linear(192, 192), nn.Linear(192, 192)
        second.weight = first.weight
        model = nn.Sequential(nn.Flatten(), first, nn.Tanh(), second, nn.Tanh(), nn.Linear(192, 4)).eval()
    inputs, targets = batch(5)
    assert_exact(GradientNorms(model, engine=engine)(inputs, targets).norms, model, inputs, targets)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_rest_of_the_batch_does_not_matter(model: nn.Module, engine: norms.Engine) -> None:
    inputs, targets = batch()
    compute = GradientNorms(model, engine=engine)
    whole = compute(inputs, targets).norms
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(compute(inputs[order], targets[order]).norms, whole[order], rtol=1e-5, atol=1e-6)
    parts = [compute(inputs[rows], targets[rows]).norms for rows in torch.arange(N).split(10)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=1e-6)
    alone = torch.cat([compute(inputs[i : i + 1], targets[i : i + 1]).norms for i in range(3)])
    torch.testing.assert_close(alone, whole[:3], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_logits_and_losses_are_those_of_the_plain_forward_pass(model: nn.Module, engine: norms.Engine) -> None:
    inputs, targets = batch()
    result = GradientNorms(model, engine=engine)(inputs, targets)
    with torch.no_grad():
        logits = model(inputs)
    torch.testing.assert_close(result.logits, logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result.losses, nn.functional.cross_entropy(logits, targets, reduction="none"), rtol=1e-5, atol=1e-5)
    assert not result.logits.requires_grad and not result.losses.requires_grad


@pytest.mark.parametrize("engine", ENGINES)
def test_a_wrapped_output_is_unpacked(engine: norms.Engine) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.inner(x)}

    model, (inputs, targets) = Wrapped().eval(), batch(4)
    got = GradientNorms(model, engine=engine)(inputs, targets)
    assert_exact(got.norms, model.inner, inputs, targets)


@pytest.mark.parametrize("engine", ENGINES)
def test_train_mode_is_refused(model: nn.Module, engine: norms.Engine) -> None:
    inputs, targets = batch(3)
    compute = GradientNorms(model, engine=engine)
    model.train()
    with pytest.raises(ValueError, match=r"model\.eval\(\).*not independent"):
        compute(inputs, targets)
    # One layer is enough to mix the batch.
    model.eval()
    next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d | nn.Dropout)).train()
    with pytest.raises(ValueError, match=r"model\.eval\(\).*not independent"):
        compute(inputs, targets)


def state_of(model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor | None], list[bool]]:
    grads = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    return copy.deepcopy(model.state_dict()), grads, [module.training for module in model.modules()]


def assert_untouched(model: nn.Module, before: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor | None], list[bool]]) -> None:
    values, grads, modes = state_of(model)
    for name, value in before[0].items():
        assert torch.equal(values[name], value), name
    for name, grad in before[1].items():
        assert (grads[name] is None) if grad is None else torch.equal(grads[name], grad), name
    assert modes == before[2]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_model_is_left_as_it_was(model: nn.Module, engine: norms.Engine) -> None:
    inputs, targets = batch(5)
    # Half of the parameters hold a gradient, as in the middle of someone's training.
    for position, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, 2.0) if position % 2 else None
    before = state_of(model)
    with torch.no_grad():
        GradientNorms(model, engine=engine)(inputs, targets)
    assert_untouched(model, before)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("train_mode", [True, False])
def test_fastest_engine_leaves_the_model_as_it_was(model: nn.Module, train_mode: bool) -> None:
    inputs, targets = batch(4)
    model.train(train_mode)
    before = state_of(model)
    assert norms.fastest_engine(model, inputs, targets) in ENGINES
    assert_untouched(model, before)


@pytest.mark.parametrize("faster", ENGINES)
def test_fastest_engine_is_the_faster_one(model: nn.Module, faster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "_timed", lambda compute, inputs, targets: 1.0 if compute.engine == faster else 2.0)
    assert norms.fastest_engine(model, *batch(4)) == faster


def test_control_flow_on_values_falls_back_to_loop() -> None:
    model, (inputs, targets) = Gated().eval(), batch(6)
    inputs[::2] -= 2
    assert norms.fastest_engine(model, inputs, targets) == "loop"
    assert_exact(GradientNorms(model, engine="loop")(inputs, targets).norms, model, inputs, targets)


def test_a_model_that_fails_in_both_engines_says_so() -> None:
    model, (inputs, targets) = nn.Sequential(nn.Flatten(), nn.Linear(5, 4)).eval(), batch(4)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        norms.fastest_engine(model, inputs, targets)
