"""The text of a model's card: what it was trained on and how, what it reaches beside the other seeds, how it is loaded. Pure.

Numbers are those of the report, and one accuracy of the evaluation: that of this seed. Words of the data stand in it literally.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hf_datadiet.cells import interval, number, short, signed, signed_interval, table
from hf_datadiet.escaping import code, fenced, literal
from hf_datadiet.exported import Exported
from hf_datadiet.sentences import because

MADE_WITH = ("hf-datadiet", "torch", "timm", "transformers", "python")


@dataclass(frozen=True)
class Facts:
    """What the card says. `arm`: the selection, or "full". `accuracy`: of this seed, 0..1. `evaluation`: its entry in the report.

    `source`: the report's. `held_out`: where the rows come from that judge, in words. `training`: `task.training` as plain values;
    `options`: the task's own keys. `versions`: of what trained it.
    """

    repo: str
    dataset_repo: str
    arm: str
    exported: Exported
    seed: int
    accuracy: float
    evaluation: Mapping[str, Any]
    source: Mapping[str, Any]
    held_out: str
    training: Mapping[str, Any]
    options: Mapping[str, Any]
    versions: Mapping[str, str]


def body(facts: Facts) -> str:
    """The card without its metadata, as Markdown."""
    exported = facts.exported
    parts = [
        f"# {literal(facts.repo.rpartition('/')[2])}",
        _head(facts),
        f"## Use\n\nIt takes {exported.inputs}.\n\n{fenced(exported.code_for(facts.repo), 'python')}",
        *exported.notes,
        f"## Result\n\n{_result(facts)}",
        "## Training\n\n" + "\n".join(f"- {line}" for line in _training(facts)),
        "## Limits\n\n" + "\n".join(f"- {line}" for line in _limits(facts)),
    ]
    return "\n\n".join(parts) + "\n"


def _head(facts: Facts) -> str:
    source, arm = facts.source, _arm(facts)
    dataset = f"[{literal(facts.dataset_repo)}](https://huggingface.co/datasets/{facts.dataset_repo})"
    chosen = f"on its variant {code(facts.arm)}" if facts.arm != "full" else "beside its variants, on all rows that were scored"
    rows = f"{arm['n_rows']} of the {source['n_scored']} scored rows of {code(source['name'])}, split {code(source['split'])}"
    return (
        f"{code(facts.exported.model)}, trained for the dataset {dataset} {chosen}: {rows} ({literal(arm['meaning'])}). It started from "
        f"{literal(facts.exported.start)}.\n\n"
        "It is published as evidence of what a variant costs, so that it can be looked at: one of the trainings behind the accuracies on "
        "the dataset's card."
    )


def _arm(facts: Facts) -> Mapping[str, Any]:
    return next(arm for arm in facts.evaluation["arms"] if arm["arm"] == facts.arm)


def _result(facts: Facts) -> str:
    evaluation, own = facts.evaluation, _arm(facts)
    drawn = [arm for arm in evaluation["arms"] if arm["arm"].startswith(("random-", "stratified-")) and arm["n_rows"] == own["n_rows"]]
    full = [arm for arm in evaluation["arms"] if arm["arm"] == "full" and arm is not own]
    this = [f"this model ({facts.arm}, seed {facts.seed})", str(own["n_rows"]), number(100 * facts.accuracy, 2), "-", "1"]
    rows = [
        [arm["arm"], str(arm["n_rows"]), number(arm["accuracy"], 2), interval(arm["low"], arm["high"]), str(arm["n"])]
        for arm in [own, *full, *drawn]
    ]
    head = ["trained on", "rows", "accuracy, %", f"{short(evaluation['confidence'])} % interval of the mean", "seeds"]
    said = (
        f"Accuracy on {evaluation['n_test']} rows that were neither scored nor pruned ({literal(facts.held_out)}), after the last epoch; "
        "below this model the means over all seeds."
    )
    return "\n\n".join([said, table(head, [this, *rows]), *_verdict(facts)])


def _verdict(facts: Facts) -> Iterable[str]:
    """What the evaluation says of the selection against all rows; nothing for a model of all rows."""
    evaluation = facts.evaluation
    for row in evaluation["differences"]:
        if (row["arm"], row["reference"]) == (facts.arm, "full") and row["verdict"] is not None:
            at = f"{short(evaluation['verdict_confidence'])} % interval"
            between = "" if row["low"] is None else f" ({at} {signed_interval(row['low'], row['high'])})"
            yield (
                f"Trained on {code(facts.arm)} instead of on all rows, accuracy changes by {signed(row['difference'], 2)} points{between}, "
                f"n = {row['n']}: **{literal(row['verdict'])}**. {because(row, evaluation)}"
            )


def _training(facts: Facts) -> Iterable[str]:
    training, arm = facts.training, _arm(facts)
    epochs, steps, size = _counted(arm["epochs"], "epoch"), _counted(arm["steps"], "step"), _counted(training["batch_size"], "row")
    yield f"{epochs}, {steps} of at most {size}, seed {facts.seed}"
    yield f"optimizer {_named(training['optimizer'])}"
    yield f"learning rate {_named({**training['schedule'], 'gamma': training['schedule']['milestones'] and training['schedule']['gamma']})}"
    if training["label_smoothing"]:
        yield f"label smoothing {training['label_smoothing']}"
    yield f"precision {training['precision']}"
    if facts.options.get("crop"):
        yield f"random crops of images reflected at each border by {_counted(facts.options['crop'], 'pixel')}"
    if facts.options.get("flip"):
        yield "images mirrored at random"
    yield "made with " + ", ".join(f"{name} {facts.versions[name]}" for name in MADE_WITH if name in facts.versions)


def _named(values: Mapping[str, Any]) -> str:
    """A name, and what is set of its parameters: SGD (lr 0.1, momentum 0.9)."""
    more = [f"{key} {_plain(value)}" for key, value in values.items() if key != "name" and value not in (None, (), [], 0.0)]
    return f"{values['name']} ({', '.join(more)})" if more else str(values["name"])


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _limits(facts: Facts) -> Iterable[str]:
    n = facts.evaluation["n_seeds"]
    first = f"One seed of {n}, the first, which was named before any result was known: unless by chance it is not the best of them."
    chosen = first if n > 1 else "One seed."
    yield f"{chosen} Another seed gives other weights and another accuracy."
    yield "Trained to compare sets of rows, with one recipe for all of them: nothing was tuned for this one, and it is not meant for use."
    yield "What is wrong or one-sided in the rows it was trained on is in the model too."
    yield (
        f"What it says of each held-out row is in the dataset's `evidence/evaluations/{facts.evaluation['name']}/predictions.parquet`: "
        f"arm {code(facts.arm)}, seed {facts.seed}."
    )
