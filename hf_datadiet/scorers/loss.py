"""Cross-entropy: the surprise of the model at the label.

Baseline of the pruning literature; among others in Zheng et al., "Coverage-centric Coreset Selection", ICLR 2023 (arXiv 2210.15809).
Formula: -log p_y, in nats, with p = softmax(f(x)).
Range: [0, inf). Direction: higher is harder. Cost: one forward pass per moment observed.
"""

from __future__ import annotations

import torch
from torch.nn.functional import softplus

from hf_datadiet.scorers.base import BatchScore


def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each example: logits [B, C] of any float dtype, labels int64 [B] -> float32 [B], >= 0, in nats.

    -log p_y = log(1 + sum_{k != y} exp(z_k - z_y)): it keeps its digits, and its order, where p_y rounds to 1.
    """
    logits = logits.float()
    against = (logits - logits.gather(1, labels[:, None])).scatter(1, labels[:, None], float("-inf"))
    return softplus(against.logsumexp(dim=1))


SCORER = BatchScore(loss, higher_is="harder", low=0.0)
