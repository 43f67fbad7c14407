"""The docstring of a score or a strategy as Markdown, and the papers it names as BibTeX.

Docstrings name a paper as `Paul, Ganguli, Dziugaite, "Title", NeurIPS 2021 (arXiv 2107.07075)`; the venue or the number may be missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from hf_datadiet.escaping import Markdown, code, inline, literal, visible

_NAMES = r"[A-Z][\w'-]+(?:, [A-Z][\w'-]+)*(?P<others> et al\.)?"
_PAPER = re.compile(
    rf'(?P<names>{_NAMES}), "(?P<title>[^"]+)"(?: \((?!arXiv)[^()]*\))?(?:, (?P<venue>[A-Z][^,;.()]*?) (?P<year>\d{{4}}))?'
    r"(?: ?\((?:[A-Z]\w+, )?arXiv (?P<arxiv>\d{4}\.\d{4,5})\))?"
)
_FACT = re.compile(r"(?:^|(?<=[.)] ))(?=(?:Paper|Source|Formula|Event|Range|Direction|Cost): )")


@dataclass(frozen=True)
class Paper:
    """Family names, a title, and where it appeared: `venue` and `arxiv` may be "", but not both."""

    names: tuple[str, ...]
    title: str
    venue: str
    year: str
    arxiv: str

    @property
    def key(self) -> str:
        """paul2021deep"""
        first = re.findall(r"\w+", self.title.lower())[:1]
        return re.sub(r"[^a-z0-9]", "", f"{self.names[0].lower()}{self.year}{''.join(first)}")

    def bibtex(self) -> str:
        """The entry; "others" stands for authors that the docstring leaves out."""
        where = {"booktitle": self.venue} if self.venue else {"journal": f"arXiv:{self.arxiv}"}
        number = {"eprint": self.arxiv, "archivePrefix": "arXiv"} if self.arxiv else {}
        fields = {"title": f"{{{self.title}}}", "author": " and ".join(self.names), **where, "year": self.year, **number}
        kind = "inproceedings" if self.venue else "article"
        return f"@{kind}{{{self.key},\n" + "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items()) + "}"


def papers(docstrings: Iterable[str]) -> list[Paper]:
    """The papers that the docstrings name with authors and title, each once, in order."""
    found: dict[str, Paper] = {}
    for text in docstrings:
        for match in _PAPER.finditer(visible(text)):
            if match["venue"] or match["arxiv"]:
                names = [name.strip() for name in match["names"].removesuffix(" et al.").split(",")]
                others = ["others"] if match["others"] else []
                year = match["year"] or f"20{match['arxiv'][:2]}"
                paper = Paper((*names, *others), match["title"], match["venue"] or "", year, match["arxiv"] or "")
                found.setdefault(paper.arxiv or paper.title, paper)
    return list(found.values())


def defined(docstring: str) -> str:
    """A docstring as Markdown: its first paragraph, then a list of its facts, one for each of its columns too."""
    headline, _, rest = docstring.partition("\n")
    lines = [_prose(headline)] if headline else []
    for paragraph in re.split(r"\n{2,}", rest.strip()):
        # Columns lie below what names them.
        lines += [f"{'  ' if item.startswith('`') else ''}- {_prose(item)}" for item in _items(paragraph)]
    return "\n".join([*lines[:1], "", *lines[1:]] if len(lines) > 1 else lines)


def _items(paragraph: str) -> Iterable[str]:
    """Facts by their keyword, columns by their indent, steps by their number; other sentences stay with the fact before them."""
    items: list[str] = []
    for line in paragraph.splitlines():
        column = re.match(r"  (\S+) {2,}(\S.*)", line)
        if column:
            items.append(f"`{column[1]}`: {column[2]}")
        elif items and not re.match(r"\d+\. ", line) and (line.startswith(" ") or not items[-1].startswith("`")):
            items[-1] += f" {line.strip()}"
        else:
            items.append(line.strip())
    for item in items:
        yield from (part.strip() for part in _FACT.split(item) if part.strip())


def _prose(text: str) -> Markdown:
    """Words of a docstring: what stands between backticks is code, numbers of arXiv are links."""
    parts = re.split(r"`([^`]+)`|arXiv (\d{4}\.\d{4,5})", text)
    said = [literal(parts[0]) + " " * parts[0].endswith(" ")]
    for name, number, words in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        said.append(code(name) if name else f"[arXiv {number}](https://arxiv.org/abs/{number})")
        # `inline` drops the spaces at both ends.
        said.append(f"{' ' * words.startswith(' ')}{inline(words)}{' ' * (words.endswith(' ') and bool(words.strip()))}")
    return Markdown("".join(said))
