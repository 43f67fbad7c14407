"""What the Tab key offers: names of recipes, run folders, columns, strategies. Looks at files, imports nothing heavy.

Turned on by click's own script: eval "$(_HF_DATADIET_COMPLETE=bash_source hf-datadiet)" (or zsh_source, fish_source).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from click import Context, Parameter
from click.shell_completion import CompletionItem

from hf_datadiet import registry
from hf_datadiet.catalogue import catalogue
from hf_datadiet.errors import DataDietError
from hf_datadiet.records import AUTO
from hf_datadiet.status import status_of
from hf_datadiet.store import RunFolder

Offers: TypeAlias = list[CompletionItem]


def recipes(_context: Context, _parameter: Parameter, typed: str) -> Offers:
    """Recipes that come along, else the shell's own completion of files."""
    return _offers(catalogue("recipes"), typed) or [CompletionItem(typed, type="file")]


def runs(_context: Context, _parameter: Parameter, typed: str) -> Offers:
    """Run folders in this folder and in `runs/`, else the shell's own completion of folders."""
    found = sorted(str(marker.parent) for pattern in ("*/run.json", "runs/*/run.json") for marker in Path().glob(pattern))
    return _offers(found, typed) or [CompletionItem(typed, type="dir")]


def columns(context: Context, _parameter: Parameter, typed: str) -> Offers:
    """Score columns of the run that was typed before."""
    # While the last option has no value yet, click leaves the arguments before it unnamed.
    folder = context.params.get("folder") or next(iter(context.args), None)
    try:
        return _offers(status_of(RunFolder(folder)).scores, typed) if folder else []
    except DataDietError:
        return []


def strategies(_context: Context, _parameter: Parameter, typed: str) -> Offers:
    """Strategies, and what chooses among them."""
    return _offers(sorted([*registry.names("selectors"), AUTO]), typed)


def quotas(_context: Context, _parameter: Parameter, typed: str) -> Offers:
    """Those that are one word."""
    return _offers(("none", "proportional", "equal"), typed)


def _offers(names: Iterable[str], typed: str) -> Offers:
    return [CompletionItem(name) for name in names if name.startswith(typed)]
