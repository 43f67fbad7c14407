"""Exact per-example gradient norms of a torch model."""

from hf_datadiet.gradients.norms import GradientNorms, NormsResult

__all__ = ["GradientNorms", "NormsResult"]
