"""Several processes train one model together: what they find is what one process finds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_datadiet.durable import read_safetensors
from hf_datadiet.store import RunFolder
from hf_datadiet.training.together import ALONE, BATCH_NORM
from tests.distributed import one_of_several
from tests.distributed.shared_trainings import CASES, SHARDED, WITH_CHANCE, Arrays, result_of
from tests.training.toy import toy_feed

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def launch(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """(n, what n processes started by torchrun left)."""
    folder = tmp_path_factory.mktemp("launch")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(request.param)]
    done = subprocess.run(
        [*torchrun, str(one_of_several.__file__), str(folder)],
        cwd=ROOT,
        env={**__import__("os").environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    assert "Warning" not in done.stderr, done.stderr[-5000:]
    return request.param, folder


@pytest.fixture(scope="module")
def alone() -> dict[str, Arrays]:
    return {name: result_of(case, 1) for name, case in (CASES | WITH_CHANCE).items()}


def found(launch: tuple[int, Path], rank: int, name: str) -> Arrays:
    return dict(read_safetensors(launch[1] / str(rank) / f"{name}.safetensors")[0])


def said(launch: tuple[int, Path]) -> list[dict[str, Any]]:
    return [json.loads((launch[1] / str(rank) / "said.json").read_text()) for rank in range(launch[0])]


@pytest.mark.parametrize("name", [*CASES, *(f"{name}, sharded" for name in SHARDED if name in CASES)])
def test_as_one_process(launch: tuple[int, Path], alone: dict[str, Arrays], name: str) -> None:
    seen = found(launch, 0, name)
    expected = {key: values for key, values in alone[name.removesuffix(", sharded")].items() if "sharded" not in name or "grand" not in key}
    assert set(seen) == set(expected)
    for key, values in expected.items():
        assert seen[key].dtype == values.dtype and seen[key].shape == values.shape, key
        np.testing.assert_allclose(seen[key], values, rtol=1e-4, atol=1e-5, err_msg=key)
    for key in ("forgetting", "forgetting_events", "never_learned"):
        assert np.array_equal(seen[key], expected[key]), key
    # The comparison is of models that have learned something.
    assert any(not np.allclose(values, expected[key.replace("/3", "/0")]) for key, values in expected.items() if key == "el2n/3")


@pytest.mark.parametrize("name", [*CASES, *WITH_CHANCE, *(f"{name}, sharded" for name in SHARDED)])
def test_all_processes_hold_the_same_bits(launch: tuple[int, Path], name: str) -> None:
    first = found(launch, 0, name)
    for rank in range(1, launch[0]):
        other = found(launch, rank, name)
        assert set(other) == set(first)
        assert all(np.array_equal(other[key], values) for key, values in first.items())


def test_dropout_draws_other_masks(launch: tuple[int, Path], alone: dict[str, Arrays]) -> None:
    seen, expected = found(launch, 0, "dropout"), alone["dropout"]
    np.testing.assert_allclose(seen["el2n/0"], expected["el2n/0"], rtol=1e-4, atol=1e-5)
    assert not np.allclose(seen["steps"][:10], expected["steps"][:10], atol=1e-2)
    noise = [words["noise"] for words in said(launch)]
    assert len({draw for draws in noise for draw in draws}) == 2 * launch[0]
    # A resumed training draws the same at the same step.
    assert all(first == again for first, _, again in noise)


def test_all_hear_of_a_flag_at_the_same_step(launch: tuple[int, Path]) -> None:
    for words in said(launch):
        assert words["world"] == launch[0]
        assert words["any"] == [False] * 4 + [True] + [False] * 2


def test_all_leave_together(launch: tuple[int, Path]) -> None:
    *others, last = said(launch)
    assert last["failed"] == "RecipeError: mine failed"
    for words in others:
        assert words["failed"].startswith("RecipeError") and "another process" in words["failed"]
    assert all(words["well"] is None for words in said(launch))


def test_one_process_out_of_memory(launch: tuple[int, Path]) -> None:
    *others, last = said(launch)
    expected = one_of_several.observed(ALONE, toy_feed())
    for words in said(launch):
        np.testing.assert_allclose(words["small"]["el2n"], expected["el2n"], rtol=1e-5, atol=1e-6)
        assert words["small"]["batch_size"] == 2
    assert "one row alone does not fit" in last["none fits"]
    assert all("another process of this launch failed" in words["none fits"] for words in others)


def test_all_notice_that_a_training_diverged(launch: tuple[int, Path]) -> None:
    # The same error everywhere: the other seeds go on.
    assert all(words["not finite"].startswith("DivergedError") for words in said(launch))


def test_every_id_exactly_once(launch: tuple[int, Path]) -> None:
    for words in said(launch):
        assert words["coverage"].startswith("CoverageError") and "10 (2 times), 60 (0 times)" in words["coverage"]
        assert words["together"] == [0, 1, 2, 3, 4, 5]


def test_a_row_alone_is_too_little_for_batch_norm(launch: tuple[int, Path]) -> None:
    for words in said(launch):
        assert f"task.training.batch_size={2 * launch[0]}" in words["batch norm"]


@pytest.mark.parametrize("launch", [2], indirect=True)
@pytest.mark.parametrize("name", ["run", "sharded"])
def test_a_run_with_batch_norm(launch: tuple[int, Path], name: str) -> None:
    folder, key = RunFolder(launch[1] / name), {"run": "session", "sharded": "sharded session"}[name]
    plan = folder.plan()
    assert plan is not None and (plan.parallel, plan.world, plan.batch_norm) == ("data", 2, BATCH_NORM)
    assert plan.sharded == (name == "sharded")
    first, second = (words[key] for words in said(launch))
    assert first == second and "parallel=data" in first["refused"] and np.isfinite(first["el2n"]).all()
    np.testing.assert_allclose(first["el2n"], said(launch)[0]["session"]["el2n"], rtol=1e-4, atol=1e-5)
    assert first["forgetting"] == said(launch)[0]["session"]["forgetting"]
    result = folder.load_seed(0, with_weights=True)
    assert any("running_mean" in key and np.abs(values).sum() > 0 for key, values in result.weights[2].items())
    expected = RunFolder(launch[1] / "run").load_seed(0, with_weights=True).weights[2]
    assert {key: values.shape for key, values in result.weights[2].items()} == {key: values.shape for key, values in expected.items()}


@pytest.mark.parametrize("launch", [2], indirect=True)
def test_an_arm_of_an_evaluation(launch: tuple[int, Path], tmp_path: Path) -> None:
    expected, _ = one_of_several.an_arm(tmp_path, 1)
    first, second = ({**words["arm"], "seconds": 0} for words in said(launch))
    assert first == second
    assert [first] * 2 == [{**words["resumed arm"], "seconds": 0} for words in said(launch)], "having died after the first epoch"
    assert first["predicted"] == expected.predicted.tolist() and len(set(first["predicted"])) > 1
    np.testing.assert_allclose(first["p_label"], expected.p_label, rtol=1e-3, atol=1e-3)
    assert first["metrics"] == expected.metrics and first["steps"] == 5
    assert expected.weights and set(first["weights"]) == set(expected.weights)
    for name, values in expected.weights.items():
        np.testing.assert_allclose(first["weights"][name], values.ravel(), rtol=1e-3, atol=1e-4)
