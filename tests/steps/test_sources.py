"""From a source to every table: own ids, and datasets with splits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from datasets import DatasetDict

from hf_datadiet import evaluate_selections, prune_dataset, score_dataset
from hf_datadiet.errors import SourceError, StaleRecordError
from hf_datadiet.hub.columns import with_scores
from hf_datadiet.recipe_yaml import recipe_from
from hf_datadiet.store import RunFolder
from hf_datadiet.training.session import open_session
from tests.synthetic import pictures

QUICK: dict[str, Any] = {"model": "timm:test_resnet", "seeds": 1, "epochs": 1, "progress": False}
RECIPE: dict[str, Any] = {
    "source": {"path": "toys.parquet", "test": {"fraction": 0.25}},
    "task": {"kind": "image", "model": "timm:test_resnet", "training": {"epochs": 1, "batch_size": 8}},
    "score": {"scores": ["el2n"], "seeds": 2},
    "prune": [{"name": "keep-5", "score": "el2n", "keep": 5}],
    "evaluate": {"seeds": 1},
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pictures(24, uid=[f"img-{97 * row % 24}" for row in range(24)]).to_parquet("toys.parquet")
    Path("toy.yaml").write_text(yaml.safe_dump(RECIPE))
    return tmp_path


@pytest.mark.parametrize("kind", ["string", "int64"])
def test_own_ids_stand_in_every_table(kind: str, here: Path, call: Callable[..., tuple[Any, str, str]]) -> None:
    own: list[Any] = [f"img-{97 * row % 24}" if kind == "string" else 1000 - row for row in range(24)]
    pictures(24, uid=own).to_parquet("toys.parquet")
    assert call("run", "toy.yaml", "source.id_column=uid", "source.label_noise.fraction=0.2")[0] == 0
    folder = RunFolder("runs/toy")
    tables = ["scores", "seeds", "label_noise", "selections/keep-5/selection", "evaluations/main/predictions"]
    for name in tables:
        table = pq.read_table(folder.path / f"{name}.parquet")
        ids = table["test_id" if "predictions" in name else "example_id"].to_pylist()
        assert table.num_rows and table["source_id"].to_pylist() == [own[row] for row in ids], name
    table, selection, judged = folder.load_scores(), folder.load_selection("keep-5"), folder.load_evaluation("main")
    ids = np.sort(np.concatenate([selection.kept, selection.dropped]))
    for found, rows in ((table.source_id, table.example_id), (selection.source_id, ids), (judged.test_source_id, judged.test_id)):
        assert found is not None and found.tolist() == [own[row] for row in rows]


def test_other_ids_are_another_dataset(here: Path) -> None:
    dataset = pictures(12, uid=[f"u{row}" for row in range(12)])
    table = score_dataset(dataset, **QUICK, options={"source.id_column": "uid"})
    assert table.source_id is not None and table.source_id.tolist() == dataset["uid"]
    lean, selection = prune_dataset(dataset, table, score="el2n", keep=4)
    assert selection.source_id is not None and [selection.source_id[row] for row in selection.kept] == lean["uid"]
    renamed = dataset.remove_columns("uid").add_column("uid", [f"v{row}" for row in range(12)])
    with pytest.raises(StaleRecordError):
        with_scores(renamed, table)


def test_a_dataset_with_splits(here: Path) -> None:
    both = DatasetDict(train=pictures(12), dev=pictures(9, seed=1), test=pictures(6, seed=2))
    table = score_dataset(both, **QUICK)
    assert table.source.split == "train" and table.digest == score_dataset(both["train"], **QUICK).digest
    assert score_dataset(both, **QUICK, options={"source.split": "dev"}).example_id.size == 9
    with pytest.raises(SourceError, match="source has no split 'valid'; it has: train, dev, test"):
        score_dataset(both, **QUICK, options={"source.split": "valid"})
    _, selection = prune_dataset(both["train"], table, score="el2n", keep=6)
    for test, rows in (("dev", 9), ("test", 6), (both["dev"], 9)):
        judged = evaluate_selections(both, [selection], **QUICK, test=test)
        assert judged.test_id.size == rows
    assert evaluate_selections(both, [selection], **QUICK).test_id.size == 6
    with pytest.raises(SourceError, match=r"source.test.split 'final' is no other split; there are: dev, test"):
        evaluate_selections(both, [selection], **QUICK, test="final")


def test_a_held_out_split_that_changed_is_noticed(here: Path, call: Callable[..., tuple[Any, str, str]]) -> None:
    first = DatasetDict(train=pictures(24), test=pictures(9, seed=1))
    first.save_to_disk("first")
    DatasetDict(train=first["train"], test=pictures(9, seed=2)).save_to_disk("second")
    words = ["source.test.fraction=null", "source.test.split=test", "--out", "run"]
    assert call("score", "toy.yaml", "source.path=first", *words)[0] == 0
    assert call("prune", "run", "--name", "a", "--score", "el2n", "--keep", "5")[0] == 0
    for command in (["score", "toy.yaml", *words, "source.path=second"], ["evaluate", "run", "source.path=second"]):
        code, out, err = call(*command)
        assert code == 2 and out == "" and err.count("\n") == 1 and "run holds another run (test_digest: sha256:" in err


def test_what_was_decoded_is_found_by_the_content_of_its_split(here: Path) -> None:
    """Without the check above: another held-out split of the same size is decoded anew, an equal one is not."""
    recipe = recipe_from({**RECIPE, "source": {"test": {"split": "test"}}})
    train, folder = pictures(12), RunFolder(here / "run")

    def held_out(seed: int) -> torch.Tensor:
        session = open_session(recipe, folder, command="test", dataset=train, test=pictures(6, seed=seed), claim=False)
        return session.test_feed(session.train_feed()).prepared

    def decoded() -> int:
        return len(list((here / "run" / "cache").glob("images-*")))

    first = held_out(1)
    assert decoded() == 2 and torch.equal(first, held_out(1)) and decoded() == 2
    assert not torch.equal(first, held_out(2)) and decoded() == 3
