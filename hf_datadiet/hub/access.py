"""Who may see a repository: found out before anything is sent, never widened by accident.

A new repository begins private; its gate is closed before content comes, and what is to be public is opened last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from hf_datadiet.errors import PublishError
from hf_datadiet.hub.patience import Patience

Gate = Literal["auto", "manual"]

TITLE = "Data diet of "
"""What the title of each commit that this tool makes begins with."""

STRENGTH: dict[Gate | None, int] = {None: 0, "auto": 1, "manual": 2}
"""Of a gate: everybody, whoever says who they are, whom the owner lets in."""


@dataclass(frozen=True)
class Target:
    """A repository "user/name", and who may see what is pushed there: only its owner unless `public`, and behind at least `gate`.

    `create_pr`: as a pull request; then nothing of the repository itself is touched. `PublishError` for a name that is none.
    """

    repo: str
    kind: Literal["dataset", "model"] = "dataset"
    public: bool = False
    gate: Gate | None = None
    create_pr: bool = False

    def __post_init__(self) -> None:
        try:
            validate_repo_id(self.repo)
            named = "/" in self.repo
        except HFValidationError:
            named = False
        if not named:
            raise PublishError(f"{self.repo!r} is no name of a repository on the Hub; write USER/NAME")


@dataclass(frozen=True)
class Found:
    """How a repository is found: the commit of its main branch (None: it is empty), and who may see it."""

    sha: str | None
    private: bool
    gate: Gate | None


def stronger(one: Gate | None, other: Gate | None) -> Gate | None:
    """The one of two gates that keeps more people out."""
    return max(one, other, key=lambda gate: STRENGTH[gate])


def found(api: HfApi, target: Target) -> Found | None:
    """Ask for it; None: there is no such repository, or not for this login."""
    try:
        info = api.repo_info(target.repo, repo_type=target.kind)
    except RepositoryNotFoundError:
        return None
    gated = getattr(info, "gated", None)
    return Found(info.sha, bool(info.private), gated if gated in ("auto", "manual") else None)


def check(target: Target, there: Found | None) -> None:
    """`PublishError` if what is pushed could be seen by more people than it may."""
    repo = target.repo
    if there is None:
        if target.create_pr:
            raise PublishError(f"the Hub has no {target.kind} {repo} to propose anything to, or not for you; push without --create-pr")
        return
    if not there.private and not target.public:
        what = "a pull request there would be too" if target.create_pr else "what is pushed there would be too"
        raise PublishError(f"{repo} is public, and {what}; say --public, or push to another name (--to), which is created private")
    if target.create_pr and not there.private and STRENGTH[there.gate] < STRENGTH[target.gate]:
        raise PublishError(f"{repo} lets in people whom the gate of the source would not; ask its owner for a gate ({target.gate}) first")


def require_no_past(api: HfApi, target: Target, there: Found | None, patience: Patience) -> None:
    """`PublishError` if to open a private repository would show more than one publication: files, commits, branches, tags, pull requests.

    Nobody can tell what those hold who has not looked. What one interrupted push has left, or an empty repository, is opened.
    """
    if there is None or there.sha is None or not there.private or not target.public or target.create_pr:
        return
    refs = patience(lambda: api.list_repo_refs(target.repo, repo_type=target.kind, include_pull_requests=True))
    past = [ref.ref for ref in [*refs.branches, *refs.tags, *(refs.pull_requests or [])] if ref.ref != "refs/heads/main"]
    *later, first = patience(lambda: list(api.list_repo_commits(target.repo, repo_type=target.kind)))
    begun = patience(lambda: list(api.list_repo_tree(target.repo, repo_type=target.kind, recursive=True, revision=first.commit_id)))
    past += [repr(entry.path) for entry in begun if entry.path != ".gitattributes"]
    ours = [commit for commit in later if commit.title.startswith(TITLE)]
    past += [repr(commit.title) for commit in later if commit not in ours[:1]]
    if past:
        raise PublishError(
            f"{target.repo} is private and has a past that would become public with it (such as {past[0]}); look at it and make it public "
            "on its page, then push again, or choose another --to"
        )


def prepare(api: HfApi, target: Target, patience: Patience) -> None:
    """Make sure, before anything is sent, that the repository exists and that nobody sees it who may not.

    Raises `PublishError` when the Hub says otherwise afterwards.
    """
    there = patience(lambda: found(api, target))
    check(target, there)
    require_no_past(api, target, there, patience)
    if target.create_pr:
        return
    if there is None:
        there = patience(lambda: _created(api, target))
        if not there.private:
            what = f"{target.repo} was to be created private, and the Hub says that it is public"
            raise PublishError(f"{what}; nothing was sent: make it private on its page, or delete it, then push again")
        patience.note(f"created {target.repo}, private")
    if STRENGTH[there.gate] < STRENGTH[target.gate]:
        _set(api, target, patience, lambda now: now.gate == target.gate, f"gate {target.gate}", gated=target.gate)


def _created(api: HfApi, target: Target) -> Found:
    there = found(api, target)  # the answer to a first try may have been lost
    if there is None:
        api.create_repo(target.repo, repo_type=target.kind, private=True)
        there = found(api, target)
    if there is None:
        raise PublishError(f"{target.repo} was created and cannot be seen; log in with a token that may read it, too: hf auth login")
    return there


def open_up(api: HfApi, target: Target, patience: Patience) -> Found:
    """Read back who may see the repository after the push; make it public if that is asked for."""
    there = patience(lambda: found(api, target))
    if there is None:
        raise PublishError(f"{target.repo} is gone; somebody deleted or renamed it during the push")
    check(target, there)
    if target.create_pr:
        return there
    if STRENGTH[there.gate] < STRENGTH[target.gate]:
        raise PublishError(f"somebody opened the gate of {target.repo} during the push; push again, which closes it")
    if target.public and there.private:
        gate = there.gate
        return _set(api, target, patience, lambda now: not now.private and now.gate == gate, "public", private=False)
    return there


def _set(api: HfApi, target: Target, patience: Patience, done: Callable[[Found], bool], what: str, **settings: object) -> Found:
    patience(lambda: api.update_repo_settings(target.repo, repo_type=target.kind, **settings))  # pyright: ignore[reportArgumentType]
    now = patience(lambda: found(api, target))
    if now is None or not done(now):
        raise PublishError(f"{target.repo} was to be set to {what} and the Hub says that it is not; set that on its page, then push again")
    patience.note(f"{target.repo} is now {what}")
    return now
