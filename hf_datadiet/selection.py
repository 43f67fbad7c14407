"""A table of scores and a budget (and class quotas) -> the example ids that stay, and why each of the others goes."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from hf_datadiet import registry, stats
from hf_datadiet.errors import PluginError, RecipeError
from hf_datadiet.records import UNLABELLED, Direction, Provenance, ScoreTable, Selection
from hf_datadiet.selectors.base import Candidates, Selector

Keep: TypeAlias = float | int | Mapping[str, Any]
"""A fraction (float in (0, 1]), a count (int >= 1), or a threshold: {"score": column, "above": x, "below": y}, one bound or both."""

Quotas: TypeAlias = Literal["proportional", "equal", "none"]

DEFAULT_STRATEGY = "hardest"
"""What the paper keeps (arXiv 2107.07075)."""


def select(
    table: ScoreTable,
    *,
    name: str,
    keep: Keep,
    score: str | None = None,
    strategy: str | None = None,
    quotas: Quotas | None = None,
    tie_seed: int = 0,
    parameters: Mapping[str, Any] | None = None,
    provenance: Provenance,
    allow_plugins: bool = False,
) -> Selection:
    """The selection `name` from the table's N labelled rows; rows without a label are always dropped.

    keep: a fraction of N (rounded half up), a count, or a threshold: exactly the rows with above < score < below, and nothing
    else to choose. score: the column to go by; its direction says which end is hard ("neither": high counts as hard); left out for the
    strategy "random". strategy: a name in the registry (default "hardest"), with its own `parameters`.
    quotas: rows per class "proportional" to its share of the N rows, "equal" (small classes give all, the others share the rest),
    or "none" (also None). The strategy then runs inside each class, with a random stream that no other class influences.
    tie_seed >= 0: seed of every draw. allow_plugins: admit a strategy `package.module:NAME`.

    `RecipeError` for what cannot be carried out, `PluginError` for a strategy that is unknown or does not do its work.
    """
    labelled = np.flatnonzero(table.label != UNLABELLED)
    if labelled.size == 0:
        raise RecipeError("no row has a label, so there is nothing to choose from; name the label column of the source")
    if isinstance(tie_seed, bool) or not isinstance(tie_seed, int | np.integer) or tie_seed < 0:
        raise RecipeError(f"tie_seed is {tie_seed!r}; give a whole number, 0 or more")
    if quotas not in (None, "none", "proportional", "equal"):
        raise RecipeError(f"quotas are {quotas!r}; give proportional, equal or none")

    reasons = np.array([table.skipped.get(row, "no label") for row in table.example_id.tolist()], dtype=object)
    settings: dict[str, Any] = {}
    seats: dict[str, int] | None = None
    if isinstance(keep, Mapping):
        if score or strategy or parameters or quotas not in (None, "none"):
            raise RecipeError(
                "a threshold is the whole selection; leave out score, strategy, its parameters and quotas, or make keep a number"
            )
        score, strategy, keep = threshold_score(keep), "threshold", dict(keep)
        reasons[labelled] = _outside(table.column(score).mean[labelled].astype(np.float64), keep)
    else:
        strategy = strategy or DEFAULT_STRATEGY
        k = budget(keep, labelled.size)
        values, higher_is = _values(table, score, strategy)
        selector = _selector(strategy, parameters or {}, allow_plugins)
        settings = asdict(cast(Any, selector))
        if quotas in (None, "none"):
            groups = [(None, labelled, k, ())]
        else:
            groups = _classes(table, labelled, k, quotas)
            seats = {str(group): share for group, _, share, _ in groups}
        for group, rows, share, spawn_key in groups:
            rng = np.random.default_rng(np.random.SeedSequence(int(tie_seed), spawn_key=spawn_key))
            hardness = -values[rows] if higher_is == "easier" else values[rows]
            kept = _kept(selector, strategy, Candidates(table.example_id[rows], hardness), share, rng, group)
            reasons[rows] = _reasons(strategy, selector, score, higher_is, hardness, kept, group)

    by_id = np.argsort(table.example_id)
    source_id = None if table.source_id is None else table.source_id[by_id]
    ids, reasons = table.example_id[by_id], reasons[by_id]
    stays = reasons == ""
    if not stays.any():
        low, high = np.min(table.column(str(score)).mean[labelled]), np.max(table.column(str(score)).mean[labelled])
        raise RecipeError(f"no row passes the threshold {keep}; {score} runs from {low:.4g} to {high:.4g}")
    return Selection(
        name=name,
        kept=ids[stays],
        dropped=ids[~stays],
        reasons=tuple(reasons[~stays].tolist()),
        score=score,
        strategy=strategy,
        parameters={"keep": keep, "quotas": quotas or "none", **settings},
        tie_seed=int(tie_seed),
        quotas=seats,
        table_digest=table.digest,
        source_digest=table.source.digest,
        provenance=provenance,
        source_id=source_id,
    )


def _unknown(word: object, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(str(word), known, n=1)
    return f"{word!r}; {f'did you mean {near[0]}? It' if near else 'it'} takes: {', '.join(known) or 'nothing'}"


def _is_number(value: object) -> bool:
    if isinstance(value, int | np.integer):
        return not isinstance(value, bool)
    return isinstance(value, float | np.floating) and math.isfinite(value)


def budget(keep: float | int, n: int) -> int:
    """Rows to keep of n, for a fraction or a count."""
    if not _is_number(keep):
        raise RecipeError(f"keep is {keep!r}; give a fraction such as 0.5, a count such as 5000, or a threshold")
    if keep <= 0:
        raise RecipeError(f"keep is {keep}, which keeps no row; give a fraction above 0 or a count of at least 1")
    if isinstance(keep, int | np.integer):
        if keep > n:
            raise RecipeError(f"keep is {keep}, but only {n} rows are labelled and scored; give at most {n}, or 1.0 for all")
        return int(keep)
    if keep > 1:
        raise RecipeError(f"keep is {keep}, a fraction above 1.0; give a fraction of at most 1.0, or a count without a decimal point")
    # In decimals, so that half a row is half a row: 0.29 of 50 is 14.5, and not 14.499999999999998.
    k = int((Decimal(str(keep)) * n).to_integral_value(ROUND_HALF_UP))
    if k == 0:
        raise RecipeError(f"keep is {keep}, which is less than half a row of {n}; give at least {1 / n:.2g}")
    return k


def _values(table: ScoreTable, score: str | None, strategy: str) -> tuple[NDArray[np.float64], Direction]:
    """The score to go by, float64 [N], and its direction; zeros for the one strategy that goes by none."""
    if strategy == "random":
        if score is not None:
            raise RecipeError(f"strategy random looks at no score; leave out score: {score}, or choose another strategy")
        return np.zeros(table.example_id.size), "neither"
    if score is None:
        raise RecipeError(f"strategy {strategy} needs a score; name one of: {', '.join(table.columns)}")
    column = table.column(score)
    return column.mean.astype(np.float64), column.higher_is


def _selector(strategy: str, parameters: Mapping[str, Any], allow_plugins: bool) -> Selector:
    """The strategy with its parameters; the names of both are checked."""
    if strategy == "threshold":
        raise RecipeError("a threshold is a budget, not a strategy; write keep: {score: el2n, below: 0.3}")
    kind = registry.find("selectors", strategy, allow_plugins)
    if not is_dataclass(kind):
        raise PluginError(f"strategy {strategy} is not a dataclass; its fields are its parameters")
    known = {parameter.name: parameter for parameter in fields(kind)}
    for parameter in parameters:
        if parameter not in known:
            raise RecipeError(f"strategy {strategy} has no parameter {_unknown(parameter, known)}")
    for parameter in known.values():
        if parameter.name not in parameters and parameter.default is MISSING and parameter.default_factory is MISSING:
            raise RecipeError(f"strategy {strategy} needs its parameter {parameter.name!r}; give it a value")
    return cast(Any, kind)(**parameters)


def _classes(
    table: ScoreTable, labelled: NDArray[np.int64], k: int, quotas: str
) -> list[tuple[str, NDArray[np.int64], int, tuple[int, ...]]]:
    """Each class: its name, its rows, how many of them stay, and the key of its own random stream."""
    labels, sizes = np.unique(table.label[labelled], return_counts=True)
    shares = stats.apportion(k, sizes if quotas == "proportional" else np.ones(sizes.size), sizes)
    names = {label: table.source.classes[label] if label < len(table.source.classes) else str(label) for label in labels.tolist()}
    return [
        (names[label], labelled[table.label[labelled] == label], share, (label,))
        for label, share in zip(labels.tolist(), shares.tolist(), strict=True)
    ]


def _kept(
    selector: Selector, strategy: str, candidates: Candidates, k: int, rng: np.random.Generator, group: str | None
) -> NDArray[np.bool_]:
    """Which of the n candidates stay, bool [n]."""
    try:
        chosen = selector(candidates, k, rng)
    except RecipeError as fault:
        raise fault if group is None else RecipeError(f"class {group}: {fault}") from fault
    kept = np.zeros(candidates.example_id.size, dtype=bool)
    kept[chosen] = True
    if len(chosen) != k or int(kept.sum()) != k:
        raise PluginError(f"strategy {strategy} chose {int(kept.sum())} distinct rows where {k} were asked for; mend the strategy")
    return kept


def _reasons(
    strategy: str,
    selector: Selector,
    score: str | None,
    higher_is: Direction,
    hardness: NDArray[np.float64],
    kept: NDArray[np.bool_],
    group: str | None,
) -> NDArray[np.object_]:
    """Why each of the n candidates is dropped, a few short phrases; "" where it is kept."""
    reasons = np.full(kept.size, "", dtype=object)
    k = int(kept.sum())
    if k == 0:
        reasons[:] = f"class quota {group} keeps 0 of {kept.size}"
        return reasons
    quota = "" if group is None else f", class quota {group}"
    share = f"{100 * k / kept.size:.4g} %" if group is None else f"{k} of {kept.size}{quota}"
    low, high = float(hardness[kept].min()), float(hardness[kept].max())
    sign, easier, harder = (-1, "above", "below") if higher_is == "easier" else (1, "below", "above")
    equals = f"not drawn among equals ({strategy} {share})"
    match strategy:
        case "hardest":
            reasons[hardness < low] = f"{score} {easier} the cut {sign * low:.4g} (hardest {share})"
            reasons[hardness == low] = f"{score} at the cut {sign * low:.4g}, {equals}"
        case "easiest":
            reasons[hardness > high] = f"{score} {harder} the cut {sign * high:.4g} (easiest {share})"
            reasons[hardness == high] = f"{score} at the cut {sign * high:.4g}, {equals}"
        case "window":
            reasons[hardness > high] = f"skipped: among the {100 * cast(Any, selector).skip:.4g} % hardest{quota}"
            reasons[hardness < low] = f"{score} {easier} the window's cut {sign * low:.4g} (window {share})"
            reasons[(hardness == low) | (hardness == high)] = f"{score} at an edge of the window, {equals}"
        case "random":
            reasons[:] = f"not drawn (random {share})"
        case _:
            reasons[:] = f"not chosen by {strategy} ({share})"
    reasons[kept] = ""
    return reasons


def threshold_score(keep: Mapping[str, Any]) -> str:
    """The column that a threshold names; its keys and bounds are checked."""
    for key in keep:
        if key not in ("score", "above", "below"):
            raise RecipeError(f"keep has no key {_unknown(key, ('score', 'above', 'below'))}")
    bounds = [keep[key] for key in ("above", "below") if key in keep]
    if not isinstance(keep.get("score"), str) or not bounds:
        raise RecipeError("a threshold names its score and a bound; write keep: {score: el2n, below: 0.3}")
    for bound in bounds:
        if not _is_number(bound):
            raise RecipeError(f"the threshold {bound!r} on {keep['score']} is not a finite number; give one")
    if len(bounds) == 2 and bounds[0] >= bounds[1]:
        raise RecipeError(f"no {keep['score']} lies above {bounds[0]} and below {bounds[1]}; exchange the bounds")
    return keep["score"]


def _outside(values: NDArray[np.float64], keep: Mapping[str, Any]) -> NDArray[np.object_]:
    """Why each of the values [n] fails the threshold; "" where it lies strictly inside."""
    reasons = np.full(values.size, "", dtype=object)
    if "above" in keep:
        reasons[values <= keep["above"]] = f"{keep['score']} not above the threshold {keep['above']:g}"
    if "below" in keep:
        reasons[values >= keep["below"]] = f"{keep['score']} not below the threshold {keep['below']:g}"
    return reasons
