"""The folder listing is the registry: a file in `scorers/`, `selectors/` or `tasks/` is a plug-in, under its own name.

Third parties install an entry point in the group `hf_datadiet.scorers` (or selectors, tasks), or name `package.module:NAME`,
which imports code that the recipe chooses and is therefore asked for explicitly. Built-in names come first.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import pkgutil
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeAlias, cast, get_args

from hf_datadiet.errors import PluginError

Kind: TypeAlias = Literal["scorers", "selectors", "tasks"]

_ATTRIBUTE = {"scorers": "SCORER", "selectors": "SELECTOR", "tasks": "TASK"}
_WORD = {"scorers": "score", "selectors": "strategy", "tasks": "task"}
_WORDS = {"scorers": "scores", "selectors": "strategies", "tasks": "tasks"}


def _built_in(kind: Kind) -> list[str]:
    if kind not in get_args(Kind):
        raise ValueError(f"no kind {kind!r} of plug-in; there are {', '.join(get_args(Kind))}")
    spec = importlib.util.find_spec(f"hf_datadiet.{kind}")
    folders = spec.submodule_search_locations if spec else None
    return [module.name for module in pkgutil.iter_modules(folders or []) if module.name != "base" and not module.name.startswith("_")]


def _installed(kind: Kind) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=f"hf_datadiet.{kind}")}


def names(kind: Kind) -> list[str]:
    """Every plug-in of that kind, sorted: the files of the folder and the installed entry points. Imports none of them."""
    return sorted({*_built_in(kind), *_installed(kind)})


def _unknown(kind: Kind, name: str) -> PluginError:
    known = names(kind)
    near = difflib.get_close_matches(name, known)
    hint = f"did you mean {' or '.join(near)}? The" if near else "the"
    return PluginError(f"no {_WORD[kind]} {name!r}; {hint} {_WORDS[kind]} are: {', '.join(known)}")


def _load(kind: Kind, name: str, module: str, path: str) -> Any:
    try:
        found = importlib.import_module(module)
    except Exception as cause:
        lines = str(cause).splitlines() or [""]
        raise PluginError(f"{_WORD[kind]} {name!r} does not import: {type(cause).__name__}: {lines[0]}; mend {module}") from cause
    try:
        for part in path.split("."):
            found = getattr(found, part)
    except AttributeError as cause:
        raise PluginError(f"{_WORD[kind]} {name!r}: {module} has no {path}; define it there") from cause
    return found


def find(kind: Kind, name: str, allow_plugins: bool = False) -> Any:
    """The plug-in's object: its `SCORER`, `SELECTOR` or `TASK`.

    `name` is a file's name, an entry point's name, or `package.module:NAME`, which needs `allow_plugins`.
    `PluginError` for an unknown name (with the nearest ones), a module that does not import (with its cause) or lacks the attribute.
    """
    if name in _built_in(kind):
        return _load(kind, name, f"hf_datadiet.{kind}.{name}", _ATTRIBUTE[kind])
    if (entry := _installed(kind).get(name)) is not None:
        return _load(kind, name, entry.module, entry.attr or _ATTRIBUTE[kind])
    module, colon, path = name.partition(":")
    if not (colon and module and path):
        raise _unknown(kind, name)
    if not allow_plugins:
        raise PluginError(
            f"{_WORD[kind]} {name!r} imports code from outside the package; allow it with --allow-plugins (Python: allow_plugins=True)"
        )
    return _load(kind, name, module, path)


def meaning(kind: Kind, name: str) -> str:
    """The first line of the docstring of a listed plug-in's module, read from its source without running it; "" if it has none."""
    return definition(kind, name).partition("\n")[0]


def definition(kind: Kind, name: str) -> str:
    """The whole docstring of a listed plug-in's module, read from its source without running it; "" if it has none."""
    if name in _built_in(kind):
        module = f"hf_datadiet.{kind}.{name}"
    elif (entry := _installed(kind).get(name)) is not None:
        module = entry.module
    else:
        raise _unknown(kind, name)
    try:
        spec = importlib.util.find_spec(module)
        loader = cast(Any, spec.loader if spec else None)
        source = loader.get_source(module) if hasattr(loader, "get_source") else None
        return ast.get_docstring(ast.parse(source or "")) or ""
    except (ImportError, SyntaxError) as cause:
        raise PluginError(f"{_WORD[kind]} {name!r} does not import: {type(cause).__name__}: {cause}; mend {module}") from cause


def definitions(kind: Kind, wanted: Iterable[str]) -> dict[str, str]:
    """{name: docstring} of those that are listed plug-ins; records also name what is none ("threshold", code from elsewhere)."""
    listed = names(kind)
    return {name: definition(kind, name) for name in wanted if name in listed}
