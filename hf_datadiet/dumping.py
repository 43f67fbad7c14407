"""Plain values as YAML that gives every string back, whatever reads it, and that hides no letter of theirs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from hf_datadiet.escaping import coded

_NUMBER = re.compile(r"[-+]?(0o[0-7]+|(\.\d+|\d+(\.\d*)?)(e[-+]?\d+)?)", re.IGNORECASE)
"""By the YAML 1.2 of the Hub's pages; what is one by the YAML 1.1 of PyYAML, PyYAML puts between quotes itself."""


class _Dumper(yaml.SafeDumper):
    """Strings with hidden letters or line breaks stand between double quotes, where each can be written as its code."""


def _string(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if coded(text) != text else "'" if _NUMBER.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _string)


def yaml_text(values: Mapping[str, Any]) -> str:
    """Keys in their order, every string on one line; ends with a line feed."""
    lines = yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=float("inf")).split("\n")
    return "\n".join(map(coded, lines))
