"""`hf datadiet ...` through the installed `hf`: what `hf extensions install` looks for in a repository, and what it then runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from huggingface_hub.cli.extensions import ExtensionManifest

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(sys.executable).parent


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home where the extension lies as its installation leaves it; the console script is that of this environment."""
    place = tmp_path / ".local" / "share" / "hf" / "extensions" / "hf-datadiet"
    script = place / "venv" / "bin" / "hf-datadiet"
    script.parent.mkdir(parents=True)
    script.write_text(f'#!/bin/sh\nexec {SCRIPTS / "python"} -m hf_datadiet "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    about = {"owner": "org", "repo": "hf-datadiet", "repo_id": "org/hf-datadiet", "short_name": "datadiet", "type": "python"}
    ExtensionManifest(**about, executable_path=str(script), installed_at=datetime.now(UTC)).save(place)  # pyright: ignore[reportArgumentType]
    return tmp_path


def hf(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment = {**os.environ, **offline, "HOME": str(home), "PYTHONPATH": str(ROOT)}
    return subprocess.run([SCRIPTS / "hf", *words], capture_output=True, text=True, env=environment, check=False, cwd=home)


def test_what_the_installation_looks_for() -> None:
    """A repository hf-NAME whose package has a console script of that name, and a description on a line of its own."""
    about = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert about["project"]["scripts"] == {"hf-datadiet": "hf_datadiet.cli:main"} and about["project"]["name"] == "hf-datadiet"
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    assert next(line for line in lines if line.startswith("description")) == f'description = "{about["project"]["description"]}"'
    # A file of that name in the root would be taken for the whole extension.
    assert not (ROOT / "hf-datadiet").exists()


def test_it_is_found_and_run(home: Path) -> None:
    listed = hf(home, "extensions", "list", "--format", "json")
    assert listed.returncode == 0 and [row["command"] for row in json.loads(listed.stdout)] == ["hf datadiet"]
    shown = hf(home, "datadiet", "--help")
    assert shown.returncode == 0 and "Usage: hf-datadiet" in shown.stdout
    assert {"publish", "verify", "score"} <= set(shown.stdout.split())
    # Arguments and exit codes pass through.
    wrong = hf(home, "datadiet", "publish", "nowhere", "--to", "me/x")
    assert (
        wrong.returncode == 2
        and wrong.stderr == "hf-datadiet: nowhere holds no run; score one first: hf-datadiet score RECIPE --out nowhere\n"
    )
