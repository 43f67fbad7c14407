"""Margin: the lead of the label over its strongest rival.

Formula: p_y - max_{k != y} p_k on probabilities p = softmax(f(x)); minus the `max_margin` of the code of Paul, Ganguli,
Dziugaite, "Deep Learning on a Data Diet", NeurIPS 2021 (arXiv 2107.07075).
Range: [-1, 1]; negative where the model is wrong. Direction: higher is easier. Cost: one forward pass per moment observed.
"""

from __future__ import annotations

import torch

from hf_datadiet.scorers.base import BatchScore


def margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Margin of each example: logits [B, C] of any float dtype, labels int64 [B] -> float32 [B] in [-1, 1]."""
    probabilities = logits.float().softmax(dim=1)
    own = probabilities.gather(1, labels[:, None]).squeeze(1)
    return own - probabilities.scatter(1, labels[:, None], 0.0).amax(dim=1)


SCORER = BatchScore(margin, higher_is="easier", low=-1.0, high=1.0)
