"""What speaks against a run's own results: warnings, each with the number that raised it. Pure.

They are read off the entries of the report: what is doubted stands there in full.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

LOW_RELIABILITY = 0.8
"""Below this a ranking is called unreliable: what 4 seeds of EL2N reach on CIFAR-10 after two epochs (data of arXiv 2303.14753)."""

HARD_BUDGET = 0.3
"""At or below this share, keeping the hardest is known to lose to a random choice (Ayed and Hayou, arXiv 2302.06960)."""

IMBALANCE = 2.0
"""A class kept at more than this multiple of another's rate is worth a warning."""

CONFOUNDED = 0.5
"""From this share of the variance of a score's ranks on (Spearman's r squared; epsilon squared), a cheap property of the example explains
more of the ranking than all the rest."""

FEWEST_SEEDS = 3
"""Two seeds tell the spread of an arm with one degree of freedom, where Student's t at 95 % is 6.3; with three seeds it is 2.9."""

CONFOUNDERS = {"input_norm": "the norm of the input", "text_length": "the length of the text", "label": "the label"}
"""What a score may be in disguise: its key in the report, in words."""


def run_doubts(task: Mapping[str, Any], n_seeds: int, n_scored: int) -> Iterable[dict[str, Any]]:
    """What there is to say of every score of the run."""
    asked, cut = task.get("seeds_asked", n_seeds), task.get("n_truncated", 0)
    if n_seeds < asked:
        text = f"the scores are means of {n_seeds} seeds, and {asked} were asked for: the others diverged or were not run"
        yield {"kind": "missing seeds", "value": asked - n_seeds, "text": text}
    if cut:
        text = f"{cut} of {n_scored} texts ({100 * cut / n_scored:.1f} %) are longer than task.max_length and were cut"
        yield {"kind": "truncated texts", "value": cut, "text": text}


def selection_doubts(
    scores: Sequence[Mapping[str, Any]], selections: Sequence[Mapping[str, Any]], task: Mapping[str, Any]
) -> Iterable[dict[str, Any]]:
    """What there is to say of each selection: of the score that it goes by, and of what it keeps."""
    by_column = {score["column"]: score for score in scores}
    for selection in selections:
        for column in selection["parameters"].get("scores", [selection["score"]]):
            if column in by_column:
                yield from _score_doubts(selection["name"], by_column[column], task)
        yield from _kept_doubts(selection)


def _score_doubts(name: str, score: Mapping[str, Any], task: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    column = score["column"]
    if score["score"] == "grand" and score["epoch"] == 0:
        text = f"{name} goes by GraNd at initialisation, which did not reproduce as a way to prune (arXiv 2303.14753)"
        yield {"kind": "grand at initialisation", "selection": name, "value": score["epoch"], "text": text}
    if task.get("kind") == "text" and score["epoch"] == 0 and score["higher_is"] != "neither":
        text = f"{name} goes by {column}, from before the first epoch: scores of text mean little there (arXiv 2211.05610)"
        yield {"kind": "text before one epoch", "selection": name, "value": 0, "text": text}
    if score["reliability"] is not None and score["reliability"] < LOW_RELIABILITY:
        measured = f"{score['reliability']:.2f} (1 is perfect)"
        text = f"{name} goes by {column}, whose ranking is unreliable: {measured}; add seeds or epochs"
        yield {"kind": "low reliability", "selection": name, "value": score["reliability"], "text": text}
    for other, words in CONFOUNDERS.items():
        value = score["confounders"].get(other)
        if other == column or value is None or (value if other == "label" else value**2) < CONFOUNDED:
            continue
        measured = "epsilon squared" if other == "label" else "Spearman"
        text = f"{name} goes by {column}, whose ranking follows {words}: {measured} {value:.2f}; it may say little else"
        yield {"kind": "confounder", "selection": name, "confounder": other, "value": value, "text": text}


def _kept_doubts(selection: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    name, share, ratio = selection["name"], selection["share"], selection["rate_ratio"]
    if selection["strategy"] == "hardest" and share <= HARD_BUDGET:
        text = f"{name} keeps the hardest {100 * share:.0f} %: at small budgets that is known to lose to a random choice"
        yield {"kind": "hardest at a small budget", "selection": name, "value": 100 * share, "text": text}
    if ratio is None or ratio > IMBALANCE:
        how = "at least one class is dropped whole" if ratio is None else f"one class is kept at {ratio:.1f} times the rate of another"
        free = selection["parameters"].get("quotas", "none") == "none"
        remedy = ", or set quotas" if free else ", and whether its quotas are meant so"
        text = f"{name}: {how}; see the class table{remedy}"
        yield {"kind": "class imbalance", "selection": name, "value": ratio, "text": text}


def tuning_doubts(tuning: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """What there is to say of a tuning (an entry made by `choice.tuned`): whether it could tell its candidates apart."""
    if tuning["n_alike"] > 1:
        seeds = f"{tuning['n_seeds']} seed{'' if tuning['n_seeds'] == 1 else 's'} each"
        text = (
            f"{tuning['selection']}: {tuning['n_alike']} of {tuning['n_candidates']} candidates are within one standard error of the best "
            f"on {tuning['n_validation']} validation rows, with {seeds}; {tuning['chosen']} was taken because it stands first among them"
        )
        yield {"kind": "tuning undecided", "selection": tuning["selection"], "value": tuning["n_alike"], "text": text}


def evaluation_doubts(evaluation: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """What there is to say of an evaluation (an entry made by `judgement.judged`): its seeds, its test rows, its classes."""
    name = evaluation["name"]
    compared = [row for row in evaluation["differences"] if row["verdict"] is not None and row["low"] is not None]
    for doubt in (*_seed_doubts(evaluation, compared), *_test_doubts(evaluation, compared)):
        yield {"kind": doubt.pop("kind"), "evaluation": name, **doubt}
    for entry in evaluation["harmed"]:
        text = (
            f"{entry['arm']} loses {-entry['difference']:.1f} points of class {entry['class']} against the full data "
            f"({entry['low']:+.1f} to {entry['high']:+.1f}, allowing for {entry['n_classes']} classes), more than the margin"
        )
        yield {"kind": "class harmed", "evaluation": name, "selection": entry["arm"], "value": -entry["difference"], "text": text}


def _seed_doubts(evaluation: Mapping[str, Any], compared: Sequence[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    name, n, margin = evaluation["name"], evaluation["n_seeds"], evaluation["margin"]
    if n < FEWEST_SEEDS:
        many = "1 seed per arm, which tells nothing" if n == 1 else f"{n} seeds per arm, which tell little"
        text = f"evaluation {name} has {many} of the spread; set evaluate.seeds to {FEWEST_SEEDS} or more"
        yield {"kind": "few seeds", "value": n, "least": FEWEST_SEEDS, "text": text}
    wide = [row for row in compared if row["verdict"] == "cannot tell" and _half(row) >= margin]
    if wide:
        widest = max(wide, key=_half)
        text = (
            f"evaluation {name} has too few seeds for its margin of {margin:.2f} points in {len(wide)} of {len(compared)} comparisons: the "
            f"interval of {widest['arm']} - {widest['reference']} reaches {_half(widest):.2f} points either way, and even equal accuracies "
            "would not exclude a loss that matters"
        )
        yield {"kind": "margin not resolved", "value": _half(widest), "n_wide": len(wide), "n_comparisons": len(compared), "text": text}


def _test_doubts(evaluation: Mapping[str, Any], compared: Sequence[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    shaky = [row for row in compared if row["test_se"] is not None and row["test_se"] > _half(row)]
    if shaky:
        worst = max(shaky, key=lambda row: row["test_se"])
        text = (
            f"evaluation {evaluation['name']} has only {evaluation['n_test']} test rows: the standard error of {worst['arm']} - "
            f"{worst['reference']} over them is {worst['test_se']:.2f} points, more than the {_half(worst):.2f} points that its interval "
            "over seeds reaches; other test rows could say otherwise, and more seeds will not help"
        )
        yield {"kind": "small test set", "value": worst["test_se"], "half_width": _half(worst), "text": text}


def _half(row: Mapping[str, Any]) -> float:
    """How far the interval over seeds reaches, either way."""
    return (row["high"] - row["low"]) / 2
