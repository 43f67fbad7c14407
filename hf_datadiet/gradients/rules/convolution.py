"""Convolutions of one to three dimensions, and transposed ones: a linear layer on patches, y_t = W p_t + c.

With x the padded input, stride s and dilation d, position t sees x[t s + k d] in cell k of the kernel, so for one example and group

    gradient[k] = sum over t of g_t x[t s + k d]^T          [P, Q] for each of K cells

A transposed convolution writes where this one reads: there g takes the place of x, and x that of g. Five ways to its squared norm:

    gram      sum over t, t' of (g_t . g_t') (p_t . p_t'), where p_t . p_t' = sum over k of X[t s + k d, t' s + k d] is read from the
              Gram matrix X of the L positions of x, K shifted copies of it, so that no patch is written out:  L^2 Q + T^2 (P + K)
    unfold    all patches written out, one product
    kernel    the library's own gradient of the weight, one example at a time
    groups    the same for all examples at once, as the groups of one wide convolution
    swapped   where each group has one channel: the formula is itself a convolution, of x with g as its kernel, s and d in each other's
              places; libraries are far quicker at it than at a gradient

All but the first take T P Q K multiplications. Padding modes, groups and dilation are those of the layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import torch
from torch import nn

from hf_datadiet.gradients.factors import EPSILON, GRAM, Factors, Squares, Use, Whole, chunks
from hf_datadiet.gradients.rules.rule import Rule, worth_trying

SWAPPED, UNFOLD, KERNEL, GROUPS = "swapped", "unfold", "kernel", "groups"


@dataclass(frozen=True)
class _View:
    """One batch as the formula has it: `x` [B, C, *S], `g` [B, P, *N]; kernel, stride and dilation for each of these dimensions."""

    x: torch.Tensor
    g: torch.Tensor
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def out(self) -> tuple[int, ...]:
        """N."""
        return tuple(self.g.shape[2:])

    def cells(self) -> Iterator[tuple[int, ...]]:
        """Where each cell of the kernel begins to read."""
        for cell in product(*(range(size) for size in self.kernel)):
            yield tuple(k * d for k, d in zip(cell, self.dilation, strict=True))

    def read_by(self, cell: tuple[int, ...]) -> tuple[slice, ...]:
        """The positions of x that a cell reads, one slice for each dimension."""
        return tuple(slice(k, k + (n - 1) * s + 1, s) for k, n, s in zip(cell, self.out, self.stride, strict=True))

    def grouped(self, values: torch.Tensor) -> torch.Tensor:
        """[B, C, ...] -> [B, G, C / G, positions]."""
        return values.reshape(len(values), self.groups, values.shape[1] // self.groups, -1)


def uses(module: nn.Module, inputs: torch.Tensor, grad: torch.Tensor, b: int, route: str) -> dict[str, Use]:
    """inputs [F, C, ...] and grad [F, P, ...]; the weight's use is `Whole` for the library's kernels, otherwise factors."""
    if route in (KERNEL, GROUPS):
        return _bias(module, grad, b) | {"weight": Whole(_by_kernel(module, inputs, grad, b, route))}
    view = _view(module, inputs, grad, b)
    if route == SWAPPED:
        return _bias(module, grad, b) | {"weight": Whole(_swapped(view))}
    return _bias(module, grad, b) | {"weight": Factors(view.grouped(view.g).mT, _patches(view).mT)}


def shortcut(module: nn.Module, inputs: torch.Tensor, grad: torch.Tensor, b: int, route: str) -> dict[str, Squares] | None:
    """The squares by the route that forms no gradient."""
    if route != GRAM:
        return None
    return {"weight": _gram(_view(module, inputs, grad, b))} | {name: use.squares() for name, use in _bias(module, grad, b).items()}


def _bias(module: nn.Module, grad: torch.Tensor, b: int) -> dict[str, Use]:
    if module._parameters["bias"] is None:
        return {}
    return {"bias": Whole(grad.float().reshape(b, -1, *grad.shape[1:]).sum((1, *range(3, grad.ndim + 1))))}


def routes(module: nn.Module, inputs: torch.Tensor, grad: torch.Tensor, b: int) -> Sequence[str]:
    """Those that may be the fastest."""
    conv: Any = module
    view = _view(module, inputs[: len(inputs) // b], grad[: len(grad) // b], 1)
    t, p, q = prod(view.out), view.g.shape[1], view.x.shape[1] // view.groups
    plain = t * p * q * prod(view.kernel)
    if p == q * view.groups == view.groups and len(view.out) <= 3:
        return (SWAPPED,)
    found = {GRAM: prod(_read(view).shape[2:]) ** 2 * q * view.groups + t * t * (p + view.groups * prod(view.kernel)), KERNEL: plain}
    if len(inputs) == b and not conv.transposed:
        found[GROUPS] = plain
    return worth_trying(found | {UNFOLD: plain})


def size(module: nn.Module, inputs: torch.Tensor, grad: torch.Tensor, b: int, route: str) -> int:
    """Bytes per example."""
    conv: Any = module
    positions, fold = min(inputs[0, 0].numel(), grad[0, 0].numel()), len(inputs) // b
    if route in (KERNEL, GROUPS):
        return 4 * conv.weight.numel()
    if route == SWAPPED:
        return 0  # what it makes is smaller than what it is made of
    if route == UNFOLD:
        return 4 * fold * (max(inputs.shape[1], grad.shape[1]) * conv.weight[0, 0].numel() + grad.shape[1]) * positions
    return 4 * 3 * conv.groups * (fold * max(inputs[0, 0].numel(), grad[0, 0].numel())) ** 2


def _view(module: nn.Module, inputs: torch.Tensor, grad: torch.Tensor, b: int) -> _View:
    conv: Any = module
    kernel, stride, dilation = conv.kernel_size, conv.stride, conv.dilation
    if conv.transposed:
        x, g = nn.functional.pad(grad, [side for p in reversed(conv.padding) for side in (p, p)]), inputs
    else:
        x, padding = _padded(conv, inputs)
        x, g = nn.functional.pad(x, [side for p in reversed(padding) for side in (p, p)]), grad
    if len(x) > b:
        # What is folded into the batch is one more dimension to sum over, in which the kernel has one cell.
        x, g = (part.reshape(b, -1, *part.shape[1:]).transpose(1, 2) for part in (x, g))
        kernel, stride, dilation = ((1, *values) for values in (kernel, stride, dilation))
    return _View(x.float(), g.float(), kernel, stride, dilation, conv.groups)


def _padded(conv: Any, inputs: torch.Tensor) -> tuple[torch.Tensor, tuple[int, ...]]:
    """Inputs with the padding that is not zeros, or uneven, written out; and the padding of zeros that is left to do."""
    nothing = (0,) * len(conv.kernel_size)
    if conv.padding_mode != "zeros":
        return nn.functional.pad(inputs, conv._reversed_padding_repeated_twice, conv.padding_mode), nothing
    if conv.padding == "same":
        return nn.functional.pad(inputs, conv._reversed_padding_repeated_twice), nothing
    return inputs, nothing if conv.padding == "valid" else conv.padding


def _read(view: _View) -> torch.Tensor:
    """The positions of x that are read at all."""
    return view.x[(..., *(slice(0, (n - 1) * s + (k - 1) * d + 1, s if k == 1 else 1) for n, k, s, d in _along(view)))]


def _along(view: _View) -> Iterator[tuple[int, int, int, int]]:
    """Positions, kernel, stride and dilation of each dimension."""
    return zip(view.out, view.kernel, view.stride, view.dilation, strict=True)


def _gram(view: _View) -> Squares:
    x = _read(view)
    stride = tuple(1 if k == 1 else s for k, s in zip(view.kernel, view.stride, strict=True))
    view = _View(x, view.g, view.kernel, stride, view.dilation, view.groups)
    a, g = view.grouped(x), view.grouped(view.g)
    among = (a.mT @ a).view(*a.shape[:2], *x.shape[2:], *x.shape[2:])
    cells = [among[(..., *view.read_by(cell), *view.read_by(cell))] for cell in view.cells()]
    total = cells[0].clone() if len(cells) > 1 else cells[0]
    for cell in cells[1:]:
        total += cell
    total, alike = total.reshape(*a.shape[:2], g.shape[3], g.shape[3]), g.mT @ g
    lengths = (alike.diagonal(dim1=2, dim2=3) * total.diagonal(dim1=2, dim2=3)).clamp_min_(0).sqrt_().sum((1, 2))
    return Squares(alike.mul_(total).sum((1, 2, 3)).clamp_min_(0), lengths.square_() * EPSILON)


def _swapped(view: _View) -> torch.Tensor:
    """[B, G, *kernel] of a convolution with one channel in each group."""
    x = view.x[(..., *(slice(0, (n - 1) * s + (k - 1) * d + 1) for n, k, s, d in _along(view)))]
    convolve = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)[len(view.out) - 1]
    channels = x.shape[0] * x.shape[1]
    made = convolve(
        x.reshape(1, channels, *x.shape[2:]),
        view.g.reshape(channels, 1, *view.out),
        stride=view.dilation,
        dilation=view.stride,
        groups=channels,
    )
    return made.reshape(*x.shape[:2], *view.kernel)


def _patches(view: _View) -> torch.Tensor:
    """[B, G, Q K, T]."""
    x = _read(view) if prod(view.kernel) == 1 else view.x.contiguous()
    if prod(view.kernel) > 1:
        b, c, *along = x.stride()
        reading = [step * d for step, d in zip(along, view.dilation, strict=True)]
        moving = [step * s for step, s in zip(along, view.stride, strict=True)]
        x = x.as_strided((*x.shape[:2], *view.kernel, *view.out), (b, c, *reading, *moving))
    return x.reshape(len(x), view.groups, -1, prod(view.out))


def _by_kernel(module: nn.Module, inputs: torch.Tensor, grad: torch.Tensor, b: int, route: str) -> torch.Tensor:
    """[B, *weight]."""
    conv: Any = module
    x, padding = (inputs, conv.padding) if conv.transposed else _padded(conv, inputs)
    x, grad, fold = x.float(), grad.float(), len(x) // b
    if route == GROUPS:
        return torch.cat([_grouped(conv, x[rows], grad[rows], padding) for rows in chunks(b, 4 * conv.weight.numel())])
    rows = [slice(i * fold, (i + 1) * fold) for i in range(b)]
    return torch.stack([_weight_gradient(conv, x[row], grad[row], conv.weight.float(), padding, conv.groups) for row in rows])


def _grouped(conv: Any, x: torch.Tensor, grad: torch.Tensor, padding: tuple[int, ...]) -> torch.Tensor:
    b = len(x)
    weight = conv.weight.float().repeat(b, *(1 for _ in conv.weight.shape[1:]))
    wide = [part.reshape(1, -1, *part.shape[2:]) for part in (x, grad)]
    return _weight_gradient(conv, wide[0], wide[1], weight, padding, b * conv.groups).reshape(b, *conv.weight.shape)


def _weight_gradient(
    conv: Any, x: torch.Tensor, grad: torch.Tensor, weight: torch.Tensor, padding: tuple[int, ...], groups: int
) -> torch.Tensor:
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, conv.stride, padding, conv.dilation, conv.transposed, conv.output_padding, groups, [False, True, False]
    )[1]


RULES = {
    f"torch.nn.modules.conv.{name}{n}d.forward": Rule(uses, routes, size, shortcut) for name in ("Conv", "ConvTranspose") for n in (1, 2, 3)
}
