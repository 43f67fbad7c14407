"""The table of wrong inputs as Markdown: python -m tests.bad_input > table.md"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import tests.conftest  # noqa: F401  offline, caches of its own: before any library is imported
from tests.bad_input.case import outcome
from tests.bad_input.cases import CASES


def table() -> str:
    """One row for each case: the fault, the command, the line that it ends in."""
    rows = ["| what is wrong | command | what is said |", "|---|---|---|"]
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            line = outcome(case, Path(folder)).err.splitlines()[-1]
        cells = [case.fault, f"`{case.shown}`", line.removeprefix("hf-datadiet: ")]
        rows.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table())
