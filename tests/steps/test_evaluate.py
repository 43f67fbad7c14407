"""PRUNE and EVALUATE end to end: resumed training by training, refused for other rows."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from hf_datadiet import evaluate
from hf_datadiet.errors import RecipeError, StaleRecordError
from hf_datadiet.identity import digest_of
from hf_datadiet.prune import prune_run
from hf_datadiet.recipe import FIRST_EVALUATION_SEED, PruneSpec, Recipe
from hf_datadiet.records import EvaluationTable, Selection
from hf_datadiet.score import score_run
from hf_datadiet.store import RunFolder
from hf_datadiet.training.redrawn import Redrawn, rows_digest
from hf_datadiet.training.session import open_session
from tests.steps.death import dying_at_rename
from tests.steps.test_score import recipe

ARMS = ["full", "keep-50", "random-40", "stratified-40"]


def asked(**overrides: Any) -> Recipe:
    return recipe(**{"evaluate__seeds": 2, **overrides})


def prune(folder: Path, **spec: Any) -> Selection:
    return prune_run(RunFolder(folder), PruneSpec(**{"name": "keep-50", "score": "el2n", "keep": 0.5, **spec}), command="test")


def run(folder: Path, **overrides: Any) -> EvaluationTable:
    return evaluate.evaluate_run(open_session(asked(**overrides), RunFolder(folder), command="test"), progress=False)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pruned") / "run"
    score_run(open_session(asked(), RunFolder(folder), command="test"), progress=False)
    prune(folder)
    return folder


@pytest.fixture
def folder(pruned: Path, tmp_path: Path) -> Path:
    """A scored and pruned run to work on."""
    shutil.copytree(pruned, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def whole(pruned: Path, tmp_path_factory: pytest.TempPathFactory) -> EvaluationTable:
    """An evaluation that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(pruned, folder)
    return run(folder)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, tuple[int, ...]]]:
    """Arm, seed and rows of each training from now on."""
    seen: list[tuple[str, int, tuple[int, ...]]] = []
    original = evaluate.retrain

    def counting(*given: Any, arm: str, seed: int, ids: Any, **named: Any) -> Any:
        seen.append((arm, seed, tuple(ids.tolist())))
        return original(*given, arm=arm, seed=seed, ids=ids, **named)

    monkeypatch.setattr(evaluate, "retrain", counting)
    return seen


def same(one: EvaluationTable, two: EvaluationTable) -> bool:
    """Every prediction of every training, bit for bit."""
    pairs = list(zip(one.results, two.results, strict=True))
    return all(
        (a.arm, a.seed, a.train_ids_digest, a.metrics) == (b.arm, b.seed, b.train_ids_digest, b.metrics)
        and np.array_equal(a.predicted, b.predicted)
        and np.array_equal(a.p_label, b.p_label)
        for a, b in pairs
    )


def test_arms_seeds_and_rows(folder: Path, whole: EvaluationTable, trained: list[tuple[str, int, tuple[int, ...]]]) -> None:
    table = run(folder)
    assert same(table, whole)
    assert list(table.arms) == ARMS and table.arm_selections == {"keep-50": "keep-50"}
    seeds = [FIRST_EVALUATION_SEED, FIRST_EVALUATION_SEED + 1]
    assert sorted((arm, seed) for arm, seed, _ in trained) == sorted(itertools.product(ARMS, seeds))
    rows = {(arm, seed): set(ids) for arm, seed, ids in trained}
    scored = RunFolder(folder).load_scores()
    assert rows["full", seeds[0]] == set(scored.example_id.tolist())
    assert rows["keep-50", seeds[0]] == rows["keep-50", seeds[1]] == set(RunFolder(folder).load_selection("keep-50").kept.tolist())
    for arm in ("random-40", "stratified-40"):
        assert len(rows[arm, seeds[0]]) == 40 and rows[arm, seeds[0]] != rows[arm, seeds[1]]
    label = dict(zip(scored.example_id.tolist(), scored.label.tolist(), strict=True))
    drawn = np.bincount([label[row] for row in rows["stratified-40", seeds[0]]], minlength=10)
    everything = np.bincount(scored.label, minlength=10)
    assert (abs(drawn - everything / 2) <= 0.5).all()
    # Held-out rows are in no arm, and are all predicted.
    assert not set(table.test_id.tolist()) & rows["full", seeds[0]] and table.test_id.size == 36
    for result in table.results:
        assert result.train_ids_digest == digest_of([np.array(sorted(rows[result.arm, result.seed]), np.int64)])


def test_redrawn_arms_take_as_many_steps_and_change_no_other(folder: Path, whole: EvaluationTable) -> None:
    table = run(folder, evaluate__redrawn=True)
    assert list(table.arms) == [*ARMS, "redrawn-40"] and "redrawn-40" not in table.arm_selections
    drawn = [result for result in table.results if result.arm == "redrawn-40"]
    fixed = [result for result in table.results if result.arm == "random-40"]
    assert [(a.n_rows, a.steps, a.epochs) for a in drawn] == [(b.n_rows, b.steps, b.epochs) for b in fixed]
    labelled = RunFolder(folder).load_scores().example_id
    assert [result.train_ids_digest for result in drawn] == [rows_digest(Redrawn(labelled, 40, r.seed), r.epochs) for r in drawn]
    assert same(replace(table, arms=whole.arms, results=tuple(each for each in table.results if each.arm != "redrawn-40")), whole)
    # Finished ones are recognised, and a training on other rows under that name is not.
    path = RunFolder(folder).arm_path("main", "redrawn-40", drawn[0].seed)
    before = path.read_bytes()
    assert same(run(folder, evaluate__redrawn=True), table) and path.read_bytes() == before
    assert same(run(folder), table), "an arm that was trained stays, also where it is not asked for"
    path.unlink()
    RunFolder(folder).save_arm("main", replace(drawn[0], train_ids_digest=fixed[0].train_ids_digest), table.test_id)
    with pytest.raises(StaleRecordError, match="trained arm redrawn-40 on other rows"):
        run(folder, evaluate__redrawn=True)


def test_the_record_is_read_back(folder: Path, whole: EvaluationTable) -> None:
    run(folder)
    kept = RunFolder(folder)
    assert kept.evaluations() == ["main"] and same(kept.load_evaluation("main"), whole)
    results = pq.read_table(folder / "evaluations" / "main" / "results.parquet").to_pylist()
    accuracy = {(row["arm"], row["seed"]): row["value"] for row in results if row["metric"] == "accuracy"}
    predictions = pq.read_table(folder / "evaluations" / "main" / "predictions.parquet").to_pandas()
    for (arm, seed), value in accuracy.items():
        rows = predictions[(predictions.arm == arm) & (predictions.seed == seed)]
        assert value == pytest.approx(float((rows.predicted == rows.label).mean()))


def test_finished_trainings_are_not_repeated(
    folder: Path, whole: EvaluationTable, trained: list[tuple[str, int, tuple[int, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = evaluate.retrain

    def failing(*given: Any, **named: Any) -> Any:
        if len(trained) == 3:
            raise KeyboardInterrupt
        return counted(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "retrain", failing)
        with pytest.raises(KeyboardInterrupt):
            run(folder)
    assert RunFolder(folder).evaluations() == []
    done = [(arm, seed) for arm, seed, _ in trained]
    assert same(run(folder), whole)
    assert len(trained) == 8 and len({(arm, seed) for arm, seed, _ in trained}) == 8 and len(done) == 3
    run(folder)
    assert len(trained) == 8


@pytest.mark.slow
def test_dead_at_any_rename(pruned: Path, tmp_path: Path) -> None:
    """Whatever file was about to get its name, with one seed for each arm."""
    shutil.copytree(pruned, tmp_path / "whole")
    whole = run(tmp_path / "whole", evaluate__seeds=1)
    for k in itertools.count():
        folder = tmp_path / f"run-{k}"
        shutil.copytree(pruned, folder)
        shutil.rmtree(folder / "selections")
        with dying_at_rename(k) as death:
            prune(folder)
            run(folder, evaluate__seeds=1)
        if not death:
            break
        prune(folder)
        assert same(run(folder, evaluate__seeds=1), whole), death
        shutil.rmtree(folder)
    # The selection, decoded test rows, four trainings and how far they are, predictions, results, and the marker.
    assert k >= 13


def test_more_seeds_extend_an_evaluation(folder: Path, whole: EvaluationTable, trained: list[tuple[str, int, tuple[int, ...]]]) -> None:
    run(folder)
    del trained[:]
    more = evaluate.evaluate_run(
        open_session(replace(asked(), evaluate=replace(asked().evaluate, seeds=3)), RunFolder(folder), command="test"), progress=False
    )
    assert [seed for _, seed, _ in trained] == [FIRST_EVALUATION_SEED + 2] * 4
    for arm in ARMS:
        assert np.array_equal(more.metric(arm)[:2], whole.metric(arm))


def test_other_rows_under_the_same_name_are_refused(folder: Path, trained: list[tuple[str, int, tuple[int, ...]]]) -> None:
    run(folder)
    shutil.rmtree(folder / "selections" / "keep-50")
    prune(folder, strategy="easiest")
    del trained[:]
    with pytest.raises(StaleRecordError, match=r"trained arm keep-50 on other rows.*set evaluate\.name to a new name"):
        run(folder)
    assert trained == []
    assert run(folder, evaluate__name="easiest").name == "easiest" and sorted(RunFolder(folder).evaluations()) == ["easiest", "main"]


def test_another_length_under_the_same_name_is_refused(folder: Path) -> None:
    run(folder)
    with pytest.raises(StaleRecordError, match="other rows or for other steps"):
        run(folder, evaluate__match="steps")


def test_another_selection_of_the_same_name_is_refused(folder: Path) -> None:
    before = (folder / "selections" / "keep-50" / "selection.parquet").read_bytes()
    prune(folder)
    with pytest.raises(StaleRecordError, match="has another selection named 'keep-50'"):
        prune(folder, keep=0.25)
    assert (folder / "selections" / "keep-50" / "selection.parquet").read_bytes() == before


def test_nothing_to_evaluate(folder: Path) -> None:
    shutil.rmtree(folder / "selections")
    with pytest.raises(RecipeError, match="no selection to evaluate; run hf-datadiet prune"):
        run(folder)


def test_a_selection_of_other_data_is_refused(folder: Path) -> None:
    kept = RunFolder(folder)
    kept.save_selection(replace(kept.load_selection("keep-50"), name="foreign", source_digest="sha256:other"))
    with pytest.raises(StaleRecordError, match="'foreign' was made from other data"):
        run(folder)
