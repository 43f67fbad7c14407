"""The loopback Hub against the real client: what it does on huggingface.co, it does here."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download, snapshot_download

from tests.hub.server import LoopbackHub

PARQUET = b"PAR1 is no text \0\xff"


@pytest.fixture
def me(hub: LoopbackHub) -> HfApi:
    return HfApi(token=hub.user("me", orgs=["team"]))


def test_published_and_read_back(hub: LoopbackHub, me: HfApi, tmp_path: Path) -> None:
    url = me.create_repo("me/toys", repo_type="dataset", private=True)
    assert url.repo_id == "me/toys" and me.dataset_info("me/toys").private
    files = {"README.md": b"---\nlicense: mit\n---\n# Toys\n", "data/a.parquet": PARQUET, "data/b.csv": b"x\n1\n", "c.bin": b""}
    (tmp_path / "a.parquet").write_bytes(PARQUET)
    operations = [CommitOperationAdd(path, data) for path, data in files.items() if path != "data/a.parquet"]
    operations.append(CommitOperationAdd("data/a.parquet", tmp_path / "a.parquet"))
    done = me.create_commit("me/toys", operations, commit_message="toys", repo_type="dataset")
    assert done.oid == me.repo_info("me/toys", repo_type="dataset").sha
    assert {path: data for path, data in hub.files("me/toys").items() if path != ".gitattributes"} == files
    first, last = hub.history("me/toys")
    assert set(first.files) == {".gitattributes"} and (last.parent, last.sha, last.title, last.author) == (
        first.sha,
        done.oid,
        "toys",
        "me",
    )
    listed = {entry.path: entry for entry in me.list_repo_tree("me/toys", recursive=True, repo_type="dataset")}
    assert set(listed) == {".gitattributes", "data", *files} and listed["data/a.parquet"].lfs.size == len(PARQUET)
    for path, data in files.items():
        assert Path(hf_hub_download("me/toys", path, repo_type="dataset", token=me.token)).read_bytes() == data
    folder = Path(snapshot_download("me/toys", repo_type="dataset", token=me.token, cache_dir=tmp_path / "fresh"))
    assert {path: (folder / path).read_bytes() for path in files} == files
    me.create_commit("me/toys", [CommitOperationDelete("data/")], commit_message="away", repo_type="dataset")
    assert set(hub.files("me/toys")) == {".gitattributes", "README.md", "c.bin"}
