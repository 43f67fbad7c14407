"""Learning curves in trackio, TensorBoard or Weights & Biases, by Accelerate's trackers: one tracker run for each training.

The project is called like the run folder, its runs like the trainings: `score-000`, `full-10000`. Nothing here changes a score.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers

from hf_datadiet.errors import RecipeError
from hf_datadiet.store import RunFolder

Log: TypeAlias = Callable[[Mapping[str, float], int], None]
"""(values by name, epoch): shown at once."""


def check_tracker(name: str | None) -> None:
    """`RecipeError` with the pip line for a tracker that is not installed."""
    if name is not None and name not in [str(tracker) for tracker in get_available_trackers()]:
        raise RecipeError(f"tracker {name} is not installed; pip install {name}, or leave out tracker")


@contextlib.contextmanager
def tracked(name: str | None, folder: RunFolder, training: str) -> Iterator[Log]:
    """A tracker run for the block, called `training`, or nothing at all without a tracker's name.

    TensorBoard's files lie below `tracker/` of the run folder. `RecipeError` if the tracker does not start.
    """
    if name is None:
        yield lambda values, epoch: None
        return
    # The trackers themselves instead of an Accelerator: its end_training would also end the process group.
    with _greetings_on_stderr():
        try:
            shown = _tracker(name, folder, training)
            shown.start()
        except Exception as error:  # whatever goes wrong in somebody else's library, the user mends it there or does without
            reason = (str(error).splitlines() or [""])[0]
            raise RecipeError(
                f"tracker {name} does not start ({type(error).__name__}: {reason}); mend that, or leave out tracker"
            ) from error

    def log(values: Mapping[str, float], epoch: int) -> None:
        shown.log(dict(values), step=epoch)

    try:
        yield log
    finally:
        with _greetings_on_stderr():
            shown.finish()


def _tracker(name: str, folder: RunFolder, training: str) -> GeneralTracker:
    kind: Any = LOGGER_TYPE_TO_CLASS[name]
    if name == "tensorboard":  # it knows no projects: each folder is a run
        return kind(training, folder.path / "tracker")
    # An interrupted training goes on under its old name, which trackio has to be told.
    more = {"dir": str(folder.path)} if name == "wandb" else {"resume": "allow"}
    return kind(folder.path.resolve().name, name=training, **more)


def _greetings_on_stderr() -> contextlib.AbstractContextManager[Any]:
    """Some trackers say hello and goodbye on stdout, which belongs to the answer of the command."""
    return contextlib.redirect_stdout(sys.stderr)
