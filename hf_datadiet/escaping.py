"""Words of the data inside Markdown: no sign of theirs means anything there, and no letter of theirs is hidden.

Held against the rules of GitHub (CommonMark, tables, strikethrough, bare addresses, mentions) and of the Hub (HTML, and formulas in
dollar signs). A backslash before a sign takes its meaning away everywhere; only bare addresses and mentions are also looked
for in the text that is left, and a word joiner, which has no width, parts those.
"""

from __future__ import annotations

import json
import re


class Markdown(str):
    """Text that is Markdown already, and is not to be escaped again."""

    __slots__ = ()


_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
    # The two joiners belong to the spelling of several scripts, and to emoji; between Latin letters they only hide.
    "|(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])"
)
"""Letters that show nothing, or turn the order of others around; written out here, for Unicode grows from one Python to the next."""

_SIGN = re.compile(r"[\\`*\[\]<>&$~|]|(?<![^\W_])_|_(?![^\W_])")
"""An underscore within a word means nothing."""

_PARTED = re.compile(r"(?<=/)(?=/)|(?<=www)(?=\.)|(?<=@)(?=\S)|(?<=\$)(?=\$)|(?<=\\)(?=[(\[])", re.IGNORECASE)

_JOINER = "\u2060"

_FIRST = re.compile(r"^(?:(?=[-+=#:])|(\d+)(?=[.)]))")
"""What may begin a list, a heading or a rule."""


def coded(text: str) -> str:
    """Each hidden letter as its code (backslash u202e), which Python, JSON and YAML read back between double quotes."""
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def visible(text: str) -> str:
    """On one line, and nothing in it hidden, a name of blanks neither: what a terminal may be given."""
    return coded(" ".join(text.split()) or "␣" * len(text))


def inline(text: str) -> Markdown:
    """Words of the data after others on a line, or in the cell of a table."""
    return Markdown(_SIGN.sub(r"\\\g<0>", _PARTED.sub(_JOINER, visible(text))))


def literal(text: str) -> Markdown:
    """Words of the data anywhere in a line, at its beginning too."""
    return Markdown(_FIRST.sub(r"\1\\", inline(text)))


def code(text: str) -> Markdown:
    """Words of the data set as code; as `literal` words where they hold what would end it, also in the cell of a table."""
    shown = visible(text)
    return literal(text) if not shown or re.search(r"[`|\\<$]", shown) else Markdown(f"`{shown}`")


def fenced(lines: str, language: str) -> Markdown:
    """A block of code. Of the data it may hold what is on one line with words of ours (`visible`, `quoted`)."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", lines))])
    return Markdown(f"{fence}{language}\n{lines}\n{fence}")


def quoted(text: str) -> str:
    """As a string in a Python program, between double quotes."""
    return coded(json.dumps(text, ensure_ascii=False))


def attribute(text: str) -> str:
    """As the value of an attribute of an HTML element, between double quotes, on a line of Markdown: every sign as its number."""
    return re.sub(r"[^\w ]", lambda found: f"&#{ord(found[0])};", visible(text))
