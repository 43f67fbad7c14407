"""What the numbers of a report say, in sentences. Plain text: the names in it are words of the data, and Markdown wants them escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hf_datadiet.cells import number, points, short, signed, signed_interval
from hf_datadiet.records import Report


def verdict_sentences(evaluation: Mapping[str, Any]) -> list[str]:
    """A sentence for each selection and reference: the verdict, and what follows from it."""
    return [
        f"{row['arm']} against {row['reference']}: {row['verdict']}. {because(row, evaluation)}"
        for row in evaluation["differences"]
        if row["verdict"] is not None
    ]


def because(row: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    """What follows from the verdict of one difference."""
    margin = points(evaluation["margin"])
    if row["low"] is None:
        return "One training of each is no evidence, nor are trainings that all come out alike; add seeds."
    if row["verdict"] == "equivalent":
        found = f"A {row['shown']} is shown, but it is" if row["shown"] else "What difference there may be is"
        return f"{found} smaller than {margin}."
    if row["verdict"] == "better":
        return f"A gain is shown, and it is larger than {margin}." if row["beyond_margin"] else "A gain is shown; how large it is, is open."
    if row["verdict"] == "non-inferior":
        return f"A loss of {margin} or more is excluded; whether there is a gain is open."
    if row["verdict"] == "worse":
        return (
            f"The loss is larger than {margin}."
            if row["beyond_margin"]
            else f"A loss is shown; whether it is larger than {margin} is open."
        )
    both, seeds = f"No loss at all and a loss of {margin} or more are both possible", row["seeds_to_settle"]
    if seeds is None:
        return f"{both}; no number of seeds that anybody can train would settle it."
    return f"{both}. About {seeds} seeds per arm instead of {row['n']} would settle it."


def how_to_read(evaluation: Mapping[str, Any]) -> str:
    """What the verdicts of an evaluation mean, and what they do not cover."""
    many, models = evaluation["n_comparisons"], evaluation["n_models"]
    compared = f"{many} selections" if models == 1 else f"{many} comparisons, of selections with {models} models"
    for_all = f", which allows for {compared} (Bonferroni)" if many > 1 else ""
    power = f"{short(evaluation['power'])} %"
    return (
        f"The recipe declares that {points(evaluation['margin'])} of accuracy do not matter (the margin). Equivalent: "
        "the interval over seeds lies within the margin on both sides. Better: it lies above zero. Non-inferior: it lies above minus the "
        "margin. Worse: it lies below zero. Cannot tell: none of these. "
        f"It is a t interval of {short(evaluation['verdict_confidence'])} %{for_all}: a selection that truly loses the margin is called "
        f"harmless in at most {short(evaluation['level'])} % of such evaluations. Its residual is pooled over arms of similar spread, or "
        "Welch's. All this is conditional on these kept rows: the scores were drawn once, and others would have kept others. "
        "The interval over test rows (bootstrap) is an error of its own: what other test rows would change, with the same trainings. "
        f"Detectable: the smallest true difference that so many seeds show in {power} of cases. Seeds that would settle it: in {power} of "
        "cases, if the true difference and the spread are those measured here; a rough number."
    )


def trained_so(evaluation: Mapping[str, Any]) -> str:
    """How often and for how long each arm of an evaluation was trained, and on which rows it was judged."""
    matched = {"epochs": "as many epochs as the full data (fewer steps)", "steps": "as many steps as the full data (more epochs)"}
    seeds = f"{evaluation['n_seeds']} fresh seed{'' if evaluation['n_seeds'] == 1 else 's'} per arm"
    return f"{seeds}, every arm for {matched[evaluation['match']]}; {evaluation['n_test']} held-out rows, model after the last epoch."


def tuning_head(tuning: Mapping[str, Any]) -> str:
    """What a tuning compared, and on how many rows."""
    seeds = f"{tuning['n_seeds']} fresh seed{'' if tuning['n_seeds'] == 1 else 's'}"
    where = f"{tuning['n_validation']} validation rows that were split off the training rows"
    return f"Candidates for {tuning['selection']} (strategy auto) on {where}, {seeds} each"


def choice(tuning: Mapping[str, Any]) -> str:
    """Which candidate of a tuning was taken, and why."""
    chosen, best = tuning["chosen"], tuning["best"]
    if chosen == best:
        return f"{chosen} is chosen: no other has a higher mean accuracy, and none before it comes within one standard error of it."
    return f"{chosen} is chosen: {best} has the highest mean accuracy, but {chosen} stands before it and lies within one standard error."


def cost_sentences(report: Report) -> Iterable[str]:
    """What scoring took, and for each selection that was compared with all rows after how many trainings it is paid back."""
    costs = report.costs
    scoring = (
        f"Scoring took {number(costs['scoring_seconds'], 1)} s: {number(costs['scoring_train_seconds'], 1)} s of training and "
        f"{number(costs['scoring_observe_seconds'], 1)} s of observing."
    )
    if "taken_from" in report.task:
        scoring += " That was where the scores were made: seconds of another machine do not compare with those of this one."
    if costs["evaluation_seconds"]:
        scoring += (
            f" The trainings that judge the selections took {number(costs['evaluation_seconds'], 1)} s, and are no part of what follows."
        )
    if costs["tuning_seconds"]:
        scoring += f" The trainings that chose strategies took {number(costs['tuning_seconds'], 1)} s."
    yield scoring
    yield from map(_saving, costs["savings"])


def _saving(saving: Mapping[str, Any]) -> str:
    arm, taken = saving["arm"], f"{number(saving['seconds'], 1)} s, and on all rows {number(saving['full_seconds'], 1)} s"
    if saving["match"] == "steps":
        return (
            f"Training on {arm} for as many steps as on all rows (match: steps, evaluation {saving['evaluation']}) saves no time, by "
            "design: scoring is never paid back. Time is saved by training for as many epochs."
        )
    if saving["break_even_runs"] is None:
        return f"Training on {arm} takes {taken} for as many epochs (evaluation {saving['evaluation']}): no time is saved here."
    paid = "scoring and choosing are" if saving["tuning_seconds"] else "scoring is"
    return (
        f"Training on {arm} takes {taken} for as many epochs (evaluation {saving['evaluation']}): each saves "
        f"{number(saving['saved_seconds'], 1)} s, so {paid} paid back after {number(saving['break_even_runs'], 1)} such trainings."
        f"{_against_redrawn(saving['redrawn'])}"
    )


def _against_redrawn(row: Mapping[str, Any] | None) -> str:
    """What the scores have bought beside the saving, as a sentence; nothing where that was not measured."""
    if row is None:
        return ""
    between = "" if row["low"] is None else f" ({signed_interval(row['low'], row['high'])})"
    return (
        f" As many rows drawn anew in every epoch ({row['reference']}) save the same without scores; against them the selection is "
        f"{signed(row['difference'], 2)} points{between}: {row['verdict']}."
    )
