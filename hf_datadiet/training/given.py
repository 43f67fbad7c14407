"""A model that comes from Python instead of a name: a module whose weights every training starts from, or a function that makes one."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import nn

from hf_datadiet.errors import RecipeError
from hf_datadiet.identity import digest_of
from hf_datadiet.training.randomness import seed_generators, untouched_generators

Given: TypeAlias = nn.Module | Callable[[], nn.Module]
"""A module, or a function without arguments that returns a new one."""

OBJECT, FUNCTION = "object", "function"
"""How the names of such models begin."""


@dataclass(frozen=True)
class GivenModel:
    """`name` stands in the recipe as `task.model`: "object:Net@5e1f..." or "function:make_net@5e1f...".

    Its digest is that of the module: class, structure as it is printed, weights, and which of them are trained; for a function
    that of what it makes after seeding torch, numpy and Python with 0. What is not printed (the code of its forward) shows in its
    outputs: `start.py`.
    """

    name: str
    model: Given

    def make(self) -> nn.Module:
        """A module of one's own in float32 on the CPU: a copy of the object, or what the function makes now."""
        return _made(self.model)


def given_model(model: Given) -> GivenModel:
    """Name a model from Python. Raises `RecipeError` if it is neither a module nor a function that makes one."""
    if isinstance(model, nn.Module):
        return GivenModel(f"{OBJECT}:{type(model).__name__}@{_digest(model)}", model)
    if not callable(model):
        raise RecipeError(f"model is {type(model).__name__}; give a name (timm:resnet18), a torch.nn.Module, or a function that makes one")
    with untouched_generators(torch.device("cpu")):
        seed_generators(0)
        name = getattr(model, "__name__", type(model).__name__)
        return GivenModel(f"{FUNCTION}:{name}@{_digest(_made(model))}", model)


def by_name(model: str | Given | None) -> tuple[str | None, GivenModel | None]:
    """What stands in the recipe as `task.model`, and the model if it is none that has a name."""
    if model is None or isinstance(model, str):
        return model, None
    given = given_model(model)
    return given.name, given


def is_given(name: str) -> bool:
    """Whether `task.model` stands for a model from Python."""
    return name.partition(":")[0] in (OBJECT, FUNCTION)


def _made(model: Given) -> nn.Module:
    made = model if isinstance(model, nn.Module) else model()
    if not isinstance(made, nn.Module):
        raise RecipeError(f"the function for the model returned {type(made).__name__}; return a torch.nn.Module")
    # A copy: a function may return the same object each time, and training changes it.
    return copy.deepcopy(made).cpu().float()


def _digest(model: nn.Module) -> str:
    return digest_of(_parts(model)).removeprefix("sha256:")[:16]


def _parts(model: nn.Module) -> Iterator[bytes | str]:
    # Where an object lies in memory is none of its properties.
    yield re.sub(r"0x[0-9a-f]+", "", f"{type(model).__module__}.{type(model).__qualname__} {model}")
    yield " ".join(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    for name, tensor in model.state_dict().items():
        yield f"{name} {tensor.dtype} {tuple(tensor.shape)}"
        yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
