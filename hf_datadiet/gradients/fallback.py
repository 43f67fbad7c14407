"""Plain autograd: exact for every parameter of every model, and what everything else is compared with."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from hf_datadiet.gradients.factors import chunks
from hf_datadiet.gradients.forward import Inputs, each, fresh, logits_of
from hf_datadiet.gradients.single import ContiguousBatchNorms
from hf_datadiet.gradients.sweep import Losses


def one_at_a_time(
    model: nn.Module, wanted: Mapping[str, nn.Parameter], inputs: Inputs, targets: torch.Tensor, losses_of: Losses
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """({name: squared norms float32 [B]}, logits [B, C]): a forward and a backward pass for each example by itself."""
    squares: dict[str, list[torch.Tensor]] = {name: [] for name in wanted}
    logits: list[torch.Tensor] = []
    for i in range(len(targets)):

        def forward(i: int = i) -> list[torch.Tensor]:
            logits[i:] = [logits_of(model, each(lambda values: values[i : i + 1], inputs)).float()]
            return [losses_of(logits[i], targets[i : i + 1]).sum()]

        for found in _gradients(model, list(wanted.values()), forward):
            _note(squares, wanted, found, targets)
        logits[i] = logits[i].detach()
    return {name: torch.stack(values) for name, values in squares.items()}, torch.cat(logits)


def side_by_side(
    model: nn.Module, wanted: Mapping[str, nn.Parameter], inputs: Inputs, targets: torch.Tensor, losses_of: Losses
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The same from one forward pass of all examples, and a backward pass from the loss of each.

    A ReLU turns to the other side at the last bit, and other batches round otherwise: only what came through one and the same forward
    arithmetic can be compared closely.
    """
    squares: dict[str, list[torch.Tensor]] = {name: [] for name in wanted}
    logits: list[torch.Tensor] = []

    def forward() -> list[torch.Tensor]:
        logits[:] = [logits_of(model, inputs).float()]
        return list(losses_of(logits[0], targets))

    for found in _gradients(model, list(wanted.values()), forward):
        _note(squares, wanted, found, targets)
    return {name: torch.stack(values) for name, values in squares.items()}, logits[0].detach()


def _note(
    squares: Mapping[str, list[torch.Tensor]], names: Iterable[str], found: Sequence[torch.Tensor | None], like: torch.Tensor
) -> None:
    """Add the squared norms of one example's gradients."""
    for name, gradient in zip(names, found, strict=True):
        nothing = torch.zeros((), device=like.device)
        squares[name].append(nothing if gradient is None else gradient.detach().float().square().sum())


def _gradients(
    model: nn.Module, wanted: Sequence[nn.Parameter], forward: Callable[[], Sequence[torch.Tensor]]
) -> Iterator[Sequence[torch.Tensor | None]]:
    """The gradients of each of the losses for the parameters; None where one is not used. What parameters hold as `grad` stays."""
    with torch.enable_grad(), fresh(model), ContiguousBatchNorms():
        losses = forward()
        try:
            first = torch.autograd.grad(losses[0], wanted, allow_unused=True, retain_graph=len(losses) > 1)
        except RuntimeError as error:
            if "checkpoint" not in str(error):
                raise
            # Reentrant activation checkpointing knows no way but this one.
            yield from _left_behind(model, wanted, forward)
            return
        yield first
        for i in range(1, len(losses)):
            yield torch.autograd.grad(losses[i], wanted, allow_unused=True, retain_graph=i + 1 < len(losses))


def _left_behind(
    model: nn.Module, wanted: Sequence[nn.Parameter], forward: Callable[[], Sequence[torch.Tensor]]
) -> Iterator[Sequence[torch.Tensor | None]]:
    """The same by `backward`, a forward pass for each loss."""
    kept = [(parameter, parameter.grad) for parameter in model.parameters()]
    try:
        for i in range(len(forward())):
            for parameter, _ in kept:
                parameter.grad = None
            forward()[i].backward()
            yield [parameter.grad for parameter in wanted]
    finally:
        for parameter, before in kept:
            parameter.grad = before


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
            with fresh(model):
                parts.append(vmap(squares)(each(lambda values, rows=rows: values[rows], inputs), targets[rows]))
    return {name: torch.cat([part[name] for part in parts]).detach() for name in wanted}
