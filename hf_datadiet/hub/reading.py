"""A card read back: the part that was generated, and the metadata."""

from __future__ import annotations

import re
from typing import Any

import yaml
from datasets import DatasetInfo
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCardData
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from hf_datadiet.hub.merging import BEGIN, END


def generated(text: str) -> str | None:
    """What stands between the markers, without empty lines around it; None without markers."""
    lines = "\n".join(text.splitlines())
    match = re.search(rf"^{re.escape(BEGIN)}[ \t]*$(.*?)^{re.escape(END)}[ \t]*$", lines, re.MULTILINE | re.DOTALL)
    return None if match is None else match[1].strip("\n")


def metadata_of(text: str) -> dict[str, Any]:
    """The YAML block as plain values; empty where there is none that can be read."""
    match = REGEX_YAML_BLOCK.search(text.removeprefix("\ufeff"))
    try:
        data = yaml.safe_load(match[2]) if match else None
    except (yaml.YAMLError, ValueError):
        data = None
    return data if isinstance(data, dict) else {}


def info_of(entry: dict[str, Any]) -> DatasetInfo:
    """What datasets understands of an entry of `dataset_info`, which names its config; whatever it raises where it understands nothing."""
    return DatasetInfosDict.from_dataset_card_data(DatasetCardData(dataset_info=[entry]))[entry["config_name"]]
