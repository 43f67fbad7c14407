"""The verbs from Python and from the command line, chained."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from datasets import ClassLabel, Dataset, Features, Image

from hf_datadiet import add_scores, cli, evaluate_selections, prune_dataset, score_dataset
from hf_datadiet.hub.source import pin
from hf_datadiet.store import RunFolder
from hf_datadiet.training import session
from tests.steps.test_score import VALUES

# Three classes of pictures: dark, grey and bright. Two rows have no label.
N, UNLABELLED_ROWS = 33, [4, 20]
OPTIONS: dict[str, Any] = {"task.training.batch_size": 8, "task.crop": 1, "score.observe_at": [0], "task.training.optimizer.lr": 0.05}


def shades(n: int, seed: int, unlabelled: tuple[int, ...] = ()) -> Dataset:
    rng = np.random.default_rng(seed)
    label: list[int | None] = [int(row) % 3 for row in range(n)]
    pixels = [(rng.integers(0, 60, (8, 8)) + 90 * int(shade or 0)).astype(np.uint8) for shade in label]
    for row in unlabelled:
        label[row] = None
    features = Features({"picture": Image(), "shade": ClassLabel(names=["dark", "grey", "bright"])})
    return Dataset.from_dict({"picture": pixels, "shade": label}, features=features)


def test_the_public_functions_chained(tmp_path: Path) -> None:
    dataset, test = shades(N, 0, tuple(UNLABELLED_ROWS)), shades(12, 1)
    table = score_dataset(
        dataset, model="timm:test_resnet", scores=["el2n", "forgetting"], seeds=2, epochs=2, out=tmp_path, options=OPTIONS, progress=False
    )
    assert table.example_id.tolist() == list(range(N)) and table.source.columns == {"image": "picture", "label": "shade"}
    assert set(table.columns) == {"el2n_e0", "el2n", "forgetting", "forgetting_events", "never_learned"}

    scored = add_scores(dataset, table)
    assert scored.column_names[:2] == ["picture", "shade"] and scored.features["picture"] == Image()
    null = [row for row, value in enumerate(scored["el2n"]) if value is None]
    assert null == UNLABELLED_ROWS == [row for row, value in enumerate(scored["forgetting_se"]) if value is None]

    lean, selection = prune_dataset(dataset, table, score="el2n", strategy="hardest", keep=0.5)
    assert np.array_equal(prune_dataset(dataset, tmp_path, score="el2n", strategy="hardest", keep=0.5)[1].kept, selection.kept)
    assert len(lean) == selection.kept.size == 16  # half of the 31 rows with a label, rounded half up
    assert not set(selection.kept.tolist()) & set(UNLABELLED_ROWS)
    assert lean["shade"] == [dataset["shade"][row] for row in selection.kept.tolist()]
    el2n = table.columns["el2n"].mean
    dropped = [row for row in selection.dropped.tolist() if row not in UNLABELLED_ROWS]
    assert el2n[selection.kept].min() >= el2n[dropped].max()

    judged = evaluate_selections(
        dataset,
        [selection],
        test=test,
        model="timm:test_resnet",
        seeds=2,
        epochs=2,
        match="steps",
        options={key: value for key, value in OPTIONS.items() if not key.startswith("score.")},
        progress=False,
    )
    assert list(judged.arms) == ["full", "pruned", "random-16", "stratified-16"] and judged.match == "steps"
    assert judged.test_id.tolist() == list(range(12)) and judged.test_label.tolist() == test["shade"]
    assert {result.steps for result in judged.results} == {2 * 4} and {result.n_rows for result in judged.results} == {31, 16}
    for result in judged.results:
        assert result.metrics["accuracy"] == pytest.approx(float((result.predicted == judged.test_label).mean()))


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int | str | None:
    """The exit code of `hf-datadiet WORDS`."""
    monkeypatch.setattr(sys, "argv", ["hf-datadiet", *words])
    try:
        cli.main()
    except SystemExit as exit_:
        return exit_.code
    return 0


def test_the_command_line_chained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(yaml.safe_dump({**VALUES, "prune": [{"name": "keep-50", "score": "el2n", "keep": 0.5}]}))
    assert command(monkeypatch, "run", "small.yaml", "--dry-run") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]
    opened: list[object] = []
    monkeypatch.setattr(session, "pin", lambda *given: opened.append(given) or pin(*given))
    assert command(monkeypatch, "run", "small.yaml", "evaluate.seeds=2") == 0
    assert len(opened) == 1, "all verbs of a run work on one reading of the source"
    folder = RunFolder("runs/small")
    assert folder.selections() == ["keep-50"] and folder.evaluations() == ["main"]
    written = (folder.path / "report.md").read_text()
    assert "keep-50" in written and str(tmp_path) not in written
    assert command(monkeypatch, "report", "runs/small") == 0
    assert command(monkeypatch, "prune", "runs/small", "--name", "keep-20", "--keep", "16", "--score", "el2n", "--write", "parquet") == 0
    assert command(monkeypatch, "evaluate", "runs/small", "evaluate.seeds=2") == 0
    assert set(folder.load_evaluation("main").arms) >= {"keep-50", "keep-20"}
    capsys.readouterr()
    # A mistake is one line, and 2.
    assert command(monkeypatch, "run", "small.yaml", "task.training.epochs=2") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and "task.training.epochs: 1 there, 2 asked" in lines[0]
