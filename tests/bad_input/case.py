"""One wrong input, and how it is carried out: in a folder of its own, the same way for the test and for the printed table."""

from __future__ import annotations

import contextlib
import io
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from hf_datadiet import cli
from hf_datadiet.errors import DataDietError

SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
"""The arguments of a transformer that takes no time."""

RECIPE: dict[str, Any] = {
    "source": {"sample": "digits", "test": {"fraction": 0.2}, "limit": 60},
    "task": {"kind": "image", "model": "timm:test_resnet", "training": {"epochs": 1, "batch_size": 32}},
    "score": {"scores": ["el2n", "margin"], "seeds": 1},
    "prune": [{"name": "keep-50", "score": "el2n", "keep": 0.5}],
    "evaluate": {"seeds": 1},
}
TEXTS: dict[str, Any] = {
    "kind": "text",
    "model": "transformers:bert",
    "model_args": SMALL,
    "max_length": 8,
    "vocab_size": 300,
    "training": {"epochs": 1, "batch_size": 8, "optimizer": {"name": "AdamW"}},
}
RECIPES = {
    "toy.yaml": RECIPE,
    "images.yaml": {**RECIPE, "source": {"path": "data"}},
    "texts.yaml": {**RECIPE, "source": {"path": "data"}, "task": TEXTS},
}
"""What lies in the folder: the embedded digits; images or texts of the user's own."""

Prepare = Callable[[Path], None]
Patch = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Case:
    """One wrong input: `said` is part of the line.

    `command`: words after `hf-datadiet`, or a call from Python (its text is then the case's `python`). It is carried out in an
    empty folder with `RECIPES` in it, after `prepare`; `patch` plays a faulty machine. `begun`: the fault comes after
    work has begun, so that progress stands before the line and a run folder stays to go on with.
    """

    fault: str
    command: str | Callable[[], object]
    said: str
    prepare: Prepare = lambda folder: None
    patch: Patch = lambda monkeypatch: None
    begun: bool = False
    code: int = 2
    python: str = ""

    @property
    def shown(self) -> str:
        """The command as a reader would type it."""
        return f"hf-datadiet {self.command}" if isinstance(self.command, str) else self.python


@dataclass(frozen=True)
class Outcome:
    """Exit code, stdout, stderr; content of every file before and after. From Python: code 2 and the error's line."""

    code: int
    out: str
    err: str
    before: dict[str, bytes]
    after: dict[str, bytes]


def outcome(case: Case, folder: Path) -> Outcome:
    """Carry the case out in this process, in an empty folder. What is neither an exit nor a `DataDietError` goes on up."""
    for name, recipe in RECIPES.items():
        (folder / name).write_text(yaml.safe_dump(recipe))
    case.prepare(folder)
    before = contents(folder)
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.chdir(folder)
        case.patch(patch)
        try:
            if isinstance(case.command, str):
                patch.setattr(sys, "argv", ["hf-datadiet", *shlex.split(case.command)])
                cli.main()
            else:
                case.command()
        except SystemExit as end:
            code = end.code or 0
        except DataDietError as error:
            code = 2
            err.write(f"{type(error).__name__}: {error}\n")
    return Outcome(code, out.getvalue(), err.getvalue(), before, contents(folder))


def contents(folder: Path) -> dict[str, bytes]:
    """{path: content} of every file, and b"" for every folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}
