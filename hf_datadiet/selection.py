"""A table of scores and a budget (and class quotas) -> the example ids that stay, and why each of the others goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from hf_datadiet import registry
from hf_datadiet.budget import Keep, budget, is_number, outside, share_of, threshold_score
from hf_datadiet.errors import PluginError, RecipeError, no_such
from hf_datadiet.quotas import Quotas, groups
from hf_datadiet.ranking import column, ranking
from hf_datadiet.records import AUTO, UNLABELLED, Provenance, ScoreTable, Selection
from hf_datadiet.selectors.base import Candidates, Column, Explains, ReadsColumns, Selector
from hf_datadiet.selectors.random import Random

DEFAULT_STRATEGY = "hardest"
"""What the paper keeps (arXiv 2107.07075)."""


def select(
    table: ScoreTable,
    *,
    name: str,
    keep: Keep,
    score: str | Sequence[str] | None = None,
    strategy: str | None = None,
    quotas: Quotas | None = None,
    mix: float = 0.0,
    tie_seed: int = 0,
    parameters: Mapping[str, Any] | None = None,
    provenance: Provenance,
    allow_plugins: bool = False,
) -> Selection:
    """The selection `name` from the table's N labelled rows; rows without a label are always dropped.

    keep: a fraction of N (rounded half up), a count, or a threshold: exactly the rows with above < score < below, and nothing
    else to choose. score: the column to go by; its direction says which end is hard ("neither": high counts as hard); several go by
    the mean of their ranks over the N rows (`ranking`); left out for the strategy "random". strategy: a name in the registry (default
    "hardest"), with its own `parameters`. quotas: rows per class (`quotas.groups`); the strategy then runs inside each class, with a
    random stream that no other class influences. mix: this fraction of the budget (rounded half up; with quotas of each class's) is
    drawn uniformly from all rows that the strategy leaves when it chooses the others (as in Ayed and Hayou, arXiv 2302.06960, whose
    reweighted loss is not part of it). tie_seed >= 0: seed of every draw. allow_plugins: admit a strategy `package.module:NAME`.

    `RecipeError` for what cannot be carried out, `PluginError` for a strategy that is unknown or does not do its work.
    """
    labelled = np.flatnonzero(table.label != UNLABELLED)
    if labelled.size == 0:
        raise RecipeError("no row has a label, so there is nothing to choose from; name the label column of the source")
    if isinstance(tie_seed, bool) or not isinstance(tie_seed, int | np.integer) or tie_seed < 0:
        raise RecipeError(f"tie_seed is {tie_seed!r}; give a whole number, 0 or more")

    reasons = np.array([table.skipped.get(row, "no label") for row in table.example_id.tolist()], dtype=object)
    settings: dict[str, Any] = {}
    seats: dict[str, int] | None = None
    if isinstance(keep, Mapping):
        if score or strategy or parameters or mix or quotas not in (None, "none"):
            raise RecipeError(
                "a threshold is the whole selection; leave out score, strategy, its parameters, quotas and mix, or make keep a number"
            )
        score, strategy, keep = threshold_score(keep), "threshold", dict(keep)
        reasons[labelled] = outside(column(table, labelled, score).values, keep)
    else:
        strategy = strategy or DEFAULT_STRATEGY
        k = budget(keep, labelled.size)
        if not is_number(mix) or not 0 <= mix < 1:
            raise RecipeError(f"mix is {mix!r}; it is the fraction of the budget that is drawn at random, at least 0 and below 1")
        settings |= {"mix": mix} if mix else {}
        settings |= {} if score is None or isinstance(score, str) else {"scores": list(score)}
        everyone, selector = _everyone(table, labelled, score, strategy, parameters or {}, allow_plugins)
        score = everyone.score if score else None
        settings |= asdict(cast(Any, selector))
        found = groups(table.label[labelled], table.source.classes, k, quotas)
        seats = None if found[0].name is None else {str(group.name): group.seats for group in found}
        for group in found:
            rng = np.random.default_rng(np.random.SeedSequence(int(tie_seed), spawn_key=group.stream))
            among = _among(everyone, group.rows, group.name)
            reasons[labelled[group.rows]] = _chosen(selector, strategy, among, group.seats, mix, rng)

    by_id = np.argsort(table.example_id)
    source_id = None if table.source_id is None else table.source_id[by_id]
    ids, reasons = table.example_id[by_id], reasons[by_id]
    stays = reasons == ""
    return Selection(
        name=name,
        kept=ids[stays],
        dropped=ids[~stays],
        reasons=tuple(reasons[~stays].tolist()),
        score=score,
        strategy=strategy,
        parameters={"keep": keep, "quotas": dict(quotas) if isinstance(quotas, Mapping) else quotas or "none", **settings},
        tie_seed=int(tie_seed),
        quotas=seats,
        table_digest=table.digest,
        source_digest=table.source.digest,
        provenance=provenance,
        source_id=source_id,
    )


def _everyone(
    table: ScoreTable,
    labelled: NDArray[np.int64],
    score: str | Sequence[str] | None,
    strategy: str,
    parameters: Mapping[str, Any],
    allow_plugins: bool,
) -> tuple[Candidates, Selector]:
    """All labelled rows with the columns that the strategy goes by, and the strategy."""
    if strategy == "random" and score is not None:
        given = score if isinstance(score, str) else f"[{', '.join(score)}]"
        raise RecipeError(f"strategy random looks at no score; leave out score: {given}, or choose another strategy")
    if strategy != "random" and score is None:
        raise RecipeError(f"strategy {strategy} needs a score; name one of: {', '.join(table.columns)}")
    called, by = ("nothing", Column(np.zeros(labelled.size), "neither")) if score is None else ranking(table, labelled, score)
    selector = _selector(strategy, parameters, allow_plugins)
    further: dict[str, Column] = {}
    for name in selector.columns if isinstance(selector, ReadsColumns) else ():
        try:
            further[name] = column(table, labelled, name)
        except RecipeError as fault:
            raise RecipeError(f"strategy {strategy} also reads a column: {fault}") from fault
    return Candidates(table.example_id[labelled], by.hardness, further, called, by.higher_is), selector


def _among(everyone: Candidates, rows: NDArray[np.int64], group: str | None) -> Candidates:
    """Some of them, by position."""
    further = {name: Column(other.values[rows], other.higher_is) for name, other in everyone.columns.items()}
    return Candidates(everyone.example_id[rows], everyone.hardness[rows], further, everyone.score, everyone.higher_is, group)


def _selector(strategy: str, parameters: Mapping[str, Any], allow_plugins: bool) -> Selector:
    """The strategy with its parameters; the names of both are checked."""
    if strategy == "threshold":
        raise RecipeError("a threshold is a budget, not a strategy; write keep: {score: el2n, below: 0.3}")
    if strategy == AUTO:
        raise RecipeError(
            "strategy auto trains models to choose with, and scores alone have none; it works in a recipe (hf-datadiet run) and in "
            "hf-datadiet prune RUN, or name a strategy"
        )
    kind = registry.find("selectors", strategy, allow_plugins)
    if not is_dataclass(kind):
        raise PluginError(f"strategy {strategy} is not a dataclass; its fields are its parameters")
    known = {parameter.name: parameter for parameter in fields(kind)}
    for parameter in parameters:
        if parameter not in known:
            raise RecipeError(f"strategy {strategy} has no parameter {no_such(parameter, known)}")
    for parameter in known.values():
        if parameter.name not in parameters and parameter.default is MISSING and parameter.default_factory is MISSING:
            raise RecipeError(f"strategy {strategy} needs its parameter {parameter.name!r}; give it a value")
    return cast(Any, kind)(**parameters)


def _chosen(selector: Selector, strategy: str, candidates: Candidates, k: int, mix: float, rng: np.random.Generator) -> NDArray[np.object_]:
    """Why each of the n candidates is dropped; "" for the k that stay."""
    reasons = np.full(candidates.example_id.size, "", dtype=object)
    if k == 0:
        reasons[:] = f"class quota {candidates.group} keeps 0 of {reasons.size}"
        return reasons
    at_random = share_of(mix, k)
    kept = _kept(selector, strategy, candidates, k - at_random, rng)
    if kept.any() and isinstance(selector, Explains):
        reasons[:] = selector.reasons(candidates, kept)
    elif kept.any():
        reasons[:] = f"not chosen by {strategy} ({candidates.share(kept)})"
    reasons[kept] = ""
    if at_random:
        left = np.flatnonzero(~kept)
        drawn = _kept(Random(), "random", _among(candidates, left, candidates.group), at_random, rng)
        reasons[left] += f"; nor drawn at random (mix {100 * mix:.4g} %)" if kept.any() else f"not drawn at random (mix {100 * mix:.4g} %)"
        reasons[left[drawn]] = ""
    return reasons


def _kept(selector: Selector, strategy: str, candidates: Candidates, k: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which of the n candidates stay, bool [n]."""
    try:
        chosen = selector(candidates, k, rng)
    except RecipeError as fault:
        raise fault if candidates.group is None else RecipeError(f"class {candidates.group}: {fault}") from fault
    kept = np.zeros(candidates.example_id.size, dtype=bool)
    kept[chosen] = True
    if len(chosen) != k or int(kept.sum()) != k:
        raise PluginError(f"strategy {strategy} chose {int(kept.sum())} distinct rows where {k} were asked for; mend the strategy")
    return kept
