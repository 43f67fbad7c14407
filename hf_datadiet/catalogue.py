"""CATALOGUE: what can be named (scores, strategies, tasks, the recipes and launches that come along), each with its one-line meaning."""

from __future__ import annotations

import difflib
import shutil
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from hf_datadiet import registry
from hf_datadiet.candidates import MEANING
from hf_datadiet.durable import write_text
from hf_datadiet.errors import RecipeError
from hf_datadiet.records import AUTO

Shelf: TypeAlias = Literal["scorers", "selectors", "tasks", "recipes", "launches"]

SHELVES: tuple[Shelf, ...] = get_args(Shelf)


def recipes_folder() -> Path:
    """The folder of the recipes that come with the package: inside the wheel, or the checkout's `recipes/`."""
    inside = Path(__file__).parent / "_recipes"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "recipes"


def catalogue(shelf: Shelf) -> dict[str, str]:
    """{name: meaning}, sorted by name. Imports no plug-in and reads no more of a file than its first lines."""
    if shelf in ("scorers", "selectors", "tasks"):
        found = {name: registry.meaning(shelf, name) for name in registry.names(shelf)}
        return dict(sorted((found | {AUTO: MEANING}).items())) if shelf == "selectors" else found
    if shelf == "launches":
        return {name: _headline(path) for name, path in _launches().items()}
    return {path.stem: _headline(path) for path in sorted(recipes_folder().glob("*.yaml"))}


def _launches() -> dict[str, Path]:
    """Files for the launchers of many processes: {"accelerate/multi_gpu.yaml": where it lies}."""
    return {f"{path.parent.name}/{path.name}": path for path in sorted(recipes_folder().glob("*/*.*"))}


def _headline(path: Path) -> str:
    """The first line of its header."""
    with path.open(encoding="utf-8") as file:
        return next(line for line in file if not line.startswith("#!")).lstrip("# ").rstrip()


def shipped(recipe: Path) -> Path | None:
    """The recipe that comes with the package under that name (`digits`, `digits.yaml`, `recipes/digits.yaml`), or None."""
    path = recipes_folder() / recipe.with_suffix(".yaml").name if recipe.name else None
    plain = recipe.parent in (Path(), Path("recipes")) and recipe.suffix in ("", ".yaml")
    return path if path is not None and plain and path.exists() else None


def copy_recipe(recipe: Path, target: Path | None = None) -> Path:
    """Copy a recipe, or a file for a launcher, that comes with the package to be edited, by default into this folder; where it lies.

    `target` may be a folder. `RecipeError` for a name that does not exist, and for a file that does: nothing is overwritten.
    """
    launches = _launches()
    name = str(recipe).removeprefix("recipes/")
    source = shipped(recipe) or launches.get(name)
    if source is None:
        known = [*catalogue("recipes"), *launches]
        near = difflib.get_close_matches(name if "/" in name else recipe.stem, known, n=1)
        raise RecipeError(
            f"no recipe {str(recipe)!r} comes along; " + (f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}")
        )
    target = target or Path(source.name)
    place = target / source.name if target.is_dir() else target
    if place.exists():
        raise RecipeError(f"{place} exists; give another name: hf-datadiet cp {name if name in launches else source.stem} TARGET")
    write_text(place, source.read_text(encoding="utf-8"))
    shutil.copymode(source, place)
    return place
