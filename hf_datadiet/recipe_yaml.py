"""YAML, plain values and overrides -> a recipe, and back.

An unknown key names its nearest neighbour, and all faults are reported at once.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from hf_datadiet.dumping import yaml_text
from hf_datadiet.durable import CHANGED, GONE
from hf_datadiet.errors import DamagedError, RecipeError
from hf_datadiet.identity import digest_of
from hf_datadiet.recipe import PruneSpec, Recipe, TaskSpec

T = TypeVar("T")
SEAL = "# hf_datadiet wrote this: "
"""What the first line of a recipe in a run folder begins with: a file that was cut off may still be YAML."""

DEEPEST = 20
"""Levels of nesting in a recipe; more of them are a loop of YAML aliases."""


def build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """An instance of a frozen dataclass from plain values, or one `RecipeError` that names every fault."""
    try:
        return TypeAdapter(cls).validate_python(dict(values))
    except ValidationError as error:
        # A default that depends on a faulty field is no fault of its own.
        details = [detail for detail in error.errors(include_url=False) if detail["type"] != "default_factory_not_called"]
        faults = [_fault(cls, detail, where) for detail in details]
        raise RecipeError("; ".join(dict.fromkeys(faults))) from None


def _fault(cls: type, detail: Mapping[str, Any], where: str) -> str:
    # pydantic puts the alternatives of a union into the location; only keys and positions mean something to a reader.
    location = [str(part) for part in detail["loc"] if isinstance(part, int) or str(part).isidentifier()]
    path = ".".join([where, *location] if where else location) or "recipe"
    if detail["type"] == "unexpected_keyword_argument":
        known = _known_keys(cls, detail["loc"][:-1])
        near = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
        return f"{path}: unknown key" + (f"; did you mean {near[0]}?" if near else f"; known keys are {', '.join(known)}")
    message = detail["msg"].removeprefix("Value error, ")
    given = detail.get("input")
    shown = f", not {given!r}" if isinstance(given, str | int | float | bool) and detail["type"] != "value_error" else ""
    return f"{path}: {message[0].lower()}{message[1:]}{shown}"


def _known_keys(cls: Any, location: Sequence[Any]) -> list[str]:
    """Field names of the dataclass that lies at `location` below `cls`."""
    for part in location:
        if isinstance(part, str) and dataclasses.is_dataclass(cls):
            hint = get_type_hints(cls).get(part, cls)
            candidates = [hint, *get_args(hint)]
            cls = next((option for option in candidates if dataclasses.is_dataclass(option)), cls)
    return [item.name for item in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []


def recipe_from(values: Mapping[str, Any]) -> Recipe:
    """A recipe from nested plain values. Raises `RecipeError` with every fault in one line."""
    plain = {key: value for key, value in values.items()}
    if isinstance(plain.get("task"), Mapping):
        plain["task"] = _gather(TaskSpec, plain["task"], "options")
    if isinstance(plain.get("prune"), Sequence) and not isinstance(plain["prune"], str):
        plain["prune"] = [_gather(PruneSpec, spec, "parameters") if isinstance(spec, Mapping) else spec for spec in plain["prune"]]
    odd = list(_not_plain(values))
    if odd:
        raise RecipeError("; ".join(odd))
    return build(Recipe, plain, "")


def _not_plain(value: Any, at: str = "", depth: int = 0) -> Iterator[str]:
    """Faults of values that would not come back from YAML and JSON as they are: dates, bytes, sets, infinities, loops."""
    if depth > DEEPEST:
        yield f"{at[:40]}...: nested too deeply"
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            here = f"{at}.{key}" if at else str(key)
            if isinstance(key, str):
                yield from _not_plain(inner, here, depth + 1)
            else:
                yield f"{here}: keys should be strings, not {key!r}"
    elif isinstance(value, list | tuple):
        for position, inner in enumerate(value):
            yield from _not_plain(inner, f"{at}.{position}", depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{at}: should be a finite number, not {value}"
    elif value is not None and not isinstance(value, str | int | float):
        yield f"{at}: should be text, a number, a list or a mapping, not {value!r} ({type(value).__name__}); quote it"


def _gather(cls: Any, values: Mapping[str, Any], rest: str) -> dict[str, Any]:
    """Move the keys that `cls` does not know into its field `rest`: they belong to the task or strategy named."""
    known = {item.name for item in dataclasses.fields(cls)} - {rest}
    return {key: value for key, value in values.items() if key in known} | {rest: {k: v for k, v in values.items() if k not in known}}


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and apply overrides such as `score.epochs=10` (the value is read as YAML)."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise RecipeError(f"cannot read recipe {path}: {reason}; give the path of a YAML file") from None
    if text.startswith(SEAL) and not _is_sealed(text):
        raise DamagedError(
            path, CHANGED, "give the recipe that the run was made from; if you have changed this one yourself, delete its first line"
        )
    return _recipe_of(text, path, overrides)


def kept_recipe(run: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe that a run folder keeps; `DamagedError` unless it is as it was written."""
    path = run / "recipe.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        text = ""
    if not _is_sealed(text):
        remedy = f"score again with the recipe that the run was made from, and --out {run}: finished seeds are kept"
        raise DamagedError(path, CHANGED if text else GONE, remedy)
    return _recipe_of(text, path, overrides)


def _is_sealed(text: str) -> bool:
    """Whether the first line has the digest of what follows it."""
    first, _, rest = text.partition("\n")
    return first == SEAL + digest_of([rest])


def _recipe_of(text: str, path: Path, overrides: Sequence[str]) -> Recipe:
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date such as 2001-99-99 is a ValueError
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise RecipeError(f"recipe {path} is not valid YAML{place}: {getattr(error, 'problem', None) or 'cannot be parsed'}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"recipe {path} must be a mapping with the keys {', '.join(_known_keys(Recipe, ()))}")
    return recipe_from(with_overrides(values, parse_overrides(overrides)))


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """{"score.epochs": 10} from ["score.epochs=10"]; the value is read as YAML."""
    parsed: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise RecipeError(f"{override!r} is no override; write key.sub=value, for example score.epochs=10")
        try:
            parsed[key] = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise RecipeError(f"override {key}: {text!r} is not valid YAML; quote it") from None
    return parsed


def with_overrides(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested plain values with each dotted key replaced; positions of lists are numbers (`prune.0.keep`)."""
    result = copy.deepcopy(dict(values))
    for key, value in overrides.items():
        target: Any = result
        *parents, last = key.split(".")
        for part in parents:
            if isinstance(target, dict) and target.get(part) is None:
                target[part] = {}
            target = _inside(target, part, key)
        if isinstance(target, dict):
            target[last] = value
        else:
            _inside(target, last, key)
            target[int(last)] = value
    return result


def _inside(target: Any, part: str, key: str) -> Any:
    if isinstance(target, dict) and part in target:
        return target[part]
    if isinstance(target, list) and part.isdigit() and int(part) < len(target):
        return target[int(part)]
    raise RecipeError(f"override {key}: there is no {part}; keys are joined by dots, positions of lists are numbers")


def to_yaml(recipe: Recipe) -> str:
    """The resolved recipe as YAML that knows its own digest; reading it back gives an equal recipe."""
    text = yaml_text(recipe.to_dict())
    return f"{SEAL}{digest_of([text])}\n{text}"
