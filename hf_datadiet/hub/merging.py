"""A card that is there, with new metadata and a new body: what others wrote stays as it is.

Of the YAML the keys that change are written anew, each in its place; the others stay letter by letter, with their comments. Of the
Markdown only what lies between the two markers changes.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping
from typing import Any

import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from hf_datadiet.dumping import yaml_text
from hf_datadiet.errors import PublishError
from hf_datadiet.hub.card import size_category, words

BEGIN, END = "<!-- hf-datadiet:begin -->", "<!-- hf-datadiet:end -->"

UNITED = ("language", "tags", "task_categories", "source_datasets", "datasets", "metrics")
LICENCE = ("license", "license_name", "license_link", "license_details")


def merged(existing: str | None, metadata: Mapping[str, Any], body: str, ours: Collection[str]) -> str:
    """The text of README.md. `existing`: the one that is there; `metadata`: of `hub.card` or `hub.model_card`; `body`: Markdown.

    `ours`: configs that this tool may write, those of earlier publications and those of this one. Raises `PublishError` where a config
    of the same name is somebody else's, where the YAML that is there cannot be read, and where a marker is lost or doubled.
    To merge twice is to merge once.
    """
    text = existing or ""
    mark = "\ufeff" if text.startswith("\ufeff") else ""
    text = text.removeprefix(mark)
    line_break = "\r\n" if 2 * text.count("\r\n") > text.count("\n") else "\n"
    match = REGEX_YAML_BLOCK.search(text)
    if match is None and re.match(r"\s*---[ \t]*(\r?\n|$)", text):
        raise PublishError("README.md begins with --- and its metadata does not end; close it with a line ---, or remove that line")
    block = match[2] if match else ""
    had = _read(block)
    new = _rewritten(block, had, _united(had, dict(metadata), ours), line_break)
    rest = text[match.end() :] if match else text
    opening, closing = (match[1], match[3]) if match else (f"---{line_break}", f"{line_break}---{line_break}")
    if not closing.endswith("\n"):
        closing += line_break
    between = "" if rest[:1] in ("\n", "\r") else line_break
    return f"{mark}{opening}{new}{closing}{between if not match else ''}{_with_body(rest, body, line_break)}"


def _read(block: str) -> dict[str, Any]:
    """The YAML as plain values; `PublishError` where the Hub would not read it either."""
    try:
        node = yaml.compose(block, Loader=yaml.SafeLoader)
        data = yaml.safe_load(block)
    except (yaml.YAMLError, ValueError) as error:
        said = getattr(error, "problem", None) or next(iter(str(error).splitlines()), "")
        raise PublishError(f"the metadata of README.md is not valid YAML ({said}); mend it on the Hub") from error
    if data is None:
        return {}
    if not isinstance(data, dict) or not isinstance(node, yaml.MappingNode):
        raise PublishError("the metadata of README.md is no mapping of keys to values; mend it on the Hub")
    names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise PublishError(f"the metadata of README.md has the key {twice[0]!r} twice; keep one of them")
    return data


# What the metadata becomes


def _united(had: Mapping[str, Any], new: dict[str, Any], ours: Collection[str]) -> dict[str, Any]:
    """All keys that were there, in their order, then new ones."""
    known = had.get("license") not in (None, "unknown", [])
    if new.get("license") == "unknown" and known:
        new = {key: value for key, value in new.items() if key not in LICENCE}
    elif "license" in new:
        had = {key: value for key, value in had.items() if key not in LICENCE or key in new}
    if "pretty_name" in had:
        new.pop("pretty_name", None)
    for key in UNITED:
        if key in had and key in new:
            new[key] = list(dict.fromkeys([*words(had[key]), *new[key]]))
            if words(had[key]) == tuple(new[key]):
                new[key] = had[key]
    return {**had, **(_with_configs(had, new, ours) if "configs" in new else new)}


def _with_configs(had: Mapping[str, Any], new: dict[str, Any], ours: Collection[str]) -> dict[str, Any]:
    """The new keys of a dataset, with the configs that were there."""
    configs = _entries(had, "configs")
    foreign = [name for entry in new["configs"] if (name := entry["config_name"]) in configs and name not in ours]
    if foreign:
        raise PublishError(
            f"README.md has a config {foreign[0]!r} that was not published by this tool; choose another name for the selection"
        )
    new["configs"] = _with_entries(configs, new["configs"])
    new["dataset_info"] = _with_entries(_entries(had, "dataset_info"), new["dataset_info"])
    new["size_categories"] = [size_category(new["dataset_info"])]
    return new


def _entries(had: Mapping[str, Any], key: str) -> dict[str, dict[str, Any]]:
    """{config: what the card says of it}; a single `dataset_info` may stand without a list."""
    listed = had.get(key) or []
    listed = [{"config_name": "default", **listed}] if isinstance(listed, dict) else listed
    if not isinstance(listed, list) or not all(isinstance(entry, dict) and isinstance(entry.get("config_name"), str) for entry in listed):
        raise PublishError(f"{key} in the metadata of README.md is no list of configs with a config_name each; mend it on the Hub")
    return {entry["config_name"]: copy.deepcopy(entry) for entry in listed}


def _with_entries(there: Mapping[str, dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries that are there with what is new in them; `default` is a choice, and the first one to make it is kept."""
    chosen = any(entry.get("default") or name == "default" for name, entry in there.items())
    found = dict(there)
    for entry in new:
        name = entry["config_name"]
        fresh = {key: value for key, value in entry.items() if key != "default" or not (chosen or name in there)}
        found[name] = {**there.get(name, {}), **fresh}
    return list(found.values())


# How it is written


def _dumped(data: Mapping[str, Any], line_break: str) -> str:
    return yaml_text(data).removesuffix("\n").replace("\n", line_break)


def _rewritten(block: str, had: Mapping[str, Any], wanted: Mapping[str, Any], line_break: str) -> str:
    """The block as it was but for the keys that changed. Where it cannot be taken apart by its keys it is written anew as a whole."""
    if wanted == had:
        return block
    whole = _dumped(wanted, line_break)
    root = yaml.compose(block, Loader=yaml.SafeLoader) if had else None
    if root is None or len(root.value) != len(had):
        return whole
    pieces, position = [], 0
    for name, (key, value) in zip(had, root.value, strict=True):
        start, end = key.start_mark.index, value.end_mark.index
        pieces.append(block[position:start])
        pieces.append(_piece(block[start:end], name, had, wanted, line_break))
        position = end
    text = "".join(pieces) + block[position:]
    added = {key: value for key, value in wanted.items() if key not in had}
    if added:
        text = f"{text}{'' if not text or text.endswith(line_break) else line_break}{_dumped(added, line_break)}"
    try:
        found = REGEX_YAML_BLOCK.match(f"---\n{text}\n---\n")
        sound = found is not None and found[2] == text and yaml.safe_load(text) == wanted
    except yaml.YAMLError:
        sound = False
    return text if sound else whole


def _piece(old: str, name: Any, had: Mapping[str, Any], wanted: Mapping[str, Any], line_break: str) -> str:
    """The text of one key; comments on lines of their own behind it belong to what follows, and stay."""
    if name in wanted and wanted[name] == had[name]:
        return old
    comments = re.search(r"\n((?:[ \t]*\r?\n|#[^\n]*(?:\n|\Z))*)\Z", old)
    tail = f"{line_break}{comments[1]}" if comments else ""
    return f"{_dumped({name: wanted[name]}, line_break)}{tail}" if name in wanted else comments[1] if comments else ""


# The body


def _with_body(text: str, body: str, line_break: str) -> str:
    begins, ends = (list(re.finditer(rf"^{re.escape(marker)}[ \t]*(?=\r?$)", text, re.MULTILINE)) for marker in (BEGIN, END))
    ours = line_break.join([BEGIN, "", *body.strip("\n").split("\n"), "", END])
    if not begins and not ends:
        space = line_break * max(0, 2 - text[len(text.rstrip("\r\n")) :].count("\n")) if text else ""
        return f"{text}{space}{ours}{line_break}"
    if len(begins) != 1 or len(ends) != 1 or begins[0].start() > ends[0].start():
        raise PublishError(
            f"README.md should hold the line {BEGIN} once and below it {END} once; restore them around the generated part, or remove both, "
            "and the part is written anew at the end"
        )
    return f"{text[: begins[0].start()]}{ours}{text[ends[0].end() :]}"
