"""Image classifiers by name: timm models, on request with a stem for small images, and those of transformers."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import timm
import torch
from torch import nn
from transformers import AutoModelForImageClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

from hf_datadiet.errors import RecipeError
from hf_datadiet.gradients.forward import logits_of
from hf_datadiet.gradients.rest import at_rest
from hf_datadiet.tasks._transformers import PRETRAINED, built, config_of, full_name, has_weights, loading, reason_of, stated_normalization
from hf_datadiet.tasks.base import check_alone, check_classes

Stem: TypeAlias = Literal["auto", "3x3", "original"]

SMALL = 64
"""Up to this many pixels a side, `stem: auto` gives a ResNet without trained weights the 3x3 stem without pooling (as the paper's)."""

CHECKPOINT = "checkpoint_path"
OF_WEIGHTS = (PRETRAINED, CHECKPOINT, "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
"""The arguments of `timm.create_model` that say which weights are read, and from where."""

PURPOSE = "image classification"


def named_model(
    model: str, model_args: Mapping[str, Any], n_classes: int, size: tuple[int, int], stem: Stem, *, empty: bool = False
) -> nn.Module:
    """The model "timm:NAME", "transformers:NAME" or "./folder" for images of (height, width) pixels, or a `RecipeError`.

    `empty`: the same layers, but no weights are read: others will be put in their place.
    """
    model = full_name(model)
    if library_of(model) == "transformers":
        net = _transformers_model(model, model_args, n_classes, size, empty)
    else:
        net = _timm_model(model, model_args, n_classes, size, empty)
    # A new stem has random weights: `auto` takes no trained one away.
    if stem == "3x3" or (stem == "auto" and not reads_weights(model, model_args) and max(size) <= SMALL and _has_strided_stem(net)):
        _keep_resolution(net, model)
    return net


def reads_weights(model: str, model_args: Mapping[str, Any]) -> bool:
    """Whether a training of the model starts from weights that are read."""
    return bool(model_args.get(PRETRAINED, False)) if library_of(model) == "timm" else has_weights(model, model_args)


def library_of(model: str) -> str:
    """`timm` or `transformers`; `RecipeError` for any other."""
    library, colon, name = model.partition(":")
    if not colon or not name or library not in ("timm", "transformers"):
        raise RecipeError(
            f"task.model {model!r} is not supported; write timm:NAME, for example timm:resnet18, transformers:NAME, or ./folder"
        )
    return library


def _timm_name(model: str) -> str:
    name = model.partition(":")[2]
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise RecipeError(f"timm has no model {name!r}" + (f"; did you mean {', '.join(near)}?" if near else "; see timm.list_models()"))
    return name


def timm_arguments(model: str, model_args: Mapping[str, Any], size: tuple[int, int]) -> tuple[str, dict[str, Any]]:
    """The name and the arguments with which timm builds the model's layers, beside classes and channels; nothing on weights."""
    name = _timm_name(model)
    arguments = {key: value for key, value in model_args.items() if key not in OF_WEIGHTS}
    config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    if config is not None and config.fixed_input_size:
        arguments.setdefault("img_size", size)
    return name, arguments


def _timm_model(model: str, model_args: Mapping[str, Any], n_classes: int, size: tuple[int, int], empty: bool) -> nn.Module:
    name, arguments = timm_arguments(model, model_args, size)
    unread = (PRETRAINED, CHECKPOINT) if empty else ()
    weights = {key: model_args[key] for key in OF_WEIGHTS if key in model_args and key not in unread}
    remedy = "; mend task.model_args, or set task.image_size" if model_args else "; set task.image_size"
    with loading(f"task.model {model}", f"cannot be built for {size[1]} x {size[0]} images", remedy):
        return timm.create_model(name, num_classes=n_classes, in_chans=3, **arguments, **weights)


def _transformers_model(model: str, model_args: Mapping[str, Any], n_classes: int, size: tuple[int, int], empty: bool) -> nn.Module:
    weights = has_weights(model, model_args)
    arguments = {name: value for name, value in model_args.items() if name != PRETRAINED}
    known = config_of(model, MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, PURPOSE, {})
    if not weights and hasattr(known, "image_size"):
        # As timm's img_size: a model that starts from nothing takes the images as they are.
        arguments.setdefault("image_size", size[0] if size[0] == size[1] else size)
    config = config_of(model, MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, PURPOSE, arguments, n_classes)
    return built(AutoModelForImageClassification, model, config, weights=weights and not empty)


def normalization_of(model: str | nn.Module) -> tuple[Sequence[float], Sequence[float]] | None:
    """(mean, s.d.) per channel of pixels in 0..1 that a model states, by name or as an object, or None."""
    if isinstance(model, str):
        model = full_name(model)
        if library_of(model) == "transformers":
            return stated_normalization(model)
        config = timm.get_pretrained_cfg(_timm_name(model), allow_unregistered=False)
        return None if config is None else (config.mean, config.std)
    stated = getattr(model, "pretrained_cfg", None)
    return (stated["mean"], stated["std"]) if isinstance(stated, Mapping) and {"mean", "std"} <= set(stated) else None


def check_size(net: nn.Module, model: str, size: tuple[int, int], n_classes: int) -> None:
    """Some models take only some sizes, and some mix the rows of a batch. At rest: neither statistics nor generators change."""
    # Unlike each other, so that statistics of both are those of neither.
    pair = torch.linspace(-1, 1, 3 * size[0] * size[1]).view(1, 3, *size) * torch.tensor([1.0, -2.0]).view(2, 1, 1, 1)
    try:
        with at_rest(net), torch.no_grad():
            alone = logits_of(net, pair[:1])
            beside = logits_of(net, pair)
    except (RuntimeError, AssertionError, ValueError, TypeError, AttributeError) as error:
        wanted = getattr(getattr(net, "config", None), "image_size", None)
        remedy = f"set task.image_size={wanted}" if isinstance(wanted, int) and wanted not in size else "set task.image_size"
        raise RecipeError(f"task.model {model} cannot take {size[1]} x {size[0]} images ({reason_of(error)}); {remedy}") from error
    check_classes(alone, n_classes, model)
    check_alone(alone, beside, f"task.model {model}")


def _has_strided_stem(net: nn.Module) -> bool:
    return isinstance(getattr(net, "maxpool", None), nn.Module) and isinstance(getattr(net, "conv1", None), nn.Conv2d | nn.Sequential)


def _keep_resolution(net: nn.Module, model: str) -> None:
    """Replace a ResNet's 7x7 stride-2 convolution by 3x3 stride 1 (a deep stem loses its stride) and drop the pooling."""
    if not _has_strided_stem(net):
        raise RecipeError(f"task.stem=3x3 is for ResNets; {model} has no stem of that kind, use stem=original")
    first = net.conv1
    if isinstance(first, nn.Sequential):
        strided: Any = first[0]
        strided.stride = (1, 1)
    elif isinstance(first, nn.Conv2d):
        stem = nn.Conv2d(first.in_channels, first.out_channels, 3, stride=1, padding=1, bias=first.bias is not None)
        # The initialisation of timm's ResNets.
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        net.conv1 = stem
    net.maxpool = nn.Identity()
