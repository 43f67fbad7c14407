"""Scores that were published, taken instead of computed: the same scores, and a run that goes on with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Dataset

from hf_datadiet.recipe_yaml import kept_recipe
from hf_datadiet.store import RunFolder
from tests.hub.server import LoopbackHub
from tests.publish.runs import IMAGES, source_files
from tests.publish.test_verify import change_plain, reseal
from tests.synthetic import same

Call = Callable[..., tuple[Any, str, str]]
REPO = "me/toys-diet"


@pytest.mark.parametrize("ids_only", [False, True])
def test_a_run_goes_on_with_them(ids_only: bool, place: Path, call: Call, hub: LoopbackHub, me: str, tmp_path: Path) -> None:
    words = ["--ids-only"] if ids_only else []
    assert call("publish", str(place / "run"), "--to", REPO, "--push", *words)[0] == 0
    sha, new = hub.history(REPO)[-1].sha, tmp_path / "new"
    code, out, err = call("score", "--from-hub", REPO, f"source.path={place / 'source'}", "--out", str(new))
    assert code == 0, err
    ours, theirs = RunFolder(new).load_scores(), RunFolder(place / "run").load_scores()
    same(ours, theirs)
    assert not RunFolder(new).seeds() and f"taken       from {REPO} at {sha}" in call("status", str(new))[1]
    assert "seconds of another machine do not compare" in (new / "report.md").read_text()
    assert "Scores of" in out and f"{REPO} at {sha}" in (new / "report.md").read_text()
    # Equal scores make equal selections and equal trainings: so does a run that was scored here.
    assert call("prune", str(new), "--name", "keep-50", "--score", "el2n", "--keep", "0.5")[0] == 0
    assert RunFolder(new).load_selection("keep-50").digest == RunFolder(place / "run").load_selection("keep-50").digest
    code, _, err = call("evaluate", str(new))
    assert code == 0, err
    arm = RunFolder(new).load_arm("main", "keep-50", 10_000)
    there = RunFolder(place / "run").load_arm("main", "keep-50", 10_000)
    assert arm is not None and there is not None and (arm.predicted == there.predicted).all()
    # They are not trained anew, nor mixed with others.
    code, _, err = call("score", str(new / "recipe.yaml"), "--out", str(new))
    assert code == 0 and not RunFolder(new).seeds(), err
    code, _, err = call("score", str(new / "recipe.yaml"), "--out", str(new), "score.seeds=4")
    assert code == 2 and "are those of 2 seeds, not 4" in err
    # And they can be published again, saying where they are from.
    code, _, err = call("publish", str(new), "--to", "me/again", "--push")
    assert code == 0, err
    assert call("verify", "me/again", f"source.path={place / 'source'}")[0] == 0


def test_of_a_source_on_the_hub(pictures: Path, call: Call, hub: LoopbackHub, me: str, tmp_path: Path) -> None:
    sha = hub.commit("org/toys", source_files(pictures))
    recipe = tmp_path / "hub.yaml"
    recipe.write_text(yaml.safe_dump({**IMAGES, "source": {**IMAGES["source"], "repo": "org/toys"}}))
    assert call("run", str(recipe), "--out", str(tmp_path / "first"))[0] == 0
    assert call("publish", str(tmp_path / "first"), "--to", REPO, "--push", "--public")[0] == 0
    # The source moves on; the scores are those of its older commit, and that is what is opened.
    hub.commit(
        "org/toys",
        source_files(pictures) | {"data/train-00000-of-00001.parquet": source_files(pictures)["data/extra-00000-of-00001.parquet"]},
    )
    code, _, err = call("score", "--from-hub", REPO, "--out", str(tmp_path / "second"))
    assert code == 0, err
    assert kept_recipe(tmp_path / "second").source.revision == sha and RunFolder(tmp_path / "second").source().revision == sha
    code, _, err = call("score", "--from-hub", REPO, "--out", str(tmp_path / "third"), "source.revision=main")
    assert code == 2 and "has other rows, another order or other labels" in err and not (tmp_path / "third").exists()


def test_what_would_not_be_the_same(pictures: Path, call: Call, tmp_path: Path) -> None:
    assert call("publish", str(pictures / "run"), "--to", REPO)[0] == 0
    tree, source = str(pictures / "run" / "published"), f"source.path={pictures / 'source'}"

    def refused(*words: str) -> str:
        code, _, err = call("score", "--from-hub", tree, "--out", str(tmp_path / "new"), *words)
        assert code == 2 and len(err.splitlines()) == 1 and not (tmp_path / "new").exists()
        return err

    assert "task.training.epochs: 1 there, 3 asked" in refused(source, "task.training.epochs=3")
    assert "--share and --dry-run are for trainings; leave them out with --from-hub" in refused(source, "--dry-run")
    assert "source.path source does not exist" in refused()
    path = pictures / "source" / "data" / "train-00000-of-00001.parquet"
    rows = Dataset.from_parquet(str(path))
    rows.select(list(reversed(range(len(rows))))).to_parquet(str(path))
    assert "has other rows, another order or other labels" in refused(source)
    code, _, err = call("score", "--from-hub", tree, "--out", str(pictures / "run"), source)
    assert code == 2 and "holds a run already" in err


@pytest.mark.parametrize(
    "name", ["evidence/scores.json", "evidence/recipe.yaml", "evidence/fitted.json", "scores/train-00000-of-00001.parquet"]
)
def test_what_is_damaged_there(name: str, pictures: Path, call: Call, tmp_path: Path) -> None:
    assert call("publish", str(pictures / "run"), "--to", REPO)[0] == 0
    path = pictures / "run" / "published" / name
    content = path.read_bytes()
    for damaged in (None, b"", content[: len(content) // 2], b"{}", b"[]", b"null", b"\xff\xfe"):
        path.unlink() if damaged is None else path.write_bytes(damaged)
        code, out, err = call(
            "score", "--from-hub", str(path.parents[1]), "--out", str(tmp_path / "new"), f"source.path={pictures / 'source'}"
        )
        assert (code, out) == (2, "") and len(err.splitlines()) == 1 and not (tmp_path / "new").exists()


def test_scores_that_are_not_those_that_were_published(pictures: Path, call: Call, tmp_path: Path) -> None:
    assert call("publish", str(pictures / "run"), "--to", REPO)[0] == 0
    tree = pictures / "run" / "published"
    path = tree / "scores" / "train-00000-of-00001.parquet"
    content = path.read_bytes()

    def refused() -> str:
        code, _, err = call("score", "--from-hub", str(tree), "--out", str(tmp_path / "new"), f"source.path={pictures / 'source'}")
        assert code == 2 and len(err.splitlines()) == 1 and not (tmp_path / "new").exists()
        path.write_bytes(content)
        return err

    table = pq.read_table(path)
    reversed_ = [
        table[name] if name in ("example_id", "source_id", "label") else table[name].take(list(range(47, -1, -1)))
        for name in table.column_names
    ]
    pq.write_table(pa.table(reversed_, schema=table.schema), path)
    assert "is not as it was published: scores/train-00000-of-00001.parquet was changed" in refused()
    # Whoever makes the digests fit as well is found by the values of the seeds, and by the source.
    for column, value, said in (("el2n", 0.5, "1 rows are not the mean of the seeds"), ("label", 2, "1 scored rows have another label")):
        change_plain(path, column, 3, value)
        reseal(tree)
        assert said in refused()
    reseal(tree)
    (tree / "scores" / "train-00001-of-00002.parquet").write_bytes(content)
    assert "train-00001-of-00002.parquet was added" in refused()
