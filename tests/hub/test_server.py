"""The loopback Hub against the real client: what it does on huggingface.co, it does here."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from datasets import Dataset, DatasetDict, Image, load_dataset
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    get_hf_file_metadata,
    get_session,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
)
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.lfs import UploadInfo, post_lfs_batch_info

from tests.hub.server import LoopbackHub
from tests.synthetic import pictures

PARQUET = b"PAR1 is no text \0\xff"
CARD = b"---\nlicense: mit\n---\n# Toys\n"
FILES = {"README.md": CARD, "data/a.png": PARQUET, "data/b.csv": b"x\n1\n", "c.bin": b"", "d e/\u00e9+%.txt": "\u00e9".encode() * 400}


@pytest.fixture
def me(hub: LoopbackHub) -> HfApi:
    return HfApi(token=hub.user("me", orgs=["team"]))


@pytest.fixture
def other(hub: LoopbackHub) -> HfApi:
    return HfApi(token=hub.user("other"))


def put(api: HfApi, repo: str, files: dict[str, bytes], type: str = "dataset", **more: object) -> str:
    operations = [CommitOperationAdd(path, data) for path, data in files.items()]
    return api.create_commit(repo, operations, commit_message="put", repo_type=type, **more).oid  # pyright: ignore[reportCallIssue, reportArgumentType]


def own(hub: LoopbackHub, repo: str, revision: str = "main") -> dict[str, bytes]:
    """Its files, without the one that every repository begins with."""
    return {path: data for path, data in hub.files(repo, revision).items() if path != ".gitattributes"}


def asked(hub: LoopbackHub, method: str) -> list[str]:
    return [path for name, path in hub.requests if name == method]


def test_who_somebody_is(hub: LoopbackHub, me: HfApi) -> None:
    said = me.whoami()
    assert said["name"] == "me" and [org["name"] for org in said["orgs"]] == ["team"]
    assert hub.user("me") == me.token, "the same token each time"
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        HfApi(token="hf_nobody").whoami()
    with pytest.raises(HfHubHTTPError, match="401"):
        HfApi(token="hf_nobody").dataset_info("me/toys")


@pytest.mark.parametrize("type", ["dataset", "model"])
def test_published_and_read_back(hub: LoopbackHub, me: HfApi, tmp_path: Path, type: str) -> None:
    name = "me/toys" if type == "dataset" else "models/me/toys"
    url = me.create_repo("me/toys", repo_type=type, private=True)
    assert (url.repo_id, url.repo_type) == ("me/toys", type) and me.repo_info("me/toys", repo_type=type).private
    assert [*hub.repos] == [f"{type}s/me/toys"], "the other type is another repository"
    (tmp_path / "a.parquet").write_bytes(PARQUET)
    operations = [CommitOperationAdd(path, data) for path, data in FILES.items() if data is not PARQUET]
    operations.append(CommitOperationAdd("data/a.png", tmp_path / "a.parquet"))
    done = me.create_commit("me/toys", operations, commit_message="toys", commit_description="more", repo_type=type)
    assert done.oid == me.repo_info("me/toys", repo_type=type).sha and own(hub, name) == FILES

    first, last = hub.history(name)
    assert set(first.files) == {".gitattributes"} and last.parent == first.sha
    told = me.list_repo_commits("me/toys", repo_type=type)
    assert [(commit.commit_id, commit.title, commit.message, commit.authors) for commit in told] == [
        (done.oid, "toys", "more", ["me"]),
        (first.sha, "initial commit", "", ["me"]),
    ]
    listed = {entry.path: entry for entry in me.list_repo_tree("me/toys", recursive=True, repo_type=type)}
    assert set(listed) == {".gitattributes", "data", "d e", *FILES}
    top = {entry.path for entry in me.list_repo_tree("me/toys", repo_type=type)}
    assert top == {".gitattributes", "README.md", "c.bin", "d e", "data"}
    assert {entry.path for entry in me.list_repo_tree("me/toys", "data", repo_type=type)} == {"data/a.png", "data/b.csv"}
    assert {entry.path for entry in me.get_paths_info("me/toys", ["data", "c.bin", "none"], repo_type=type)} == {"data", "c.bin"}
    beside = [path for path, entry in listed.items() if getattr(entry, "lfs", None)]
    assert beside == ["data/a.png"] and len(asked(hub, "PUT")) == 1, "no text; what is empty is no LFS file"

    head = get_hf_file_metadata(hf_hub_url("me/toys", "data/a.png", repo_type=type), token=me.token)
    assert (head.commit_hash, head.etag, head.size) == (done.oid, hashlib.sha256(PARQUET).hexdigest(), len(PARQUET))
    for path, data in FILES.items():
        assert Path(hf_hub_download("me/toys", path, repo_type=type, token=me.token)).read_bytes() == data
    folder = Path(snapshot_download("me/toys", repo_type=type, token=me.token, local_dir=tmp_path / "fresh"))
    assert {path: (folder / path).read_bytes() for path in FILES} == FILES
    checked = me.verify_repo_checksums("me/toys", repo_type=type, local_dir=folder)
    assert checked.checked_count == 1 + len(FILES) and not checked.mismatches and not checked.missing_paths, "as the client hashes them"


def test_what_lies_beside_git(hub: LoopbackHub, me: HfApi) -> None:
    """What .gitattributes names, what is no text, and what is large; it is uploaded with a signature, not with a token."""
    me.create_repo("me/toys", repo_type="dataset")
    beside = {"a.png": b"text", "b": b"\0", "c": b"\xff", "d": b"x" * 10_000_001}
    put(me, "me/toys", {**beside, "e": b"x" + "\u00e9".encode() * 300, "f.txt": b"x" * 9_999_999})
    listed = me.list_repo_tree("me/toys", repo_type="dataset")
    assert {entry.path for entry in listed if getattr(entry, "lfs", None)} == set(beside) and len(asked(hub, "PUT")) == 4
    head = get_session().head(f"{hub.url}/datasets/me/toys/resolve/main/a.png").headers
    assert head["X-Linked-Etag"] == f'"{hashlib.sha256(b"text").hexdigest()}"' and head["X-Linked-Size"] == head["Content-Length"] == "4"

    infos = [UploadInfo.from_bytes(b"text"), UploadInfo.from_bytes(b"new")]
    (stored, wanted), _, _ = post_lfs_batch_info(infos, me.token, "dataset", "me/toys", "main")  # pyright: ignore[reportArgumentType]
    assert "actions" not in stored
    href = wanted["actions"]["upload"]["href"]
    for status, url, headers, data in [
        (403, href, {"Authorization": f"Bearer {me.token}"}, b"new"),
        (403, href.split("?")[0], {}, b"new"),
        (400, href, {}, b"old"),
        (200, href, {}, b"new"),
    ]:
        assert get_session().put(url, headers=headers, content=data).status_code == status


def test_operations_in_their_order(hub: LoopbackHub, me: HfApi) -> None:
    me.create_repo("me/toys", repo_type="dataset")
    put(me, "me/toys", FILES)
    operations = [
        CommitOperationCopy("data/a.png", "moved.parquet"),
        CommitOperationCopy("README.md", "copy.md"),
        CommitOperationDelete("data/"),
        CommitOperationDelete("c.bin"),
        CommitOperationAdd("data/new.csv", b"1"),
    ]
    me.create_commit("me/toys", operations, commit_message="away", repo_type="dataset")
    expected = {
        "README.md": CARD,
        "copy.md": CARD,
        "moved.parquet": PARQUET,
        "data/new.csv": b"1",
        "d e/\u00e9+%.txt": FILES["d e/\u00e9+%.txt"],
    }
    assert own(hub, "me/toys") == expected and len(asked(hub, "PUT")) == 1
    with pytest.raises(HfHubHTTPError, match="A file with this name doesn't exist"):
        me.delete_file("none.csv", "me/toys", repo_type="dataset")
    assert len(hub.history("me/toys")) == 3


def test_what_is_there_is_not_sent_again(hub: LoopbackHub, me: HfApi, tmp_path: Path) -> None:
    me.create_repo("me/toys", repo_type="dataset")
    for path, data in FILES.items():
        (tmp_path / "tree" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / path).write_bytes(data)
    done = me.upload_folder(repo_id="me/toys", folder_path=tmp_path / "tree", repo_type="dataset")
    assert own(hub, "me/toys") == FILES and len(asked(hub, "PUT")) == 1
    again = me.upload_folder(repo_id="me/toys", folder_path=tmp_path / "tree", repo_type="dataset")
    assert again.oid == done.oid and len(hub.history("me/toys")) == 2
    put(me, "me/toys", {"under/another/name.parquet": PARQUET})
    assert len(asked(hub, "PUT")) == 1 and own(hub, "me/toys")["under/another/name.parquet"] == PARQUET
    put(me, "me/toys", {".gitignore": b"*.tmp\n", "a.tmp": b"ignored", "b.tmp.txt": b"not so"})
    assert {".gitignore", "b.tmp.txt"} < set(own(hub, "me/toys")) and "a.tmp" not in own(hub, "me/toys")


def test_a_stale_parent(hub: LoopbackHub, me: HfApi) -> None:
    me.create_repo("me/toys", repo_type="dataset")
    first = hub.history("me/toys")[-1].sha
    second = put(me, "me/toys", {"a.txt": b"1"}, parent_commit=first)
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as error:
        put(me, "me/toys", {"b.txt": b"2"}, parent_commit=first)
    assert error.value.response.status_code == 412 and hub.history("me/toys")[-1].sha == second
    third = put(me, "me/toys", {"b.txt": b"2"}, parent_commit=second[:8])
    put(me, "me/toys", {"c.txt": b"3"}, parent_commit=first, create_pr=True)
    assert own(hub, "me/toys", "refs/pr/1") == {"c.txt": b"3"} and hub.history("me/toys")[-1].sha == third, "it begins there"


def test_names_that_are_taken_or_not_theirs(hub: LoopbackHub, me: HfApi, other: HfApi) -> None:
    for repo in ("me/toys", "team/toys", "toys2"):
        me.create_repo(repo, repo_type="dataset")
    assert {*hub.repos} == {"datasets/me/toys", "datasets/team/toys", "datasets/me/toys2"}
    with pytest.raises(HfHubHTTPError, match="already created"):
        me.create_repo("me/toys", repo_type="dataset")
    assert me.create_repo("me/toys", repo_type="dataset", private=True, exist_ok=True).repo_id == "me/toys"
    assert not me.dataset_info("me/toys").private, "what is there keeps its visibility"
    reader = HfApi(token=hub.user("me", writes=False))
    for api, refused in [(other, "me/mine"), (other, "team/mine"), (reader, "me/mine")]:
        with pytest.raises(HfHubHTTPError, match="403"):
            api.create_repo(refused, repo_type="dataset")
    for api in (other, reader):
        with pytest.raises(HfHubHTTPError, match="403"):
            put(api, "me/toys", {"a.parquet": PARQUET})
        with pytest.raises(HfHubHTTPError, match="403"):
            api.update_repo_settings("me/toys", repo_type="dataset", private=True)
        with pytest.raises(HfHubHTTPError, match="403"):
            api.delete_repo("me/toys", repo_type="dataset")
    put(me, "team/toys", {"a.parquet": PARQUET})
    me.delete_repo("me/toys", repo_type="dataset")
    assert not me.repo_exists("me/toys", repo_type="dataset") and len(hub.repos) == 2


def test_private_and_gated(hub: LoopbackHub, me: HfApi, other: HfApi) -> None:
    me.create_repo("me/toys", repo_type="dataset", private=True)
    put(me, "me/toys", FILES)
    nobody = HfApi(token=False)

    def read(api: HfApi) -> bool:
        api.auth_check("me/toys", repo_type="dataset")
        path = hf_hub_download("me/toys", "data/a.png", repo_type="dataset", token=api.token, force_download=True)
        return Path(path).read_bytes() == PARQUET

    for api in (other, nobody):
        for ask in (read, lambda api: api.dataset_info("me/toys"), lambda api: put(api, "me/toys", {"a": b""}, create_pr=True)):
            with pytest.raises(RepositoryNotFoundError) as error:
                ask(api)
            assert not isinstance(error.value, GatedRepoError)
    assert read(me)
    me.update_repo_settings("me/toys", repo_type="dataset", private=False)
    assert read(nobody)
    for gate in ("auto", "manual"):
        me.update_repo_settings("me/toys", repo_type="dataset", gated=gate)
        assert other.dataset_info("me/toys").gated == gate
        for api in (other, nobody):
            with pytest.raises(GatedRepoError):
                read(api)
    assert read(me)
    hub.repo("me/toys").readers.add("other")
    assert read(other)
    me.update_repo_settings("me/toys", repo_type="dataset", gated=False)
    assert read(nobody)


def test_pull_requests(hub: LoopbackHub, me: HfApi, other: HfApi) -> None:
    me.create_repo("me/toys", repo_type="dataset")
    main = put(me, "me/toys", {"a.txt": b"1", "b.txt": b"1"})
    done = other.create_commit(
        "me/toys", [CommitOperationAdd("c.parquet", PARQUET)], commit_message="more", repo_type="dataset", create_pr=True
    )
    assert (done.pr_revision, done.pr_num) == ("refs/pr/1", 1) and hub.history("me/toys")[-1].sha == main
    last = put(other, "me/toys", {"d.parquet": PARQUET[1:]}, revision="refs/pr/1")
    assert own(hub, "me/toys", "refs/pr/1") == {"a.txt": b"1", "b.txt": b"1", "c.parquet": PARQUET, "d.parquet": PARQUET[1:]}
    with pytest.raises(HfHubHTTPError, match="403"):
        put(HfApi(token=hub.user("third")), "me/toys", {"e.txt": b""}, revision="refs/pr/1")
    refs = me.list_repo_refs("me/toys", repo_type="dataset", include_pull_requests=True)
    assert [(ref.ref, ref.target_commit) for ref in refs.pull_requests or ()] == [("refs/pr/1", last)]
    assert [(ref.name, ref.target_commit) for ref in refs.branches] == [("main", main)]

    put(me, "me/toys", {"a.txt": b"2"})
    [pull] = me.get_repo_discussions("me/toys", repo_type="dataset", discussion_status="open", author="other")
    assert (pull.num, pull.title, pull.is_pull_request) == (1, "more", True)
    with pytest.raises(HfHubHTTPError, match="403"):
        other.merge_pull_request("me/toys", 1, repo_type="dataset")
    me.merge_pull_request("me/toys", 1, repo_type="dataset")
    assert own(hub, "me/toys") == {"a.txt": b"2", "b.txt": b"1", "c.parquet": PARQUET, "d.parquet": PARQUET[1:]}
    assert me.get_discussion_details("me/toys", 1, repo_type="dataset").status == "merged"


def test_branches_and_tags(hub: LoopbackHub, me: HfApi) -> None:
    me.create_repo("me/toys", repo_type="dataset")
    first = put(me, "me/toys", {"a.txt": b"1"})
    me.create_tag("me/toys", tag="v1", repo_type="dataset")
    me.create_branch("me/toys", branch="try/this", repo_type="dataset")
    put(me, "me/toys", {"a.txt": b"2"})
    put(me, "me/toys", {"a.txt": b"3"}, revision="try/this")
    for revision, data in [("v1", b"1"), (first, b"1"), (first[:7], b"1"), ("main", b"2"), ("try/this", b"3")]:
        assert own(hub, "me/toys", revision) == {"a.txt": data}
        assert Path(hf_hub_download("me/toys", "a.txt", repo_type="dataset", revision=revision)).read_bytes() == data
    for again in (
        lambda: me.create_tag("me/toys", tag="v1", repo_type="dataset"),
        lambda: me.create_branch("me/toys", branch="main", repo_type="dataset"),
    ):
        with pytest.raises(HfHubHTTPError, match="409"):
            again()
    for refused in (first, "v1", "refs/tags/v1", "v2"):
        with pytest.raises(RevisionNotFoundError):
            put(me, "me/toys", {"a.txt": b"4"}, revision=refused)
    me.delete_tag("me/toys", tag="v1", repo_type="dataset")
    with pytest.raises(RevisionNotFoundError):
        me.dataset_info("me/toys", revision="v1")


@pytest.mark.parametrize("asked", ["0-0", "3-5", "5-", "-4", "0-99", "-99"])
def test_a_part_of_a_file(hub: LoopbackHub, asked: str) -> None:
    data = bytes(range(10))
    hub.commit("org/toys", {"a.bin": data})
    response = get_session().get(f"{hub.url}/datasets/org/toys/resolve/main/a.bin", headers={"Range": f"bytes={asked}"})
    first, last = asked.split("-")
    expected = data[int(first) : int(last) + 1 if last else None] if first else data[-int(last) :]
    assert (response.status_code, response.content) == (206, expected)
    start = data.index(expected[0])
    assert response.headers["Content-Range"] == f"bytes {start}-{start + len(expected) - 1}/10"


def test_what_datasets_publishes_and_loads(hub: LoopbackHub, me: HfApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.log_in(monkeypatch, me.token or "")
    data = DatasetDict({"train": pictures(12, seed=1), "test": pictures(6, seed=2)})
    data.push_to_hub("me/toys", "first", private=True)
    sha = data["train"].add_column("score", [0.5] * 12).push_to_hub("me/toys", "second").oid
    last = hub.history("me/toys")[-1]
    assert sha == last.sha and {path.split("/")[0] for path in last.files} == {".gitattributes", "README.md", "first", "second"}
    data["test"].push_to_hub("me/toys", "first", split="test")
    assert hub.history("me/toys")[-1].files == last.files, "the same again"

    def same(loaded: Dataset, expected: Dataset) -> bool:
        stored = [each.cast_column("image", Image(decode=False)) for each in (loaded, expected)]
        return loaded.features == expected.features and [row["image"]["bytes"] for row in stored[0]] == [
            row["image"]["bytes"] for row in stored[1]
        ]

    for split, expected in data.items():
        assert same(load_dataset("me/toys", "first", revision=sha, split=split, cache_dir=tmp_path / "a"), expected)
    streamed = load_dataset("me/toys", "second", split="train", streaming=True, revision=sha)
    assert [row["label"] for row in streamed] == data["train"]["label"] and any(b"range: bytes=" in sent for sent in hub.sent)
    with monkeypatch.context() as patch:
        patch.delenv("HF_TOKEN")
        with pytest.raises(Exception, match="me/toys"):
            load_dataset("me/toys", "first", split="train", cache_dir=tmp_path / "b")
    put(me, "me/toys", {"first/train-00000-of-00001.parquet": b"broken"})
    assert same(load_dataset("me/toys", "first", revision=sha, split="train", cache_dir=tmp_path / "c"), data["train"])


def test_a_pull_request_of_datasets(hub: LoopbackHub, me: HfApi, other: HfApi) -> None:
    me.create_repo("me/toys", repo_type="dataset")
    done = Dataset.from_dict({"a": [1, 2]}).push_to_hub("me/toys", create_pr=True, token=other.token)
    assert done.pr_revision == "refs/pr/1" and own(hub, "me/toys") == {} and "README.md" in own(hub, "me/toys", "refs/pr/1")


def test_cards_are_checked(hub: LoopbackHub, me: HfApi) -> None:
    me.create_repo("me/toys", repo_type="dataset")
    with pytest.raises(ValueError, match="Invalid metadata"):
        put(me, "me/toys", {"README.md": b"---\na: [\n---\n"})
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        put(me, "me/toys", {"README.md": b"# Toys\n"})
    put(me, "me/toys", {"README.md": CARD})
    assert me.dataset_info("me/toys").card_data.license == "mit"  # pyright: ignore[reportOptionalMemberAccess]


def test_an_answer_that_is_lost(hub: LoopbackHub, me: HfApi) -> None:
    me.create_repo("me/toys", repo_type="dataset")
    head = hub.history("me/toys")[-1].sha
    hub.fail("POST", "/commit/", None, times=1)
    with pytest.raises(Exception, match="disconnected"):
        put(me, "me/toys", {"a.txt": b"1"}, parent_commit=head)
    assert len(hub.history("me/toys")) == 1, "cut before it was carried out"
    hub.fail("POST", "/commit/", None, times=1, after=True)
    with pytest.raises(Exception, match="disconnected"):
        put(me, "me/toys", {"a.txt": b"1"}, parent_commit=head)
    assert own(hub, "me/toys") == {"a.txt": b"1"}, "cut after it was carried out"
    hub.fail("POST", "/commit/", 503, times=1, after=True)
    with pytest.raises(HfHubHTTPError, match="503"):
        put(me, "me/toys", {"b.txt": b"1"})
    assert own(hub, "me/toys") == {"a.txt": b"1", "b.txt": b"1"}
    done = put(me, "me/toys", {"c.txt": b"1"})
    assert [len(commit.files) - 1 for commit in hub.history("me/toys")] == [0, 1, 2, 3] and hub.history("me/toys")[-1].sha == done


def test_faults_are_counted(hub: LoopbackHub, me: HfApi, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    me.create_repo("me/toys", repo_type="dataset")
    hub.fail("PUT", "/storage/", 429, times=2, headers={"Retry-After": "7"})
    put(me, "me/toys", {"a.parquet": PARQUET})
    assert len(asked(hub, "PUT")) == 3 and waited == [8.0, 8.0], "the client adds a second"
    hub.fail("GET|POST", "whoami", 409, times=1)
    hub.fail("GET", "whoami", 412, times=1)
    for status in ("409", "412"):
        with pytest.raises(HfHubHTTPError, match=status):
            me.whoami()
    hub.fail("POST", "repos/create", 409, times=1)
    assert me.create_repo("me/none", repo_type="dataset", exist_ok=True).repo_id == "me/none" and len(hub.repos) == 1
    hub.fail_nth(2, 409)
    me.whoami()
    with pytest.raises(HfHubHTTPError, match="409"):
        me.whoami()
    me.whoami()


def test_slow_and_seen(hub: LoopbackHub, me: HfApi) -> None:
    seen: list[tuple[str, str]] = []
    hub.on_request = lambda method, path: seen.append((method, path))
    hub.slow("GET", "whoami", 0.2)
    began = time.perf_counter()
    me.whoami()
    assert time.perf_counter() - began > 0.2 and seen == hub.requests == [("GET", "/api/whoami-v2")]


def test_all_that_was_sent_can_be_searched(hub: LoopbackHub, me: HfApi) -> None:
    me.create_repo("me/toys", repo_type="dataset")
    put(me, "me/toys", {"README.md": CARD + b"the word of the card", "a.parquet": PARQUET + b"beside", "f\u00fcr/b.txt": b"in base64"})
    sent = b"\n".join(hub.sent)
    assert all(word in sent for word in [b"the word of the card", b"beside", b"in base64", "f\u00fcr/b.txt".encode()])
    assert hub.tokens == {me.token} and (me.token or "").encode() not in sent
    put(me, "me/toys", {"leak.txt": (me.token or "").encode()})
    assert (me.token or "").encode() in b"\n".join(hub.sent)


def test_another_process(hub: LoopbackHub, me: HfApi, tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(PARQUET)
    program = """
import sys
from huggingface_hub import create_repo, upload_file, whoami
create_repo("me/toys", repo_type="dataset", private=True)
upload_file(path_or_fileobj=sys.argv[1], path_in_repo="a.parquet", repo_id="me/toys", repo_type="dataset")
print(whoami()["name"])
"""
    environment = os.environ | hub.environment(tmp_path / "home", me.token)
    words = [sys.executable, "-c", program, str(tmp_path / "a.parquet")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "me\n"), done.stderr
    assert own(hub, "me/toys") == {"a.parquet": PARQUET} and hub.repo("me/toys").private
    environment = os.environ | hub.environment(tmp_path / "home")
    assert "401" in subprocess.run(words, env=environment, capture_output=True, text=True, check=False).stderr


def test_a_client_that_is_killed(hub: LoopbackHub, me: HfApi, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its last request is carried out, and what it had sent before can be used."""
    me.create_repo("me/toys", repo_type="dataset")
    program = """
from huggingface_hub import upload_file
upload_file(path_or_fileobj=b'PAR1\\0', path_in_repo='a.parquet', repo_id='me/toys', repo_type='dataset')
"""
    process = subprocess.Popen([sys.executable, "-c", program], env=os.environ | hub.environment(tmp_path / "home", me.token))
    hub.on_request = lambda method, path: process.kill() if method == "PUT" else None
    assert process.wait() == -9 and own(hub, "me/toys") == {}
    hub.on_request = None
    assert hub.repo("me/toys").objects
    put(me, "me/toys", {"a.parquet": b"PAR1\0"})
    assert len(asked(hub, "PUT")) == 1 and own(hub, "me/toys") == {"a.parquet": b"PAR1\0"}
    assert capfd.readouterr().err == ""


def test_half_a_request_is_none(hub: LoopbackHub) -> None:
    """As from a client that is killed while it sends."""
    hub.commit("org/toys", FILES)
    host, port = hub.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(b"DELETE /api/repos/delete HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b"" and hub.requests == [] and hub.crashes == []


def test_the_hub_says_when_it_is_itself_at_fault() -> None:
    server = LoopbackHub().__enter__()
    server.repos["datasets/org/toys"] = 1  # pyright: ignore[reportArgumentType]
    with pytest.raises(HTTPError, match="500") as error:
        urlopen(f"{server.url}/api/datasets/org/toys")
    error.value.close()
    with pytest.raises(AttributeError, match="private"):
        server.__exit__()
