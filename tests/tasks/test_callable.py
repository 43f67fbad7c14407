from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from hf_datadiet import CallableTask, ExampleScorer, evaluate_selections, prune_dataset, score_dataset
from hf_datadiet.cli import commands
from hf_datadiet.errors import PluginError, RecipeError, SourceError
from hf_datadiet.store import RunFolder
from hf_datadiet.tasks.image import ImageTask
from hf_datadiet.training.randomness import streams_for
from tests.synthetic import pictures
from tests.training.toy import ToyTask

N, T, C = 24, 12, 3


def series(n: int = N, seed: int = 0, **more: Any) -> Dataset:
    """Noisy waves of three frequencies, of uneven length."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % C
    waves = [
        np.sin((1 + kind) * np.arange(T - row % 3) + rng.uniform(0, 6)) + rng.normal(0, 0.3, T - row % 3) for row, kind in enumerate(label)
    ]
    features = Features({"signal": List(Value("float32")), "place": Value("string"), "kind": ClassLabel(names=["low", "mid", "high"])})
    columns = {"signal": waves, "place": ["here"] * n, "kind": label}
    return Dataset.from_dict({**columns, **more}, features=features if not more else None)


class Waves(nn.Module):
    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.filters = nn.Conv1d(1, 6, 5, padding=2)
        self.head = nn.Linear(6, n_classes)

    def forward(self, signal: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        mask = torch.arange(signal.shape[1]) < length[:, None]
        return self.head((self.filters(signal[:, None]).relu() * mask[:, None]).sum(2) / length[:, None])


def padded(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    signals = [torch.tensor(row["signal"]) for row in rows]
    length = torch.tensor([len(signal) for signal in signals])
    return {"signal": nn.utils.rnn.pad_sequence(signals, batch_first=True), "length": length}


def one_against_all(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return binary_cross_entropy_with_logits(logits, one_hot(labels, C).float(), reduction="none").sum(1)


TASK = CallableTask(Waves, padded)
OPTIONS = {"task.training.batch_size": 8, "task.training.optimizer.lr": 0.05}


def scored(task: Any = TASK, **more: Any) -> Any:
    arguments: dict[str, Any] = {"scores": ["el2n", "grand", "forgetting"], "seeds": 2, "epochs": 2, "progress": False, "options": OPTIONS}
    return score_dataset(more.pop("dataset", series()), task=task, **{**arguments, **more})


def test_time_series_are_scored_pruned_and_judged(tmp_path: Path) -> None:
    table = scored(out=tmp_path / "run")
    assert table.source.columns == {"signal": "signal", "place": "place", "label": "kind"}
    assert table.source.classes == ("low", "mid", "high") and len(table.columns) == 5
    lean, selection = prune_dataset(series(), table, score="el2n", keep=0.5)
    assert len(lean) == 12
    judged = evaluate_selections(series(), [selection], test=series(9, seed=1), task=TASK, seeds=1, epochs=1, progress=False)
    assert set(judged.arms) == {"full", "pruned", "random-12", "stratified-12"}
    # The run goes on with the same task, and the command line says why it cannot.
    again = scored(out=tmp_path / "run", seeds=3)
    np.testing.assert_array_equal(again.columns["el2n"].per_seed[:2], table.columns["el2n"].per_seed)
    with pytest.raises(RecipeError, match="the task of this run was an object in Python; go on there, and pass it again"):
        commands.main(["evaluate", str(tmp_path / "run")], standalone_mode=False)


@pytest.mark.parametrize("loss", [None, one_against_all])
def test_grand_is_the_norm_of_the_gradient_of_the_tasks_own_loss(loss: Any, tmp_path: Path) -> None:
    table = scored(CallableTask(Waves, padded, loss), seeds=1, options={**OPTIONS, "score.observe_at": [0]}, out=tmp_path)
    torch.manual_seed(streams_for("score", 0).init)
    start = Waves(C)
    last = Waves(C)
    kept = RunFolder(tmp_path).load_seed(0, with_weights=True).weights[2]
    last.load_state_dict({name: torch.from_numpy(np.array(values)) for name, values in kept.items()})
    own = loss or (lambda logits, labels: cross_entropy(logits, labels, reduction="none"))
    rows = series()
    for name, net in (("grand_e0", start), ("grand", last)):
        for row in (0, 5, 23):
            net.zero_grad()
            own(net(**padded([rows[row]])), torch.tensor([rows[row]["kind"]])).sum().backward()
            gradient = torch.cat([parameter.grad.flatten() for parameter in net.parameters() if parameter.grad is not None])
            np.testing.assert_allclose(table.columns[name].mean[row], gradient.norm().item(), rtol=1e-4)


def test_the_loss_is_what_training_minimises() -> None:
    plain = scored(scores=["el2n"], seeds=1)
    same = scored(
        CallableTask(Waves, padded, lambda logits, labels: cross_entropy(logits, labels, reduction="none")), scores=["el2n"], seeds=1
    )
    other = scored(CallableTask(Waves, padded, one_against_all), scores=["el2n"], seeds=1)
    np.testing.assert_allclose(plain.columns["el2n"].mean, same.columns["el2n"].mean, rtol=1e-5)
    assert np.abs(plain.columns["el2n"].mean - other.columns["el2n"].mean).max() > 1e-3


def test_columns_are_chosen_and_renamed() -> None:
    seen: list[set[str]] = []

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        seen.append(set(rows[0]))
        return padded([{"signal": row["x"]} for row in rows])

    columns = {"x": "signal", "label": "kind"}
    table = scored(CallableTask(Waves, collate), columns=columns, scores=["el2n"], seeds=1, epochs=1)
    assert table.source.columns == columns and all(names == {"x"} for names in seen)
    np.testing.assert_array_equal(table.columns["el2n"].mean, scored(scores=["el2n"], seeds=1, epochs=1).columns["el2n"].mean)


def test_a_format_of_the_dataset_reaches_the_collate_function() -> None:
    whole = series().map(lambda row: {"signal": row["signal"][:9]}).remove_columns("place").with_format("torch")
    task = CallableTask(lambda c: nn.Linear(9, c), lambda rows: torch.stack([row["signal"] for row in rows]))
    assert len(scored(task, dataset=whole, scores=["el2n", "input_norm"], seeds=1, epochs=1).columns) == 2


def test_a_task_by_its_place_in_a_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = types.ModuleType("my_tasks")
    module.TASK = TASK  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "my_tasks", module)
    expected = scored(scores=["el2n"], seeds=1).columns["el2n"].mean
    found = scored("my_tasks:TASK", scores=["el2n"], seeds=1, allow_plugins=True)
    np.testing.assert_array_equal(found.columns["el2n"].mean, expected)
    with pytest.raises(PluginError, match="imports code from outside the package"):
        scored("my_tasks:TASK")
    with pytest.raises(RecipeError, match=r"task\.crop: task my_tasks:TASK is an object and takes no keys"):
        scored("my_tasks:TASK", options={**OPTIONS, "task.crop": 2}, allow_plugins=True)

    series().to_parquet(tmp_path / "waves.parquet")
    (tmp_path / "waves.yaml").write_text("source: {path: waves.parquet}\ntask: {kind: 'my_tasks:TASK', model: waves}\nscore: {seeds: 1}\n")
    monkeypatch.chdir(tmp_path)
    words = ["score", "waves.yaml", "--allow-plugins", "task.training.epochs=2", "task.training.batch_size=8"]
    commands.main([*words, "task.training.optimizer.lr=0.05"], standalone_mode=False)
    np.testing.assert_array_equal(RunFolder("runs/waves").load_scores().columns["el2n"].mean, expected)


def test_any_object_with_the_methods_of_a_task() -> None:
    arguments: dict[str, Any] = {"dataset": pictures(), "model": "timm:test_resnet", "scores": ["el2n"], "seeds": 1, "epochs": 1}
    table = scored(ImageTask(crop=1), **arguments)
    same = scored("image", **arguments, options={**OPTIONS, "task.crop": 1})
    np.testing.assert_array_equal(table.columns["el2n"].mean, same.columns["el2n"].mean)


# A seed of a run, mapped


@pytest.mark.parametrize("loss", [None, one_against_all])
def test_a_seed_is_mapped_with_its_task(loss: Any, tmp_path: Path) -> None:
    task = CallableTask(Waves, padded, loss)
    scored(task, out=tmp_path)
    made = series().map(ExampleScorer.from_run(tmp_path, seed=1, task=task), batched=True)
    stored = RunFolder(tmp_path).load_seed(1).observed
    for name in ("el2n", "grand"):
        np.testing.assert_allclose(np.float32(made[name]), stored[name][-1], rtol=1e-5, atol=1e-6)
    rows = list(series().to_iterable_dataset().map(ExampleScorer.from_run(tmp_path, seed=1, task=task), batched=True, batch_size=5))
    np.testing.assert_allclose(np.float32([row["grand"] for row in rows]), stored["grand"][-1], rtol=1e-5, atol=1e-6)
    with pytest.raises(RecipeError, match=r"the task of this run was an object in Python; .*pass it again: task="):
        ExampleScorer.from_run(tmp_path)
    with pytest.raises(PluginError, match="task is the class CallableTask; pass an object"):
        ExampleScorer.from_run(tmp_path, task=CallableTask)  # pyright: ignore


def test_any_task_object_is_mapped_and_a_named_one_is_not_replaced(tmp_path: Path) -> None:
    how: Any = {"dataset": pictures(), "model": "timm:test_resnet", "scores": ["el2n"], "seeds": 1, "epochs": 1}
    table = scored(ImageTask(crop=1), out=tmp_path / "object", **how)
    made = pictures().map(ExampleScorer.from_run(tmp_path / "object", task=ImageTask(crop=1)), batched=True)
    np.testing.assert_allclose(np.float32(made["el2n"]), table.columns["el2n"].mean, rtol=1e-5, atol=1e-6)
    scored("image", out=tmp_path / "name", **how)
    with pytest.raises(RecipeError, match="the task of this run is found by its name, image; leave task out"):
        ExampleScorer.from_run(tmp_path / "name", task=ImageTask())


# What is wrong is told in one line, by whose fault it is


def flat(rows: list[dict[str, Any]]) -> torch.Tensor:
    return torch.zeros(len(rows), 4)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            CallableTask(Waves, lambda rows: torch.tensor([row["sgnal"] for row in rows])),
            "collate_fn of the task fails: KeyError: 'sgnal'; mend",
        ),
        (CallableTask(Waves, lambda rows: [1]), r"collate_fn returned list for 1 rows; return a tensor \[B, ...\], or a dict"),  # pyright: ignore
        (CallableTask(Waves, lambda rows: torch.zeros(7, 3)), r"collate_fn returned a tensor \[7, 3\] for 1 rows"),
        (CallableTask(lambda c: 3, flat), "model_init returned int; return a torch.nn.Module"),  # pyright: ignore
        (CallableTask(lambda: nn.Linear(4, 3), flat), "model_init of the task fails: TypeError: "),  # pyright: ignore
        (CallableTask(lambda c: nn.Linear(5, c), flat), "the model of the task fails: RuntimeError: .*shapes cannot be multiplied"),
        (
            CallableTask(lambda c: nn.Linear(4, 1), flat),
            r"the model gives \[1, 1\] for one row, and \[1, 3\] is needed: one logit per class",
        ),
        (
            CallableTask(lambda c: nn.Linear(4, c), flat, cross_entropy),
            r"the task's loss gives \[\] for \[\d\] labels; .* reduction='none'",
        ),
        (CallableTask, "task is the class CallableTask; pass an object"),
        (ToyTask(), r"task \(ToyTask\) has no method find_columns, prepare, lengths"),
    ],
)
def test_faults_of_a_task(task: Any, message: str) -> None:
    with pytest.raises((PluginError, RecipeError), match=message) as fault:
        scored(task, seeds=1, epochs=1)
    assert "\n" not in str(fault.value)


class Shared(Waves):
    """What a row gives depends on its batch: on the statistics of all rows, or on the longest of them."""

    def __init__(self, n_classes: int, by: str) -> None:
        super().__init__(n_classes)
        self.by, self.norm = by, nn.BatchNorm1d(1, track_running_stats=False)

    def forward(self, signal: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        if self.by == "rows":
            return super().forward(self.norm(signal[:, None])[:, 0], length)
        return super().forward(signal, torch.full_like(length, signal.shape[1]))


@pytest.mark.parametrize("by", ["rows", "padding"])
def test_a_model_whose_rows_depend_on_each_other(by: str) -> None:
    # Of the first and the last row, the first is the shorter one.
    rows = series().select([1, 3, 2, 0])
    with pytest.raises(RecipeError, match=r"^the model of the task says something else of a row that is padded or stands beside another"):
        scored(CallableTask(lambda c: Shared(c, by), padded), dataset=rows, seeds=1, epochs=1)


def test_trying_a_model_leaves_it_as_it_was() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, C))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    made = CallableTask(lambda c: net, flat).build_model("", {}, C, [{}, {}])
    assert made.training and all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_label_smoothing_belongs_to_the_cross_entropy() -> None:
    smooth = {**OPTIONS, "task.training.label_smoothing": 0.1}
    scored(scores=["el2n"], seeds=1, epochs=1, options=smooth)
    with pytest.raises(RecipeError, match="a loss of its own, which knows no label smoothing"):
        scored(CallableTask(Waves, padded, one_against_all), seeds=1, epochs=1, options=smooth)


def test_columns_that_are_not_there() -> None:
    with pytest.raises(SourceError, match=r"source\.columns names 'sgnal'; the dataset has: signal, place, kind"):
        scored(columns={"x": "sgnal"})
    with pytest.raises(SourceError, match="no column beside the label 'kind'"):
        scored(dataset=series().select_columns(["kind"]))
