"""Gradient norm: how far a step on this one example would move the weights.

Paper: Paul, Ganguli, Dziugaite, "Deep Learning on a Data Diet", NeurIPS 2021 (arXiv 2107.07075), Definition 2.1.
Formula: ||grad_w loss(f_w(x), y)||_2 over all trainable parameters w, with the plain cross-entropy of the one example
(no label smoothing, no mixup, no weight decay); the mean over seeds is the score.
Observed in eval mode: in train mode BatchNorm couples the examples of a batch, and one example has no gradient of its own.
Range: [0, inf). Direction: higher is harder. Cost: one forward and one backward pass per moment observed, and the norms.

At initialisation (`grand_e0`) the paper's early result does not reproduce (Kirsch, arXiv 2303.14753): there GraNd
follows the norm of the input (`input_norm`), and CIFAR-10 pruned to half by it is worse than a random half. Use it after some training.
"""

from __future__ import annotations

import torch

from hf_datadiet.scorers.base import BatchScore


def grand(grad_norms: torch.Tensor) -> torch.Tensor:
    """GraNd of each example: grad_norms [B] -> the same float32 [B], >= 0; the observe pass computes the norms."""
    return grad_norms.float()


SCORER = BatchScore(grand, higher_is="harder", low=0.0)
