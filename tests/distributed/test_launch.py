"""However the processes of a scoring are started, the scores are the same, stdout holds one answer, and an end has a reason."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from accelerate.commands.launch import _validate_launch_command
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from hf_datadiet.catalogue import recipes_folder
from hf_datadiet.errors import RecipeError
from hf_datadiet.store import RunFolder
from hf_datadiet.training import launch as launching
from hf_datadiet.training import processes as launched
from hf_datadiet.training.launch import End, launch, threads_for, to_start
from hf_datadiet.training.processes import SIZES, Processes
from hf_datadiet.training.progress import Progress
from tests.distributed import toy

Call = Callable[..., tuple[int, str, str]]

ACCELERATE = recipes_folder() / "accelerate"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.alone(tmp_path_factory.mktemp("alone") / "run")


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    toy.write_recipe(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SIZES, "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "ACCELERATE_DYNAMO_MODE", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)


# The same scores

LAUNCHES: dict[str, tuple[int, tuple[str, ...], tuple[str, ...]]] = {
    "--num-processes 2": (2, toy.DATADIET, ("--num-processes", "2")),
    "--num-processes 4": (4, toy.DATADIET, ("--num-processes", "4")),
    "accelerate launch": (2, (*toy.ACCELERATE, "--config_file", str(ACCELERATE / "two_cpu_processes.yaml"), "-m", "hf_datadiet"), ()),
    "torchrun": (2, (*toy.TORCHRUN, "--standalone", "--nproc-per-node", "2", "-m", "hf_datadiet"), ()),
}
SLOW = ("--num-processes 4", "accelerate launch", "torchrun")


@pytest.mark.parametrize("how", [pytest.param(how, marks=[pytest.mark.slow] if how in SLOW else []) for how in LAUNCHES])
def test_the_scores_are_those_of_one_process(how: str, there: Path, alone: Path) -> None:
    n, before, behind = LAUNCHES[how]
    ended = toy.said([*before, "score", "toy.yaml", "--out", "run", "--format", "json", *behind], there)
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["run"] == "run", "one process answers, and nobody else writes to stdout"
    for rank in range(n):
        assert f"process {rank}  score  seed" in ended.err
    if before == toy.DATADIET:
        assert ended.lines == [], "the launcher itself says nothing"
    toy.assert_same_scores(there / "run", alone)


@pytest.mark.slow
def test_a_choice_is_that_of_one_process(there: Path) -> None:
    """The candidates' trainings are shared, and every process goes on with the same choice."""
    candidates = [{"strategy": "hardest"}, {"strategy": "window", "skip": 0.1}, {"strategy": "random"}]
    asked = {"name": "auto", "score": "el2n", "strategy": "auto", "keep": 0.5, "seeds": 1, "candidates": candidates}
    (there / "auto.yaml").write_text(yaml.safe_dump(toy.RECIPE | {"score": {"scores": ["el2n"], "seeds": 2}, "prune": [asked]}))
    for out, behind in (("one", ()), ("two", ("--num-processes", "2"))):
        ended = toy.said([*toy.DATADIET, "run", "auto.yaml", "--out", out, *behind], there)
        assert ended.code == 0, ended.err
    assert {line.split()[1] for line in ended.err.splitlines() if "  tune  " in line} == {"0", "1"}, "both have trained"
    one, two = RunFolder(there / "one"), RunFolder(there / "two")
    assert one.load_selection("auto").parameters == two.load_selection("auto").parameters
    assert one.load_selection("auto").kept.tolist() == two.load_selection("auto").kept.tolist()
    for kind in ("tunings/auto", "evaluations/main"):
        tables = [pq.read_table(run.path / kind / "predictions.parquet") for run in (one, two)]
        assert tables[0].equals(tables[1]), kind


# How a launch ends


@pytest.fixture
def training(there: Path) -> Iterator[tuple[subprocess.Popen[str], dict[int, psutil.Process]]]:
    """A launch of two processes that would train for hours, and its processes by rank, once both are in training."""
    words = ["score", "toy.yaml", "--out", "run", "--num-processes", "2", "task.training.epochs=100000", "score.keep_weights=none"]
    process = toy.start([*toy.DATADIET, *words, "score.observe_at=[100000]"], there)
    seen, text = set[str](), []
    assert process.stderr is not None
    while len(seen) < 2:
        line = process.stderr.readline()
        assert line, f"it has ended: {''.join(text)}"
        text.append(line)
        seen |= {line[:9]} if "epoch 2/" in line else set()
    children = psutil.Process(process.pid).children()
    with process:
        yield process, {int(child.environ()["RANK"]): child for child in children}
        for one in [process, *(child for child in children if child.is_running())]:
            one.kill()


def _ends(process: subprocess.Popen[str], children: dict[int, psutil.Process]) -> toy.Ended:
    start = time.monotonic()
    ended = toy.end(process)
    assert time.monotonic() - start < 60
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children.values()), "nobody is left"
    return ended


def test_a_process_that_dies_ends_the_launch_with_the_reason(training: tuple[subprocess.Popen[str], dict[int, psutil.Process]]) -> None:
    process, children = training
    children[1].kill()
    ended = _ends(process, children)
    assert ended.code == 1 and ended.out == "" and "Traceback" not in ended.err
    assert ended.lines[-1] == (
        "hf-datadiet: process 1 of 2 has ended (SIGKILL, as the system does when memory runs out) and the others were stopped; "
        "the same command goes on from what is finished"
    )


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_launcher_reaches_the_processes(
    sent: signal.Signals, training: tuple[subprocess.Popen[str], dict[int, psutil.Process]]
) -> None:
    process, children = training
    process.send_signal(sent)
    ended = _ends(process, children)
    assert ended.code == 128 + sent and ended.out == "" and "Traceback" not in ended.err


@pytest.mark.slow
def test_a_mistake_that_the_processes_find_is_one_line(there: Path) -> None:
    ended = toy.said([*toy.DATADIET, "score", "toy.yaml", "--num-processes", "2", "task.model=timm:no_such"], there)
    assert (ended.code, ended.out) == (2, "") and len(ended.lines) == 1 and "no_such" in ended.lines[0]


@pytest.mark.parametrize(
    ("exits", "expected"),
    [
        ({1: 2}, End(2)),
        ({1: -9}, "process 1 of 4 has ended (SIGKILL, as the system does when memory runs out)"),
        ({0: -11, 3: -15}, "process 0 of 4 has ended (SIGSEGV) and the others were stopped; the same command goes on"),
        ({2: 1}, "process 2 of 4 has ended (exit code 1)"),
    ],
)
def test_the_reason_names_who_ended_how(exits: dict[int, int], expected: End | str, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = {rank: ProcessFailure(rank, 1000 + rank, code, "none") for rank, code in exits.items()}

    def failing(_arguments: object) -> None:
        raise ChildFailedError("hf_datadiet", failures)

    monkeypatch.setattr(launching, "launch_command", failing)
    found = launch(4, ["score"], ACCELERATE / "multi_gpu.yaml")
    if isinstance(expected, End):
        assert found == expected
    else:
        assert found.code == 1 and found.reason is not None and found.reason.startswith(expected)


# Before anything is started


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The arguments with which Accelerate's launcher would have been called, as it understands them."""
    found: list[Any] = []
    monkeypatch.setattr(launching, "launch_command", lambda arguments: found.append(_validate_launch_command(arguments)[0]))
    return found


MISTAKES = {
    "score none.yaml --num-processes 2": "cannot read recipe none.yaml",
    "score toy.yaml --num-processes 0": "0 is not in the range x>=1",
    "score toy.yaml --num-processes 2 score.scores=[el3n]": "did you mean el2n?",
    "score toy.yaml --num-processes 2 task.kind=imag": "did you mean image?",
    "score toy.yaml --num-processes 2 source.columns.label=lable": "lable",
    "score toy.yaml --num-processes 2 --out toy.yaml": "toy.yaml is a file and no folder",
    "score toy.yaml --num-processes 2 tracker=wandb": "tracker wandb is not installed",
    "run toy.yaml --num-processes 2 prune=[]": "the recipe makes no selection",
    "score --from-logits x.npy --num-processes 2": "are for trainings",
    "evaluate none --num-processes 2": "none holds no run",
    "score toy.yaml --share 3/2": "--share 3/2 is no part of a whole; give K/N with 1 <= K <= N",
    "score toy.yaml --share 0/2": "--share 0/2 is no part",
    "score toy.yaml --share half": "--share half is no part",
    "score toy.yaml --share -1/2": "--share -1/2 is no part",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_said_before_any_process_is_started(command: str, there: Path, call: Call, started: list[Any]) -> None:
    code, out, err = call(*command.split())
    assert (code, out, started) == (2, "", []) and err.count("\n") == 1 and MISTAKES[command] in err
    assert [path.name for path in there.iterdir()] == ["toy.yaml"], "nothing is left behind"


def test_one_process_needs_no_launcher(there: Path, call: Call, started: list[Any], alone: Path) -> None:
    assert call("score", "toy.yaml", "--out", "run", "--num-processes", "1")[0] == 0 and started == []
    toy.assert_same_scores(there / "run", alone)


def test_a_dry_run_starts_nothing(there: Path, call: Call, started: list[Any]) -> None:
    code, out, _ = call("run", "toy.yaml", "--num-processes", "2", "--dry-run", "--format", "json")
    assert code == 0 and json.loads(out)["processes"] == 2 and started == []


def test_settings_of_the_users_home_do_not_interfere(there: Path, call: Call, started: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    home = there / "default_config.yaml"
    other = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "FSDP", "num_processes": 7, "num_machines": 3, "machine_rank": 2}
    home.write_text(yaml.safe_dump({**other, "mixed_precision": "bf16", "main_process_ip": "10.0.0.1", "gpu_ids": "5"}))
    for place in ("accelerate.commands.launch", "accelerate.commands.config.config_args"):
        monkeypatch.setattr(f"{place}.default_config_file", str(home))
    words = ["score", "toy.yaml", "--out", "run", "--num-processes", "3", "--format", "json", "score.seeds=9"]
    assert call(*words) == (0, "", "")
    [found] = started
    assert (found.num_processes, found.num_machines, found.multi_gpu, found.use_fsdp) == (3, 1, True, False)
    assert (found.mixed_precision, found.main_process_ip, found.gpu_ids, found.main_process_port) == ("no", None, "all", 0)
    assert found.module and found.training_script == "hf_datadiet" and found.training_script_args == words
    assert found.num_cpu_threads_per_process == 1


@pytest.mark.parametrize(("cores", "n", "expected"), [(8, 2, 4), (8, 3, 2), (2, 4, 1)])
def test_threads_are_shared_out_unless_they_are_set(cores: int, n: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    monkeypatch.setenv("OMP_NUM_THREADS", str(cores))
    assert threads_for(n) == cores
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert threads_for(n) == expected and threads_for(1) == cores


def test_a_run_that_has_a_plan_goes_on_with_its_threads(there: Path, call: Call, started: list[Any], alone: Path) -> None:
    shutil.copytree(alone, there / "run")
    (there / "run" / "plan.json").unlink()
    folder, plan = RunFolder(there / "run"), RunFolder(alone).plan()
    assert plan is not None and plan.threads == 1 == threads_for(2)
    folder.save_plan(replace(plan, threads=3))
    assert call("score", "toy.yaml", "--out", "run", "--num-processes", "2") == (0, "", "")
    assert started[0].num_cpu_threads_per_process == 3


# Launchers of others


def test_another_launcher_decides_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    assert to_start(2) and not to_start(1) and not to_start(None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not to_start(2) and not to_start(None), "the processes of this launch"
    for n in (1, 3):
        with pytest.raises(RecipeError, match=rf"^--num-processes {n}, but the launcher .* has started 2; leave it out$"):
            to_start(n)


def test_every_process_needs_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert to_start(2)
    with pytest.raises(
        RecipeError, match=r"^3 processes need 3 GPUs, and this machine shows 2; start 2, or train on the CPU: ACCELERATE_USE_CPU=true$"
    ):
        to_start(3)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(RecipeError, match="this machine shows 2"):
        launched.accelerator()
    monkeypatch.delenv("LOCAL_RANK")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert to_start(3)


WHO = """
import sys
from hf_datadiet.errors import DataDietError
from hf_datadiet.training.processes import processes
try:
    found = processes()
except DataDietError as error:
    sys.exit(str(error))
sys.stdout.write(f"{found.rank}/{found.world}\\n")
"""
ONE, TWO = ["0/1"], ["0/2", "1/2"]
MULTI_CPU = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_CPU", "use_cpu": True, "num_processes": 2}
STARTED: dict[str, tuple[tuple[str, ...], dict[str, str], list[str] | None]] = {
    "--cpu, two": ((*toy.ACCELERATE, "--cpu", "--num_processes", "2"), {}, None),
    "--cpu, two, own address": ((*toy.ACCELERATE, "--cpu", "--num_processes", "2"), {"MASTER_ADDR": "127.0.0.1"}, None),
    "--cpu, one, own address": (
        (*toy.ACCELERATE, "--cpu", "--num_processes", "1"),
        {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1"},
        ONE,
    ),
    "two": ((*toy.ACCELERATE, "--num_processes", "2"), {}, None),
    "MULTI_CPU": ((*toy.ACCELERATE, "--config_file", "multi_cpu.yaml"), {}, None),
    "--multi_gpu": ((*toy.ACCELERATE, "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"), {}, TWO),
    "--multi_gpu, use_cpu": (
        (*toy.ACCELERATE, "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"),
        {"ACCELERATE_USE_CPU": "true"},
        TWO,
    ),
    "one_gpu.yaml": ((*toy.ACCELERATE, "--config_file", str(ACCELERATE / "one_gpu.yaml")), {}, ONE),
    "two_cpu_processes.yaml": ((*toy.ACCELERATE, "--config_file", str(ACCELERATE / "two_cpu_processes.yaml")), {}, TWO),
    "torchrun": ((*toy.TORCHRUN, "--standalone", "--nproc-per-node", "2"), {}, TWO),
}


@pytest.mark.parametrize("how", [pytest.param(how, marks=[] if how == "--cpu, two" else [pytest.mark.slow]) for how in STARTED])
def test_as_many_processes_as_were_asked_for_or_none(how: str, tmp_path: Path) -> None:
    words, environment, expected = STARTED[how]
    (tmp_path / "who.py").write_text(WHO)
    (tmp_path / "multi_cpu.yaml").write_text(yaml.safe_dump({**MULTI_CPU, "num_machines": 1, "mixed_precision": "no"}))
    ended = toy.said([*words, "who.py"], tmp_path, environment)
    if expected is None:
        assert ended.code != 0 and ended.out == "" and "was asked for several processes and has started one" in ended.err
    else:
        assert (ended.code, sorted(ended.out.split())) == (0, expected)


# Sharing


@given(st.integers(0, 12), st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_launches_and_processes_share_every_unit_once(n_units: int, worlds: list[int]) -> None:
    units = list(range(n_units))
    launches = [[Processes(rank, world, k + 1, len(worlds)) for rank in range(world)] for k, world in enumerate(worlds)]
    shares = [process.share(process.taken(units)) for launch in launches for process in launch]
    assert sorted(unit for share in shares for unit in share) == units
    per_launch = [len(launch[0].taken(units)) for launch in launches]
    assert max(per_launch) - min(per_launch) <= 1


def test_lines_of_several_processes_say_whose_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    for processes in (None, Processes(0, 1), Processes(1, 2)):
        Progress(2, processes=processes).note("preparing")
    assert capsys.readouterr().err.splitlines() == ["preparing", "preparing", "process 1  preparing"]


def test_the_part_reaches_the_session(there: Path, call: Call) -> None:
    call("score", "toy.yaml", "--out", "run", "--share", "2/3")
    assert sorted(path.name for path in (there / "run" / "seeds").iterdir()) == ["001", "004"]
