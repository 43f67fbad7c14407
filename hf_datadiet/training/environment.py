"""What the results were made with, in words that may be published: no path, user or host name."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version

import torch

from hf_datadiet.records import Provenance
from hf_datadiet.training.processes import accelerator

PACKAGES = ("hf-datadiet", "torch", "timm", "transformers", "accelerate", "datasets", "numpy")


def provenance(recipe_digest: str, command: str, device: torch.device) -> Provenance:
    """Recipe, command, versions, hardware and time of what is about to be made."""
    hardware = {"device": device.type, "cpu_cores": str(os.cpu_count()), "machine": platform.machine(), "system": platform.system()}
    if device.type == "cuda":
        hardware["gpu"] = torch.cuda.get_device_name(device)
    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    return Provenance(recipe_digest, command, versions, hardware, datetime.now(UTC).isoformat(timespec="seconds"))


def device_of(rank: int | None) -> torch.device:
    """The device of worker process `rank`: GPUs in turn; without a rank, or without several GPUs, this process's own device."""
    device = accelerator().device
    return device if rank is None or device.type != "cuda" else torch.device("cuda", rank % torch.cuda.device_count())
