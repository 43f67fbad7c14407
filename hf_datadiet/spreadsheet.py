"""Rows as CSV (RFC 4180, lines end in a line feed) that no spreadsheet takes for formulas."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

FORMULA = re.compile(r"\s*[=+\-@＝＋－＠]|[\t\r\n]")
"""How a text begins that a spreadsheet may carry out (OWASP, "CSV Injection"; the wide ones where East Asian input is on)."""


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line of names, then one line for each row; all rows have the same keys. Texts stand in quotes, numbers do not; None is "".

    A text that begins as a formula does gets an apostrophe before it, which spreadsheets hide; numbers stay numbers.
    """
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(rows[0])
    writer.writerows([_harmless(value) for value in row.values()] for row in rows)
    return lines.getvalue()


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value
