"""Each wrong input ends in one line that names the fault, with nothing half written; see `cases`."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hf_datadiet.store import RunFolder
from tests.bad_input.case import RECIPE, Case, outcome
from tests.bad_input.cases import CASES


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.fault)
def test_it_is_one_line(case: Case, tmp_path: Path) -> None:
    seen = outcome(case, tmp_path)
    lines = seen.err.splitlines()
    assert (seen.code, seen.out) == (case.code, ""), seen.err
    assert case.said in lines[-1] and seen.err.endswith("\n") and "Traceback" not in seen.err
    assert [line for line in lines if line.startswith("hf-datadiet: ")] == ([] if case.python else lines[-1:])
    if case.begun:
        assert not [path for path in seen.after if path.endswith(".tmp")]
        (run,) = (tmp_path / "runs").iterdir()
        assert RunFolder(run).exists()
        assert seen.before.items() <= seen.after.items()
    else:
        assert len(lines) == 1 and seen.after == seen.before


def test_each_fault_is_listed_once() -> None:
    assert len({case.fault for case in CASES}) == len(CASES)


@pytest.mark.parametrize("fault", ["unknown key", "source that is no parquet"])
def test_the_program_says_the_same(fault: str, tmp_path: Path) -> None:
    case = next(case for case in CASES if case.fault == fault)
    assert isinstance(case.command, str)
    (tmp_path / "here").mkdir()
    here = outcome(case, tmp_path / "here")
    command = [sys.executable, "-m", "hf_datadiet", *shlex.split(case.command)]
    done = subprocess.run(command, cwd=tmp_path / "here", capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", here.err)


def test_ctrl_c_in_the_middle_of_a_training(tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(RECIPE))
    command = [sys.executable, "-m", "hf_datadiet", "score", "toy.yaml", "task.training.epochs=100000"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None and process.stdout is not None
        for line in process.stderr:
            if line.startswith("score  seed 1/1  epoch 3/"):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read().splitlines()
        out = process.stdout.read()
    assert (process.returncode, out) == (130, "")
    assert rest[-1] == "hf-datadiet: interrupted; the same command goes on where it stopped"
    assert all(line.startswith("score  seed 1/1") for line in rest[:-1] if line)
    assert not list((tmp_path / "runs" / "toy").rglob("*.tmp"))
