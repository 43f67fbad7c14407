"""Norms against float64 autograd, on the smallest member of every family that timm registers.

With DATADIET_FALLBACKS=FILE a Markdown table of how every parameter was computed is written there.
"""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from hf_datadiet.gradients import GradientNorms
from hf_datadiet.gradients.routes import FALLBACK

pytestmark = [
    pytest.mark.models,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # how a library warns of itself says nothing about gradients
]

SMALL = ("test_", "atto", "femto", "pico", "nano", "tiny", "_ti", "_xxs", "_050", "_035")
"""What the smallest members of a large family have in their names; the first of these that occurs."""

COUNTED = 12
"""Members up to which a family is counted whole."""

SHALLOW: Mapping[str, Mapping[str, Any]] = {
    "beit": {"depth": 2},
    "deepseek_vit": {"depth": 2},
    "gemma4_vit": {"depth": 2, "global_pool": "avg"},
    "naflexvit": {"depth": 2},
    "nasnet": {"num_features": 1152, "stem_size": 24},
    "qwen3_vit": {"depth": 2},
    "vgg": {"mlp_ratio": 0.125},
    "vision_transformer_sam": {"depth": 2},
}
"""{family without a small member: keywords that leave out repeated blocks}"""

REFUSED: Mapping[str, str] = {}
"""{family whose examples have no gradients of their own: why}"""

WITHOUT_LOGITS: Mapping[str, str] = {}
"""{family that gives no logits of classes, or cannot be built offline: why}"""

SIZES = (64, 96, 128, 160, 192, 224, 256, 299, 331)


def smallest(family: str) -> str:
    """The member with the fewest parameters, of those whose names say that they are small where there are many."""
    names = timm.list_models(module=family)
    if len(names) > COUNTED:
        names = next((found for word in SMALL if (found := [name for name in names if word in name])), names)
    return min(names, key=lambda name: parameters_of(name, SHALLOW.get(family, {})))


def parameters_of(name: str, keywords: Mapping[str, Any]) -> int:
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False, num_classes=5, **keywords)
    return sum(parameter.numel() for parameter in model.parameters())


def built(family: str, name: str) -> tuple[nn.Module, int]:
    """(model, image size): the smallest size that it takes."""
    errors = []
    for size, keywords in attempts():
        try:
            model = timm.create_model(name, pretrained=False, num_classes=5, **SHALLOW.get(family, {}), **keywords(size)).eval()
            with torch.no_grad():
                logits = model(torch.zeros(1, 3, size, size))
        except (RuntimeError, ValueError, AssertionError, TypeError, IndexError, ZeroDivisionError) as error:
            errors.append(f"{size}: {error}")
            continue
        assert logits.ndim == 2 and len(logits) == 1 and logits.shape[1] >= 5
        return model, size
    raise AssertionError(errors)


def attempts() -> Iterator[tuple[int, Any]]:
    for size in SIZES:
        yield size, lambda size: {}
        yield size, lambda size: {"img_size": size}


def perturbed(model: nn.Module, inputs: torch.Tensor) -> nn.Module:
    """Scales that begin at zero would hide whole branches, and so would statistics that have not begun."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
        norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._NormBase)]
        for norm in norms:
            norm.train()
            norm.momentum = 1.0
        model(inputs)
        for norm in norms:
            norm.eval()
            if norm.running_mean is not None and norm.running_var is not None:
                # Near what these inputs have, and no narrower than their means: a deep model would explode otherwise.
                norm.running_var.add_(norm.running_mean.square() + 0.01).mul_(0.9 + 0.2 * torch.rand_like(norm.running_var))
                norm.running_mean += 0.05 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
    return model


@pytest.mark.parametrize("family", timm.list_modules())
def test_norms_of_a_family_are_those_of_float64_autograd(family: str) -> None:
    if family in WITHOUT_LOGITS:
        pytest.skip(WITHOUT_LOGITS[family])
    with torch.random.fork_rng():
        torch.manual_seed(11)
        name = smallest(family)
        model, size = built(family, name)
        inputs, targets = torch.randn(3, 3, size, size), torch.tensor([0, 3, 1])
        perturbed(model, inputs)
    engine = GradientNorms(model, measure=False)
    if family in REFUSED:
        with pytest.raises(ValueError, match="beside others"):
            engine(inputs, targets)
        pytest.skip(REFUSED[family])
    got = engine(inputs, targets)
    note(family, name, size, model, got.routes)
    exact, alone = (autograd(model, inputs, targets, dtype) for dtype in (torch.float64, torch.float32))
    for value, truth, *rounded in zip(got.norms.tolist(), exact, alone, in_batch(model, inputs, targets), strict=True):
        assert truth > 1e-2, "certain of the example: its gradient says nothing"
        assert abs(value - truth) <= max(1e-4 * truth, 3 * max(abs(norm - truth) for norm in rounded))


def autograd(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor, dtype: torch.dtype) -> list[float]:
    """Each example beside a copy of itself, in a model of its own.

    Some models keep parts of a graph, which a second pass cannot go through again. And alone an example may get a wrong gradient: on CPUs
    the backward pass of BatchNorm2d at rest (torch 2.15) mistakes the order of elements of one image where tokens are made of the output.
    """
    return [in_batch(model, inputs[[i, i]], targets[[i, i]], dtype)[0] for i in range(len(targets))]


def in_batch(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor, dtype: torch.dtype = torch.float32) -> list[float]:
    """Each example's norm beside the others: where a ReLU is near zero the last bit decides, and another batch has another."""
    twin = copy.deepcopy(model).to(dtype)
    parameters = [parameter for parameter in twin.parameters() if parameter.requires_grad]
    found = []
    for loss in nn.functional.cross_entropy(twin(inputs.to(dtype)), targets, reduction="none"):
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        found.append(sum(float(gradient.double().square().sum()) for gradient in gradients if gradient is not None) ** 0.5)
    return found


def test_what_is_left_out_is_still_there() -> None:
    assert set(SHALLOW) | set(REFUSED) | set(WITHOUT_LOGITS) <= set(timm.list_modules())


def note(family: str, name: str, size: int, model: nn.Module, routes: Mapping[str, str]) -> None:
    """One line of the table."""
    if "DATADIET_FALLBACKS" not in os.environ:
        return
    taken = Counter("fallback" if route.startswith(FALLBACK) else route.removeprefix("several: ") for route in routes.values())
    reasons = {key: route.removeprefix(FALLBACK) for key, route in routes.items() if route.startswith(FALLBACK)}
    cells = [
        family,
        f"{name} at {size}",
        f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f} M",
        ", ".join(f"{n} {route}" for route, n in taken.most_common()),
        "; ".join(f"{key} ({reason})" for key, reason in reasons.items()),
    ]
    table = Path(os.environ["DATADIET_FALLBACKS"])
    head = "" if table.exists() else "| family | model | parameters | routes | fell back |\n| --- | --- | --- | --- | --- |\n"
    with table.open("a") as file:
        file.write(f"{head}| {' | '.join(cells)} |\n")
