"""The metadata of a model's card, and what its repository is called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import validate_repo_id

from hf_datadiet.errors import PublishError
from hf_datadiet.escaping import visible
from hf_datadiet.exported import Exported
from hf_datadiet.hub.merging import BEGIN, END, merged
from hf_datadiet.recipe import HeldOut
from hf_datadiet.records import Source

TAGS = ["data-pruning", "datadiet"]


def model_repo(dataset_repo: str, selection: str) -> str:
    """The repository of the model that was trained on one selection: "me/toys-keep-50"; `PublishError` for a name that no Hub takes."""
    repo = f"{dataset_repo}-{selection}"
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise PublishError(f"a model cannot be called {repo} ({error}); publish to another name, or name the selection otherwise") from None
    return repo


def metadata(
    exported: Exported,
    *,
    repo: str,
    dataset_repo: str,
    license: Mapping[str, Any],
    source: Source,
    held_out: HeldOut,
    selection: str,
    seed: int,
    accuracy: float,
) -> dict[str, Any]:
    """Plain values: the dataset variant that the model was trained on, and as its `model-index` the accuracy (0..1) of this one seed.

    `license`: what a card's metadata says of it (`license`, and with it perhaps `license_name` and `license_link`). The Hub offers to load
    by name what has a `library_name`; a model that cannot be loaded so has none.
    """
    on_hub = source.revision is not None
    # Rows of the source if the Hub has it, else of what is published.
    where: dict[str, Any] = {
        "dataset_type": source.name if on_hub else dataset_repo,
        "dataset_name": visible(source.name),
        "dataset_config": source.config if on_hub else selection,
        "dataset_split": held_out.split or source.split,
        "dataset_revision": source.revision,
    }
    if held_out.fraction is not None:
        where["dataset_args"] = {"held_out": held_out.fraction, "seed": held_out.seed}
    result = EvalResult(
        task_type=exported.pipeline_tag,
        metric_type="accuracy",
        metric_value=accuracy,
        metric_name="Accuracy on held-out rows, one seed",
        metric_args={"seed": seed},
        **where,
    )
    data = ModelCardData(
        library_name=exported.library if exported.by_name else None,
        pipeline_tag=exported.pipeline_tag,
        **license,
        datasets=[dataset_repo, *([source.name] if on_hub else [])],
        base_model=exported.base_model,
        metrics=["accuracy"],
        tags=TAGS,
        model_name=repo.partition("/")[2],
        eval_results=[result],
    )
    return data.to_dict()


def card_over(existing: str | None, ours: str) -> str:
    """The README.md of a model repository: the card `ours` of `export.model_folders` in the one that is there, whose other words stay.

    `PublishError` where that one cannot be read (`hub.merging`).
    """
    if existing is None:
        return ours
    match = REGEX_YAML_BLOCK.search(ours)
    assert match is not None
    return merged(existing, yaml.safe_load(match[2]), ours[match.end() :].partition(BEGIN)[2].rpartition(END)[0], ())
