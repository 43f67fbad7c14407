"""What a rule is: how the gradient of a layer's parameters follows from its input and the gradient at its output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from hf_datadiet.gradients.factors import Squares, Use

HOPELESS = 8
"""How many times the multiplications of the best route another may take and still be timed: kernels differ by less."""


def no_choice(module: nn.Module, inputs: torch.Tensor, grad: torch.Tensor, b: int) -> Sequence[str]:
    """A rule with one way only."""
    return ()


def no_memory(module: nn.Module, inputs: torch.Tensor, grad: torch.Tensor, b: int, route: str) -> int:
    """Bytes per example of a rule that makes nothing large."""
    return 0


def no_shortcut(module: nn.Module, inputs: torch.Tensor, grad: torch.Tensor, b: int, route: str) -> Mapping[str, Squares] | None:
    """A rule whose squares come from its uses."""
    return None


@dataclass(frozen=True)
class Rule:
    """All functions take (module, inputs [F, ...], gradient at the output [F, ...], B), F a multiple of B, example by example.

    `uses(..., route)`: {parameter: what its gradient is made of}; `routes(...)`: words for the ways that its "weight" may go, if any;
    `size(..., route)`: bytes per example that this takes beside inputs and gradients; `shortcut(..., route)`: {parameter: squared norms}
    where a route forms no gradient at all, otherwise None.
    """

    uses: Callable[[nn.Module, torch.Tensor, torch.Tensor, int, str], dict[str, Use]]
    routes: Callable[[nn.Module, torch.Tensor, torch.Tensor, int], Sequence[str]] = no_choice
    size: Callable[[nn.Module, torch.Tensor, torch.Tensor, int, str], int] = no_memory
    shortcut: Callable[[nn.Module, torch.Tensor, torch.Tensor, int, str], Mapping[str, Squares] | None] = no_shortcut


def worth_trying(multiplications: Mapping[str, int]) -> list[str]:
    """The routes that may be the fastest, by the multiplications that each takes, the fewest first."""
    least = min(multiplications.values())
    return sorted((route for route, n in multiplications.items() if n <= HOPELESS * least), key=lambda route: multiplications[route])
