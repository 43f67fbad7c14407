"""Trained models as folders that their libraries load elsewhere: what tasks share. Nothing is pickled, no place on this machine named."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers.utils import logging

from hf_datadiet.durable import json_text
from hf_datadiet.errors import DataDietError, PublishError
from hf_datadiet.gradients.forward import Inputs, logits_of
from hf_datadiet.gradients.rest import at_rest
from hf_datadiet.tasks._transformers import FOLDERS, is_a_type, reason_of

WITHOUT = "publish without --push-models"

OF_THIS_MACHINE = ("name_or_path", "_name_or_path", "is_local", "local_files_only")
"""Keys of configurations that say where, and how, something was read here."""


def filled(net: nn.Module, weights: Mapping[str, NDArray[Any]], model: str) -> nn.Module:
    """The model in eval mode with the weights that its training kept; `PublishError` if they are another one's."""
    with exporting(model):
        net.load_state_dict({name: torch.from_numpy(np.array(values)) for name, values in weights.items()})
    return net.eval()


@contextmanager
def exporting(model: str) -> Iterator[None]:
    """What a library raises inside the block as a `PublishError` of one line, and its progress bars not at all."""
    before = logging.set_tqdm_hook(lambda factory, args, kwargs: logging.EmptyTqdm(*args, **kwargs))
    try:
        yield
    except DataDietError:
        raise
    except Exception as error:  # libraries raise what they like for what they cannot write
        raise PublishError(f"task.model {model} cannot be written for others: {reason_of(error)}; {WITHOUT}") from error
    finally:
        logging.set_tqdm_hook(before)


def save_transformers(net: Any, model: str, classes: Sequence[str], target: Path) -> None:
    """`save_pretrained`, the classes by their names."""
    net.config.id2label = dict(enumerate(classes))
    net.config.label2id = {name: label for label, name in enumerate(classes)}
    with exporting(model):
        net.save_pretrained(target)


def read_back(auto: Any, target: Path) -> nn.Module:
    """The model of transformers' class `auto` that lies in the folder."""
    return auto.from_pretrained(target, dtype=torch.float32, use_safetensors=True, trust_remote_code=False)


def require_same(net: nn.Module, read: Callable[[], nn.Module], inputs: Inputs, model: str) -> None:
    """Raise `PublishError` unless the model that `read` gets from the folder gives the same bits."""
    with exporting(model), torch.no_grad():
        # A copy: weights that are mapped from a file lie elsewhere between multiples of 64 bytes, and the last bit depends on that.
        again = copy.deepcopy(read()).eval()
        with at_rest(net), at_rest(again):
            same = torch.equal(logits_of(net, inputs), logits_of(again, inputs))
    if not same:
        raise PublishError(f"task.model {model} does not come back the same from what its library saves; {WITHOUT}")


def without_places(target: Path) -> None:
    """Take out of the folder's configurations where this machine had the files from; transformers leaves some of it there."""
    for path in target.glob("*config.json"):
        values = json.loads(path.read_text(encoding="utf-8"))
        kept = {key: value for key, value in values.items() if key not in OF_THIS_MACHINE and not _is_place(value)}
        if kept != values:
            path.write_text(json_text(kept), encoding="utf-8")


def _is_place(value: Any) -> bool:
    return isinstance(value, str) and Path(value).is_absolute() and len(Path(value).parts) > 2


def shown_name(model: str, net: nn.Module) -> str:
    """The model's name in a recipe; of a folder on this machine only the type of what lies there."""
    library, _, name = model.partition(":")
    return f"{library}:{net.config.model_type}" if _is_local(name) else model  # pyright: ignore[reportAttributeAccessIssue]


def start_of(model: str, weights: bool) -> tuple[str, str | None]:
    """(what the weights of `transformers:NAME` were before training, their id on the Hub)."""
    name = model.partition(":")[2]
    if not weights or is_a_type(name):
        return "random weights", None
    return ("pretrained weights that are not public", None) if _is_local(name) else (f"the weights of {name}", name)


def _is_local(name: str) -> bool:
    return name.startswith(FOLDERS)
