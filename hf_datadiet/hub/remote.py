"""A dataset on the Hub, pinned to one commit and read from the files of that commit.

`load_dataset("org/name")` takes any copy that lies in its cache when the Hub refuses, and offline it ignores the revision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Features
from datasets.data_files import DataFilesDict, sanitize_patterns
from datasets.info import DatasetInfosDict
from datasets.load import infer_module_for_data_files
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
from hf_datadiet.hub.faults import HTTPError

CARD = "README.md"

ABOUT = [CARD, "dataset_infos.json", ".gitattributes"]
"""What says which files belong to which config, and what is in them; and a file that every repository has."""


NOT_FOR_THE_READER = {"data_files", "data_dir", "default", "description"}
"""Keys of a config in the card that are no arguments of what reads its files."""


@dataclass(frozen=True)
class Snapshot:
    """One config at one commit, in files: `load_dataset(**arguments)` reads them from `folder`. `config` None: there is no list."""

    folder: Path
    sha: str
    config: str | None
    arguments: dict[str, Any]


def snapshot(repo: str, revision: str | None, config: str | None) -> Snapshot:
    """Resolve `revision` (default: main) to a commit and bring the files of `config` into the cache of huggingface_hub.

    A repository without a list of configs is brought whole. Offline, a snapshot that is complete in the cache is enough.
    Raises `SourceError` for a repository, revision or config that does not exist or is refused. Nothing is executed.
    """
    folder = downloaded(repo, revision or "main", ABOUT)
    chosen, about, features = _config(repo, folder, config)
    # From here on by commit: a branch may have moved since.
    if about is None:
        downloaded(repo, folder.name, None)
        return Snapshot(folder, folder.name, None, {"path": str(folder), "name": config})
    base = folder / (about.get("data_dir") or "").strip("/")
    within = "" if base == folder else f"{base.relative_to(folder)}/"
    data_files = sanitize_patterns(about["data_files"]) if "data_files" in about else {"": ["*"]}
    wanted = [within + pattern.removeprefix("./") for listed in data_files.values() for pattern in listed]
    # Here `**/` needs a folder; in the patterns of datasets it may stand for none.
    downloaded(repo, folder.name, [*ABOUT, *wanted, *(pattern.replace("**/", "") for pattern in wanted)])
    arguments: dict[str, Any] = {key: value for key, value in about.items() if key not in NOT_FOR_THE_READER}
    if features is not None:
        arguments["features"] = features
    if "data_files" not in about:
        return Snapshot(folder, folder.name, chosen, {"path": str(base), **arguments})
    # Not by the folder: for that, datasets wants the files of every config of the card.
    try:
        reader, usual = infer_module_for_data_files(DataFilesDict.from_patterns(data_files, base_path=str(base)), path=repo)
    except (OSError, ValueError) as error:
        raise SourceError(f"config {chosen} of {repo} has no files that can be read: {_said(error)}") from error
    files = {str(split): listed for split, listed in data_files.items()}
    return Snapshot(folder, folder.name, chosen, {"path": reader, "data_dir": str(base), "data_files": files, **usual, **arguments})


def _config(repo: str, folder: Path, config: str | None) -> tuple[str | None, Mapping[str, Any] | None, Features | None]:
    """What the card says of `config`, or of its only or default one: name, keys and features. No keys: it has no list."""
    try:
        card: Any = DatasetCard.load(folder / CARD).data if (folder / CARD).exists() else DatasetCardData()
        configs, infos = MetadataConfigs.from_dataset_card_data(card), DatasetInfosDict.from_dataset_card_data(card)
        chosen = config or configs.get_default_config_name()
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise SourceError(f"the card of {repo} cannot be understood: {_said(error)}") from error
    if not configs:
        return None, None, None
    if chosen is None or chosen not in configs:
        what = f"has no config {chosen!r}" if chosen else "has several configs"
        raise SourceError(f"{repo} {what}; set source.config to one of: {', '.join(configs)}")
    return chosen, configs[chosen], infos[chosen].features if chosen in infos else None


def _said(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def downloaded(repo: str, revision: str, patterns: list[str] | None) -> Path:
    """The folder of one commit (its name is the sha) with the files of a dataset repository that match, or all of them.

    What is in the cache is not downloaded twice. `SourceError` for what does not exist, is refused, or cannot be had offline.
    """
    try:
        return Path(snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=patterns))
    except GatedRepoError:
        fault = f"{repo} is gated; ask for access on its page, then log in: hf auth login"
    except RepositoryNotFoundError:
        fault = f"the Hub has no dataset {repo}, or it is private; check its name, or log in: hf auth login"
    except RevisionNotFoundError:
        fault = f"{repo} has no revision {revision!r}; name a branch, a tag or a whole commit sha"
    except LocalEntryNotFoundError:
        fault = (
            f"{repo} at {revision} is not whole in the cache and the Hub cannot be reached; "
            "go online for the first time (HF_HUB_OFFLINE=0), or pass source.path=FOLDER"
        )
    except HFValidationError:
        fault = f"{repo!r} is no name of a dataset on the Hub; write org/name"
    except HfHubHTTPError as error:
        fault = f"the Hub answers HTTP {error.response.status_code} for {repo}; try again later"
    except HTTPError as error:
        fault = f"{repo} at {revision} cannot be downloaded ({type(error).__name__}); try again: what is there is not downloaded twice"
    except OSError as error:
        fault = f"{repo} cannot be brought into the cache: {error.strerror or type(error).__name__}"
    raise SourceError(fault)
