"""The hardest and the easiest rows of a score, as tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from hf_datadiet.cells import short, table
from hf_datadiet.escaping import Markdown, attribute, code, inline
from hf_datadiet.publication import Example, Examples

WIDTH = 96
"""Of a picture, in pixels of the screen: 28 of the camera would be a stamp."""

PER_LINE = 8

MOST_LETTERS = 300


def example_section(examples: Examples) -> str:
    """Both ends of one score: pictures side by side, texts below one another."""
    ends = {"Hardest": examples.hardest, "Easiest": examples.easiest}
    shown = [f"**{end}**\n\n{_rows(rows)}" for end, rows in ends.items() if rows]
    return "\n\n".join([f"## Hardest and easiest by {code(examples.column)}", *shown])


def _rows(rows: Sequence[Example]) -> str:
    if any(row.image for row in rows):
        lines = [rows[start : start + PER_LINE] for start in range(0, len(rows), PER_LINE)]
        return "\n\n".join(table([_picture(row) for row in line], [[_caption(row) for row in line]]) for line in lines)
    # No table: on a narrow screen that leaves the text a word a line.
    return "\n".join(f"- **{inline(row.label or '-')}**, {short(row.value)}, row {row.example_id}: {_shortened(row)}" for row in rows)


def _picture(row: Example) -> Markdown:
    if row.image is None:
        return Markdown("")
    says = attribute(f"Row {row.example_id} labelled {row.label}" if row.label else f"Row {row.example_id}")
    return Markdown(f'<img src="{quote(row.image)}" width="{WIDTH}" alt="{says}">')


def _caption(row: Example) -> Markdown:
    return Markdown(f"**{inline(row.label or '-')}**<br>{short(row.value)}<br>row {row.example_id}")


def _shortened(row: Example) -> Markdown:
    said = " ".join((row.text or "").split())
    return inline(said if len(said) <= MOST_LETTERS else f"{said[:MOST_LETTERS].rstrip()} …")
