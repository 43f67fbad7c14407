"""The metadata of a dataset card: what the Hub and `load_dataset` read of it, and what the card of the source passes on.

The body is `hf_datadiet.card`; how both enter a card that is there already is `hub.merging`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from datasets import DatasetInfo, Features, SplitDict, SplitInfo
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCardData
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from hf_datadiet.hub.licence import LISTED

SCORES = "scores"
"""The config of the scores of all rows, and the one that is loaded by default: nobody takes it for the whole dataset, or for a part."""

CATEGORIES = {"image": "image-classification", "text": "text-classification"}
"""Task and modality in the Hub's words."""


@dataclass(frozen=True)
class SourceCard:
    """What the card of the source says that holds for copies too. `gate`: its terms of access, `extra_gated_*`."""

    license: tuple[str, ...] = ()
    license_name: str | None = None
    license_link: str | None = None
    language: tuple[str, ...] = ()
    gate: Mapping[str, Any] = field(default_factory=dict)


def source_card(text: str, repo: str, revision: str) -> SourceCard:
    """Read off the text of a dataset's README; whatever cannot be understood is not known. A link into the repository is made whole."""
    match = REGEX_YAML_BLOCK.search(text.removeprefix("\ufeff"))
    try:
        data = yaml.safe_load(match[2]) if match else None
    except (yaml.YAMLError, ValueError):
        data = None
    if not isinstance(data, dict):
        return SourceCard()
    link = data.get("license_link")
    if isinstance(link, str) and "://" not in link:
        link = f"https://huggingface.co/datasets/{repo}/blob/{revision}/{link.removeprefix('./').lstrip('/')}"
    name = data.get("license_name")
    return SourceCard(
        license=words(data.get("license")),
        license_name=name if isinstance(name, str) else None,
        license_link=link if isinstance(link, str) else None,
        language=words(data.get("language")),
        gate={key: value for key, value in data.items() if isinstance(key, str) and key.startswith("extra_gated_")},
    )


def words(value: Any) -> tuple[str, ...]:
    """One word or a list of them, as cards may have either; YAML takes an unquoted `no` for a truth value, where Norwegian is meant."""
    listed = value if isinstance(value, list) else [value]
    return tuple("no" if item is False else item for item in listed if item is False or (isinstance(item, str) and item.strip()))


def config_info(features: Features, rows: Mapping[str, int], num_bytes: Mapping[str, int], download_size: int) -> DatasetInfo:
    """What `load_dataset` is to know of a config. `rows` and `num_bytes` (in memory) of each split; `download_size`: of its files."""
    splits = SplitDict()
    for name, n_rows in rows.items():
        splits.add(SplitInfo(name=name, num_bytes=num_bytes[name], num_examples=n_rows))
    return DatasetInfo(features=features, splits=splits, download_size=download_size, dataset_size=sum(num_bytes.values()))


def metadata(
    infos: Mapping[str, DatasetInfo],
    *,
    repo: str,
    task: str | None,
    scores: Iterable[str],
    source: SourceCard,
    source_repo: str | None = None,
    asserted: str | None = None,
) -> dict[str, Any]:
    """The card's metadata, plain values. `infos`: {config: what is in it} (`config_info`), its files being CONFIG/SPLIT-*.parquet.

    `task`: the kind of the run's task; `source_repo`: the source on the Hub; `asserted`: the licence that the user vouches for.
    """
    configs: list[dict[str, Any]] = []
    for name, info in infos.items():
        splits = info.splits or {}
        files = [{"split": str(split), "path": f"{name}/{split}-*"} for split in splits]
        configs.append({"config_name": name, "data_files": files, **({"default": True} if name == SCORES else {})})
    about = _infos(infos)
    data: dict[str, Any] = {"pretty_name": repo.rpartition("/")[2]}
    if source.language:
        data["language"] = list(source.language)
    data |= licence_of(source, asserted)
    if source_repo is not None:
        data["source_datasets"] = [source_repo]
    if task in CATEGORIES:
        data["task_categories"] = [CATEGORIES[task]]
    named = [score for score in scores if re.fullmatch(r"[a-z0-9_.-]+", score)]
    data["size_categories"] = [size_category(about)]
    data["tags"] = list(dict.fromkeys(["data-pruning", "datadiet", *([task] if task in CATEGORIES else []), *named]))
    return {**data, **source.gate, "configs": configs, "dataset_info": about}


def _infos(infos: Mapping[str, DatasetInfo]) -> list[dict[str, Any]]:
    """As datasets itself writes them, in this order."""
    card = DatasetCardData()
    DatasetInfosDict(infos).to_dataset_card_data(card)
    found: Any = card.to_dict()["dataset_info"]
    by_name = {entry.get("config_name", "default"): entry for entry in (found if isinstance(found, list) else [found])}
    return [{"config_name": name, **by_name[name]} for name in infos]


def licence_of(source: SourceCard, asserted: str | None) -> dict[str, Any]:
    """By the Hub's rules: an identifier of its list, or `other` with a name and a link, or `unknown`."""
    given = (asserted,) if asserted is not None else source.license
    listed = [name if name.lower() not in LISTED else name.lower() for name in given]
    strange = [name for name in listed if name not in LISTED]
    if not listed:
        return {"license": "unknown"}
    if not strange and listed != ["other"]:
        return {"license": listed[0] if len(listed) == 1 else listed}
    known = source if asserted is None else SourceCard()
    name, link = " ".join(listed) if strange else known.license_name, known.license_link
    slug = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.") if name else ""
    return {"license": "other", **({"license_name": slug} if slug else {}), **({"license_link": link} if link else {})}


def size_category(infos: Iterable[Mapping[str, Any]]) -> str:
    """The Hub's bucket for the rows of all splits of these entries of `dataset_info`: n<1K, 1K<n<10K, ..., n>1T."""
    splits = [split for info in infos for split in info.get("splits") or [] if isinstance(split, Mapping)]
    n = sum(split.get("num_examples") or 0 for split in splits)
    ends = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"]
    for power, end in enumerate(ends):
        if n < 1000 * 10**power:
            return f"n<{end}" if power == 0 else f"{ends[power - 1]}<n<{end}"
    return "n>1T"
