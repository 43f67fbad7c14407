"""Does memory stay put as the dataset grows? Peak memory of scoring 10,000 and 200,000 rows, each in a process of its own.

The rows are scikit-learn's digits again and again, saved to disk, so that Arrow and the decoded pixels are memory maps. What counts is
memory that the system cannot take back (RssAnon of /proc/self/status, sampled); mapped files are shown beside it. The arrays that grow
with N by design are listed with their bytes per row, and taken off.

    python -m benchmarks.memory          (Linux; about 6 minutes on one core)
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
from datasets import Dataset, concatenate_datasets

from hf_datadiet.catalogue import recipes_folder
from hf_datadiet.hub.samples import SAMPLES
from hf_datadiet.recipe_yaml import load_recipe
from hf_datadiet.score import score_run
from hf_datadiet.store import RunFolder
from hf_datadiet.training.session import open_session

SIZES = (10_000, 200_000)
EPOCHS, SEEDS = 1, 2
SCORES = ("el2n", "forgetting")

PER_ROW = {
    "example ids, labels, positions (int64, int32)": 8 * 4 + 4 * 3,
    "observed scores of each seed, and read back (float32)": 2 * SEEDS * 4,
    "accumulators of forgetting: four columns of a seed (float32, bool)": 16,
    "predicted classes (int32) and p(label) (float16) of each seed, and read back": 2 * SEEDS * (4 + 2),
    "three columns of forgetting of each seed, and read back": 2 * SEEDS * 3 * 4,
    "the table: mean, standard error, per seed (float32, 4 columns)": 4 * (SEEDS + 2) * 4,
    "one column in float64 with its ranks, while the statistics are taken": 6 * SEEDS * 8,
    "the parquet files while they are written (scores and seeds)": 4 * (2 * 4 + SEEDS * 4) + SEEDS * 16,
}
"""Bytes per row of what is one number per example, per seed and score: it is the result, and lies in memory."""


def main() -> None:
    """Print a Markdown table of both sizes, the list of what grows, and the ratio of what remains."""
    if len(sys.argv) == 3:
        return score(Path(sys.argv[1]), Path(sys.argv[2]))
    digits: Dataset = SAMPLES["digits"]()["train"]
    found: dict[int, tuple[float, float]] = {}
    for size in SIZES:
        with tempfile.TemporaryDirectory() as temporary:
            repeated = concatenate_datasets([digits] * -(-size // len(digits))).select(range(size)).flatten_indices()
            repeated.save_to_disk(Path(temporary) / "data")
            command = [sys.executable, "-m", "benchmarks.memory", str(Path(temporary) / "data"), str(Path(temporary) / "run")]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            anonymous, mapped = map(float, done.stdout.split()[-2:])
            found[size] = anonymous, mapped
    grows = sum(PER_ROW.values())
    print("| rows | peak, MiB | of it arrays that grow by design | the rest | mapped files beside it |\n|---:|---:|---:|---:|---:|")
    rest = [found[size][0] - size * grows / 2**20 for size in SIZES]
    for size, remaining in zip(SIZES, rest, strict=True):
        print(f"| {size:,} | {found[size][0]:.0f} | {size * grows / 2**20:.0f} | {remaining:.0f} | {found[size][1]:.0f} |")
    print(f"\nThe rest grows by {100 * (rest[1] / rest[0] - 1):.1f} %.\n\n| array | bytes per row |\n|---|---:|")
    print("\n".join(f"| {name} | {size} |" for name, size in PER_ROW.items()))


def score(data: Path, out: Path) -> None:
    """Score a dataset and print the highest RssAnon and RssFile seen, in MiB."""
    peak, stop = {"RssAnon": 0, "RssFile": 0}, threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            for name in peak:
                peak[name] = max(peak[name], int(status[name].split()[0]))

    threading.Thread(target=watch, daemon=True).start()
    asked = {
        "source": f"{{path: {data}}}",
        "score.scores": f"[{', '.join(SCORES)}]",
        "score.seeds": SEEDS,
        "score.epochs": EPOCHS,
        "score.observe_at": "[]",
    }
    recipe = load_recipe(recipes_folder() / "digits.yaml", [f"{key}={value}" for key, value in asked.items()])
    table = score_run(open_session(recipe, RunFolder(out), command="benchmarks/memory.py"))
    stop.set()
    assert np.isfinite(table.columns["el2n"].mean).all()
    print(*(value / 1024 for value in peak.values()))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
