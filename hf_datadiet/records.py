"""The nouns that travel between the verbs: frozen, and checked when they are made.

Shapes: N examples, S seeds, M observed moments, E epochs trained, C classes, K kept, T test rows.
An example id is an int64: the row's position in the pinned split. It is never derived again and never sorted away.
No number crosses from one verb to the next without its id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hf_datadiet.errors import CoverageError, RecipeError, no_such
from hf_datadiet.identity import check_ids, check_source_ids, digest_of

if TYPE_CHECKING:
    import pandas as pd

Direction: TypeAlias = Literal["harder", "easier", "neither"]
"""What a high value says of an example; "neither" for numbers that are no claim about difficulty."""

Origin: TypeAlias = Literal["observed", "training", "logits"]
"""Where a column's values were taken: in the observe pass (eval mode, no augmentation), in the training forward passes
(train mode, augmented inputs, before the update), or from logits that somebody else computed, once per epoch."""

AUTO = "auto"
"""What stands in the place of a strategy where one is to be chosen by training (`candidates`, `tune`), and the parameter of a selection
that holds what it was chosen by."""

UNLABELLED = -1
"""The label of a row without a label: such a row is neither trained on nor scored, and its scores are null."""


@dataclass(frozen=True)
class Provenance:
    """Where a record comes from. Holds no absolute path, user name or host name, so that it can be published."""

    recipe_digest: str
    command: str
    versions: Mapping[str, str]
    hardware: Mapping[str, str]
    created: str
    """UTC, ISO 8601, to the second."""


@dataclass(frozen=True)
class Source:
    """One pinned split.

    `digest` is the SHA-256 of the content of the role columns, row by row in order: it changes when a row, the order
    or a label changes, and not when another column is added. `columns` maps a role ("image", "label", and "id" for the
    user's own ids) to a column; it is empty where only the labels are known (scores from logits or from a Trainer), and
    `digest` is then theirs (`label_digest`). `revision`: the commit sha of a dataset on the Hub. `test_digest`: the same digest
    of the held-out split, where that is a split of its own.
    """

    name: str
    config: str | None
    split: str
    revision: str | None
    digest: str
    n_rows: int
    columns: Mapping[str, str]
    classes: tuple[str, ...]
    test_digest: str | None = None


@dataclass(frozen=True)
class Plan:
    """What must be equal for results to be bit-identical; decided once per run by measuring, then reused.

    `gradient_routes`: {parameter: how the norm of its gradient is computed}, empty where no score needs one; `gradient_rest`: how those
    that fall back are (`gradients/routes.py`).
    `parallel`: processes train whole seeds (any number of them may go on), or `world` of them train each model together.
    `sharded`: each of these holds a part of every weight (FSDP). `batch_norm`: what BatchNorm's statistics then are, in words; None
    for a model without it, and for one process.
    """

    device: str
    threads: int
    precision: Literal["float32", "bf16"]
    observe_batch_size: int
    gradient_routes: Mapping[str, str] = field(default_factory=dict)
    gradient_rest: Literal["vmap", "loop"] = "loop"
    parallel: Literal["seeds", "data"] = "seeds"
    world: int = 1
    sharded: bool = False
    batch_norm: str | None = None


@dataclass(frozen=True)
class RunResult:
    """What one scoring seed left behind.

    `moments` [M]: the epochs (0 = initialisation) after which all examples were observed. `observed[score]` float32
    [M, N]; `accumulated[column]` float32 [N], from the training forward passes; `predicted` int32 [M, N];
    `p_label` float16 [E, N], the probability of the label in the training forward of each epoch. `weights[epoch]`
    maps parameter and buffer names to arrays. Columns follow `example_id` [N], labelled rows only.
    """

    seed: int
    example_id: NDArray[np.int64]
    moments: tuple[int, ...]
    observed: Mapping[str, NDArray[np.float32]]
    accumulated: Mapping[str, NDArray[np.float32]]
    predicted: NDArray[np.int32]
    p_label: NDArray[np.float16]
    curve: tuple[Mapping[str, float], ...]
    seconds: Mapping[str, float]
    """Wall seconds spent: {"train": ..., "observe": ...}."""
    weights: Mapping[int, Mapping[str, NDArray[Any]]]
    provenance: Provenance
    plan: Mapping[str, Any] = field(default_factory=dict)
    """The plan that the seed ran under, with the batch size that it was observed with; empty for scores made elsewhere."""
    switched: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """{moment: {parameter: why the plan's route to its gradient norm did not hold there}}: these are plain autograd's."""

    def __post_init__(self) -> None:
        check_ids(self.example_id, f"seed {self.seed}")
        n, m = self.example_id.size, len(self.moments)
        shapes = {name: (values, (m, n)) for name, values in self.observed.items()}
        shapes |= {name: (values, (n,)) for name, values in self.accumulated.items()}
        shapes |= {"predicted": (self.predicted, (m, n)), "p_label": (self.p_label, (self.p_label.shape[0], n))}
        for name, (values, shape) in shapes.items():
            if values.shape != shape:
                raise CoverageError(f"seed {self.seed}: {name} has shape {values.shape}, expected {shape}")
            if not np.isfinite(values).all():
                raise CoverageError(f"seed {self.seed}: {name} is not finite everywhere; lower the learning rate")


def column_name(score: str, epoch: int, headline: int) -> str:
    """The column of a score at one moment: the plain name at the moment `headline`, else `el2n_e10`."""
    return score if epoch == headline else f"{score}_e{epoch}"


@dataclass(frozen=True)
class ScoreColumn:
    """One score at one moment: `mean` float32 [N] over seeds, null (NaN) exactly for rows without a label.

    `se` float32 [N]: standard error of the mean over S seeds, None for one seed or a score that no seed changes.
    `per_seed` float32 [S, N]: None where only means are known. `reliability`: Spearman correlation to expect with
    the mean of S other seeds (`stats.reliability`), in [-inf, 1]; None for one seed or a score that no seed changes.
    `epoch`: the moment observed; for scores accumulated during training, the last epoch.
    `low`, `high`: the range that the score's definition allows (infinite where it allows any). `origin`: where it was taken.
    """

    score: str
    epoch: int
    mean: NDArray[np.float32]
    se: NDArray[np.float32] | None
    per_seed: NDArray[np.float32] | None
    higher_is: Direction
    low: float
    high: float
    reliability: float | None
    origin: Origin = "observed"


@dataclass(frozen=True)
class ScoreTable:
    """The scores of N examples of one source.

    `label` int32 [N] is `UNLABELLED` where the source has no label, and where the row cannot be read: `skipped` maps
    the ids of those rows to the reason. `source_id` [N] (int64, or objects of type str) are the user's own ids, if there
    are any.
    """

    source: Source
    example_id: NDArray[np.int64]
    label: NDArray[np.int32]
    seeds: tuple[int, ...]
    columns: Mapping[str, ScoreColumn]
    provenance: Provenance
    source_id: NDArray[Any] | None = None
    skipped: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_ids(self.example_id, "scores")
        n = self.example_id.size
        check_source_ids(self.source_id, n, "scores")
        if np.isin(list(self.skipped), self.example_id[self.label == UNLABELLED], invert=True).any():
            raise CoverageError("scores: a skipped row has a label, or is none of the rows")
        if n and int(self.example_id.max()) >= self.source.n_rows:
            raise CoverageError(f"scores: example id {int(self.example_id.max())} lies outside the source's {self.source.n_rows} rows")
        labelled = self.label != UNLABELLED
        for name, column in self.columns.items():
            if column.mean.shape != (n,) or self.label.shape != (n,):
                raise CoverageError(f"scores: column {name} has {column.mean.shape[0]} values for {n} examples")
            if not np.array_equal(np.isfinite(column.mean), labelled):
                raise CoverageError(f"scores: column {name} must be finite for every labelled row and null for every other")
            if column.per_seed is not None and column.per_seed.shape != (len(self.seeds), n):
                raise CoverageError(
                    f"scores: column {name} has per-seed values of shape {column.per_seed.shape}, expected {(len(self.seeds), n)}"
                )

    def column(self, name: str) -> ScoreColumn:
        """The named column, or a `RecipeError` with the nearest name and those there are."""
        if name not in self.columns:
            raise RecipeError(f"no score column {no_such(name, self.columns, 'this table has')}")
        return self.columns[name]

    def to_pandas(self) -> pd.DataFrame:
        """The columns of scores.parquet, N rows, the index being `example_id`.

        `source_id` if the source has ids of its own, `label` (pandas' nullable Int32), `skipped` if rows were skipped (the reason),
        then each score and, where it has one, its standard error `NAME_se`, float32; null where a row has no label.
        """
        import pandas as pd

        label = pd.array(self.label, dtype="Int32")
        label[self.label == UNLABELLED] = pd.NA
        columns: dict[str, Any] = {} if self.source_id is None else {"source_id": self.source_id}
        columns["label"] = label
        if self.skipped:
            columns["skipped"] = [self.skipped.get(row) for row in self.example_id.tolist()]
        for name, column in self.columns.items():
            columns[name] = column.mean
            if column.se is not None:
                columns[f"{name}_se"] = column.se
        return pd.DataFrame(columns, index=pd.Index(self.example_id, name="example_id"))

    @property
    def digest(self) -> str:
        """Digest of ids, labels and mean values (not of the provenance): equal numbers, equal digest."""
        parts: list[bytes | str | NDArray[Any]] = [self.source.digest, self.example_id, self.label]
        for name in sorted(self.columns):
            parts += [name, self.columns[name].mean]
        return digest_of(parts)


@dataclass(frozen=True)
class Selection:
    """Which of the scored examples stay: `kept` int64 [K], sorted; `dropped` int64 [N - K], sorted, with a reason each.

    `source_id` [N]: the user's own ids of all of them, in the order of example ids, if there are any.
    """

    name: str
    kept: NDArray[np.int64]
    dropped: NDArray[np.int64]
    reasons: tuple[str, ...]
    score: str | None
    strategy: str
    parameters: Mapping[str, Any]
    """Everything else that was asked for: keep, quotas, the strategy's own parameters."""
    tie_seed: int
    quotas: Mapping[str, int] | None
    """Rows kept per class name, where quotas were asked for."""
    table_digest: str
    source_digest: str
    provenance: Provenance
    source_id: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        check_ids(np.concatenate([self.kept, self.dropped]), f"selection {self.name}")
        check_source_ids(self.source_id, self.kept.size + self.dropped.size, f"selection {self.name}")
        if len(self.reasons) != self.dropped.size:
            raise CoverageError(f"selection {self.name}: {len(self.reasons)} reasons for {self.dropped.size} dropped rows")
        if self.kept.size == 0:
            raise CoverageError(f"selection {self.name} keeps no row; raise the budget")
        for ids in (self.kept, self.dropped):
            if np.any(np.diff(ids) < 0):
                raise CoverageError(f"selection {self.name}: ids must be sorted")

    @property
    def digest(self) -> str:
        """Digest of the kept ids."""
        return digest_of([self.source_digest, self.kept])


@dataclass(frozen=True)
class ArmResult:
    """One training of an evaluation, from scratch: what it kept of the data and what it said about the test rows.

    `predicted` int32 [T] and `p_label` float16 [T] after the last epoch, never after the best one.
    """

    arm: str
    seed: int
    n_rows: int
    epochs: int
    steps: int
    seconds: float
    train_ids_digest: str
    predicted: NDArray[np.int32]
    p_label: NDArray[np.float16]
    metrics: Mapping[str, float]
    plan: Mapping[str, Any] = field(default_factory=dict)
    """The plan that it ran under."""
    model: str | None = None
    """What was trained. None in records from before further models could be: the run's own."""
    weights: Mapping[str, NDArray[Any]] | None = None
    """The last ones, by the names of parameters and buffers, of a training that has just ended and is to keep them."""

    @property
    def digest(self) -> str:
        """Digest of what it says of the test rows."""
        return digest_of([self.predicted, self.p_label])


@dataclass(frozen=True)
class EvaluationTable:
    """All trainings of one evaluation on the same T test rows. `arms` maps an arm to what it is, in words.

    `test_source_id` [T]: the user's own ids of the test rows, if there are any.
    """

    name: str
    model: str
    match: Literal["epochs", "steps"]
    margin: float
    """Accuracy points that the recipe declares as not worth caring about."""
    arms: Mapping[str, str]
    arm_selections: Mapping[str, str]
    """Arm -> name of the selection that it trains on; the other arms draw their rows or take all of them."""
    n_seeds: int
    test_id: NDArray[np.int64]
    test_label: NDArray[np.int32]
    results: tuple[ArmResult, ...]
    source_digest: str
    provenance: Provenance
    test_source_id: NDArray[Any] | None = None
    transfer_of: str | None = None
    """The evaluation of the scorer's own model, which this one repeats with another (`evaluate.models`); None for that one itself."""

    def __post_init__(self) -> None:
        check_ids(self.test_id, f"evaluation {self.name}, test rows")
        check_source_ids(self.test_source_id, self.test_id.size, f"evaluation {self.name}, test rows")
        cells = [(result.arm, result.seed) for result in self.results]
        if len(set(cells)) != len(cells) or len(cells) != len(self.arms) * self.n_seeds:
            raise CoverageError(f"evaluation {self.name}: {len(cells)} trainings for {len(self.arms)} arms of {self.n_seeds} seeds")
        for result in self.results:
            if result.predicted.shape != self.test_id.shape or result.arm not in self.arms:
                raise CoverageError(
                    f"evaluation {self.name}: arm {result.arm} predicts {result.predicted.shape[0]} of {self.test_id.size} test rows"
                )

    def metric(self, arm: str, name: str = "accuracy") -> NDArray[np.float64]:
        """The metric of one arm, [n_seeds], ordered by seed."""
        rows = sorted((result for result in self.results if result.arm == arm), key=lambda result: result.seed)
        return np.array([result.metrics[name] for result in rows], dtype=np.float64)


@dataclass(frozen=True)
class Report:
    """Every number that is printed anywhere, as plain JSON values; rendering adds words, never numbers."""

    source: Mapping[str, Any]
    task: Mapping[str, Any]
    scores: tuple[Mapping[str, Any], ...]
    correlations: tuple[Mapping[str, Any], ...]
    selections: tuple[Mapping[str, Any], ...]
    evaluations: tuple[Mapping[str, Any], ...]
    warnings: tuple[Mapping[str, Any], ...]
    costs: Mapping[str, Any]
    files: Mapping[str, str]
    provenance: Mapping[str, Any]
    tunings: tuple[Mapping[str, Any], ...] = ()
    """One for each selection by strategy auto: what was compared on validation rows, and what was chosen."""
    transfer: tuple[Mapping[str, Any], ...] = ()
    pictures: tuple[Mapping[str, Any], ...] = ()
    """What each picture shows (`pictured`), and its `files` as far as it was drawn."""
    format: int = field(default=2)
    """2: verdicts, confounders, worst classes. Reports are written anew from the records, and never read back."""
