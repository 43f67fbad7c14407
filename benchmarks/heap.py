"""What does it bring to keep the memory of a training step? A small convolutional network on one thread, with and without.

Processes of both kinds take turns; then two at a time, which is how seeds are trained side by side.

    python -m benchmarks.heap
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import torch
from torch import nn

from hf_datadiet.training.heap import keep_memory

ROUNDS, STEPS = 3, 300


def trained(kept: bool) -> float:
    """Seconds of some training steps in this process."""
    if kept:
        keep_memory()
    torch.set_num_threads(1)
    layers = [layer for _ in range(3) for layer in (nn.LazyConv2d(32, 3, padding=1), nn.ReLU())]
    model, images = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(10)), torch.randn(64, 1, 16, 16)
    model(images)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    start = time.perf_counter()
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()
    return time.perf_counter() - start


def side_by_side(kept: bool, n: int) -> float:
    """Mean seconds of n processes that run at the same time."""
    command = [sys.executable, "-m", "benchmarks.heap", "kept" if kept else "given back"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(n)]
    return statistics.mean(float(process.communicate()[0]) for process in running)


def main() -> None:
    """Print a Markdown table of medians."""
    if len(sys.argv) > 1:
        print(trained(sys.argv[1] == "kept"))
        return
    print("| processes | given back, s | kept, s | ratio of the medians |\n|---:|---:|---:|---:|")
    for n in (1, 2):
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(ROUNDS):
            for kept, taken in seconds.items():
                taken.append(side_by_side(kept, n))
        given, kept_ = statistics.median(seconds[False]), statistics.median(seconds[True])
        print(f"| {n} | {given:.1f} | {kept_:.1f} | {given / kept_:.2f} |", flush=True)


if __name__ == "__main__":
    main()
