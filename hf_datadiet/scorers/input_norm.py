"""Input norm: the length of the input itself, the confounder to check other scores against.

Kirsch, "Does 'Deep Learning on a Data Diet' reproduce?" (arXiv 2303.14753): GraNd at initialisation follows it
(Spearman 0.96 on CIFAR-10 with ResNet-18), and says as little about difficulty.
Formula: ||x||_2 over every entry of the input as the model sees it, that is after normalisation.
Range: [0, inf). Direction: neither. Cost: none beyond reading the data; no seed changes it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from hf_datadiet.errors import RecipeError
from hf_datadiet.scorers.base import BatchScore


def input_norm(inputs: torch.Tensor | Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Euclidean norm of each example's input: inputs [B, ...] of any real dtype -> float32 [B], >= 0."""
    if isinstance(inputs, Mapping):
        raise RecipeError("input_norm is for inputs that are numbers, not tokens; leave it out of score.scores")
    return torch.linalg.vector_norm(inputs.float().flatten(start_dim=1), dim=1)


SCORER = BatchScore(input_norm, higher_is="neither", low=0.0, seeded=False)
