"""What each process of a launch does in test_data_parallel.py: python one_of_several.py FOLDER."""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hf_datadiet import registry
from hf_datadiet.durable import write_json, write_safetensors
from hf_datadiet.errors import CoverageError, DataDietError, RecipeError
from hf_datadiet.records import ArmResult
from hf_datadiet.score import score_run
from hf_datadiet.training.feed import Feed
from hf_datadiet.training.observe import observe
from hf_datadiet.training.processes import processes
from hf_datadiet.training.retrain import retrain
from hf_datadiet.training.together import Together, together
from hf_datadiet.unfinished import Unfinished
from tests.distributed.shared_trainings import CASES, SHARDED, WITH_CHANCE, plan_for, result_of
from tests.training.test_memory import crowded
from tests.training.toy import small_session, toy_feed, toy_model


def main(folder: Path) -> None:
    warnings.filterwarnings("error", module=r"(torch|hf_datadiet)\..*")
    mine = processes()
    out = folder / str(mine.rank)
    for name, case in (CASES | WITH_CHANCE).items():
        write_safetensors(out / f"{name}.safetensors", result_of(case, mine.world), {})
    for name in SHARDED:
        write_safetensors(out / f"{name}, sharded.safetensors", result_of((CASES | WITH_CHANCE)[name], mine.world, sharded=True), {})
    shared = together(plan_for(mine.world))
    said = {"world": mine.world, "any": answers(shared), "noise": noise(shared), **disagreements(shared)}
    if mine.world == 2:
        said["session"] = session(folder / "run")
        said["arm"], said["resumed arm"] = (plain(arm) for arm in an_arm(folder / "arm", mine.world))
        # What accelerate launch tells its processes; the last to be looked at, for it stays.
        os.environ["ACCELERATE_USE_FSDP"] = "true"
        said["sharded session"] = session(folder / "sharded")
    write_json(out / "said.json", said)


def answers(shared: Together) -> list[bool]:
    """Of seven steps, the last process asks to stop at the fourth."""
    return [shared.any(step == 3 and shared.rank == shared.world - 1) for step in range(7)]


def noise(shared: Together) -> list[float]:
    """What the global generator draws in steps 2, 3 and 2."""
    drawn = []
    for step in (2, 3, 2):
        shared.seed_noise(5, step)
        drawn.append(float(torch.rand(())))
    return drawn


def disagreements(shared: Together) -> dict[str, Any]:
    last = shared.rank == shared.world - 1
    ids = torch.arange(10, 70, 10).numpy()
    rows = torch.arange(6)[shared.part(6)]
    values = {"x": rows.float()}
    return {
        "failed": message(lambda: shared.agree(RecipeError("mine failed") if last else None)),
        "well": message(lambda: shared.agree(None)),
        # The last process observes id 10 again instead of its last row.
        "coverage": message(lambda: shared.gather(values, torch.cat([rows[:-1], rows[:1] * 0]) if last else rows, ids)),
        "together": shared.gather(values, rows, ids)["x"].tolist(),
        "small": observed(shared, crowded(3 if last else 99)),
        "none fits": message(lambda: observed(shared, crowded(0 if last else 99))),
        "not finite": message(lambda: observed(shared, with_a_row_of(float("inf")))),
        "batch norm": message(lambda: narrow(shared)),
    }


def observed(shared: Together, feed: Feed) -> dict[str, Any]:
    """What a model of one layer says, and in which batches."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Linear(5, 3)
    scorers: Any = {"el2n": registry.find("scorers", "el2n")}
    seen = observe(model, feed, scorers, 0, plan_for(shared.world))
    return {"el2n": seen.scores["el2n"].tolist(), "batch_size": seen.batch_size}


def with_a_row_of(value: float) -> Feed:
    feed = toy_feed()
    feed.prepared[-1] = value
    return feed


def narrow(shared: Together) -> None:
    model = shared.wrap(toy_model())
    shared.backward(model, torch.nn.functional.cross_entropy, torch.zeros(3, 5), torch.zeros(3, dtype=torch.int64))


def message(work: Any) -> str | None:
    try:
        work()
    except DataDietError as error:
        kind = CoverageError if isinstance(error, CoverageError) else type(error)
        return f"{kind.__name__}: {error}"
    return None


def session(folder: Path) -> dict[str, Any]:
    """A whole scoring run of one seed on images, with a model that has BatchNorm."""
    mine = processes()
    small = {"source.limit": 40, "score.seeds": 1}
    with mine.main_first():
        ready = small_session(folder, small)
    table = score_run(ready, progress=False)
    refused = message(lambda: score_run(small_session(folder, {**small, "score.seeds": 2, "parallel": "seeds"}), progress=False))
    scores = {name: table.columns[name].mean.tolist() for name in ("el2n", "forgetting")}
    return {**scores, "refused": refused}


def an_arm(folder: Path, world: int) -> tuple[ArmResult, ArmResult]:
    """A training of an evaluation, of a model without BatchNorm; and once more, by processes that died after its first epoch."""
    mine = processes()
    ready = small_session(folder, {"task.model": "timm:test_vit", "task.crop": 0, "task.image_size": 32, "source.test.fraction": 0.03})
    feed = ready.train_feed()
    test = ready.test_feed(feed)

    def trained(unit: Unfinished) -> ArmResult:
        ids = feed.example_id[:31]
        return retrain(ready, feed, test, plan_for(world), arm="full", seed=10_000, ids=ids, steps=5, unit=unit, keep_weights=True)

    whole = trained(Unfinished(folder / "one", writes=mine.main))
    mortal = Unfinished(folder / "two", writes=mine.main)
    keep = mortal.keep

    def last(*given: Any) -> None:
        keep(*given)
        raise Killed

    mortal.keep = last
    with suppress(Killed):
        trained(mortal)
    resumed = Unfinished(folder / "two", writes=mine.main)
    mine.wait()
    assert resumed.path.joinpath("checkpoint.safetensors").exists()
    return whole, trained(resumed)


class Killed(BaseException):
    """As by a signal."""


def plain(result: ArmResult) -> dict[str, Any]:
    arrays = {"predicted": result.predicted.tolist(), "p_label": result.p_label.tolist()}
    return {**asdict(result), **arrays, "weights": {name: values.ravel().tolist() for name, values in (result.weights or {}).items()}}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
