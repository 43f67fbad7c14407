"""Trained image models as folders: in timm's format for the Hub, as transformers saves them, or weights beside a few lines of code.

timm's configuration can say everything of a model but that its stem was replaced (`task.stem`). Such a folder has no config.json: read
by name it would be refused, or, where the weights happen to fit, be another network without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf
from torch import nn
from transformers import AutoModelForImageClassification, ViTImageProcessor

from hf_datadiet.durable import json_text
from hf_datadiet.exported import REPO, Exported, Trained
from hf_datadiet.tasks._exporting import exporting, filled, read_back, require_same, save_transformers, shown_name, start_of, without_places
from hf_datadiet.tasks._image_models import CHECKPOINT, Stem, library_of, named_model, reads_weights, timm_arguments
from hf_datadiet.tasks._transformers import full_name

DESCRIBED = ("architecture", "fixed_input_size", "first_conv", "classifier")
"""What of timm's own configuration of a model is about its layers, and not about weights that somebody else has trained."""

OPENED = 'Image.open("image.png").convert("RGB")'

BY_NAME = f"""import timm
import torch
from PIL import Image

model = timm.create_model("hf-hub:{REPO}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
with torch.no_grad():
    logits = model(transform({OPENED})[None])
print(model.pretrained_cfg["label_names"][int(logits.argmax())])"""

LINE_BY_LINE = f"""import json
from pathlib import Path

import timm
import torch
from huggingface_hub import hf_hub_download
from PIL import Image
from safetensors.torch import load_file

model = timm.create_model(MADE)
STEM
model.maxpool = torch.nn.Identity()
weights = hf_hub_download("{REPO}", "model.safetensors")
model.load_state_dict(load_file(weights))
model.eval()

transform = timm.data.create_transform(
SEEN
)
with torch.no_grad():
    logits = model(transform({OPENED})[None])
labels = Path(hf_hub_download("{REPO}", "labels.json"))
print(json.loads(labels.read_text(encoding="utf-8"))[int(logits.argmax())])"""

PIPELINE = f"""from transformers import pipeline

classify = pipeline("image-classification", model="{REPO}")
print(classify("image.png"))"""


def export_image_model(trained: Trained, stem: Stem, resized: bool, target: Path) -> Exported:
    """Write the model into the folder `target`; `PublishError` if its library cannot."""
    name, size = full_name(trained.model), (trained.fitted["size"][0], trained.fitted["size"][1])
    plain = named_model(name, trained.model_args, len(trained.classes), size, "original", empty=True)
    net = named_model(name, trained.model_args, len(trained.classes), size, stem, empty=True)
    replaced = str(net) != str(plain)
    filled(net, trained.weights, name)
    probe = torch.linspace(-2, 2, 3 * size[0] * size[1]).view(1, 3, *size)
    inputs = f"RGB images, resized to {size[1]} x {size[0]} pixels" if resized else f"RGB images of {size[1]} x {size[0]} pixels"
    if library_of(name) == "transformers":
        start, base = start_of(name, reads_weights(name, trained.model_args))
        _save_transformers(net, name, trained, target)
        require_same(net, lambda: read_back(AutoModelForImageClassification, target), probe, name)
        without_places(target)
        return Exported("transformers", "image-classification", shown_name(name, net), True, PIPELINE, start, base, inputs)
    start, base = _timm_start(net, name, trained.model_args)
    arguments, seen = timm_arguments(name, trained.model_args, size), _seen(trained.fitted)
    about = {"library": "timm", "pipeline_tag": "image-classification", "model": name, "start": start, "base_model": base, "inputs": inputs}
    if replaced:
        with exporting(name):
            save_file(net.state_dict(), target / "model.safetensors", metadata={"format": "pt"})
        (target / "labels.json").write_text(json_text(list(trained.classes)), encoding="utf-8")
        note = (
            "The stem is not that of timm's network of this name: it keeps the resolution, for small images. No configuration of timm says "
            "that, so this repository has none, and `timm.create_model` with its name does not work; the lines above do."
        )
        return Exported(**about, by_name=False, code=_line_by_line(net, arguments, len(trained.classes), seen), notes=(note,))
    with exporting(name):
        _save_timm(net, arguments[1], trained.classes, seen, target)
    require_same(net, lambda: timm.create_model(f"local-dir:{target}", pretrained=True), probe, name)
    return Exported(**about, by_name=True, code=BY_NAME)


def _seen(fitted: Mapping[str, Any]) -> dict[str, Any]:
    """How the task showed images to the model, in timm's words: whole, and normalised for pixels in 0..1."""
    mean, std = (tuple(value / 255 for value in fitted[key]) for key in ("mean", "std"))
    return {
        "input_size": (3, *fitted["size"]),
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "squash",
        "mean": mean,
        "std": std,
    }


def _save_timm(net: Any, arguments: Mapping[str, Any], classes: tuple[str, ...], seen: Mapping[str, Any], target: Path) -> None:
    own = {key: net.pretrained_cfg[key] for key in DESCRIBED if key in net.pretrained_cfg}
    net.pretrained_cfg = {**own, **seen, "num_classes": len(classes), "pool_size": None, "custom_load": False}
    model_args = {"num_classes": len(classes), "in_chans": 3, **arguments}
    save_for_hf(net, str(target), model_config={"label_names": list(classes)}, model_args=model_args, safe_serialization=True)


def _timm_start(net: Any, model: str, model_args: Mapping[str, Any]) -> tuple[str, str | None]:
    """(what its weights were before training, their id on the Hub)."""
    if not reads_weights(model, model_args) and CHECKPOINT not in model_args:
        return "random weights", None
    elsewhere = CHECKPOINT in model_args or net.pretrained_cfg.get("file")
    known = None if elsewhere else net.pretrained_cfg.get("hf_hub_id")
    return (f"the weights of {known}", known) if known else ("pretrained weights that are not on the Hub", None)


def _line_by_line(net: Any, made: tuple[str, Mapping[str, Any]], n_classes: int, seen: Mapping[str, Any]) -> str:
    name, arguments = made
    words = [f'"{name}"', f"num_classes={n_classes}", *(f"{key}={value!r}" for key, value in arguments.items())]
    first = net.conv1
    if isinstance(first, nn.Sequential):
        stem = "model.conv1[0].stride = (1, 1)"
    else:
        bias = f", bias={first.bias is not None}"
        stem = f"model.conv1 = torch.nn.Conv2d({first.in_channels}, {first.out_channels}, 3, stride=1, padding=1{bias})"
    shown = [f"    {key}={_in_code(value)}," for key, value in seen.items()]
    return LINE_BY_LINE.replace("MADE", ", ".join(words)).replace("STEM", stem).replace("SEEN", "\n".join(shown))


def _in_code(value: Any) -> str:
    """As Python writes it, numbers with as many digits as float32 has."""
    if isinstance(value, tuple):
        return f"({', '.join(_in_code(each) for each in value)})"
    if isinstance(value, float):
        return repr(float(f"{value:.8g}"))
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _save_transformers(net: nn.Module, model: str, trained: Trained, target: Path) -> None:
    seen = _seen(trained.fitted)
    save_transformers(net, model, trained.classes, target)
    height, width = trained.fitted["size"]
    processor = ViTImageProcessor(
        size={"height": height, "width": width},
        resample=3,  # bicubic, as Pillow numbers it
        image_mean=list(seen["mean"]),
        image_std=list(seen["std"]),
        do_convert_rgb=True,
    )
    with exporting(model):
        processor.save_pretrained(target)
