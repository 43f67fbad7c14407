"""What scoring cost, and after how many trainings on a kept set it is earned back. Pure. Wall seconds, of this machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hf_datadiet.arms import REDRAWN, is_added


def costs(
    seed_seconds: Sequence[Mapping[str, float]], evaluations: Sequence[Mapping[str, Any]], tunings: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Seconds of scoring, tuning and each evaluation, and a saving for each selection that was compared with the full data.

    `seed_seconds`: of each scoring seed, {"train", "observe"}; `evaluations`: entries made by `judgement.judged`; `tunings`: those made by
    `choice.tuned`.
    """
    scoring = {kind: float(sum(seconds[kind] for seconds in seed_seconds)) for kind in ("train", "observe")}
    total = scoring["train"] + scoring["observe"]
    tuning = {entry["selection"]: float(entry["seconds"]) for entry in tunings}
    return {
        "scoring_seconds": total,
        "scoring_train_seconds": scoring["train"],
        "scoring_observe_seconds": scoring["observe"],
        "tuning_seconds": float(sum(tuning.values())),
        "evaluation_seconds": float(sum(arm["seconds"] * arm["n"] for evaluation in evaluations for arm in evaluation["arms"])),
        "savings": [saving for evaluation in evaluations for saving in _savings(total, tuning, evaluation)],
    }


def _savings(scoring_seconds: float, tuning: Mapping[str, float], evaluation: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """What one training on each selection takes less than one on everything.

    With as many steps as the full data (`match: steps`, the paper's protocol) a smaller set saves none, whatever the clock says;
    `saved_seconds` is 0 and `break_even_runs` None there, and where a training on fewer rows was not faster.
    What is to be earned back is scoring, and the tuning of a selection that was tuned (`tuning_seconds`, 0 for others). `redrawn`: what
    the selection gains over as many rows drawn anew in every epoch, which save as much and need no scores; None where no arm draws them.
    """
    seconds = {arm["arm"]: arm["seconds"] for arm in evaluation["arms"]}
    against_full = {row["arm"] for row in evaluation["differences"] if row["reference"] == "full"}
    for arm, taken in seconds.items():
        if arm in against_full and not is_added(arm):
            saved = seconds["full"] - taken
            pays = evaluation["match"] == "epochs" and saved > 0
            yield {
                "evaluation": evaluation["name"],
                "match": evaluation["match"],
                "arm": arm,
                "seconds": taken,
                "full_seconds": seconds["full"],
                "saved_seconds": saved if pays else 0.0,
                "tuning_seconds": tuning.get(arm, 0.0),
                "break_even_runs": (scoring_seconds + tuning.get(arm, 0.0)) / saved if pays else None,
                "redrawn": _redrawn(arm, evaluation),
            }


def _redrawn(arm: str, evaluation: Mapping[str, Any]) -> dict[str, Any] | None:
    """The selection's difference to the rows redrawn in every epoch, in points, with its interval and verdict."""
    found = (row for row in evaluation["differences"] if row["arm"] == arm and row["reference"].startswith(REDRAWN))
    shown = ("reference", "difference", "low", "high", "verdict")
    return next(({key: row[key] for key in shown} for row in found), None)
