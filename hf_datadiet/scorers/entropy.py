"""Entropy: how undecided the model is, whatever the label.

Shannon's entropy of the prediction; a pruning baseline in Coleman et al., "Selection via Proxy", ICLR 2020 (arXiv 1906.11829).
Formula: -sum_k p_k log p_k, in nats, with p = softmax(f(x)).
Range: [0, log C]. Direction: higher is harder. Cost: one forward pass per moment observed.
A wrong label that the model confidently contradicts has low entropy: this score does not see label errors.
"""

from __future__ import annotations

import torch

from hf_datadiet.scorers.base import BatchScore


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy of each prediction: logits [B, C] of any float dtype -> float32 [B] in [0, log C], in nats.

    With d_k = z_k - max z and o_k = exp(d_k) for all but the largest: log(1 + sum o) + sum(-d o) / (1 + sum o).
    No term is negative, so nothing cancels when the model is sure.
    """
    logits = logits.float()
    top = logits.argmax(dim=1, keepdim=True)
    below = (logits - logits.gather(1, top)).scatter(1, top, float("-inf"))
    others = below.exp()
    rest = others.sum(dim=1)
    # 0 log 0 = 0.
    spread = torch.where(others > 0, -below * others, 0.0).sum(dim=1)
    return rest.log1p() + spread / (1 + rest)


SCORER = BatchScore(entropy, higher_is="harder", low=0.0)
