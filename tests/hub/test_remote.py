from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from datasets import ClassLabel, load_dataset
from huggingface_hub import constants

from hf_datadiet import cli
from hf_datadiet.errors import SourceError
from hf_datadiet.hub.remote import snapshot
from hf_datadiet.hub.source import Pinned, content_digest, pin
from hf_datadiet.recipe import HeldOut, SourceSpec
from hf_datadiet.store import RunFolder
from hf_datadiet.tasks.image import ImageTask
from hf_datadiet.tasks.text import TextTask
from tests.hub.server import LoopbackHub
from tests.synthetic import CLASSES, pictures

REPO = "org/toys"


def card(*configs: dict[str, object], **more: object) -> bytes:
    return f"---\n{yaml.safe_dump({'configs': list(configs), **more} if configs else more)}---\n# Toys\n".encode()


def parquet(path: Path, seed: int, n: int = 12) -> bytes:
    pictures(n, seed=seed).to_parquet(str(path / "x.parquet"))
    return (path / "x.parquet").read_bytes()


def csv(*rows: tuple[str, object]) -> bytes:
    return "\n".join(["text,label", *(f"{text},{label}" for text, label in rows)]).encode()


SPORT = csv(("a goal", "ball"), ("a mast", "boat"), ("a net", "ball"), ("a sail", "boat"))
MANY = {
    "README.md": card(
        {"config_name": "huge", "data_files": "huge/*.parquet"},
        {"config_name": "pictures", "data_files": [{"split": "train", "path": "data/train-*"}, {"split": "test", "path": "data/test-*"}]},
        {"config_name": "texts", "data_files": [{"split": "train", "path": "**/semi.csv"}], "sep": ";"},
        {"config_name": "inside", "data_dir": "inside"},
    ),
    "huge/0.parquet": b"never asked for",
    "semi.csv": SPORT.replace(b",", b";"),
    "inside/train.csv": SPORT,
}


def opened(task: ImageTask | TextTask, **keys: object) -> Pinned:
    return pin(SourceSpec(repo=REPO, **keys), task.find_columns)  # pyright: ignore[reportArgumentType]


def test_a_branch_is_pinned_to_its_commit(hub: LoopbackHub, tmp_path: Path) -> None:
    first = hub.commit(REPO, {"data/train.parquet": parquet(tmp_path, 1), "data/test.parquet": parquet(tmp_path, 2, 6)}, tags=["v1"])
    pinned = opened(ImageTask(), test=HeldOut(split="test"))
    record = pinned.record
    assert (record.name, record.config, record.revision, record.n_rows) == (REPO, None, first, 12)
    assert record.digest == content_digest(pictures(12, seed=1), record.columns) and record.classes == CLASSES
    assert record.test_digest == content_digest(pictures(6, seed=2), record.columns)

    second = hub.commit(REPO, {"data/train.parquet": parquet(tmp_path, 3, 9)})
    assert opened(ImageTask()).record.revision == second and opened(ImageTask()).record.n_rows == 9
    for revision in (first, "v1"):
        again = opened(ImageTask(), revision=revision).record
        assert (again.revision, again.digest) == (first, record.digest)
    assert opened(ImageTask(), revision="main").record.n_rows == 9


@pytest.mark.parametrize(("config", "task", "files"), [("pictures", ImageTask(), "data/"), ("inside", TextTask(), "inside/")])
def test_only_the_files_of_the_config_are_brought(hub: LoopbackHub, tmp_path: Path, config: str, task: ImageTask, files: str) -> None:
    """The first config of the card, whose files would be needed to find its reader, is not the one asked for."""
    data = {f"data/{name}-00000-of-00001.parquet": parquet(tmp_path, seed) for seed, name in enumerate(("train", "test"))}
    hub.commit(REPO, MANY | data)
    record = opened(task, config=config).record
    assert record.config == config
    got = {path.partition("/resolve/")[2].partition("/")[2] for method, path in hub.requests if method == "GET" and "/resolve/" in path}
    assert got and all(path.startswith(files) for path in got - {"README.md", ".gitattributes"})


def test_what_the_card_says_of_a_config_holds(hub: LoopbackHub) -> None:
    """Its separator, a pattern that stands for no folder too, and the classes that only the card names."""
    features = [{"name": "text", "dtype": "string"}, {"name": "label", "dtype": {"class_label": {"names": {"0": "boat", "1": "ball"}}}}]
    named = MANY["README.md"].replace(
        b"---\n# Toys", yaml.safe_dump({"dataset_info": [{"config_name": "texts", "features": features}]}).encode() + b"---\n# Toys"
    )
    for readme, classes, label in [(MANY["README.md"], ("ball", "boat"), [0, 1, 0, 1]), (named, ("boat", "ball"), [1, 0, 1, 0])]:
        hub.commit(REPO, {**MANY, "README.md": readme})
        pinned = opened(TextTask(), config="texts")
        assert pinned.record.classes == classes and pinned.label.tolist() == label
        assert isinstance(pinned.dataset.features["label"], ClassLabel) == (readme is named)


def test_what_is_cached_needs_no_network(hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = hub.commit(REPO, {"train.parquet": parquet(tmp_path, 1)})
    digest = opened(ImageTask()).record.digest
    asked = len(hub.requests)
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        for revision in (None, "main", first):
            record = opened(ImageTask(), revision=revision).record
            assert (record.revision, record.digest) == (first, digest)
        for revision in ("v1", "0" * 40):
            with pytest.raises(SourceError, match=f"{REPO} at {revision} is not whole in the cache and the Hub cannot be reached"):
                opened(ImageTask(), revision=revision)
    assert len(hub.requests) == asked
    second = hub.commit(REPO, {"train.parquet": parquet(tmp_path, 2)})
    hub.fail("GET", "/resolve/", None)
    assert opened(ImageTask(), revision=first).record.digest == digest, "whole: nothing is asked for"
    with pytest.raises(SourceError, match=f"{REPO} at {second} cannot be downloaded"):
        opened(ImageTask())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match=f"{REPO} at {second} is not whole in the cache"):
        opened(ImageTask(), revision=second)


def test_what_the_hub_refuses_is_one_line(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.commit(REPO, MANY)
    hub.commit("org/gated", {"train.parquet": b""}, access="gated")
    hub.commit("org/secret", {"train.parquet": b""}, access="private")
    hub.commit("org/script", {"script.py": b"raise SystemExit('executed')", "README.md": card()})
    hub.commit("org/odd", {"README.md": card({"config_name": "a", "data_files": 3})})
    hub.commit("org/broken", {"README.md": card({"config_name": "a", "data_files": "a.parquet"}), "a.parquet": b"no parquet at all"})
    hub.commit("org/down", {"train.parquet": b""})
    hub.fail("GET", "org/down/tree", 503)
    for repo, keys, message in [
        ("org/none", {}, "the Hub has no dataset org/none, or it is private; check its name, or log in: hf auth login"),
        ("org/secret", {}, "the Hub has no dataset org/secret, or it is private"),
        ("org/gated", {}, "org/gated is gated; ask for access on its page, then log in: hf auth login"),
        (REPO, {"revision": "v9"}, "org/toys has no revision 'v9'; name a branch, a tag or a whole commit sha"),
        (REPO, {"revision": "0" * 40}, f"org/toys has no revision '{'0' * 40}'"),
        (REPO, {}, "org/toys has several configs; set source.config to one of: huge, pictures, texts, inside"),
        (REPO, {"config": "text"}, "org/toys has no config 'text'; set source.config to one of: huge"),
        ("org/broken", {}, "cannot read org/broken: "),
        ("org/script", {}, "cannot read org/script: "),
        ("org/odd", {}, "the card of org/odd cannot be understood: "),
        ("org/down", {}, "org/down"),
        ("no name/at all", {}, "'no name/at all' is no name of a dataset on the Hub; write org/name"),
    ]:
        with pytest.raises(SourceError) as error:
            pin(SourceSpec(repo=repo, **keys), ImageTask().find_columns)
        assert message in str(error.value) and "\n" not in str(error.value)
        assert str(tmp_path) not in str(error.value)


def test_a_token_opens_what_is_gated_and_is_never_shown(hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.commit("org/gated", {"train.parquet": parquet(tmp_path, 1)}, access="gated")
    token = hub.user("reader")
    hub.log_in(monkeypatch, token)
    with pytest.raises(SourceError, match="is gated") as error:
        snapshot("org/gated", None, None)
    assert token in hub.tokens and token not in repr(error.value)
    hub.repo("org/gated").readers.add("reader")
    assert (snapshot("org/gated", None, None).folder / "train.parquet").exists()


RECIPE = """
source: {repo: org/toys, test: {fraction: 0.5}}
task: {kind: image, model: timm:test_resnet, training: {epochs: 1, batch_size: 8}}
score: {seeds: 1}
"""


def test_a_run_stays_with_its_commit(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the command line: the branch moves between scoring and pruning."""
    first = hub.commit(REPO, {"train.parquet": parquet(tmp_path, 1, 24)})
    (tmp_path / "toy.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)

    def said(*words: str) -> tuple[object, str, str]:
        monkeypatch.setattr("sys.argv", ["hf-datadiet", *words])
        try:
            cli.main()
        except SystemExit as end:
            return end.code, *capsys.readouterr()
        return 0, *capsys.readouterr()

    assert said("score", "toy.yaml", "--out", "run")[0] == 0
    assert yaml.safe_load(Path("run/recipe.yaml").read_text())["source"]["revision"] == first
    second = hub.commit(REPO, {"train.parquet": parquet(tmp_path, 2, 24)})
    code, out, err = said("score", "toy.yaml", "--out", "run")
    assert code == 2 and out == "" and err.count("\n") == 1
    assert f"source_revision: {first} there, {second} asked" in err, "so that the user can ask for the first"
    assert said("prune", "run", "--name", "a", "--score", "el2n", "--keep", "3", "--write", "parquet")[0] == 0
    kept = RunFolder("run").load_selection("a").kept.tolist()
    written = load_dataset("run/selections/a/dataset")["train"]
    assert written["example_id"] == kept and written["label"] == [row % 3 for row in kept]
    third = hub.commit(REPO, {"train.parquet": hub.files(REPO, first)["train.parquet"], "README.md": b"# Toys"})
    assert said("score", "toy.yaml", "--out", "run", f"source.revision={third}")[0] == 0, "another commit, the same content"


def test_the_library_reads_the_same_files(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.commit(REPO, MANY | {"data/train-0.parquet": parquet(tmp_path, 5), "data/test-0.parquet": parquet(tmp_path, 6)})
    pinned = opened(ImageTask(), config="pictures")
    (tmp_path / "copy").mkdir()
    for name in ("train-0", "test-0"):
        (tmp_path / "copy" / f"{name}.parquet").write_bytes(hub.files(REPO, pinned.record.revision or "")[f"data/{name}.parquet"])
    expected = load_dataset(str(tmp_path / "copy"))["train"]
    assert pinned.dataset.features == expected.features and pinned.dataset["label"] == expected["label"]
