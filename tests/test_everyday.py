# ruff: noqa: F401, F811
"""The everyday verbs: list, cp, status, JSON on stdout, the Tab key."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.shell_completion import ShellComplete

from hf_datadiet import registry
from hf_datadiet.catalogue import SHELVES, catalogue, copy_recipe, recipes_folder
from hf_datadiet.cli import commands
from hf_datadiet.errors import RecipeError
from hf_datadiet.recipe_yaml import kept_recipe, load_recipe, to_yaml
from hf_datadiet.records import Report
from hf_datadiet.store import RunFolder
from tests.test_cli import Said, call, copy, here, run  # fixtures

# list and cp


@pytest.mark.parametrize("shelf", SHELVES)
def test_list_names_everything_with_its_meaning(shelf: str, call: Callable[..., Said]) -> None:
    said = call("list", shelf)
    found = json.loads(call("list", shelf, "--format", "json").out)[shelf]
    assert said.code == 0 and said.err == ""
    assert [line.split()[0] for line in said.out.splitlines()] == [entry["name"] for entry in found]
    for line, entry in zip(said.out.splitlines(), found, strict=True):
        assert line.endswith(entry["meaning"]) and entry["meaning"].endswith(".") and len(entry["meaning"]) > 10
    shipped = {
        "recipes": [path.stem for path in sorted(recipes_folder().glob("*.yaml"))],
        "launches": [f"{path.parent.name}/{path.name}" for path in sorted(recipes_folder().glob("*/*.*"))],
    }
    among = ["auto"] if shelf == "selectors" else []
    assert list(catalogue(shelf)) == (shipped[shelf] if shelf in shipped else sorted([*registry.names(shelf), *among]))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["digits", "digits.yaml", "recipes/digits.yaml"])
def test_cp_gives_a_recipe_to_edit(name: str, here: Path, call: Callable[..., Said]) -> None:
    assert call("cp", name).out == "digits.yaml\n"
    assert (here / "digits.yaml").read_bytes() == (recipes_folder() / "digits.yaml").read_bytes()
    (here / "folder").mkdir()
    assert call("cp", name, "folder").out == "folder/digits.yaml\n"
    assert json.loads(call("cp", name, "other.yaml", "--format", "json").out) == {"recipe": "other.yaml"}
    assert call("cp", name, "new/mine.yaml").out == "new/mine.yaml\n" and load_recipe(here / "new" / "mine.yaml")


def test_cp_gives_a_file_for_a_launcher(here: Path, call: Callable[..., Said]) -> None:
    assert call("cp", "accelerate/multi_gpu.yaml", "mine.yaml").out == "mine.yaml\n"
    assert (here / "mine.yaml").read_bytes() == (recipes_folder() / "accelerate" / "multi_gpu.yaml").read_bytes()
    assert call("cp", "recipes/torchrun/several_nodes.sh").out == "several_nodes.sh\n"
    assert os.access(here / "several_nodes.sh", os.X_OK), "a script can be started as it is"
    said = call("cp", "accelerate/multi_gpus.yaml")
    assert said.code == 2 and "did you mean accelerate/multi_gpu.yaml?" in said.err


def test_cp_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "digits.yaml").write_text("mine")
    for target in (tmp_path, tmp_path / "digits.yaml"):
        with pytest.raises(RecipeError, match=r"digits\.yaml exists; give another name: hf-datadiet cp digits TARGET"):
            copy_recipe(Path("digits"), target)
    assert (tmp_path / "digits.yaml").read_text() == "mine"
    for name in ("", ".", "elsewhere/digits.yaml", "digits.txt", "none"):
        with pytest.raises(RecipeError, match="comes along"):
            copy_recipe(Path(name), tmp_path / "x.yaml")


# JSON


def test_json_alone_is_on_stdout(here: Path, call: Callable[..., Said]) -> None:
    said = call("run", "toy.yaml", "--limit", "40", "score.seeds=1", "score.observe_at=[0]", "--format", "json")
    found = json.loads(said.out)
    assert said.code == 0 and "preparing 40 rows" in said.err
    assert found["run"] == "runs/toy" and found["report"] == json.loads(Path("runs/toy/report.json").read_text())
    assert Report(**found["report"]).evaluations
    assert found["next"].startswith("read runs/toy/report.md; another budget: hf-datadiet prune runs/toy --name keep-70 --score el2n ")
    assert json.loads(call("report", "runs/toy", "--format", "json").out) == found

    made = json.loads(call("prune", "runs/toy", "--name", "b", "--keep", "4", "--score", "el2n", "--format", "json").out)
    selection = "runs/toy/selections/b/selection.parquet"
    assert made == {
        "run": "runs/toy",
        "name": "b",
        "kept": 4,
        "dropped": 36,
        "selection": selection,
        "dataset": None,
        "next": "hf-datadiet evaluate runs/toy",
    }
    status = json.loads(call("status", "runs/toy", "--format", "json").out)
    assert (
        {seed: training["state"] for seed, training in status["seeds"].items()} == {"0": "done"}
        and status["selections"] == {"b": 4, "keep-50": 20}
        and status["report"]
    )
    main = {arm: {seed: training["state"] for seed, training in seeds.items()} for arm, seeds in status["evaluations"]["main"].items()}
    assert main["b"] == {"10000": "to do"} and main["full"] == {"10000": "done"}
    text = call("status", "runs/toy").out
    assert "seeds       1 of 1 done" in text and text.startswith("run         runs/toy: timm:test_resnet on sample:digits\n")
    assert "evaluation  main: 4 of 7 trainings done" in text and "next        hf-datadiet evaluate runs/toy" in text
    again = json.loads(call("evaluate", "runs/toy", "--format", "json").out)
    assert {row["name"] for row in again["report"]["selections"]} == {"b", "keep-50"}


def test_a_forecast_in_json(here: Path, call: Callable[..., Said]) -> None:
    found = json.loads(call("run", "toy.yaml", "--limit", "60", "--dry-run", "--format", "json").out)
    assert found["n_rows"] == 60 and found["arms"]["keep-50"] == 30 and found["seeds_done"] == 0 and found["score_seconds"] > 0
    assert found["source"] == "sample:digits" and [path.name for path in here.iterdir()] == ["toy.yaml"]


def test_the_resume_command_of_status_goes_on(copy: Path, call: Callable[..., Said]) -> None:
    RunFolder(copy).save_recipe(to_yaml(kept_recipe(copy, ["prune=[]"])))
    (copy / "seeds" / "001" / "done.json").unlink()
    said = call("status", copy)
    assert "seeds       1 of 2 done" in said.out and f"next        hf-datadiet score {copy / 'recipe.yaml'} --out {copy}" in said.out
    assert call("score", copy / "recipe.yaml", "--out", copy).code == 0 and RunFolder(copy).has_seed(1)


# The Tab key


def offered(words: list[str], typed: str) -> list[str]:
    complete = ShellComplete(commands, {}, "hf-datadiet", "_HF_DATADIET_COMPLETE")
    return [item.value if item.type == "plain" else f"({item.type})" for item in complete.get_completions(words, typed)]


def test_completion(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    assert offered([], "sta") == ["status"]
    assert offered(["run"], "d") == ["digits", "docstrings"] and offered(["run"], "./x") == ["(file)"]
    assert offered(["status"], "") == ["run"] and offered(["status"], "elsewhere") == ["(dir)"]
    assert offered(["prune", "run", "--score"], "m") == ["margin"] and offered(["prune", "none", "--score"], "m") == []
    assert offered(["inspect", "run", "--score"], "e") == ["el2n"]
    assert offered(["prune", "run", "--strategy"], "h") == ["hardest"] and offered(["prune", "run", "--strategy"], "a") == ["auto"]
    assert offered(["list"], "s") == ["scorers", "selectors"]


def test_the_tab_key_and_the_light_verbs_import_nothing_heavy(run: Path) -> None:
    program = (
        "import sys; from hf_datadiet import cli\n"
        "for words in (['list', 'scorers'], ['list', 'recipes'], ['status', 'run']):\n"
        "    sys.argv = ['hf-datadiet', *words]\n"
        "    cli.main()\n"
        "heavy = {'torch', 'accelerate', 'datasets', 'transformers', 'timm', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "sys.argv = ['hf-datadiet']\n"
        "cli.main()\n"
    )
    words = {"_HF_DATADIET_COMPLETE": "bash_complete", "COMP_WORDS": "hf-datadiet cp do", "COMP_CWORD": "2"}
    plain = [sys.executable, "-c", program]
    first = subprocess.run(plain, cwd=run.parent, capture_output=True, text=True, check=False)
    assert first.returncode == 2 and first.stderr == "", "no words: help, and no success"
    tab = subprocess.run(
        [sys.executable, "-m", "hf_datadiet"], cwd=run.parent, env=os.environ | words, capture_output=True, text=True, check=True
    )
    assert tab.stdout == "plain,docstrings\n"
