"""Score a dataset, prune it, evaluate what was kept.

The names below are imported when they are first used, so that `import hf_datadiet` loads no other library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the same names once more, for type checkers and editors
    from hf_datadiet.errors import DataDietError
    from hf_datadiet.evaluate import evaluate_selections
    from hf_datadiet.from_logits import scores_from_logits
    from hf_datadiet.mapping import ExampleScorer
    from hf_datadiet.prune import prune_dataset
    from hf_datadiet.publish import publish_dataset
    from hf_datadiet.records import (
        ArmResult,
        EvaluationTable,
        Plan,
        Provenance,
        Report,
        RunResult,
        ScoreColumn,
        ScoreTable,
        Selection,
        Source,
    )
    from hf_datadiet.score import add_scores, score_dataset
    from hf_datadiet.suspects import find_suspects
    from hf_datadiet.tasks._callable import CallableTask
    from hf_datadiet.trainer import DynamicsRecorder
    from hf_datadiet.verify import verify_publication

    __version__: str

__all__ = [
    "ArmResult",
    "CallableTask",
    "DataDietError",
    "DynamicsRecorder",
    "EvaluationTable",
    "ExampleScorer",
    "Plan",
    "Provenance",
    "Report",
    "RunResult",
    "ScoreColumn",
    "ScoreTable",
    "Selection",
    "Source",
    "add_scores",
    "evaluate_selections",
    "find_suspects",
    "prune_dataset",
    "publish_dataset",
    "score_dataset",
    "scores_from_logits",
    "verify_publication",
]

_NAMES_BY_MODULE = {
    "errors": ["DataDietError"],
    "evaluate": ["evaluate_selections"],
    "from_logits": ["scores_from_logits"],
    "mapping": ["ExampleScorer"],
    "prune": ["prune_dataset"],
    "publish": ["publish_dataset"],
    "records": [
        "ArmResult",
        "EvaluationTable",
        "Plan",
        "Provenance",
        "Report",
        "RunResult",
        "ScoreColumn",
        "ScoreTable",
        "Selection",
        "Source",
    ],
    "score": ["add_scores", "score_dataset"],
    "suspects": ["find_suspects"],
    "tasks._callable": ["CallableTask"],
    "trainer": ["DynamicsRecorder"],
    "verify": ["verify_publication"],
}
_MODULE_OF = {name: module for module, names in _NAMES_BY_MODULE.items() for name in names}

if not TYPE_CHECKING:  # a visible __getattr__ would tell type checkers that every name exists

    def __getattr__(name: str) -> object:
        """Import a public name from its module, once."""
        if name == "__version__":
            value = import_module("importlib.metadata").version("hf-datadiet")
        elif name in _MODULE_OF:
            value = getattr(import_module(f"hf_datadiet.{_MODULE_OF[name]}"), name)
        else:
            raise AttributeError(f"module 'hf_datadiet' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__")), "__version__"})
