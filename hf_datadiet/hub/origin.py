"""What a source says of itself: who may read it, under which licence, in which languages."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from hf_datadiet.errors import PublishError
from hf_datadiet.hub.remote import CARD, HTTPError, downloaded
from hf_datadiet.recipe import SourceSpec
from hf_datadiet.records import Source


@dataclass(frozen=True)
class Origin:
    """A source as its owner shows it.

    `repo`: its id on the Hub, None where it lies elsewhere. `card`: the text of its README.md, "" without one. `private`, `gate`: who may
    read it; None where nobody could be asked (offline), which counts as private and ungated.
    """

    repo: str | None
    revision: str | None
    card: str
    private: bool | None
    gate: Literal["auto", "manual"] | None


def origin_of(source: Source, spec: SourceSpec, *, ask: bool) -> Origin:
    """The source of a run. `ask`: whether the Hub is asked who may read it, which only somebody who publishes there has to know.

    `PublishError` where the Hub is to be asked and does not answer.
    """
    if spec.repo is None:
        folder = None if spec.path is None else Path(os.path.expandvars(spec.path)).expanduser()
        # What came with the package may be read by all who have it.
        return Origin(None, None, _text(None if folder is None else folder / CARD), private=spec.sample is None, gate=None)
    card = _text(downloaded(spec.repo, source.revision or "main", [CARD]) / CARD)
    if not ask or constants.HF_HUB_OFFLINE:
        return Origin(spec.repo, source.revision, card, private=None, gate=None)
    try:
        # At main: who may read it today counts, not who might when it was scored.
        info = HfApi().dataset_info(spec.repo)
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return Origin(spec.repo, source.revision, card, private=True, gate=None)
    except (HfHubHTTPError, HTTPError) as error:
        raise PublishError(f"the Hub does not say who may read {spec.repo} ({type(error).__name__}); try again later") from error
    gate = info.gated if info.gated in ("auto", "manual") else "manual" if info.gated else None
    return Origin(spec.repo, source.revision, card, private=bool(info.private), gate=gate)


def _text(path: Path | None) -> str:
    if path is None or not path.is_file():
        return ""
    return path.read_text(encoding="utf-8", errors="replace")
