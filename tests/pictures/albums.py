"""Reports made by hand that are hard to draw."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from hf_datadiet import stats
from hf_datadiet.records import Report, ScoreTable
from hf_datadiet.report import build_report
from hf_datadiet.selection import select
from tests.synthetic import PROVENANCE, arm, column, evaluation, score_table

TASK = {"model": "timm:test_resnet", "epochs": 3, "score_epochs": 2, "batch_size": 8}

HOSTILE = (
    "a_b$c^d",
    "_hidden",
    "naïve 中文 class",
    "אבג عربي",
    "\\frac{1}{2}$\\alpha$",
    "%d {x} \x1b[31m",
    "🐈" * 5,
    "",
    "x" * 80,
    "\u202eabc",
    "l1\nl2",
    "&<b>",
)
"""Names that would be formulas, markup, commands of a terminal or other directions of writing, or that no font has."""


def table_of(n: int = 600, seeds: int = 6, classes: tuple[str, ...] = ("cat", "dog", "ship")) -> ScoreTable:
    """Four scores of n rows: el2n and grand skewed, margin easy when high, counts."""
    rng = np.random.default_rng(1)
    label = np.arange(n) % len(classes)
    base = rng.normal(size=n) + label / len(classes)
    noisy = base + 0.6 * rng.normal(size=(seeds, n))
    made = {"el2n": np.exp(2 * noisy), "grand": np.exp(3 * noisy), "margin": -np.tanh(noisy), "forgetting": np.floor(np.abs(noisy))}
    columns = {
        name: column(values, label, score=name, reliability=stats.reliability(values), higher_is="easier" if name == "margin" else "harder")
        for name, values in made.items()
    }
    return replace(score_table(n, tuple(range(seeds)), label=label, classes=classes), columns=columns)


def album(
    table: ScoreTable, *, strategies: tuple[dict[str, Any], ...] = ({},), budgets: tuple[float, ...] = (0.5,), n_seeds: int = 4
) -> Report:
    """A report of selections by each strategy at each budget, all judged; accuracies are made up, and fall with the rows."""
    rng = np.random.default_rng(2)
    chosen = [
        select(
            table,
            name=f"{about.get('strategy', 'hardest')}-{100 * keep:.0f}",
            keep=keep,
            provenance=PROVENANCE,
            **{"score": "el2n", **about},
        )
        for about in strategies
        for keep in budgets
    ]
    n = table.example_id.size
    sizes = {"full": n} | {each.name: each.kept.size for each in chosen}
    sizes |= {f"{kind}-{size}": size for size in {each.kept.size for each in chosen} for kind in ("random", "stratified")}
    label = (np.arange(400) % len(table.source.classes)).astype(np.int32)
    results = tuple(
        arm(name, 10_000 + seed, rng.random(400) < 0.95 - 0.3 * (1 - size / n) ** 2, label, n_rows=size)
        for name, size in sizes.items()
        for seed in range(n_seeds)
    )
    plain = evaluation(right={name: (0,) * n_seeds for name in sizes}, n_seeds=n_seeds)
    judged = replace(
        plain, arm_selections={each.name: each.name for each in chosen}, test_id=np.arange(400), test_label=label, results=results
    )
    return build_report(table, chosen, [judged] if chosen else [], task=TASK, seed_seconds=[{"train": 1.0, "observe": 0.5}], files={})


SPREAD: tuple[dict[str, Any], ...] = ({}, {"strategy": "window", "parameters": {"skip": 0.05}}, {"strategy": "moderate", "quotas": "equal"})


def constant(table: ScoreTable) -> ScoreTable:
    """All rows score alike."""
    same = {name: replace(entry, mean=np.full_like(entry.mean, 0.25), reliability=None) for name, entry in table.columns.items()}
    return replace(table, columns=same)


ALBUMS: dict[str, Any] = {
    "plain": lambda: album(table_of()),
    "three strategies at four budgets": lambda: album(table_of(), strategies=SPREAD, budgets=(0.1, 0.3, 0.5, 0.7)),
    "hostile names": lambda: album(table_of(classes=HOSTILE), strategies=SPREAD),
    "a thousand classes": lambda: album(table_of(4000, classes=tuple(f"n{number:08}" for number in range(1000)))),
    "a single class": lambda: album(table_of(classes=("only",))),
    "equal scores": lambda: album(constant(table_of())),
    "few rows": lambda: album(table_of(6)),
    "one seed": lambda: album(table_of(seeds=1), n_seeds=1),
    "two seeds": lambda: album(table_of(seeds=2), n_seeds=2),
    "scores alone": lambda: album(table_of(), strategies=()),
}
