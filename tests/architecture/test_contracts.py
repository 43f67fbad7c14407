"""Every import contract in pyproject.toml has been seen to fail: one added line breaks it, and it alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRACTS = [contract["name"] for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]]

# Contract -> (file, the line that breaks it). A file that does not exist is made; a contract may have several ways to break.
BREAKING = {
    "The layers": [
        ("errors.py", "import hf_datadiet.records"),  # upward
        ("prune.py", "import hf_datadiet.evaluate"),  # sideways
        ("utils.py", "import hf_datadiet.errors"),  # a file that nobody placed
    ],
    "The pure part needs no heavy library": [
        ("scorers/loss.py", "from timm import create_model"),
        ("registry.py", "def late():\n    import transformers"),
    ],
    "Selections, statistics and records know no tensors": [
        ("selectors/new_strategy.py", "import torch.nn.functional"),
        ("records.py", "import torch"),
    ],
    "The report is pure": [("report.py", "import torch")],
    "Accelerate only in training": [("hub/source.py", "from accelerate.utils import set_seed"), ("new_verb.py", "import accelerate")],
    "The Hub only in hub": [("store.py", "from huggingface_hub import HfApi"), ("training/new_file.py", "import huggingface_hub")],
    "Matplotlib only in pictures": [("reporting.py", "from matplotlib import pyplot"), ("markdown.py", "import matplotlib.style")],
    "No pickle": [("store.py", "import pickle"), ("training/new_file.py", "import joblib")],
    "Scores do not know one another": [
        ("scorers/el2n.py", "from hf_datadiet.scorers import entropy"),
        ("scorers/base.py", "import hf_datadiet.scorers.el2n"),
    ],
    "Strategies do not know one another": [("selectors/new_strategy.py", "import hf_datadiet.selectors.window")],
    "Tasks do not know one another": [("tasks/new_modality.py", "from hf_datadiet.tasks.image import *")],
}
# Lines whose file is not placed in a layer break that contract as well.
# The report reads the records, and so does whoever breaks a rule there.
ALSO_BROKEN = {"new_verb.py": {"The layers"}, "records.py": {"The report is pure"}}

LINT = "from importlinter.cli import lint_imports_command as lint; lint()"


def lint(folder: Path) -> dict[str, str]:
    """{contract: "KEPT" or "BROKEN"} for the copy in `folder`."""
    command = [sys.executable, "-c", LINT, "--no-logo", "--no-cache", "--config", "pyproject.toml"]
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "PYTHONPATH": ""}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)
    verdicts = dict(re.findall(r"^(.+?) (KEPT|BROKEN)\b", result.stdout, flags=re.MULTILINE))
    assert set(verdicts) == set(CONTRACTS), result.stdout + result.stderr
    assert (result.returncode == 0) == ("BROKEN" not in verdicts.values())
    return verdicts


def copy_to(folder: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copytree(ROOT / "hf_datadiet", folder / "hf_datadiet", ignore=shutil.ignore_patterns("__pycache__", "_recipes"))
    return folder


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    return lint(copy_to(tmp_path_factory.mktemp("unchanged")))


@pytest.mark.parametrize("contract", CONTRACTS)
def test_the_package_keeps_the_contract(verdicts, contract):
    assert verdicts[contract] == "KEPT", "`lint-imports` shows the offending import"


def test_every_contract_has_a_breaking_line():
    assert set(BREAKING) == set(CONTRACTS)


@pytest.mark.parametrize(
    ("contract", "path", "line"),
    [pytest.param(contract, *case, id=f"{contract}: {case[0]}") for contract in CONTRACTS for case in BREAKING.get(contract, [])],
)
def test_one_line_breaks_the_contract_and_no_other(tmp_path, verdicts, contract, path, line):
    copy = copy_to(tmp_path)
    with (copy / "hf_datadiet" / path).open("a") as file:
        file.write(f"\n{line}\n")
    changed = {name for name, verdict in lint(copy).items() if verdict != verdicts[name]}
    assert changed == {contract} | ALSO_BROKEN.get(path, set())
