"""The body of a dataset card: a report and what is published with it, for people. Pure, so that a reader can make it again and compare.

Words are added here, never numbers. The metadata above it, and what becomes of text that others wrote, is `hub.card`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hf_datadiet.captions import pictures_of
from hf_datadiet.cells import percent, short, signed, signed_interval, table
from hf_datadiet.citations import defined, papers
from hf_datadiet.escaping import Markdown, code, fenced, literal
from hf_datadiet.examples import example_section
from hf_datadiet.loading import how_to_load
from hf_datadiet.markdown import (
    CONFOUNDERS,
    RELIABILITY,
    bullets,
    dropped_because,
    evaluated_so,
    kept_so,
    listed,
    scored_by,
    tuning_section,
)
from hf_datadiet.publication import Publication
from hf_datadiet.records import Report
from hf_datadiet.sentences import because, cost_sentences, how_to_read, verdict_sentences
from hf_datadiet.tabulated import accuracy_table, class_table, confounder_table, difference_table, score_table, transfer_table

EVIDENCE = "evidence"
"""The folder of the repository where the run's records lie."""

MOST_LINES = 20
"""Longer tables and lists of classes are folded up."""

Entry = Mapping[str, Any]


def to_card(report: Mapping[str, Any] | Report, publication: Publication) -> str:
    """Markdown as GitHub and the Hub read it; `report`: the record, or what `json` reads of it. Ends with a line break."""
    made = report if isinstance(report, Report) else Report(**report)
    shown = [{**entry, "files": _published(entry, publication)} for entry in made.pictures]
    made = dataclasses.replace(made, pictures=tuple(shown))
    parts = [
        _head(made, publication),
        _configs(made, publication),
        how_to_load(made, publication),
        *_evaluation_sections(made),
        *_transfer_sections(made),
        *_kept_sections(made, publication),
        *(tuning_section(tuning) for tuning in made.tunings if tuning["selection"] in publication.variants),
        *_score_sections(made, publication),
        *(example_section(examples) for examples in publication.examples),
        _limit_section(made),
        _cost_section(made),
        _origin_section(made, publication),
        _licence_section(made, publication),
        _citation_section(publication),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _published(picture: Entry, publication: Publication) -> list[str]:
    return [path for name in picture.get("files", ()) if (path := f"{EVIDENCE}/{name}") in publication.pictures]


def _head(report: Report, publication: Publication) -> str:
    source = report.source
    what = (
        "This repository holds the row numbers that stay and the scores of all, and no row of the source itself."
        if publication.ids_only
        else "Each variant is a config of its own, with the columns of the source and the scores beside them."
    )
    lines = [
        f"# {literal(publication.repo.rpartition('/')[2])}",
        "",
        f"Smaller versions of {source_link(report, publication)}, and what each of them costs. {source['n_scored']} of the "
        f"{source['n_rows']} rows of split {code(source['split'])} ({source['n_classes']} classes) were scored by how hard they are to "
        f"learn, {scored_by(report.task)}; a variant keeps a part of them, chosen by these scores. {what}",
    ]
    found = [_finding(selection, report) for selection in report.selections if selection["name"] in publication.variants]
    return "\n".join([*lines, *(["", *found] if found else [])])


def source_link(report: Report, publication: Publication) -> str:
    """The source by name; a link where it lies on the Hub."""
    name, config = report.source["name"], report.source["config"]
    of = f" (config {code(config)})" if config else ""
    if publication.source_repo is None:
        return f"{code(name)}{of}"
    return f"[{literal(publication.source_repo)}](https://huggingface.co/datasets/{publication.source_repo}){of}"


def against_full(name: str, report: Report) -> Iterable[tuple[Entry, Entry]]:
    """(evaluation, its difference between the selection and all rows), where that was judged; of the scorer's own model."""
    for evaluation in report.evaluations:
        for row in evaluation["differences"]:
            if (row["arm"], row["reference"]) == (name, "full") and row["verdict"] and not evaluation["transfer_of"]:
                yield evaluation, row


def _finding(selection: Entry, report: Report) -> str:
    """What is kept, and the verdict on it."""
    said = []
    for evaluation, row in against_full(selection["name"], report):
        level = short(evaluation["verdict_confidence"])
        between = "" if row["low"] is None else f" ({level} % interval {signed_interval(row['low'], row['high'])})"
        said.append(
            f"Trained on it instead of on all rows, accuracy changes by {signed(row['difference'], 2)} points{between}, n = {row['n']}: "
            f"**{literal(row['verdict'])}**. {because(row, evaluation)}"
        )
    kept = f"**{literal(selection['name'])}**: {kept_so(selection)}"
    return f"- {kept} {' '.join(said) or 'Nothing was trained on it: what it costs is not known.'}"


def _configs(report: Report, publication: Publication) -> str:
    variants = publication.variants
    selections = {entry["name"]: entry for entry in report.selections}
    splits = list(dict.fromkeys(split for rows in [publication.scores, *variants.values()] for split in rows))
    what = "ids and scores" if publication.ids_only else "ids, labels and scores"
    rows = [[code("scores"), *_counts(publication.scores, splits), what, "", ""]]
    for name, counts in variants.items():
        entry = selections[name]
        kept = f"{entry['strategy']}, {percent(entry['share'])} of the scored rows"
        verdicts = "; ".join(
            f"{row['verdict']} (n = {row['n']})"
            if len(own_evaluations(report)) == 1
            else f"{row['verdict']} ({evaluation['name']}, n = {row['n']})"
            for evaluation, row in against_full(name, report)
        )
        rows.append([code(name), *_counts(counts, splits), kept, code(entry["score"]) if entry["score"] else "", verdicts or "not judged"])
    notes = [f"Numbers are rows. {_held(report, publication, splits)}"]
    if publication.earlier:
        names = ", ".join(code(name) for name in publication.earlier)
        notes.append(f"Also here, from earlier publications and not described by this card: {names}.")
    models = {name: publication.models[name] for name in variants if name in publication.models}
    if models:
        trained = ", ".join(f"{code(name)}: [{literal(repo)}](https://huggingface.co/{repo})" for name, repo in models.items())
        notes.append(f"Models trained on the variants: {trained}.")
    head = ["config", *(Markdown(code(split)) for split in splits), "holds", "goes by", "against all rows"]
    return "\n\n".join(["## Configs", table(head, rows), *notes])


def _held(report: Report, publication: Publication, splits: Sequence[str]) -> str:
    """What the columns and the splits of a variant are."""
    split, held_out = code(report.source["split"]), publication.held_out
    held = "example ids and scores" if publication.ids_only else "the columns of the source, example ids and scores"
    said = [f"Every variant holds {held}; only rows with a score can stay."]
    if publication.prefix:
        said.append(f"The names of its scores begin with {code(publication.prefix)}.")
    if held_out is not None:
        said.append(f"Split {code(held_out)} has the rows of {split} that were held out, and no scores.")
    if set(splits) - {*publication.scores, held_out}:
        said.append("The other splits are whole, and have no scores.")
    return " ".join([*said, f"An example id is the position of a row in split {split} of the source."])


def _counts(rows: Mapping[str, int], splits: Sequence[str]) -> list[str]:
    return [str(rows[split]) if split in rows else "-" for split in splits]


def own_evaluations(report: Report) -> list[Entry]:
    """Those with the model that the scores come from."""
    return [evaluation for evaluation in report.evaluations if not evaluation["transfer_of"]]


def _evaluation_sections(report: Report) -> Iterable[str]:
    evaluations = own_evaluations(report)
    for evaluation in evaluations:
        name = "" if len(evaluations) == 1 else f": {literal(evaluation['name'])}"
        yield f"## What pruning costs{name}"
        yield evaluated_so(evaluation)
        yield pictures_of(report, "accuracy", evaluation["name"])
        yield _evaluation_tables(evaluation)


def _evaluation_tables(evaluation: Entry) -> str:
    arms = "\n".join(f"- {code(arm['arm'])}: {literal(arm['meaning'])}" for arm in evaluation["arms"])
    parts = [
        accuracy_table(evaluation),
        difference_table(evaluation),
        bullets(verdict_sentences(evaluation)),
        folded("How to read these tables", f"{arms}\n\n{how_to_read(evaluation)}"),
    ]
    return "\n\n".join(parts)


def _transfer_sections(report: Report) -> Iterable[str]:
    for group in report.transfer:
        name = "" if len(report.transfer) == 1 else f": {literal(group['evaluation'])}"
        head = f"Each variant by the scores of {code(group['scorer'])} against all rows, trained with each model."
        yield f"## With other models{name}\n\n{head}\n\n{transfer_table(group)}"
        for evaluation in report.evaluations:
            if evaluation["transfer_of"] == group["evaluation"]:
                yield f"### {code(evaluation['model'])}\n\n{evaluated_so(evaluation)}"
                yield pictures_of(report, "accuracy", evaluation["name"])
                yield folded("All numbers", _evaluation_tables(evaluation))


def _kept_sections(report: Report, publication: Publication) -> Iterable[str]:
    yield f"## What stays of each class\n\n{pictures_of(report, 'classes')}".rstrip()
    for selection in report.selections:
        if selection["name"] in publication.variants:
            reasons = _folded_if_long("Why the others were dropped", dropped_because(selection), len(selection["reasons"]))
            classes = _folded_if_long("Every class", class_table(selection), len(selection["per_class"]))
            yield f"### {literal(selection['name'])}\n\n{kept_so(selection)}\n\n{reasons}\n\n{classes}"


def _folded_if_long(summary: str, text: str, n_lines: int) -> str:
    return folded(summary, text) if n_lines > MOST_LINES else text


def folded(summary: str, text: str) -> str:
    """A part that opens on a click; `summary` is ours."""
    return f"<details>\n<summary>{summary}</summary>\n\n{text}\n\n</details>"


def _score_sections(report: Report, publication: Publication) -> Iterable[str]:
    yield f"## Scores\n\n{score_table(report)}\n\n{RELIABILITY}"
    yield from (pictures_of(report, kind) for kind in ("histogram", "reliability", "agreement"))
    yield f"### What else a score may be\n\n{confounder_table(report)}\n\n{CONFOUNDERS}"
    for name, docstring in {**publication.definitions, **publication.strategies}.items():
        yield f"### {'Strategy ' if name in publication.strategies else ''}{literal(name)}\n\n{defined(docstring)}"


def _limit_section(report: Report) -> str:
    known = [
        "All of this is conditional on these kept rows: the scores were drawn once, and other seeds would have kept others.",
        "A verdict holds for the model, the training and the test rows named above. Accuracy was measured, and nothing else: not "
        "calibration, not robustness, not fairness, no other task.",
        "A score says what was hard for these models to learn. It does not say whether a label is right, whether a row is a copy of "
        "another or of a test row, nor what a row shows of people.",
        "Dropping rows changes the shares of classes, and of groups that nobody labelled.",
    ]
    return "\n\n".join(["## Limits", bullets([warning["text"] for warning in report.warnings] + known)])


def _cost_section(report: Report) -> str:
    return "\n\n".join(["## Cost", bullets(cost_sentences(report)), "Wall times of the machine below; they cannot be checked."])


def _origin_section(report: Report, publication: Publication) -> str:
    source, made = report.source, report.provenance
    # What the recipe cannot say: where the rows lie for whoever reads this, or at which commit the source was then.
    where = "" if source["name"].startswith("sample:") else " source.path=FOLDER"
    if publication.source_repo is not None:
        where = f" source.revision={source['revision']}" if source["revision"] else ""
    again = (
        f"hf download {publication.repo} {publication.recipe} --repo-type dataset --local-dir .\n"
        f"hf-datadiet run {publication.recipe} --out mine{where}\n"
        f"hf-datadiet verify {publication.repo}{'' if publication.source_repo else where}"
    )
    facts = {
        "source": source_link(report, publication),
        **({"revision": code(source["revision"])} if source["revision"] else {}),
        "content": code(source["digest"]),
        "recipe": f"[{literal(publication.recipe)}]({publication.recipe}), {code(made['recipe_digest'])}",
        "versions": listed(made["versions"]),
        "hardware": listed(made["hardware"]),
        "made": literal(made["created"]),
    }
    records = (
        f"`{EVIDENCE}/` holds the records: kept ids with a reason for every dropped row, and what every training said of every test row. "
        "[report.md](evidence/report.md) says more, and every number is a field of [report.json](evidence/report.json)."
    )
    return "\n\n".join(
        [
            "## Where it comes from, and how to check it",
            "\n".join(f"- {name}: {fact}" for name, fact in facts.items()),
            f"Made by {code(publication.command)}. To make it again, and to recompute what data can prove from the files here:",
            fenced(again, "bash"),
            records,
        ]
    )


def _licence_section(report: Report, publication: Publication) -> str:
    of = source_link(report, publication)
    given = " and ".join(code(name) for name in publication.source_license)
    lines = [f"The source is {of}, whose card states the licence {given}." if given else f"No licence of the source {of} is known."]
    if publication.asserted_license:
        lines.append(f"Whoever published this states that it may be shared under {code(publication.asserted_license)}.")
    if publication.ids_only:
        lines.append(
            "No row of it is copied here, but what was found of each is: scores, why a row was dropped (with class quotas that names its "
            "class), what models predicted. Labels can be guessed from these. Its terms hold for whoever loads the rows."
        )
    elif given or publication.asserted_license:
        lines.append("The rows here are copies and remain under it: credit their authors, and keep to its terms.")
    else:
        lines.append("The rows here are copies: ask its authors before you pass them on.")
    if publication.source_gated:
        lines.append("Access to the source is gated, and its terms of access hold here as well.")
    return f"## Licence\n\n{' '.join(lines)}"


def _citation_section(publication: Publication) -> str:
    cited = papers([*publication.definitions.values(), *publication.strategies.values()])
    if not cited:
        return ""
    entries = fenced("\n\n".join(paper.bibtex() for paper in cited), "bibtex")
    return f"## Citation\n\nThe scores and strategies are those of these papers; the source has authors of its own.\n\n{entries}"
