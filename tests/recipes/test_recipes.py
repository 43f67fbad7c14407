"""Every recipe that is shipped can be read, names what exists, and says how to run it."""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest
import timm

from hf_datadiet import registry
from hf_datadiet.catalogue import recipes_folder
from hf_datadiet.evaluate import evaluate_run
from hf_datadiet.prune import prune_run
from hf_datadiet.recipe import Recipe
from hf_datadiet.recipe_yaml import build, load_recipe, recipe_from, to_yaml
from hf_datadiet.score import score_run
from hf_datadiet.scorers.base import BatchScore
from hf_datadiet.store import RunFolder
from hf_datadiet.training.session import open_session

RECIPES = sorted(recipes_folder().glob("*.yaml"))


@pytest.fixture(params=RECIPES, ids=[path.name for path in RECIPES])
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


def columns_of(recipe: Recipe) -> set[str]:
    """The columns that scores.parquet would have."""
    found = set()
    for name in recipe.score.scores:
        scorer = registry.find("scorers", name)
        if isinstance(scorer, BatchScore):
            found |= {name if epoch == recipe.headline else f"{name}_e{epoch}" for epoch in recipe.moments}
        else:
            found |= {column.name for column in scorer.columns}
    return found


def test_there_are_recipes() -> None:
    assert "digits.yaml" in [path.name for path in RECIPES]


def test_it_is_read_and_written_back(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe_from(recipe.to_dict()) == recipe and to_yaml(recipe)
    assert recipe.source.sample is not None or recipe.source.path is not None


def test_its_header_holds_the_command(path: Path) -> None:
    header = list(takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines()))
    commands = [line for line in header if re.search(rf"# Command: +hf-datadiet (run|score) recipes/{re.escape(path.name)}( |$)", line)]
    assert len(commands) == 1
    # A path that the recipe leaves open stands in the command.
    assert ("$" in (load_recipe(path).source.path or "")) == ("source.path=" in commands[0])
    for override in re.findall(r" ([a-z_.]+=[^ ]+)", commands[0]):
        load_recipe(path, [override])
    assert any(line.startswith("# Follows: ") for line in header)


def test_its_names_exist(path: Path) -> None:
    recipe = load_recipe(path)
    build(registry.find("tasks", recipe.task.kind), recipe.task.options, "task")
    columns = columns_of(recipe)
    for spec in recipe.prune:
        wanted = spec.keep["score"] if isinstance(spec.keep, dict) else spec.score
        assert wanted in columns or (wanted is None and spec.strategy == "random")
        registry.find("selectors", spec.strategy or "hardest")
    library, _, model = recipe.task.model.partition(":")
    assert library != "timm" or timm.is_model(model)


def test_the_docstrings_recipe_runs(tmp_path: Path) -> None:
    recipe = load_recipe(
        recipes_folder() / "docstrings.yaml",
        [
            "source.limit=60",
            "source.test.fraction=0.02",
            "task.training.epochs=2",
            "score.seeds=2",
            "evaluate.seeds=2",
            "task.vocab_size=300",
        ],
    )
    folder = RunFolder(tmp_path / "run")
    table = score_run(open_session(recipe, folder, command="test"), progress=False)
    assert {"el2n", "el2n_e1", "grand", "grand_e1", "forgetting"} <= set(table.columns) and len(table.example_id) == 60
    assert all(np.isfinite(column.mean).all() for column in table.columns.values())
    for spec in recipe.prune:
        prune_run(folder, spec, command="test")
    evaluation = evaluate_run(open_session(recipe, folder, command="test"), progress=False)
    assert {"full", "keep-70"} <= set(evaluation.arms)
    caches = [path.name for path in (folder.path / "cache").iterdir()]
    assert sum(name.startswith("tokenizer-") for name in caches) == 1, "held-out rows share the tokenizer"
    assert sum(name.startswith("tokens-") for name in caches) == 2
