"""One training over all its lives: each goes on where the one before was stopped, or died."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from hf_datadiet.records import Plan
from hf_datadiet.training.checkpoint import putting_back
from hf_datadiet.training.packing import Tree, pack, unpack
from hf_datadiet.training.session import Session
from hf_datadiet.training.stopping import stop_if_requested
from hf_datadiet.training.together import together
from hf_datadiet.unfinished import Arrays, Unfinished, UnusableError

T = TypeVar("T")


class Life:
    """One of them. `kept`, `weights`: what the one before kept, None at the beginning.

    Sharded models are not kept: there will be no next one.
    """

    def __init__(
        self, unit: Unfinished, about: Mapping[str, Any], plan: Plan, kept: Tree | None = None, weights: Mapping[int, Arrays] | None = None
    ) -> None:
        self.unit, self.about, self._keeps, self._alone = unit, about, not plan.sharded, plan.world == 1
        self.training: Tree | None = None if kept is None else kept["training"]
        self.own: Tree | None = None if kept is None else kept["own"]
        self.weights = dict(weights or {})
        self._start = time.perf_counter() - (0.0 if kept is None else kept["seconds"])

    @property
    def epochs(self) -> int:
        """Finished by the lives before."""
        return 0 if self.training is None else len(self.training["position"]["curve"])

    @property
    def seconds(self) -> float:
        """Spent in all lives, without what had to be done again."""
        return time.perf_counter() - self._start

    def resumed(self, on_resume: Callable[[int, int], None]) -> None:
        """Tell how many epochs and steps the lives before have done, if there were any."""
        if self.training is not None:
            self.epoch_done(self.epochs)
            on_resume(self.epochs, self.training["position"]["done"])

    def keep(self, training: Tree, own: Tree = None, *, observed: bool = False) -> None:
        """Keep the state of the loop, and what its caller adds, for the next life.

        A new model is nothing worth keeping, unless it was observed.
        """
        if self._keeps and (observed or training["position"]["done"]):
            arrays, plain = pack({"seconds": self.seconds, "training": training, "own": own})
            self.unit.keep(arrays, plain, self.about)

    def between(self) -> None:
        """Between two pieces of work: a sign of life. Raises `Stopped` if a signal has asked for it, and no other process waits."""
        self.unit.alive()
        if self._alone:
            stop_if_requested()

    def epoch_done(self, epoch: int) -> None:
        """For those who look on."""
        self.unit.progress(epoch, self.seconds)


def live(unit: Unfinished, about: Mapping[str, Any], session: Session, work: Callable[[Life], T], plan: Plan) -> T:
    """`work` from where the checkpoint stands; from the beginning if there is none, or, with a line that says so, if it cannot be used.

    Processes that train together go on from the same step, or all from the beginning; sharded models always do.
    """
    found = None if plan.sharded else _found(unit, about, session, plan)
    done = -1 if found is None or found.training is None else found.training["position"]["done"]
    alike = len(set(together(plan).everyone(done))) == 1
    if found is not None and alike:
        try:
            return work(found)
        except UnusableError as error:
            _starts_over(unit, error)
    return work(Life(unit, about, plan))


def _found(unit: Unfinished, about: Mapping[str, Any], session: Session, plan: Plan) -> Life | None:
    try:
        kept = unit.load(about)
        if kept is None:
            return None
        with putting_back():
            tree = unpack(*kept, session.device)
            # All that can be missing is read here, where processes that train together still agree on going on.
            weights = {epoch: unit.load_weights(epoch, about) for epoch in (tree["own"] or {}).get("weights", ())}
            return Life(unit, about, plan, tree, weights)
    except UnusableError as error:
        _starts_over(unit, error)
        return None


def _starts_over(unit: Unfinished, error: UnusableError) -> None:
    unit.note(f"{unit.path}: {error}; this training starts over")


def belonging(session: Session, plan: Plan, rows: str, **more: Any) -> dict[str, Any]:
    """What a checkpoint belongs to: with any of it different it would be another training. `rows`: digest of the ids trained on."""
    identity = json.dumps(session.recipe.identity(), sort_keys=True)
    return {
        "recipe": hashlib.sha256(identity.encode()).hexdigest(),
        "source": session.pinned.record.digest,
        "rows": rows,
        # Observing in other batches is the same up to rounding: what did not fit must not keep a training from going on.
        "plan": {key: value for key, value in dataclasses.asdict(plan).items() if key != "observe_batch_size"},
        "versions": dict(session.provenance.versions),
        **more,
    }
