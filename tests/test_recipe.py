from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from hf_datadiet.errors import RecipeError
from hf_datadiet.recipe import Optimizer, Recipe
from hf_datadiet.recipe_yaml import build, recipe_from, with_overrides

FULL: dict[str, Any] = {
    "source": {
        "path": "data/toys",
        "split": "all",
        "test": {"fraction": 0.25, "seed": 3},
        "columns": {"label": "kind"},
        "limit": 100,
        "limit_seed": 2,
        "label_noise": {"fraction": 0.1, "seed": 4},
    },
    "task": {
        "kind": "image",
        "model": "timm:resnet18",
        "model_args": {"drop_rate": 0.1},
        "crop": 4,
        "flip": True,
        "training": {
            "epochs": 12,
            "batch_size": 32,
            "optimizer": {"name": "AdamW", "lr": 0.001, "momentum": None, "nesterov": None, "weight_decay": 0.05},
            "schedule": {"name": "multistep", "milestones": [4, 8], "gamma": 0.2},
            "label_smoothing": 0.1,
            "precision": "bf16",
        },
    },
    "score": {
        "scores": ["el2n", "grand"],
        "seeds": 3,
        "epochs": 10,
        "observe_at": [0, 5],
        "at": 5,
        "observe_batch_size": 64,
        "keep_weights": [0, 10],
    },
    "prune": [
        {"name": "a", "keep": 0.5, "score": "el2n", "strategy": "window", "skip": 0.05, "quotas": "equal", "tie_seed": 7},
        {"name": "b", "keep": 20, "score": "grand"},
        {"name": "c", "keep": 1.0, "strategy": "random"},
        {"name": "d", "keep": {"score": "el2n", "below": 0.3}},
    ],
    "evaluate": {
        "name": "second",
        "seeds": 5,
        "match": "steps",
        "margin": 0.25,
        "redrawn": True,
        "models": ["timm:vit_tiny_patch16_224", "./folder"],
        "keep_weights": True,
    },
}
SMALL: dict[str, Any] = {"source": {"sample": "digits"}}


def fault(values: dict[str, Any]) -> str:
    with pytest.raises(RecipeError) as raised:
        recipe_from(values)
    message = str(raised.value)
    assert message and "\n" not in message
    return message


def test_what_was_asked_for_is_what_is_understood() -> None:
    plain = recipe_from(FULL).to_dict()
    assert plain["task"].pop("crop") == 4 and plain["task"].pop("flip") is True
    assert plain["prune"][0].pop("skip") == 0.05

    def contains(found: Any, asked: Any, at: str) -> None:
        if isinstance(asked, dict):
            for key, value in asked.items():
                if f"{at}.{key}" not in (".task.crop", ".task.flip", ".prune.0.skip"):
                    contains(found[key], value, f"{at}.{key}")
        elif isinstance(asked, list):
            for position, value in enumerate(asked):
                contains(found[position], value, f"{at}.{position}")
        else:
            assert found == asked, at

    contains(plain, FULL, "")
    recipe = recipe_from(FULL)
    assert recipe.task.options == {"crop": 4, "flip": True} and recipe.prune[0].parameters == {"skip": 0.05}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"source": None}, "source: "),
        ({"source.sample": "digits"}, "give one of sample, path and repo"),
        ({"source.repo": "org/name"}, "give one of sample, path and repo"),
        ({"source.revision": "main"}, "a revision goes with a repo"),
        ({"source.path": None, "source.config": "small"}, "a config goes with a repo, or with the path of a copy of one"),
        ({"source.on_bad_row": "drop"}, "source.on_bad_row: input should be 'error' or 'skip', not 'drop'"),
        ({"source.test": {}}, "source.test: give either split or fraction"),
        ({"source.test.split": "test"}, "source.test: give either split or fraction"),
        ({"source.test.fraction": 1.0}, "source.test.fraction: input should be less than 1"),
        ({"source.label_noise.fraction": 0}, "source.label_noise.fraction: input should be greater than 0"),
        ({"task.training.schedule.milestones": []}, "milestones go with schedule multistep"),
        ({"task.training.schedule.name": "cosine"}, "milestones go with schedule multistep"),
        ({"task.training.schedule.warmup": 0.1}, "multistep has no warmup"),
        ({"score.scores": []}, "scores must name at least one score, each once"),
        ({"score.scores": ["el2n", "el2n"]}, "scores must name at least one score, each once"),
        ({"score.scores": "el2n"}, "score.scores: "),
        ({"score.seeds": 10_001}, "evaluation seeds start there"),
        ({"score.epochs": 13}, "score.epochs is 13, but the training ends after 12; raise task.training.epochs"),
        ({"score.observe_at": [0, 5, 11]}, "score.observe_at names epoch 11, but scoring runs end after 10"),
        ({"score.keep_weights": [0, 99]}, "score.keep_weights names epoch 99, but scoring runs end after 10"),
        ({"prune.0.name": "random-30"}, "prune.0: 'random-30' is the name of an arm that evaluation adds by itself; choose another name"),
        ({"tracker": "mlflow"}, "tracker: input should be 'trackio', 'tensorboard' or 'wandb', not 'mlflow'"),
        ({"score.at": 3}, "score.at is 3, which score.observe_at does not observe"),
        ({"prune.1.name": "a"}, "each selection needs a name of its own"),
        ({"prune.1.name": ".hidden"}, "prune.1.name"),
        ({"prune.1.keep": True}, "prune.1.keep: true is no budget"),
        ({"prune.1.keep": "half"}, "prune.1.keep: 'half' is no budget; give a fraction"),
        ({"prune.1.keep": [0.5]}, "prune.1.keep: .* is no budget"),
        ({"prune": {"name": "a"}}, "prune: "),
        ({"evaluate.margin": 0}, "evaluate.margin: "),
        ({"evaluate.margin": float("nan")}, "evaluate.margin: should be a finite number, not nan"),
        ({"task.training.optimizer.lr": float("inf")}, "task.training.optimizer.lr: should be a finite number, not inf"),
        ({"task.model_args.since": datetime.date(2020, 1, 2)}, "task.model_args.since: should be text, .*; quote it"),
        ({"task.blob": b"\0"}, "task.blob: should be text"),
        ({"prune.0.skip": {1: 2}}, "prune.0.skip.1: keys should be strings, not 1"),
    ],
)
def test_what_cannot_be_carried_out_is_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe_from(with_overrides(FULL, overrides))


def test_a_recipe_without_a_source_is_refused() -> None:
    assert fault({}) == "source: field required"


def test_moments_and_what_plain_names_mean() -> None:
    recipe = recipe_from(FULL)
    assert (recipe.score_epochs, recipe.moments, recipe.headline, recipe.kept_epochs) == (10, (0, 5, 10), 5, (0, 10))
    plain = recipe_from(SMALL)
    assert (plain.score_epochs, plain.moments, plain.headline, plain.kept_epochs) == (10, (10,), 10, (10,))

    def with_score(**values: Any) -> Recipe:
        return replace(plain, score=replace(plain.score, **values))

    assert with_score(observe_at=(7, 0, 10, 7)).moments == (0, 7, 10), "ascending, each once"
    assert with_score(at=10).headline == 10
    assert with_score(observe_at=(0,), at=0).headline == 0
    assert with_score(keep_weights="none").kept_epochs == ()
    assert with_score(observe_at=(0, 3), keep_weights="moments").kept_epochs == (0, 3, 10)
    assert with_score(keep_weights=(4, 0, 4)).kept_epochs == (0, 4)


def test_the_papers_values_are_defaults_of_sgd_only() -> None:
    assert Optimizer() == Optimizer("SGD", 0.1, 0.9, True, 5e-4)
    assert Optimizer("AdamW") == Optimizer("AdamW", None, None, None, None)
    assert build(Optimizer, {"lr": 0.5, "momentum": None}, "x") == Optimizer("SGD", 0.5, None, True, 5e-4)
    with pytest.raises(RecipeError) as error:
        build(Optimizer, {"name": 3}, "x")
    assert str(error.value) == "x.name: input should be a valid string, not 3"


GROWS = {"score.seeds", "source.path", "source.sample", "source.on_bad_row", "tracker", "parallel"}
"""What may change without making it another run, beside everything under `prune` and `evaluate`."""

OTHER_VALUES: dict[str, Any] = {
    "source.path": "elsewhere",
    "task.training.optimizer.name": "SGD",
    "task.training.optimizer.momentum": 0.5,
    "task.training.optimizer.nesterov": True,
    "task.training.schedule.name": None,
    "task.training.precision": "float32",
    "task.kind": "text",
    "score.at": 0,
    "score.scores": ["el2n"],
    "evaluate.match": "epochs",
    "evaluate.models": ["timm:resnet10t"],
    "task.training.schedule.warmup": None,
    "source.sample": None,
    "source.repo": None,
    "source.revision": None,
    "source.config": None,
    "source.on_bad_row": "skip",
    "source.id_column": "uid",
    "source.test.split": None,
    "tracker": "wandb",
    "parallel": "data",
}


def leaves(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{at}.{key}" if at else key)
    else:
        yield at, value


def another(key: str, value: Any) -> Any:
    if key in OTHER_VALUES:
        return OTHER_VALUES[key]
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value + "x"
    return [1] if isinstance(value, list) else value + 1 if isinstance(value, int) else value / 2


def test_identity_changes_with_whatever_makes_it_another_run() -> None:
    recipe = recipe_from(FULL)
    for key, value in leaves({**recipe.to_dict(), "prune": {}}):
        new = another(key, value)
        if new is None:
            continue
        if key == "score.observe_at":
            new = [0, 5, 6]
        changed = recipe_from(
            with_overrides(FULL, {key: new} | ({"score.epochs": 9, "score.keep_weights": [0]} if key == "score.epochs" else {}))
        )
        assert changed != recipe, key
        grows = key in GROWS or key.startswith(("prune", "evaluate"))
        assert (changed.identity() == recipe.identity()) == grows, key
        assert (changed.digest != recipe.digest) == (key != "evaluate.keep_weights"), key
    assert recipe_from({**FULL, "prune": [], "evaluate": {"seeds": 9}}).identity() == recipe.identity()


def test_evaluations_are_named_after_their_models() -> None:
    def names(*models: str) -> list[str]:
        return [*recipe_from({**SMALL, "evaluate": {"models": [*models]}}).evaluations]

    assert names() == ["main"]
    assert names("timm:resnet10t", "transformers:google/vit-base-patch16-224") == [
        "main",
        "main.resnet10t",
        "main.google-vit-base-patch16-224",
    ]
    assert names("./my folder/x", "transformers:~/models/vit", "timm:hf_hub:org/name@main") == [
        "main",
        "main.my-folder-x",
        "main.models-vit",
        "main.hf_hub-org-name-main",
    ]
    assert recipe_from(FULL).evaluations == {
        "second": "timm:resnet18",
        "second.vit_tiny_patch16_224": "timm:vit_tiny_patch16_224",
        "second.folder": "./folder",
    }


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (["timm:vit", "timm:vit"], "evaluate: models: timm:vit and timm:vit would both be evaluation main.vit; leave one out, or"),
        (["timm:vit", "transformers:ViT"], "timm:vit and transformers:ViT would both be evaluation main.vit"),
        (["timm:resnet18"], "evaluate.models names timm:resnet18, the model of the task"),
        ([""], "evaluate.models.0: string should have at least 1 character"),
    ],
)
def test_models_that_cannot_be_told_apart(models: list[str], message: str) -> None:
    assert message in fault({**SMALL, "evaluate": {"models": models}})
