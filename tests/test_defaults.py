"""What a dataset in memory is taken for, and that a call with texts needs no further word."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from hf_datadiet import evaluate_selections, prune_dataset, score_dataset
from hf_datadiet.catalogue import recipes_folder
from hf_datadiet.defaults import recipe_for
from hf_datadiet.errors import SourceError
from hf_datadiet.recipe import Recipe
from hf_datadiet.recipe_yaml import load_recipe
from tests.synthetic import pictures

WORDS = ("apple", "river", "stone"), ("engine", "signal", "metal")


def texts(n: int = 36) -> Dataset:
    rng = np.random.default_rng(0)
    rows = {"text": [" ".join(rng.choice(WORDS[row % 2], 6)) for row in range(n)], "label": [row % 2 for row in range(n)]}
    return Dataset.from_dict(rows, features=Features({"text": Value("string"), "label": ClassLabel(names=["nature", "machine"])}))


def made(dataset: Dataset, **given: Any) -> Recipe:
    return recipe_for(dataset, **{"model": None, "epochs": 3, "columns": None, "options": None, **given})


def test_texts_are_trained_as_the_recipe_for_texts_says() -> None:
    found, recipe = made(texts()).task, load_recipe(recipes_folder() / "docstrings.yaml").task
    assert (found.kind, found.model, found.training.epochs) == ("text", recipe.model, 3)
    assert found.training.optimizer == recipe.training.optimizer and found.training.schedule == recipe.training.schedule
    assert found.training.batch_size == recipe.training.batch_size
    room = {"max_position_embeddings": 128}
    assert {**recipe.model_args, **room} == dict(found.model_args)


def test_a_pretrained_model_has_its_tokenizer_and_a_small_rate() -> None:
    task = made(texts(), model="transformers:org/name").task
    assert task.options["tokenizer"] == "org/name" and task.training.optimizer.lr == 2e-5 and not task.model_args
    assert "tokenizer" not in made(texts(), model="transformers:distilbert").task.options


def test_images_are_trained_as_in_the_paper() -> None:
    task = made(pictures()).task
    assert (task.kind, task.model, task.training.optimizer.name, task.training.optimizer.lr) == ("image", "timm:resnet18", "SGD", 0.1)


def test_columns_and_options_decide_before_the_features() -> None:
    captioned = pictures().add_column("caption", ["a picture"] * 12)
    assert made(captioned).task.kind == "image"
    assert made(captioned, columns={"text": "caption"}).task.kind == "text"
    assert made(captioned, options={"task.kind": "text"}).task.training.optimizer.name == "AdamW"
    assert made(texts(), options={"task.training.optimizer.lr": 0.5}).task.training.optimizer.lr == 0.5
    labelled_in_words = pictures().rename_column("label", "n").add_column("label", ["x"] * 12)
    assert made(labelled_in_words.remove_columns("image"), columns={"label": "label"}).task.kind == "image", "a label is no text"


def test_texts_need_no_further_word() -> None:
    dataset = texts()
    small = {"task.vocab_size": 300, "task.max_length": 8}
    table = score_dataset(dataset, scores=["el2n"], seeds=1, epochs=2, options=small, progress=False)
    assert table.source.columns == {"label": "label", "text": "text"} and np.isfinite(table.columns["el2n"].mean).all()
    _, selection = prune_dataset(dataset, table, score="el2n", keep=0.5)
    judged = evaluate_selections(dataset, [selection], test=texts(6), seeds=1, epochs=1, options=small, progress=False)
    assert judged.model == "transformers:bert" and len(judged.results) == 4


def test_a_dataset_without_either_is_told_what_is_missing() -> None:
    with pytest.raises(SourceError, match="cannot tell the image column"):
        score_dataset(Dataset.from_dict({"label": [0, 1], "n": [1, 2]}), progress=False)
