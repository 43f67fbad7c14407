"""Plain autograd: exact for every parameter of every model, and what everything else is compared with."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from hf_datadiet.gradients.factors import chunks
from hf_datadiet.gradients.forward import Inputs, each, logits_of
from hf_datadiet.gradients.single import ContiguousBatchNorms
from hf_datadiet.gradients.sweep import Losses


def one_at_a_time(
    model: nn.Module, wanted: Mapping[str, nn.Parameter], inputs: Inputs, targets: torch.Tensor, losses_of: Losses
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """({name: squared norms float32 [B]}, logits [B, C]): a forward and a backward pass for each example by itself."""
    squares: dict[str, list[torch.Tensor]] = {name: [] for name in wanted}
    logits = []
    with torch.enable_grad(), ContiguousBatchNorms():
        for i in range(len(targets)):
            output = logits_of(model, each(lambda values, i=i: values[i : i + 1], inputs))
            loss = losses_of(output.float(), targets[i : i + 1]).sum()
            found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
            logits.append(output.detach().float())
            for name, gradient in zip(wanted, found, strict=True):
                squares[name].append(loss.new_zeros(()) if gradient is None else gradient.float().square().sum())
    return {name: torch.stack(values).detach() for name, values in squares.items()}, torch.cat(logits)


def batched(
    model: nn.Module, wanted: Mapping[str, nn.Parameter], inputs: Inputs, targets: torch.Tensor, losses_of: Losses
) -> dict[str, torch.Tensor]:
    """{name: squared norms float32 [B]} by torch.func.vmap: the other weights are the same for all examples and stay so.

    Raises RuntimeError (or another error of torch's) where vmap cannot follow the model.
    """
    state = {name: value.detach() for name, value in [*model.named_parameters(), *model.named_buffers()]}

    def loss(weights: dict[str, torch.Tensor], x: Inputs, y: torch.Tensor) -> torch.Tensor:
        def call(*args: torch.Tensor, **kwargs: torch.Tensor) -> object:
            return functional_call(model, {**state, **weights}, args, kwargs)

        return losses_of(logits_of(call, each(lambda values: values[None], x)).float(), y[None]).sum()

    def squares(x: Inputs, y: torch.Tensor) -> dict[str, torch.Tensor]:
        found = grad(loss)({name: parameter.detach() for name, parameter in wanted.items()}, x, y)
        return {name: gradient.float().square().sum() for name, gradient in found.items()}

    parts = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")
        for rows in chunks(len(targets), 4 * sum(parameter.numel() for parameter in wanted.values())):
            parts.append(vmap(squares)(each(lambda values, rows=rows: values[rows], inputs), targets[rows]))
    return {name: torch.cat([part[name] for part in parts]).detach() for name in wanted}
