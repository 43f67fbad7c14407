from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from datasets import Dataset, Features, Image
from PIL import Image as Pillow
from safetensors.torch import save_file
from torch import nn

from hf_datadiet.errors import BadRowsError, RecipeError, SourceError
from hf_datadiet.recipe_yaml import build
from hf_datadiet.tasks.image import ImageTask, crop_and_flip
from tests.synthetic import pictures

CPU = torch.device("cpu")
COLUMNS = {"image": "image", "label": "label"}


def stored(*images: Pillow.Image) -> Dataset:
    return Dataset.from_dict({"image": list(images)}, features=Features({"image": Image()}))


def prepared(dataset: Dataset, cache: Path, task: ImageTask | None = None, ids: Any = None) -> torch.Tensor:
    rows = np.arange(len(dataset)) if ids is None else np.asarray(ids)
    return (task or ImageTask()).prepare(dataset, rows, COLUMNS, cache, "key")


def grey(size: int = 8, mode: str = "L") -> Pillow.Image:
    ramp = np.linspace(0, 255, size * size).reshape(size, size).astype(np.uint8)
    return Pillow.fromarray(ramp).convert(mode)


# Decoding


def test_images_become_three_uint8_channels_in_the_order_of_the_ids(tmp_path: Path) -> None:
    dataset = pictures(6)
    pixels = prepared(dataset, tmp_path, ids=[4, 1])
    assert pixels.dtype == torch.uint8 and pixels.shape == (2, 3, 8, 8)
    for position, row in enumerate((4, 1)):
        assert np.array_equal(pixels[position].numpy(), np.asarray(dataset[row]["image"]).transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1", "CMYK", "HSV", "YCbCr"])
def test_every_8_bit_mode_becomes_three_channels(mode: str, tmp_path: Path) -> None:
    image = grey(mode=mode)
    # A column of datasets writes its images as PNG or TIFF; modes that neither has come from elsewhere, as here.
    rows: Any = OneColumn([image])
    pixels = prepared(rows, tmp_path)
    assert pixels.shape == (1, 3, 8, 8)
    expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(pixels[0].numpy(), expected) and pixels.float().std() > 30, "the picture is still there"
    if mode in ("L", "LA", "P", "RGBA", "RGB"):
        assert np.abs(pixels[0].numpy().astype(int) - np.asarray(grey())).max() <= 6


class OneColumn:
    """The little of a dataset that decoding uses, with images as they are."""

    def __init__(self, images: list[Any]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def select_columns(self, _: Any) -> OneColumn:
        return self

    def with_format(self, _: Any) -> OneColumn:
        return self

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"image": self.images[row]}


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_modes_as_stored_by_datasets(mode: str, tmp_path: Path) -> None:
    pixels = prepared(stored(grey(mode=mode)), tmp_path)
    assert pixels.shape == (1, 3, 8, 8) and pixels.float().std() > 30


def test_a_palette_with_transparency_is_no_reason_to_warn(tmp_path: Path) -> None:
    image = grey(mode="P")
    image.info["transparency"] = bytes(range(256))
    image.save(tmp_path / "p.png")
    pixels = prepared(Dataset.from_dict({"image": [str(tmp_path / "p.png")]}, features=Features({"image": Image()})), tmp_path)
    assert np.abs(pixels[0].numpy().astype(int) - np.asarray(grey())).max() <= 6


def test_more_than_8_bits_are_refused(tmp_path: Path) -> None:
    deep = Pillow.fromarray((np.arange(64).reshape(8, 8) * 1000).astype(np.uint16))
    for image in (deep, deep.convert("I"), deep.convert("F")):
        rows: Any = OneColumn([grey(), image])
        with pytest.raises(SourceError, match=rf"row 1 has an image of mode {image.mode}.*; convert images to 8 bits"):
            prepared(rows, tmp_path)
    with pytest.raises(SourceError, match="row 1 has an image of mode I;16"):
        prepared(stored(grey(), deep), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_image_names_its_row(tmp_path: Path) -> None:
    cells: list[Any] = [{"bytes": None, "path": str(tmp_path / "gone.png")}, {"bytes": b"no image", "path": None}, None]
    features = Features({"image": Image()})
    stream = io.BytesIO()
    grey().save(stream, "png")
    half = stream.getvalue()[: len(stream.getvalue()) // 2]
    cells += [{"bytes": stream.getvalue(), "path": None}, {"bytes": half, "path": None}]
    with pytest.raises(BadRowsError, match=r"4 rows cannot be read: 0 \(image missing\), 1 \(cannot identify image file\), 2") as error:
        prepared(Dataset.from_dict({"image": cells}, features=features), tmp_path / "cache")
    assert set(error.value.rows) == {0, 1, 2, 4} and error.value.rows[2] == "image is null" and error.value.rows[4]
    assert "\n" not in str(error.value) and " at 0x" not in str(error.value) and str(tmp_path) not in str(error.value)
    words: Any = OneColumn(["word"])
    with pytest.raises(SourceError, match=r"row 0 has no image \(it is str\); name the image column"):
        prepared(words, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


# Sizes


def test_sizes_that_differ_name_the_row_and_the_remedy(tmp_path: Path) -> None:
    dataset = stored(grey(8), grey(8), grey(8).resize((9, 7)))
    message = "row 2 has an image of 9 x 7 pixels, others have 8 x 8; set task.image_size to resize all of them"
    with pytest.raises(SourceError, match=message):
        prepared(dataset, tmp_path)
    assert list(tmp_path.iterdir()) == [], "no half-made file is left"
    pixels = prepared(dataset, tmp_path, ImageTask(image_size=6))
    assert pixels.shape == (3, 3, 6, 6)
    expected = grey(8).convert("RGB").resize((6, 6), Pillow.Resampling.BICUBIC)
    assert np.array_equal(pixels[0].numpy(), np.asarray(expected).transpose(2, 0, 1))
    assert prepared(dataset, tmp_path, ImageTask(image_size=12)).shape == (3, 3, 12, 12), "each size has its own file"


def test_height_and_width_keep_their_places(tmp_path: Path) -> None:
    flat = Pillow.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6))
    pixels = prepared(stored(flat), tmp_path)
    assert pixels.shape == (1, 3, 4, 6) and pixels[0, 1].tolist() == np.arange(24).reshape(4, 6).tolist()


def test_an_image_reaches_the_model_in_its_own_size(tmp_path: Path) -> None:
    """Weights for 224 pixels or not: 32 pixels stay 32 pixels."""
    task, pixels = ImageTask(), prepared(pictures(4, size=32), tmp_path)
    for name in ("test_resnet", "test_vit", "resnet18"):
        net = task.build_model(f"timm:{name}", {}, 3, pixels)
        seen: list[torch.Size] = []
        net.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0].shape))
        inputs = task.collate(pixels, torch.arange(2), task.fit(pixels, name), CPU, None)
        assert net.eval()(inputs).shape == (2, 3)
        assert seen == [torch.Size([2, 3, 32, 32])]


# Decoded once


def test_decoding_happens_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = pictures(4)
    first = prepared(dataset, tmp_path).clone()
    monkeypatch.setattr(Pillow, "open", lambda *_: pytest.fail("decoded again"))
    assert torch.equal(prepared(dataset, tmp_path), first)
    with pytest.raises(pytest.fail.Exception, match="decoded again"):
        ImageTask().prepare(dataset, np.arange(3), COLUMNS, tmp_path, "another key")


def test_the_cache_is_mapped_and_cannot_be_changed_through_the_tensor(tmp_path: Path) -> None:
    pixels = prepared(pictures(4), tmp_path)
    before = pixels.clone()
    pixels.zero_()
    assert torch.equal(prepared(pictures(4), tmp_path), before)
    assert sorted(path.suffix for path in tmp_path.rglob("*.*")) == [".json", ".npy"], "plain numbers, nothing pickled"
    np.load(next(tmp_path.rglob("*.npy")), allow_pickle=False)


# Models


def feature_maps(net: nn.Module, size: int) -> list[tuple[int, int]]:
    """Height and width behind the stem and behind each of the four stages."""
    sizes: list[tuple[int, int]] = []
    for layer in (net.maxpool, net.layer1, net.layer2, net.layer3, net.layer4):
        layer.register_forward_hook(lambda _, __, output: sizes.append(tuple(output.shape[2:])))
    with torch.no_grad():
        net.eval()(torch.zeros(1, 3, size, size))
    return sizes


def made(model: str, size: int, **task: Any) -> nn.Module:
    return ImageTask(**task).build_model(f"timm:{model}", {}, 5, torch.zeros(1, 3, size, size, dtype=torch.uint8))


@pytest.mark.parametrize("model", ["resnet18", "test_resnet"])
def test_a_small_image_keeps_its_resolution_in_the_stem_of_a_resnet(model: str) -> None:
    assert feature_maps(made(model, 32), 32) == [(32, 32), (32, 32), (16, 16), (8, 8), (4, 4)]
    assert feature_maps(made(model, 64), 64)[0] == (64, 64)
    assert feature_maps(made(model, 65), 65)[0] == (17, 17), "auto ends at 64 pixels"
    assert feature_maps(made(model, 65, stem="3x3"), 65)[0] == (65, 65)
    assert feature_maps(made(model, 32, stem="original"), 32) == [(8, 8), (8, 8), (4, 4), (2, 2), (1, 1)]


@pytest.mark.parametrize(("size", "stem"), [(224, "auto"), (32, "original")])
def test_a_stem_is_left_as_timm_made_it(size: int, stem: str) -> None:
    net, plain = made("resnet18", size, stem=stem), timm.create_model("resnet18", num_classes=5)
    assert str(net) == str(plain)


def test_a_trained_stem_is_kept(tmp_path: Path) -> None:
    trained = timm.create_model("test_resnet", num_classes=5)
    save_file(trained.state_dict(), tmp_path / "weights.safetensors")
    arguments = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(tmp_path / "weights.safetensors"), "num_classes": 5}}
    net = ImageTask().build_model("timm:test_resnet", arguments, 5, torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    assert str(net) == str(trained) and all(torch.equal(a, b) for a, b in zip(net.parameters(), trained.parameters(), strict=True))


def test_the_new_stem_is_drawn_like_timms_own() -> None:
    torch.manual_seed(0)
    net = made("resnet18", 32)
    weight = net.conv1.weight
    assert weight.shape == (64, 3, 3, 3) and net.conv1.bias is None and net.conv1.stride == (1, 1)
    assert abs(float(weight.detach().std()) / np.sqrt(2 / (64 * 9)) - 1) < 0.05, "He et al., fan out"
    torch.manual_seed(0)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), made("resnet18", 32).state_dict().values(), strict=True))
    torch.manual_seed(1)
    assert not torch.equal(made("resnet18", 32).conv1.weight, weight)


def test_a_new_model_is_untouched_and_in_train_mode() -> None:
    torch.manual_seed(0)
    net = made("test_resnet", 32)
    after = torch.rand(3)
    assert net.training and all(module.training for module in net.modules())
    running = {name: value for name, value in net.state_dict().items() if "running" in name or "tracked" in name}
    assert running
    for name, value in running.items():
        assert torch.all(value == (1 if name.endswith("var") else 0)), name
    torch.manual_seed(0)
    made("test_resnet", 32)
    assert torch.equal(torch.rand(3), after), "the same draws follow it"
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())


def test_a_vit_has_no_stem_to_replace() -> None:
    net = made("test_vit", 32)
    assert net.patch_embed.img_size == (32, 32) and net.patch_embed.grid_size == (2, 2)
    assert net.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
    with pytest.raises(RecipeError, match=r"task.stem=3x3 is for ResNets; timm:test_vit has no stem of that kind, use stem=original"):
        made("test_vit", 32, stem="3x3")


@pytest.mark.parametrize("size", [8, 40])
def test_a_size_that_the_model_cannot_take_is_refused_before_training(size: int) -> None:
    with pytest.raises(RecipeError, match=rf"task.model timm:test_vit cannot .*{size} x {size} images.*task.image_size") as error:
        made("test_vit", size)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("tracked", [True, False])
def test_a_model_that_mixes_the_rows_of_a_batch_is_refused(tracked: bool) -> None:
    norm = nn.BatchNorm2d(4, track_running_stats=tracked)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    if tracked:
        assert ImageTask().build_model(net, {}, 5, torch.zeros(1, 3, 8, 8)) is net
        return
    with pytest.raises(RecipeError, match=r"^task\.model Sequential says something else of a row that .* depend on the batch; ") as error:
        ImageTask().build_model(net, {}, 5, torch.zeros(1, 3, 8, 8))
    assert "\n" not in str(error.value)


def test_a_model_that_gives_one_row_for_two_is_refused() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.Unflatten(0, (1, -1)), nn.Flatten())
    with pytest.raises(RecipeError, match="depend on the batch"):
        ImageTask().build_model(net, {}, 5, torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("size", [8, 33])
def test_large_logits_do_not_look_like_mixed_rows(size: int) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, 64), nn.ReLU(), nn.Linear(64, 5))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1e4)
    ImageTask().build_model(net, {}, 5, torch.zeros(1, 3, size, size))


def test_models_are_named_by_their_library() -> None:
    with pytest.raises(RecipeError, match=r"timm has no model 'resnet81'; did you mean .*resnet18"):
        made("resnet81", 32)
    with pytest.raises(RecipeError, match=r"timm has no model 'qqqqqq'; see timm.list_models"):
        made("qqqqqq", 32)
    for model in ("resnet18", "timm:", "torchvision:resnet18"):
        with pytest.raises(RecipeError, match=rf"task.model '{model}' is not supported; write timm:NAME, for example timm:resnet18"):
            ImageTask().build_model(model, {}, 5, torch.zeros(1, 3, 8, 8))


def test_model_arguments_reach_timm() -> None:
    task, pixels = ImageTask(), torch.zeros(1, 3, 32, 32)
    assert task.build_model("timm:test_resnet", {"drop_rate": 0.25}, 5, pixels).drop_rate == 0.25
    with pytest.raises(RecipeError, match=r"task.model timm:test_resnet cannot be built for 32 x 32 images: .*drop_rat"):
        task.build_model("timm:test_resnet", {"drop_rat": 0.25}, 5, pixels)


# What the model sees


def test_normalised_rows_have_mean_0_and_sd_1(tmp_path: Path) -> None:
    task, pixels = ImageTask(), prepared(pictures(30), tmp_path)
    fitted = task.fit(pixels, "timm:test_resnet")
    inputs = task.collate(pixels, torch.arange(30), fitted, CPU, None)
    assert inputs.dtype == torch.float32 and inputs.shape == (30, 3, 8, 8)
    assert inputs.mean((0, 2, 3)).abs().max() < 1e-5 and (inputs.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5
    values = pixels.double()
    assert np.allclose(fitted["mean"], values.mean((0, 2, 3))) and np.allclose(fitted["std"], values.std((0, 2, 3), correction=0))
    picked = task.collate(pixels, torch.tensor([7, 2, 7]), fitted, CPU, None)
    assert torch.equal(picked, inputs[[7, 2, 7]])


def test_many_rows_are_added_up_in_chunks() -> None:
    pixels = torch.randint(0, 256, (9000, 3, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    fitted = ImageTask().fit(pixels, "timm:test_resnet")
    assert np.allclose(fitted["mean"], pixels.double().mean((0, 2, 3)))
    assert np.allclose(fitted["std"], pixels.double().std((0, 2, 3), correction=0))


def test_a_constant_channel_is_only_centred() -> None:
    pixels = torch.full((4, 3, 2, 2), 7, dtype=torch.uint8)
    pixels[:, 1] = torch.arange(16).view(4, 2, 2)
    task = ImageTask()
    fitted = task.fit(pixels, "timm:test_resnet")
    assert fitted["std"][0] == fitted["std"][2] == 1.0
    inputs = task.collate(pixels, torch.arange(4), fitted, CPU, None)
    assert torch.isfinite(inputs).all() and torch.all(inputs[:, [0, 2]] == 0) and inputs[:, 1].std() > 0


def test_normalisation_of_the_model() -> None:
    task, pixels = ImageTask(normalize="model"), torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    fitted = task.fit(pixels, "timm:resnet18")
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    assert np.allclose(fitted["mean"], 255 * mean.flatten()) and np.allclose(fitted["std"], 255 * std.flatten())
    expected = (pixels.double() / 255 - mean) / std
    assert torch.allclose(task.collate(pixels, torch.arange(4), fitted, CPU, None), expected.float(), atol=1e-5)


def test_metrics_are_fractions() -> None:
    logits = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]])
    assert ImageTask().metrics(logits, torch.tensor([0, 1, 2, 0])) == {"accuracy": 0.5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cropp": 4}, "task.cropp: unknown key; did you mean crop?"),
        ({"crop": -1}, "task.crop: "),
        ({"image_size": 0}, "task.image_size: "),
        ({"stem": "5x5"}, "task.stem: "),
        ({"normalize": "no"}, "task.normalize: "),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as error:
        build(ImageTask, options, "task")
    assert message in str(error.value)


# Augmentation


def slow_crop_and_flip(pixels: torch.Tensor, crop: int, flip: bool, generator: torch.Generator) -> torch.Tensor:
    """Image by image: mirror, pad with reflected borders, cut a window of the old size."""
    b, _, height, width = pixels.shape
    shift = torch.randint(-crop, crop + 1, (2, b, 1), generator=generator)
    mirror = torch.rand((b, 1), generator=generator) < 0.5 if flip else torch.zeros((b, 1), dtype=torch.bool)
    result = []
    for row in range(b):
        image = pixels[row].numpy()[:, :, ::-1] if mirror[row, 0] else pixels[row].numpy()
        padded = np.pad(image, ((0, 0), (crop, crop), (crop, crop)), mode="reflect")
        top, left = crop + int(shift[0, row, 0]), crop + int(shift[1, row, 0])
        result.append(padded[:, top : top + height, left : left + width])
    return torch.from_numpy(np.stack(result).copy())


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 9), (32, 32)])
@pytest.mark.parametrize("crop", [0, 1, 4])
@pytest.mark.parametrize("flip", [False, True])
def test_crop_and_flip_against_image_by_image(height: int, width: int, crop: int, flip: bool) -> None:
    pixels = torch.randint(0, 256, (40, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    fast = crop_and_flip(pixels, crop, flip, torch.Generator().manual_seed(7))
    slow = slow_crop_and_flip(pixels, crop, flip, torch.Generator().manual_seed(7))
    assert fast.dtype == torch.uint8 and torch.equal(fast, slow)


def test_every_image_has_a_draw_of_its_own() -> None:
    image = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = image.expand(400, -1, -1, -1)
    results = crop_and_flip(batch, 2, True, torch.Generator().manual_seed(1))
    seen = {bytes(result.numpy().tobytes()) for result in results}
    assert len(seen) == 2 * 5 * 5, "all 25 shifts, mirrored and not"
    mirrored = crop_and_flip(batch, 0, True, torch.Generator().manual_seed(2))
    share = float((mirrored == image.flip(3)).flatten(1).all(1).double().mean())
    assert 0.4 < share < 0.6, "4 standard deviations of a half of 400"


def test_augmentation_only_with_a_generator() -> None:
    pixels = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    task = ImageTask(crop=2, flip=True)
    fitted = {"mean": [0.0] * 3, "std": [1.0] * 3}
    rows = torch.arange(20)
    still = task.collate(pixels, rows, fitted, CPU, None)
    assert torch.equal(still, pixels.float())
    moved = task.collate(pixels, rows, fitted, CPU, torch.Generator().manual_seed(3))
    assert torch.equal(moved, slow_crop_and_flip(pixels, 2, True, torch.Generator().manual_seed(3)).float())
    assert not torch.equal(moved, still)
    assert torch.equal(ImageTask().collate(pixels, rows, fitted, CPU, torch.Generator().manual_seed(3)), still)


def test_a_crop_as_large_as_the_image_is_refused() -> None:
    for height, width in ((4, 9), (9, 4), (4, 4)):
        with pytest.raises(RecipeError, match=f"task.crop is 4, but images are {width} x {height} pixels; choose a smaller crop"):
            crop_and_flip(torch.zeros(2, 3, height, width), 4, False, torch.Generator())
    assert crop_and_flip(torch.zeros(2, 3, 4, 4), 3, False, torch.Generator()).shape == (2, 3, 4, 4)
