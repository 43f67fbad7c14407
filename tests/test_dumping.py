"""YAML that gives every string back, whichever version of YAML reads it."""

from __future__ import annotations

import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hf_datadiet.dumping import yaml_text
from tests.test_card import HIDDEN, HOSTILE

NUMBERS = ["1", "1e3", "-1E3", "+.5e-3", ".5", "1.", "1.e3", "0o17", "0x1F", "017", "1_000", "12:30", "-0", ".inf", ".NaN", "2026-11-23"]
WORDS = [
    "y",
    "no",
    "On",
    "NULL",
    "~",
    "true",
    "=",
    "<<",
    "a: b",
    "a #b",
    "- a",
    "? a",
    "&a",
    "*a",
    "!a",
    "@a",
    "`a",
    "%a",
    "'",
    '"',
    "\ud800",
]

CORE = re.compile(
    r"~|null|Null|NULL|true|True|TRUE|false|False|FALSE|[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"
    r"|[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
"""What is no string where it stands without quotes, by the core schema of YAML 1.2."""


def check(text: str) -> None:
    values = {"a": text, text: [text, {"b": text}], "c": 1}
    written = yaml_text(values)
    assert yaml.safe_load(written) == values
    assert not HIDDEN.search(written.replace("\n", "")) and written.endswith("\n")
    if CORE.fullmatch(text):
        assert written.splitlines()[0] in (f"a: '{text}'", f'a: "{text}"')


@pytest.mark.parametrize("text", [*HOSTILE, *NUMBERS, *WORDS])
def test_each_comes_back(text: str) -> None:
    check(text)


@given(st.one_of(st.text(st.characters()), st.from_regex(CORE, fullmatch=True)))
def test_any_text_comes_back(text: str) -> None:
    check(text)


def test_a_long_line_stays_one_line() -> None:
    assert yaml_text({"a": "word " * 100 + "é"}).count("\n") == 1
