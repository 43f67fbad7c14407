"""VERIFY: a publication that holds, and one in which one number was changed, with or without a digest that fits."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_datadiet.durable import read_parquet, read_record, write_parquet, write_record
from hf_datadiet.errors import PublishError
from hf_datadiet.verify import _changed_files, verify_publication
from tests.hub.server import LoopbackHub

Call = Callable[..., tuple[Any, str, str]]
REPO = "me/toys-diet"
CHECKS = [
    "files are as they were written",
    "scores are the means of those of the seeds",
    "selection keep-25 follows from the scores",
    "selection keep-50 follows from the scores",
    "accuracies are those of the predictions",
    "report.json follows from the records",
    "the card says what the report says",
    "the card counts the rows that there are",
    "every configuration has the rows that its selection keeps",
    "rows are those of the source",
]


@pytest.fixture(scope="session")
def trees(image_run: Path, text_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each run's publication as a folder; the runs themselves stay as they are."""
    from hf_datadiet import cli

    found: dict[str, Path] = {}
    for name, place in (("images", image_run), ("texts", text_run)):
        found[name] = tmp_path_factory.mktemp(f"tree-{name}") / "tree"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["hf-datadiet", "publish", str(place / "run"), "--to", REPO, "--out", str(found[name])])
            cli.main()
    return found


@pytest.fixture
def tree(trees: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(trees["images"], tmp_path / "tree"))


def differing(tree: Path, source: Path | None = None) -> dict[str, tuple[str, ...]]:
    overrides = [f"source.path={source / 'source'}"] if source else []
    return {check.what: check.details for check in verify_publication(tree, overrides=overrides).checks if check.state == "differs"}


@pytest.mark.parametrize("kind", ["images", "texts"])
def test_what_was_published_holds(kind: str, trees: dict[str, Path], image_run: Path, text_run: Path) -> None:
    place = image_run if kind == "images" else text_run
    found = verify_publication(trees[kind], overrides=[f"source.path={place / 'source'}"])
    assert found.holds and [check.what for check in found.checks if check.state == "holds"] == CHECKS
    assert [check.what for check in found.checks if check.state == "not verifiable"] == ["timings", "trainings", "provenance"]
    # Without the source all but its rows can be checked, and that is said. Its place was not published.
    found = verify_publication(trees[kind])
    unknown = {check.what: check.details for check in found.checks if check.state == "not verifiable"}
    assert found.holds and "source.path source does not exist" in unknown["rows are those of the source"][0]


def test_on_the_hub(pictures: Path, call: Call, hub: LoopbackHub, me: str) -> None:
    assert call("publish", str(pictures / "run"), "--to", REPO, "--push")[0] == 0
    first = hub.history(REPO)[-1].sha
    files = hub.files(REPO)
    hub.commit(REPO, {**files, "scores/train-00000-of-00001.parquet": files["keep-50/train-00000-of-00001.parquet"]})
    code, out, _ = call("verify", REPO, "--revision", first, f"source.path={pictures / 'source'}")
    assert code == 0 and "nothing that data can prove differs" in out and first in out
    code, out, _ = call("verify", REPO)
    assert code == 1 and "DIFFERS  files are as they were written" in out and "scores/train-00000-of-00001.parquet was changed" in out
    code, _, err = call("verify", "me/none")
    assert code == 2 and "the Hub has no dataset me/none" in err
    hub.commit("me/plain", {"README.md": b"# Plain\n"})
    code, _, err = call("verify", "me/plain")
    assert code == 2 and "no hf_datadiet publication lies there" in err


# One number changed. `sealed`: whoever changed it also made the digests fit, so that only computing it anew finds it.


def reseal(tree: Path) -> None:
    path = tree / "evidence" / "manifest.json"
    files = json.loads(path.read_text())["files"]
    found = {name: f"sha256:{hashlib.sha256((tree / name).read_bytes()).hexdigest()}" for name in files}
    path.write_text(json.dumps({"files": found}))


def change(path: Path, column: str, row: int, value: Any) -> None:
    """Another value in a file of the evidence, with the digest of the file made to fit."""
    table, meta = read_parquet(path)
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    values = columns[column].to_pylist()
    assert values[row] != value
    values[row] = value
    columns[column] = pa.array(values, columns[column].type)
    write_parquet(path, columns, meta)


def change_plain(path: Path, column: str, row: int, value: Any) -> None:
    """Another value in a file of a config."""
    table = pq.read_table(path)
    values = table[column].to_pylist()
    assert values[row] != value
    values[row] = value
    pq.write_table(
        table.set_column(table.column_names.index(column), table.schema.field(column), pa.array(values, table.schema.field(column).type)),
        path,
    )


def one_score(tree: Path) -> None:
    change_plain(tree / "scores" / "train-00000-of-00001.parquet", "el2n", 3, 0.123)


def one_seed(tree: Path) -> None:
    change_plain(tree / "scores" / "train-00000-of-00001.parquet", "el2n_seed1", 3, 0.123)


def one_score_of_a_variant(tree: Path) -> None:
    change_plain(tree / "keep-50" / "train-00000-of-00001.parquet", "el2n", 3, 0.123)


def one_label_of_a_variant(tree: Path) -> None:
    path = tree / "keep-50" / "train-00000-of-00001.parquet"
    change_plain(path, "label", 3, (pq.read_table(path)["label"].to_pylist()[3] + 1) % 3)


def one_kept_row_of_a_variant(tree: Path) -> None:
    path = tree / "keep-50" / "train-00000-of-00001.parquet"
    kept = pq.read_table(path)["example_id"].to_pylist()
    change_plain(path, "example_id", 3, next(row for row in range(48) if row not in kept))


def one_kept_id(tree: Path) -> None:
    path = tree / "evidence" / "selections" / "keep-50" / "selection.parquet"
    kept = np.flatnonzero(read_parquet(path)[0]["kept"].to_numpy())
    dropped = np.setdiff1d(np.arange(48), kept)
    table, meta = read_parquet(path)
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    chosen, reasons = columns["kept"].to_numpy(zero_copy_only=False).copy(), columns["reason"].to_pylist()
    chosen[[kept[0], dropped[0]]] = False, True
    reasons[kept[0]], reasons[dropped[0]] = reasons[dropped[0]], None
    columns |= {"kept": pa.array(chosen), "reason": pa.array(reasons, pa.string()).dictionary_encode()}
    write_parquet(path, columns, meta)


def one_prediction(tree: Path) -> None:
    path = tree / "evidence" / "evaluations" / "main" / "predictions.parquet"
    table = read_parquet(path)[0]
    # One that is right, so that it counts; a wrong one that is wrong otherwise changes no number, and only the file's digest shows it.
    row = int(np.flatnonzero(table["predicted"].to_numpy() == table["label"].to_numpy())[0])
    change(path, "predicted", row, (table["predicted"].to_pylist()[row] + 1) % 3)


def one_test_label(tree: Path) -> None:
    path = tree / "evidence" / "evaluations" / "main" / "predictions.parquet"
    table, meta = read_parquet(path)
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    labels = columns["label"].to_numpy().copy()
    labels[columns["test_id"].to_numpy() == 0] = (labels[0] + 1) % 3
    write_parquet(path, columns | {"label": labels}, meta)


def one_accuracy(tree: Path) -> None:
    path = tree / "evidence" / "evaluations" / "main" / "evaluation.json"
    record = read_record(path)
    record["results"][0]["metrics"]["accuracy"] += 0.01
    write_record(path, record)


def one_number_of_the_report(tree: Path) -> None:
    path = tree / "evidence" / "report.json"
    report = json.loads(path.read_text())
    report["evaluations"][0]["differences"][0]["difference"] += 1
    path.write_text(json.dumps(report))


def the_verdict_of_the_card(tree: Path) -> None:
    path = tree / "README.md"
    text = path.read_text()
    assert "**cannot tell**" in text
    path.write_text(text.replace("**cannot tell**", "**equivalent**", 1))


def the_count_of_the_card(tree: Path) -> None:
    path = tree / "README.md"
    text = path.read_text()
    assert "num_examples: 24" in text
    path.write_text(text.replace("num_examples: 24", "num_examples: 25", 1))


CHANGES: dict[Callable[[Path], None], str] = {
    one_score: "scores are the means of those of the seeds",
    one_seed: "scores are the means of those of the seeds",
    one_score_of_a_variant: "every configuration has the rows that its selection keeps",
    one_label_of_a_variant: "rows are those of the source",
    one_kept_row_of_a_variant: "every configuration has the rows that its selection keeps",
    one_kept_id: "selection keep-50 follows from the scores",
    one_prediction: "accuracies are those of the predictions",
    one_test_label: "accuracies are those of the predictions",
    one_accuracy: "accuracies are those of the predictions",
    one_number_of_the_report: "report.json follows from the records",
    the_verdict_of_the_card: "the card says what the report says",
    the_count_of_the_card: "the card counts the rows that there are",
}


@pytest.mark.parametrize("altered", CHANGES, ids=lambda altered: altered.__name__)
def test_one_change_is_found(altered: Callable[[Path], None], tree: Path, image_run: Path) -> None:
    altered(tree)
    if "card" not in altered.__name__:
        assert "files are as they were written" in differing(tree)
    reseal(tree)
    found = differing(tree, image_run)
    assert CHANGES[altered] in found, found
    assert "files are as they were written" not in found


def test_files_that_are_lost_or_cut_off(tree: Path) -> None:
    def changed() -> tuple[str, ...]:
        return next(_changed_files(tree)).details

    for path in sorted(
        path for path in tree.rglob("*") if path.is_file() and path.name not in ("README.md", "publication.json", "manifest.json")
    ):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        assert changed() == (f"{path.relative_to(tree)} was changed",)
        path.unlink()
        assert changed() == (f"{path.relative_to(tree)} is missing",)
        path.write_bytes(content)
    assert changed() == ()
    # Whatever is read of what is left is named, and is no traceback.
    for name, fault in {
        "evidence/recipe.yaml": "records are whole",
        "evidence/fitted.json": "records are whole",
        "evidence/evaluations/main/evaluation.json": "records are whole",
        "scores/train-00000-of-00001.parquet": "records are whole",
        "evidence/publication.json": "records fit together",
    }.items():
        content = (tree / name).read_bytes()
        (tree / name).write_bytes(b"{}")
        assert fault in differing(tree), name
        (tree / name).write_bytes(content)
    (tree / "evidence" / "scores.json").unlink()
    with pytest.raises(PublishError, match="no hf_datadiet publication lies there"):
        verify_publication(tree)
