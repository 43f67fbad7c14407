"""What the gradient of one parameter is made of, example by example, and its squared norm.

A parameter's gradient for example b is a sum over positions t (pixels, tokens, uses) of outer products. It is held as one of

    Factors   left [B, G, T, P] and right [B, G, T, Q]: the gradient of group g is left_b,g^T right_b,g  [P, Q]
    Rows      row [B, T] and values [B, T, Q]: values_t is added to row `row_t` of a gradient [R, Q] (embeddings)
    Whole     values [B, ...], the gradient itself, in the parameter's order of elements

The squared norm of factors comes out in two ways, both exact in exact arithmetic:

    gram      sum over t, t' of (left left^T)[t, t'] (right right^T)[t, t']       T^2 (P + Q) multiplications
    matrix    left^T right, squared and summed                                    T P Q multiplications

`gram` sums terms of both signs. A term is at most |left_t| |right_t| |left_t'| |right_t'|, so rounding may have moved the sum by
EPSILON (sum over t of |left_t| |right_t|)^2, which is returned beside it as `doubt`: where it is not small against the whole
squared norm, the example is computed again another way (`norms.py`).

Uses of one parameter in several places add up before they are squared: factors join along T, which brings the cross terms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import nn

BUDGET = 16 * 2**20
"""Bytes that a chunk of examples may take while a squared norm is computed: more is no faster, and less runs into the cost of each call."""

HALVED = 64
"""Positions from which on a Gram matrix is computed without its lower left quarter, which is that of the upper right."""

EPSILON = torch.finfo(torch.float32).eps

GRAM, MATRIX = "gram", "matrix"


class Squares(NamedTuple):
    """Squared norms float32 [B], and by how much rounding may have moved each of them, float32 [B]."""

    values: torch.Tensor
    doubt: torch.Tensor


def certain(values: torch.Tensor) -> Squares:
    """Sums of squares [B]: nothing cancels in them."""
    return Squares(values, torch.zeros_like(values))


def joined(parts: Sequence[Squares]) -> Squares:
    """Consecutive examples."""
    return parts[0] if len(parts) == 1 else Squares(torch.cat([part.values for part in parts]), torch.cat([part.doubt for part in parts]))


@dataclass(frozen=True)
class Factors:
    """left [B, G, T, P], right [B, G, T, Q]."""

    left: torch.Tensor
    right: torch.Tensor

    def squares(self, route: str = MATRIX) -> Squares:
        """By `route`, "gram" or "matrix"."""
        left, right = self.left, self.right
        b, g, t, p = left.shape
        if t == 1:
            return certain((left.float().square().sum((2, 3)) * right.float().square().sum((2, 3))).sum(1))
        size = 4 * g * (2 * t * t if route == GRAM else p * right.shape[3])
        return in_chunks(b, size, lambda rows: Factors(left[rows], right[rows])._at_once(route))

    def _at_once(self, route: str) -> Squares:
        left, right = self.left.float(), self.right.float()
        if route == GRAM:
            square, lengths = _gram(left, right)
            return Squares(square.clamp_min_(0), lengths.square_() * EPSILON)
        return certain((left.mT @ right).square_().sum((1, 2, 3)))


def _gram(left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[B]: the sum over t, t' of the products of both Gram matrices; [B]: the sum over t of |left_t| |right_t|."""
    half = left.shape[2] // 2
    if 2 * half < HALVED:
        products = (left @ left.mT).mul_(right @ right.mT)
        return products.sum((1, 2, 3)), products.diagonal(dim1=2, dim2=3).sqrt().sum((1, 2))
    (left, left_after), (right, right_after) = ((part[:, :, :half], part[:, :, half:]) for part in (left, right))
    across = (left @ left_after.mT).mul_(right @ right_after.mT).sum((1, 2, 3))
    (square, lengths), (square_after, lengths_after) = _gram(left, right), _gram(left_after, right_after)
    return square + square_after + 2 * across, lengths + lengths_after


@dataclass(frozen=True)
class Rows:
    """row int64 [B, T] in 0..n_rows - 1, values [B, T, Q]."""

    row: torch.Tensor
    values: torch.Tensor
    n_rows: int

    def squares(self, route: str = MATRIX) -> Squares:
        """Each row that occurs is summed, then squared; one route."""
        b, t = self.row.shape
        return in_chunks(b, 4 * t * self.values.shape[2], self._at_once)

    def _at_once(self, rows: slice) -> Squares:
        row, values = self.row[rows], self.values[rows].float()
        b, t = row.shape
        # The first position that holds the same row takes the sum.
        first = (row[:, :, None] == row[:, None, :]).to(torch.uint8).argmax(2)
        sums = torch.zeros_like(values).view(b * t, -1)
        sums.index_add_(0, (first + t * torch.arange(b, device=row.device)[:, None]).flatten(), values.reshape(b * t, -1))
        return certain(sums.view(b, -1).square_().sum(1))

    def factors(self, rows: slice) -> Factors:
        """As factors, for some of the examples."""
        left = nn.functional.one_hot(self.row[rows], self.n_rows).to(self.values.dtype)
        return Factors(left[:, None], self.values[rows][:, None])


@dataclass(frozen=True)
class Whole:
    """The gradients of B examples, [B, ...]."""

    values: torch.Tensor

    def squares(self, route: str = MATRIX) -> Squares:
        """One route."""
        return certain(_per_example(self.values).square().sum(1))


Use: TypeAlias = Factors | Rows | Whole


@dataclass(frozen=True)
class Uses:
    """One parameter used several times in a pass."""

    uses: Sequence[Use]

    def squares(self, route: str = MATRIX) -> Squares:
        """Of the sum."""
        same = [use for use in self.uses if isinstance(use, Rows)]
        if len(same) == len(self.uses):
            return Rows(torch.cat([use.row for use in same], 1), torch.cat([use.values for use in same], 1), same[0].n_rows).squares()
        first = self.uses[0]
        b = len(first.left if isinstance(first, Factors) else first.values)
        return in_chunks(b, 4 * max(_elements(use) for use in self.uses), lambda rows: self._at_once(rows, route))

    def _at_once(self, rows: slice, route: str) -> Squares:
        parts = [_part(use, rows) for use in self.uses]
        factors = [part for part in parts if isinstance(part, Factors)]
        if len(factors) == len(parts):
            return Factors(torch.cat([part.left for part in factors], 2), torch.cat([part.right for part in factors], 2)).squares(route)
        total = torch.stack(
            [_per_example(part.left.mT.float() @ part.right.float() if isinstance(part, Factors) else part.values) for part in parts]
        )
        return certain(total.sum(0).square_().sum(1))


def _per_example(gradients: torch.Tensor) -> torch.Tensor:
    """[B, ...] -> float32 [B, elements], one element where a gradient is a number."""
    return gradients.float().reshape(len(gradients), gradients[0].numel())


def _part(use: Use, rows: slice) -> Factors | Whole:
    if isinstance(use, Rows):
        return use.factors(rows)
    return Whole(use.values[rows]) if isinstance(use, Whole) else Factors(use.left[rows], use.right[rows])


def _elements(use: Use) -> int:
    """Elements per example that `Uses` has in hand at once."""
    if isinstance(use, Factors):
        _, g, t, p = use.left.shape
        return g * (t * (p + use.right.shape[3]) + p * use.right.shape[3])
    return use.n_rows * (use.row.shape[1] + use.values.shape[2]) if isinstance(use, Rows) else use.values[0].numel()


def chunks(n: int, size: int) -> Iterator[slice]:
    """Slices of 0..n-1 that take at most `BUDGET` bytes, an item taking `size`; at least one item each."""
    step = max(1, BUDGET // max(1, size))
    for start in range(0, n, step):
        yield slice(start, min(n, start + step))


def in_chunks(n: int, size: int, work: Callable[[slice], Squares]) -> Squares:
    """The squares that `work` gives for slices of n examples, an example taking `size` bytes meanwhile."""
    return joined([work(rows) for rows in chunks(n, size)])
