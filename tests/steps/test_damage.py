"""Every file of a finished run damaged in turn: it is named, and made anew or refused; no number is ever another one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Dataset

from hf_datadiet import evaluate, score
from tests.steps.test_bad_rows import broken

Call = Callable[..., tuple[Any, str, str]]
N = 40

IMAGES: dict[str, Any] = {
    "source": {"path": "rows.parquet", "test": {"fraction": 0.2}, "label_noise": {"fraction": 0.2}, "on_bad_row": "skip"},
    "task": {"model": "timm:test_resnet", "training": {"epochs": 1, "batch_size": 16}},
    "score": {"scores": ["el2n", "forgetting"], "seeds": 2},
    "prune": [{"name": "keep-50", "score": "el2n", "keep": 0.5}],
    "evaluate": {"seeds": 1, "keep_weights": True},
}
TEXTS: dict[str, Any] = {
    "source": {"path": "rows.parquet", "test": {"fraction": 0.2}},
    "task": {
        "kind": "text",
        "model": "transformers:bert",
        "model_args": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8},
        "max_length": 8,
        "vocab_size": 300,
        "training": {"epochs": 1, "batch_size": 16, "optimizer": {"name": "AdamW"}},
    },
    "score": {"scores": ["el2n"], "seeds": 1},
    "prune": [{"name": "keep-50", "score": "el2n", "keep": 0.5}],
    "evaluate": {"seeds": 1},
}


def texts() -> Dataset:
    return Dataset.from_dict({"text": [f"{'a cat ' * (k % 4)}number {k}" for k in range(N)], "label": [k % 2 for k in range(N)]})


@pytest.fixture(scope="module", params=["images", "texts"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows, a recipe and the finished `run`."""
    where = tmp_path_factory.mktemp(request.param)
    rows, recipe = (broken(N, {7: None}), IMAGES) if request.param == "images" else (texts(), TEXTS)
    rows.to_parquet(where / "rows.parquet")
    (where / "mine.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(where)
        patch.setattr("sys.argv", ["hf-datadiet", *RUN])
        from hf_datadiet import cli

        cli.main()
    return where


RUN = ["run", "mine.yaml", "--out", "run"]
VERBS: dict[str, list[str]] = {
    "run": RUN,
    "evaluate": ["evaluate", "run"],
    "report": ["report", "run"],
    "status": ["status", "run"],
    "prune": ["prune", "run", "--name", "keep-50", "--score", "el2n", "--keep", "0.5"],
}
TABLES = ("scores", "seeds", "label_noise", "skipped", "selections/keep-50/selection", "evaluations/main/predictions")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x01
    path.write_bytes(bytes(content))


def gone(path: Path) -> None:
    path.unlink()


DAMAGES = [cut, empty, flip, gone]


def files(run: Path) -> list[Path]:
    """All but what was put aside."""
    return sorted(path.relative_to(run) for path in run.rglob("*") if path.is_file() and ".tmp" not in str(path.relative_to(run)))


def numbers(run: Path, but: Path | None = None) -> dict[str, Any]:
    """Everything that a run says but how long it took, from its tables and its report, except from one of them."""
    names = [name for table in TABLES if (name := Path(f"{table}.parquet")) != but and (run / name).exists()]
    found = {str(name): {column: repr(values) for column, values in pq.read_table(run / name).to_pydict().items()} for name in names}
    return found | ({} if but == Path("report.json") else {"report": timeless(json.loads((run / "report.json").read_text()))})


def timeless(value: Any) -> Any:
    """Plain values without times, durations and the list of files among them."""
    if isinstance(value, dict):
        plain = {key: timeless(inner) for key, inner in value.items() if key not in ("provenance", "costs", "files")}
        return {key: inner for key, inner in plain.items() if "second" not in key and "speed" not in key}
    return [timeless(inner) for inner in value] if isinstance(value, list) else value


def unit_of(name: Path) -> Any:
    """The seed or the (arm, seed) that a file belongs to, or None."""
    if name.parts[0] == "seeds":
        return int(name.parts[1])
    arm, _, seed = name.stem.rpartition("-")
    return (arm, int(seed)) if {"arms", "weights"} & set(name.parts) else None


class Case:
    """A copy of a finished run, of which one file is damaged, and what a verb then does."""

    def __init__(self, finished: Path, here: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
        shutil.copytree(finished, here)
        monkeypatch.chdir(here)
        self.finished, self.run, self.call = finished / "run", here / "run", call
        self.trained: list[Any] = []
        seed, arm = score.score_seed, evaluate.retrain

        def counted_seed(*given: Any, **named: Any) -> Any:
            self.trained.append(given[3])
            return seed(*given, **named)

        def counted_arm(*given: Any, **named: Any) -> Any:
            self.trained.append((named["arm"], named["seed"]))
            return arm(*given, **named)

        monkeypatch.setattr(score, "score_seed", counted_seed)
        monkeypatch.setattr(evaluate, "retrain", counted_arm)

    def check(self, name: Path, damage: Callable[[Path], None], verb: str) -> bool:
        """Damage one file and look at what the verb makes of it; whether the verb refused."""
        where = f"{verb} after {name} was damaged: {damage.__name__}"
        shutil.rmtree(self.run)
        shutil.copytree(self.finished, self.run)
        damage(self.run / name)
        self.trained.clear()
        code, _, err = self.call(*VERBS[verb])
        last = err.splitlines()[-1] if err else ""
        if code == 2:
            # A file that is gone may be spoken of by its content: "no scores", "no selection".
            assert str(name) in last or str(name.parent / "done.json") in last or (damage is gone and name.stem in last), f"{where}: {last}"
            assert last.startswith("hf-datadiet: ") and "; " in last, where
            return True
        assert code == 0, f"{where}: {err}"
        unit = unit_of(name)
        if verb == "run" or (verb == "evaluate" and "evaluations" in name.parts):
            assert self.trained == ([] if unit is None else [unit]), f"{where}: only what was damaged is trained again"
        else:
            assert self.trained == [], where
        if self.trained and name.name != "done.json" and damage is not gone:
            assert f"run/{name} " in err and "made anew" in err, f"{where}: {err}"
        but = None if verb == "run" else name
        assert numbers(self.run, but) == numbers(self.finished, but), where
        assert verb != "run" or files(self.run) == files(self.finished) or name.parts[0] == "cache", where
        return False


@pytest.fixture
def case(finished: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> Case:
    return Case(finished, tmp_path / "copy", call, monkeypatch)


def distinct(run: Path) -> list[Path]:
    """The files of a run, one of each kind."""
    kinds: dict[Any, Path] = {}
    for name in files(run):
        kind = (name.parts[0], "".join(letter for letter in name.name if not letter.isdigit()))
        alike = "arm" if "arms" in name.parts else "picture" if name.parts[0] == "pictures" else None
        kinds.setdefault((alike,) if alike else kind, name)
    return list(kinds.values())


def pictures(run: Path) -> list[Path]:
    """Written by no other hand, in no other way, than the first of them."""
    return [name for name in files(run) if name.parts[0] == "pictures"]


def test_each_file_cut_off(case: Case) -> None:
    for name in distinct(case.finished):
        if name.parts[0] != "cache" and "text" in case.run.joinpath("recipe.yaml").read_text():
            continue  # of a run of texts only the tokens are another matter
        refused = {verb for verb in ("run", "report", "status") if case.check(name, cut, verb)}
        assert "run" not in refused or name.name in ("run.json", "start.json", "skipped.parquet"), name


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_each_file_damaged_in_each_way(case: Case, verb: str) -> None:
    alike = pictures(case.finished)[1:]
    refused = {name.name for name in files(case.finished) for damage in DAMAGES if name not in alike and case.check(name, damage, verb)}
    assert verb != "run" or refused <= {"run.json", "start.json", "skipped.parquet"}, "the rest is made anew"


@pytest.mark.slow
def test_two_launches_at_once(finished: Path, tmp_path: Path) -> None:
    """On one folder that neither finds there: both end well, and the scores are those of one launch alone."""
    for name in ("rows.parquet", "mine.yaml"):
        shutil.copy(finished / name, tmp_path / name)
    words = [sys.executable, "-m", "hf_datadiet", "score", "mine.yaml", "--out", "run"]
    launches = [subprocess.Popen(words, cwd=tmp_path, stdout=-1, stderr=-1, text=True, env=dict(os.environ)) for _ in range(2)]
    said = [launch.communicate(timeout=300) for launch in launches]
    assert [launch.returncode for launch in launches] == [0, 0], said
    for name in ("scores.parquet", "seeds.parquet"):
        assert pq.read_table(tmp_path / "run" / name).equals(pq.read_table(finished / "run" / name))
    assert not [path for path in (tmp_path / "run").rglob("*") if ".tmp" in path.name]
