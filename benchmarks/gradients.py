"""What do exact per-example gradient norms cost? Time and peak memory against forward + backward of the same batch, and against others.

One step of each method in turn, round after round; a ratio is that of the medians. The step is forward, backward and the aggregated
gradients, in eval mode (BatchNorm in train mode would make it dearer, and the ratios smaller), without an optimizer. What others
refuse is said in the table. BackPACK and Opacus are not installed with the project: `pip install backpack-for-pytorch opacus`.

    python -m benchmarks.gradients [--rounds 7] [--batch 32] [--device cpu] [--precision float32] [--only resnet18] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2ForSequenceClassification

from hf_datadiet.gradients import GradientNorms
from hf_datadiet.gradients.forward import Inputs, each, logits_of
from hf_datadiet.training.heap import keep_memory

CLASSES = 10
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
METHODS = ("hf_datadiet", "one at a time", "torch.func vmap", "BackPACK", "Opacus hooks", "Opacus ghost")
Method = Callable[[], torch.Tensor | None]


@dataclass(frozen=True)
class Row:
    """One model with inputs of one size."""

    name: str
    model: Callable[[], nn.Module]
    inputs: Callable[[int], Inputs]
    large: bool = False
    """For GPUs only."""


def pixels(size: int) -> Callable[[int], torch.Tensor]:
    """Random images of one size."""
    return lambda b: torch.randn(b, 3, size, size)


def tokens(n: int) -> Callable[[int], dict[str, torch.Tensor]]:
    """Random texts of n tokens."""
    return lambda b: {"input_ids": torch.randint(5, 1000, (b, n))}


def resnet18() -> nn.Module:
    """ResNet-18 as for CIFAR: a 3x3 stem, no pooling behind it."""
    model = timm.create_model("resnet18", num_classes=CLASSES)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return model


def bert(width: int, layers: int, heads: int) -> Callable[[], nn.Module]:
    """BERT of some width and depth."""
    return lambda: BertForSequenceClassification(
        BertConfig(
            vocab_size=8000,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            num_labels=CLASSES,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )


def gpt2() -> nn.Module:
    """A small GPT-2."""
    return GPT2ForSequenceClassification(
        GPT2Config(vocab_size=8000, n_embd=256, n_layer=4, n_head=4, num_labels=CLASSES, pad_token_id=0, n_positions=256, **NO_DROPOUT)
    )


def timm_model(name: str, **keys: Any) -> Callable[[], nn.Module]:
    """A model of timm's."""
    return lambda: timm.create_model(name, num_classes=CLASSES, **keys)


ROWS = (
    Row("ResNet-18, 3x3 stem, 32 px", resnet18, pixels(32)),
    Row("ResNet-50, 64 px", timm_model("resnet50"), pixels(64)),
    Row("ConvNeXt-atto, 64 px", timm_model("convnext_atto"), pixels(64)),
    Row("EfficientNet-B0, 64 px", timm_model("efficientnet_b0"), pixels(64)),
    Row("ViT-tiny, patch 4, 32 px", timm_model("vit_tiny_patch16_224", img_size=32, patch_size=4), pixels(32)),
    Row("BERT-mini, 64 tokens", bert(256, 4, 4), tokens(64)),
    Row("BERT-mini, 256 tokens", bert(256, 4, 4), tokens(256)),
    Row("GPT-2-mini, 64 tokens", gpt2, tokens(64)),
    Row("ViT-S/16, 224 px", timm_model("vit_small_patch16_224"), pixels(224), large=True),
    Row("BERT-base, 128 tokens", bert(768, 12, 12), tokens(128), large=True),
)


def loss_of(model: nn.Module, inputs: Inputs, targets: torch.Tensor) -> torch.Tensor:
    """The mean loss of a batch."""
    return nn.functional.cross_entropy(logits_of(model, inputs).float(), targets)


def step(model: nn.Module, inputs: Inputs, targets: torch.Tensor) -> Method:
    """Forward, backward, aggregated gradients."""

    def method() -> None:
        model.zero_grad()
        loss_of(model, inputs, targets).backward()

    return method


def ours(model: nn.Module, inputs: Inputs, targets: torch.Tensor) -> Method:
    """The engine of this project."""
    norms_of = GradientNorms(model)
    return lambda: norms_of(inputs, targets).norms


def one_at_a_time(model: nn.Module, inputs: Inputs, targets: torch.Tensor) -> Method:
    """Plain autograd, one example after the other."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def method() -> torch.Tensor:
        norms = []
        for i in range(len(targets)):
            loss = loss_of(model, each(lambda values, i=i: values[i : i + 1], inputs), targets[i : i + 1])
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
            norms.append(nn.utils.get_total_norm([gradient for gradient in found if gradient is not None]))
        return torch.stack(norms)

    return method


def by_vmap(model: nn.Module, inputs: Inputs, targets: torch.Tensor) -> Method:
    """torch.func, 16 examples at once."""
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(weights: dict[str, torch.Tensor], x: Inputs, y: torch.Tensor) -> torch.Tensor:
        def call(*args: torch.Tensor, **kwargs: torch.Tensor) -> Any:
            return functional_call(model, {**weights, **buffers}, args, kwargs)

        return nn.functional.cross_entropy(logits_of(call, each(lambda values: values[None], x)).float(), y[None])

    def norm(x: Inputs, y: torch.Tensor) -> torch.Tensor:
        return torch.stack([gradient.square().sum() for gradient in grad(loss)(weights, x, y).values()]).sum().sqrt()

    return lambda: vmap(norm, chunk_size=16)(inputs, targets)


def backpack(model: nn.Module, inputs: Inputs, targets: torch.Tensor) -> Method:
    """BackPACK's squared norms, no gradient kept."""
    from backpack import backpack as extensions
    from backpack import extend
    from backpack.extensions import BatchL2Grad

    converter = not isinstance(inputs, dict)
    extended, loss = extend(model, use_converter=converter), extend(nn.CrossEntropyLoss(reduction="sum"))
    extended.eval()

    def method() -> torch.Tensor:
        extended.zero_grad()
        with extensions(BatchL2Grad()):
            loss(logits_of(extended, inputs), targets).backward()
        return torch.stack([parameter.batch_l2 for parameter in extended.parameters()]).sum(0).sqrt()

    return method


def opacus(ghost: bool) -> Callable[[nn.Module, Inputs, torch.Tensor], Method]:
    """Opacus: per-example gradients by hooks, or ghost norms."""

    def made(model: nn.Module, inputs: Inputs, targets: torch.Tensor) -> Method:
        from opacus.grad_sample import GradSampleModule
        from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import GradSampleModuleFastGradientClipping as Ghost

        # It listens in train mode only; where that is another model, its norms differ from autograd's, and the table says so.
        model.train()
        keys: dict[str, Any] = {"loss_reduction": "sum", "strict": True}
        wrapped = Ghost(model, max_grad_norm=1.0, use_ghost_clipping=True, **keys) if ghost else GradSampleModule(model, **keys)

        def method() -> torch.Tensor:
            wrapped.zero_grad()
            nn.functional.cross_entropy(logits_of(wrapped, inputs), targets, reduction="sum").backward()
            if ghost:
                return wrapped.get_norm_sample()
            return torch.stack([parameter.grad_sample.flatten(1).norm(dim=1) for parameter in wrapped.parameters()]).norm(dim=0)

        return method

    return made


def methods() -> Iterator[tuple[str, Callable[[nn.Module, Inputs, torch.Tensor], Method]]]:
    """All methods by name."""
    yield from zip(METHODS, (ours, one_at_a_time, by_vmap, backpack, opacus(False), opacus(True)), strict=True)


def peak(method: Method, device: torch.device) -> int:
    """Bytes of tensors that the method has alive at most, beside those that stand before it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        method()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        method()
    held = most = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def seconds(method: Method, device: torch.device) -> float:
    """One call, the device waited for."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    method()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measured(row: Row, args: argparse.Namespace) -> dict[str, Any]:
    """All methods on one row."""
    device = torch.device(args.device)
    torch.manual_seed(0)
    model = row.model().to(device).eval()
    inputs = each(lambda values: values.to(device), row.inputs(args.batch))
    targets = torch.randint(0, CLASSES, (args.batch,), device=device)
    found: dict[str, Method] = {"step": step(model, inputs, targets)}
    refused: dict[str, str] = {}
    truth = one_at_a_time(model, inputs, targets)()
    for name, make in methods():
        try:
            made = make(copy.deepcopy(model), inputs, targets)
            norms = made()
            assert norms is not None
            if not torch.allclose(norms.float(), truth, rtol=1e-2 if args.precision == "bf16" else 1e-3):
                refused[name] = "other norms"
                continue
            found[name] = made
        except Exception as error:
            refused[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:60]}" if str(error) else type(error).__name__
    taken: dict[str, list[float]] = {name: [] for name in found}
    for method in found.values():
        seconds(method, device)
    for turn in range(args.rounds):
        for name in list(found) if turn % 2 == 0 else reversed(list(found)):
            taken[name].append(seconds(found[name], device))
    memory = {name: peak(method, device) for name, method in found.items()}
    return {
        "row": row.name,
        "step_seconds": statistics.median(taken["step"]),
        "time": {name: statistics.median(taken[name]) / statistics.median(taken["step"]) for name in found if name != "step"},
        "memory": {name: memory[name] / memory["step"] for name in found if name != "step"},
        "refused": refused,
    }


def main() -> None:
    """Print the table, and write it as JSON if asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--only", default="")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    keep_memory()
    rows = [row for row in ROWS if args.only.lower() in row.name.lower() and (args.device != "cpu" or not row.large)]
    print(f"{platform.machine()}, {args.device}, {torch.get_num_threads()} threads, torch {torch.__version__},", end=" ")
    print(f"batch {args.batch}, {args.precision}\n")
    print("time (and peak memory) as a multiple of forward + backward of the same batch\n")
    print("| model | step, ms | " + " | ".join(METHODS) + " |\n|---|---:|" + "---:|" * len(METHODS))
    results = []
    for row in rows:
        with torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16"):
            result = measured(row, args)
        results.append(result)
        cells = [f"{result['time'][name]:.2f} ({result['memory'][name]:.2f})" if name in result["time"] else "refused" for name in METHODS]
        print(f"| {row.name} | {result['step_seconds'] * 1000:.0f} | " + " | ".join(cells) + " |", flush=True)
    print()
    for result in results:
        for name, why in result["refused"].items():
            print(f"- {result['row']}: {name} refused: {why}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
