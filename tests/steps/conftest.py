from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hf_datadiet import cli


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[Any, str, str]]:
    """(exit code, stdout, stderr) of `hf-datadiet WORDS`, in this process."""

    def said(*words: str) -> tuple[Any, str, str]:
        monkeypatch.setattr("sys.argv", ["hf-datadiet", *words])
        capsys.readouterr()
        try:
            cli.main()
        except SystemExit as end:
            return end.code, *capsys.readouterr()
        return 0, *capsys.readouterr()

    return said
