"""Numbers as people read them, and Markdown tables that read as plain text too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hf_datadiet.escaping import Markdown, inline


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, padded so that it reads as plain text; numbers to the right. Cells are words of the data, or `Markdown`."""
    cells = [[cell if isinstance(cell, Markdown) else inline(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    right = [all(_is_numeric(row[column]) for row in cells[1:]) and len(cells) > 1 for column in range(len(head))]
    lines = [
        "| " + " | ".join(_pad(cell, width, side) for cell, width, side in zip(row, widths, right, strict=True)) + " |" for row in cells
    ]
    rule = "|" + "|".join("-" * (width + 1) + (":" if side else "-") for width, side in zip(widths, right, strict=True)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _pad(cell: str, width: int, right: bool) -> str:
    return cell.rjust(width) if right else cell.ljust(width)


def _is_numeric(cell: str) -> bool:
    return cell == "-" or cell.strip("+-%. 0123456789") == ""


def number(value: float | None, places: int) -> str:
    """With so many decimal places; "-" for None."""
    return "-" if value is None else f"{value:.{places}f}"


def signed(value: float | None, places: int) -> str:
    """As `number`, with its sign."""
    return "-" if value is None else f"{value:+.{places}f}"


def short(value: float) -> str:
    """Three significant digits."""
    return f"{value:.3g}"


def points(value: float) -> str:
    """Accuracy points."""
    return f"{short(value)} point{'' if value == 1 else 's'}"


def percent(share: float) -> str:
    """A fraction of 1 in percent."""
    return f"{100 * share:.1f} %"


def interval(low: float | None, high: float | None) -> str:
    """Two ends, in the unit they have."""
    return "-" if low is None else f"{number(low, 2)} to {number(high, 2)}"


def signed_interval(low: float | None, high: float | None) -> str:
    """The ends of a difference."""
    return "-" if low is None else f"{signed(low, 2)} to {signed(high, 2)}"
