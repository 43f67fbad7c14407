"""`strategy: auto`: which strategies are compared, on which validation rows, and what each of them keeps of the other rows.

The validation rows come out of the labelled rows that were scored, so the test rows have no part in it. Each candidate keeps the same
share of the rest, by the run's own scores; `tune` trains a model on each of these sets and judges it on the validation rows.

What this does not do: score again without the validation rows. The models behind the scores were trained with their labels; the models
that are judged never are. And where labels are noisy, those of the validation rows are as noisy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator
from pydantic.dataclasses import dataclass

from hf_datadiet.budget import Keep, budget, share_of
from hf_datadiet.errors import RecipeError
from hf_datadiet.identity import digest_of
from hf_datadiet.recipe import FIRST_EVALUATION_SEED, STRICT_KEYS, Fraction, PruneSpec
from hf_datadiet.recipe_yaml import build
from hf_datadiet.records import AUTO, UNLABELLED, Provenance, ScoreTable, Selection
from hf_datadiet.selection import select
from hf_datadiet.stats import stratified_draw

MEANING = "Keep what the best of several strategies keeps, judged by retraining on validation rows, never on test rows."

DEFAULT: tuple[Mapping[str, Any], ...] = (
    {"strategy": "hardest"},
    {"strategy": "window", "skip": 0.05},
    {"strategy": "window", "skip": 0.1},
    {"strategy": "window", "skip": 0.2},
    {"strategy": "moderate"},
    {"strategy": "coverage"},
    {"strategy": "random"},
)
"""First what is done when no strategy is named, which stays unless something else is better; then windows that skip as many of the
hardest as labels are often wrong (arXiv 2107.07075, figure 2, tunes the start of the window so), the middle, all difficulties
alike, and no score at all."""

STREAM = 0x76616C
"""Sets the draw of the validation rows apart from those of the strategies, which the same seed begins ("val")."""


@dataclass(frozen=True, config=STRICT_KEYS)
class Auto:
    """The strategy's own keys.

    `validation`: the fraction of the labelled rows that judges the candidates, drawn class by class. `seeds`: trainings of each candidate.
    `candidates`: strategies with their parameters, the simplest first; None for those of `DEFAULT` that can be carried out.
    """

    validation: Fraction = 0.1
    seeds: Annotated[int, Field(ge=1, le=FIRST_EVALUATION_SEED)] = 2
    candidates: tuple[Mapping[str, Any], ...] | None = None

    @field_validator("candidates")
    @classmethod
    def _to_compare(cls, given: tuple[Mapping[str, Any], ...] | None) -> tuple[Mapping[str, Any], ...] | None:
        if given is None:
            return None
        if len(given) < 2:
            raise ValueError("name at least two strategies to compare, such as [{strategy: hardest}, {strategy: window, skip: 0.1}]")
        for candidate in given:
            if not isinstance(candidate.get("strategy"), str) or candidate["strategy"] == AUTO:
                raise ValueError(f"{dict(candidate)} names no strategy to compare; write such as {{strategy: window, skip: 0.1}}")
        names = [name_of(candidate) for candidate in given]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"{min(twice)} stands there twice; leave one out")
        return given


@plain_dataclass(frozen=True)
class Comparison:
    """What is compared. `validation` int64 [V]: ids of the validation rows, ascending. `candidates`: {name: strategy and parameters}.

    `selections`: {name: what it keeps of the R other labelled rows, K of them}.
    """

    asked: Auto
    spec: PruneSpec
    validation: NDArray[np.int64]
    candidates: Mapping[str, Mapping[str, Any]]
    selections: Mapping[str, Selection]
    n_rest: int
    table_digest: str

    @property
    def n_kept(self) -> int:
        """K."""
        return next(iter(self.selections.values())).kept.size

    @property
    def record(self) -> dict[str, Any]:
        """All of it as plain values. `asked` is how it was asked for; the digests tell the rows and the scores."""
        spec, given = self.spec, self.asked.candidates
        return {
            "asked": {
                "keep": spec.keep,
                "score": spec.score if spec.score is None or isinstance(spec.score, str) else list(spec.score),
                "quotas": dict(spec.quotas) if isinstance(spec.quotas, Mapping) else spec.quotas,
                "mix": spec.mix,
                "tie_seed": spec.tie_seed,
                "validation": self.asked.validation,
                "seeds": self.asked.seeds,
                "candidates": None if given is None else [dict(candidate) for candidate in given],
            },
            "n_validation": int(self.validation.size),
            "n_rest": self.n_rest,
            "n_kept": int(self.n_kept),
            "candidates": {name: dict(candidate) for name, candidate in self.candidates.items()},
            "validation_digest": digest_of([self.validation]),
            "scores_digest": self.table_digest,
        }

    def settled(self, name: str) -> PruneSpec:
        """What was asked for, with this candidate in the place of `auto`."""
        return _with(self.spec, self.candidates[name])


def name_of(candidate: Mapping[str, Any]) -> str:
    """What a candidate is called in files and tables: window-skip-0.05."""
    words = [str(candidate["strategy"]), *(f"{key}-{value}" for key, value in candidate.items() if key != "strategy")]
    return re.sub(r"[^A-Za-z0-9._]+", "-", "-".join(words)).strip("-.")


def compared(table: ScoreTable, spec: PruneSpec, provenance: Provenance, *, allow_plugins: bool = False) -> Comparison:
    """What `spec`, whose strategy is auto, compares on the rows of this table. Every candidate is carried out, on the rest and on all rows.

    The V validation rows (a fraction of the N labelled ones, rounded half up, one at least) are drawn with `spec.tie_seed`, each class in
    proportion. Of the R rows that are left each candidate keeps K, the share that `spec.keep` is of N. Quotas and mix apply to all of them.
    `RecipeError` for keys that `Auto` has not, and for a candidate that cannot be carried out; of `DEFAULT` such a one is left out.
    """
    asked = build(Auto, spec.parameters, f"prune {spec.name}")

    def carried_out(candidate: Mapping[str, Any], among: ScoreTable, size: Keep) -> Selection:
        tried = _with(spec, candidate)
        return select(
            among,
            name=name_of(candidate),
            keep=size,
            score=tried.score,
            strategy=tried.strategy,
            quotas=tried.quotas,
            mix=tried.mix,
            tie_seed=tried.tie_seed,
            parameters=tried.parameters,
            provenance=provenance,
            allow_plugins=allow_plugins,
        )

    # What the first one cannot do with all rows is no matter of the strategy.
    first, *_ = proposed = asked.candidates or DEFAULT
    carried_out(first, table, spec.keep)
    labelled = table.label != UNLABELLED
    ids, label = table.example_id[labelled], table.label[labelled]
    k = budget(spec.keep, ids.size)  # pyright: ignore[reportArgumentType]
    if k == ids.size:
        raise RecipeError(f"prune {spec.name}: all {k} rows are kept, so there is nothing for strategy auto to choose; lower keep")
    order = np.argsort(ids)
    rng = np.random.default_rng(np.random.SeedSequence(spec.tie_seed, spawn_key=(STREAM, STREAM)))
    held = ids[order][stratified_draw(label[order], max(1, share_of(asked.validation, ids.size)), rng)]
    rest = _without(table, held)
    n_rest = int(ids.size - held.size)
    keep = max(1, share_of(k / ids.size, n_rest))

    selections: dict[str, Selection] = {}
    candidates: dict[str, Mapping[str, Any]] = {}
    for candidate in proposed:
        try:
            carried_out(candidate, table, k)  # as it will be, if it is chosen
            selections[name_of(candidate)] = carried_out(candidate, rest, keep)
        except RecipeError:
            if asked.candidates is not None or not selections:
                raise
            continue
        candidates[name_of(candidate)] = candidate
    return Comparison(asked, spec, held, candidates, selections, n_rest, table.digest)


def _with(spec: PruneSpec, candidate: Mapping[str, Any]) -> PruneSpec:
    parameters = {key: value for key, value in candidate.items() if key != "strategy"}
    score = None if candidate["strategy"] == "random" else spec.score
    return replace(spec, strategy=candidate["strategy"], score=score, parameters=parameters)


def _without(table: ScoreTable, ids: NDArray[np.int64]) -> ScoreTable:
    """The table without these rows; what single seeds say is left out."""
    stays = ~np.isin(table.example_id, ids)
    columns = {name: replace(column, mean=column.mean[stays], se=None, per_seed=None) for name, column in table.columns.items()}
    return replace(table, example_id=table.example_id[stays], label=table.label[stays], columns=columns, source_id=None)
