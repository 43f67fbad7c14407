from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_datadiet.catalogue import recipes_folder
from hf_datadiet.errors import RecipeError
from hf_datadiet.recipe_yaml import load_recipe, parse_overrides, recipe_from, to_yaml, with_overrides
from tests.test_recipe import FULL, SMALL, fault, leaves


@pytest.mark.parametrize("values", [SMALL, FULL], ids=["small", "full"])
def test_a_recipe_survives_its_yaml(values: dict[str, Any], tmp_path: Path) -> None:
    recipe = recipe_from(values)
    path = tmp_path / "r.yaml"
    path.write_text(to_yaml(recipe), encoding="utf-8")
    again = load_recipe(path)
    assert again == recipe and again.digest == recipe.digest
    kinds = [type(spec.keep) for spec in again.prune]
    assert kinds == [type(spec.keep) for spec in recipe.prune], "1.0 is all rows and 1 is one row"


def test_shipped_recipes_are_read() -> None:
    assert load_recipe(recipes_folder() / "digits.yaml").source.sample == "digits"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("scor", "scor: unknown key; did you mean score?"),
        ("source.limits", "source.limits: unknown key; did you mean limit?"),
        ("source.test.frction", "source.test.frction: unknown key; did you mean fraction?"),
        ("task.training.epoch", "task.training.epoch: unknown key; did you mean epochs?"),
        ("task.training.optimizer.learning", "task.training.optimizer.learning: unknown key; known keys are name, lr"),
        ("task.training.schedule.gama", "task.training.schedule.gama: unknown key; did you mean gamma?"),
        ("evaluate.seed", "evaluate.seed: unknown key; did you mean seeds?"),
    ],
)
def test_an_unknown_key_names_its_nearest(key: str, message: str) -> None:
    assert message in fault(with_overrides(FULL, {key: 1}))


def test_keys_of_the_task_and_of_a_strategy_are_kept_for_them() -> None:
    recipe = recipe_from(with_overrides(FULL, {"task.cropp": 1, "prune.1.skp": 1}))
    assert recipe.task.options["cropp"] == 1 and recipe.prune[1].parameters == {"skp": 1}, "whether they exist, they will say"


def test_all_faults_come_at_once_in_one_line() -> None:
    message = fault(
        with_overrides(
            FULL, {"source.limit": 0, "task.training.epochs": "many", "score.seeds": -1, "evaluate.match": "hours", "prune.1.name": "../up"}
        )
    )
    parts = message.split("; ")
    assert len(parts) == 5
    assert "source.limit: input should be greater than or equal to 1, not 0" in parts
    assert any(part.startswith("task.training.epochs: ") and part.endswith("not 'many'") for part in parts)
    assert any(part.startswith("evaluate.match: input should be 'epochs' or 'steps', not 'hours'") for part in parts)
    assert any(part.startswith("prune.1.name: ") and part.endswith("not '../up'") for part in parts)


def test_overrides_are_yaml_and_leave_the_original_alone() -> None:
    parsed = parse_overrides(["score.epochs=3", "prune.0.keep=0.25", "a.b=[1, 2]", "c=", "d=x=y", "e={score: el2n, below: 0.3}"])
    assert parsed == {
        "score.epochs": 3,
        "prune.0.keep": 0.25,
        "a.b": [1, 2],
        "c": None,
        "d": "x=y",
        "e": {"score": "el2n", "below": 0.3},
    }
    before = copy.deepcopy(FULL)
    changed = with_overrides(FULL, {"prune.1.keep": 3, "task.training.optimizer.lr": 1, "new.deep.key": 1, "source.test": None})
    assert before == FULL
    assert changed["prune"][1] == {"name": "b", "keep": 3, "score": "grand"} and changed["prune"][0] == FULL["prune"][0]
    assert changed["task"]["training"]["optimizer"]["lr"] == 1 and changed["task"]["training"]["epochs"] == 12
    assert changed["new"] == {"deep": {"key": 1}} and changed["source"]["test"] is None
    assert with_overrides({"source": None}, {"source.limit": 1}) == {"source": {"limit": 1}}, "an empty section is filled"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("score.epochs", "'score.epochs' is no override; write key.sub=value"),
        ("=3", "'=3' is no override"),
        ("score.epochs=[1", r"override score.epochs: '\[1' is not valid YAML"),
        ("score.epochs=2001-99-99", "override score.epochs: '2001-99-99' is not valid YAML"),
        ("prune.9.keep=1", "override prune.9.keep: there is no 9"),
        ("prune.9=1", "override prune.9: there is no 9"),
        ("prune.a.keep=1", "override prune.a.keep: there is no a"),
        ("prune.-1.keep=1", "there is no -1"),
        ("source.limit.x=1", "override source.limit.x: there is no x"),
        ("prune.0.name.x.y=1", "there is no x"),
    ],
)
def test_bad_overrides(override: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(FULL))
    with pytest.raises(RecipeError, match=message) as raised:
        load_recipe(path, [override])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"source: [1\nscore: 2", "is not valid YAML, line 2"),
        (b"source: {limit: 2001-99-99}", "is not valid YAML: cannot be parsed"),
        (b"\xff\xfe\x00", "it is not UTF-8 text"),
        (b"", "must be a mapping with the keys source, task, score, prune, evaluate"),
        (b"- source", "must be a mapping"),
        (b"source: !!python/object:os.system {}", "is not valid YAML"),
        (b"source: {sample: digits}\ntask: &a {inner: *a}", "nested too deeply"),
        (b"[" * 3000, "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_recipe(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=message) as raised:
        load_recipe(path)
    assert "\n" not in str(raised.value)
    with pytest.raises(RecipeError, match=r"cannot read recipe .*none.yaml: No such file"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match="cannot read recipe"):
        load_recipe(tmp_path)


KEYS = [key for key, _ in leaves(FULL)] + [f"prune.{k}.{key}" for k, spec in enumerate(FULL["prune"]) for key in spec]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200, database=None)
@given(st.dictionaries(st.sampled_from(KEYS) | st.text(alphabet="abcs.0", min_size=1, max_size=8), VALUES, min_size=1, max_size=3))
def test_a_mutated_recipe_is_read_or_refused_in_one_line(changes: dict[str, Any]) -> None:
    try:
        recipe = recipe_from(with_overrides(FULL, changes))
    except RecipeError as error:
        recipe, said = None, str(error)
    if recipe is None:
        assert said and len(said.splitlines()) == 1
    else:
        assert recipe_from(yaml.safe_load(to_yaml(recipe))) == recipe
        assert len(recipe.digest) == 71 and recipe.identity()
