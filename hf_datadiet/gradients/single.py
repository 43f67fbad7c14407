"""A batch of one example, whose batch norms torch gets wrong on a CPU (seen in 2.15).

Of one example alone, a gradient [1, C, H, W] that comes from tokens [1, H W, C] has the strides of channels-last memory. The backward pass
of a batch norm then reads its contiguous input in that order too, and gives wrong gradients without a word. In contiguous memory the
gradient says the same and is read rightly. With two examples or more the strides are not mistaken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class ContiguousBatchNorms(TorchFunctionMode):
    """Inside the block every batch norm receives its gradient in contiguous memory."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in (torch.batch_norm, torch.nn.functional.batch_norm) and made.requires_grad:
            made.register_hook(lambda gradient: gradient.contiguous())
        return made
