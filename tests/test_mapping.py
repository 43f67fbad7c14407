"""ExampleScorer through the maps of datasets: the same numbers, cached, in other processes, and what it refuses."""

from __future__ import annotations

import copy
import io
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import multiprocess
import numpy as np
import pytest
import timm
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from datasets.fingerprint import Hasher
from multiprocess.reduction import ForkingPickler
from PIL import Image as Pillow
from safetensors.torch import save_file
from torch import nn

from hf_datadiet import ExampleScorer, score_dataset
from hf_datadiet.errors import DataDietError, PluginError, RecipeError, SourceError, StaleRecordError
from hf_datadiet.hub.samples import digits
from hf_datadiet.recipe_yaml import kept_recipe, to_yaml
from hf_datadiet.records import RunResult
from hf_datadiet.score import score_run
from hf_datadiet.store import RunFolder
from hf_datadiet.training import environment
from hf_datadiet.training.look import Look
from hf_datadiet.training.session import open_session
from tests.references import scores as reference
from tests.steps.test_score import recipe
from tests.synthetic import pictures

SCORES = ["el2n", "grand", "grand_last", "loss"]
HALF = {"mean": [0.5] * 3, "std": [0.25] * 3}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds on sixty digits."""
    folder = tmp_path_factory.mktemp("mapping") / "run"
    asked = recipe(source__limit=60, score__scores=[*SCORES, "forgetting", "chance", "prototype"])
    score_run(open_session(asked, RunFolder(folder), command="test"), progress=False)
    return folder


@pytest.fixture(scope="module")
def observed(run: Path) -> RunResult:
    return RunFolder(run).load_seed(1)


@pytest.fixture
def dataset(observed: RunResult) -> Dataset:
    """The sixty rows."""
    return digits()["train"].select(observed.example_id)


def net(seed: int = 0, n_classes: int = 3) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return timm.create_model("test_resnet", num_classes=n_classes)


def scored(dataset: Any, scorer: ExampleScorer, **how: Any) -> Any:
    return dataset.map(scorer, batched=True, **{"batch_size": 256, **how})


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, rtol=1e-5, atol=1e-6)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that are scored from now on."""
    sizes: list[int] = []
    original = ExampleScorer.__call__

    def counting(self: ExampleScorer, batch: Any, rank: int | None = None) -> Any:
        sizes.append(len(batch["label"]))
        return original(self, batch, rank)

    monkeypatch.setattr(ExampleScorer, "__call__", counting)
    return sizes


# The numbers


def test_a_runs_seed_gives_what_the_run_observed(run: Path, observed: RunResult, dataset: Dataset) -> None:
    made = scored(dataset, ExampleScorer.from_run(run, seed=1))
    assert made.column_names == ["image", "label", *SCORES]
    for name in SCORES:
        assert made.features[name] == Value("float32")
        assert np.array_equal(made.with_format("numpy")[:][name], observed.observed[name][-1]), name
    first = RunFolder(run).load_seed(0).observed["el2n"][-1]
    assert not np.allclose(made["el2n"], first, rtol=1e-2), "the seeds differ, so the test can tell them apart"


def test_a_model_that_began_with_trained_weights(tmp_path: Path) -> None:
    """Whose stem is that of the weights, also for small images; they are not read again."""
    file, data = tmp_path / "weights.safetensors", pictures(12)
    save_file(net().state_dict(), file)
    arguments = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(file), "num_classes": 3}}
    options = {"task.training.batch_size": 4, "task.model_args": arguments}
    score_dataset(data, model="timm:test_resnet", seeds=1, epochs=1, progress=False, out=tmp_path / "run", options=options)
    file.unlink()
    made = scored(data, ExampleScorer.from_run(tmp_path / "run", scores=["el2n"]))
    assert np.array_equal(made["el2n"][:], RunFolder(tmp_path / "run").load_seed(0).observed["el2n"][-1])


def test_the_last_layer_alone(run: Path, observed: RunResult, dataset: Dataset) -> None:
    """Without the score whose plan it shared."""
    close(scored(dataset, ExampleScorer.from_run(run, seed=1, scores=["grand_last"]))["grand_last"], observed.observed["grand_last"][-1])


def test_batches_of_any_size_and_a_partial_last_one(run: Path, observed: RunResult, dataset: Dataset, counted: list[int]) -> None:
    made = scored(dataset, ExampleScorer.from_run(run, seed=1), batch_size=16)
    assert counted == [16, 16, 16, 12]
    for name in SCORES:
        close(made[name], observed.observed[name][-1])


def test_large_batches_are_observed_in_the_runs_own(run: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    original = Look.__call__

    def watching(self: Look, inputs: torch.Tensor, *rest: Any) -> Any:
        sizes.append(len(inputs))
        return original(self, inputs, *rest)

    monkeypatch.setattr(Look, "__call__", watching)
    twice = Dataset.from_dict(dataset[:], features=dataset.features)
    ExampleScorer.from_run(run, scores=["el2n"])({name: [*twice[name], *twice[name]] for name in twice.column_names})
    assert sizes == [60, 60]


def test_a_stream_gives_the_same_numbers(run: Path, observed: RunResult, dataset: Dataset) -> None:
    rows = list(scored(dataset.to_iterable_dataset(), ExampleScorer.from_run(run, seed=1), batch_size=25))
    assert [row["label"] for row in rows] == dataset["label"]
    for name in SCORES:
        assert all(isinstance(row[name], np.float32) for row in rows)
        close([row[name] for row in rows], observed.observed[name][-1])


def test_a_model_object_against_the_second_implementations() -> None:
    model, data = net(), pictures(20)
    made = scored(data, ExampleScorer(model, ["el2n", "loss", "margin"], normalize=HALF), batch_size=8)
    pixels = np.stack([np.asarray(image) for image in data["image"]]).transpose(0, 3, 1, 2)
    with torch.no_grad():
        logits = copy.deepcopy(model).double().eval()((torch.from_numpy(pixels) / 255.0 - 0.5).double() / 0.25).tolist()
    for name in ("el2n", "loss", "margin"):
        expected = [getattr(reference, name)(z, y) for z, y in zip(logits, data["label"], strict=True)]
        np.testing.assert_allclose(made[name], expected, rtol=1e-4, atol=1e-6)


def test_normalisation_is_that_of_the_timm_configuration() -> None:
    model, data = net(), pictures(6)
    about: Any = model.pretrained_cfg
    given = {"mean": about["mean"], "std": about["std"]}
    assert scored(data, ExampleScorer(model))["el2n"] == scored(data, ExampleScorer(model, normalize=given))["el2n"]
    assert scored(data, ExampleScorer(model))["el2n"] != scored(data, ExampleScorer(model, normalize=HALF | {"std": [0.9] * 3}))["el2n"]


def test_the_model_is_at_rest_and_stays_the_callers(dataset: Dataset) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 10)).train()
    state = copy.deepcopy(model.state_dict())
    scorer = ExampleScorer(model, ["el2n", "grand"], normalize=HALF)
    first = scored(dataset, scorer, batch_size=16)
    again = scored(dataset, scorer, batch_size=7, load_from_cache_file=False)
    close(again["el2n"], first["el2n"])
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    close(scored(dataset, scorer, batch_size=16, load_from_cache_file=False)["el2n"], first["el2n"])


def test_sixteen_bit_weights_are_observed_in_float32() -> None:
    model, data = net().bfloat16(), pictures(6)
    assert scored(data, ExampleScorer(model))["el2n"] == scored(data, ExampleScorer(copy.deepcopy(model).float()))["el2n"]


# Columns


def test_rows_without_a_label_are_null_and_nothing_else_changes() -> None:
    jpeg = []
    for image in pictures(12)["image"]:
        with io.BytesIO() as file:
            image.save(file, "JPEG", quality=30)
            jpeg.append({"bytes": file.getvalue(), "path": None})
    label = [None, -1, None, -1, 1, 2, 0, None, 2, 0, 1, 2]
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b", "c"]), "text": Value("string")})
    data = Dataset.from_dict({"image": jpeg, "label": label, "text": [str(row) for row in range(12)]}, features=features)
    missing = [row for row, value in enumerate(label) if value in (None, -1)]
    model = net()
    # The first batch has no label at all, so that its type cannot be read off its values.
    made = scored(data, ExampleScorer(model, ["el2n", "grand"]), batch_size=4)
    for name in ("el2n", "grand"):
        assert made.features[name] == Value("float32")
        assert [row for row, value in enumerate(made[name]) if value is None] == missing
    labelled = [row for row in range(12) if row not in missing]
    close([made["el2n"][row] for row in labelled], scored(data.select(labelled), ExampleScorer(model))["el2n"])
    raw = made.cast_column("image", Image(decode=False))
    assert raw["image"] == jpeg and raw["text"] == data["text"] and raw["label"] == label
    assert {name: made.features[name] for name in features} == features
    stream = list(scored(data.to_iterable_dataset(), ExampleScorer(model), batch_size=4))
    assert [row for row, value in enumerate(stream) if value["el2n"] is None] == missing


def test_all_rows_without_a_label() -> None:
    data = pictures(5).remove_columns("label").add_column("label", [-1] * 5)
    made = scored(data, ExampleScorer(net()), batch_size=2)
    assert made["el2n"] == [None] * 5 and made.features["el2n"] == Value("float32")


def test_columns_are_found_or_named() -> None:
    data, model = pictures(6), net()
    expected = scored(data, ExampleScorer(model))["el2n"]
    other = data.rename_columns({"image": "picture", "label": "kind"}).add_column("id", list(range(6)))
    scorer = ExampleScorer(model)
    assert scored(other, scorer)["el2n"] == expected
    assert scored(data, scorer)["el2n"] == expected, "one scorer, another dataset"
    two = data.add_column("fine", [2, 2, 2, 2, 2, 2])
    assert scored(two, ExampleScorer(model, columns={"label": "fine"}))["el2n"] != expected
    assert scored(two, ExampleScorer(model))["el2n"] == expected
    named = ExampleScorer(model, columns={"label": "kind"})
    close([row["el2n"] for row in scored(other.to_iterable_dataset(), named)], expected)


def test_image_size_makes_sizes_equal() -> None:
    model = net()
    data = Dataset.from_dict(
        {"image": [Pillow.new("RGB", (8, 8), "red"), Pillow.new("RGB", (9, 7), "red")], "label": [0, 0]},
        features=Features({"image": Image(), "label": Value("int64")}),
    )
    made = scored(data, ExampleScorer(model, image_size=8))
    assert made["el2n"][0] == pytest.approx(made["el2n"][1])
    with pytest.raises(
        SourceError, match=r"in a batch, counted from 0: row 1 has an image of 9 x 7 pixels, others have 8 x 8; set task\.image_"
    ):
        scored(data, ExampleScorer(model))


def test_columns_are_those_of_the_dataset_whatever_was_mapped_before() -> None:
    data, model = pictures(6), net()
    plain = Features({"image": Image(), "label": Value("int64"), "kind": ClassLabel(names=["a", "b", "c"])})
    classes = Features({"image": Image(), "label": ClassLabel(names=["a", "b", "c"]), "kind": Value("int64")})
    columns = {"image": data["image"], "label": [0] * 6, "kind": [1] * 6}
    one, two = (Dataset.from_dict(columns, features=features) for features in (plain, classes))
    fresh = [scored(rows, ExampleScorer(model))["el2n"] for rows in (one, two)]
    assert fresh[0] != fresh[1]
    scorer = ExampleScorer(model)
    for rows, expected in ((one, fresh[0]), (two, fresh[1]), (one, fresh[0])):
        assert scored(rows, scorer, load_from_cache_file=False)["el2n"] == expected
    stream = list(scored(one.to_iterable_dataset(), scorer))
    close([row["el2n"] for row in stream], fresh[1])


def test_a_stream_may_have_a_batch_of_nulls() -> None:
    data = pictures(6)
    holes = Dataset.from_dict({"image": data["image"], "label": [0, 1, 2, None, None, None]}, features=Features({**data.features}))
    rows = list(scored(holes.to_iterable_dataset(), ExampleScorer(net()), batch_size=3))
    assert [row["el2n"] is None for row in rows] == [False] * 3 + [True] * 3


# The names of the classes


def named(dataset: Dataset, *names: str) -> Dataset:
    return dataset.cast_column("label", ClassLabel(names=[*names]))


def stating(names: list[str]) -> nn.Module:
    """A model with a configuration like those of transformers."""
    model = net()
    model.config = types.SimpleNamespace(id2label=dict(enumerate(names)))  # pyright: ignore
    return model


def test_classes_in_another_order_than_the_runs_are_refused(tmp_path: Path) -> None:
    data = named(pictures(12), "cat", "dog", "ship")
    options = {"task.training.batch_size": 4}
    score_dataset(data, model="timm:test_resnet", seeds=1, epochs=1, progress=False, out=tmp_path / "run", options=options)
    scorer = ExampleScorer.from_run(tmp_path / "run", scores=["el2n"])
    expected = RunFolder(tmp_path / "run").load_seed(0).observed["el2n"][-1]
    close(scored(data, scorer)["el2n"], expected)
    message = (
        r"^class 0 of label column 'label' is 'dog', and 'cat' for the model; align them: dataset\.align_labels_with_mapping.*"
        r"if only the names differ, rename them: dataset\.cast_column\([^\n]*\)$"
    )
    with pytest.raises(SourceError, match=message):
        scored(named(data, "dog", "cat", "ship"), scorer)
    with pytest.raises(SourceError, match="class 2 of label column 'label' is no class, and 'ship' for the model"):
        scored(named(data.filter(lambda label: label < 2, input_columns="label"), "cat", "dog"), scorer)
    with pytest.raises(SourceError, match="class 3 of label column 'label' is 'ufo', and no class for the model"):
        scored(named(data, "cat", "dog", "ship", "ufo"), scorer)
    shuffled = data.align_labels_with_mapping({"ship": 0, "cat": 1, "dog": 2}, "label")
    with pytest.raises(SourceError, match="class 0 of label column 'label' is 'ship'"):
        scored(shuffled, scorer)
    close(scored(shuffled.align_labels_with_mapping({"cat": 0, "dog": 1, "ship": 2}, "label"), scorer)["el2n"], expected)
    for rows in (data.cast_column("label", Value("int64")), named(data, "0", "1", "2"), named(data, "Cat", "DOG", "ship")):
        close(scored(rows, scorer)["el2n"], expected)
    close([row["el2n"] for row in scored(data.to_iterable_dataset(), scorer)], expected)


@pytest.mark.parametrize("names", [["cat", "dog", "ship"], ["CAT", "Dog", "ship"], ["LABEL_0", "LABEL_1", "LABEL_2"]])
def test_classes_that_a_configuration_states(names: list[str]) -> None:
    data = named(pictures(6), "cat", "dog", "ship")
    assert scored(data, ExampleScorer(stating(names)))["el2n"] == scored(data, ExampleScorer(net()))["el2n"]


@pytest.mark.parametrize("names", [["dog", "cat", "ship"], ["cat", "dog"], ["ship", "cat", "Cat"]])
def test_classes_that_a_configuration_states_otherwise(names: list[str]) -> None:
    data = named(pictures(6), "cat", "dog", "ship")
    with pytest.raises(SourceError, match=r"class \d of label column 'label' is '\w+', and .* for the model; align them"):
        scored(data, ExampleScorer(stating(names)))
    assert len(scored(data.cast_column("label", Value("int64")), ExampleScorer(stating(names)))) == 6


# Caching


def saved(dataset: Dataset, folder: Path) -> Dataset:
    """On disk, where map keeps what it made."""
    dataset.save_to_disk(str(folder))
    return Dataset.load_from_disk(str(folder))


def test_the_second_map_is_read_from_the_cache(run: Path, dataset: Dataset, tmp_path: Path, counted: list[int]) -> None:
    data, model = saved(dataset, tmp_path / "data"), net(n_classes=10)
    for make in (lambda: ExampleScorer.from_run(run), lambda: ExampleScorer(model)):
        counted.clear()
        first = scored(data, make())
        assert counted == [60]
        scorer = make()
        assert scored(data, scorer)["el2n"] == first["el2n"] and scored(data, scorer)["el2n"] == first["el2n"]
        assert counted == [60]
    scored(data, ExampleScorer.from_run(run, seed=1))
    scored(data, ExampleScorer(model, ["loss"]))
    assert counted == [60] * 3


def test_equal_scorers_have_equal_fingerprints_and_others_do_not(run: Path) -> None:
    model = net()
    rebuilt = net(seed=1)
    assert Hasher.hash(ExampleScorer(model)) != Hasher.hash(ExampleScorer(rebuilt))
    rebuilt.load_state_dict(model.state_dict())
    scorer = ExampleScorer(model)
    fingerprint = Hasher.hash(scorer)
    scored(pictures(4), scorer)
    twins = [scorer, ExampleScorer(rebuilt), ExampleScorer(copy.deepcopy(model).eval()), copy.deepcopy(scorer)]
    assert [Hasher.hash(twin) for twin in twins] == [fingerprint] * len(twins)
    frozen = copy.deepcopy(model)
    next(frozen.parameters()).requires_grad_(False)
    nudged = copy.deepcopy(model)
    with torch.no_grad():
        next(nudged.parameters()).view(-1)[0] += 1e-3
    others = [
        ExampleScorer(frozen),
        ExampleScorer(nudged),
        ExampleScorer(model, ["loss"]),
        ExampleScorer(model, image_size=16),
        ExampleScorer(model, normalize=HALF),
        ExampleScorer(model, columns={"label": "fine"}),
        *(ExampleScorer.from_run(run, seed) for seed in (0, 1)),
    ]
    assert len({fingerprint, *(Hasher.hash(other) for other in others)}) == len(others) + 1
    assert Hasher.hash(ExampleScorer.from_run(run)) == Hasher.hash(ExampleScorer.from_run(run))


# Processes and devices


@pytest.mark.parametrize("source", ["run", "model"])
def test_two_processes_give_the_same(run: Path, dataset: Dataset, source: str) -> None:
    scorer = ExampleScorer.from_run(run) if source == "run" else ExampleScorer(net(n_classes=10), SCORES)
    one = scored(dataset, scorer)
    two = scored(dataset, scorer, num_proc=2, with_rank=True, batch_size=16)
    assert two.features == one.features and two["label"] == one["label"]
    for name in SCORES:
        close(two[name], one[name])


@pytest.mark.slow
def test_spawned_processes_give_the_same(dataset: Dataset) -> None:
    scorer = ExampleScorer(net(n_classes=10), ["el2n", "grand"])
    before = multiprocess.get_start_method(allow_none=True)
    multiprocess.set_start_method("spawn", force=True)
    try:
        two = scored(dataset, scorer, num_proc=2)
    finally:
        multiprocess.set_start_method(before, force=True)
    for name in ("el2n", "grand"):
        close(two[name], scored(dataset, scorer)[name])


@pytest.mark.parametrize("source", ["run", "model"])
def test_pickled_as_spawned_processes_receive_it(run: Path, dataset: Dataset, source: str) -> None:
    scorer = ExampleScorer.from_run(run) if source == "run" else ExampleScorer(net(n_classes=10), SCORES)
    expected = scored(dataset, scorer)
    pickled = bytes(ForkingPickler.dumps(scorer))
    assert len(pickled) == len(bytes(ForkingPickler.dumps(copy.deepcopy(scorer)))), "what it made ready for itself stays behind"
    received = ForkingPickler.loads(pickled)
    assert Hasher.hash(received) == Hasher.hash(scorer)
    for name in SCORES:
        assert scored(dataset, received, load_from_cache_file=False)[name] == expected[name]


ELSEWHERE = """
import sys
import timm, torch
from datasets.fingerprint import Hasher
from multiprocess.reduction import ForkingPickler
from hf_datadiet import ExampleScorer
from tests.synthetic import pictures

torch.manual_seed(0)
model = timm.create_model("test_resnet", num_classes=3)
print(Hasher.hash(ExampleScorer(model)), Hasher.hash(ExampleScorer.from_run(sys.argv[1])))
torch.set_num_threads(2)
model(torch.randn(64, 3, 32, 32)).sum().backward()
made = pictures(8, size=32).map(ExampleScorer(model, ["grand"]), batched=True, batch_size=4, num_proc=2)
print(sum(value > 0 for value in made["grand"]))
"""


def test_another_process_finds_the_same_fingerprints_and_its_forks_do_not_hang(run: Path) -> None:
    """OpenMP hangs in the fork of a process that has used two threads, unless the fork uses one."""
    root = Path(__file__).parents[1]
    variables = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": str(root), "PYTHONHASHSEED": "7"}
    ended = subprocess.run([sys.executable, "-c", ELSEWHERE, str(run)], cwd=root, env=variables, capture_output=True, text=True, timeout=60)
    assert ended.stdout.split() == [Hasher.hash(ExampleScorer(net())), Hasher.hash(ExampleScorer.from_run(run)), "8"], ended.stderr


def test_frozen_parameters_stay_frozen_in_other_processes(dataset: Dataset) -> None:
    model = net(n_classes=10)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("fc"))
    scorer = ExampleScorer(model, ["grand"])
    whole = scored(dataset, ExampleScorer(net(n_classes=10), ["grand"]))["grand"]
    one, two = scored(dataset, scorer)["grand"], scored(dataset, scorer, num_proc=2, batch_size=30)["grand"]
    close(two, one)
    assert all(part < all_ for part, all_ in zip(one, whole, strict=True))


def test_a_rank_means_the_cpu_where_there_is_no_gpu_and_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    data, scorer = pictures(4), ExampleScorer(net())
    assert scored(data, scorer, with_rank=True)["el2n"] == scored(data, scorer)["el2n"]
    assert [environment.device_of(rank).type for rank in (None, 0, 3)] == ["cpu"] * 3

    class TwoGpus:
        device = torch.device("cuda", 1)

    monkeypatch.setattr(environment, "accelerator", TwoGpus)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [environment.device_of(rank).index for rank in (None, 0, 1, 2, 3)] == [1, 0, 1, 0, 1]


# Refusals


class Shapeless(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum()


REFUSED_MODELS: list[tuple[Any, dict[str, Any], str]] = [
    ("timm:resnet18", {}, "model is str and no torch.nn.Module; build it first"),
    (net(n_classes=0), {}, "the model has no classifier"),
    (nn.Linear(2, 2), {}, "the model states no mean and s.d.; pass normalize="),
    (net(), {"normalize": {"mean": [0.5] * 3}}, "normalize has mean; pass normalize="),
    (net(), {"normalize": {"mean": [0.5], "std": [0.5]}}, "normalize needs three numbers"),
    (net(), {"normalize": {"mean": [0.5] * 3, "std": [0.5, 0.5, 0.0]}}, "three above 0 for std"),
    (net(), {"scores": []}, "scores names no score"),
    (net(), {"scores": ["el2n", "forgetting"]}, "forgetting follows a training .*; use score_dataset"),
    (net(), {"scores": ["cartography"]}, "cartography follows a training .*; use score_dataset"),
    (net(), {"scores": ["prototype"]}, "prototype is a function of prototypes, which a batch of map does not tell; use score_dataset"),
    (net().requires_grad_(False), {"scores": ["grand_last"]}, "gradient norms need parameters that require a gradient"),
    (net(), {"scores": ["chance"]}, "chance is a function of example_id and seed, which a batch of map does not tell; use score_dataset"),
    (net(), {"image_size": 0}, "ExampleScorer.image_size: .* greater than or equal to 1"),
    (net().requires_grad_(False), {"scores": ["grand"]}, "gradient norms need parameters that require a gradient"),
]


@pytest.mark.parametrize(("model", "settings", "message"), REFUSED_MODELS, ids=[message[:30] for *_, message in REFUSED_MODELS])
def test_what_cannot_be_made(model: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as error:
        ExampleScorer(model, **settings)
    assert "\n" not in str(error.value)


def test_a_score_that_does_not_exist() -> None:
    with pytest.raises(PluginError, match="no score 'el2m'; did you mean el2n"):
        ExampleScorer(net(), ["el2m"])


def labels(*values: Any) -> Dataset:
    data = pictures(len(values))
    return Dataset.from_dict({"image": data["image"], "label": list(values)})


REFUSED_DATA: list[tuple[Any, dict[str, Any], str]] = [
    (pictures(3).remove_columns("image"), {}, r"cannot tell the image column: .*\(ExampleScorer: columns="),
    (pictures(3).remove_columns("label").to_iterable_dataset(), {}, "cannot tell the label column"),
    (pictures(3), {"columns": {"label": "fine"}}, "the dataset has no column 'fine'; it has: image, label"),
    (pictures(3), {"columns": {"text": "label"}}, "an image task has no role 'text'"),
    (pictures(3, el2n=[1.0, 2.0, 3.0]), {}, "the dataset already has a column 'el2n'; rename or remove it first"),
    (labels(0, 1, 3), {}, "row 2 of a batch has label 3, but the model has 3 classes"),
    (labels(0, -2), {}, "row 1 of a batch has -2 in label column 'label'"),
    (labels("cat", "dog"), {}, "row 0 of a batch has 'cat' in label column 'label'; use 0..C-1"),
    (labels(0.0, 1.0), {}, "row 0 of a batch has 0.0 in label column"),
    (pictures(3).with_format("numpy"), {}, "map over dataset.with_format.None"),
    (pictures(3).with_format("pandas"), {}, "map over dataset.with_format.None"),
]


@pytest.mark.parametrize(("data", "settings", "message"), REFUSED_DATA, ids=[message[:40] for *_, message in REFUSED_DATA])
def test_what_cannot_be_scored(data: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataDietError, match=message) as error:
        list(scored(data, ExampleScorer(net(), **settings)))
    assert "\n" not in str(error.value)


def test_single_rows_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"takes batches; call map\(scorer, batched=True"):
        pictures(3).map(ExampleScorer(net()))


def test_a_broken_or_missing_image() -> None:
    cells = [{"bytes": b"no image", "path": None}, None]
    features = Features({"image": Image(), "label": Value("int64")})
    data = Dataset.from_dict({"image": cells, "label": [0, 1]}, features=features)
    with pytest.raises(SourceError, match=r"column 'image' has a value that cannot be read .*; mend or drop the row"):
        scored(data, ExampleScorer(net()))
    with pytest.raises(SourceError, match="in a batch, counted from 0: row 0 has no image"):
        scored(data.select([1]), ExampleScorer(net()))


def test_a_model_that_does_not_fit_the_images() -> None:
    for model in (timm.create_model("test_vit", num_classes=3), Shapeless(1, 1), nn.Flatten(0)):
        with pytest.raises(RecipeError, match=r"does not give logits \[rows, classes\] for these inputs .*; check its input size") as error:
            scored(pictures(3), ExampleScorer(model, normalize=HALF))
        assert "\n" not in str(error.value)


def test_a_model_that_mixes_rows() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    with pytest.raises(RecipeError, match=r"task\.model Sequential says something else of a row that .* beside another"):
        scored(pictures(3, size=8), ExampleScorer(model, normalize=HALF))


def test_outputs_that_are_not_finite() -> None:
    model = net()
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(RecipeError, match="outputs are not finite"):
        scored(pictures(3), ExampleScorer(model))


def test_runs_that_cannot_be_used(run: Path, tmp_path: Path, dataset: Dataset) -> None:
    with pytest.raises(RecipeError, match="holds no run; score one first"):
        ExampleScorer.from_run(tmp_path)
    with pytest.raises(RecipeError, match="has no finished seed 2; finish the run"):
        ExampleScorer.from_run(run, seed=2)
    with pytest.raises(RecipeError, match="forgetting follows a training"):
        ExampleScorer.from_run(run, scores=["forgetting"])
    assert list(scored(dataset, ExampleScorer.from_run(run, scores=["margin"])).features) == ["image", "label", "margin"]
    options = {"task.training.batch_size": 4, "score.keep_weights": "none"}
    how: Any = {"model": "timm:test_resnet", "seeds": 1, "epochs": 1, "progress": False}
    score_dataset(pictures(8), out=tmp_path / "none", options=options, **how)
    with pytest.raises(RecipeError, match=r"kept no weights of its last epoch; score again with score.keep_weights=last"):
        ExampleScorer.from_run(tmp_path / "none")
    score_dataset(pictures(8), scores=["forgetting"], out=tmp_path / "followed", options={"task.training.batch_size": 4}, **how)
    with pytest.raises(RecipeError, match=r"no score of .* can be computed from one model; name some"):
        ExampleScorer.from_run(tmp_path / "followed")
    (tmp_path / "followed" / "fitted.json").unlink()
    with pytest.raises(StaleRecordError, match=r"fitted.json is missing or damaged"):
        ExampleScorer.from_run(tmp_path / "followed", scores=["el2n"])


def test_images_of_another_size_than_the_runs(run: Path) -> None:
    with pytest.raises(
        SourceError, match="row 0 has an image of 9 x 9 pixels, and the model was trained on 8 x 8; resize the images first"
    ):
        scored(pictures(3, size=9), ExampleScorer.from_run(run))


def test_kept_weights_that_do_not_fit(run: Path, tmp_path: Path, dataset: Dataset) -> None:
    shutil.copytree(run, tmp_path / "run")
    RunFolder(tmp_path / "run").save_recipe(to_yaml(kept_recipe(run, ["task.model=timm:test_efficientnet"])))
    with pytest.raises(RecipeError, match="the kept weights do not fit timm:test_efficientnet as it is built now") as error:
        scored(dataset, ExampleScorer.from_run(tmp_path / "run"))
    assert "\n" not in str(error.value)
