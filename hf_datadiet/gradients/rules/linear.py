"""Linear layers: y_t = W a_t + c at every position t.

With g_t the gradient of the loss at y_t, the gradient of one example is the sum over t of g_t a_t^T for W [P, Q], and of g_t for c [P].
transformers' `Conv1D` holds W transposed, [Q, P]: left and right change places.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from hf_datadiet.gradients.factors import GRAM, MATRIX, Factors, Use, Whole
from hf_datadiet.gradients.rules.rule import Rule, worth_trying

CONV1D = "transformers.pytorch_utils.Conv1D.forward"


def uses(module: nn.Module, inputs: torch.Tensor, grad: torch.Tensor, b: int, route: str) -> dict[str, Use]:
    """inputs [B, ..., Q] and grad [B, ..., P]; more than B of them may be folded into the first dimension, example by example."""
    a, g = inputs.reshape(b, 1, -1, inputs.shape[-1]), grad.reshape(b, 1, -1, grad.shape[-1])
    weight = Factors(g, a) if isinstance(module, nn.Linear) else Factors(a, g)
    # A bias that is none is asked for by nobody.
    return {"weight": weight, "bias": Whole(g.sum((1, 2)))} if module._parameters.get("bias") is not None else {"weight": weight}


def routes(module: nn.Module, inputs: torch.Tensor, grad: torch.Tensor, b: int) -> Sequence[str]:
    """Those that may be the fastest."""
    p, q = grad.shape[-1], inputs.shape[-1]
    t = grad.numel() // p // b
    return worth_trying({GRAM: t * t * (p + q), MATRIX: t * p * q}) if t > 1 else (MATRIX,)


RULES = {"torch.nn.modules.linear.Linear.forward": Rule(uses, routes), CONV1D: Rule(uses, routes)}
