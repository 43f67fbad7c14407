"""What the literature says of selections, asked of a slice of CIFAR-10 with a small network: paper protocol, fresh seeds, last epoch.

One-sided tests (Welch's t over trainings) of three findings that have been reproduced before, and two-sided intervals of what is
reported whatever comes out. Two runs, `clean` and `noisy` (a tenth of the labels flipped): 4 scoring seeds, 8 evaluation seeds of each
arm, as many steps for every arm. An interrupted one goes on where it stopped.

    DATADIET_DATA=FOLDER python -m benchmarks.evidence [clean|noisy] [KEY=VALUE]...     (FOLDER holds cifar10/)
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from scipy.stats import ttest_ind

from hf_datadiet.catalogue import recipes_folder
from hf_datadiet.records import UNLABELLED, EvaluationTable, ScoreTable
from hf_datadiet.stats import spearman
from hf_datadiet.store import RunFolder

RUNS = Path("runs/evidence")
ROWS = 5000
COMMON = (
    f"source.limit={ROWS}",
    "score.observe_at=[0]",
    "score.scores=[el2n, grand, forgetting, aum, input_norm]",
    "score.keep_weights=none",
    "evaluate.seeds=8",
    "evaluate.match=steps",
)
PRUNE = {
    "clean": (
        "{name: el2n-70, score: el2n, strategy: hardest, keep: 0.7}",
        "{name: el2n-50, score: el2n, strategy: hardest, keep: 0.5}",
        "{name: grand-init-50, score: grand_e0, strategy: hardest, keep: 0.5}",
        "{name: el2n-10, score: el2n, strategy: hardest, keep: 0.1}",
        # The cut that its authors publish for this budget (`selectors/coverage.py`).
        "{name: ccs-10, score: aum, strategy: coverage, cut: 0.3, keep: 0.1}",
    ),
    "noisy": (
        # The budget of the paper's Figure 2; its window starts where it does best, here it leaves out half as much again as is flipped.
        "{name: el2n-40, score: el2n, strategy: hardest, keep: 0.4}",
        "{name: window-40, score: el2n, strategy: window, skip: 0.15, keep: 0.4}",
    ),
}
NOISE = {"clean": (), "noisy": ("source.label_noise={fraction: 0.1}",)}
TESTS = {"clean": (("random-500", "el2n-10"), ("random-2500", "grand-init-50")), "noisy": (("window-40", "el2n-40"),)}
"""(arm, other): the arm is expected to be better."""
REPORTED = {
    "clean": (
        ("el2n-50", "random-2500"),
        ("el2n-70", "random-3500"),
        ("ccs-10", "el2n-10"),
        ("stratified-500", "el2n-10"),
        ("ccs-10", "random-500"),
        ("el2n-50", "full"),
    ),
    "noisy": (("window-40", "random-2000"), ("window-40", "full")),
}
CORRELATIONS = (("el2n", "grand"), ("grand_e0", "el2n"), ("grand_e0", "input_norm"), ("el2n", "forgetting"), ("el2n_e0", "el2n"))


def main() -> None:
    """Score, prune and evaluate; print the tables."""
    if "DATADIET_DATA" not in os.environ:
        print("evidence: skipped, set DATADIET_DATA to the folder that holds cifar10/")
        return
    words = sys.argv[1:]
    for name in [word for word in words if word in PRUNE] or list(PRUNE):
        folder = RUNS / name
        prune = f"prune=[{', '.join(PRUNE[name])}]"
        recipe = str(recipes_folder() / "cifar10-quick.yaml")
        asked = [*COMMON, *NOISE[name], prune, *(word for word in words if word not in PRUNE)]
        command = [sys.executable, "-m", "hf_datadiet", "run", recipe, "--out", str(folder), "--num-processes", "2", *asked]
        if subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode:
            sys.exit(1)
        run = RunFolder(folder)
        print(f"## {name}\n")
        show(name, run.load_evaluation("main"))
        correlate(run.load_scores())


def show(name: str, table: EvaluationTable) -> None:
    """Accuracies, tests and differences, in points."""
    points = {arm: 100 * table.metric(arm) for arm in table.arms}
    print(f"{table.n_seeds} trainings of each arm on {ROWS} rows or some of them, {table.test_id.size} test rows\n")
    print("| trained on | accuracy, % | s.d. |\n|---|---:|---:|")
    for arm, values in points.items():
        print(f"| {arm} | {values.mean():.2f} | {values.std(ddof=1):.2f} |")
    print("\n| expected | difference, points | one-sided p |\n|---|---:|---:|")
    for arm, other in TESTS[name]:
        found = ttest_ind(points[arm], points[other], equal_var=False, alternative="greater")
        print(f"| {arm} > {other} | {points[arm].mean() - points[other].mean():+.2f} | {found.pvalue:.2g} |")
    print("\n| reported | difference, points | 95 % interval |\n|---|---:|---|")
    for arm, other in REPORTED[name]:
        interval = ttest_ind(points[arm], points[other], equal_var=False).confidence_interval(0.95)
        print(f"| {arm} - {other} | {points[arm].mean() - points[other].mean():+.2f} | {interval.low:+.2f} to {interval.high:+.2f} |")


def correlate(table: ScoreTable) -> None:
    """Rank correlations of means over seeds."""
    labelled = table.label != UNLABELLED
    print("\n| a | b | Spearman |\n|---|---|---:|")
    for a, b in CORRELATIONS:
        values = (table.column(column).mean[labelled].astype(np.float64) for column in (a, b))
        print(f"| {a} | {b} | {spearman(*values):.3f} |")
    print()


if __name__ == "__main__":
    main()
