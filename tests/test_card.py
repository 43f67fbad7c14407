"""The card's body: every number is a record's, it is made again from what `json` reads, and no name in it is anything but words."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from hf_datadiet import registry
from hf_datadiet.card import to_card
from hf_datadiet.escaping import fenced, quoted
from hf_datadiet.markdown import summary, to_markdown
from hf_datadiet.publication import Example, Examples, Publication
from hf_datadiet.records import Report
from hf_datadiet.report import build_report
from tests.synthetic import RIGHT, evaluation, score_table, selection
from tests.test_report import SECONDS, TASK, VARIANTS, as_json, illustrated, unexplained

WORDS = ("CLASSA", "CLASSB", "CLASSC", "SOURCE", "CONFIG", "SPLIT", "SCORE", "REASON", "MODEL", "EXAMPLE", "COMMAND", "VERSION")
"""Stand where the data, or what the user named, have words of their own."""


def a_publication(report: Report, **more: Any) -> Publication:
    end = (Example(4, "CLASSA", 0.75, text="EXAMPLE of CLASSB"), Example(6, None, 0.5))
    usual: dict[str, Any] = {
        "repo": "me/toys-diet",
        "scores": {"SPLIT": report.source["n_scored"]},
        "variants": {entry["name"]: {"SPLIT": entry["n_kept"], "test": 12} for entry in report.selections},
        "command": "hf-datadiet run COMMAND",
        "recipe": "evidence/recipe.yaml",
        "examples": (Examples("el2n", end, end[::-1]),),
        "pictures": tuple(f"evidence/{name}" for entry in report.pictures for name in entry.get("files", ()) if name.endswith(".png")),
    }
    return Publication(**{**usual, **more})


def plain(publication: Publication) -> dict[str, Any]:
    """Through JSON and back."""
    return json.loads(json.dumps(dataclasses.asdict(publication)))


def said_with_words() -> tuple[dict[str, Any], dict[str, Any]]:
    """A report and a publication as JSON, where every word of the data is one of `WORDS`."""
    table = score_table(classes=WORDS[:3])
    columns = {"SCORE": replace(table.columns["el2n"], score="SCORE"), "margin": table.columns["margin"]}
    source = replace(table.source, name="SOURCE", config="CONFIG", split="SPLIT")
    table = replace(table, columns=columns, source=source)
    kept = selection(table, table.example_id[[0, 6, 9]], score="SCORE")
    kept = replace(kept, reasons=tuple("REASON" for _ in kept.reasons))
    harmed = {**RIGHT, "keep-50": (3, 3, 3), "full": (12, 12, 12)}
    task = {**TASK, "model": "MODEL"}
    judged = replace(evaluation(right=harmed), model="MODEL")
    made = build_report(table, [kept], [judged], task=task, seed_seconds=SECONDS, files={})
    versions = {"torch": "VERSION"}
    # The files of pictures bear no words as they are, but quoted.
    named = tuple({**entry, "name": f"picture{number}"} for number, entry in enumerate(made.pictures))
    made = replace(made, pictures=named, provenance={**made.provenance, "command": "COMMAND", "versions": versions, "hardware": versions})
    made = illustrated(made)
    images = (Example(4, "CLASSA", 0.75, image="evidence/examples/4.png"),)
    more = {"examples": (*a_publication(made).examples, Examples("SCORE", images, images)), "asserted_license": "VERSION"}
    return as_json(made), plain(a_publication(made, **more))


REPORT, PUBLICATION = said_with_words()


def with_words(value: Any, words: dict[str, str]) -> Any:
    """The JSON with each of `WORDS` replaced, in keys too."""
    if isinstance(value, dict):
        return {with_words(key, words): with_words(inner, words) for key, inner in value.items()}
    if isinstance(value, list):
        return [with_words(inner, words) for inner in value]
    if isinstance(value, str):
        return re.sub("|".join(WORDS), lambda found: words[found[0]], value)
    return value


# Numbers and records


@pytest.mark.parametrize("name", VARIANTS)
def test_every_printed_number_is_a_field(name: str) -> None:
    report = VARIANTS[name]
    published = a_publication(report, earlier=("keep-31",), models={"keep-50": "me/model-7"})
    assert unexplained(to_card(report, published), report, plain(published)) == []


def test_a_number_from_elsewhere_would_be_noticed() -> None:
    report = VARIANTS["whole"]
    text = to_card(report, a_publication(report)) + "\nAbout 1234.56 points.\n"
    assert unexplained(text, report, plain(a_publication(report))) == ["1234.56"]


@pytest.mark.parametrize("name", VARIANTS)
def test_what_json_reads_makes_the_same_card(name: str) -> None:
    report = VARIANTS[name]
    published = a_publication(report, definitions={"el2n": "One line.\n\nPaper: none."})
    read = Publication.from_json(plain(published))
    assert read == published
    assert to_card(as_json(report), read) == to_card(report, published)
    assert Publication.from_json({"repo": "me/x", "scores": {}, "variants": {}, "command": "", "recipe": ""}).examples == ()


def test_every_number_of_a_difference_and_its_n_are_shown() -> None:
    report = VARIANTS["whole"]
    text = to_card(report, a_publication(report))
    row = next(row for row in report.evaluations[0]["differences"] if (row["arm"], row["reference"]) == ("keep-50", "full"))
    between = f"{report.evaluations[0]['verdict_confidence']:.3g} % interval {row['low']:+.2f} to {row['high']:+.2f}"
    assert f"{row['difference']:+.2f} points ({between}), n = {row['n']}: **{row['verdict']}**" in text
    assert f"| {row['verdict']} (n = {row['n']})" in text
    for entry in report.selections[0]["per_class"]:
        assert re.search(rf"\| {entry['class']} +\| +{entry['rows']} \| +{entry['kept']} \|", text)
    for warning in report.warnings:
        assert f"- {warning['text']}" in text.replace("\\", "")


# What it says, and when


def card(**more: Any) -> str:
    report = VARIANTS["whole"]
    return to_card(report, a_publication(report, **more))


def test_a_source_on_the_hub_is_linked_and_pinned() -> None:
    report = VARIANTS["whole"]
    pinned = replace(report, source={**report.source, "revision": "0a1b", "config": "plain"})
    text = to_card(pinned, a_publication(report, source_repo="org/toys", source_license=("cc-by-sa-4.0",)))
    assert "[org/toys](https://huggingface.co/datasets/org/toys) (config `plain`)" in text
    assert 'source = load_dataset("org/toys", "plain", split="train", revision="0a1b")' in text
    assert "whose card states the licence `cc-by-sa-4.0`" in text and "remain under it" in text
    assert "huggingface.co/datasets" not in card() and "No licence of the source `toys` is known. The rows here are copies" in card()


def test_the_splits_are_what_they_are_said_to_be() -> None:
    """Rows that are held out of the scored split are no split of the source."""
    counts = {"keep-50": {"SPLIT": 5, "test": 12}}
    held_out = "Split `test` has the rows of `train` that were held out, and no scores."
    others = "The other splits are whole, and have no scores."
    text = card(variants=counts, held_out="test")
    assert held_out in text and others not in text
    text = card(variants=counts)
    assert others in text and "held out, and" not in text
    text = card(variants={"keep-50": {**counts["keep-50"], "extra": 2}}, held_out="test")
    assert held_out in text and others in text
    assert "whole" not in card(variants={"keep-50": {"SPLIT": 5}})


def test_a_prefix_is_named() -> None:
    assert "The names of its scores begin with `diet_`." in card(prefix="diet_") and "begin with" not in card()


def test_other_models_come_after_the_own_one_and_are_folded_up() -> None:
    report = VARIANTS["two models"]
    text = to_card(report, a_publication(report))
    heads = re.findall(r"^##+ (?:What pruning|With other|`timm).*", text, re.MULTILINE)
    assert heads == ["## What pruning costs: main", "## What pruning costs: second", "## With other models", "### `timm:test_vit`"]
    assert re.search(r"### `timm:test_vit`\n\n[^|]*<details>\n<summary>All numbers</summary>\n\n\| trained on", text)
    assert "(main, n = 3)" in text and "(main" not in card(), "one evaluation needs no name"


def test_how_a_run_is_made_again() -> None:
    report = VARIANTS["whole"]

    def program(source: dict[str, Any], **more: Any) -> list[str]:
        made = replace(report, source={**report.source, **source})
        (lines,) = re.findall(r"```bash\n(.*?)\n```", to_card(made, a_publication(report, **more)), flags=re.DOTALL)
        return [line.partition(" ")[2].partition(" ")[2] for line in lines.splitlines()[1:]]

    run, name = "evidence/recipe.yaml --out mine", "me/toys-diet"
    assert program({}) == [f"{run} source.path=FOLDER", f"{name} source.path=FOLDER"]
    assert program({"name": "sample:digits"}) == [run, name]
    assert program({"revision": "0a1b"}, source_repo="org/toys") == [f"{run} source.revision=0a1b", name]


def test_quotas_are_named() -> None:
    table = score_table()
    even = selection(table, table.example_id[[0, 1, 2]], parameters={"keep": 0.3, "quotas": "equal"})
    report = build_report(table, [even], [], task=TASK, seed_seconds=SECONDS, files={})
    assert "hardest by `el2n`, equal per class;" in to_card(report, a_publication(report)) and "equal per" not in card()


def test_texts_are_no_table() -> None:
    text = card()
    assert "- **CLASSA**, 0.75, row 4: EXAMPLE of CLASSB\n- **-**, 0.5, row 6: " in text
    assert text.index("## Hardest and easiest") < text.index("## Limits")


def test_ids_alone_are_no_copies() -> None:
    text = card(ids_only=True)
    assert "no row of the source itself" in text and 'lean = source.select(kept["example_id"])' in text
    assert "columns of the source" not in text and "copies" not in text and "No row of it is copied here" in text


def test_a_gate_and_an_assertion_are_said() -> None:
    assert "its terms of access hold here as well" in card(source_gated=True) and "terms of access" not in card()
    assert "states that it may be shared under `mit`" in card(asserted_license="mit")


def test_what_was_published_before_is_named() -> None:
    assert "from earlier publications and not described by this card: `keep-30`." in card(earlier=("keep-30",))
    assert "earlier publications" not in card()


def test_models_are_linked_from_their_variants() -> None:
    text = card(models={"keep-50": "me/toys-resnet", "gone": "me/other"})
    assert "`keep-50`: [me/toys-resnet](https://huggingface.co/me/toys-resnet)." in text and "me/other" not in text


def test_pictures_are_those_that_are_published() -> None:
    report = VARIANTS["illustrated"]
    shown = re.findall(r"!\[.*?\]\((.*?)\)", to_card(report, a_publication(report)))
    order = ["accuracy-main", "classes", "histogram-el2n", "reliability", "agreement"]
    assert shown == [f"evidence/pictures/{name}.png" for name in order]
    few = to_card(report, a_publication(report, pictures=("evidence/pictures/classes.png",)))
    assert re.findall(r"!\[.*?\]\((.*?)\)", few) == ["evidence/pictures/classes.png"] and "Also as" not in few


@pytest.mark.parametrize(("n", "folded"), [(20, 0), (21, 1)])
def test_long_class_tables_are_folded_up(n: int, folded: int) -> None:
    classes = tuple(f"c{k}" for k in range(n))
    table = score_table(2 * n, label=np.arange(2 * n) % n, classes=classes)
    kept = selection(table, table.example_id[::2])
    kept = replace(kept, reasons=tuple(f"class quota c{k % n}" for k in range(n)))
    report = build_report(table, [kept], [], task=TASK, seed_seconds=SECONDS, files={})
    text = to_card(report, a_publication(report))
    assert text.count("<details>") == 2 * folded and ("<summary>Every class</summary>" in text) == bool(folded)
    assert "Nothing was trained on it: what it costs is not known." in text and "not judged" in text


def test_a_choice_by_training_is_shown_with_its_variant() -> None:
    report = VARIANTS["tuned"]
    assert "## Choice of auto-50\n" in to_card(report, a_publication(report))
    assert "## Choice" not in to_card(report, a_publication(report, variants={}))


def test_scores_alone_are_a_publication() -> None:
    report = VARIANTS["no selection"]
    text = to_card(report, a_publication(report, examples=()))
    assert "kept =" not in text and 'load_dataset("me/toys-diet", "scores", split="SPLIT")' in text


def test_definitions_carry_links_and_citations() -> None:
    definitions = registry.definitions("scorers", ["el2n", "grand", "forgetting", "package.module:NAME"])
    assert list(definitions) == ["el2n", "grand", "forgetting"]
    text = card(definitions=definitions, strategies=registry.definitions("selectors", ["hardest", "threshold"]))
    assert text.count("@inproceedings{paul2021deep,") == 1 and "@inproceedings{toneva2019an," in text
    assert "  author = {Paul and Ganguli and Dziugaite},\n  booktitle = {NeurIPS},\n  year = {2021},\n  eprint = {2107.07075}," in text
    assert "@article{kirsch2023does," not in text, "it names no title there"
    assert (
        "[arXiv 2303.14753](https://arxiv.org/abs/2303.14753)" in text and "\n### Strategy hardest\n\nKeep the hardest examples.\n" in text
    )
    assert "\n- Columns, per seed:\n  - `forgetting`: events;" in text and "\n- Range: counts in" in text
    assert "\n  - `never_learned`: 1 if never classified" in text and "## Citation" not in card()


@pytest.mark.parametrize("labels", [True, False])
def test_the_lines_of_python_do_what_they_say(labels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the source, and with what is published, in the place of the Hub."""
    source = Dataset.from_dict(
        {"text": [f"text {k}" for k in range(6)], "label": [k % 2 for k in range(6)]},
        features=Features({"text": Value("string"), "label": ClassLabel(names=["a", "b"])}),
    )
    given = {"label": [1, 1, 1]} if labels else {}
    scores = Dataset.from_dict({"example_id": [1, 3, 5], **given, "el2n": [0.1, 0.3, 0.5]})
    there = {("me/toys-diet", "keep-50"): scores.select([1, 2]), ("me/toys-diet", "scores"): scores, ("org/toys",): source}
    asked: list[Any] = []

    def load_dataset(*words: str, split: str, revision: str | None = None) -> Dataset:
        asked.append((words, split, revision))
        return there[words]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    report = replace(VARIANTS["whole"], source={**VARIANTS["whole"].source, "revision": "0a1b"})
    text = to_card(report, a_publication(report, source_repo="org/toys", ids_only=True))
    (program,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    found: dict[str, Any] = {}
    exec(program, found)
    assert found["lean"]["text"] == ["text 3", "text 5"]
    assert found["scored"].to_dict() == {
        "text": ["text 1", "text 3", "text 5"],
        "label": [1, 1, 1],
        "example_id": [1, 3, 5],
        "el2n": [0.1, 0.3, 0.5],
    }
    assert (("org/toys",), "train", "0a1b") in asked


# Words of the data

HOSTILE = [
    "</details><script>alert(1)</script>",
    "<!-- hf-datadiet:end -->",
    "<!--",
    "---\nlicense: mit\n---\n",
    "...\n---",
    "\u202eevil\u202c",
    "zero\u200bwidth\u200dhere\u2060",
    "line\u2028separator\u2029paragraph\x85next",
    "```\nfence\n```",
    "``` `` `",
    "a|b\\|c\\",
    "| --- |",
    "[x](javascript:alert(1))",
    "![x](http://evil.example/x.png)",
    "[x]: http://evil.example",
    "[^1]",
    "<img src=x onerror=alert(1)>",
    "<https://evil.example>",
    "https://evil.example/x",
    "www.evil.example",
    "ftp://evil.example",
    "someone@evil.example",
    "@somebody",
    "&lt;b&gt; &amp; &#60;i&#62;",
    "\n\n# heading\n\n",
    "two\r\nlines\ttab",
    "🦆 👩\u200d🔬 é",
    "می\u200cشود",
    "- a: b",
    "1. one",
    "2) two",
    "+ plus",
    "* star",
    "> quote",
    "===",
    "!!python/object:os.system",
    "*emphasis* **strong** _under_ __x__ ~~struck~~",
    "snake_case _a_",
    "$$x$$ $y$ \\(z\\) \\[w\\]",
    "\x00\x1b[31mred\x07",
    "\\",
    '"quoted" \'single\'',
    " ",
    "    indented",
    "::: :smile:",
    "{{ jinja }} {% x %}",
    "on", "null", "~", "0", "1e3", "",
]  # fmt: skip

READER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
"""As the Hub reads a card, but for bare addresses, which `GITHUB_LINKS` finds."""

GITHUB_LINKS = re.compile(r"(?:https?|ftp)://|www\.|[\w.+-]+@[\w-]|(?<![\w`])@\w", re.IGNORECASE)
"""What GitHub makes links of in plain text: addresses with and without a scheme, of mail, and mentions."""

HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2061-\u2069\ufeff]")


def inline_tokens(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from inline_tokens(token.children or [])


def elements(text: str) -> list[Any]:
    """The card as a viewer builds it, without its words: blocks, inline elements, HTML and where links lead."""
    found: list[Any] = []
    for token in inline_tokens(READER.parse(text)):
        if token.type == "text" and (link := GITHUB_LINKS.search(token.content)):
            found.append(("link", link[0]))
        if token.type in ("text", "code_inline", "inline"):
            continue
        html = re.sub(r'alt="[^"<>]*"', "alt", token.content) if token.type.startswith("html") else ""
        leads = str(token.attrs.get("href", "")), str(token.attrs.get("src", "")).rpartition("/")[0]
        found.append((token.type, token.tag, html, *leads))
    return found


def cards(words: dict[str, str]) -> dict[str, str]:
    report = Report(**with_words(REPORT, words))
    return {"card": to_card(report, Publication.from_json(with_words(PUBLICATION, words))), "report": to_markdown(report)}


PLAIN = {name: elements(text) for name, text in cards({word: word for word in WORDS}).items()}


def drawn(alphabet: list[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.sampled_from(alphabet), st.lists(st.sampled_from(alphabet), min_size=2, max_size=4).map("".join), st.text(min_size=1)
    )


@settings(max_examples=200)
@given(st.fixed_dictionaries({word: drawn(HOSTILE).filter(bool) for word in WORDS}))
def test_no_element_comes_from_the_data(words: dict[str, str]) -> None:
    for name, text in cards(words).items():
        assert elements(text) == PLAIN[name]
        assert not HIDDEN.search(text.replace("\n", ""))
        assert not re.search(r"^<!-- hf-datadiet", text, re.MULTILINE)


@pytest.mark.parametrize("word", [word for word in HOSTILE if word])
def test_each_hostile_word_everywhere(word: str) -> None:
    for name, text in cards(dict.fromkeys(WORDS, word)).items():
        assert elements(text) == PLAIN[name]


def test_words_are_shown_as_they_are() -> None:
    """What a viewer shows is the word itself, on one line; only what would be hidden or a link looks different."""
    for word in HOSTILE:
        shown = " ".join(word.split())
        if not word.strip() or HIDDEN.search(shown) or GITHUB_LINKS.search(shown) or re.search("//|\\$\\$|\\\\[(\\[]|\u200d|\u2060", shown):
            continue
        text = cards({**{other: other for other in WORDS}, "CLASSA": word})["card"]
        said = [token.content for token in READER.parse(text) if token.type == "inline"]
        cells = ["".join(part.content for part in READER.parseInline(line)[0].children or ()) for line in said]
        assert shown in cells, word


@pytest.mark.parametrize("word", HOSTILE)
def test_words_in_programs_and_fences(word: str) -> None:
    assert ast.literal_eval(quoted(word)) == word and not HIDDEN.search(quoted(word))
    block = READER.parse(f"{fenced(word, 'text')}\n\nafter")
    assert [token.type for token in block] == ["fence", "paragraph_open", "inline", "paragraph_close"]


def test_the_terminal_gets_no_control_letters() -> None:
    words = dict.fromkeys(WORDS, "\x1b[2J\u202eevil\r\nx")
    text = summary(Report(**with_words(REPORT, words)))
    assert not HIDDEN.search(text.replace("\n", "")) and "\\x1b" in text


@pytest.mark.parametrize("kind", ["card", "report"])
def test_a_word_let_through_would_be_noticed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_datadiet.cells.inline", lambda text: text)
    assert elements(cards(dict.fromkeys(WORDS, "<b>"))[kind]) != PLAIN[kind]


def test_every_word_is_printed() -> None:
    """Else the tests above would show nothing of it."""
    text = cards({word: word for word in WORDS})["card"]
    assert [word for word in WORDS if word not in text] == []
