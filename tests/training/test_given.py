"""Models from Python: what every seed starts from, and how the recipe names them."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from datasets import Dataset
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

from hf_datadiet import ExampleScorer, add_scores, evaluate_selections, prune_dataset, score_dataset
from hf_datadiet.errors import DataDietError, RecipeError, StaleRecordError
from hf_datadiet.recipe_yaml import load_recipe
from hf_datadiet.store import RunFolder
from hf_datadiet.training.given import given_model
from tests.synthetic import pictures

HOW: dict[str, Any] = {"seeds": 2, "epochs": 1, "progress": False}
START = {"task.training.batch_size": 4, "score.observe_at": [0]}


def plain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def vit() -> nn.Module:
    small: Any = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return ViTForImageClassification(ViTConfig(**small, image_size=8, patch_size=4, num_labels=3))


def test_every_seed_starts_from_an_objects_weights(tmp_path: Path) -> None:
    for number, model in enumerate((plain(), vit(), timm.create_model("test_resnet", num_classes=3))):
        before = copy.deepcopy(model.state_dict())
        out = tmp_path / str(number)
        table = score_dataset(pictures(9), model=model, out=out, options=START, **HOW)
        first, second = table.columns["el2n_e0"].per_seed
        assert np.array_equal(first, second) and not np.array_equal(*table.columns["el2n"].per_seed)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "the caller's model stays as it is"
        assert load_recipe(out / "recipe.yaml").task.model == given_model(model).name


def drawn_by_numpy() -> nn.Module:
    """Nothing is left of what torch drew."""
    model = plain()
    with torch.no_grad():
        for values in model.parameters():
            values.copy_(torch.from_numpy(np.random.normal(0, 0.5, values.shape)))  # noqa: NPY002, the global one is meant
    return model


@pytest.mark.parametrize("make", [vit, drawn_by_numpy])
def test_a_function_draws_new_weights_for_each_seed(make: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    table = score_dataset(pictures(9), model=make, out=out, options=START, **HOW)
    assert not np.allclose(*table.columns["el2n_e0"].per_seed, rtol=1e-2)
    again = score_dataset(pictures(9), model=make, options=START, **HOW)
    assert np.array_equal(table.columns["el2n"].mean, again.columns["el2n"].mean), "from the seed alone"
    assert load_recipe(out / "recipe.yaml").task.model.startswith(f"function:{make.__name__}@")


def test_a_function_that_returns_one_object_does_not_train_it_on() -> None:
    model = plain()
    table = score_dataset(pictures(9), model=lambda: model, options=START, **HOW)
    assert np.array_equal(*table.columns["el2n_e0"].per_seed)


def test_the_name_tells_models_apart() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = plain()
    name = given_model(model).name
    assert name.startswith("object:Sequential@") and given_model(copy.deepcopy(model)).name == name
    nudged, frozen, shaped = copy.deepcopy(model), copy.deepcopy(model), copy.deepcopy(model)
    with torch.no_grad():
        next(nudged.parameters()).view(-1)[0] += 1e-3
    next(frozen.parameters()).requires_grad_(False)
    shaped.insert(3, nn.Dropout(0.1))
    assert len({name, *(given_model(other).name for other in (nudged, frozen, shaped, model.bfloat16()))}) == 5
    state = torch.get_rng_state()
    assert given_model(plain).name == given_model(plain).name != given_model(vit).name
    assert torch.equal(torch.get_rng_state(), state)


def test_a_run_goes_on_with_the_same_model_only(tmp_path: Path) -> None:
    model, out = plain(), tmp_path / "run"
    how = {**HOW, "out": out, "options": START}
    one = score_dataset(pictures(9), model=model, **how)
    two = score_dataset(pictures(9), model=copy.deepcopy(model), **{**how, "seeds": 3})
    assert np.array_equal(one.columns["el2n"].per_seed, two.columns["el2n"].per_seed[:2])
    with pytest.raises(
        StaleRecordError, match=r"holds another run \(task.model: object:Sequential@\w+ there, object:Sequential@\w+ asked\)"
    ):
        score_dataset(pictures(9), model=plain(), **how)
    with pytest.raises(RecipeError, match=r"\(object:Sequential@\w+\) came from Python; pass it there again: score_dataset\("):
        score_dataset(pictures(9), model=given_model(model).name, **how)


def test_from_score_to_evaluation_and_map(tmp_path: Path) -> None:
    model, data, out = plain(), pictures(12), tmp_path / "run"
    table = score_dataset(data, model=model, out=out, options=START, **HOW)
    _, selection = prune_dataset(data, table, score="el2n", strategy="hardest", keep=0.5)
    judged = evaluate_selections(data, [selection], test=pictures(6, seed=1), model=model, options={"task.training.batch_size": 4}, **HOW)
    assert judged.model == given_model(model).name and len(judged.results) == 8
    seed = RunFolder(out).load_seed(1)
    made = data.map(ExampleScorer.from_run(out, seed=1, model=model), batched=True)
    np.testing.assert_allclose(np.float32(made["el2n"]), seed.observed["el2n"][-1], rtol=1e-5, atol=1e-6)
    assert "el2n_e0" in add_scores(data, table).column_names
    with pytest.raises(RecipeError, match=r"came from Python; pass it again: from_run\(\.\.\., model=\.\.\.\)"):
        ExampleScorer.from_run(out)
    with pytest.raises(RecipeError, match=r"^model is object:Sequential@\w+, and that of .* is object:Sequential@\w+; pass the one that"):
        ExampleScorer.from_run(out, model=plain())


def test_another_function_whose_weights_would_fit(tmp_path: Path) -> None:
    def make(between: type[nn.Module]) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 4), between(), nn.Linear(4, 3))

    score_dataset(pictures(9), model=partial(make, nn.ReLU), out=tmp_path, options=START, **HOW)
    ExampleScorer.from_run(tmp_path, model=partial(make, nn.ReLU))
    with pytest.raises(RecipeError, match=r"^model is function:partial@\w+, and that of .* is function:partial@\w+; pass the one that"):
        ExampleScorer.from_run(tmp_path, model=partial(make, nn.Tanh))


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (7, {}, r"model is int; give a name \(timm:resnet18\), a torch.nn.Module, or a function that makes one"),
        (lambda: 7, {}, r"the function for the model returned int; return a torch\.nn\.Module"),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), {}, r"Sequential gives outputs \[1, 5\] for one row, and \[1, 3\] is needed"),
        (nn.Sequential(nn.Flatten(), nn.Linear(100, 3)), {}, r"Sequential cannot take 8 x 8 images \(.*\); set task\.image_size"),
        (nn.Flatten(), {}, r"Flatten gives outputs \[1, 192\]"),
        (plain(), {"task.stem": "3x3"}, r"task\.stem=3x3 is for models that are built by name"),
        (plain(), {"task.normalize": "model"}, r"Sequential states no mean and s\.d\.; set task\.normalize=data"),
        (plain(), {"task.model_args": {"a": 1}}, r"task\.model_args are for models that are built by name"),
        (plain(), {"task.model": "timm:resnet18"}, r"is given twice, as an object and as task\.model=timm:resnet18; leave one out"),
        (plain(), {"task.kind": "text", "source.columns": {"text": "label"}}, "column 'label' holds int and no text"),
        (plain().requires_grad_(False), {}, r"no parameter that requires a gradient; call model\.requires_grad_"),
    ],
)
def test_models_that_cannot_be_used(model: Any, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataDietError, match=message) as error:
        score_dataset(pictures(6), model=model, out=tmp_path / "run", options=options, **HOW)
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


TEXT = {"task.kind": "text", "task.vocab_size": 300, "task.max_length": 16, "task.training.batch_size": 4, "score.observe_at": [0]}


def bert(vocab_size: int) -> nn.Module:
    small: Any = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return BertForSequenceClassification(BertConfig(**small, vocab_size=vocab_size, max_position_embeddings=16, num_labels=2))


def test_a_model_of_texts() -> None:
    data = Dataset.from_dict({"text": [f"{'a cat and a dog ' * row}{row}" for row in range(8)], "label": [0, 1] * 4})
    table = score_dataset(data, model=bert(300), options=TEXT, **HOW)
    assert np.array_equal(*table.columns["el2n_e0"].per_seed) and np.isfinite(table.columns["el2n"].mean).all()
    with pytest.raises(RecipeError, match=r"BertForSequenceClassification cannot take texts of 16 of these tokens .*a larger vocabulary"):
        score_dataset(data, model=bert(200), options=TEXT, **HOW)
    with pytest.raises(RecipeError, match="Linear takes no input_ids, so a tokenizer cannot feed it"):
        score_dataset(data, model=nn.Linear(3, 2), options=TEXT, **HOW)
