"""Whether what one network's scores chose serves another: each selection against the full data, model by model. Pure.

That EL2N generalises over architectures and learning rates is the abstract of arXiv 2107.07075; here it is measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def transfer(evaluations: Sequence[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    """For each evaluation that has further models its selections' differences to the full data, in points, with intervals and verdicts.

    `evaluations`: entries made by `judgement.judged`, whose intervals allow for all of them. The scorer's own model comes first.
    """
    for own in evaluations:
        entries = [own, *(entry for entry in evaluations if entry["transfer_of"] == own["name"])]
        if len(entries) > 1:
            selections = [row["arm"] for row in own["differences"] if row["reference"] == "full" and row["verdict"] is not None]
            rows = [row for selection in selections for entry in entries for row in _rows(selection, entry)]
            yield {"evaluation": own["name"], "scorer": own["model"], "confidence": own["verdict_confidence"], "rows": rows}


def _rows(selection: str, entry: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """One row, or none where that model has not been trained on the selection."""
    for row in entry["differences"]:
        if (row["arm"], row["reference"]) == (selection, "full"):
            shown = {key: row[key] for key in ("difference", "low", "high", "verdict", "n")}
            yield {"selection": selection, "model": entry["model"], **shown}
