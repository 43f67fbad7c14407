"""The only place that writes to the Hub: any number of files in one commit, or none.

Whoever reads the repository meanwhile sees what was there before or all that is new. A push that died is mended by doing it again:
what the store of large files has is not sent twice, and what is there already makes no commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, get_session, get_token, hf_hub_url, hf_raise_for_status
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import are_progress_bars_disabled, build_hf_headers, disable_progress_bars, enable_progress_bars

from hf_datadiet.errors import PublishError
from hf_datadiet.hub.access import Gate, Target, check, found, open_up, prepare, require_no_past, stronger
from hf_datadiet.hub.change import Change, Operation, Remote, RemoteFile, missing, operations
from hf_datadiet.hub.faults import CAUGHT
from hf_datadiet.hub.patience import Patience, patient

__all__ = ["Change", "Operation", "Planned", "Pushed", "Remote", "RemoteFile", "Target", "ask_first", "planned", "push"]


@dataclass(frozen=True)
class Pushed:
    """`sha`: a commit that has all of it. `changed`: whether this push made it. `pull_request`: its address."""

    repo: str
    url: str
    sha: str | None
    changed: bool
    pull_request: str | None
    private: bool
    gated: Gate | None


@dataclass(frozen=True)
class Planned:
    """What a push would do, and who could see it then. `creates`: whether it creates the repository.

    `unknown`: why it is not known what lies there; then `creates` is None and `operations` are those for an empty repository.
    """

    repo: str
    operations: Sequence[Operation]
    creates: bool | None
    private: bool
    gated: Gate | None
    unknown: str | None = None


@dataclass(frozen=True)
class _Landed:
    sha: str | None
    changed: bool
    pull_request: str | None = None


def push(target: Target, change: Callable[[Remote], Change], *, message: str, note: Callable[[str], None], bars: bool = True) -> Pushed:
    """Bring the repository to what `change` makes of it, in one commit (or pull request) called `message`; read back what came of it.

    `change` is asked again where the repository has moved meanwhile. Each repetition is announced through `note` in one line;
    `bars`: whether the client shows the progress of uploads on stderr.
    `PublishError` when the Hub refuses, cannot be reached in some minutes, or would show to the public what is not for it.
    """
    with patient(target.repo, note) as patience, _bars(bars):
        api = HfApi(token=True)
        prepare(api, target, patience)
        landed = _land(api, target, change, message, patience)
        there = open_up(api, target, patience)
    url = "/".join([api.endpoint, *(["datasets"] if target.kind == "dataset" else []), target.repo])
    return Pushed(target.repo, url, landed.sha, landed.changed, landed.pull_request, there.private, there.gate)


def ask_first(target: Target, change: Callable[[Remote], Change] | None = None, *, note: Callable[[str], None]) -> None:
    """`PublishError` where `push` would refuse before it sends anything; nothing is changed.

    For whoever has much to write before there is something to push (no `change` yet), or several repositories to push to.
    """
    with patient(target.repo, note) as patience:
        api = HfApi(token=True)
        there = patience(lambda: found(api, target))
        check(target, there)
        require_no_past(api, target, there, patience)
        if change is not None:
            remote = _remote(api, target, there.sha if there else None, patience)
            operations(change(remote), remote)


def planned(target: Target, change: Callable[[Remote], Change]) -> Planned:
    """What `push` would do, without doing it; also where the Hub cannot be asked. `PublishError` where `push` would refuse."""
    api, there, unknown, remote = HfApi(token=False), None, None, Remote(None, {}, lambda path: None)
    with patient(target.repo, lambda line: None, tries=1) as patience:
        try:
            token = patience(get_token)
            api = HfApi(token=token or False)
            there = patience(lambda: found(api, target))
            if there is not None:
                remote = _remote(api, target, there.sha, patience)
            elif token is None:
                unknown = "what is there is not shown without a login: hf auth login"
        except PublishError as error:
            unknown = str(error)
        if unknown is None:
            check(target, there)
            require_no_past(api, target, there, patience)
        due = operations(change(remote), remote)
    private, gate = not target.public, stronger(there.gate if there else None, target.gate)
    if there is not None and target.create_pr:
        private, gate = there.private, there.gate
    return Planned(target.repo, due, None if unknown else there is None, private, gate, unknown)


@contextmanager
def _bars(shown: bool) -> Iterator[None]:
    if shown or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _land(api: HfApi, target: Target, change: Callable[[Remote], Change], message: str, patience: Patience) -> _Landed:
    """Commit on top of what lies there by then, until that was carried out or there is nothing to commit."""
    parents = set[str | None]()
    for failed in count(1):
        there = patience(lambda: found(api, target))
        check(target, there)
        remote = _remote(api, target, there.sha if there else None, patience)
        due = [operation for operation in operations(change(remote), remote) if operation.kind != "unchanged"]
        if not due:
            # The answer to a commit may have been lost, but not the commit.
            return _Landed(remote.sha, bool(parents) and remote.sha not in parents)
        if target.create_pr and (proposed := _proposed(api, target, due, message, patience)):
            return _Landed(proposed[0], bool(parents), proposed[1])
        try:
            commit = _commit(api, target, due, remote.sha, message)
        except CAUGHT as error:
            parents.add(remote.sha)
            patience.after(error, failed)
            continue
        if lacking := missing(due, _remote(api, target, commit.oid, patience)):
            raise PublishError(f"the Hub took the push to {target.repo}, but {lacking[0]} is not there as it was sent; push again")
        return _Landed(commit.oid, commit.oid != remote.sha, commit.pr_url)
    raise AssertionError


def _commit(api: HfApi, target: Target, due: Sequence[Operation], parent: str | None, message: str) -> CommitInfo:
    # A file may take the place of a folder that has gone.
    commits = [operation.commit for operation in sorted(due, key=lambda operation: operation.kind != "delete")]
    adds = [commit for commit in commits if isinstance(commit, CommitOperationAdd)]
    # Without this, create_commit would leave out what a .gitignore of the repository names, and not say so.
    api.preupload_lfs_files(
        target.repo, adds, repo_type=target.kind, create_pr=target.create_pr, gitignore_content="# nothing", free_memory=False
    )
    return api.create_commit(
        target.repo, commits, commit_message=message, repo_type=target.kind, create_pr=target.create_pr, parent_commit=parent
    )


def _proposed(api: HfApi, target: Target, due: Sequence[Operation], message: str, patience: Patience) -> tuple[str, str] | None:
    """Commit and address of an open pull request of that name with the same content."""
    ask = {"repo_type": target.kind, "discussion_type": "pull_request", "discussion_status": "open"}
    for request in patience(lambda: list(api.get_repo_discussions(target.repo, **ask))):  # pyright: ignore[reportArgumentType]
        if request.title == message.splitlines()[0]:
            head = patience(lambda ref=request.git_reference: api.repo_info(target.repo, repo_type=target.kind, revision=ref)).sha
            if head is not None and not missing(due, _remote(api, target, head, patience)):
                return head, request.url
    return None


def _remote(api: HfApi, target: Target, sha: str | None, patience: Patience) -> Remote:
    if sha is None:
        return Remote(None, {}, lambda path: None)
    entries = patience(lambda: list(api.list_repo_tree(target.repo, recursive=True, revision=sha, repo_type=target.kind)))
    files = {
        entry.path: RemoteFile(entry.size, entry.blob_id, entry.lfs.sha256 if entry.lfs else None)
        for entry in entries
        if isinstance(entry, RepoFile)
    }

    def read(path: str) -> bytes:
        # Not hf_hub_download: that keeps a copy, and asks twice.
        url = hf_hub_url(target.repo, path, repo_type=target.kind, revision=sha, endpoint=api.endpoint)
        response = get_session().get(url, headers=build_hf_headers(token=api.token), follow_redirects=True)
        hf_raise_for_status(response)
        return response.content

    return Remote(sha, files, lambda path: patience(lambda: read(path)) if path in files else None)
