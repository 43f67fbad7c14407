"""PUBLISH against the loopback Hub, with the real clients: everything lands, and comes back as it was."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Dataset, Image, load_dataset
from huggingface_hub import DatasetCard, HfApi, ModelCard
from PIL import Image as Picture
from transformers import AutoModelForSequenceClassification

from hf_datadiet.errors import PublishError
from hf_datadiet.evidence import require_no_places
from hf_datadiet.recipe_yaml import kept_recipe
from hf_datadiet.store import RunFolder
from tests.hub.server import LoopbackHub
from tests.publish.runs import source_files

Call = Callable[..., tuple[Any, str, str]]
REPO = "me/toys-diet"


def publish(call: Call, place: Path, *words: str) -> dict[str, Any]:
    code, out, err = call("publish", str(place / "run"), "--to", REPO, "--format", "json", f"source.path={place / 'source'}", *words)
    assert code in (0, None), err
    return json.loads(out)


def raw(rows: Dataset) -> list[dict[str, Any]]:
    """Rows with images as the bytes that they are."""
    for name, feature in rows.features.items():
        if isinstance(feature, Image):
            rows = rows.cast_column(name, Image(decode=False))
    return [{key: value["bytes"] if isinstance(value, dict) else value for key, value in row.items()} for row in rows]


def source_split(place: Path, split: str) -> list[dict[str, Any]]:
    return raw(Dataset.from_parquet(str(place / "source" / "data" / f"{split}-00000-of-00001.parquet")))


def test_what_is_published_comes_back(place: Path, call: Call, hub: LoopbackHub, me: str, tmp_path: Path) -> None:
    answer = publish(call, place, "--push")
    sha = answer["pushed"][0]["sha"]
    assert answer["pushed"][0]["private"] and HfApi().dataset_info(REPO).private
    folder = RunFolder(place / "run")
    table, recipe = folder.load_scores(), kept_recipe(place / "run")
    scores = load_dataset(REPO, "scores", split="train", revision=sha, cache_dir=str(tmp_path / "fresh"))
    assert scores["example_id"][:] == table.example_id.tolist()
    for name, column in table.columns.items():
        assert np.array_equal(np.array(scores[name][:], np.float32), column.mean)
        for row, seed in enumerate(table.seeds):
            assert np.array_equal(np.array(scores[f"{name}_seed{seed}"][:], np.float32), column.per_seed[row])
    for name in ("keep-50", "keep-25"):
        loaded = load_dataset(REPO, name, revision=sha, cache_dir=str(tmp_path / "fresh"))
        kept, train = folder.load_selection(name).kept, source_split(place, "train")
        own = list(train[0])
        assert [{key: row[key] for key in own} for row in raw(loaded["train"])] == [train[row] for row in kept]
        assert loaded["train"]["example_id"][:] == kept.tolist()
        at = np.searchsorted(table.example_id, kept)
        assert np.array_equal(np.array(loaded["train"]["el2n"][:], np.float32), table.columns["el2n"].mean[at])
        assert len({tuple(split.column_names) for split in loaded.values()}) == 1
        if recipe.task.kind == "image":
            assert set(loaded) == {"train", "test", "extra"}
            for split in ("test", "extra"):
                assert [{key: row[key] for key in own} for row in raw(loaded[split])] == source_split(place, split)
                assert set(loaded[split]["el2n"][:]) == {None}
        else:
            held = folder.load_evaluation("main").test_id
            assert loaded["test"]["example_id"][:] == held.tolist()
            assert [{key: row[key] for key in own} for row in raw(loaded["test"])] == [train[row] for row in held]
    # Offline, the tree is as good.
    assert raw(load_dataset(answer["tree"], "keep-50", split="train", cache_dir=str(tmp_path / "tree"))) == raw(
        load_dataset(REPO, "keep-50", split="train", revision=sha, cache_dir=str(tmp_path / "fresh"))
    )


def test_one_commit_and_none_the_second_time(place: Path, call: Call, hub: LoopbackHub, me: str) -> None:
    first = publish(call, place, "--push")["pushed"][0]
    assert first["changed"]
    commits = hub.history(REPO)
    # What every repository begins with, then ours.
    assert len(commits) == 2 and "README.md" in commits[-1].files and "README.md" not in commits[0].files
    uploads = [path for method, path in hub.requests if method == "PUT"]
    hub.requests.clear()
    second = publish(call, place, "--push")["pushed"][0]
    assert not second["changed"] and second["sha"] == first["sha"] and len(hub.history(REPO)) == 2
    assert uploads and not [path for method, path in hub.requests if method == "PUT" or "/commit/" in path or "/lfs/" in path]


def test_a_third_selection_later(pictures: Path, call: Call, hub: LoopbackHub, me: str, tmp_path: Path) -> None:
    publish(call, pictures, "--push")
    card = DatasetCard.load(REPO)
    text = card.content.replace("\n# toys-diet", "\n# toys-diet", 1).replace(
        "<!-- hf-datadiet:begin -->", "Mine, above.\n\n<!-- hf-datadiet:begin -->"
    )
    text = text.replace("- config_name: keep-25\n", "- config_name: keep-25\n  description: written by hand\n", 1) + "\nMine, below.\n"
    HfApi().upload_file(path_or_fileobj=text.encode(), path_in_repo="README.md", repo_id=REPO, repo_type="dataset")
    HfApi().upload_file(path_or_fileobj=b"notes", path_in_repo="notes/mine.txt", repo_id=REPO, repo_type="dataset")
    assert call("prune", str(pictures / "run"), "--name", "keep-10", "--score", "forgetting", "--keep", "0.1")[0] in (0, None)
    assert call("evaluate", str(pictures / "run"))[0] in (0, None)
    assert publish(call, pictures, "--push")["pushed"][0]["changed"]
    files = hub.files(REPO)
    assert files["notes/mine.txt"] == b"notes"
    now = files["README.md"].decode()
    assert "Mine, above." in now and now.endswith("Mine, below.\n") and "description: written by hand" in now
    assert now.count("<!-- hf-datadiet:begin -->") == 1 and "**keep-10**" in now
    kept = RunFolder(pictures / "run").load_selection("keep-10").kept
    assert load_dataset(REPO, "keep-10", split="train", cache_dir=str(tmp_path / "fresh"))["example_id"][:] == kept.tolist()
    # A selection that the run has lost stays as it was published, and is named as such.
    shutil.rmtree(pictures / "run" / "selections" / "keep-25")
    shutil.rmtree(pictures / "run" / "evaluations")
    before = {path: data for path, data in files.items() if path.startswith("keep-25/")}
    publish(call, pictures, "--push")
    files = hub.files(REPO)
    assert before and {path: data for path, data in files.items() if path.startswith("keep-25/")} == before
    assert "from earlier publications and not described by this card: `keep-25`" in files["README.md"].decode()
    assert not [path for path in files if path.startswith("evidence/evaluations")], "what no longer belongs to the evidence is gone"


def test_ids_only_holds_nothing_of_the_source(place: Path, call: Call, hub: LoopbackHub, me: str, tmp_path: Path) -> None:
    publish(call, place, "--push", "--ids-only")
    loaded = load_dataset(REPO, "keep-50", cache_dir=str(tmp_path / "fresh"))
    assert set(loaded) == {"train"} and loaded["train"]["example_id"][:] == RunFolder(place / "run").load_selection("keep-50").kept.tolist()
    own = set(source_split(place, "train")[0]) - {"uid"}
    for path, data in hub.files(REPO).items():
        if path.endswith(".parquet"):
            (tmp_path / "x.parquet").write_bytes(data)
            assert not own & set(pq.read_schema(tmp_path / "x.parquet").names), path
        assert "/examples/" not in path
        assert b'"vocab"' not in data.replace(b"\\", b""), "a tokenizer that was learned is made of the words of the source"
    code, out, err = call("verify", REPO, f"source.path={place / 'source'}")
    assert code in (0, None) and "DIFFERS" not in out and "holds    rows are those of the source" in out, out + err
    # Without the source there are no labels to count with, and that is said.
    code, out, err = call("verify", REPO)
    assert code in (0, None) and "unknown  scores, selections, evaluations, report and card" in out, out + err


def test_rows_of_an_earlier_commit_do_not_become_public(pictures: Path, call: Call, hub: LoopbackHub, me: str) -> None:
    """A repository that is made public shows its history."""
    asked = ("publish", str(pictures / "run"), "--to", REPO, "--push", f"source.path={pictures / 'source'}")
    public = ("--ids-only", "--public", "--i-may-share", "cc-by-nd-4.0")
    assert call(*asked)[0] == 0
    code, _, err = call(*asked, *public)
    assert code == 2 and "has, or had, rows of the source, which would become public with it" in err
    assert call(*asked, "--ids-only")[0] == 0
    code, _, err = call(*asked, *public)
    assert code == 2 and "is private and has a past that would become public with it (such as 'Data diet of source: " in err
    assert HfApi().dataset_info(REPO).private and len(hub.history(REPO)) == 3
    # Nor those of a pull request, or of somebody else.
    hub.commit("me/other", {}, access="private")
    assert call(*asked[:3], "me/other", *asked[4:], "--create-pr")[0] == 0
    code, _, err = call(*asked[:3], "me/other", *asked[4:], *public)
    assert code == 2 and "(such as refs/pr/1)" in err
    hub.commit("me/mine", {"notes/patients.csv": b"names"}, access="private")
    code, _, err = call(*asked[:3], "me/mine", *asked[4:], *public)
    assert code == 2 and "(such as 'notes/patients.csv')" in err
    assert all(HfApi().dataset_info(repo).private for repo in ("me/other", "me/mine"))
    assert (
        call("publish", str(pictures / "run"), "--to", "me/ids", "--push", "--ids-only", "--public", "--i-may-share", "cc-by-nd-4.0")[0]
        == 0
    )
    assert not HfApi().dataset_info("me/ids").private


def test_the_lines_of_the_card_work_on_what_is_there(place: Path, call: Call, hub: LoopbackHub, me: str, tmp_path: Path) -> None:
    """The program under "How to load it", as it stands there, but for the source that nobody but its owner has."""
    for words in ((), ("--ids-only", "--to", "me/ids")):
        publish(call, place, "--push", *words)
        repo = "me/ids" if words else REPO
        text = hub.files(repo)["README.md"].decode()
        (program,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
        train = Dataset.from_parquet(str(place / "source" / "data" / "train-00000-of-00001.parquet"))
        found: dict[str, Any] = {"train": train}
        exec(program.replace("source = ...", "source = train"), found)
        assert found["scored"]["example_id"][:] == RunFolder(place / "run").load_scores().example_id.tolist()
        assert raw(found["scored"].select_columns(train.column_names)) == [raw(train)[row] for row in found["scored"]["example_id"]]
        kept = RunFolder(place / "run").load_selection("keep-25").kept.tolist()
        assert found["kept"]["example_id"][:] == kept
        assert not words or raw(found["lean"]) == [raw(train)[row] for row in kept]
    # Which rows the split "test" has is another thing in either run.
    held_out = "Split `test` has the rows of `train` that were held out" in hub.files(REPO)["README.md"].decode()
    assert held_out == (kept_recipe(place / "run").task.kind == "text")


def test_the_report_names_the_files_that_lie_beside_it(place: Path, call: Call) -> None:
    tree = Path(publish(call, place)["tree"])
    rows = re.findall(r"^\| `(.*?)` +\|", (tree / "evidence" / "report.md").read_text().partition("## Files")[2], re.MULTILINE)
    assert "recipe.yaml" in rows and "selections/*/selection.parquet" in rows
    assert [name for name in rows if not list((tree / "evidence").glob(name))] == []
    assert "`seeds.parquet`" in (place / "run" / "report.md").read_text()


def test_small_pictures_are_shown_pixel_by_pixel(pictures: Path, call: Call) -> None:
    tree = Path(publish(call, pictures, "--examples")["tree"])
    rows = Dataset.from_parquet(str(pictures / "source" / "data" / "train-00000-of-00001.parquet"))
    shown = sorted((tree / "evidence" / "examples").glob("*.png"))
    assert len(shown) == 10
    for path in shown:
        pixels = np.asarray(Picture.open(path))
        assert pixels.shape == (128, 128, 3) and np.array_equal(pixels[8::16, 8::16], np.asarray(rows[int(path.stem)]["image"]))
        assert np.array_equal(pixels, pixels[::16, ::16].repeat(16, 0).repeat(16, 1))


@pytest.mark.parametrize(
    ("card", "words", "fault"),
    [
        ("license: cc-by-4.0", ("--public",), "is private"),
        ("license: cc-by-4.0", ("--public", "--i-may-share", "cc-by-nd-4.0"), "allows no derivatives"),
        ("license: cc-by-nd-4.0", ("--public", "--ids-only", "--i-may-share", "cc-by-nd-4.0"), None),
        ("pretty_name: x", ("--public", "--i-may-share", "cc-by-4.0"), None),
        ("pretty_name: x", ("--public",), "is private"),
        ("license: cc-by-4.0", (), None),
    ],
)
def test_licences_of_a_local_source(
    card: str, words: tuple[str, ...], fault: str | None, pictures: Path, call: Call, hub: LoopbackHub, me: str
) -> None:
    (pictures / "source" / "README.md").write_text(f"---\n{card}\n---\n", encoding="utf-8")
    code, _, err = call("publish", str(pictures / "run"), "--to", REPO, "--push", f"source.path={pictures / 'source'}", *words)
    if fault is None:
        assert code in (0, None), err
        assert HfApi().dataset_info(REPO).private != ("--public" in words)
    else:
        assert code == 2 and fault in err and len(err.splitlines()) == 1 and f"datasets/{REPO}" not in hub.repos
        assert not (pictures / "run" / "published").exists()


@pytest.mark.parametrize(
    ("access", "words", "fault", "private", "gated"),
    [
        ("public", (), None, True, False),
        ("public", ("--public",), None, False, False),
        ("gated", (), None, True, "manual"),
        ("gated", ("--public",), None, False, "manual"),
        ("private", (), None, True, False),
        ("private", ("--public",), "the source is private", None, None),
        ("private", ("--public", "--i-may-share", "cc-by-4.0"), None, False, False),
    ],
)
def test_a_source_on_the_hub(
    access: Any,
    words: tuple[str, ...],
    fault: str | None,
    private: bool | None,
    gated: Any,
    pictures: Path,
    call: Call,
    hub: LoopbackHub,
    me: str,
) -> None:
    hub.commit("org/toys", source_files(pictures), access=access)
    hub.repo("org/toys").readers |= {"me"}
    source = ("source.path=null", "source.repo=org/toys")
    code, _, err = call("publish", str(pictures / "run"), "--to", REPO, "--push", *source, *words)
    if fault is not None:
        assert code == 2 and fault in err and f"datasets/{REPO}" not in hub.repos
        return
    assert code in (0, None), err
    info = HfApi().dataset_info(REPO)
    assert info.private == private and info.gated == gated
    card = DatasetCard.load(REPO).data.to_dict()
    assert card["source_datasets"] == ["org/toys"] and card["license"] == "cc-by-4.0" and card["language"] == ["en"]
    shown = [path for path in hub.files(REPO) if "/examples/" in path]
    assert bool(shown) == (access == "public"), "rows are shown by default only where everybody may read them"


@pytest.mark.parametrize("words", [(), ("--ids-only",)])
def test_the_code_of_the_card_works(words: tuple[str, ...], pictures: Path, call: Call, hub: LoopbackHub, me: str) -> None:
    sha = hub.commit("org/toys", source_files(pictures))
    asked = yaml.safe_load((pictures / "mine.yaml").read_text())
    asked["source"] = {**asked["source"], "path": None, "repo": "org/toys"}
    (pictures / "hub.yaml").write_text(yaml.safe_dump(asked))
    assert call("run", str(pictures / "hub.yaml"), "--out", str(pictures / "second"))[0] == 0
    code, _, err = call("publish", str(pictures / "second"), "--to", REPO, "--push", *words)
    assert code == 0, err
    block = re.search(r"```python\n(.*?)```", hub.files(REPO)["README.md"].decode(), re.DOTALL)
    assert block is not None and f'revision="{sha}"' in block[1]
    names: dict[str, Any] = {}
    exec(block[1], names)
    kept, table = RunFolder(pictures / "second").load_selection("keep-25").kept, RunFolder(pictures / "second").load_scores()
    assert names["kept"]["example_id"][:] == kept.tolist()
    assert np.array_equal(np.array(names["scored"]["el2n"][:], np.float32), table.columns["el2n"].mean)
    assert {"image", "label", "uid", "example_id", "el2n"} <= set(names["scored"].column_names)
    if words:
        assert raw(names["lean"]) == [source_split(pictures, "train")[row] for row in kept]


def test_a_dry_run_and_a_pull_request(pictures: Path, call: Call, hub: LoopbackHub, me: str) -> None:
    plan = publish(call, pictures, "--dry-run")["planned"][0]
    assert plan["creates"] and plan["private"] and f"datasets/{REPO}" not in hub.repos
    assert {"README.md", "scores/train-00000-of-00001.parquet"} <= {each["path"] for each in plan["operations"]}
    assert all(each["kind"] == "add" and each["size"] > 0 for each in plan["operations"])
    publish(call, pictures, "--push")
    assert {each["kind"] for each in publish(call, pictures, "--dry-run")["planned"][0]["operations"]} == {"unchanged"}
    hub.commit("me/other", {"README.md": b"# Other\n"})
    code, out, err = call(
        "publish",
        str(pictures / "run"),
        "--to",
        "me/other",
        "--push",
        "--public",
        "--create-pr",
        "--i-may-share",
        "mit",
        "--format",
        "json",
    )
    assert code in (0, None), err
    assert json.loads(out)["pushed"][0]["pull_request"] and set(hub.files("me/other")) == {".gitattributes", "README.md"}


def test_what_lies_there_is_not_overwritten(pictures: Path, text_run: Path, call: Call, hub: LoopbackHub, me: str) -> None:
    hub.commit(REPO, {"scores/train-00000-of-00001.parquet": b"mine", "README.md": b"# Mine\n"}, access="private")
    code, _, err = call("publish", str(pictures / "run"), "--to", REPO, "--push")
    assert code == 2 and "scores/train-00000-of-00001.parquet that no publication wrote" in err
    code, _, err = call("publish", str(pictures / "run"), "--to", "me/b", "--push")
    assert code in (0, None), err
    code, _, err = call("publish", str(text_run / "run"), "--to", "me/b", "--push", "--out", str(pictures / "elsewhere"))
    assert code == 2 and "me/b holds the scores of another source" in err
    # Selections by other scores of the same rows would rest on nothing.
    again = ("score.seeds=1", "prune=[{name: keep-10, score: el2n, keep: 0.1}]")
    assert call("run", str(pictures / "mine.yaml"), "--out", str(pictures / "again"), *again)[0] == 0
    code, _, err = call("publish", str(pictures / "again"), "--to", "me/b", "--push")
    assert code == 2 and "me/b has selections by other scores (keep-25), which would lose them" in err
    hub.commit("me/data", {"data/train.csv": b"a,b\n1,2\n", "README.md": b"# Data\n"}, access="private")
    code, _, err = call("publish", str(pictures / "run"), "--to", "me/data", "--push")
    assert code == 2 and "the data of me/data (data/train.csv) would no longer be found" in err
    (pictures / "full").mkdir()
    (pictures / "full" / "x").write_text("x")
    code, _, err = call("publish", str(pictures / "run"), "--to", "me/c", "--out", str(pictures / "full"))
    assert code == 2 and "is there already and is no publication" in err and (pictures / "full" / "x").exists()


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("trained on /app/data", True),
        ("of /app", True),
        ("org/apple-pies", False),
        ("my/app", False),
        ("/app.old", False),
        ("transformers:/srv/acme/vit", True),
        ("/srv/acme/vit-b", False),
    ],
)
def test_records_name_no_folder_of_the_machine(said: str, named: bool, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "evidence").mkdir()
    (tmp_path / "evidence" / "report.md").write_text(said)
    recipe = kept_recipe(pictures / "run", ["task.model=transformers:/srv/acme/vit"])
    with pytest.raises(PublishError, match="would publish the name of a folder here") if named else nullcontext():
        require_no_places(tmp_path / "evidence", recipe, [Path("/app"), Path("/")])


def test_a_model_of_somebody_else_stays(pictures: Path, call: Call, hub: LoopbackHub, me: str) -> None:
    """And none of the others is pushed then."""
    assert call("evaluate", str(pictures / "run"), "evaluate.keep_weights=true")[0] == 0
    hub.commit("models/me/toys-diet-keep-50", {"model.safetensors": b"mine", "README.md": b"# Mine\n"}, access="private")
    before = dict(hub.repos)
    code, _, err = call("publish", str(pictures / "run"), "--to", REPO, "--push", "--push-models")
    assert code == 2 and "me/toys-diet-keep-50 has a file model.safetensors that no publication wrote" in err
    assert hub.repos == before and hub.files("models/me/toys-diet-keep-50")["model.safetensors"] == b"mine"
    # Nor where the dataset's repository is another's.
    hub.commit("me/b", {"scores/train-00000-of-00001.parquet": b"mine"}, access="private")
    code, _, err = call("publish", str(pictures / "run"), "--to", "me/b", "--push", "--push-models")
    assert code == 2 and "that no publication wrote" in err and not [name for name in hub.repos if name.startswith("models/me/b")]


def test_models_go_along(place: Path, call: Call, hub: LoopbackHub, me: str, tmp_path: Path) -> None:
    code, _, err = call("publish", str(place / "run"), "--to", REPO, "--push", "--push-models", f"source.path={place / 'source'}")
    assert code == 2 and "evaluate.keep_weights=true" in err and not (place / "run" / "published").exists()
    assert call("evaluate", str(place / "run"), "evaluate.keep_weights=true", f"source.path={place / 'source'}")[0] == 0
    answer = publish(call, place, "--push", "--push-models")
    assert [pushed["repo"] for pushed in answer["pushed"]] == ["me/toys-diet-keep-25", "me/toys-diet-keep-50", REPO]
    assert all(pushed["private"] and pushed["changed"] for pushed in answer["pushed"])
    card = hub.files(REPO)["README.md"].decode()
    for name in ("keep-25", "keep-50"):
        files = hub.files(f"models/me/toys-diet-{name}")
        assert {"README.md", "model.safetensors"} <= set(files)
        about = ModelCard(files["README.md"].decode()).data
        assert REPO in about.datasets and about.eval_results
        assert f"https://huggingface.co/me/toys-diet-{name}" in card
        assert f"https://huggingface.co/datasets/{REPO}" in files["README.md"].decode()
    if kept_recipe(place / "run").task.kind == "text":
        model = AutoModelForSequenceClassification.from_pretrained("me/toys-diet-keep-50", cache_dir=str(tmp_path / "models"))
        assert model.config.num_labels == 2
    assert not [pushed for pushed in publish(call, place, "--push", "--push-models")["pushed"] if pushed["changed"]]
    code, out, err = call("verify", REPO, f"source.path={place / 'source'}")
    assert code == 0, out + err
