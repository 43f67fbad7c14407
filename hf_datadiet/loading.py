"""How a reader loads what was published, as lines of Python."""

from __future__ import annotations

from hf_datadiet.escaping import Markdown, fenced, quoted, visible
from hf_datadiet.publication import Publication
from hf_datadiet.records import Report


def how_to_load(report: Report, publication: Publication) -> str:
    """The section: one variant, and the scores beside the rows of the source."""
    split = next(iter(publication.scores))
    repo, scored = quoted(publication.repo), f"split={quoted(split)}"
    lines = ["from datasets import concatenate_datasets, load_dataset", ""]
    variant = next(iter(publication.variants), None)
    if variant is not None:
        pinned = '  # revision="COMMIT" pins what you get'
        lines.append(f"kept = load_dataset({repo}, {quoted(variant)}, {scored}){pinned}")
    lines += [f'scores = load_dataset({repo}, "scores", {scored})', "", *_source(report, publication)]
    if publication.ids_only and variant is not None:
        lines.append('lean = source.select(kept["example_id"])')
    lines.append('scored = source.select(scores["example_id"])')
    lines.append("there = [name for name in scores.column_names if name in scored.column_names]")
    lines.append("scored = concatenate_datasets([scored, scores.remove_columns(there)], axis=1)")
    note = "`NAME_se` is the standard error over seeds, `NAME_seedK` what one seed found; rows without a label have no score."
    return Markdown(f"## How to load it\n\n{fenced(chr(10).join(lines), 'python')}\n\n{note}")


def _source(report: Report, publication: Publication) -> list[str]:
    source = report.source
    if publication.source_repo is None:
        return [f"source = ...  # split {visible(source['split'])} of {visible(source['name'])}, its rows in the order they had"]
    words = [quoted(publication.source_repo), *([quoted(source["config"])] if source["config"] else []), f"split={quoted(source['split'])}"]
    if source["revision"]:
        words.append(f"revision={quoted(source['revision'])}")
    return [f"source = load_dataset({', '.join(words)})"]
