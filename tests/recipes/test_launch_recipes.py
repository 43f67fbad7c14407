"""The files for launchers of many processes: read by what they are for, and carried out on this machine."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import socket
import sys
import tomllib
from pathlib import Path

import click
import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from packaging.requirements import Requirement

from hf_datadiet.catalogue import catalogue, recipes_folder, shipped
from hf_datadiet.cli import commands
from hf_datadiet.recipe_yaml import load_recipe
from tests.distributed import toy

FOLDER = recipes_folder()
ACCELERATE = sorted((FOLDER / "accelerate").glob("*.yaml"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    toy.write_recipe(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.alone(tmp_path_factory.mktemp("alone") / "run")


def command_of(path: Path) -> list[str]:
    """The words of the command in the header."""
    [line] = re.findall(r"^# Command: (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return shlex.split(line)


def assert_is_typed_right(words: list[str]) -> None:
    """hf-datadiet WORDS names a verb, options it has, and a recipe that exists with the overrides behind it."""
    with commands.make_context("hf-datadiet", list(words)) as context:
        name, verb, rest = commands.resolve_command(context, [*context._protected_args, *context.args])
        assert verb is not None
        with click.Context(verb, parent=context):
            given = verb.make_context(name, rest, parent=context).params
    recipe = shipped(given["recipe"])
    assert recipe is not None
    # A path that the recipe leaves open stands in the command.
    assert "$" not in (load_recipe(recipe, given["overrides"]).source.path or "")


@pytest.mark.parametrize("name", catalogue("launches"))
def test_the_command_in_the_header_names_the_file_and_what_exists(name: str) -> None:
    words = command_of(FOLDER / name)
    assert f"recipes/{name}" in words
    if "hf_datadiet" in words:
        assert_is_typed_right(words[words.index("hf_datadiet") + 1 :])
    elif "score" in words:
        assert_is_typed_right(words[words.index("score") :])
    else:
        assert_is_typed_right(["run", words[-1]])


# Accelerate

EXPECTED = {"one_gpu": (False, 1, 1), "multi_gpu": (True, 8, 1), "several_nodes": (True, 16, 2), "two_cpu_processes": (True, 2, 1)}


@pytest.mark.parametrize("path", ACCELERATE, ids=[path.stem for path in ACCELERATE])
def test_accelerate_reads_its_configuration(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_config_from_file(str(path)).to_dict()
    words = command_of(path)
    assert words[:2] == ["accelerate", "launch"]
    monkeypatch.chdir(FOLDER.parent)
    if FOLDER.name != "recipes":
        words[words.index("--config_file") + 1] = str(path)
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(words[2:]))
    assert (args.multi_gpu, args.num_processes, args.num_machines) == EXPECTED[path.stem]
    assert args.module and args.training_script == "hf_datadiet" and args.mixed_precision == "no"
    assert not any([args.cpu, args.tpu, args.use_fsdp, args.use_deepspeed, args.use_megatron_lm])
    # On one machine any free port does, so that a second launch is in nobody's way; several must agree.
    assert args.main_process_port == {"one_gpu": None, "several_nodes": 29500}.get(path.stem, 0)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.slow
def test_two_machines_by_accelerate(here: Path, alone: Path) -> None:
    given = ["--config_file", str(FOLDER / "accelerate" / "several_nodes.yaml"), "--num_processes", "2", "--main_process_ip", "127.0.0.1"]
    given += ["--main_process_port", str(free_port())]
    score = ["-m", "hf_datadiet", "score", "toy.yaml", "--out", "run"]
    started = [toy.start([*toy.ACCELERATE, *given, "--machine_rank", str(rank), *score], here) for rank in range(2)]
    for ended in toy.ends(started):
        assert ended.code == 0, ended.err
    toy.assert_same_scores(here / "run", alone)


# SLURM and torchrun: their scripts, with programs of these names that are found first


def programs(folder: Path, **scripts: str) -> dict[str, str]:
    """An environment in which each name is a program of this text."""
    (folder / "bin").mkdir()
    for name, script in scripts.items():
        path = folder / "bin" / name.replace("_", "-")
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)
    return {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}


def array(first: int, n: int) -> list[dict[str, str]]:
    """What SLURM tells each task of an array."""
    common = {"SLURM_ARRAY_TASK_MIN": str(first), "SLURM_ARRAY_TASK_MAX": str(first + n - 1), "SLURM_ARRAY_TASK_COUNT": str(n)}
    return [{**common, "SLURM_ARRAY_TASK_ID": str(first + task)} for task in range(n)]


SBATCH = FOLDER / "slurm" / "array.sbatch"


@pytest.mark.parametrize(("first", "n"), [(1, 4), (0, 3), (7, 1)])
def test_the_tasks_of_an_array_are_all_the_parts(first: int, n: int, here: Path) -> None:
    path = programs(here, srun='exec "$@"', hf_datadiet='printf "%s|" "$@"')
    told = [toy.said(["bash", str(SBATCH), "score", "a b.yaml", "--out", "run"], here, {**path, **task}) for task in array(first, n)]
    assert [ended.out for ended in told] == [f"score|a b.yaml|--out|run|--share|{k}/{n}|" for k in range(1, n + 1)]
    assert all(ended.code == 0 for ended in told)


def test_sbatch_finds_its_options() -> None:
    lines = SBATCH.read_text().splitlines()
    options = [line for line in lines if line.startswith("#SBATCH ")]
    assert lines[0] == "#!/bin/bash" and "#SBATCH --array=1-4" in options
    assert max(map(lines.index, options)) < lines.index("set -euo pipefail"), "behind the first command it reads none"


@pytest.mark.slow
def test_an_array_scores_together(here: Path, alone: Path) -> None:
    path = programs(here, srun='exec "$@"', hf_datadiet=f'exec {shlex.join(toy.DATADIET)} "$@"')
    words = ["bash", str(SBATCH), "score", "toy.yaml", "--out", "run"]
    started = [toy.start(words, here, {**path, **task}) for task in array(1, 2)]
    for ended in toy.ends(started):
        assert ended.code == 0, ended.err
    toy.assert_same_scores(here / "run", alone)


@pytest.mark.slow
def test_two_machines_by_torchrun(here: Path, alone: Path) -> None:
    environment = programs(here, torchrun=f'exec {shlex.join(toy.TORCHRUN)} "$@"')
    environment |= {"NODES": "2", "PROCESSES": "1", "MEETING": f"127.0.0.1:{free_port()}"}
    script = str(FOLDER / "torchrun" / "several_nodes.sh")
    started = [toy.start([script, "score", "toy.yaml", "--out", "run"], here, environment) for _ in range(2)]
    ends = toy.ends(started)
    for ended in ends:
        assert ended.code == 0, ended.err
    assert sorted(bool(ended.out) for ended in ends) == [False, True], "one process of all answers"
    toy.assert_same_scores(here / "run", alone)


# Jobs

JOB = FOLDER / "hf_jobs" / "run.py"


def test_the_job_says_what_it_needs() -> None:
    text = JOB.read_text(encoding="utf-8")
    [block] = re.findall(r"(?m)^# /// script$\s((?:^#(?:| .*)$\s)+)^# ///$", text)  # as PEP 723 says
    needs = tomllib.loads("".join(line[2:] for line in block.splitlines(keepends=True)))
    project = tomllib.loads((toy.ROOT / "pyproject.toml").read_text())["project"]
    assert [Requirement(one).name for one in needs["dependencies"]] == [project["name"]]
    assert needs["requires-python"] == project["requires-python"]


def run_job(words: list[str], monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(sys, "argv", [str(JOB), *words])
    try:
        runpy.run_path(str(JOB), run_name="__main__")
    except SystemExit as end:
        return end.code
    return 0


def test_the_job_runs_into_the_mounted_folder(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_job(["--help"], monkeypatch) == 0 and "RECIPE" in capsys.readouterr().out
    (here / "mounted").mkdir()
    assert run_job(["--runs", "mounted", "toy.yaml", "score.seeds=1", "--format", "json"], monkeypatch) == 0
    assert '"run": "mounted/toy"' in capsys.readouterr().out
    assert (here / "mounted" / "toy" / "report.md").exists()


def test_a_job_without_a_bucket_does_not_begin(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_job(["--runs", str(here / "none"), "toy.yaml"], monkeypatch) == 2
    assert "nothing is mounted at" in capsys.readouterr().err
