"""The model of a finished seed: its weights, and what they belong to."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hf_datadiet.errors import RecipeError
from hf_datadiet.recipe import TaskSpec
from hf_datadiet.tasks.base import Task
from hf_datadiet.training.randomness import untouched_generators


@dataclass(frozen=True)
class KeptModel:
    """The weights of a finished seed and what its model was built from; the model itself waits for the first batch.

    `base`: the run's own module, if its model came from Python.
    """

    spec: TaskSpec
    n_classes: int
    weights: Mapping[str, NDArray[np.generic]]
    base: nn.Module | None

    def model(self, task: Task, prepared: Any) -> nn.Module:
        """A model for inputs like `prepared`, with the kept weights."""
        with untouched_generators(torch.device("cpu")):
            built_from = self.spec.model if self.base is None else copy.deepcopy(self.base)
            model = task.build_model(built_from, self.spec.model_args, self.n_classes, prepared, empty=True)
        try:
            model.load_state_dict({name: torch.from_numpy(np.array(values)) for name, values in self.weights.items()})
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise RecipeError(f"the kept weights do not fit {self.spec.model} as it is built now ({reason}); score again") from error
        return model
