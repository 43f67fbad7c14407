"""Models that an evaluation kept, written for others: what a stranger loads predicts what the table says, and nothing is private."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from datasets import Dataset
from huggingface_hub import constants
from PIL import Image
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, AutoTokenizer

from hf_datadiet import CallableTask, evaluate_selections
from hf_datadiet.errors import PublishError, RecipeError, StaleRecordError
from hf_datadiet.export import write_model
from hf_datadiet.exported import REPO, Exported
from hf_datadiet.identity import label_digest
from hf_datadiet.recipe import FIRST_EVALUATION_SEED
from hf_datadiet.recipe_yaml import kept_recipe
from hf_datadiet.records import Selection
from hf_datadiet.store import RunFolder
from hf_datadiet.tasks import _tokens
from hf_datadiet.tasks._tokens import learn
from hf_datadiet.training.kept import KeptModel
from hf_datadiet.training.task import find_task
from tests.steps.test_transfer import text_model
from tests.synthetic import PROVENANCE, pictures
from tests.tasks.test_text import plain_tokenizer

SEED, CPU = FIRST_EVALUATION_SEED, torch.device("cpu")
NAMES = ("cat", 'a "dog"\n`x` </b>', "שלום")
TINY_BERT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "max_position_embeddings": 16}
N_TEST = 9


@dataclass
class Case:
    """A model, and what is said of its export. `size`: pixels of the images; None for texts."""

    model: str
    options: dict[str, Any] = field(default_factory=dict)
    size: int | None = 8
    by_name: bool = True
    pair: bool = False
    start: str = "random weights"


CASES = {
    "deep stem replaced": Case("timm:test_resnet", by_name=False),
    "plain stem replaced": Case(
        "timm:resnet18", {"task.model_args": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}, "task.crop": 1}, by_name=False
    ),
    "stem of its own": Case("timm:test_resnet", {"task.stem": "original", "task.model_args": {"drop_path_rate": 0.1}}, size=32),
    "img_size": Case("timm:test_vit", size=32),
    "resized": Case("timm:test_efficientnet", {"task.image_size": 24}, size=31),
    "transformers image": Case(
        "transformers:vit", {"task.model_args": {**{key: TINY_BERT[key] for key in list(TINY_BERT)[:4]}, "patch_size": 4}}
    ),
    "learned tokens": Case(
        "transformers:distilbert", {"task.model_args": {"dim": 8, "n_layers": 1, "n_heads": 1, "hidden_dim": 8}}, size=None
    ),
    "pairs of texts": Case("transformers:bert", {"task.model_args": {**TINY_BERT, "max_position_embeddings": 64}}, size=None, pair=True),
    "pretrained in a folder": Case(
        "transformers:FOLDER/pretrained",
        {"task.tokenizer": "FOLDER/pretrained"},
        size=None,
        start="pretrained weights that are not public",
    ),
}


def texts(n: int, seed: int) -> Dataset:
    rng = np.random.default_rng(seed)
    words = ["a", "cat", "number", "one", "two", "three", "ship", "ünder"]
    made = [[" ".join(rng.choice(words, rng.integers(2, 20))) for _ in range(n)] for _ in range(2)]
    return Dataset.from_dict({"text": made[0], "second": made[1], "label": [row % 3 for row in range(n)]})


def wide_pictures(n: int, size: int, seed: int, classes: tuple[str, ...]) -> Dataset:
    """No two of one shape."""
    rng = np.random.default_rng(seed)
    pixels = [rng.integers(0, 256, (size, size + row, 3)).astype(np.uint8) for row in range(n)]
    rows = {"image": [Image.fromarray(values) for values in pixels], "label": [row % 3 for row in range(n)]}
    return Dataset.from_dict(rows, features=pictures(3, size, seed, classes).features)


def rows_of(case: Case, n: int, seed: int) -> Dataset:
    if case.size is None:
        return texts(n, seed)
    return (wide_pictures if "task.image_size" in case.options else pictures)(n, case.size, seed, classes=NAMES)


def half(rows: Dataset) -> Selection:
    digest = label_digest(np.array(rows["label"], np.int32))
    kept = np.arange(0, len(rows), 2)
    return Selection("keep-50", kept, kept + 1, ("for a test",) * len(kept), None, "hardest", {}, 0, None, "", digest, PROVENANCE)


@dataclass
class Made:
    case: Case
    run: RunFolder
    test: Dataset
    exported: Exported
    folder: Path

    @property
    def weights(self) -> Any:
        return self.run.load_weights("main", "keep-50", SEED)

    def reference(self) -> Any:
        """The model as scorers of a run rebuild theirs, and its inputs for the test rows."""
        recipe, source = kept_recipe(self.run.path), self.run.source()
        task, fitted = find_task(recipe), self.run.fitted()
        roles = {role: column for role, column in source.columns.items() if role != "label"}
        values = {role: list(self.test[column]) for role, column in roles.items()}
        prepared = task.prepare_batch(values, range(N_TEST), fitted)
        model = KeptModel(recipe.task, len(source.classes), self.weights, None).model(task, prepared).eval()
        return model, task.collate(prepared, torch.arange(N_TEST), fitted, CPU, None)


@pytest.fixture(scope="module", params=CASES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A model trained on half of thirty rows, and exported."""
    case, where = CASES[request.param], tmp_path_factory.mktemp("export")
    if "FOLDER" in case.model:
        text_model(where / "pretrained")
        for name in ("config.json", "tokenizer_config.json"):
            path = where / "pretrained" / name
            path.write_text(json.dumps(json.loads(path.read_text()) | {"special_tokens_map_file": f"{where}/map.json"}))
    options = json.loads(json.dumps(case.options).replace("FOLDER", str(where)))
    if case.size is None:
        options |= {"task.max_length": 12}
    train, test = rows_of(case, 30, 1), rows_of(case, N_TEST, 2)
    evaluate_selections(
        train,
        [half(train)],
        test=test,
        task="text" if case.size is None else "image",
        model=case.model.replace("FOLDER", str(where)),
        seeds=1,
        epochs=2,
        out=where / "run",
        columns={"text": "text", "text_pair": "second"} if case.pair else {"text": "text"} if case.size is None else None,
        options={"evaluate.keep_weights": True, "task.training.batch_size": 5, "task.training.optimizer.lr": 0.02, **options},
        progress=False,
    )
    run = RunFolder(where / "run")
    exported = write_model(run, kept_recipe(run.path), "main", "keep-50", SEED, where / "model")
    return Made(case, run, test, exported, where / "model")


@pytest.fixture
def on_the_hub(made: Made) -> Iterator[str]:
    """The repository, as a client finds it in its cache after it was downloaded."""
    repo = Path(constants.HF_HUB_CACHE) / "models--me--toys-keep-50"
    shutil.rmtree(repo, ignore_errors=True)
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0" * 40)
    shutil.copytree(made.folder, repo / "snapshots" / ("0" * 40))
    yield "me/toys-keep-50"
    shutil.rmtree(repo)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def predictions(made: Made) -> Any:
    return next(each for each in made.run.load_evaluation("main").results if each.arm == "keep-50")


def test_the_code_of_the_card_predicts_what_the_evaluation_says(
    made: Made, on_the_hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    classes, said, name = made.run.source().classes, predictions(made), None
    if made.case.size is not None:
        made.test[0]["image"].convert("L" if made.test[0]["image"].mode == "L" else "RGBA").save("image.png")
    code, known = made.exported.code_for(on_the_hub), {}
    exec(compile(code, "card", "exec"), known)
    assert made.exported.by_name == made.case.by_name and REPO not in code
    if "classify" in known:
        for row in range(N_TEST):
            given: Any = made.test[row].get("image", made.test[row].get("text"))
            if made.case.pair:
                given = {"text": made.test[row]["text"], "text_pair": made.test[row]["second"]}
            more = {} if made.case.size is not None else {"truncation": True}
            shares = {each["label"]: each["score"] for each in known["classify"](given, top_k=None, **more)}
            assert set(shares) == set(classes) and max(shares, key=lambda label: shares[label]) == classes[said.predicted[row]]
            assert shares[classes[made.test[row]["label"]]] == pytest.approx(float(said.p_label[row]), abs=1e-3)
        return
    name = capsys.readouterr().out.removesuffix("\n")
    assert name == classes[said.predicted[0]], "the lines of the card print the name of its class"
    shown = torch.stack([known["transform"](row["image"].convert("RGB")) for row in made.test])
    torch.testing.assert_close(shown, made.reference()[1], atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        logits = torch.stack([known["model"](each[None])[0] for each in shown])
    assert logits.argmax(1).tolist() == said.predicted.tolist()
    shares = logits.softmax(1)[torch.arange(N_TEST), torch.tensor(made.test["label"])]
    np.testing.assert_allclose(shares.numpy(), said.p_label.astype(np.float32), atol=1e-3)


def test_it_is_the_same_model_bit_for_bit(made: Made) -> None:
    """transformers maps weights from the file, at places in memory on which the last bit of a product depends: hence copies."""
    model, inputs = made.reference()
    with torch.no_grad():
        if made.exported.library == "timm":
            if not made.case.by_name:
                return
            again = timm.create_model(f"local-dir:{made.folder}", pretrained=True).eval()
            assert torch.equal(model(inputs), again(inputs))
        elif made.case.size is not None:
            again = copy.deepcopy(AutoModelForImageClassification.from_pretrained(made.folder)).eval()
            assert torch.equal(model(inputs).logits, again(inputs).logits)
        else:
            again = copy.deepcopy(AutoModelForSequenceClassification.from_pretrained(made.folder)).eval()
            assert torch.equal(model(**inputs).logits, again(**inputs).logits)


def test_nobody_is_told_that_a_name_is_enough_where_it_is_not(made: Made) -> None:
    """Least of all where timm would take the weights and build another network around them."""
    if made.case.by_name:
        assert made.exported.notes == ()
        return
    assert "config.json" not in names(made.folder) and "does not work" in made.exported.notes[0]
    with pytest.raises(FileNotFoundError):
        timm.create_model(f"local-dir:{made.folder}", pretrained=True)


def test_images_are_shown_as_they_were_in_training(made: Made) -> None:
    if made.case.size is None or not made.case.by_name:
        return
    _, inputs = made.reference()
    if made.exported.library == "timm":
        model = timm.create_model(f"local-dir:{made.folder}", pretrained=True)
        config = timm.data.resolve_model_data_config(model)
        assert config["crop_pct"] == 1.0 and list(config["input_size"][1:]) == list(inputs.shape[2:])
        transform = timm.data.create_transform(**config)
        shown = torch.stack([transform(row["image"]) for row in made.test])
    else:
        from transformers import AutoImageProcessor

        shown = AutoImageProcessor.from_pretrained(made.folder)([row["image"] for row in made.test], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(shown, inputs, atol=1e-5, rtol=1e-5)


def test_texts_are_cut_into_the_same_tokens(made: Made) -> None:
    if made.case.size is not None:
        return
    tokenizer = AutoTokenizer.from_pretrained(made.folder)
    assert tokenizer.model_max_length == 12
    _, inputs = made.reference()
    columns = [list(made.test[column]) for column in (("text", "second") if made.case.pair else ("text",))]
    found = tokenizer(*columns, truncation=True, padding=True, return_tensors="pt")
    assert set(found) == set(inputs) and all(torch.equal(found[name], inputs[name]) for name in inputs)


def test_it_holds_no_place_on_this_machine_and_no_pickle(made: Made) -> None:
    private = [str(made.folder.parent), str(Path.home()), os.environ["HF_HOME"], "FOLDER", "/tmp"]
    for path in sorted(made.folder.rglob("*")):
        assert path.suffix in (".json", ".safetensors"), path.name
        content = path.read_bytes()
        assert not [place for place in private if place.encode() in content], path.name
        if path.name.endswith("config.json"):
            assert not {"is_local", "local_files_only", "name_or_path", "_name_or_path"} & set(json.loads(content))
    said = repr(made.exported)
    assert not [place for place in private if place in said]
    assert made.exported.model == ("transformers:bert" if "FOLDER" in made.case.model else made.case.model)
    assert (made.exported.start, made.exported.base_model) == (made.case.start, None)


def test_class_names_come_along(made: Made) -> None:
    classes = list(made.run.source().classes)
    if not made.case.by_name:
        assert json.loads((made.folder / "labels.json").read_text()) == classes
    elif made.exported.library == "timm":
        assert json.loads((made.folder / "config.json").read_text())["label_names"] == classes
    else:
        config = json.loads((made.folder / "config.json").read_text())
        assert list(config["id2label"].values()) == classes and config["label2id"] == {name: label for label, name in enumerate(classes)}


# What cannot be written


@pytest.fixture
def small(tmp_path: Path) -> RunFolder:
    return evaluated(tmp_path / "run")


def evaluated(out: Path, **given: Any) -> RunFolder:
    train = given.pop("train", None) or pictures(30)
    options = {"evaluate.keep_weights": True, "task.training.batch_size": 8, **given.pop("options", {})}
    more = {"model": "timm:test_resnet"} | given
    evaluate_selections(train, [half(train)], test=pictures(6, seed=1), seeds=1, epochs=1, out=out, options=options, progress=False, **more)
    return RunFolder(out)


def write(run: RunFolder, target: Path, arm: str = "keep-50") -> Exported:
    return write_model(run, kept_recipe(run.path), "main", arm, SEED, target)


def test_weights_that_were_not_kept_are_asked_for(tmp_path: Path) -> None:
    run = evaluated(tmp_path / "run", options={"evaluate.keep_weights": False})
    again = f"hf-datadiet evaluate {tmp_path}/run evaluate.name=main evaluate.keep_weights=true"
    with pytest.raises(RecipeError, match=f"no weights of keep-50, evaluation main; evaluate again .{again}"):
        write(run, tmp_path / "model")
    assert names(tmp_path) == ["run"]


def test_damaged_weights_are_named(small: RunFolder, tmp_path: Path) -> None:
    path = small.weights_path("main", "keep-50", SEED)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(StaleRecordError, match=rf"{path} was changed.*keep_weights=true"):
        write(small, tmp_path / "model")
    assert names(tmp_path) == ["run"]


def test_weights_that_do_not_fit_are_refused(small: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = dict(small.load_weights("main", "keep-50", SEED))
    weights.pop("fc.bias")
    monkeypatch.setattr(RunFolder, "load_weights", lambda *given: weights)
    with pytest.raises(
        PublishError, match=r"^task\.model timm:test_resnet cannot be written for others: .*; publish without --push-models$"
    ):
        write(small, tmp_path / "model")
    assert names(tmp_path) == ["run"], "nothing half written"


def test_a_model_that_does_not_come_back_the_same_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a library had forgotten an argument: a configuration of another width of stem, or none of the heads' count."""
    args = {**{key: TINY_BERT[key] for key in list(TINY_BERT)[:4]}, "patch_size": 4}
    run = evaluated(tmp_path / "run", model="transformers:vit", options={"task.model_args": args})
    from transformers import ViTConfig

    monkeypatch.setattr(ViTConfig, "to_json_string", _forgetful(ViTConfig.to_json_string))
    with pytest.raises(PublishError, match="transformers:vit does not come back the same from what its library saves"):
        write(run, tmp_path / "model")


def _forgetful(original: Any) -> Any:
    def to_json_string(self: Any, *given: Any, **named: Any) -> str:
        return json.dumps(json.loads(original(self, *given, **named)) | {"layer_norm_eps": 0.5})

    return to_json_string


def test_a_tokenizer_that_does_not_come_back_the_same_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = _tokens._from_json(learn(iter(["a cat", "number one two three"] * 20), 300).to_str())
    other = _tokens._from_json(learn(iter(["a dog sails", "four five six"] * 20), 310).to_str())
    _tokens.save_tokenizer(tokenizer, "mine", tmp_path)
    monkeypatch.setattr(_tokens.AutoTokenizer, "from_pretrained", lambda *given, **named: other)
    with pytest.raises(PublishError, match=r"task\.tokenizer mine makes other tokens once it was saved and read again"):
        _tokens.save_tokenizer(tokenizer, "mine", tmp_path)


def test_a_tokenizer_of_whole_words_comes_back(tmp_path: Path) -> None:
    words = _tokens.loaded_tokenizer(plain_tokenizer(tmp_path / "words", pad_token="<pad>", unk_token="<unk>"))
    _tokens.save_tokenizer(words, "words", tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again("the cat sails nowhere")["input_ids"] == words("the cat sails nowhere")["input_ids"]


def test_a_model_from_python_cannot_be_built_by_a_stranger(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    with pytest.raises(PublishError, match="came from Python, so nobody can build it by name; publish without --push-models"):
        write(evaluated(tmp_path / "run", model=net), tmp_path / "model")


def test_nor_can_a_task_from_python(tmp_path: Path) -> None:
    def collate(rows: list[dict[str, Any]]) -> torch.Tensor:
        return torch.stack([torch.tensor(np.asarray(row["image"])).float().flatten() for row in rows])

    task = CallableTask(model_init=lambda n: torch.nn.Linear(192, n), collate_fn=collate)
    run = evaluated(tmp_path / "run", task=task, model=None)
    with pytest.raises(PublishError, match="models of task in-memory are none that timm or transformers can read"):
        write(run, tmp_path / "model")


def test_an_old_folder_makes_way_for_a_whole_new_one(small: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    write(small, tmp_path / "model")
    assert names(tmp_path / "model") == ["labels.json", "model.safetensors"]
    assert names(tmp_path) == ["model", "run"]


def test_pretrained_weights_are_not_read_again_and_are_named(small: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What timm calls them on the Hub; and where they began in a file, only that."""
    start = timm.create_model("test_resnet", num_classes=3)
    from safetensors.torch import save_file

    save_file(start.state_dict(), tmp_path / "start.safetensors")
    args = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(tmp_path / "start.safetensors"), "num_classes": 3}}
    run = evaluated(tmp_path / "pretrained", options={"task.model_args": args})
    (tmp_path / "start.safetensors").unlink()
    exported = write(run, tmp_path / "model")
    assert (exported.start, exported.base_model, exported.by_name) == ("pretrained weights that are not on the Hub", None, True)
    assert str(tmp_path) not in (tmp_path / "model" / "config.json").read_text()
    from hf_datadiet.tasks import _image_export

    net = timm.create_model("test_resnet")
    assert _image_export._timm_start(net, "timm:test_resnet", {"pretrained": True}) == (
        "the weights of timm/test_resnet.r160_in1k",
        "timm/test_resnet.r160_in1k",
    )
