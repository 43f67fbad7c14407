"""Every file of a finished run damaged in turn: it is named, and made anew or refused; no number is ever another one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
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
    "evaluate": {"seeds": 1},
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


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x01
    path.write_bytes(bytes(content))


DAMAGES: list[Callable[[Path], None]] = [cut, empty, flip, Path.unlink]


def files(run: Path) -> list[Path]:
    return sorted(path.relative_to(run) for path in run.rglob("*") if path.is_file())


def numbers(run: Path) -> dict[str, Any]:
    """Everything that a run says, without the times and the seconds it took."""
    found: dict[str, Any] = {}
    for name in ("scores", "seeds", "label_noise", "skipped", "selections/keep-50/selection", "evaluations/main/predictions"):
        path = run / f"{name}.parquet"
        if path.exists():
            found[name] = {column: repr(values) for column, values in pq.read_table(path).to_pydict().items()}
    report = json.loads((run / "report.json").read_text())
    return (
        found
        | {key: report[key] for key in ("source", "task", "scores", "correlations", "selections", "warnings")}
        | {"verdicts": [{key: value for key, value in each.items() if "second" not in key} for each in report["evaluations"]]}
    )


class Case:
    """One damaged file of a copy of the run, and what each verb says of it."""

    def __init__(self, finished: Path, here: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
        shutil.copytree(finished, here, dirs_exist_ok=True)
        monkeypatch.chdir(here)
        self.finished, self.here, self.call = finished, here, call
        self.trained: list[Any] = []
        self.said = ""
        seed, arm = score.score_seed, evaluate.retrain
        monkeypatch.setattr(score, "score_seed", lambda *given: self.trained.append(given[3]) or seed(*given))
        monkeypatch.setattr(
            evaluate, "retrain", lambda *given, **named: self.trained.append((named["arm"], named["seed"])) or arm(*given, **named)
        )

    def damage(self, name: Path, damage: Callable[[Path], None]) -> None:
        shutil.rmtree(self.here / "run")
        shutil.copytree(self.finished / "run", self.here / "run")
        damage(self.here / "run" / name)
        self.trained.clear()

    def try_verb(self, verb: str, name: Path) -> str:
        """Run a verb; the outcome must be allowed. `refused`, or `fine`."""
        code, _, err = self.call(*VERBS[verb])
        self.said = "//".join(line for line in err.splitlines() if "anew" in line or "hf-datadiet:" in line)
        lines = [line for line in err.splitlines() if "made anew" in line]
        if code == 2:
            last = err.splitlines()[-1]
            named = str(name) in last or str(name.parent) in last or name.name in last
            assert last.startswith("hf-datadiet: ") and named and "; " in last, last
            return "refused"
        assert code == 0, err
        unit = unit_of(name)
        if verb in ("run", "evaluate"):
            assert self.trained == ([unit] if unit is not None else []), "only what is damaged is trained again"
            assert unit is None or any(str(name) in line or str(name.parent) in line for line in lines) or not lines
        assert numbers(self.here / "run") == numbers(self.finished / "run") or name.name == "report.json"
        return "fine"


def unit_of(name: Path) -> Any:
    """The seed or the (arm, seed) that a file belongs to."""
    if name.parts[0] == "seeds":
        return int(name.parts[1])
    if "arms" in name.parts:
        arm, _, seed = name.stem.rpartition("-")
        return arm, int(seed)
    return None


@pytest.fixture
def case(finished: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> Case:
    return Case(finished, tmp_path / "copy", call, monkeypatch)


def test_show(case: Case) -> None:
    for name in files(case.finished / "run"):
        for damage in DAMAGES:
            for verb in VERBS:
                case.damage(name, damage)
                try:
                    said = case.try_verb(verb, name)
                except BaseException as error:
                    said = f"BAD {type(error).__name__} {str(error)[:300]}"
                open("/tmp/store/table.txt", "a").write(f"{verb} {damage.__name__} {name} {said} {case.trained} || {case.said}\n")
