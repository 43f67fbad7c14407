"""One finished scoring seed as a sealed folder: result.safetensors, and weights-eE.safetensors for each epoch that is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from hf_datadiet import sealed
from hf_datadiet.durable import read_safetensors, write_safetensors
from hf_datadiet.records import Provenance, RunResult

FORMAT = 2


def write_seed(folder: Path, result: RunResult) -> None:
    """All files, then the marker, then one rename. The first process to finish wins."""
    arrays = {f"observed/{name}": values for name, values in result.observed.items()}
    arrays |= {f"accumulated/{name}": values for name, values in result.accumulated.items()}
    arrays |= {"example_id": result.example_id, "predicted": result.predicted, "p_label": result.p_label}
    meta = {
        "seed": result.seed,
        "moments": list(result.moments),
        "curve": list(result.curve),
        "seconds": result.seconds,
        "provenance": dataclasses.asdict(result.provenance),
        "plan": dict(result.plan),
        "switched": {moment: dict(reasons) for moment, reasons in result.switched.items()},
    }
    about = {"format": FORMAT, "epochs": len(result.curve), "seconds": sum(result.seconds.values())}
    with sealed.appearing(folder, about) as temporary:
        write_safetensors(temporary / "result.safetensors", arrays, meta)
        for epoch, weights in result.weights.items():
            write_safetensors(temporary / f"weights-e{epoch}.safetensors", weights, {"seed": result.seed, "epoch": epoch})


def read_seed(folder: Path, remedy: str, *, with_weights: bool) -> RunResult:
    """The seed; `DamagedError` names a file that is missing or does not match its digest, and then the `remedy`."""
    sealed.check(folder, remedy)
    arrays, meta = read_safetensors(folder / "result.safetensors", remedy)
    weights: dict[int, Mapping[str, NDArray[Any]]] = {}
    for path in sorted(folder.glob("weights-e*.safetensors")) if with_weights else ():
        values, about = read_safetensors(path, remedy)
        weights[about["epoch"]] = values
    return RunResult(
        seed=meta["seed"],
        example_id=arrays["example_id"],
        moments=tuple(meta["moments"]),
        observed={name.removeprefix("observed/"): values for name, values in arrays.items() if name.startswith("observed/")},
        accumulated={name.removeprefix("accumulated/"): values for name, values in arrays.items() if name.startswith("accumulated/")},
        predicted=arrays["predicted"],
        p_label=arrays["p_label"],
        curve=tuple(meta["curve"]),
        seconds=meta["seconds"],
        weights=weights,
        provenance=Provenance(**meta["provenance"]),
        plan=meta["plan"],
        switched=meta["switched"],
    )
