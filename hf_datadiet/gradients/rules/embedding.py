"""Embeddings: y_t = W[row_t].

The gradient of one example adds g_t to row `row_t` of W; a token that stands in several places adds up there. Rows of `padding_idx`
get no gradient. (With `scale_grad_by_freq` a gradient depends on the rest of the batch: the comparison with autograd finds it.)
"""

from __future__ import annotations

import torch
from torch import nn

from hf_datadiet.gradients.factors import Rows, Use
from hf_datadiet.gradients.rules.rule import Rule


def uses(module: nn.Module, inputs: torch.Tensor, grad: torch.Tensor, b: int, route: str) -> dict[str, Use]:
    """inputs int [B, ...] and grad [B, ..., Q]."""
    assert isinstance(module, nn.Embedding)
    row, values = inputs.reshape(b, -1).long(), grad.reshape(b, -1, grad.shape[-1])
    if module.padding_idx is not None:
        values = values * (row != module.padding_idx)[:, :, None]
    return {"weight": Rows(row, values, module.num_embeddings)}


RULES = {"torch.nn.modules.sparse.Embedding.forward": Rule(uses)}
