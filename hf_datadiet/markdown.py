"""A `Report` as Markdown, and as the tables at the end of a command: words are added here, never numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hf_datadiet.captions import pictures_of
from hf_datadiet.cells import interval, number, percent, points, short, signed, signed_interval, table
from hf_datadiet.recipe import LOGITS
from hf_datadiet.records import AUTO, Report


def to_markdown(report: Report) -> str:
    """The report for people; complete, and readable as plain text too."""
    parts = [_head(report), *_score_sections(report)]
    parts.append(_kept_section(report))
    for selection in report.selections:
        parts.append(_selection_section(selection, report))
    parts += [_tuning_section(tuning) for tuning in report.tunings]
    for evaluation in report.evaluations:
        parts.append(_evaluation_section(evaluation, report))
    parts += [*_transfer_sections(report), _cost_section(report), _file_section(report)]
    return "\n\n".join(part for part in parts if part) + "\n"


def summary(report: Report) -> str:
    """The tables that a person wants to see at the end of a command: reliability, accuracy, differences, warnings."""
    counts = {"without a label": "n_unlabelled", "that cannot be read": "n_skipped", "held out that cannot be read": "n_test_skipped"}
    none = "".join(f"; {report.source[key]} {what} have none" for what, key in counts.items() if report.source[key])
    parts = [f"Scores of {report.source['n_scored']} rows{none}", _score_table(report)]
    for tuning in report.tunings:
        parts += [_tuning_head(tuning), _candidate_table(tuning), _choice(tuning)]
    for evaluation in report.evaluations:
        other = f" of {evaluation['model']}" if evaluation["transfer_of"] else ""
        parts += [f"Accuracy{other} on {evaluation['n_test']} rows that were neither scored nor pruned, model after the last epoch"]
        parts += [_accuracy_table(evaluation), "What can be said of the differences", _difference_table(evaluation)]
        parts.append("\n".join(verdict_sentences(evaluation)))
    for group in report.transfer:
        parts += [f"The selections by scores of {group['scorer']}, with each model", _transfer_table(group)]
    parts.append("\n".join(f"! {warning['text']}" for warning in report.warnings))
    return "\n\n".join(part for part in parts if part)


def _head(report: Report) -> str:
    source, task = report.source, report.task
    held = f" {source['n_unlabelled']} rows without a label have no score." if source["n_unlabelled"] else ""
    skipped, lost = source["n_skipped"], source["n_test_skipped"]
    if skipped or lost:
        held += f" {skipped} rows that cannot be read have no score, and {lost} held-out ones are left out (skipped.parquet)."
    by = f"scored by {task['n_seeds']} trainings of `{task['model']}`, {task['score_epochs']} of {task['epochs']} epochs each."
    if task.get("kind") == LOGITS:
        by = f"scored from the logits of {task['n_seeds']} trainings up to epoch {task['epochs']}; forgetting is counted after each."
    lines = [
        f"# Data diet of {source['name']}",
        "",
        f"{source['n_scored']} rows of split `{source['split']}` ({source['n_rows']} rows in all, {source['n_classes']} classes) "
        f"{by}{held}",
    ]
    if report.warnings:
        lines += ["", "**Read with care**", "", *(f"- {warning['text']}" for warning in report.warnings)]
    return "\n".join(lines)


def _score_sections(report: Report) -> list[str]:
    note = (
        "Reliability: how well the mean over all seeds would agree (rank correlation) with the mean over as many other seeds, "
        "from the agreement between halves of the seeds by Spearman-Brown; where many scores are equal that is an upper estimate. "
        "A stable ranking is not yet a useful one: the accuracies below decide."
    )
    sections = [f"## Scores\n\n{_score_table(report)}\n\n{note}", pictures_of(report, "reliability"), _confounder_section(report)]
    if report.correlations:
        first = report.correlations[0]
        rows = [[pair["a"], pair["b"], number(pair["spearman"], 3), percent(pair["shared_hardest"])] for pair in report.correlations]
        sections.append(
            "### Agreement between scores\n\n" + table(["score", "score", "Spearman", f"shared among the hardest {first['k']}"], rows)
        )
        sections.append(pictures_of(report, "agreement"))
    return sections


def _kept_section(report: Report) -> str:
    """How the scores are spread, and what of them and of the classes the selections keep; "" without pictures."""
    shown = [pictures_of(report, "histogram"), pictures_of(report, "classes")]
    head = "## What is kept" if report.selections else "## How the scores are spread"
    return "\n\n".join([head, *(part for part in shown if part)]) if any(shown) else ""


def _confounder_section(report: Report) -> str:
    names = {"input_norm": "input norm (Spearman)", "text_length": "text length (Spearman)", "label": "label (epsilon squared)"}
    known = {key: head for key, head in names.items() if any(key in score["confounders"] for score in report.scores)}
    rows = [[score["column"], *(number(score["confounders"].get(key), 3) for key in known)] for score in report.scores]
    note = (
        "How far a score ranks the examples as cheaper things do. Spearman's correlation lies between -1 and 1; epsilon squared (Kruskal "
        "and Wallis) is the share of the variance of the ranks that lies between the classes, from 0 to 1."
    )
    return f"### What else a score may be\n\n{table(['score', *known.values()], rows)}\n\n{note}"


def _score_table(report: Report) -> str:
    rows = [
        [
            score["column"],
            str(score["epoch"]),
            score["higher_is"],
            number(score["reliability"], 3),
            number(score["reliability_one_seed"], 3),
            short(score["median"]),
            f"{short(score['min'])} to {short(score['max'])}",
        ]
        for score in report.scores
    ]
    n_seeds = report.task["n_seeds"]
    return table(
        ["score", "after epoch", "high is", f"reliability ({n_seeds} seed{'s' if n_seeds > 1 else ''})", "of one seed", "median", "range"],
        rows,
    )


def _selection_section(selection: Mapping[str, Any], report: Report) -> str:
    by = f" by `{selection['score']}`" if selection["score"] else ""
    rows = [[entry["class"], str(entry["rows"]), str(entry["kept"]), percent(entry["rate"])] for entry in selection["per_class"]]
    reasons = "\n".join(f"- {count} rows: {' '.join(reason.splitlines())}" for reason, count in selection["reasons"].items())
    chosen = ", chosen on validation rows (see below)" if AUTO in selection["parameters"] else ""
    head = (
        f"{selection['n_kept']} rows kept ({percent(selection['share'])}), {selection['n_dropped']} dropped: "
        f"{selection['strategy']}{by}{chosen}."
    )
    return f"## Selection {selection['name']}\n\n{head}\n\n{reasons}\n\n" + table(["class", "rows", "kept", "share kept"], rows)


def _tuning_section(tuning: Mapping[str, Any]) -> str:
    matched = "as many epochs" if tuning["match"] == "epochs" else "as many steps"
    note = (
        f"Each candidate kept its share of {tuning['n_rest']} rows, by the scores of this run; `{tuning['model']}` was trained on it from "
        f"scratch, for {matched} as a training on all of them takes, and judged on the validation rows after the last epoch. Test rows "
        "were not looked at. The first candidate within one standard error of the best is taken; the standard error is that of the "
        "difference to the best over seeds, and what other validation rows would change stands beside it. An accuracy that was chosen as "
        "the best flatters: the evaluation on test rows is the one to quote. The scores themselves come from trainings that saw the "
        "validation rows with their labels, the models judged here do not; and where labels are noisy, validation labels are as noisy."
    )
    head = f"## Choice of {tuning['selection']}\n\n{_tuning_head(tuning)}."
    return f"{head}\n\n{_candidate_table(tuning)}\n\n{_choice(tuning)}\n\n{note}"


def _tuning_head(tuning: Mapping[str, Any]) -> str:
    seeds = f"{tuning['n_seeds']} fresh seed{'' if tuning['n_seeds'] == 1 else 's'}"
    where = f"{tuning['n_validation']} validation rows that were split off the training rows"
    return f"Candidates for {tuning['selection']} (strategy auto) on {where}, {seeds} each"


def _candidate_table(tuning: Mapping[str, Any]) -> str:
    rows = [
        [
            candidate["candidate"],
            str(candidate["n_rows"]),
            str(candidate["steps"]),
            number(candidate["accuracy"], 2),
            signed(candidate["difference"], 2),
            number(candidate["se"], 2),
            number(candidate["rows_se"], 2),
            str(candidate["n"]),
            "yes" if candidate["chosen"] else "",
        ]
        for candidate in tuning["candidates"]
    ]
    return table(["candidate", "rows", "steps", "accuracy, %", "to the best", "s.e., seeds", "s.e., rows", "n", "chosen"], rows)


def _choice(tuning: Mapping[str, Any]) -> str:
    chosen, best = tuning["chosen"], tuning["best"]
    if chosen == best:
        return f"{chosen} is chosen: no other has a higher mean accuracy, and none before it comes within one standard error of it."
    return f"{chosen} is chosen: {best} has the highest mean accuracy, but {chosen} stands before it and lies within one standard error."


def _evaluation_section(evaluation: Mapping[str, Any], report: Report) -> str:
    matched = {"epochs": "as many epochs as the full data (fewer steps)", "steps": "as many steps as the full data (more epochs)"}
    head = (
        f"Trained from scratch with `{evaluation['model']}`, {evaluation['n_seeds']} fresh seeds per arm, every arm for "
        f"{matched[evaluation['match']]}; {evaluation['n_test']} held-out rows, model after the last epoch."
    )
    if evaluation["transfer_of"]:
        head += f" The selections are those of evaluation {evaluation['transfer_of']}: another model's scores made them."
    rows = [
        [
            entry["class"],
            str(entry["n_test"]),
            *(str(rows) for rows in entry["rows"].values()),
            *(number(entry["accuracy"][arm["arm"]], 1) for arm in evaluation["arms"]),
        ]
        for entry in evaluation["per_class"]
    ]
    trained = [f"rows of {arm}" for arm in evaluation["per_class"][0]["rows"]]
    classes = table(["class", "test rows", *trained, *(f"{arm['arm']}, %" for arm in evaluation["arms"])], rows)
    said = "\n".join(f"- {sentence}" for sentence in verdict_sentences(evaluation))
    found = f"{_accuracy_table(evaluation)}\n\n{_difference_table(evaluation)}\n\n{said}\n\n{_how_to_read(evaluation)}"
    parts = [
        f"## Evaluation {evaluation['name']}",
        head,
        pictures_of(report, "accuracy", evaluation["name"]),
        found,
        "### Classes",
        classes,
    ]
    return "\n\n".join(part for part in parts if part)


def _how_to_read(evaluation: Mapping[str, Any]) -> str:
    many, models = evaluation["n_comparisons"], evaluation["n_models"]
    compared = f"{many} selections" if models == 1 else f"{many} comparisons, of selections with {models} models"
    for_all = f", which allows for {compared} (Bonferroni)" if many > 1 else ""
    power = f"{short(evaluation['power'])} %"
    return (
        f"How to read this. The recipe declares that {points(evaluation['margin'])} of accuracy do not matter (the margin). Equivalent: "
        "the interval over seeds lies within the margin on both sides. Better: it lies above zero. Non-inferior: it lies above minus the "
        "margin. Worse: it lies below zero. Cannot tell: none of these. "
        f"It is a t interval of {short(evaluation['verdict_confidence'])} %{for_all}: a selection that truly loses the margin is called "
        f"harmless in at most {short(evaluation['level'])} % of such evaluations. Its residual is pooled over arms of similar spread, or "
        "Welch's. All this is conditional on these kept rows: the scores were drawn once, and others would have kept others. "
        "The interval over test rows (bootstrap) is an error of its own: what other test rows would change, with the same trainings. "
        f"Detectable: the smallest true difference that so many seeds show in {power} of cases. Seeds that would settle it: in {power} of "
        "cases, if the true difference and the spread are those measured here; a rough number."
    )


def verdict_sentences(evaluation: Mapping[str, Any]) -> list[str]:
    """A sentence for each selection and reference: the verdict, and what follows from it."""
    return [
        f"{row['arm']} against {row['reference']}: {row['verdict']}. {_because(row, evaluation)}"
        for row in evaluation["differences"]
        if row["verdict"] is not None
    ]


def _because(row: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
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


def _accuracy_table(evaluation: Mapping[str, Any]) -> str:
    rows = [
        [
            arm["arm"],
            str(arm["n_rows"]),
            str(arm["steps"]),
            number(arm["accuracy"], 2),
            interval(arm["low"], arm["high"]),
            str(arm["n"]),
            number(arm["worst_accuracy"], 1),
            arm["worst_class"],
            number(arm["seconds"], 1),
        ]
        for arm in evaluation["arms"]
    ]
    return table(
        [
            "trained on",
            "rows",
            "steps",
            "accuracy, %",
            f"{short(evaluation['confidence'])} % interval",
            "n",
            "worst class, %",
            "which",
            "seconds",
        ],
        rows,
    )


def _difference_table(evaluation: Mapping[str, Any]) -> str:
    rows = [
        [
            f"{row['arm']} - {row['reference']}",
            signed(row["difference"], 2),
            signed_interval(row["low"], row["high"]),
            signed_interval(row["test_low"], row["test_high"]),
            row["verdict"] or "",
            number(row["detectable"], 2),
            str(row["n"]),
        ]
        for row in evaluation["differences"]
    ]
    confidence = f"{short(evaluation['verdict_confidence'])} %"
    head = ["difference", "points", f"{confidence} interval, seeds", f"{confidence} interval, test rows", "verdict", "detectable", "n"]
    return table(head, rows)


def _transfer_sections(report: Report) -> Iterable[str]:
    for group in report.transfer:
        head = (
            f"## Transfer {group['evaluation']}\n\nWhether what the scores of `{group['scorer']}` chose serves other models: each "
            "selection against the full data, trained with each of them."
        )
        yield f"{head}\n\n{_transfer_table(group)}"


def _transfer_table(group: Mapping[str, Any]) -> str:
    rows = [
        [
            row["selection"],
            row["model"],
            signed(row["difference"], 2),
            signed_interval(row["low"], row["high"]),
            row["verdict"],
            str(row["n"]),
        ]
        for row in group["rows"]
    ]
    return table(["selection", "model", "against full, points", f"{short(group['confidence'])} % interval, seeds", "verdict", "n"], rows)


def _cost_section(report: Report) -> str:
    costs = report.costs
    lines = [
        "## Cost",
        "",
        f"Scoring took {number(costs['scoring_seconds'], 1)} s: {number(costs['scoring_train_seconds'], 1)} s of training and "
        f"{number(costs['scoring_observe_seconds'], 1)} s of observing.",
    ]
    if costs["evaluation_seconds"]:
        lines[-1] += (
            f" The trainings that judge the selections took {number(costs['evaluation_seconds'], 1)} s, and are no part of what follows."
        )
    if costs["tuning_seconds"]:
        lines[-1] += f" The trainings that chose strategies took {number(costs['tuning_seconds'], 1)} s."
    lines += [_saving(saving) for saving in costs["savings"]]
    if any(saving["break_even_runs"] is not None and saving["redrawn"] is None for saving in costs["savings"]):
        lines.append("Rows drawn anew in every epoch (RS2) save as much and need no scores: `evaluate.redrawn: true` compares with them.")
    return "\n".join(lines)


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


def _file_section(report: Report) -> str:
    made = report.provenance
    versions = ", ".join(f"{name} {number}" for name, number in made["versions"].items())
    hardware = ", ".join(f"{name} {value}" for name, value in made["hardware"].items())
    rows = [[f"`{name}`", meaning] for name, meaning in report.files.items()]
    return (
        "## Files\n\n" + table(["file", "holds"], rows) + f"\n\nMade by `{made['command']}` on {made['created']}.\n"
        f"Recipe {made['recipe_digest']}.\nSource {report.source['digest']}.\nVersions: {versions}.\nHardware: {hardware}."
    )
