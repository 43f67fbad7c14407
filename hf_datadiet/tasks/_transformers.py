"""transformers models by name: a type (`vit`), a folder, or a name on the Hub (`org/name`).

A type has random weights. A folder or a name on the Hub gives its weights, from safetensors and in float32, under a new
head where the number of classes differs; random weights of its configuration if the folder has none, or with
`model_args.pretrained: false`. Pickled weights are refused, and code that lies beside a model is never run.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSequenceClassification
from transformers.image_processing_base import ImageProcessingMixin
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from hf_datadiet.errors import DataDietError, RecipeError

PRETRAINED = "pretrained"
"""The key of `model_args` that says whether weights are read."""

FOLDERS = (".", "/", "~", "$")
"""How a place begins that is no name on the Hub."""

UNREADABLE = ("pytorch_model*", "tf_model*", "flax_model*", "*.pt", "*.pth", "*.ckpt")
"""Weights in a folder that are pickled, or that only other frameworks read."""

CONVERT = "convert them where you trust them: AutoModel.from_pretrained(FOLDER).save_pretrained(FOLDER) with the model's own class"

KINDS: tuple[tuple[str, Literal["image", "text"], Any], ...] = (
    ("ForImageClassification", "image", AutoModelForImageClassification),
    ("ForSequenceClassification", "text", AutoModelForSequenceClassification),
)
"""How the classes of classifiers end."""

REASONS = {
    "custom code": "it needs code of its own (auto_map in config.json), which is never run here; choose a model that transformers knows",
    "couldn't connect": "it is not in the local cache and the Hub cannot be reached; check the name, go online once, or give a ./folder",
    "valid model identifier": "the Hub has no such model that this account may read; check the name",
    "cannot be loaded with `safetensors`": f"it has no safetensors weights, and pickled ones can run code when they are read; {CONVERT}",
}
"""What transformers says in several lines, in one."""


def full_name(model: str) -> str:
    """`transformers:./folder` for a folder that is written without its library; any other name as it is."""
    return f"transformers:{model}" if model.startswith(FOLDERS) else model


def place(name: str, key: str) -> str:
    """A name on the Hub as it is, a folder with ~ and variables replaced."""
    path = os.path.expandvars(name)
    if not path.startswith(FOLDERS):
        return path
    if not Path(path).expanduser().is_dir():
        raise RecipeError(f"{key}: there is no folder {name}; name another, or a model on the Hub (org/name)")
    return str(Path(path).expanduser())


def reason_of(error: Exception) -> str:
    """What a library says, in one line."""
    text = str(error.args[0]) if error.args else ""
    known = next((reason for part, reason in REASONS.items() if part in text), None)
    lines = [line.strip() for line in (text or str(error)).strip().splitlines()] or [type(error).__name__]
    return known or " ".join(lines[:2] if lines[0].endswith(":") else lines[:1]).rstrip(".")


@contextmanager
def loading(what: str, fault: str = "cannot be loaded", remedy: str = "") -> Iterator[None]:
    """What goes wrong inside the block as a `RecipeError` of one line; `remedy` where the library's reason has none."""
    try:
        yield
    except DataDietError:
        raise
    except Exception as error:  # transformers raises what it likes for values of a configuration
        raise RecipeError(f"{what} {fault}: {reason_of(error)}{remedy}") from error


def is_a_type(model: str) -> bool:
    """Whether `transformers:NAME` names a type of model and no place."""
    return "/" not in model


def config_of(model: str, mapping: Any, purpose: str, arguments: Mapping[str, Any], n_classes: int | None = None) -> Any:
    """The configuration of `transformers:NAME` with `arguments` changed, for `n_classes` classes.

    `mapping`: transformers' {configuration class: model class} for the `purpose`. Raises `RecipeError` for an unknown
    type (with the nearest), key or place, and for a model that cannot serve the purpose.
    """
    name = model.partition(":")[2]
    read = _type(name) if is_a_type(name) else _stored(place(name, "task.model"))
    with loading(f"task.model {model}"):
        config = read({})
    if type(config) not in mapping:
        raise RecipeError(f"transformers has no {purpose} for {model}; for example {_examples(mapping)}")
    # transformers would keep a key that it does not know, and ignore it.
    for key in arguments:
        if not hasattr(config, key):
            near = difflib.get_close_matches(key, list(config.to_dict()), n=1)
            raise RecipeError(f"task.model_args.{key}: {name} has no such key" + (f"; did you mean {near[0]}?" if near else ""))
    with loading(f"task.model {model}", "cannot be built", "; mend task.model_args"):
        # Read anew: some values of a configuration follow from others.
        config = read(arguments)
        if n_classes is not None and config.num_labels != n_classes:
            config.num_labels = n_classes
    return config


def _type(name: str) -> Callable[[Mapping[str, Any]], Any]:
    if name not in CONFIG_MAPPING:
        near = difflib.get_close_matches(name, list(CONFIG_MAPPING), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "pretrained ones are org/name, or ./folder"
        raise RecipeError(f"transformers has no model type {name!r}; {hint}")
    return lambda arguments: AutoConfig.for_model(name, **arguments)


def _stored(where: str) -> Callable[[Mapping[str, Any]], Any]:
    return lambda arguments: AutoConfig.from_pretrained(where, trust_remote_code=False, **arguments)


def _examples(mapping: Any) -> str:
    known = [kind.model_type for kind in mapping]
    usual = [name for name in ("vit", "resnet", "bert", "distilbert") if name in known]
    return ", ".join(f"transformers:{name}" for name in usual)


def has_weights(model: str, model_args: Mapping[str, Any]) -> bool:
    """Whether `transformers:NAME` is to be built with weights that are read; `RecipeError` where they must not be."""
    asked, name = model_args.get(PRETRAINED), model.partition(":")[2]
    if asked is not None and not isinstance(asked, bool):
        raise RecipeError(f"task.model_args.pretrained should be true or false, not {asked!r}")
    if is_a_type(name):
        if asked:
            raise RecipeError(
                f"task.model {model} is a type without weights; pretrained ones are transformers:org/name or transformers:./folder"
            )
        return False
    folder = Path(place(name, "task.model"))
    if asked is False or not folder.is_dir() or any(folder.glob("*.safetensors")):
        return asked is not False
    found = sorted(path.name for pattern in UNREADABLE for path in folder.glob(pattern))
    if found:
        raise RecipeError(
            f"task.model {model} has no safetensors weights but {found[0]}, which can run code when it is read: refused; {CONVERT}, "
            "or start from random ones with task.model_args.pretrained=false"
        )
    if asked:
        raise RecipeError(f"task.model {model} has no weights (model.safetensors); add them, or set task.model_args.pretrained=false")
    return False


def built(auto: Any, model: str, config: Any, *, weights: bool, whole: bool = False) -> nn.Module:
    """The model of class `auto` for a configuration, with the weights of `transformers:NAME` or random ones, in float32.

    Without `whole` a part that has no weights, such as a new head, is drawn from torch's global generator.
    """
    with loading(f"task.model {model}", "cannot be built", "" if weights else "; mend task.model_args"):
        if not weights:
            return auto.from_config(config, dtype=torch.float32, trust_remote_code=False)
        loaded, about = auto.from_pretrained(
            place(model.partition(":")[2], "task.model"),
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    # A new head is drawn for other classes; anything else that does not fit would be lost silently.
    for key, saved, wanted in sorted(about["mismatched_keys"]):
        if saved[1:] != wanted[1:] or wanted[:1] != (config.num_labels,):
            raise RecipeError(f"task.model {model}: task.model_args do not fit its weights ({key} is {tuple(saved)}, not {tuple(wanted)})")
    if whole and about["missing_keys"]:
        raise RecipeError(f"{model} has no weights for {min(about['missing_keys'])}; train and save it as a classifier first")
    return loaded


def trained_classifier(where: str) -> tuple[str, Literal["image", "text"], nn.Module]:
    """("transformers:NAME", what it classifies, the model with its weights) of a folder or a name on the Hub."""
    if "/" not in where and not Path(where).is_dir():
        raise RecipeError(f"there is no folder {where}; name another, or a model on the Hub (org/name)")
    name = f"transformers:{Path(where).absolute() if Path(where).is_dir() else where}"
    with loading(where):
        config = AutoConfig.from_pretrained(place(name.partition(":")[2], "model"), trust_remote_code=False)
    saved = (config.architectures or ["a model of no kind"])[0]
    for ending, kind, auto in KINDS:
        if saved.endswith(ending):
            return name, kind, built(auto, name, config, weights=has_weights(name, {PRETRAINED: True}), whole=True)
    raise RecipeError(f"{where} holds {saved}, which is no trained classifier of images or texts; pass a model object instead")


def stated_classes(model: nn.Module) -> tuple[str, ...]:
    """The names of classes 0..C-1 in a transformers model's configuration; () for a model that has none."""
    names = getattr(getattr(model, "config", None), "id2label", None)
    named = {str(number): str(name) for number, name in names.items()} if isinstance(names, Mapping) else {}
    return tuple(named[str(number)] for number in range(len(named)) if str(number) in named)


def stated_normalization(model: str) -> tuple[list[float], list[float]] | None:
    """(mean, s.d.) per channel of pixels in 0..1 that the preprocessor of `transformers:NAME` states, or None."""
    name = model.partition(":")[2]
    if is_a_type(name):
        return None
    try:
        stated, _ = ImageProcessingMixin.get_image_processor_dict(place(name, "task.model"))
    except (OSError, ValueError):
        return None
    mean, std = stated.get("image_mean"), stated.get("image_std")
    if stated.get("do_normalize") is False:
        return [0.0] * 3, [1.0] * 3
    return (mean, std) if isinstance(mean, list) and isinstance(std, list) else None
