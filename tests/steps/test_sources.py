"""From a source to every table: own ids, datasets with splits, and every wrong source as one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from datasets import Dataset, DatasetDict, concatenate_datasets

from hf_datadiet import cli, evaluate_selections, prune_dataset, score_dataset
from hf_datadiet.errors import SourceError, StaleRecordError
from hf_datadiet.hub.columns import with_scores
from hf_datadiet.recipe_yaml import recipe_from
from hf_datadiet.store import RunFolder
from hf_datadiet.training.session import open_session
from tests.hub.server import LoopbackHub
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


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[Any, str, str]]:
    def said(*words: str) -> tuple[Any, str, str]:
        monkeypatch.setattr("sys.argv", ["hf-datadiet", *words])
        capsys.readouterr()
        try:
            cli.main()
        except SystemExit as end:
            return end.code, *capsys.readouterr()
        return 0, *capsys.readouterr()

    return said


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


WRONG: dict[str, tuple[list[str], str]] = {
    "a path that does not exist": (["source.path=nowhere"], "source.path nowhere does not exist; pass source.path=FOLDER"),
    "a file of another kind": (["source.path=toy.yaml"], "source.path toy.yaml is no data file; give one of .parquet, .csv, .json, .jsonl"),
    "a file that cannot be read": (["source.path=broken.parquet"], "cannot read broken.parquet: "),
    "a dataset that is not cached, offline": (
        ["source.path=null", "source.repo=org/toys"],
        "org/toys at main is not whole in the cache and the Hub cannot be reached; go online for the first time",
    ),
    "two sources": (["source.repo=org/toys"], "source: give one of sample, path and repo"),
    "no source": (["source.path=null"], "the recipe names no source; set source.path"),
    "no input column": (["source.path=numbers.csv"], "cannot tell the image column: candidates are none among a, label"),
    "two input columns": (
        ["source.path=two.parquet"],
        "cannot tell the image column: candidates are 2 (front, back); name it with source.columns.image=NAME",
    ),
    "no label column": (["source.path=front.parquet"], "cannot tell the label column: candidates are none among image"),
    "a label column that does not exist": (
        ["source.columns.label=kind"],
        "source.columns.label names 'kind'; the dataset has: image, label, uid",
    ),
    "a label column of other things": (["source.columns.label=uid"], "label column 'uid' holds 24 texts, all different, and no classes"),
    "a label column of fractions": (["source.path=fractions.csv", "task.kind=text"], "label column 'label' holds 0.5, which is no class"),
    "one class only": (["source.path=single.csv", "task.kind=text"], "column 'label' has labels of fewer than two classes"),
    "no labels": (["source.path=unlabelled.parquet"], "column 'label' has labels of fewer than two classes"),
    "an empty split": (
        ["source.path=empty"],
        "cannot read empty: a split of it has no rows, which datasets cannot read; leave that split out",
    ),
    "an empty held-out split": (
        ["source.path=no-test", "source.test.fraction=null", "source.test.split=test"],
        "cannot read no-test: a split of it has no rows",
    ),
    "an empty saved split": (
        ["source.path=empty-saved"],
        "cannot read empty-saved: a split of it has no rows",
    ),
    "a split that does not exist": (["source.split=dev"], "source has no split 'dev'; it has: train; set source.split"),
    "a held-out split that does not exist": (
        ["source.test.fraction=null", "source.test.split=dev"],
        "source.test.split 'dev' is no other split; there are: none, use source.test.fraction=0.2",
    ),
    "an id column that does not exist": (["source.id_column=name"], "source.id_column names 'name'; the dataset has: image, label, uid"),
    "ids that are doubled": (["source.id_column=label"], "source.id_column 'label' holds ClassLabel"),
    "what to do with bad rows": (["--on-bad-row", "drop"], "'drop' is not one of 'error', 'skip'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_source_is_one_line_and_writes_nothing(name: str, here: Path, call: Callable[..., tuple[Any, str, str]]) -> None:
    Path("broken.parquet").write_text("no parquet at all, but long enough to be something")
    Path("numbers.csv").write_text("a,label\n1,0\n2,1")
    Path("fractions.csv").write_text("text,label\nx,0.5\ny,1")
    Path("single.csv").write_text("text,label\nx,1\ny,1")
    if name == "two input columns":
        front = pictures(6).rename_column("image", "front")
        concatenate_datasets([front, pictures(6).select_columns("image").rename_column("image", "back")], axis=1).to_parquet("two.parquet")
    pictures(6).select_columns("image").to_parquet("front.parquet")
    whole = pictures(4)
    Dataset.from_dict({"image": whole["image"], "label": [-1, None, -1, -1]}, features=whole.features).to_parquet("unlabelled.parquet")
    if "empty" in name:
        for split, n in (("empty/train", 0), ("no-test/train", 4), ("no-test/test", 0)):
            Path(split).parent.mkdir(exist_ok=True)
            whole.select(range(n)).to_parquet(f"{split}.parquet")
        DatasetDict(train=whole, test=whole.select([])).save_to_disk("empty-saved")
    before = sorted(here.rglob("*"))
    words, message = WRONG[name]
    code, out, err = call("run", "toy.yaml", *words)
    assert code == 2 and out == "" and err.count("\n") == 1 and err.startswith("hf-datadiet: ")
    assert message in err
    assert sorted(here.rglob("*")) == before


REFUSED = {
    "a repository that does not exist": (["source.repo=org/none"], "the Hub has no dataset org/none, or it is private"),
    "a gated repository": (["source.repo=org/gated"], "org/gated is gated; ask for access on its page, then log in: hf auth login"),
    "a revision that does not exist": (
        ["source.repo=org/toys", "source.revision=v9"],
        "org/toys has no revision 'v9'; set source.revision",
    ),
    "a config that does not exist": (
        ["source.repo=org/toys", "source.config=b"],
        "org/toys has no config 'b'; set source.config to one of: a",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_hub_refuses_is_one_line_and_writes_nothing(
    name: str, hub: LoopbackHub, here: Path, call: Callable[..., tuple[Any, str, str]]
) -> None:
    hub.commit("org/toys", {"README.md": b"---\nconfigs:\n- config_name: a\n  data_files: a.csv\n---\n", "a.csv": b"text,label\nx,1\n"})
    hub.commit("org/gated", {"a.csv": b""}, access="gated")
    before = sorted(path for path in here.rglob("*") if "hub-cache" not in str(path))
    words, message = REFUSED[name]
    code, out, err = call("run", "toy.yaml", "source.path=null", *words)
    assert code == 2 and out == "" and err.count("\n") == 1 and message in err
    assert sorted(path for path in here.rglob("*") if "hub-cache" not in str(path)) == before
