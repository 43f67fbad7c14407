"""The Euclidean norm of each example's loss gradient over all trainable parameters.

Two exact engines. `loop` differentiates one example at a time with plain autograd and works for every model; `vmap`
batches the same computation with torch.func and is faster for some small models. Which one pays is measured once per
run (`fastest_engine`). Costs several ordinary training steps; the routes per layer that make it cheap are to come.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.func import functional_call, grad_and_value, vmap

from hf_datadiet.gradients.forward import Inputs, each, logits_of
from hf_datadiet.gradients.rest import at_rest

Engine = Literal["loop", "vmap"]
VMAP_CHUNK = 32
"""Examples whose gradients are held at once by `vmap`: memory grows with chunk x parameters."""


@dataclass(frozen=True)
class NormsResult:
    """`norms` float32 [B], `losses` float32 [B], `logits` float32 [B, C]; all from one pass, without graph."""

    norms: torch.Tensor
    losses: torch.Tensor
    logits: torch.Tensor


class GradientNorms:
    """Callable `(inputs [B, ...], targets int64 [B]) -> NormsResult` for a model in eval mode.

    `loss(logits [1, C], targets [1])` must return the loss of that one example (a mean over one is fine); it must be
    the plain loss, since smoothing or weight decay would change the score. Inputs are a tensor or a dict of keyword
    tensors; an output with `logits` is understood.
    Examples are independent only in eval mode: raises ValueError if any module is in train mode (BatchNorm would mix
    the batch, dropout would add noise).
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = nn.functional.cross_entropy,
        *,
        engine: Engine = "loop",
    ) -> None:
        self.model = model
        self.loss = loss
        self.engine = engine

    def __call__(self, inputs: Inputs, targets: torch.Tensor) -> NormsResult:
        """Norms, losses and logits of one batch, each example by itself."""
        if any(module.training for module in self.model.modules()):
            raise ValueError("per-example gradients need model.eval(): in train mode examples are not independent")
        return self._loop(inputs, targets) if self.engine == "loop" else self._vmap(inputs, targets)

    def _loop(self, inputs: Inputs, targets: torch.Tensor) -> NormsResult:
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        norms, losses, logits = [], [], []
        with torch.enable_grad():
            for i in range(len(targets)):
                output = logits_of(self.model, each(lambda values, i=i: values[i : i + 1], inputs))
                value = self.loss(output, targets[i : i + 1])
                found = torch.autograd.grad(value, parameters, allow_unused=True)
                norms.append(nn.utils.get_total_norm([gradient.float() for gradient in found if gradient is not None]))
                losses.append(value.detach().float())
                logits.append(output.detach().float())
        return NormsResult(torch.stack(norms), torch.stack(losses), torch.cat(logits))

    def _vmap(self, inputs: Inputs, targets: torch.Tensor) -> NormsResult:
        trainable = {name: parameter.detach() for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        fixed = {name: parameter.detach() for name, parameter in self.model.named_parameters() if not parameter.requires_grad}
        fixed |= dict(self.model.named_buffers())

        def one(weights: dict[str, torch.Tensor], x: Inputs, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            def model(*args: torch.Tensor, **kwargs: torch.Tensor) -> object:
                return functional_call(self.model, {**weights, **fixed}, args, kwargs)

            output = logits_of(model, each(lambda values: values[None], x))
            return self.loss(output, y[None]), output[0]

        def norm_of(x: Inputs, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            gradients, (value, output) = grad_and_value(one, has_aux=True)(trainable, x, y)
            return torch.stack([gradient.float().square().sum() for gradient in gradients.values()]).sum().sqrt(), value, output

        with warnings.catch_warnings():
            # That vmap runs an operation row by row shows in the time measured, and `fastest_engine` acts on it.
            warnings.filterwarnings("ignore", message="There is a performance drop")
            norms, losses, logits = vmap(norm_of, chunk_size=VMAP_CHUNK)(inputs, targets)
        return NormsResult(norms.detach(), losses.detach().float(), logits.detach().float())


def fastest_engine(
    model: nn.Module,
    inputs: Inputs,
    targets: torch.Tensor,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = nn.functional.cross_entropy,
) -> Engine:
    """The engine that takes less time for this batch; `loop` where vmap cannot run the model or the loss. Leaves the model as it was."""
    seconds: dict[Engine, float] = {}
    with at_rest(model):
        for engine in ("loop", "vmap"):
            norms = GradientNorms(model, loss, engine=engine)
            try:
                norms(inputs, targets)
                seconds[engine] = min(_timed(norms, inputs, targets) for _ in range(2))
            except (RuntimeError, NotImplementedError):
                if engine == "loop":
                    raise
    return min(seconds, key=lambda engine: seconds[engine])


def _timed(norms: GradientNorms, inputs: Inputs, targets: torch.Tensor) -> float:
    start = time.perf_counter()
    # Reading a value waits for the device.
    float(norms(inputs, targets).norms[0])
    return time.perf_counter() - start
