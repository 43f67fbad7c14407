"""A dataset on the Hub, pinned to one commit and read from the files of that commit.

`load_dataset("org/name")` takes any copy that lies in its cache when the Hub refuses, and offline it ignores the revision.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.data_files import sanitize_patterns
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, DatasetCardData, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hf_datadiet.errors import SourceError

CARD = "README.md"

ABOUT = [CARD, ".huggingface.yaml", "dataset_infos.json"]
"""What says which files belong to which config, and what is in them."""


@dataclass(frozen=True)
class Snapshot:
    """The files of one config at one commit, in `folder`; `load_dataset(folder, **arguments)` reads them."""

    folder: Path
    sha: str
    arguments: dict[str, Any]


def snapshot(repo: str, revision: str | None, config: str | None) -> Snapshot:
    """Resolve `revision` (default: main) to a commit and bring the files of `config` into the cache of huggingface_hub.

    A repository without a list of configs is brought whole. Offline, a snapshot that is complete in the cache is enough.
    Raises `SourceError` for a repository, revision or config that does not exist or is refused. Nothing is executed.
    """
    folder = _download(repo, revision or "main", ABOUT)
    patterns, arguments = _files(repo, folder, config)
    # By commit: a branch may have moved since.
    return Snapshot(_download(repo, folder.name, patterns), folder.name, arguments)


def _files(repo: str, folder: Path, config: str | None) -> tuple[list[str] | None, dict[str, Any]]:
    """Patterns of the files that `config` needs (None: all), and how `load_dataset` is told about it."""
    try:
        card = DatasetCard.load(folder / CARD).data if (folder / CARD).exists() else DatasetCardData()
        configs, infos = MetadataConfigs.from_dataset_card_data(card), DatasetInfosDict.from_dataset_card_data(card)
        chosen = config or configs.get_default_config_name()
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise SourceError(f"the card of {repo} cannot be understood: {(str(error).splitlines() or [''])[0]}") from error
    if not configs:
        return None, {"name": config}
    if chosen not in configs:
        what = f"has no config {chosen!r}" if chosen else "has several configs"
        raise SourceError(f"{repo} {what}; set source.config to one of: {', '.join(configs)}")
    about = configs[chosen]
    within = f"{about['data_dir'].strip('/')}/" if about.get("data_dir") else ""
    if "data_files" not in about:
        return [*ABOUT, f"{within}*"], {"name": chosen, "data_dir": about.get("data_dir")}
    data_files = sanitize_patterns(about["data_files"])
    paths = [within + path.removeprefix("./") for listed in data_files.values() for path in listed]
    # Here `**/` needs a folder; in the patterns of datasets it may stand for none.
    patterns = [*ABOUT, *paths, *(path.replace("**/", "") for path in paths)]
    # With `data_files`, `load_dataset` needs no file of another config; but it then forgets the features of the card.
    features = infos[chosen].features if chosen in infos else None
    data_files = {str(split): listed for split, listed in data_files.items()}
    return patterns, {"name": chosen, "data_dir": about.get("data_dir"), "data_files": data_files, "features": features}


def _download(repo: str, revision: str, patterns: list[str] | None) -> Path:
    try:
        return Path(snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=patterns))
    except GatedRepoError:
        fault = f"{repo} is gated; ask for access on its page, then log in: hf auth login"
    except RepositoryNotFoundError:
        fault = f"the Hub has no dataset {repo}, or it is private; check source.repo, or log in: hf auth login"
    except RevisionNotFoundError:
        fault = f"{repo} has no revision {revision!r}; set source.revision to a branch, a tag or a whole commit sha"
    except LocalEntryNotFoundError:
        fault = (
            f"{repo} at {revision} is not whole in the cache and the Hub cannot be reached; "
            "go online for the first time (HF_HUB_OFFLINE=0), or pass source.path=FOLDER"
        )
    except HFValidationError:
        fault = f"source.repo {repo!r} is no name of a dataset on the Hub; write org/name"
    except HfHubHTTPError as error:
        fault = f"the Hub answers HTTP {error.response.status_code} for {repo}; try again later"
    except OSError as error:
        fault = f"{repo} cannot be brought into the cache: {error.strerror or type(error).__name__}"
    raise SourceError(fault)
