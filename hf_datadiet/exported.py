"""A trained model on its way to others: what it is made of, and what there is to say of the folder that its library reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

REPO = "OWNER/MODEL"
"""Where the id of the model's repository belongs in `Exported.code`."""


@dataclass(frozen=True)
class Trained:
    """`model`, `model_args`: as in a recipe. `weights`: of parameters and buffers, by name. `fitted`: what the task took from the data.

    `classes`: their names, by label. `columns`: {role: column} of the rows that it was trained on.
    """

    model: str
    model_args: Mapping[str, Any]
    weights: Mapping[str, NDArray[Any]]
    classes: tuple[str, ...]
    fitted: Mapping[str, Any]
    columns: Mapping[str, str]


@dataclass(frozen=True)
class Exported:
    """A folder with safetensors weights and what else its library reads.

    `model`: what was trained, by its name in a recipe, without any place on this machine. `by_name`: whether the library finds all it
    needs in the repository; if not, `code` builds the model line by line. `start`: what its weights were at the beginning, in words;
    `base_model`: their id, if the Hub has them. `inputs`: what it takes, in words. `notes`: sentences on what is not as one expects.
    """

    library: Literal["timm", "transformers"]
    pipeline_tag: Literal["image-classification", "text-classification"]
    model: str
    by_name: bool
    code: str
    start: str
    base_model: str | None
    inputs: str
    notes: tuple[str, ...] = ()

    def code_for(self, repo: str) -> str:
        """Python that loads the model of a repository and applies it."""
        return self.code.replace(REPO, repo)
