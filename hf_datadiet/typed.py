"""What was typed, as records keep it, and how a verb answers."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from hf_datadiet.answers import Answer, Form
from hf_datadiet.ending import first
from hf_datadiet.recipe import Recipe
from hf_datadiet.recipe_yaml import kept_recipe
from hf_datadiet.store import RunFolder


def say(answer: Answer, form: Form) -> None:
    """Put the answer on stdout; of several processes one does."""
    if first():
        click.echo(answer.in_form(form), nl=False)


def recipe_of(folder: RunFolder, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe that a run folder keeps, with overrides."""
    return kept_recipe(folder.path, overrides)


def command() -> str:
    """The command as typed, without the path of the program; absolute paths of arguments are reduced to their names."""
    return shlex.join(["hf-datadiet", *(_without_folders(word) for word in sys.argv[1:])])


def _without_folders(word: str) -> str:
    key, equals, value = word.partition("=")
    if Path(word).is_absolute() or Path(value).is_absolute():
        return Path(word).name if Path(word).is_absolute() else key + equals + Path(value).name
    # Inside a YAML value: source={path: /a/b}.
    return re.sub(r"(?<=[\s\[{:,'\"=])/(?:[^\s/,}\]'\"]+/)*", "", word)
