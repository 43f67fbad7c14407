"""The last layer of a model: its gradient is the cheapest, and much of the whole one's ranking is in it."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import nn

from hf_datadiet.gradients.forward import Inputs, logits_of


def last_layer(model: nn.Module, inputs: Inputs) -> str:
    """Name of the module with trainable parameters of its own that begins last, found by one forward pass.

    `GradientNorms(model, parameters=[last_layer(model, inputs)])` differentiates nothing before it. ValueError if there is none.
    """
    called: list[str] = []
    with ExitStack() as stack, torch.no_grad():
        for name, module in model.named_modules():
            if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
                # Bound as a default: the loop goes on.
                hook = module.register_forward_pre_hook(lambda module, args, name=name: called.append(name))
                stack.callback(hook.remove)
        logits_of(model, inputs)
    if not called:
        raise ValueError("no module with trainable parameters of its own is called; model.requires_grad_() makes all of them trainable")
    return called[-1]
