"""What a training holds, as arrays and JSON, and back without the loss of a bit.

A tree is made of dicts, lists, tuples, numbers, strings, None, arrays and tensors. Arrays and tensors get numbered names;
the rest becomes JSON, in which dicts keep keys that are no strings, tuples stay tuples, and Python's floats come back exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from hf_datadiet.errors import PluginError

Tree: TypeAlias = Any

# Numpy has no such type.
HALF = torch.bfloat16


def pack(tree: Tree) -> tuple[dict[str, NDArray[np.generic]], Any]:
    """The arrays by name, and the rest as JSON-able values. `PluginError` for an object of another kind."""
    arrays: dict[str, NDArray[np.generic]] = {}
    return arrays, _pack(tree, "", arrays)


def unpack(arrays: Mapping[str, NDArray[np.generic]], plain: Any, device: torch.device) -> Tree:
    """The tree of `pack`. Tensors that lay on a device lie on `device` again, with the strides that they had."""
    if isinstance(plain, list):
        return [unpack(arrays, value, device) for value in plain]
    if not isinstance(plain, dict):
        return plain
    ((kind, value),) = plain.items()
    if kind == "dict":
        return {unpack(arrays, key, device): unpack(arrays, item, device) for key, item in value}
    if kind == "tuple":
        return tuple(unpack(arrays, value, device))
    if kind == "number":
        return arrays[value][()]
    return np.array(arrays[value]) if kind == "array" else _tensor(arrays[value["name"]], value, device)


def _pack(tree: Tree, at: str, arrays: dict[str, NDArray[np.generic]]) -> Any:
    name = f"{len(arrays)}{at}"
    if isinstance(tree, torch.Tensor):
        kept = tree.detach().cpu()
        arrays[name] = (kept.view(torch.int16) if kept.dtype == HALF else kept).numpy().copy()
        # Of a tensor with gaps or overlaps, those of a copy.
        strides = list(torch.empty_like(tree, device="meta").stride())
        return {"tensor": {"name": name, "half": kept.dtype == HALF, "on_device": tree.device.type != "cpu", "strides": strides}}
    if isinstance(tree, np.ndarray | np.generic):
        arrays[name] = np.array(tree)
        return {"array" if isinstance(tree, np.ndarray) else "number": name}
    if isinstance(tree, Mapping):
        return {"dict": [[_pack(key, at, arrays), _pack(value, f"{at}/{key}", arrays)] for key, value in tree.items()]}
    if isinstance(tree, tuple | list):
        values = [_pack(value, f"{at}/{position}", arrays) for position, value in enumerate(tree)]
        return {"tuple": values} if isinstance(tree, tuple) else values
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise PluginError(
        f"{at.lstrip('/')} is of type {type(tree).__name__}, which cannot be kept; models and scores may hold tensors and plain values only"
    )


def _tensor(array: NDArray[np.generic], about: Mapping[str, Any], device: torch.device) -> torch.Tensor:
    flat = torch.from_numpy(np.array(array))
    flat = flat.view(HALF) if about["half"] else flat
    on = device if about["on_device"] else torch.device("cpu")
    return torch.empty_strided(flat.shape, about["strides"], dtype=flat.dtype, device=on).copy_(flat)
