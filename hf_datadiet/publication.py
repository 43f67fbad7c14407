"""What a publication is beside its report: where it goes, what it may show, what lies beside the numbers. Plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Example:
    """One row that is shown. `value`: its score; `image`: the path of its picture inside the repository."""

    example_id: int
    label: str | None
    value: float
    text: str | None = None
    image: str | None = None


@dataclass(frozen=True)
class Examples:
    """The two ends of one score, the very end first."""

    column: str
    hardest: tuple[Example, ...]
    easiest: tuple[Example, ...]


@dataclass(frozen=True)
class Publication:
    """All that a card says beyond its report; with the report it makes the card again, letter by letter.

    `scores` and `variants`: rows of each split, of the config `scores` and of those that are published now ({config: {split: rows}});
    `held_out`: the split with the rows that were held out of the scored one; `earlier`: configs of earlier publications, which stay as
    they are. `held_rows`: whether this or an earlier commit has rows of the source. `source_repo`: the source, where it is a dataset on the
    Hub; `source_license`: what its card says, `asserted_license`: what the user vouches for. `ids_only`: variants hold ids and scores, and
    nothing else of the source; `prefix` stands before the names of scores.
    `definitions` and `strategies`: the docstring of each score and strategy (`registry.definitions`).
    `models`: {selection: repository of a model trained on it}. `pictures`: paths inside the repository. `recipe`: likewise.
    """

    repo: str
    scores: Mapping[str, int]
    variants: Mapping[str, Mapping[str, int]]
    command: str
    recipe: str
    source_repo: str | None = None
    source_license: tuple[str, ...] = ()
    asserted_license: str | None = None
    source_private: bool = False
    source_gated: bool = False
    ids_only: bool = False
    prefix: str = ""
    held_rows: bool = False
    held_out: str | None = None
    earlier: tuple[str, ...] = ()
    definitions: Mapping[str, str] = field(default_factory=dict)
    strategies: Mapping[str, str] = field(default_factory=dict)
    examples: tuple[Examples, ...] = ()
    models: Mapping[str, str] = field(default_factory=dict)
    pictures: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Publication:
        """From what `json` reads of `dataclasses.asdict`; `TypeError` for keys that are too many or missing."""
        lists = {name: tuple(values.get(name, ())) for name in ("source_license", "earlier", "pictures")}
        return cls(**{**values, **lists, "examples": tuple(map(_examples, values.get("examples", ())))})


def _examples(values: Mapping[str, Any]) -> Examples:
    ends = {end: tuple(Example(**row) for row in values[end]) for end in ("hardest", "easiest")}
    return Examples(**{**values, **ends})


@dataclass(frozen=True)
class Asked:
    """How a run is to be published.

    `to`: the dataset repository; `push`: send it; `public`: for everybody; `ids_only`: no column of the source; `asserted`: a licence under
    which the user says that the rows may be shared; `examples`: show rows in the card (None: where everybody may read the source);
    `models`: also a model of each selection; `create_pr`: as a pull request; `dry_run`: say what would be sent, and send nothing;
    `prefix`: before the names of the score columns; `out`: where the tree is written (None: RUN/published).
    """

    to: str
    push: bool = False
    public: bool = False
    ids_only: bool = False
    asserted: str | None = None
    examples: bool | None = None
    models: bool = False
    create_pr: bool = False
    dry_run: bool = False
    prefix: str = ""
    out: Path | None = None
