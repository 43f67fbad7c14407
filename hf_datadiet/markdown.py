"""A `Report` as Markdown, and as the tables at the end of a command: words are added here, never numbers.

Names of the data are words, whatever signs they hold (`escaping`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hf_datadiet.captions import pictures_of
from hf_datadiet.cells import percent, table
from hf_datadiet.escaping import code, literal, visible
from hf_datadiet.quotas import in_words
from hf_datadiet.recipe import LOGITS
from hf_datadiet.records import AUTO, Report
from hf_datadiet.sentences import choice, cost_sentences, how_to_read, trained_so, tuning_head, verdict_sentences
from hf_datadiet.tabulated import (
    accuracy_table,
    agreement_table,
    candidate_table,
    class_accuracy_table,
    class_table,
    confounder_table,
    difference_table,
    score_table,
    transfer_table,
)

RELIABILITY = (
    "Reliability: how well the mean over all seeds would agree (rank correlation) with the mean over as many other seeds, "
    "from the agreement between halves of the seeds by Spearman-Brown; where many scores are equal that is an upper estimate. "
    "A stable ranking is not yet a useful one: accuracies decide."
)

CONFOUNDERS = (
    "How far a score ranks the examples as cheaper things do. Spearman's correlation lies between -1 and 1; epsilon squared (Kruskal "
    "and Wallis) is the share of the variance of the ranks that lies between the classes, from 0 to 1."
)


def to_markdown(report: Report) -> str:
    """The report for people; complete, and readable as plain text too."""
    parts = [_head(report), *_score_sections(report)]
    parts.append(_kept_section(report))
    for selection in report.selections:
        parts.append(_selection_section(selection))
    parts += [tuning_section(tuning) for tuning in report.tunings]
    for evaluation in report.evaluations:
        parts.append(_evaluation_section(evaluation, report))
    parts += [*_transfer_sections(report), _cost_section(report), _file_section(report)]
    return "\n\n".join(part for part in parts if part) + "\n"


def summary(report: Report) -> str:
    """The tables that a person wants to see at the end of a command: reliability, accuracy, differences, warnings."""
    counts = {"without a label": "n_unlabelled", "that cannot be read": "n_skipped", "held out that cannot be read": "n_test_skipped"}
    none = "".join(f"; {report.source[key]} {what} have none" for what, key in counts.items() if report.source[key])
    parts = [f"Scores of {report.source['n_scored']} rows{none}", score_table(report)]
    for tuning in report.tunings:
        parts += [visible(tuning_head(tuning)), candidate_table(tuning), visible(choice(tuning))]
    for evaluation in report.evaluations:
        other = f" of {visible(evaluation['model'])}" if evaluation["transfer_of"] else ""
        parts += [f"Accuracy{other} on {evaluation['n_test']} rows that were neither scored nor pruned, model after the last epoch"]
        parts += [accuracy_table(evaluation), "What can be said of the differences", difference_table(evaluation)]
        parts.append("\n".join(map(visible, verdict_sentences(evaluation))))
    for group in report.transfer:
        parts += [f"The selections by scores of {visible(group['scorer'])}, with each model", transfer_table(group)]
    parts.append("\n".join(f"! {visible(warning['text'])}" for warning in report.warnings))
    return "\n\n".join(part for part in parts if part)


def bullets(sentences: Iterable[str]) -> str:
    """Sentences with names of the data in them, as a list."""
    return "\n".join(f"- {literal(sentence)}" for sentence in sentences)


def _head(report: Report) -> str:
    source, task = report.source, report.task
    held = f" {source['n_unlabelled']} rows without a label have no score." if source["n_unlabelled"] else ""
    skipped, lost = source["n_skipped"], source["n_test_skipped"]
    if skipped or lost:
        held += f" {skipped} rows that cannot be read have no score, and {lost} held-out ones are left out (skipped.parquet)."
    lines = [
        f"# Data diet of {literal(source['name'])}",
        "",
        f"{source['n_scored']} rows of split {code(source['split'])} ({source['n_rows']} rows in all, {source['n_classes']} classes) "
        f"scored {scored_by(task)}.{held}",
    ]
    if report.warnings:
        lines += ["", "**Read with care**", "", bullets(warning["text"] for warning in report.warnings)]
    return "\n".join(lines)


def scored_by(task: Mapping[str, Any]) -> str:
    """What the scores were taken from."""
    if task.get("kind") == LOGITS:
        return f"from the logits of {task['n_seeds']} trainings up to epoch {task['epochs']}; forgetting is counted after each"
    taken = f" (not made here: taken from {code(task['taken_from'])})" if "taken_from" in task else ""
    return f"by {task['n_seeds']} trainings of {code(task['model'])}, {task['score_epochs']} of {task['epochs']} epochs each{taken}"


def _score_sections(report: Report) -> list[str]:
    sections = [f"## Scores\n\n{score_table(report)}\n\n{RELIABILITY}", pictures_of(report, "reliability"), _confounder_section(report)]
    if report.correlations:
        sections.append(f"### Agreement between scores\n\n{agreement_table(report.correlations)}")
        sections.append(pictures_of(report, "agreement"))
    return sections


def _kept_section(report: Report) -> str:
    """How the scores are spread, and what of them and of the classes the selections keep; "" without pictures."""
    shown = [pictures_of(report, "histogram"), pictures_of(report, "classes")]
    head = "## What is kept" if report.selections else "## How the scores are spread"
    return "\n\n".join([head, *(part for part in shown if part)]) if any(shown) else ""


def _confounder_section(report: Report) -> str:
    return f"### What else a score may be\n\n{confounder_table(report)}\n\n{CONFOUNDERS}"


def kept_so(selection: Mapping[str, Any]) -> str:
    """How many rows a selection keeps, and by what."""
    by = f" by {code(selection['score'])}" if selection["score"] else ""
    chosen = ", chosen on validation rows (see below)" if AUTO in selection["parameters"] else ""
    return (
        f"{selection['n_kept']} rows kept ({percent(selection['share'])}): {literal(selection['strategy'])}{by}"
        f"{in_words(selection['parameters']['quotas'])}{chosen}; {selection['n_dropped']} dropped."
    )


def dropped_because(selection: Mapping[str, Any]) -> str:
    """Why the other rows went, and how many for each reason."""
    return "\n".join(f"- {count} dropped: {literal(reason)}" for reason, count in selection["reasons"].items())


def _selection_section(selection: Mapping[str, Any]) -> str:
    head = f"## Selection {literal(selection['name'])}\n\n{kept_so(selection)}"
    return f"{head}\n\n{dropped_because(selection)}\n\n{class_table(selection)}"


def tuning_section(tuning: Mapping[str, Any]) -> str:
    """What a selection by strategy auto was chosen among, and on what evidence."""
    matched = "as many epochs" if tuning["match"] == "epochs" else "as many steps"
    note = (
        f"Each candidate kept its share of {tuning['n_rest']} rows, by the scores of this run; {code(tuning['model'])} was trained on it "
        f"anew, for {matched} as a training on all of them takes, and judged on the validation rows after the last epoch. Test "
        "rows were not looked at. The first candidate within one standard error of the best is taken; the standard error is that of the "
        "difference to the best over seeds, and what other validation rows would change stands beside it. An accuracy that was chosen as "
        "the best flatters: the evaluation on test rows is the one to quote. The scores themselves come from trainings that saw the "
        "validation rows with their labels, the models judged here do not; and where labels are noisy, validation labels are as noisy."
    )
    head = f"## Choice of {literal(tuning['selection'])}\n\n{literal(tuning_head(tuning))}."
    return f"{head}\n\n{candidate_table(tuning)}\n\n{literal(choice(tuning))}\n\n{note}"


def _evaluation_section(evaluation: Mapping[str, Any], report: Report) -> str:
    found = f"{accuracy_table(evaluation)}\n\n{difference_table(evaluation)}\n\n{bullets(verdict_sentences(evaluation))}"
    parts = [
        f"## Evaluation {literal(evaluation['name'])}",
        evaluated_so(evaluation),
        pictures_of(report, "accuracy", evaluation["name"]),
        f"{found}\n\nHow to read this. {how_to_read(evaluation)}",
        "### Classes",
        class_accuracy_table(evaluation),
    ]
    return "\n\n".join(part for part in parts if part)


def evaluated_so(evaluation: Mapping[str, Any]) -> str:
    """What was trained in an evaluation, and on which rows it was judged."""
    head = f"Trained anew with {code(evaluation['model'])}, {trained_so(evaluation)}"
    if evaluation["transfer_of"]:
        head += f" The selections are those of evaluation {literal(evaluation['transfer_of'])}: another model's scores made them."
    return head


def _transfer_sections(report: Report) -> Iterable[str]:
    for group in report.transfer:
        head = (
            f"## Transfer {literal(group['evaluation'])}\n\nWhether what the scores of {code(group['scorer'])} chose serves other models: "
            "each selection against the full data, trained with each of them."
        )
        yield f"{head}\n\n{transfer_table(group)}"


def _cost_section(report: Report) -> str:
    lines = ["## Cost", "", *map(literal, cost_sentences(report))]
    if any(saving["break_even_runs"] is not None and saving["redrawn"] is None for saving in report.costs["savings"]):
        lines.append("Rows drawn anew in every epoch (RS2) save as much and need no scores: `evaluate.redrawn: true` compares with them.")
    return "\n".join(lines)


def _file_section(report: Report) -> str:
    made = report.provenance
    rows = [[code(name), meaning] for name, meaning in report.files.items()]
    return (
        "## Files\n\n" + table(["file", "holds"], rows) + f"\n\nMade by {code(made['command'])} on {literal(made['created'])}.\n"
        f"Recipe {literal(made['recipe_digest'])}.\nSource {literal(report.source['digest'])}.\n"
        f"Versions: {listed(made['versions'])}.\nHardware: {listed(made['hardware'])}."
    )


def listed(values: Mapping[str, Any]) -> str:
    """{"torch": "2.11.0"} -> torch 2.11.0, ..."""
    return ", ".join(literal(f"{name} {value}") for name, value in values.items())
