"""SCORE end to end: interrupted anywhere and resumed, extended, refused."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from hf_datadiet import score
from hf_datadiet.errors import DivergedError, StaleRecordError
from hf_datadiet.recipe import Recipe
from hf_datadiet.recipe_yaml import recipe_from, with_overrides
from hf_datadiet.records import ScoreTable
from hf_datadiet.reporting import report_run
from hf_datadiet.store import RunFolder
from hf_datadiet.training import seeds as seeds_module
from hf_datadiet.training.session import open_session
from tests.steps.death import dying_at_rename
from tests.synthetic import pictures

VALUES: Mapping[str, Any] = {
    "source": {"sample": "digits", "limit": 80, "test": {"fraction": 0.02}},
    "task": {"model": "timm:test_resnet", "crop": 1, "training": {"epochs": 1, "batch_size": 16}},
    "score": {"scores": ["el2n", "forgetting"], "seeds": 2},
}


def recipe(**overrides: Any) -> Recipe:
    return recipe_from(with_overrides(VALUES, {key.replace("__", "."): value for key, value in overrides.items()}))


def run(folder: Path, **overrides: Any) -> ScoreTable:
    return score.score_run(open_session(recipe(**overrides), RunFolder(folder), command="test"), progress=False)


def columns(folder: Path, name: str = "scores.parquet") -> dict[str, bytes]:
    """Every column of the file, bit for bit."""
    table = pq.read_table(folder / name)
    return {column: np.asarray(table[column].combine_chunks().drop_null()).tobytes() for column in table.column_names}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds that are trained from now on."""
    seen: list[int] = []
    original = score.score_seed

    def counting(session: Any, feed: Any, plan: Any, seed: int, *rest: Any) -> Any:
        seen.append(seed)
        return original(session, feed, plan, seed, *rest)

    monkeypatch.setattr(score, "score_seed", counting)
    return seen


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(folder)
    return folder


def test_files_of_a_finished_run(whole: Path) -> None:
    table = RunFolder(whole).load_scores()
    assert table.seeds == (0, 1) and len(table.example_id) == 80 and set(columns(whole)) >= {"el2n", "el2n_se", "forgetting"}
    assert sorted(path.name for path in (whole / "seeds").iterdir()) == ["000", "001"]
    assert pq.read_table(whole / "seeds.parquet").num_rows == 2 * 80
    assert not [path for path in whole.rglob("*") if ".tmp" in path.name]


def test_interrupted_in_the_second_seed(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = score.score_seed

    def breaking(session: Any, feed: Any, plan: Any, seed: int, unit: Any, on_epoch: Callable[..., None], on_resume: Any) -> Any:
        def stop(stats: Mapping[str, float]) -> None:
            raise KeyboardInterrupt

        return original(session, feed, plan, seed, unit, stop if seed == 1 else on_epoch, on_resume)

    with monkeypatch.context() as patch:
        patch.setattr(score, "score_seed", breaking)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run")
    assert RunFolder(tmp_path / "run").has_seed(0) and not (tmp_path / "run" / "scores.parquet").exists()
    seen: list[int] = []
    monkeypatch.setattr(score, "score_seed", lambda *given: seen.append(given[3]) or original(*given))
    run(tmp_path / "run")
    assert seen == [1]
    assert columns(tmp_path / "run") == columns(whole) and columns(tmp_path / "run", "seeds.parquet") == columns(whole, "seeds.parquet")


CHILD = """
import os, signal, sys
from pathlib import Path
from hf_datadiet import cli, score
from hf_datadiet.recipe_yaml import load_recipe
from hf_datadiet.store import RunFolder
from hf_datadiet.training.session import open_session

folder, where = Path(sys.argv[1]), sys.argv[2]
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
train, rename = score.score_seed, Path.rename
if where == "training":
    score.score_seed = lambda s, f, p, seed, unit, *rest: train(s, f, p, seed, unit, *([lambda stats: die()] if seed == 1 else rest))
else:
    Path.rename = lambda path, target: die() if target.name == "001" else rename(path, target)
score.score_run(open_session(load_recipe(folder / "recipe-asked.yaml"), RunFolder(folder / "run"), command="test"), progress=False)
"""


@pytest.mark.parametrize("where", ["training", "saving"])
def test_killed_in_the_second_seed(tmp_path: Path, whole: Path, where: str, trained: list[int]) -> None:
    (tmp_path / "recipe-asked.yaml").write_text(yaml.safe_dump(dict(VALUES)))
    ended = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path), where], env=dict(os.environ), capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    folder = RunFolder(tmp_path / "run")
    assert folder.has_seed(0) and not folder.has_seed(1)
    left = [path.name for path in (tmp_path / "run" / "seeds").iterdir() if path.name != "000"]
    assert bool(left) == (where == "saving")
    table = run(tmp_path / "run")
    assert trained == [1] and table.seeds == (0, 1)
    assert columns(tmp_path / "run") == columns(whole) and columns(tmp_path / "run", "seeds.parquet") == columns(whole, "seeds.parquet")


def test_dead_at_any_rename(tmp_path: Path, whole: Path) -> None:
    """Whatever file was about to get its name: the same command goes on and ends with the same bits."""
    for k in itertools.count():
        folder = tmp_path / f"run-{k}"
        with dying_at_rename(k) as death:
            run(folder)
        if not death:
            break
        assert run(folder).seeds == (0, 1), death
        assert columns(folder) == columns(whole), death
        shutil.rmtree(folder)
    # Decoded rows, source, run, recipe, plan, two seeds of at least three files, two tables.
    assert k >= 12


def test_more_seeds_extend_a_finished_run(tmp_path: Path, whole: Path, trained: list[int]) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    before = {path.name: path.read_bytes() for path in (folder / "seeds" / "000").iterdir()}
    assert run(folder).seeds == (0, 1) and trained == []
    extended = run(folder, score__seeds=3)
    assert trained == [2] and extended.seeds == (0, 1, 2)
    assert before == {path.name: path.read_bytes() for path in (folder / "seeds" / "000").iterdir()}
    run(tmp_path / "at-once", score__seeds=3)
    assert columns(folder) == columns(tmp_path / "at-once")
    assert columns(folder) != columns(whole)


@pytest.mark.parametrize(
    ("overrides", "difference"),
    [
        ({"task__training__epochs": 2}, r"task\.training\.epochs: 1 there, 2 asked"),
        ({"task__training__optimizer": {"lr": 0.05}}, r"task\.training\.optimizer\.lr: 0\.1 there, 0\.05 asked"),
        ({"score__scores": ["el2n"]}, r"score\.scores"),
        ({"source__limit": 81}, r"source\.limit: 80 there, 81 asked"),
        ({"source__label_noise": {"fraction": 0.1}}, r"source\.label_noise"),
    ],
)
def test_another_runs_folder_is_refused(whole: Path, overrides: dict[str, Any], difference: str, trained: list[int]) -> None:
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    with pytest.raises(StaleRecordError, match=rf"holds another run \(.*{difference}.*choose another --out"):
        run(whole, **overrides)
    assert trained == [] and before == {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}


def test_other_data_of_the_same_name_is_refused(tmp_path: Path) -> None:
    asked = recipe(source={}, task__training__batch_size=8)
    dataset = pictures(12)
    score.score_run(open_session(asked, RunFolder(tmp_path / "run"), command="test", dataset=dataset), progress=False)
    with pytest.raises(StaleRecordError, match="source_digest"):
        score.score_run(
            open_session(asked, RunFolder(tmp_path / "run"), command="test", dataset=dataset.select([1, 0, *range(2, 12)])), progress=False
        )


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("chapter 1")
    with pytest.raises(StaleRecordError, match="not empty and holds no run"):
        run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_damaged_seed_is_named_and_only_it_is_computed_anew(
    tmp_path: Path, whole: Path, trained: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    result = folder / "seeds" / "001" / "result.safetensors"
    content = bytearray(result.read_bytes())
    content[-1] ^= 1
    result.write_bytes(content)
    run(folder)
    assert capsys.readouterr().err == f"{result} is missing or damaged: it is made anew\n"
    assert trained == [1] and columns(folder) == columns(whole)


@pytest.fixture
def own_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def test_score_dataset_without_out_leaves_nothing(own_temporary: Path, tmp_path: Path) -> None:
    options = {"task.training.batch_size": 4}
    table = score.score_dataset(pictures(12), model="timm:test_resnet", seeds=2, epochs=1, options=options, progress=False)
    assert table.seeds == (0, 1) and np.isfinite(table.columns["el2n"].mean).all()
    assert list(own_temporary.iterdir()) == [] and [path.name for path in tmp_path.iterdir()] == ["temporary"]


def test_score_dataset_with_out_is_resumed(tmp_path: Path, trained: list[int]) -> None:
    def call(seeds: int) -> ScoreTable:
        return score.score_dataset(
            pictures(12),
            model="timm:test_resnet",
            seeds=seeds,
            epochs=1,
            out=tmp_path / "run",
            options={"task.training.batch_size": 4},
            progress=False,
        )

    first, second = call(1), call(2)
    assert trained == [0, 1]
    kept = second.columns["el2n"].per_seed
    assert kept is not None and np.array_equal(kept[0], first.columns["el2n"].mean)
    assert first.columns["el2n"].se is None and first.columns["el2n"].reliability is None


# A seed that diverges


def diverging(monkeypatch: pytest.MonkeyPatch, *seeds: int) -> None:
    """Those seeds end with outputs that are not finite."""
    original = seeds_module.observe

    def observe(model: Any, feed: Any, scorers: Any, seed: int, plan: Any, **named: Any) -> Any:
        if seed in seeds:
            with torch.no_grad():
                next(model.parameters()).fill_(float("nan"))
        return original(model, feed, scorers, seed, plan, **named)

    monkeypatch.setattr(seeds_module, "observe", observe)


def test_a_seed_that_diverges_does_not_stop_the_others(
    tmp_path: Path, whole: Path, trained: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        diverging(patch, 0)
        line = r"^seed 0: the training diverged.*lower task\.training\.optimizer\.lr, with another --out; scores.parquet has"
        with pytest.raises(DivergedError, match=line) as error:
            run(tmp_path / "run")
    assert str(error.value).endswith("scores.parquet has the other 1 of 2 seeds") and trained == [0, 1]
    table = RunFolder(tmp_path / "run").load_scores()
    alone = RunFolder(whole).load_scores().columns["el2n"].per_seed
    assert table.seeds == (1,) and alone is not None and np.array_equal(table.columns["el2n"].mean, alone[1])
    warnings = report_run(recipe(), RunFolder(tmp_path / "run")).warnings
    assert [(warning["kind"], warning["value"]) for warning in warnings] == [("missing seeds", 1)]
    # Another call trains that seed alone, and all of them make the table of an undisturbed run.
    trained.clear()
    run(tmp_path / "run")
    assert trained == [0] and columns(tmp_path / "run") == columns(whole)


def test_all_seeds_diverge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diverging(monkeypatch, 0, 1)
    with pytest.raises(DivergedError, match=r"every seed diverged; seed 0: the training diverged"):
        run(tmp_path / "run")
    assert not (tmp_path / "run" / "scores.parquet").exists() and not (tmp_path / "run" / "seeds").exists()
