"""A model at rest: how it is observed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Eval mode and full float32 inside the block; every module comes back in the mode that it was in itself."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        # TF32 convolutions would round logits to 10 bits.
        with torch.backends.cudnn.flags(allow_tf32=False):
            yield
    finally:
        for module in training:
            # Not module.train(): that would take the modules below it along.
            module.training = True
