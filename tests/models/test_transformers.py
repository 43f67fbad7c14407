"""Norms against float64 autograd on every architecture of transformers that classifies texts, images or sounds.

What cannot be built small, or is refused, stands in `LEFT_OUT` with the reason, and a test sees that it is still so. Beside them: attention
caches, layers that are shared, heads that are tied, adapters.
"""

from __future__ import annotations

import copy
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING
from transformers.models.auto import modeling_auto

from hf_datadiet.gradients import GradientNorms, NormsResult
from hf_datadiet.gradients.forward import Inputs, each
from tests.models.tiny_transformers import LABELS, B, architectures, built, inputs_of, texts

pytestmark = [pytest.mark.models, pytest.mark.slow]


def by_autograd(model: nn.Module, inputs: Inputs, targets: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[B, parameters] float64: the norm of every trainable parameter's gradient, one example at a time, computed in `dtype`.

    Each stands beside itself: torch's batch norms may get an example alone wrong (`hf_datadiet/gradients/single.py`).
    """
    twin: Any = copy.deepcopy(model).to(dtype)
    if isinstance(twin, transformers.PreTrainedModel) and twin._can_set_experts_implementation():
        twin.set_experts_implementation("eager")  # the other ways know no float64
    own: Any = each(lambda values: values.to(dtype) if values.is_floating_point() else values, inputs)
    wanted = [parameter for parameter in twin.parameters() if parameter.requires_grad]
    rows = []
    for i in range(B):
        logits = twin(**{name: values[[i, i]] for name, values in own.items()}).logits
        loss = nn.functional.cross_entropy(logits[:1], targets[i : i + 1])
        found = torch.autograd.grad(loss, wanted, allow_unused=True)
        rows.append(
            torch.stack([torch.zeros((), dtype=torch.float64) if gradient is None else gradient.double().norm() for gradient in found])
        )
    return torch.stack(rows)


def checked(model: nn.Module, inputs: Inputs) -> NormsResult:
    """What the engine says, after it was found to be right: within the larger of 1e-4 and three times float32 autograd's own error."""
    targets = torch.arange(B) % LABELS
    result = GradientNorms(model, measure=False)(inputs, targets)
    truth, single = (by_autograd(model, inputs, targets, dtype) for dtype in (torch.float64, torch.float32))
    exact, rounded = truth.norm(dim=1), single.norm(dim=1)
    assert (exact > 0).all()
    assert ((result.norms - exact).abs() <= torch.maximum(1e-4 * exact, 3 * (rounded - exact).abs())).all(), (result.norms, exact, rounded)
    got = torch.stack(list(result.by_parameter.values()), 1)
    allowed = torch.maximum(1e-3 * truth + 1e-5 * exact[:, None], 3 * (single - truth).abs())
    wrong = ((got - truth).abs() > allowed).any(0)
    assert not wrong.any(), [name for name, differs in zip(result.by_parameter, wrong, strict=True) if differs]
    return result


LEFT_OUT = {
    "canine": "not finite: autograd itself gives NaN, in float64 too",
    "cohere_compass_text": "KeyError: full_attention",
    "vision dinat": "ImportError: natten",
    "gpt_neo": "ClassValidationError: attention_layers",
    "vision hgnet_v2": "RuntimeError: mat1 and mat2 shapes",
    "layoutlmv2": "ImportError: detectron2",
    "vision levit": "RuntimeError: backward through the graph a second time",
    "lilt": "RuntimeError: mat1 and mat2 shapes",
    "mistral4": "RuntimeError: size of tensor",
    "mra": "RuntimeError: Float and Double",
    "vision pp_lcnet": "AttributeError: logits",
    "qwen3_5": "ValueError: no padding token",
    "reformer": "AssertionError: model.train()",
    "vision shieldgemma2": "IndexError: out of bounds",
    "vision siglip2": "RuntimeError: mat1 and mat2 shapes",
    "xmod": "ValueError: Input language unknown",
    "zamba": "ValueError: tie_weights_keys",
    "zamba2": "ClassValidationError: layer_types",
}
"""What has no norms to compare with, and what is said of it (the error, then words of its message).

Parts that only a full size, a further package or a further input makes fit; and levit, which keeps the graph of its position biases from
one call to the next, so that nobody can differentiate it twice in eval mode.
"""


ALL = {kind if registry == "text" else f"{registry} {kind}": (registry, kind, name) for registry, kind, name in architectures()}


@pytest.fixture(autouse=True)
def surroundings() -> Iterator[None]:
    """The same random numbers every time; and what the library warns of is its own affair."""
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        yield


def table(architecture: str, result: NormsResult) -> None:
    """One more row of the file that DATADIET_FALLBACKS names."""
    if (where := os.environ.get("DATADIET_FALLBACKS")) is None:
        return
    path, fallen = Path(where), [(name, route.removeprefix("fallback: ")) for name, route in result.routes.items() if "fallback: " in route]
    routes = Counter(route.removeprefix("several: ").split(": ")[0] for route in result.routes.values())
    reasons = Counter((re.sub(r"\d+", "*", name), reason) for name, reason in fallen)
    shown = "; ".join(f"`{name}` ({n}): {reason}" for (name, reason), n in reasons.items()).replace("|", "/")
    head = "" if path.exists() else "| architecture | parameters | routes | fallbacks |\n|---|--:|---|---|\n"
    counted = ", ".join(f"{n} {route}" for route, n in sorted(routes.items()))
    with path.open("a") as file:
        file.write(f"{head}| {architecture} | {len(result.routes)} | {counted} | {shown} |\n")


def tried(registry: str, kind: str, name: str) -> None:
    """All that stands between an architecture and its norms."""
    model = built(kind, name)
    inputs = inputs_of(model, registry)
    assert by_autograd(model, inputs, torch.arange(B), torch.float64).isfinite().all(), "not finite"
    GradientNorms(model, measure=False)(inputs, torch.arange(B))


@pytest.mark.parametrize("architecture", list(ALL))
def test_norms_are_those_of_float64_autograd(architecture: str) -> None:
    registry, kind, name = ALL[architecture]
    if architecture not in LEFT_OUT:
        model = built(kind, name)
        table(f"transformers {architecture}", checked(model, inputs_of(model, registry)))
        return
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the library's own, of many kinds; what it says is compared below
        tried(registry, kind, name)
    error, _, words = LEFT_OUT[architecture].partition(": ")
    said = f"{type(caught.value).__name__}: {caught.value}"
    assert error in said and (error == "not finite" or words in said), said
    pytest.skip(LEFT_OUT[architecture])


def kind_of(registry: str, kind: str) -> str:
    """Encoder, decoder, encoder-decoder, vision or audio, by what else the library has of it."""
    if registry != "text":
        return registry
    if getattr(CONFIG_MAPPING[kind], "is_encoder_decoder", False) or kind in modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return "encoder-decoder"
    masked = kind in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return "decoder" if kind in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not masked else "encoder"


def test_many_architectures_of_every_kind_are_compared() -> None:
    assert set(LEFT_OUT) <= set(ALL)
    kinds = Counter(kind_of(registry, kind) for name, (registry, kind, _) in ALL.items() if name not in LEFT_OUT)
    assert sum(kinds.values()) >= 30 and set(kinds) == {"encoder", "decoder", "encoder-decoder", "vision", "audio"}, kinds
    assert min(kinds.values()) >= 3, kinds


@pytest.mark.parametrize(("kind", "name"), [("gpt2", "GPT2"), ("llama", "Llama"), ("t5", "T5")])
def test_attention_caches_are_left_on(kind: str, name: str) -> None:
    model = built(kind, f"{name}ForSequenceClassification")
    inputs = inputs_of(model, "text")
    assert model.config.use_cache and model(**inputs).past_key_values is not None
    assert not any("fallback" in route for route in checked(model, inputs).routes.values())


def test_shared_layers_count_once() -> None:
    model = built("albert", ALL["albert"][2])
    result = checked(model, inputs_of(model, "text"))
    shared = [route for name, route in result.routes.items() if ".albert_layers." in name]
    assert model.config.num_hidden_layers > 1 and shared and all(route.startswith("several: ") for route in shared)


class Tied(nn.Module):
    """A language model that answers with the logits of the first words after the last token: its head is its embedding."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: torch.Tensor) -> Any:
        output = self.model(**inputs)
        return type(output)(logits=output.logits[:, -1, 5 : 5 + LABELS])


def test_tied_embeddings_and_heads_count_once() -> None:
    model = built("gpt2", "GPT2LMHeadModel")
    assert model.lm_head.weight is model.transformer.wte.weight
    result = checked(Tied(model).eval(), {"input_ids": texts()["input_ids"]})
    assert result.routes["model.transformer.wte.weight"] == "several: matrix"


class LoRA(nn.Module):
    """A linear layer, frozen, and beside it a trainable one of rank 2."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.A = nn.Parameter(0.2 * torch.randn(2, base.in_features))
        self.B = nn.Parameter(0.2 * torch.randn(base.out_features, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + x @ self.A.mT @ self.B.mT


def test_of_adapters_only_the_adapters_count() -> None:
    model = built("llama", ALL["llama"][2])
    inputs = inputs_of(model, "text")
    everything = GradientNorms(model, measure=False)(inputs, torch.arange(B)).norms
    model.requires_grad_(False)
    adapted = [name for name, _ in model.named_modules() if name.endswith(("q_proj", "v_proj"))]
    for name in adapted:
        model.set_submodule(name, LoRA(model.get_submodule(name)))
    result = checked(model.eval(), inputs)
    assert set(result.routes) == {f"{name}.{key}" for name in adapted for key in "AB"}
    assert (result.norms < 0.5 * everything).all()
