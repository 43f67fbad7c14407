"""VERIFY: a publication that holds, and one in which one number was changed, with or without a digest that fits."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset

from hf_datadiet.card import to_card
from hf_datadiet.durable import read_parquet, read_record, write_parquet, write_record
from hf_datadiet.errors import PublishError
from hf_datadiet.hub.fetching import fetched
from hf_datadiet.publication import Publication
from hf_datadiet.selection import select
from hf_datadiet.store import RunFolder
from hf_datadiet.verified_rows import _other_files
from hf_datadiet.verify import _changed_files, verify_publication
from tests.hub.server import LoopbackHub
from tests.publish.runs import IMAGES, finished, images

Call = Callable[..., tuple[Any, str, str]]
REPO = "me/toys-diet"
CHECKS = [
    "files are as they were written",
    "scores are the means of those of the seeds",
    "scores mean what their definitions say",
    "selection keep-25 follows from the scores",
    "selection keep-50 follows from the scores",
    "accuracies are those of the predictions",
    "trainings are of the rows that they are said to be of",
    "evaluations are those of the recipe",
    "report.json follows from the records",
    "the card says what the report says",
    "the card's metadata are those of the files",
    "publication.json says what lies there",
    "every configuration has the rows that its selection keeps",
    "labels and test rows are those of the source",
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


@pytest.mark.parametrize("words", [(), ("--ids-only",), ("--prefix", "d_")], ids=" ".join)
def test_what_is_published_in_other_ways_holds(words: tuple[str, ...], pictures: Path, call: Call, hub: LoopbackHub, me: str) -> None:
    """With configs of an earlier publication beside it, and a selection that was tuned."""
    run, source = pictures / "run", f"source.path={pictures / 'source'}"
    assert call("publish", str(run), "--to", REPO, "--push")[0] == 0
    shutil.rmtree(run / "selections" / "keep-25")
    shutil.rmtree(run / "evaluations")
    auto = ("--name", "tuned", "--score", "el2n", "--keep", "0.5", "--strategy", "auto", "--set", "seeds=1")
    code, _, err = call("prune", str(run), *auto, source)
    assert code == 0, err
    assert call("publish", str(run), "--to", REPO, "--push", *words)[0] == 0
    code, out, _ = call("verify", REPO, source)
    assert code == 0 and out.count("unknown") == 3, out
    # The validation rows have the labels of the source.
    table = RunFolder(run).tunings.load_evaluation("tuned")
    wrong = (table.test_label + 1) % 3
    results = [replace(each, metrics={"accuracy": float(np.mean(each.predicted == wrong))}) for each in table.results]
    RunFolder(run).tunings.save_evaluation(replace(table, test_label=wrong, results=tuple(results)))
    if "--ids-only" not in words:
        assert call("publish", str(run), "--to", REPO, *words)[0] == 0
        assert "labels and test rows are those of the source" in differing(run / "published", pictures)


def test_rows_that_cannot_be_read_hold(tmp_path: Path, call: Call) -> None:
    rows = images(48, 1).with_format("arrow")[:].to_pydict()
    rows["image"][5] = {"bytes": b"no picture", "path": None}
    train = Dataset.from_dict(rows, features=images(1, 1).features)
    asked = {
        **IMAGES,
        "source": {**IMAGES["source"], "on_bad_row": "skip"},
        "evaluate": {"seeds": 1},
        "score": {"scores": ["el2n"], "seeds": 1},
    }
    place = finished(tmp_path, asked, {"train": train, "test": images(12, 2)})
    assert call("publish", str(place / "run"), "--to", REPO)[0] == 0
    found = verify_publication(place / "run" / "published", overrides=[f"source.path={place / 'source'}"])
    assert found.holds and [check.what for check in found.checks if check.state == "holds"] == CHECKS


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


def replaced_in_the_card(tree: Path, old: str, new: str) -> None:
    path = tree / "README.md"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def the_data_files_of_the_card(tree: Path) -> None:
    shutil.copytree(tree / "keep-50", tree / "other")
    replaced_in_the_card(tree, "path: keep-50/train-*", "path: other/train-*")


def the_folder_of_the_card(tree: Path) -> None:
    replaced_in_the_card(tree, "- config_name: keep-50\n", "- config_name: keep-50\n  data_dir: other\n")


def a_split_of_the_card(tree: Path) -> None:
    replaced_in_the_card(
        tree, "  - split: train\n    path: keep-50/", "  - split: best\n    path: keep-50/train-*\n  - split: train\n    path: keep-50/"
    )


def the_classes_of_the_card(tree: Path) -> None:
    for old, new in (("'0': cat", "'0': x"), ("'1': dog", "'1': cat"), ("'0': x", "'0': dog")):
        replaced_in_the_card(tree, old, new)


def the_configs_of_the_card(tree: Path) -> None:
    replaced_in_the_card(tree, "\nconfigs:", "\nthose:")


def change_publication(tree: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Another publication.json, and the card that it makes."""
    path, readme = tree / "evidence" / "publication.json", tree / "README.md"
    report, said = json.loads((tree / "evidence" / "report.json").read_text()), json.loads(path.read_text())
    old = to_card(report, Publication.from_json(said))
    change(said)
    path.write_text(json.dumps(said))
    text = readme.read_text()
    assert old.strip("\n") in text
    readme.write_text(text.replace(old.strip("\n"), to_card(report, Publication.from_json(said)).strip("\n")))


def a_count_of_the_publication(tree: Path) -> None:
    change_publication(tree, lambda said: said["variants"]["keep-50"].update(train=9999))


def a_definition_of_the_publication(tree: Path) -> None:
    change_publication(tree, lambda said: said["definitions"].update(el2n="This score proves that a row is mislabelled."))


def a_strategy_of_the_publication(tree: Path) -> None:
    change_publication(tree, lambda said: said["strategies"].update(hardest="Keeps what is best."))


def the_command_of_the_publication(tree: Path) -> None:
    change_publication(tree, lambda said: said.update(command="hf-datadiet run ours.yaml"))


def one_id_of_a_score(tree: Path) -> None:
    change_plain(tree / "scores" / "train-00000-of-00001.parquet", "source_id", 3, "1-333")


def the_classes_of_the_scores(tree: Path) -> None:
    path = tree / "evidence" / "scores.json"
    record = read_record(path)
    record["source"]["classes"].reverse()
    write_record(path, record)


def the_direction_of_a_score(tree: Path) -> None:
    path = tree / "evidence" / "scores.json"
    record = read_record(path)
    record["columns"]["el2n"]["higher_is"] = "easier"
    write_record(path, record)


def swap_classes(path: Path) -> None:
    dataset = Dataset.from_parquet(str(path))
    assert isinstance(dataset, Dataset)
    names = dataset.features["label"].names
    dataset.cast_column("label", ClassLabel(names=[names[1], names[0], *names[2:]])).to_parquet(str(path))


def the_classes_of_a_variant(tree: Path) -> None:
    swap_classes(tree / "keep-50" / "train-00000-of-00001.parquet")


def the_classes_of_another_split(tree: Path) -> None:
    swap_classes(tree / "keep-50" / "test-00000-of-00001.parquet")


def one_result(tree: Path) -> None:
    change(tree / "evidence" / "evaluations" / "main" / "results.parquet", "value", 0, 0.99)


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
    the_count_of_the_card: "the card's metadata are those of the files",
    the_data_files_of_the_card: "the card's metadata are those of the files",
    the_folder_of_the_card: "the card's metadata are those of the files",
    a_split_of_the_card: "the card's metadata are those of the files",
    the_classes_of_the_card: "the card's metadata are those of the files",
    the_configs_of_the_card: "the card's metadata are those of the files",
    a_count_of_the_publication: "publication.json says what lies there",
    a_definition_of_the_publication: "publication.json says what lies there",
    a_strategy_of_the_publication: "publication.json says what lies there",
    the_command_of_the_publication: "publication.json says what lies there",
    one_id_of_a_score: "labels and test rows are those of the source",
    the_classes_of_the_scores: "labels and test rows are those of the source",
    the_classes_of_a_variant: "rows are those of the source",
    the_classes_of_another_split: "the card's metadata are those of the files",
    the_direction_of_a_score: "scores mean what their definitions say",
    one_result: "accuracies are those of the predictions",
}


@pytest.mark.parametrize("altered", CHANGES, ids=lambda altered: altered.__name__)
def test_one_change_is_found(altered: Callable[[Path], None], tree: Path, image_run: Path) -> None:
    altered(tree)
    if not altered.__name__.endswith(("card", "publication")):
        assert "files are as they were written" in differing(tree)
    reseal(tree)
    found = differing(tree, image_run)
    assert CHANGES[altered] in found, found
    assert "files are as they were written" not in found


# Somebody who forges the records of a run and lets `publish` write all that follows from them: only what is no record finds it.


def labels_that_are_predictions(run: Path) -> None:
    table = RunFolder(run).load_evaluation("main")
    labels = next(result for result in table.results if result.arm == "keep-50").predicted
    results = [replace(each, metrics={"accuracy": float(np.mean(each.predicted == labels))}) for each in table.results]
    RunFolder(run).save_evaluation(replace(table, test_label=labels, results=tuple(results)))


def rows_left_out(run: Path) -> None:
    table, few = RunFolder(run).load_evaluation("main"), slice(0, 4)
    label, own = table.test_label[few], None if table.test_source_id is None else table.test_source_id[few]
    results = [
        replace(each, predicted=said, p_label=each.p_label[few], metrics={"accuracy": float(np.mean(said == label))})
        for each in table.results
        for said in [each.predicted[few]]
    ]
    few_rows = replace(table, test_id=table.test_id[few], test_label=label, test_source_id=own, results=tuple(results))
    RunFolder(run).save_evaluation(few_rows)


def labels_of_the_scores(run: Path) -> None:
    """What is kept becomes one class, as if no class but that were hard."""
    folder = RunFolder(run)
    table, selection = folder.load_scores(), folder.load_selection("keep-50")
    forged = replace(table, label=np.where(np.isin(table.example_id, selection.kept), 0, 1 + table.example_id % 2).astype(np.int32))
    shutil.rmtree(run / "selections")
    shutil.rmtree(run / "evaluations")
    folder.save_scores(forged)
    folder.save_selection(replace(selection, table_digest=forged.digest))


def another_margin(run: Path) -> None:
    RunFolder(run).save_evaluation(replace(RunFolder(run).load_evaluation("main"), margin=300.0))


def fewer_seeds(run: Path) -> None:
    table = RunFolder(run).load_evaluation("main")
    first = tuple(result for result in table.results if result.seed == 10_000)
    RunFolder(run).save_evaluation(replace(table, n_seeds=1, results=first))


def a_selection_made_after_its_trainings(run: Path) -> None:
    shutil.rmtree(run / "selections" / "keep-50")
    folder = RunFolder(run)
    made = select(
        folder.load_scores(), name="keep-50", score="el2n", strategy="easiest", keep=0.5, provenance=folder.load_scores().provenance
    )
    folder.save_selection(made)


FORGED: dict[Callable[[Path], None], str] = {
    labels_that_are_predictions: "labels and test rows are those of the source",
    rows_left_out: "labels and test rows are those of the source",
    labels_of_the_scores: "labels and test rows are those of the source",
    another_margin: "evaluations are those of the recipe",
    fewer_seeds: "evaluations are those of the recipe",
    a_selection_made_after_its_trainings: "trainings are of the rows that they are said to be of",
}


@pytest.mark.parametrize("forge", FORGED, ids=lambda forge: forge.__name__)
def test_what_was_forged_before_it_was_published(
    forge: Callable[[Path], None], pictures: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A tool that says less than this one.
    monkeypatch.setattr("hf_datadiet.reporting._require_judged_rows", lambda folder: None)
    forge(pictures / "run")
    code, _, err = call("publish", str(pictures / "run"), "--to", REPO)
    assert code == 0, err
    assert list(differing(pictures / "run" / "published", pictures)) == [FORGED[forge]]


def test_an_evaluation_that_says_that_its_recipe_was_another(pictures: Path, call: Call) -> None:
    assert call("evaluate", str(pictures / "run"), "evaluate.margin=2", f"source.path={pictures / 'source'}")[0] == 0
    assert call("publish", str(pictures / "run"), "--to", REPO)[0] == 0
    found = {check.what: check for check in verify_publication(pictures / "run" / "published").checks}[
        "evaluations are those of the recipe"
    ]
    assert found.state == "not verifiable" and "margin 2.0 there, 0.5 in the recipe" in found.details[0]


@pytest.mark.parametrize("name", ["../x", "scores/../../x", "/etc/passwd", "..\\x"])
def test_nothing_outside_is_looked_at(name: str, tree: Path) -> None:
    (tree / "evidence" / "manifest.json").write_text(json.dumps({"files": {name: "sha256:1"}}))
    found = differing(tree)
    assert list(found) == ["records are whole"] and "names a file outside of the publication" in found["records are whole"][0]


def test_examples(pictures: Path, call: Call) -> None:
    assert call("publish", str(pictures / "run"), "--to", REPO, "--examples")[0] == 0
    tree, what = pictures / "run" / "published", "publication.json says what lies there"
    assert differing(tree) == {} == differing(tree, pictures)
    for key, value in (("value", 0.1), ("label", "ship, or dog"), ("example_id", 47)):
        shutil.copytree(tree, tree.with_name(key))
        change_publication(tree.with_name(key), lambda said: said["examples"][0]["hardest"][1].update({key: value}))  # noqa: B023
        assert list(differing(tree.with_name(key))) == [what] == list(differing(tree.with_name(key), pictures))


def test_values_of_the_seeds_that_were_not_published(tree: Path) -> None:
    path = tree / "scores" / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns([name for name in table.column_names if "_seed" in name]), path)
    reseal(tree)
    found = {check.what: check for check in verify_publication(tree).checks}["scores are the means of those of the seeds"]
    assert (
        found.state == "not verifiable" and "el2n: no values of the seeds were published, so nothing proves its means" in found.details[0]
    )


def test_files_that_nobody_published(tree: Path, image_run: Path) -> None:
    # What a pattern of the card takes in.
    shutil.copy(tree / "keep-50" / "train-00000-of-00001.parquet", tree / "keep-50" / "train-zz.parquet")
    assert differing(tree)["files are as they were written"] == ("keep-50/train-zz.parquet was added",)
    # A split that is in manifest, card and publication, and not in the source.
    (tree / "keep-50" / "train-zz.parquet").rename(tree / "keep-50" / "best-00000-of-00001.parquet")
    path = tree / "evidence" / "manifest.json"
    path.write_text(json.dumps({"files": json.loads(path.read_text())["files"] | {"keep-50/best-00000-of-00001.parquet": ""}}))
    reseal(tree)
    change_publication(tree, lambda said: said["variants"]["keep-50"].update(best=24))
    found = differing(tree, image_run)
    assert found["rows are those of the source"] == ("keep-50 has a split best, which the source does not make",)
    assert "files are as they were written" not in found and "publication.json says what lies there" not in found


def test_equal_rows_in_other_bytes(tmp_path: Path) -> None:
    nan = float("nan")
    table = pa.table({"a": [nan if row % 5 == 0 else 1.0 for row in range(600)], "b": [[nan, row] for row in range(600)], "c": range(600)})

    def written(name: str, parts: list[pa.Table], **options: Any) -> list[Path]:
        paths = [tmp_path / f"{name}-{part}.parquet" for part in range(len(parts))]
        for path, part in zip(paths, parts, strict=True):
            pq.write_table(part, path, **options)
        return paths

    ours = written("ours", [table])
    theirs = written("theirs", [table.slice(0, 100), table.slice(100)], row_group_size=70, compression="zstd")
    assert list(_other_files(ours, theirs)) == []
    other = table.set_column(0, "a", pa.array([2.0 if row == 555 else value for row, value in enumerate(table["a"].to_pylist())]))
    assert list(_other_files(ours, written("other", [other]))) == ["column a differs from the source, first in row 555"]
    assert list(_other_files(ours, written("fewer", [table.slice(1)]))) == [
        "other columns, classes or number of rows than the source makes"
    ]
    assert list(_other_files(ours, [])) == ["other columns, classes or number of rows than the source makes"]


def test_words_of_another_version(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tree / "evidence" / "report.json"
    report = json.loads(path.read_text())
    report["evaluations"][0]["arms"][0]["meaning"] = "everything"
    report["something"] = "new"
    path.write_text(json.dumps(report))
    publication = tree / "evidence" / "publication.json"
    said = json.loads(publication.read_text())
    publication.write_text(json.dumps({**said, "new": 1, "definitions": {**said["definitions"], "el2n": "In other words."}}))
    reseal(tree)
    assert "records fit together" in differing(tree)
    monkeypatch.setattr("hf_datadiet.verify.version", lambda name: "99.0")
    whats = ("report.json follows from the records", "the card says what the report says", "publication.json says what lies there")
    found = {check.what: check for check in verify_publication(tree).checks}
    for what in whats:
        assert found[what].state == "not verifiable" and "and this is 99.0: install that version" in found[what].details[0]
    assert differing(tree) == {}
    # Numbers are numbers in every version.
    report["evaluations"][0]["differences"][0]["difference"] += 1
    path.write_text(json.dumps(report))
    reseal(tree)
    assert list(differing(tree)) == ["report.json follows from the records"]


def test_beside_what_others_have_there(pictures: Path, call: Call, hub: LoopbackHub, me: str) -> None:
    theirs = "configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n"
    info = "dataset_info:\n  features:\n  - name: a\n    dtype: int64\n  splits:\n  - name: train\n    num_bytes: 8\n    num_examples: 3\n"
    files = {"README.md": f"---\n{theirs}{info}---\n# Mine\n".encode(), "data/train-00000.parquet": b"theirs", "notes/big.bin": b"theirs"}
    hub.commit(REPO, files, access="private")
    assert call("publish", str(pictures / "run"), "--to", REPO, "--push")[0] == 0
    code, out, _ = call("verify", REPO)
    assert code == 0, out
    published, _ = fetched(REPO, None, ["README.md"])
    assert (published / "keep-50").exists() and not (published / "data").exists() and not (published / "notes").exists()
    files = hub.files(REPO)
    text = files["README.md"].decode()
    assert "- config_name: default\n  features" in text
    files["README.md"] = text.replace("- config_name: default\n  features", "- features").encode()
    hub.commit(REPO, files)
    code, out, _ = call("verify", REPO)
    assert code == 0, out


def test_a_folder_has_no_revision(tree: Path, call: Call) -> None:
    code, out, err = call("verify", str(tree), "--revision", "0" * 40)
    assert (code, out) == (2, "") and "is a folder here, which has no revision" in err and len(err.splitlines()) == 1


def test_files_that_are_lost_or_cut_off(tree: Path) -> None:
    def changed() -> tuple[str, ...]:
        return _changed_files(tree).details

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
