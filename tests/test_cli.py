from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from datasets import DatasetDict, load_dataset, load_from_disk

import hf_datadiet
from hf_datadiet import cli, ending, typed
from hf_datadiet.scorers.base import BatchScore
from hf_datadiet.store import RunFolder
from tests.synthetic import pictures

RECIPE: dict[str, Any] = {
    "source": {"sample": "digits", "test": {"fraction": 0.2}},
    "task": {"kind": "image", "model": "timm:test_resnet", "training": {"epochs": 1, "batch_size": 32}},
    "score": {"scores": ["el2n", "margin"], "seeds": 2},
    "prune": [{"name": "keep-50", "score": "el2n", "keep": 0.5}],
    "evaluate": {"seeds": 1},
}


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """The command line in this process: exit code, stdout, stderr. Whatever is no exit goes on up: it would be a traceback."""

    def run(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["hf-datadiet", *map(str, words)])
        capsys.readouterr()
        code: Any = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with one recipe in it."""
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(RECIPE))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def scored_in(path: Path) -> Path:
    recipe = path / "toy.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["hf-datadiet", "score", str(recipe), "--limit", "60", "--out", str(path / "run")])
        cli.main()
    return path / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with scores and one selection, which no test changes."""
    return scored_in(tmp_path_factory.mktemp("scored"))


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A copy of that run, to be changed."""
    return Path(shutil.copytree(run, tmp_path / "copy"))


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# From outside


def program(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "hf_datadiet", *words], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def test_the_program_says_its_version(tmp_path: Path) -> None:
    done = program("--version", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and hf_datadiet.__version__ in done.stdout


def test_the_program_ends_a_mistake_in_one_line(tmp_path: Path) -> None:
    done = program("score", "missing.yaml", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "hf-datadiet: cannot read recipe missing.yaml: No such file or directory; give the path of a YAML file\n"
    assert list(tmp_path.iterdir()) == []


# Help


@pytest.mark.parametrize("command", [(), ("run",), ("score",), ("prune",), ("evaluate",), ("inspect",), ("report",)])
def test_help(command: tuple[str, ...], call: Callable[..., Said]) -> None:
    for flag in ("--help", "-h"):
        said = call(*command, flag)
        assert said.code == 0 and said.err == "" and said.out.startswith("Usage: hf-datadiet")
    if not command:
        assert all(name in said.out for name in ("run", "score", "prune", "evaluate", "report"))


def test_without_a_command_there_is_help_and_no_success(call: Callable[..., Said]) -> None:
    said = call()
    assert said.code == 2 and said.err == "" and said.out == call("--help").out


# Mistakes

MISTAKES: dict[str, tuple[list[str], str]] = {
    "missing recipe": (["score", "none.yaml"], "cannot read recipe none.yaml"),
    "bad YAML": (["score", "bad.yaml"], "recipe bad.yaml is not valid YAML, line 2"),
    "unknown key": (["run", "toy.yaml", "score.sees=3"], "score.sees: unknown key; did you mean seeds?"),
    "several faults": (
        ["run", "toy.yaml", "score.seeds=0", "evaluate.match=x"],
        "score.seeds: input should be greater than or equal to 1, not 0; ",
    ),
    "unknown score": (["score", "toy.yaml", "score.scores=[el3n]"], "el2n"),
    "unknown task": (["score", "toy.yaml", "task.kind=imag"], "image"),
    "unknown key of the task": (["score", "toy.yaml", "task.cropp=1"], "task.cropp: unknown key; did you mean crop?"),
    "missing path": (["score", "toy.yaml", "source.sample=null", "source.path=nowhere"], "source.path nowhere does not exist"),
    "unknown sample": (["score", "toy.yaml", "source.sample=digit"], "no embedded sample 'digit'; there are: digits"),
    "unknown split": (["score", "toy.yaml", "source.split=dev"], "source has no split 'dev'; it has: train"),
    "nothing held out": (["run", "toy.yaml", "source.test=null"], "holds no rows out to evaluate on; set source.test"),
    "no selection": (["run", "toy.yaml", "prune=[]"], "the recipe makes no selection; add prune:"),
    "bad override": (["score", "toy.yaml", "epochs"], "'epochs' is no override; write key.sub=value"),
    "override of nothing": (["score", "toy.yaml", "prune.3.keep=1"], "override prune.3.keep: there is no 3"),
    "limit 0": (["score", "toy.yaml", "--limit", "0"], "source.limit: input should be greater than or equal to 1, not 0"),
    "limit of words": (["score", "toy.yaml", "--limit", "few"], "'few' is not a valid integer"),
    "out is a file": (["score", "toy.yaml", "--out", "toy.yaml"], "toy.yaml is a file and no folder"),
    "out is foreign": (["score", "toy.yaml", "--out", "."], "is not empty and holds no run"),
    "unknown command": (["scor"], "'scor'"),
    "unknown option": (["score", "toy.yaml", "--owt", "x"], "--owt"),
    "no recipe": (["score"], "RECIPE"),
    "prune no run": (["prune", "empty", "--name", "a", "--keep", "0.5"], "empty holds no run; score one first: hf-datadiet score"),
    "prune nowhere": (["prune", "nowhere", "--name", "a", "--keep", "0.5"], "nowhere holds no run"),
    "evaluate no run": (["evaluate", "empty"], "empty holds no run"),
    "report no run": (["report", "empty"], "empty holds no run"),
    "prune without a name": (["prune", "empty", "--keep", "0.5"], "--name"),
    "a selection outside the folder": (["prune", "empty", "--name", "../x", "--keep", "0.5"], "prune.0.name: "),
    "keep of words": (["prune", "empty", "--name", "a", "--keep", "half"], "prune.0.keep: 'half' is no budget"),
    "keep that is no YAML": (["prune", "empty", "--name", "a", "--keep", "{score"], "override keep: '{score' is not valid YAML"),
    "a parameter without a value": (["prune", "empty", "--name", "a", "--keep", "1", "--set", "skip"], "'skip' is no override"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(name: str, here: Path, call: Callable[..., Said]) -> None:
    (here / "bad.yaml").write_text("source: [1\nscore: 2")
    (here / "empty").mkdir()
    before = sorted(here.rglob("*"))
    words, message = MISTAKES[name]
    said = call(*words)
    assert said.code == 2 and said.out == ""
    assert said.err.startswith("hf-datadiet: ") and said.err.count("\n") == 1 and said.err.endswith("\n")
    assert message in said.err
    assert sorted(here.rglob("*")) == before


def test_an_unknown_score_names_its_nearest(here: Path, call: Callable[..., Said]) -> None:
    assert "did you mean el2n" in call("score", "toy.yaml", "score.scores=[el3n]").err
    assert "did you mean forgetting" in call("score", "toy.yaml", "score.scores=[forgeting]").err


PRUNE_MISTAKES = {
    "column": (["--score", "el3n", "--keep", "0.5"], "no score column 'el3n'; did you mean el2n? This table has: el2n, margin"),
    "keep 0": (["--score", "el2n", "--keep", "0"], "keep is 0, which keeps no row"),
    "keep above N": (["--score", "el2n", "--keep", "61"], "keep is 61, but only 60 rows are labelled and scored"),
    "keep above 1.0": (["--score", "el2n", "--keep", "1.5"], "a fraction above 1.0"),
    "no score": (["--keep", "0.5"], "strategy hardest needs a score; name one of: el2n, margin"),
    "strategy": (["--score", "el2n", "--keep", "0.5", "--strategy", "hardst"], "did you mean hardest"),
    "parameter": (["--score", "el2n", "--keep", "0.5", "--set", "skip=0.1"], "hardest has no parameter 'skip'"),
    "plug-in": (["--score", "el2n", "--keep", "0.5", "--strategy", "tests.test_selection:From"], "--allow-plugins"),
    "quotas": (["--score", "el2n", "--keep", "0.5", "--quotas", "fair"], "prune.0.quotas: 'fair' are no quotas; give none, proportional"),
    "threshold": (["--keep", "{score: el2n, below: -1}"], "no row passes the threshold"),
}


@pytest.mark.parametrize("name", PRUNE_MISTAKES)
def test_a_mistaken_selection_is_one_line_and_writes_nothing(name: str, run: Path, call: Callable[..., Said]) -> None:
    before = everything(run)
    words, message = PRUNE_MISTAKES[name]
    said = call("prune", run, "--name", "mine", *words)
    assert said.code == 2 and said.out == "" and said.err.count("\n") == 1 and message in said.err
    assert everything(run) == before


def test_our_own_faults_keep_their_traceback(here: Path, call: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "load_recipe", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        call("score", "toy.yaml")


# Scoring


def test_score_prints_the_table_and_where_things_lie(here: Path, call: Callable[..., Said]) -> None:
    said = call("score", "toy.yaml", "--limit", "60", "--out", "runs/mine", "score.seeds=1", "task.training.epochs=1")
    assert said.code == 0
    lines = said.out.splitlines()
    head = next(line for line in lines if line.startswith("| score"))
    assert "reliability (1 seed)" in head and any(line.startswith("| el2n ") for line in lines)
    assert "report  runs/mine/report.md" in lines and "scores  runs/mine/scores.parquet" in lines
    assert "next    hf-datadiet prune runs/mine --name keep-50 --score el2n --keep 0.5" in lines
    assert "preparing 60 rows of sample:digits" in said.err, "progress goes to stderr"
    table = RunFolder("runs/mine").load_scores()
    assert table.example_id.size == 60 and table.seeds == (0,) and set(table.columns) == {"el2n", "margin"}
    made = json.loads(Path("runs/mine/report.json").read_text())
    assert made["provenance"]["command"] == "hf-datadiet score toy.yaml --limit 60 --out runs/mine score.seeds=1 task.training.epochs=1"
    assert sorted(path.name for path in here.iterdir()) == ["runs", "toy.yaml"]


def test_what_is_done_is_not_trained_again(run: Path, copy: Path, call: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    before = RunFolder(copy).load_scores()
    with monkeypatch.context() as patch:
        patch.setattr("hf_datadiet.score.score_seed", lambda *_: pytest.fail("trained again"))
        said = call("score", run.parent / "toy.yaml", "--limit", "60", "--out", copy)
        assert said.code == 0 and RunFolder(copy).load_scores().digest == before.digest
        with pytest.raises(pytest.fail.Exception, match="trained again"):
            call("score", run.parent / "toy.yaml", "--limit", "60", "--out", copy, "score.seeds=3")
    said = call("score", run.parent / "toy.yaml", "--limit", "60", "--out", copy, "score.seeds=3")
    after = RunFolder(copy).load_scores()
    assert said.code == 0 and after.seeds == (0, 1, 2)
    old, new = before.columns["el2n"].per_seed, after.columns["el2n"].per_seed
    assert old is not None and new is not None and (old == new[:2]).all(), "more seeds are added to those there are"


def test_another_recipe_in_the_same_folder_is_refused(run: Path, call: Callable[..., Said]) -> None:
    before = everything(run)
    said = call("score", run.parent / "toy.yaml", "--limit", "50", "--out", run, "task.crop=1")
    assert said.code == 2 and said.err.count("\n") == 1
    assert "holds another run (source.limit: 60 there, 50 asked; task.crop: None there, 1 asked)" in said.err
    assert everything(run) == before


def test_the_recipe_of_the_package_is_found_from_anywhere(here: Path, call: Callable[..., Said]) -> None:
    for name in ("digits.yaml", "recipes/digits.yaml"):
        said = call("score", name, "source.limit=0")
        assert "source.limit" in said.err, "it was read"
    assert "cannot read recipe elsewhere/digits.yaml" in call("score", "elsewhere/digits.yaml").err


def test_dry_run_writes_nothing(here: Path, call: Callable[..., Said]) -> None:
    said = call("run", "toy.yaml", "--limit", "60", "--dry-run")
    assert said.code == 0
    assert "60 scored, 359 held out, of sample:digits (1797 rows)" in said.out
    assert "2 seeds (0 done) x 1 epochs = 4 steps" in said.out
    assert "1 seeds x 4 arms (full 60, keep-50 30, random-30 30, stratified-30 30) = 5 steps" in said.out
    assert "nothing was written" in said.out
    said = call("score", "toy.yaml", "--limit", "60", "--dry-run", "--out", "elsewhere")
    assert said.code == 0 and "evaluate" not in said.out
    assert [path.name for path in here.iterdir()] == ["toy.yaml"]


def test_ctrl_c_is_one_line_and_130(here: Path, call: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hf_datadiet.score.score_seed", interrupted)
    said = call("score", "toy.yaml", "--limit", "60")
    assert said.code == 130 and said.out == ""
    assert said.err.splitlines()[-1] == "hf-datadiet: interrupted; the same command goes on where it stopped"
    assert "Traceback" not in said.err and not RunFolder("runs/toy").has_seed(0)
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert call("score", "toy.yaml", "--limit", "60", "score.seeds=1").code == 0, "as the line says"


# Pruning and after


@pytest.mark.parametrize("form", ["parquet", "disk"])
def test_prune_writes_the_dataset(form: str, copy: Path, call: Callable[..., Said]) -> None:
    said = call("prune", copy, "--name", "keep-20", "--score", "el2n", "--keep", "20", "--write", form, "--prefix", "diet_")
    assert said.code == 0
    target = copy / "selections" / "keep-20"
    assert said.out.splitlines() == [
        f"20 rows kept, 40 dropped: {target / 'selection.parquet'}",
        f"pruned dataset: {target / 'dataset'}",
        f"next: hf-datadiet evaluate {copy}",
    ]
    kept = RunFolder(copy).load_selection("keep-20")
    written: Any = load_dataset(str(target / "dataset")) if form == "parquet" else load_from_disk(str(target / "dataset"))
    assert {name: len(split) for name, split in written.items()} == {"train": 20, "test": 359}
    assert written["train"]["example_id"] == kept.kept.tolist()
    assert set(written["train"].column_names) == {
        "image",
        "label",
        "example_id",
        "diet_el2n",
        "diet_el2n_se",
        "diet_margin",
        "diet_margin_se",
    }
    table = RunFolder(copy).load_scores()
    value = dict(zip(table.example_id.tolist(), table.columns["el2n"].mean.tolist(), strict=True))
    assert written["train"]["diet_el2n"] == [value[row] for row in kept.kept.tolist()]
    assert set(written["test"]["diet_el2n"]) == {None} and not set(written["test"]["example_id"]) & set(table.example_id.tolist())


def test_a_split_called_test_is_not_written_over(tmp_path: Path, call: Callable[..., Said]) -> None:
    """The rows that stay and the rows held out of the same split both have their place."""
    DatasetDict({"test": pictures(40)}).save_to_disk(str(tmp_path / "toys"))
    recipe = {**RECIPE, "source": {"path": str(tmp_path / "toys"), "split": "test", "test": {"fraction": 0.2}}, "score": {"seeds": 1}}
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(recipe))
    assert call("score", tmp_path / "toy.yaml", "--out", tmp_path / "run").code == 0
    assert call("prune", tmp_path / "run", "--name", "a", "--score", "el2n", "--keep", "10", "--write", "parquet").code == 0
    written = load_dataset(str(tmp_path / "run" / "selections" / "a" / "dataset"))
    assert {name: len(split) for name, split in written.items()} == {"test": 10, "held_out": 8}


QUOTAS = "{'0': 6, '1': 3, '2': 1, '3': 1, '4': 1, '5': 0, '6': 0, '7': 0, '8': 0, '9': 0}"
RECALLS = "{'0': 0.4, '1': 0.7, '2': 0.9, '3': 0.9, '4': 0.9, '5': 1, '6': 1, '7': 1, '8': 1, '9': 1}"
"""The same shares."""


def test_prune_by_every_kind_of_budget(copy: Path, call: Callable[..., Said]) -> None:
    for name, words, kept in [
        ("half", ["--score", "el2n", "--keep", "0.5"], 30),
        ("all", ["--score", "el2n", "--keep", "1.0"], 60),
        ("one", ["--score", "el2n", "--keep", "1"], 1),
        ("threshold", ["--keep", "{score: el2n, above: -1}"], 60),
        ("drawn", ["--strategy", "random", "--keep", "12", "--tie-seed", "4", "--quotas", "proportional"], 12),
        ("window", ["--score", "margin", "--strategy", "window", "--set", "skip=0.1", "--keep", "12"], 12),
        ("covered", ["--score", "el2n", "--strategy", "coverage", "--set", "cut=0.1", "--set", "cut_by=margin", "--keep", "12"], 12),
        ("both", ["--score", "el2n", "--score", "margin", "--keep", "12", "--mix", "0.25"], 12),
        ("weighed", ["--score", "el2n", "--keep", "12", "--quotas", QUOTAS], 12),
        ("by-recall", ["--score", "el2n", "--keep", "12", "--quotas", f"{{recall: {RECALLS}}}"], 12),
    ]:
        said = call("prune", copy, "--name", name, *words)
        assert said.code == 0 and said.out.startswith(f"{kept} rows kept, {60 - kept} dropped"), name
    folder = RunFolder(copy)
    assert folder.selections() == ["all", "both", "by-recall", "covered", "drawn", "half", "one", "threshold", "weighed", "window"]
    both = folder.load_selection("both")
    assert both.score == "mean rank of el2n and margin"
    assert both.parameters["scores"] == ["el2n", "margin"] and both.parameters["mix"] == 0.25
    seats = folder.load_selection("weighed").quotas
    assert seats is not None and (seats["0"], seats["1"], seats["9"]) == (6, 3, 0)
    seats = folder.load_selection("by-recall").quotas
    assert seats is not None and (seats["0"], seats["1"], seats["9"]) == (6, 3, 0)
    assert folder.load_selection("window").parameters["skip"] == 0.1 and folder.load_selection("drawn").tie_seed == 4
    said = call("prune", copy, "--name", "half", "--score", "el2n", "--keep", "0.4")
    assert said.code == 2 and "has another selection named 'half'; choose another name" in said.err
    assert call("prune", copy, "--name", "half", "--score", "el2n", "--keep", "0.5").code == 0, "the same again is no mistake"


def largest_logit(logits: torch.Tensor) -> torch.Tensor:
    return logits.max(1).values


PLUGIN = BatchScore(largest_logit, "easier")


@pytest.mark.parametrize("variable", ["RANK", "LOCAL_RANK"])
def test_under_a_launcher_one_process_says_it(
    variable: str, here: Path, call: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = call("score", "none.yaml")
    ended_after: list[float] = []

    def ended(seconds: float) -> None:
        ended_after.append(seconds)
        raise SystemExit(-15)  # the launcher ends a process that waits, once the first one has ended

    with monkeypatch.context() as patch:
        patch.setattr("time.sleep", ended)
        said = []
        for rank in range(3):
            patch.setenv(variable, str(rank))
            said.append(call("score", "none.yaml"))
    assert said == [alone, Said(-15, "", ""), Said(-15, "", "")] and alone.err.count("\n") == 1
    assert ended_after == [ending.PRECEDENCE] * 2


def test_a_process_that_waits_for_one_that_is_no_more(here: Path, call: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    def waiting(*given: Any, **named: Any) -> None:
        raise RuntimeError("[/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:12201. GLHF!")

    monkeypatch.setattr(ending, "PRECEDENCE", 0.0)
    monkeypatch.setattr(cli, "load_recipe", waiting)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    (here / "mine.yaml").write_text("source: {sample: digits}")
    with pytest.raises(RuntimeError, match="Connection closed by peer"):
        call("score", "mine.yaml")  # alone, it cannot be that
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = call("score", "mine.yaml")
    assert said == Said(1, "", "hf-datadiet: another process of this launch has ended; the same command goes on from what is finished\n")


def test_a_mistake_that_one_process_makes_alone_is_said(here: Path, call: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    alone = call("score", "none.yaml")
    monkeypatch.setattr(ending, "PRECEDENCE", 0.0)
    monkeypatch.setenv("RANK", "1")
    assert call("score", "none.yaml") == alone, "nobody has ended it: the others have not made this mistake"
    assert call("list", "scorers").out == "", "stdout is the first one's"


def test_scores_and_strategies_from_outside_are_admitted_on_request(here: Path, call: Callable[..., Said]) -> None:
    words: list[object] = ["score", "toy.yaml", "--limit", "40", "--out", "run", "score.seeds=1", "score.scores=[tests.test_cli:PLUGIN]"]
    refused = call(*words)
    assert refused.code == 2 and "--allow-plugins" in refused.err and not Path("run").exists()
    assert call(*words, "--allow-plugins").code == 0
    name = "largest_logit"
    words = ["prune", "run", "--name", "mine", "--keep", "5", "--score", name]
    words += ["--strategy", "tests.test_selection:From", "--set", "start=2"]
    refused = call(*words, "--write", "parquet")
    assert refused.code == 2 and "--allow-plugins" in refused.err and not Path("run/selections").exists()
    said = call(*words, "--write", "parquet", "--allow-plugins")
    assert said.code == 0 and said.out.startswith("5 rows kept")
    assert name in load_dataset("run/selections/mine/dataset")["train"].column_names


def test_evaluate_and_report(copy: Path, call: Callable[..., Said]) -> None:
    said = call("evaluate", copy)
    assert said.code == 2 and "has no selection to evaluate; run hf-datadiet prune first" in said.err
    call("prune", copy, "--name", "keep-30", "--score", "el2n", "--keep", "30")
    said = call("evaluate", copy, "evaluate.seeds=1", "evaluate.name=second")
    assert said.code == 0
    for arm in ("full", "keep-30", "random-30", "stratified-30"):
        assert f"\n| {arm} " in said.out
    assert "| keep-30 - full " in said.out and f"report  {copy / 'report.md'}" in said.out
    judged = RunFolder(copy).load_evaluation("second")
    assert len(judged.results) == 4 and judged.test_id.size == 359 and {result.seed for result in judged.results} == {10_000}
    assert pq.read_table(copy / "evaluations" / "second" / "predictions.parquet").num_rows == 4 * 359

    expected = (copy / "report.md").read_text()
    (copy / "report.md").unlink()
    again = call("report", copy)
    assert again.code == 0 and again.out == said.out and (copy / "report.md").read_text() == expected
    assert (copy / "recipe.yaml").exists() and RunFolder(copy).selections() == ["keep-30"]


def test_run_is_all_of_it(here: Path, call: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    said = call("run", "toy.yaml", "--limit", "40", "score.seeds=1")
    assert said.code == 0 and "| keep-50 - random-20 " in said.out
    folder = RunFolder("runs/toy")
    assert folder.selections() == ["keep-50"] and folder.evaluations() == ["main"] and folder.load_selection("keep-50").kept.size == 20
    monkeypatch.setattr("hf_datadiet.score.score_seed", lambda *_: pytest.fail("scored again"))
    monkeypatch.setattr("hf_datadiet.evaluate.retrain", lambda *_, **__: pytest.fail("trained again"))
    again = call("run", "toy.yaml", "--limit", "40", "score.seeds=1")
    assert again.code == 0 and again.out == said.out


# What is recorded


@pytest.mark.parametrize(
    ("word", "recorded"),
    [
        ("/home/me/x.yaml", "x.yaml"),
        ("--out=/home/me/runs/a", "--out=a"),
        ("source.path=/home/me/data set", "'source.path=data set'"),
        ("source={path: /home/me/data, split: a/b}", "'source={path: data, split: a/b}'"),
        ("source={path: '/home/me/data'}", """'source={path: '"'"'data'"'"'}'"""),
        ("source.path=data/toys", "source.path=data/toys"),
        ("a.b=[1, 2]", "'a.b=[1, 2]'"),
        ("score.scores=[pkg.mod:NAME]", "'score.scores=[pkg.mod:NAME]'"),
    ],
)
def test_the_recorded_command_has_no_absolute_path(word: str, recorded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/hf-datadiet", "score", word])
    assert typed.command() == f"hf-datadiet score {recorded}"
    assert shlex.split(typed.command())[:2] == ["hf-datadiet", "score"] and len(shlex.split(typed.command())) == 3


def test_no_record_holds_an_absolute_path(tmp_path: Path, call: Callable[..., Said]) -> None:
    pictures(40).to_parquet(str(tmp_path / "toys.parquet"))
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump({**RECIPE, "source": {"test": {"fraction": 0.2}}}))
    words = ["run", tmp_path / "toy.yaml", f"source.path={tmp_path / 'toys.parquet'}", f"--out={tmp_path / 'run'}", "score.seeds=1"]
    assert call(*words).code == 0
    assert call("prune", tmp_path / "run", "--name", "b", "--score", "el2n", "--keep", "9", "--write", "parquet").code == 0
    for name, content in everything(tmp_path / "run").items():
        if name != "recipe.yaml":  # says where the data lies, and is not published
            assert str(tmp_path).encode() not in content, name
    command = RunFolder(tmp_path / "run").load_scores().provenance.command
    assert command == "hf-datadiet run toy.yaml source.path=toys.parquet --out=run score.seeds=1"
