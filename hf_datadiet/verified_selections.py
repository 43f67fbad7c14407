"""Published selections, made once more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from hf_datadiet.checked import Check, check
from hf_datadiet.errors import PluginError
from hf_datadiet.records import AUTO, ScoreTable, Selection
from hf_datadiet.selection import select


def selections_again(table: ScoreTable, selections: Sequence[Selection]) -> Iterator[Check]:
    """Each selection made once more from the scores, by what it records of how it was made."""
    for selection in selections:
        what = f"selection {selection.name} follows from the scores"
        if selection.table_digest != table.digest:
            yield Check(what, "differs", ("it was made from other scores than those published",))
            continue
        try:
            again = _again(table, selection)
        except PluginError as fault:
            yield Check(what, "not verifiable", (str(fault),))
            continue
        lost, added = np.setdiff1d(again.kept, selection.kept), np.setdiff1d(selection.kept, again.kept)
        kept = [f"example {row} should be kept" for row in lost.tolist()]
        yield check(what, [*kept, *(f"example {row} should be dropped" for row in added.tolist())])


def _again(table: ScoreTable, selection: Selection) -> Selection:
    settings = {key: value for key, value in selection.parameters.items() if key != AUTO}
    keep, quotas, mix = settings.pop("keep"), settings.pop("quotas"), settings.pop("mix", 0.0)
    score = settings.pop("scores", selection.score)
    threshold = selection.strategy == "threshold"
    return select(
        table,
        name=selection.name,
        keep=keep,
        score=None if threshold else score,
        strategy=None if threshold else selection.strategy,
        quotas=quotas,
        mix=mix,
        tie_seed=selection.tie_seed,
        parameters=settings,
        provenance=selection.provenance,
    )
