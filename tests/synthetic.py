"""Small records and datasets made by hand, for tests that need one of each; and when two records are the same."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from numpy.typing import NDArray

from hf_datadiet.records import (
    UNLABELLED,
    ArmResult,
    EvaluationTable,
    Provenance,
    RunResult,
    ScoreColumn,
    ScoreTable,
    Selection,
    Source,
)

PROVENANCE = Provenance("sha256:0a", "hf-datadiet score x.yaml", {"torch": "2.11.0"}, {"device": "cpu"}, "2026-01-02T03:04:05+00:00")
CLASSES = ("cat", "dog", "ship")


def source(n: int = 12, classes: tuple[str, ...] = CLASSES) -> Source:
    return Source("toys", None, "train", None, "sha256:5c", n, {"image": "image", "label": "label"}, classes)


def column(per_seed: Any, label: NDArray[np.int32], **about: Any) -> ScoreColumn:
    """A column with every field filled in from values [S, N]; null where there is no label."""
    values = np.asarray(per_seed, dtype=np.float32).copy()
    values[:, label == UNLABELLED] = np.nan
    several = len(values) > 1
    se = (values.std(axis=0, ddof=1) / np.sqrt(len(values))).astype(np.float32) if several else None
    plain = {"score": "el2n", "epoch": 2, "higher_is": "harder", "low": 0.0, "high": float("inf"), "reliability": 0.9 if several else None}
    return ScoreColumn(mean=values.mean(axis=0), se=se, per_seed=values, **{**plain, **about})


def score_table(n: int = 12, seeds: tuple[int, ...] = (0, 1, 2), label: Any = None, classes: tuple[str, ...] = CLASSES) -> ScoreTable:
    """Several scores at several moments, one of them an accumulator's; ids with gaps; two rows without a label."""
    rng = np.random.default_rng(0)
    if label is None:
        label = np.arange(n) % len(classes)
        label[[3, 7]] = UNLABELLED
    label = np.asarray(label, dtype=np.int32)
    base = np.linspace(0.1, 0.9, n)

    def values(scale: float) -> NDArray[np.float64]:
        return base + scale * rng.random((len(seeds), n))

    columns = {
        "el2n_e0": column(values(0.5), label, epoch=0, reliability=0.4 if len(seeds) > 1 else None),
        "el2n": column(values(0.1), label),
        "margin": column(-values(0.1), label, score="margin", higher_is="easier", low=-1.0, high=1.0),
        "forgetting": column(np.round(4 * values(0.2)), label, score="forgetting", high=2.0),
        "chance": column(values(1.0), label, score="chance", higher_is="neither", reliability=None),
    }
    return ScoreTable(source(2 * n, classes), 2 * np.arange(n, dtype=np.int64), label, seeds, columns, PROVENANCE)


def run_result(seed: int = 0, n: int = 10) -> RunResult:
    rng = np.random.default_rng(seed)
    moments, epochs = (0, 2), 2
    return RunResult(
        seed=seed,
        example_id=3 * np.arange(n, dtype=np.int64),
        moments=moments,
        observed={name: rng.random((2, n), dtype=np.float32) for name in ("el2n", "grand")},
        accumulated={"forgetting": rng.integers(0, 3, n).astype(np.float32)},
        predicted=rng.integers(0, 3, (2, n)).astype(np.int32),
        p_label=rng.random((epochs, n)).astype(np.float16),
        curve=tuple({"epoch": epoch, "loss": 1.5 / epoch, "accuracy": 0.25 * epoch} for epoch in (1, 2)),
        seconds={"train": 1.25, "observe": 0.5},
        weights={
            0: {"fc.weight": rng.random((3, 4), dtype=np.float32), "bn.num_batches_tracked": np.array(0)},
            2: {"fc.weight": rng.random((3, 4), dtype=np.float32), "bn.num_batches_tracked": np.array(7)},
        },
        provenance=PROVENANCE,
    )


def selection(table: ScoreTable, kept: Any, name: str = "keep-50", **about: Any) -> Selection:
    kept = np.sort(np.asarray(kept, dtype=np.int64))
    dropped = np.setdiff1d(table.example_id, kept)
    unlabelled = set(table.example_id[table.label == UNLABELLED].tolist())
    reasons = tuple("no label" if row in unlabelled else "el2n below the cut 0.5 (hardest 50 %)" for row in dropped.tolist())
    plain: dict[str, Any] = {
        "score": "el2n",
        "strategy": "hardest",
        "parameters": {"keep": 0.5, "quotas": "none"},
        "tie_seed": 0,
        "quotas": None,
    }
    return Selection(
        name=name,
        kept=kept,
        dropped=dropped,
        reasons=reasons,
        table_digest=table.digest,
        source_digest=table.source.digest,
        provenance=PROVENANCE,
        **{**plain, **about},
    )


def arm(name: str, seed: int, right: Any, label: NDArray[np.int32], **about: Any) -> ArmResult:
    """A training that predicts the label where `right` [T] says so and another class elsewhere."""
    predicted = np.where(np.asarray(right, dtype=bool), label, (label + 1) % 3).astype(np.int32)
    plain: dict[str, Any] = {"n_rows": 10, "epochs": 2, "steps": 8, "seconds": 4.0, "train_ids_digest": "sha256:1d"}
    return ArmResult(
        arm=name,
        seed=seed,
        predicted=predicted,
        p_label=np.linspace(0, 1, label.size).astype(np.float16),
        metrics={"accuracy": float((predicted == label).mean())},
        **{**plain, **about},
    )


# How many of the 12 held-out rows each training gets right: arm -> one number per seed.
RIGHT = {"full": (10, 11, 9), "keep-50": (7, 8, 8), "random-5": (6, 5, 7), "stratified-5": (6, 6, 7)}


def evaluation(name: str = "main", right: Any = None, match: Any = "epochs", seconds: Any = None, n_seeds: int = 3) -> EvaluationTable:
    counts = RIGHT if right is None else right
    label = (np.arange(12) % 3).astype(np.int32)
    results = tuple(
        arm(
            kind,
            10_000 + k,
            np.arange(12) < counts[kind][k],
            label,
            n_rows=10 if kind == "full" else 5,
            steps=20 if kind == "full" else 10,
            seconds=(seconds or {"full": 8.0}).get(kind, 3.0) + k,
        )
        for kind in counts
        for k in range(n_seeds)
    )
    return EvaluationTable(
        name=name,
        model="timm:test_resnet",
        match=match,
        margin=0.5,
        arms={kind: f"what {kind} is" for kind in counts},
        arm_selections={kind: kind for kind in counts if kind.startswith("keep")},
        n_seeds=n_seeds,
        test_id=100 + np.arange(12, dtype=np.int64),
        test_label=label,
        results=results,
        source_digest="sha256:5c",
        provenance=PROVENANCE,
    )


def pictures(n: int = 12, size: int = 8, seed: int = 0, classes: tuple[str, ...] = CLASSES, **more: Any) -> Dataset:
    """n random colour images with labels 0, 1, 2, 0, ...; further columns may be given."""
    rng = np.random.default_rng(seed)
    pixels = list(rng.integers(0, 256, (n, size, size, 3)).astype(np.uint8))
    label = [row % len(classes) for row in range(n)]
    dataset = Dataset.from_dict(
        {"image": pixels, "label": label}, features=Features({"image": Image(), "label": ClassLabel(names=[*classes])})
    )
    for name, values in more.items():
        dataset = dataset.add_column(name, values)
    return dataset


def same(a: Any, b: Any, at: str = "") -> None:
    """Two records are equal in every field, down to dtype, null and Python type of the plain values."""
    if dataclasses.is_dataclass(a):
        assert type(a) is type(b), at
        for field in dataclasses.fields(a):
            same(getattr(a, field.name), getattr(b, field.name), f"{at}.{field.name}")
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and a.shape == b.shape, at
        assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), at
    elif isinstance(a, dict):
        assert list(a) == list(b) or sorted(map(str, a)) == sorted(map(str, b)), at
        for key in a:
            same(a[key], b[key], f"{at}.{key}")
    elif isinstance(a, tuple):
        assert isinstance(b, tuple) and len(a) == len(b), at
        for position, pair in enumerate(zip(a, b, strict=True)):
            same(*pair, f"{at}.{position}")
    else:
        assert a == b and type(a) is type(b), at
