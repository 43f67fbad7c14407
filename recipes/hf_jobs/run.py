# A whole run on Hugging Face Jobs, on all GPUs of the machine that is hired.
# Command: hf jobs uv run --flavor l4x4 --timeout 4h --attempts 3 -v hf://buckets/ME/runs:/runs recipes/hf_jobs/run.py digits
# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-datadiet"]
# ///
"""Score, prune and evaluate as hf-datadiet run does, with the run folder in a bucket: it outlives the job, and a next job goes on.

Nothing is pushed. RECIPE comes with the package, or lies in a mounted folder: -v ./recipes:/recipes, then /recipes/mine.yaml. Data too
may be mounted: -v hf://datasets/ME/cifar10:/data, then source.path=/data; for a repository that is not public add --secrets HF_TOKEN.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from hf_datadiet.cli import main


def command() -> list[str]:
    """The words of hf-datadiet that this job stands for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("/runs"), help="where the bucket is mounted; default /runs")
    parser.add_argument("recipe", metavar="RECIPE", help="name or path of a recipe")
    parser.add_argument("words", metavar="...", nargs=argparse.REMAINDER, help="what else hf-datadiet run takes: score.epochs=5")
    given = parser.parse_args()
    if not given.runs.is_dir():
        parser.error(
            f"nothing is mounted at {given.runs}, and the results would end with the job; add -v hf://buckets/ME/NAME:{given.runs}"
        )
    out = given.runs / Path(given.recipe).stem
    return ["run", given.recipe, "--out", str(out), "--num-processes", str(max(1, torch.accelerator.device_count())), *given.words]


if __name__ == "__main__":
    sys.argv[1:] = command()
    main()
