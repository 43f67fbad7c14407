"""Image classification with timm and transformers models.

Images are decoded once, into one uint8 array on disk (memory-mapped), and are augmented batch by batch on the device.
They keep their size: nothing is resized unless `image_size` asks for it.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from datasets import Dataset, Features, Image
from numpy.typing import NDArray
from PIL import Image as Pillow
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn

from hf_datadiet.errors import BadRowsError, RecipeError, SourceError
from hf_datadiet.exported import Exported, Trained
from hf_datadiet.sealed import cached
from hf_datadiet.tasks._image_export import export_image_model
from hf_datadiet.tasks._image_models import Stem, check_size, named_model, normalization_of
from hf_datadiet.tasks.base import label_column, the_column

PIXELS = "pixels.npy"

CORRUPT = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Pillow.DecompressionBombError)
"""What Pillow's decoders raise for bytes that are no image."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ImageTask:
    """The recipe keys of an image task.

    `image_size`: resize (bicubic, antialiased) to squares of that many pixels; needed only if sizes differ.
    `stem`: `3x3` replaces the first, strided layers of a timm ResNet by one that keeps the resolution; `auto` does so for
    images of at most 64 pixels; `original` never. `normalize`: mean and s.d. per channel of the rows to be scored
    (`data`), or those that the model's configuration or preprocessor states (`model`).
    `crop`: random crop after reflecting that many pixels at each border, drawn per image; `flip`: mirror half of them.
    """

    image_size: Annotated[int, Field(ge=1, le=10_000)] | None = None
    stem: Stem = "auto"
    normalize: Literal["data", "model"] = "data"
    crop: Annotated[int, Field(ge=0)] = 0
    flip: bool = False

    def find_columns(self, features: Features, named: Mapping[str, str]) -> dict[str, str]:
        """The `image` and `label` columns: those named, else the only column with an Image (ClassLabel) feature."""
        unknown = set(named) - {"image", "label"}
        if unknown:
            raise RecipeError(f"source.columns: an image task has no role {sorted(unknown)[0]!r}; its roles are image and label")
        images = [name for name, kind in features.items() if isinstance(kind, Image)]
        return {"image": the_column(features, "image", images, named.get("image")), "label": label_column(features, named.get("label"))}

    def lengths(self, prepared: torch.Tensor) -> None:
        """Images of one run are all of one size."""

    def prepare(
        self, dataset: Dataset, ids: NDArray[np.int64], columns: Mapping[str, str], cache: Path, key: str, like: Any = None
    ) -> torch.Tensor:
        """uint8 [N, 3, H, W], memory-mapped from `cache`, where what is damaged is made anew."""
        folder = cache / f"images-{key}-{self.image_size or 'native'}"
        cached(folder, lambda made: self._decode(dataset, ids, columns["image"], made / PIXELS))
        # Copy on write: torch wants writable memory, and the file must not change.
        return torch.from_numpy(np.load(folder / PIXELS, mmap_mode="c"))

    def _decode(self, dataset: Dataset, ids: NDArray[np.int64], column: str, path: Path) -> None:
        """Decode all images into one array on disk; `BadRowsError` names those that cannot be read."""

        def on_disk(shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[np.uint8]]:
            pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(ids.size, *shape))
            if hasattr(os, "posix_fallocate"):
                # The file has holes: a disk that fills up while they are filled would kill the process without a word.
                with path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            return pixels

        bad: dict[int, str] = {}
        pixels = self._fill(on_disk, _stored(dataset, ids, column, bad))
        if bad:
            raise BadRowsError(bad)
        if isinstance(pixels, np.memmap):
            pixels.flush()

    def prepare_batch(self, values: Mapping[str, Sequence[Any]], rows: Sequence[int], fitted: Mapping[str, Any]) -> torch.Tensor:
        """uint8 [B, 3, H, W] of B images in memory; a `SourceError` if `fitted` has another size."""

        def in_memory(shape: tuple[int, ...]) -> NDArray[np.uint8]:
            return np.empty((len(rows), *shape), np.uint8)

        pixels = self._fill(in_memory, zip(rows, values["image"], strict=True))
        assert pixels is not None
        height, width = fitted.get("size", pixels.shape[2:])
        if (height, width) != pixels.shape[2:]:
            # Many models would take them, and `stem: auto` would build another one.
            raise SourceError(
                f"row {rows[0]} has an image of {pixels.shape[3]} x {pixels.shape[2]} pixels, "
                f"and the model was trained on {width} x {height}; resize the images first"
            )
        return torch.from_numpy(pixels)

    def _fill(
        self, allocate: Callable[[tuple[int, ...]], NDArray[np.uint8]], images: Iterable[tuple[int, Any]]
    ) -> NDArray[np.uint8] | None:
        """Each image as [3, H, W] at its place in what `allocate` gives for the first one's shape; None without images."""
        pixels: NDArray[np.uint8] | None = None
        for position, (row, image) in enumerate(images):
            image = _rgb(image, row)
            if self.image_size is not None and image.size != (self.image_size, self.image_size):
                image = image.resize((self.image_size, self.image_size), Pillow.Resampling.BICUBIC)
            values = np.asarray(image).transpose(2, 0, 1)
            if pixels is None:
                pixels = allocate(values.shape)
            if values.shape != pixels.shape[1:]:
                raise SourceError(
                    f"row {row} has an image of {image.width} x {image.height} pixels, others have "
                    f"{pixels.shape[3]} x {pixels.shape[2]}; set task.image_size to resize all of them"
                )
            pixels[position] = values
        return pixels

    def fit(self, prepared: torch.Tensor, model: str | nn.Module) -> dict[str, Any]:
        """{"mean": 3 floats, "std": 3 floats} in units of 0..255, and the "size" [H, W] of the images."""
        size = list(prepared.shape[2:])
        if self.normalize == "model":
            stated = normalization_of(model)
            if stated is None:
                what = model if isinstance(model, str) else type(model).__name__
                raise RecipeError(f"{what} states no mean and s.d.; set task.normalize=data")
            mean, std = stated
            return {"mean": [255 * float(v) for v in mean], "std": [255 * float(v) for v in std], "size": size}
        total, squares, count = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), 0
        for chunk in prepared.split(4096):
            values = chunk.double()
            total += values.sum((0, 2, 3))
            squares += values.square().sum((0, 2, 3))
            count += values[:, 0].numel()
        mean = total / count
        std = (squares / count - mean.square()).clamp_min(0).sqrt()
        # A constant channel has no spread to divide by.
        return {"mean": mean.tolist(), "std": torch.where(std > 0, std, torch.ones_like(std)).tolist(), "size": size}

    def build_model(
        self, model: str | nn.Module, model_args: Mapping[str, Any], n_classes: int, prepared: torch.Tensor, *, empty: bool = False
    ) -> nn.Module:
        """A model for images of the prepared size; one that comes from Python keeps its own stem."""
        size = (prepared.shape[2], prepared.shape[3])
        if isinstance(model, str):
            net, name = named_model(model, model_args, n_classes, size, self.stem, empty=empty), model
        elif self.stem == "3x3":
            raise RecipeError("task.stem=3x3 is for models that are built by name; change the model itself, or leave task.stem out")
        else:
            net, name = model, type(model).__name__
        check_size(net, name, size, n_classes)
        return net.train()

    def collate(
        self, prepared: torch.Tensor, rows: torch.Tensor, fitted: Mapping[str, Any], device: torch.device, augment: torch.Generator | None
    ) -> torch.Tensor:
        """float32 [B, 3, H, W], normalised; cropped and flipped at random with a generator."""
        pixels = prepared[rows.to(prepared.device)].to(device, non_blocking=True)
        if augment is not None and (self.crop or self.flip):
            pixels = crop_and_flip(pixels, self.crop, self.flip, augment)
        mean = torch.tensor(fitted["mean"], dtype=torch.float32, device=device).view(1, 3, 1, 1)
        std = torch.tensor(fitted["std"], dtype=torch.float32, device=device).view(1, 3, 1, 1)
        return (pixels.float() - mean) / std

    def export(self, trained: Trained, target: Path) -> Exported:
        """The model with the size and the normalisation of its images."""
        return export_image_model(trained, self.stem, self.image_size is not None, target)

    def metrics(self, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        """Accuracy, as a fraction."""
        return {"accuracy": float((logits.argmax(1) == labels).double().mean())}


TASK = ImageTask


def crop_and_flip(pixels: torch.Tensor, crop: int, flip: bool, generator: torch.Generator) -> torch.Tensor:
    """Shift each image by up to `crop` pixels both ways, with reflected borders, and mirror half of them.

    `pixels` [B, 3, H, W] on any device; `generator` on the CPU, so that every device draws the same. One gather: the
    reflection is arithmetic on indices. Raises `RecipeError` if the images are not larger than `crop`.
    """
    b, _, height, width = pixels.shape
    if crop >= min(height, width):
        raise RecipeError(f"task.crop is {crop}, but images are {width} x {height} pixels; choose a smaller crop")
    shift = torch.randint(-crop, crop + 1, (2, b, 1), generator=generator)
    mirror = torch.rand((b, 1), generator=generator) < 0.5 if flip else torch.zeros((b, 1), dtype=torch.bool)
    y = _reflect(torch.arange(height) + shift[0], height)
    x = _reflect(torch.arange(width) + shift[1], width)
    x = torch.where(mirror, width - 1 - x, x)
    y, x = y.to(pixels.device), x.to(pixels.device)
    batch = torch.arange(b, device=pixels.device).view(b, 1, 1, 1)
    channel = torch.arange(pixels.shape[1], device=pixels.device).view(1, -1, 1, 1)
    return pixels[batch, channel, y[:, None, :, None], x[:, None, None, :]]


def _reflect(index: torch.Tensor, size: int) -> torch.Tensor:
    index = index.abs()
    return torch.where(index >= size, 2 * (size - 1) - index, index)


def _stored(dataset: Dataset, ids: NDArray[np.int64], column: str, bad: dict[int, str]) -> Iterator[tuple[int, Any]]:
    """(row, image) of every id; rows that cannot be read go to `bad`, with the reason."""
    images = dataset.select_columns([column]).with_format(None)
    for row in ids.tolist():
        try:
            image = images[row][column]
        except CORRUPT as error:
            # Pillow names the buffer by its address, datasets the file by its path.
            bad[row] = "image missing" if isinstance(error, FileNotFoundError) else re.sub(r" <_io\S+ object at \S+>", "", _first(error))
            continue
        if image is None:
            bad[row] = "image is null"
        else:
            yield row, image


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _rgb(image: Any, row: int) -> Pillow.Image:
    if not isinstance(image, Pillow.Image):
        raise SourceError(f"row {row} has no image (it is {type(image).__name__}); name the image column with source.columns.image=NAME")
    if image.mode.startswith(("I", "F")):
        # Pillow would clip 16-bit grey to white here, silently.
        raise SourceError(f"row {row} has an image of mode {image.mode}; convert images to 8 bits per channel first")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow's advice: straight to RGB it warns
    return image.convert("RGB")


def fitted_to(model: nn.Module, given: Mapping[str, Sequence[float]] | None) -> dict[str, list[float]]:
    """What `collate` needs for a trained model: {"mean": 3 floats, "std": 3 floats} in units of 0..255, as given or as it states."""
    stated = getattr(model, "pretrained_cfg", None) if given is None else given
    if not isinstance(stated, Mapping) or not {"mean", "std"} <= set(stated):
        what = "the model states no mean and s.d." if given is None else f"normalize has {', '.join(given) or 'no keys'}"
        raise RecipeError(f"{what}; pass normalize={{'mean': [r, g, b], 'std': [r, g, b]}} for pixels in 0..1")
    found = {key: [255 * float(value) for value in stated[key]] for key in ("mean", "std")}
    if any(len(values) != 3 for values in found.values()) or min(found["std"]) <= 0:
        raise RecipeError("normalize needs three numbers for mean and three above 0 for std, for pixels in 0..1")
    return found
