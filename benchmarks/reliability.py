"""Is `reliability` what it says? The agreement with other seeds, predicted from 4 seeds and measured with 4 more.

16 seeds on digits, as they are and with a tenth of the labels wrong; means over 24 draws of 4 seeds and 4 others. "pairs" is
the classical formula: Spearman-Brown of the mean correlation of single seeds.

    python -m benchmarks.reliability [KEY=VALUE]...
"""

from __future__ import annotations

import sys
import tempfile

import numpy as np

from hf_datadiet import stats
from hf_datadiet.catalogue import recipes_folder
from hf_datadiet.recipe_yaml import load_recipe
from hf_datadiet.records import ScoreTable
from hf_datadiet.score import score_run
from hf_datadiet.store import RunFolder
from hf_datadiet.training.session import open_session

SEEDS, TAKEN, DRAWS = 16, 4, 24
SCORES = ("score.scores=[el2n, grand, loss, forgetting]", f"score.seeds={SEEDS}", "score.keep_weights=none")
RUNS = {
    "digits, epochs 1 to 4": ("score.epochs=4", "score.observe_at=[1, 2]"),
    "digits with 10 % wrong labels, epochs 1 to 3": ("score.epochs=3", "score.observe_at=[1, 2]", "source.label_noise={fraction: 0.1}"),
}


def main() -> None:
    """Print a Markdown table for each run, a row for each score column that depends on a seed."""
    for title, asked in RUNS.items():
        recipe = load_recipe(recipes_folder() / "digits.yaml", [*SCORES, *asked, *sys.argv[1:]])
        with tempfile.TemporaryDirectory() as temporary:
            table = score_run(open_session(recipe, RunFolder(temporary), command="benchmarks/reliability.py"))
        print(f"\n{title}\n\n| score | measured | s.d. over draws | reliability | pairs |\n|---|---:|---:|---:|---:|")
        print("\n".join(rows(table)))


def rows(table: ScoreTable) -> list[str]:
    """One line per score."""
    rng, lines = np.random.default_rng(0), list[str]()
    for name, column in table.columns.items():
        if column.reliability is None or column.per_seed is None:
            continue
        values = column.per_seed[:, np.isfinite(column.per_seed).all(axis=0)]
        found: list[tuple[float | None, ...]] = []
        for _ in range(DRAWS):
            order = rng.permutation(len(values))
            one, other = values[order[:TAKEN]], values[order[TAKEN : 2 * TAKEN]]
            pair = stats.mean_pairwise(one)
            measured = stats.spearman(one.mean(axis=0), other.mean(axis=0))
            found.append((measured, stats.reliability(one), None if pair is None else stats.spearman_brown(pair, TAKEN)))
        agreement, predicted, pairs = np.array(found, dtype=np.float64).T
        lines.append(f"| {name} | {agreement.mean():.3f} | {agreement.std():.3f} | {predicted.mean():.3f} | {pairs.mean():.3f} |")
    return lines


if __name__ == "__main__":
    main()
