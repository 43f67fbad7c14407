"""What is asked for, as frozen dataclasses. The keys are the sentence: `source: task: score: prune: evaluate:`.

Whether the names in a recipe exist (a score, a strategy, a model) is for the code that looks them up. Recipes are read
and written in `recipe_yaml`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from hf_datadiet.arms import is_added
from hf_datadiet.quotas import SHAPES, Quotas
from hf_datadiet.records import AUTO, column_name

STRICT_KEYS = ConfigDict(extra="forbid")

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""The name of a folder inside the run folder: never a path."""

LOGITS = "logits"
"""`task.kind` of a run that was scored from given logits: there is nothing to train on."""

IN_MEMORY = "in-memory"
"""`task.kind` of a run whose task was an object in Python: no recipe can build it again."""

FIRST_EVALUATION_SEED = 10_000
"""Evaluation seeds start here, so that they are disjoint from the scoring seeds 0..S-1."""

FIRST_TUNING_SEED = 2 * FIRST_EVALUATION_SEED
"""Seeds of tunings start here: no evaluation has as many as lie before it."""


@dataclass(frozen=True, config=STRICT_KEYS)
class HeldOut:
    """Rows that are neither scored nor pruned: a split of its own, or a fraction drawn per class from the split."""

    split: str | None = None
    fraction: Fraction | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _one_of(self) -> HeldOut:
        if (self.split is None) == (self.fraction is None):
            raise ValueError("give either split or fraction")
        return self


@dataclass(frozen=True, config=STRICT_KEYS)
class LabelNoise:
    """Exactly round(fraction * N) of the labelled rows to be scored get one of the other labels, drawn uniformly."""

    fraction: Fraction
    seed: int = 0


@dataclass(frozen=True, config=STRICT_KEYS)
class SourceSpec:
    """Where the rows come from: an embedded `sample`, a local `path`, or a `repo` on the Hub (org/name).

    `path`: a parquet, CSV, JSON or JSON Lines file, a folder of such files or of images (one folder per class), or what
    save_to_disk wrote. `revision`: branch, tag or commit of the repo, which is pinned to a commit; `config`: one of its
    configs, also of a copy of it at `path`. `columns` names roles ("image", "text", "label") where the features do not
    tell; `id_column`: the user's own ids, unique integers or strings, which every table then carries. `on_bad_row`: whether
    rows that cannot be read (corrupt image, null text) end the run or go without a score. `limit` keeps that many rows,
    drawn per class with `limit_seed`; ids stay those of the full split.
    """

    sample: str | None = None
    path: str | None = None
    repo: str | None = None
    revision: str | None = None
    config: str | None = None
    split: str = "train"
    test: HeldOut | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    id_column: str | None = None
    on_bad_row: Literal["error", "skip"] = "error"
    limit: Positive | None = None
    limit_seed: int = 0
    label_noise: LabelNoise | None = None

    @model_validator(mode="after")
    def _one_place(self) -> SourceSpec:
        if sum(place is not None for place in (self.sample, self.path, self.repo)) > 1:
            raise ValueError("give one of sample, path and repo")
        if self.revision is not None and self.repo is None:
            raise ValueError("a revision goes with a repo")
        if self.config is not None and self.repo is None and self.path is None:
            raise ValueError("a config goes with a repo, or with the path of a copy of one")
        return self


def _sgd(value: Any) -> Any:
    """A field that has this default for SGD only: for another optimizer null, that is torch's own default."""
    return Field(default_factory=lambda checked: value if checked.get("name") == "SGD" else None)


@dataclass(frozen=True, config=STRICT_KEYS)
class Optimizer:
    """A class of `torch.optim` and its parameters; a parameter that is null keeps torch's default.

    The default is that of arXiv 2107.07075 (the authors' `run_full_data.py`): Nesterov SGD, 0.9, weight decay 5e-4. With
    another name, what is not given is null.
    """

    name: str = "SGD"
    lr: Annotated[float, Field(gt=0)] | None = _sgd(0.1)
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = _sgd(0.9)
    nesterov: bool | None = _sgd(True)
    weight_decay: Annotated[float, Field(ge=0)] | None = _sgd(5e-4)


@dataclass(frozen=True, config=STRICT_KEYS)
class Schedule:
    """The learning rate over the steps of a whole training.

    `cosine`, `linear` and `constant` after `warmup` (fraction of the steps) are transformers' schedules; `multistep`
    multiplies by `gamma` at each of `milestones` (epochs) and is torch's.
    """

    name: Literal["cosine", "linear", "constant", "multistep"] = "cosine"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    milestones: tuple[Positive, ...] = ()
    gamma: Annotated[float, Field(gt=0)] = 0.1

    @model_validator(mode="after")
    def _fits(self) -> Schedule:
        if (self.name == "multistep") != bool(self.milestones):
            raise ValueError("milestones go with schedule multistep, and multistep needs them")
        if self.name == "multistep" and self.warmup:
            raise ValueError("multistep has no warmup")
        return self


@dataclass(frozen=True, config=STRICT_KEYS)
class Training:
    """An ordinary training on all rows: scoring runs follow it for their first `score.epochs`, evaluation to the end."""

    epochs: Positive = 10
    batch_size: Positive = 128
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["float32", "bf16"] = "float32"


@dataclass(frozen=True, config=STRICT_KEYS)
class TaskSpec:
    """What is learned. `kind`: a file of `hf_datadiet/tasks`, or package.module:NAME.

    `options` are the task's own keys (image: image_size, stem, ...; text: tokenizer, ...).
    """

    kind: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][\w.-]*(:[\w.]+)?$")] = "image"
    model: str = "timm:resnet18"
    model_args: Mapping[str, Any] = field(default_factory=dict)
    training: Training = field(default_factory=Training)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, config=STRICT_KEYS)
class ScoreSpec:
    """Which scores, from how many seeds, observed when.

    `epochs`: how many epochs of the training a scoring run goes through (default: all); the learning-rate schedule
    stays that of the whole training, as in the paper. `observe_at`: epochs after which every example is observed, 0 is
    initialisation; the last epoch is always among them. `at`: the moment that the plain column name means.
    """

    scores: tuple[str, ...] = ("el2n",)
    seeds: Positive = 4
    epochs: Positive | None = None
    observe_at: tuple[Annotated[int, Field(ge=0)], ...] = ()
    at: Annotated[int, Field(ge=0)] | Literal["last"] = "last"
    observe_batch_size: Positive | Literal["auto"] = "auto"
    keep_weights: Literal["none", "last", "moments"] | tuple[Annotated[int, Field(ge=0)], ...] = "last"

    @model_validator(mode="after")
    def _scores_once(self) -> ScoreSpec:
        if not self.scores or len(set(self.scores)) != len(self.scores):
            raise ValueError("scores must name at least one score, each once")
        if self.seeds > FIRST_EVALUATION_SEED:
            raise ValueError(f"at most {FIRST_EVALUATION_SEED} seeds: evaluation seeds start there")
        return self


def _a_budget(value: Any) -> Any:
    # YAML reads 5e-1 as text; `yes` and `true` would pass for the number 1.
    number = isinstance(value, int | float) or (isinstance(value, str) and re.fullmatch(r"[-+.\deE]*\d[-+.\deE]*", value))
    if isinstance(value, bool) or not (number or isinstance(value, Mapping)):
        raise ValueError(f"{value!r} is no budget; give a fraction such as 0.5, a count such as 5000, or a threshold")
    return value


def _one_or_several(value: Any) -> Any:
    if value is None or isinstance(value, str) or (isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)):
        return value
    raise ValueError(f"{value!r} is no score; give the name of a column, or several such as [el2n, forgetting]")


def _shares(value: Any) -> Any:
    if value in ("none", "proportional", "equal") or isinstance(value, Mapping):
        return value
    raise ValueError(f"{value!r} are no quotas; {SHAPES}")


Keep = Annotated[int | float | Mapping[str, Any], BeforeValidator(_a_budget)]


@dataclass(frozen=True, config=STRICT_KEYS)
class PruneSpec:
    """One named selection. `parameters` are the strategy's own keys (window: skip); the others are those of `selection.select`.

    `strategy: auto` has the keys of `candidates.Auto`.
    """

    name: Name
    keep: Keep
    score: Annotated[str | tuple[str, ...] | None, BeforeValidator(_one_or_several)] = None
    strategy: str | None = None
    quotas: Annotated[Quotas, BeforeValidator(_shares)] = "none"
    mix: Annotated[float, Field(ge=0, lt=1)] = 0.0
    tie_seed: int = 0
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @model_validator(mode="after")
    def _free_name(self) -> PruneSpec:
        if is_added(self.name):
            raise ValueError(f"{self.name!r} is the name of an arm that evaluation adds by itself; choose another name")
        return self

    @model_validator(mode="after")
    def _of_one_size(self) -> PruneSpec:
        if self.strategy == AUTO and isinstance(self.keep, Mapping):
            raise ValueError("strategy auto compares selections of one size, and a threshold is none; make keep a number")
        return self


@dataclass(frozen=True, config=STRICT_KEYS)
class EvaluateSpec:
    """How the selections are judged. `margin`: accuracy points; a smaller difference is declared not to matter.

    `redrawn`: also against as many rows drawn anew in every epoch (`training/redrawn.py`), which cost no scoring. `models`: further
    ones, by name, with which everything is trained as well, to show whether what one network's scores chose serves another;
    `task.model_args` are the scorer's alone. `keep_weights`: of the first seed the last weights of each selection and of the full data
    stay, to be published. The first, never the best on the test rows: choosing by these would flatter.
    """

    name: Name = "main"
    seeds: Annotated[int, Field(ge=1, le=FIRST_EVALUATION_SEED)] = 4
    match: Literal["epochs", "steps"] = "epochs"
    margin: Annotated[float, Field(gt=0)] = 0.5
    redrawn: bool = False
    models: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    keep_weights: bool = False

    @model_validator(mode="after")
    def _names_apart(self) -> EvaluateSpec:
        seen: dict[str, str] = {}
        for model in self.models:
            # Folders of some systems do not tell capitals apart.
            name = self.name_with(model).casefold()
            if name in seen:
                both = f"{seen[name]} and {model} would both be evaluation {name}"
                raise ValueError(f"models: {both}; leave one out, or evaluate it under another evaluate.name")
            seen[name] = model
        return self

    def name_with(self, model: str) -> str:
        """What the evaluation with a further model is called: a folder's name, "main.resnet10t" for timm:resnet10t."""
        return f"{self.name}." + re.sub(r"[^A-Za-z0-9._-]+", "-", model.partition(":")[2] or model).strip("-.")


@dataclass(frozen=True, config=STRICT_KEYS)
class Recipe:
    """Everything that was asked for; `prune` is a tuple of named selections. `tracker`: where learning curves are also shown.

    `parallel`: several processes train whole seeds each, or each model together (`data`: every process takes its rows of a
    batch); `auto` is the latter where there are fewer trainings than processes.
    """

    source: SourceSpec
    task: TaskSpec = field(default_factory=TaskSpec)
    score: ScoreSpec = field(default_factory=ScoreSpec)
    prune: tuple[PruneSpec, ...] = ()
    evaluate: EvaluateSpec = field(default_factory=EvaluateSpec)
    tracker: Literal["trackio", "tensorboard", "wandb"] | None = None
    parallel: Literal["auto", "seeds", "data"] = "auto"

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.task.model in self.evaluate.models:
            raise ValueError(
                f"evaluate.models names {self.task.model}, the model of the task, with which evaluation trains anyway; leave it out"
            )
        names = [spec.name for spec in self.prune]
        if len(set(names)) != len(names):
            raise ValueError("prune: each selection needs a name of its own")
        epochs, planned = self.score_epochs, self.task.training.epochs
        if epochs > planned:
            raise ValueError(f"score.epochs is {epochs}, but the training ends after {planned}; raise task.training.epochs")
        late = [moment for moment in self.score.observe_at if moment > epochs]
        if late:
            raise ValueError(f"score.observe_at names epoch {late[0]}, but scoring runs end after {epochs}")
        never = [epoch for epoch in self.kept_epochs if epoch > epochs]
        if never:
            raise ValueError(f"score.keep_weights names epoch {never[0]}, but scoring runs end after {epochs}")
        if self.score.at != "last" and self.score.at not in self.moments:
            raise ValueError(f"score.at is {self.score.at}, which score.observe_at does not observe")
        return self

    @property
    def score_epochs(self) -> int:
        """Epochs of a scoring run."""
        return self.score.epochs or self.task.training.epochs

    @property
    def moments(self) -> tuple[int, ...]:
        """Epochs after which all examples are observed, ascending; the last epoch is always among them."""
        return tuple(sorted({*self.score.observe_at, self.score_epochs}))

    @property
    def headline(self) -> int:
        """The moment that a plain column name such as `el2n` means."""
        return self.score_epochs if self.score.at == "last" else self.score.at

    def column(self, score: str, epoch: int) -> str:
        """The column of a score at one moment."""
        return column_name(score, epoch, self.headline)

    @property
    def evaluations(self) -> dict[str, str]:
        """{evaluation: the model that it trains}; the task's own model comes first."""
        further = {self.evaluate.name_with(model): model for model in self.evaluate.models}
        return {self.evaluate.name: self.task.model, **further}

    @property
    def kept_epochs(self) -> tuple[int, ...]:
        """The epochs whose weights a scoring seed keeps."""
        keep = self.score.keep_weights
        if isinstance(keep, str):
            return {"none": (), "last": (self.score_epochs,), "moments": self.moments}[keep]
        return tuple(sorted(set(keep)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the task's and strategies' own keys back beside the common ones."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self), default=list))
        plain["task"] |= plain["task"].pop("options")
        for selection in plain["prune"]:
            selection |= selection.pop("parameters")
        return plain

    def identity(self) -> dict[str, Any]:
        """What makes a run folder the same run. What may grow is left out: seeds, selections, evaluations; and the tracker.

        How processes share the work is left out too: the plan records what was done.
        """
        plain = self.to_dict()
        del plain["prune"], plain["evaluate"], plain["score"]["seeds"], plain["tracker"], plain["parallel"]
        # Where the data lies does not matter; what it is, does: the store compares the content digest instead.
        for key in ("path", "sample", "repo", "revision", "config"):
            del plain["source"][key]
        # Rows that end the run today may be skipped tomorrow; which ones were, is recorded.
        del plain["source"]["on_bad_row"]
        return plain

    @property
    def digest(self) -> str:
        """SHA-256 of the resolved recipe, but for whether evaluation keeps weights, which no number depends on."""
        plain = self.to_dict()
        del plain["evaluate"]["keep_weights"]
        return "sha256:" + hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
