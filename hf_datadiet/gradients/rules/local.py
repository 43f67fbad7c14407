"""Any layer with parameters of its own and one tensor as input: the layer alone is differentiated, example by example.

With the input and the gradient at the output known, the rest of the model plays no part: torch.func pulls the gradient back through
this one layer to its own parameters, for all examples at once. So weight standardisation, weight norms and other
reparametrisations cost what they cost, and no more.
"""

from __future__ import annotations

import warnings

import torch
from torch import nn
from torch.func import functional_call, vjp, vmap

from hf_datadiet.gradients.factors import Use, Whole
from hf_datadiet.gradients.rules.rule import Rule


def uses(module: nn.Module, inputs: torch.Tensor, grad: torch.Tensor, b: int, route: str) -> dict[str, Use]:
    """inputs and grad [F, ...]."""
    own = {name: parameter.detach() for name, parameter in module.named_parameters(recurse=False)}

    def pulled(x: torch.Tensor, g: torch.Tensor) -> dict[str, torch.Tensor]:
        pull = vjp(lambda weights: functional_call(module, weights, (x,)), own)[1]
        return pull(g)[0]

    inputs = inputs.to(next(iter(own.values())).dtype) if inputs.is_floating_point() else inputs
    folded = [part.reshape(b, -1, *part.shape[1:]) for part in (inputs, grad)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")
        return {name: Whole(values) for name, values in vmap(pulled)(*folded).items()}


def size(module: nn.Module, inputs: torch.Tensor, grad: torch.Tensor, b: int, route: str) -> int:
    """Bytes per example."""
    return 4 * (2 * sum(parameter.numel() for parameter in module.parameters(recurse=False)) + inputs.numel() // b)


RULE = Rule(uses, size=size)
