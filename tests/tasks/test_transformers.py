"""transformers models by name: what is random, what is read, and what is refused before anything is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, ViTConfig, ViTForImageClassification

from hf_datadiet.errors import RecipeError
from hf_datadiet.gradients.forward import logits_of
from hf_datadiet.tasks import _transformers
from hf_datadiet.tasks.image import ImageTask

SMALL: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "patch_size": 4}
TASK = ImageTask()


def images(size: int = 8) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 3, size, size)).astype(np.uint8))


def made(model: str, arguments: Any = None, n_classes: int = 3, size: int = 8, seed: int = 0, task: ImageTask = TASK) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return task.build_model(model, SMALL if arguments is None else arguments, n_classes, images(size))


def saved(folder: Path, n_classes: int = 3, dtype: torch.dtype = torch.float32) -> ViTForImageClassification:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        net = ViTForImageClassification(ViTConfig(**SMALL, image_size=8, num_labels=n_classes)).to(dtype)
    net.save_pretrained(folder)
    return net


def equal(one: Any, other: Any, part: str = "") -> bool:
    theirs = dict(other.named_parameters())
    return all(torch.equal(p, theirs[name].to(p.dtype)) for name, p in one.named_parameters() if part in name)


def test_a_type_has_random_weights_for_these_images() -> None:
    net = made("transformers:vit")
    assert type(net) is ViTForImageClassification and net.training and net.config.image_size == 8
    assert all(p.dtype == torch.float32 for p in net.parameters())
    assert equal(net, made("transformers:vit")) and not equal(net, made("transformers:vit", seed=1))
    inputs = TASK.collate(images(), torch.arange(2), TASK.fit(images(), "transformers:vit"), torch.device("cpu"), None)
    assert logits_of(net.eval(), inputs).shape == (2, 3)
    assert made("transformers:resnet", {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1]}, size=20)(torch.zeros(2, 3, 20, 20))


def test_a_folder_gives_its_weights_in_float32(tmp_path: Path) -> None:
    net = saved(tmp_path, dtype=torch.bfloat16)
    found = made(f"transformers:{tmp_path}", {})
    assert equal(found, net) and all(p.dtype == torch.float32 for p in found.parameters()) and found.training
    assert equal(made(str(tmp_path), {}), net), "a folder needs no library"
    # What is no weight may be changed.
    assert made(f"transformers:{tmp_path}", {"hidden_dropout_prob": 0.3}).config.hidden_dropout_prob == 0.3


def test_other_classes_get_a_new_head_from_the_seed(tmp_path: Path) -> None:
    net, name = saved(tmp_path), f"transformers:{tmp_path}"
    one, two = made(name, {}, n_classes=4), made(name, {}, n_classes=4, seed=1)
    assert equal(one, net, "vit.") and equal(two, net, "vit.") and one.classifier.out_features == 4
    assert not torch.equal(one.classifier.weight, two.classifier.weight)


def test_random_weights_of_a_folders_configuration(tmp_path: Path) -> None:
    net, name = saved(tmp_path), f"transformers:{tmp_path}"
    fresh = made(name, {"pretrained": False})
    assert not equal(fresh, net) and fresh.config.hidden_size == 16
    # Random weights take the images as they are, read ones do not.
    assert made(name, {"pretrained": False}, size=12).config.image_size == 12
    with pytest.raises(RecipeError, match=r"cannot take 12 x 12 images \(.*\); set task\.image_size=8"):
        made(name, {}, size=12)
    (tmp_path / "model.safetensors").unlink()
    assert equal(made(name, {}), fresh), "a folder of a configuration alone"
    with pytest.raises(RecipeError, match=r"has no weights \(model\.safetensors\); add them, or set task\.model_args\.pretrained=false"):
        made(name, {"pretrained": True})


def test_normalisation_is_that_of_the_preprocessor(tmp_path: Path) -> None:
    saved(tmp_path)
    task, name = ImageTask(normalize="model"), f"transformers:{tmp_path}"
    with pytest.raises(RecipeError, match=r"states no mean and s\.d\.; set task\.normalize=data"):
        task.fit(images(), name)
    stated = {"image_processor_type": "ViTImageProcessor", "image_mean": [0.5, 0.25, 0.1], "image_std": [0.2, 0.3, 0.4]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stated))
    found = task.fit(images(), name)
    assert found["mean"] == pytest.approx([127.5, 63.75, 25.5]) and found["std"] == pytest.approx([51, 76.5, 102])
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**stated, "do_normalize": False}))
    assert task.fit(images(), name) == {"mean": [0.0] * 3, "std": [255.0] * 3, "size": [8, 8]}
    with pytest.raises(RecipeError, match="transformers:vit states no mean"):
        task.fit(images(), "transformers:vit")


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("transformers:vitt", {}, r"transformers has no model type 'vitt'; did you mean vit,"),
        ("transformers:bert", {}, r"no image classification for transformers:bert; for example transformers:vit, transformers:resnet"),
        ("timm:test_resnet", {"pretrained": True}, r"timm:test_resnet cannot be built for 8 x 8 images: "),
        ("timm:test_resnet", {"no_such": 1}, r"timm:test_resnet cannot be built for 8 x 8 images: .*no_such"),
        ("./none", {}, r"task\.model: there is no folder \./none"),
        ("transformers:./none", {}, r"task\.model: there is no folder \./none"),
        ("transformers:nobody/nothing", {}, r"cannot be loaded: it is not in the local cache and the Hub cannot be reached"),
        ("transformers:vit", {"hiden_size": 8}, r"task\.model_args\.hiden_size: vit has no such key; did you mean hidden_size\?"),
        ("transformers:vit", {"hidden_size": "many"}, r"cannot be built: .*expected int, got str \(value: 'many'\); mend task.model_args$"),
        ("transformers:vit", {"pretrained": "yes"}, r"pretrained should be true or false, not 'yes'"),
        ("transformers:vit", {"pretrained": True}, r"is a type without weights; pretrained ones are transformers:org/name"),
        (
            "transformers:vit",
            {**SMALL, "patch_size": 16},
            r"transformers:vit cannot (take|be built for) 8 x 8 images \(.*; set task\.image_size",
        ),
    ],
)
def test_one_line_says_what_is_wrong(model: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as error:
        made(model, arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "tf_model.h5"])
def test_pickled_weights_are_refused_unread(file: str, tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / file)
    with pytest.raises(RecipeError, match=rf"has no safetensors weights but {file}, .*: refused; convert them where you trust them"):
        made(f"transformers:{tmp_path}", {})
    assert made(f"transformers:{tmp_path}", {"pretrained": False}).training


def test_code_beside_a_model_is_never_run(tmp_path: Path) -> None:
    saved(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModelForImageClassification": "mine.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    ran = tmp_path / "ran"
    (tmp_path / "mine.py").write_text(f"from pathlib import Path\nPath({str(ran)!r}).touch()\n")
    with pytest.raises(RecipeError, match=r"it needs code of its own \(auto_map in config\.json\), which is never run here") as error:
        made(f"transformers:{tmp_path}", {})
    assert not ran.exists() and "\n" not in str(error.value)


def test_weights_that_a_changed_configuration_would_lose(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(RecipeError, match=r"task\.model_args do not fit its weights \(vit\..* is \(.*\), not \(.*\)\)"):
        made(f"transformers:{tmp_path}", {"intermediate_size": 24})


def test_a_model_without_a_classifier_is_no_trained_one(tmp_path: Path) -> None:
    BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)).save_pretrained(
        tmp_path
    )
    with pytest.raises(RecipeError, match="holds BertModel, which is no trained classifier of images or texts"):
        _transformers.trained_classifier(str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["BertForSequenceClassification"]}))
    with pytest.raises(RecipeError, match=r"has no weights for classifier\.bias; train and save it as a classifier first"):
        _transformers.trained_classifier(str(tmp_path))
    with pytest.raises(RecipeError, match="there is no folder nowhere"):
        _transformers.trained_classifier("nowhere")


def test_what_the_hub_says_of_a_name_that_does_not_exist() -> None:
    said = OSError("x/y is not a local folder and is not a valid model identifier listed on 'https://huggingface.co/models'\nIf this is")
    assert _transformers.reason_of(said) == "the Hub has no such model that this account may read; check the name"
    assert _transformers.reason_of(OSError("first.\nsecond")) == "first"
