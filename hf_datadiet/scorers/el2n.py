"""Length of the error vector: how far the predicted probabilities are from the label.

Paper: Paul, Ganguli, Dziugaite, "Deep Learning on a Data Diet", NeurIPS 2021 (arXiv 2107.07075), Definition 2.3.
Formula: ||softmax(f(x)) - onehot(y)||_2, the norm and not its square; the mean over seeds is the score.
Range: [0, sqrt 2]. Direction: higher is harder. Cost: one forward pass per moment observed.
"""

from __future__ import annotations

import math

import torch

from hf_datadiet.scorers.base import BatchScore


def el2n(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """EL2N of each example: logits [B, C] of any float dtype, labels int64 [B] -> float32 [B] in [0, sqrt 2].

    p_y - 1 is minus the sum of the other probabilities, so that nothing cancels when the model is sure:
    sqrt(sum_{k != y} p_k^2 + (sum_{k != y} p_k)^2).
    """
    others = logits.float().softmax(dim=1).scatter(1, labels[:, None], 0.0)
    largest = others.amax(dim=1)
    # The squares of probabilities below 1e-19 underflow in float32; relative to the largest one they do not.
    scale = torch.where(largest > 0, largest, 1.0)
    relative = others / scale[:, None]
    length = (relative.square().sum(dim=1) + relative.sum(dim=1).square()).sqrt()
    return (scale * length).clamp(max=math.sqrt(2))


SCORER = BatchScore(el2n, higher_is="harder", low=0.0, high=math.sqrt(2))
