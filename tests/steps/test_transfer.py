"""EVALUATE with further models: each is trained as a run of that model would train it, and what cannot work is said before scoring."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification

from hf_datadiet import CallableTask, evaluate, evaluate_selections, score_dataset
from hf_datadiet.errors import RecipeError, StaleRecordError
from hf_datadiet.prune import prune_run
from hf_datadiet.recipe import PruneSpec, Recipe
from hf_datadiet.recipe_yaml import recipe_from, with_overrides
from hf_datadiet.records import EvaluationTable, Selection
from hf_datadiet.reporting import report_run
from hf_datadiet.score import score_run
from hf_datadiet.status import status_of
from hf_datadiet.store import RunFolder
from hf_datadiet.tasks._tokens import learn
from hf_datadiet.tasks.text import TextTask
from hf_datadiet.training.retrain import OF_THE_SCORER
from hf_datadiet.training.session import open_session
from tests.steps.test_damage import TEXTS, texts
from tests.steps.test_evaluate import same
from tests.steps.test_score import VALUES
from tests.tasks.test_text import plain_tokenizer

Call = Callable[..., tuple[Any, str, str]]

SCORER, OTHER = "timm:test_resnet", "timm:test_byobnet"
ARMS = ["full", "keep-50", "random-40", "stratified-40"]
ASKED: dict[str, Any] = {"evaluate.seeds": 1, "evaluate.models": [OTHER]}


def recipe(values: Any = VALUES, **overrides: Any) -> Recipe:
    return recipe_from(with_overrides(values, ASKED | {key.replace("__", "."): value for key, value in overrides.items()}))


def run(folder: Path, share: tuple[int, int] = (1, 1), **overrides: Any) -> EvaluationTable | None:
    return evaluate.evaluate_run(open_session(recipe(**overrides), RunFolder(folder), command="test", share=share), progress=False)


def scored(folder: Path, selection: Selection | None = None, **overrides: Any) -> Path:
    """A scored folder with one selection."""
    score_run(open_session(recipe(**overrides), RunFolder(folder), command="test"), progress=False)
    if selection is None:
        prune_run(RunFolder(folder), PruneSpec(name="keep-50", score="el2n", keep=0.5), command="test")
    else:
        RunFolder(folder).save_selection(selection)
    return folder


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scored(tmp_path_factory.mktemp("pruned") / "run", evaluate__models=[], score__seeds=1)


@pytest.fixture(scope="module")
def whole(pruned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation with both models that nothing interrupted, which no test changes."""
    folder = Path(shutil.copytree(pruned, tmp_path_factory.mktemp("whole") / "run"))
    run(folder)
    return folder


@pytest.fixture
def folder(pruned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pruned, tmp_path / "run"))


def tables(folder: Path) -> dict[str, EvaluationTable]:
    return {name: RunFolder(folder).load_evaluation(name) for name in RunFolder(folder).evaluations()}


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_each_model_has_an_evaluation_of_its_own(whole: Path) -> None:
    found = tables(whole)
    assert [(name, table.model, table.transfer_of) for name, table in found.items()] == [
        ("main", SCORER, None),
        ("main.test_byobnet", OTHER, "main"),
    ]
    own, other = found.values()
    assert list(own.arms) == list(other.arms) == ARMS and own.arm_selections == other.arm_selections
    for one, two in zip(own.results, other.results, strict=True):
        assert (one.arm, one.seed, one.train_ids_digest, one.steps) == (two.arm, two.seed, two.train_ids_digest, two.steps)
        assert one.p_label.tobytes() != two.p_label.tobytes() and (one.model, two.model) == (SCORER, OTHER)
        assert set(one.plan) - set(two.plan) == set(OF_THE_SCORER), "what was decided for the scorer's model says nothing of another"


def test_they_are_those_of_a_run_of_that_model(whole: Path, tmp_path: Path) -> None:
    """The same rows, seeds and training, in a folder whose scorer the other model was: the same bits."""
    chosen = RunFolder(whole).load_selection("keep-50")
    there = scored(tmp_path / "there", chosen, task__model=OTHER, evaluate__models=[], score__seeds=1)
    run(there, task__model=OTHER, evaluate__models=[])
    theirs, ours = tables(there)["main"], tables(whole)["main.test_byobnet"]
    assert theirs.model == OTHER and same(ours, theirs)
    fitted, start = (json.loads((whole / "models" / "main.test_byobnet" / name).read_text()) for name in ("fitted.json", "start.json"))
    assert {**RunFolder(there).fitted()} == {key: value for key, value in fitted.items() if key in RunFolder(there).fitted()}
    kept = RunFolder(there).start()
    assert kept is not None and start["logits"] == kept["logits"] and (start["model"], start["of"]) == (OTHER, "main")


def test_the_scorers_own_evaluation_is_what_it_was(folder: Path, whole: Path) -> None:
    run(folder, evaluate__models=[])
    assert same(tables(folder)["main"], tables(whole)["main"])


def test_model_args_are_the_scorers(tmp_path: Path) -> None:
    made = recipe(task__model_args={"drop_path_rate": 0.1})
    session = open_session(made, RunFolder(tmp_path / "run"), command="test")
    (other,) = evaluate.further(session)
    assert session.recipe.task.model_args == {"drop_path_rate": 0.1} and other.recipe.task.model_args == {}


def test_the_report_counts_selections_times_models(folder: Path, whole: Path) -> None:
    report = report_run(recipe(), RunFolder(shutil.copytree(whole, folder / "whole")))
    assert [(entry["n_comparisons"], entry["n_models"]) for entry in report.evaluations] == [(2, 2), (2, 2)]
    assert [entry["verdict_confidence"] for entry in report.evaluations] == pytest.approx([95, 95])
    (group,) = report.transfer
    assert [(row["selection"], row["model"]) for row in group["rows"]] == [("keep-50", SCORER), ("keep-50", OTHER)]


# Interrupted, shared, extended


def test_it_goes_on_in_the_second_model(folder: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[tuple[str, str]] = []
    original = evaluate.retrain

    def counted(session: Any, *given: Any, **named: Any) -> Any:
        if len(trained) == 6:
            raise KeyboardInterrupt
        trained.append((session.recipe.task.model, named["arm"]))
        return original(session, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "retrain", counted)
        with pytest.raises(KeyboardInterrupt):
            run(folder)
    assert RunFolder(folder).evaluations() == ["main"]
    monkeypatch.setattr(evaluate, "retrain", lambda *given, **named: trained.append(("again", named["arm"])) or original(*given, **named))
    run(folder)
    assert [arm for model, arm in trained if model == "again"] == ARMS[2:]
    assert all(same(table, tables(whole)[name]) for name, table in tables(folder).items()) and len(tables(folder)) == 2


def test_launches_share_all_models(folder: Path, whole: Path) -> None:
    assert run(folder, (1, 2)) is None and tables(folder) == {}
    assert run(folder, (2, 2)) is not None
    assert all(same(table, tables(whole)[name]) for name, table in tables(folder).items()) and len(tables(folder)) == 2


def test_whoever_is_last_writes_every_table(folder: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One launch ends the first model while the other one is at the second: each alone has seen one of the two unfinished."""
    original, waiting = evaluate.judge, [True]

    def both_models_of_the_other_first(session: Any, *given: Any, **named: Any) -> Any:
        if session.transfer_of and waiting:
            waiting.clear()
            run(folder, (2, 2))
        return original(session, *given, **named)

    monkeypatch.setattr(evaluate, "judge", both_models_of_the_other_first)
    assert run(folder, (1, 2)) is not None, "the first table, unfinished when this launch was at it, has been finished by the other one"
    assert all(same(table, tables(whole)[name]) for name, table in tables(folder).items()) and len(tables(folder)) == 2


def test_a_further_model_can_be_asked_for_later(folder: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(folder, evaluate__models=[])
    seen: list[str] = []
    original = evaluate.retrain
    monkeypatch.setattr(evaluate, "retrain", lambda s, *given, **named: seen.append(s.recipe.task.model) or original(s, *given, **named))
    run(folder)
    assert seen == [OTHER] * 4 and same(tables(folder)["main.test_byobnet"], tables(whole)["main.test_byobnet"])


# Other models under the same name, damage


def test_a_name_stands_for_one_model(folder: Path, whole: Path) -> None:
    copy = Path(shutil.copytree(whole, folder / "whole"))
    with pytest.raises(
        StaleRecordError, match=r"'main\.test_byobnet' in .* has trained timm:test_byobnet, and this is timm:test_resnet; set"
    ):
        run(copy, evaluate__name="main.test_byobnet", evaluate__models=[])
    # The other way round, where the run's own model came first.
    run(folder, evaluate__name="main.test_byobnet", evaluate__models=[])
    with pytest.raises(StaleRecordError, match=r"has trained timm:test_resnet, and this is timm:test_byobnet"):
        run(folder)


def test_a_further_model_that_has_changed_is_refused(folder: Path, whole: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "copy"))
    kept = RunFolder(copy).start("main.test_byobnet")
    assert kept is not None
    (copy / "models" / "main.test_byobnet" / "start.json").unlink()
    RunFolder(copy).save_start({**kept, "logits": [[value + 1 for value in row] for row in kept["logits"]]}, "main.test_byobnet")
    with pytest.raises(
        StaleRecordError, match=r"evaluation main\.test_byobnet in .* was begun with another model.*set evaluate\.name to a"
    ):
        run(copy)


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_damage_is_made_anew(whole: Path, tmp_path: Path, damage: str) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "copy"))
    before = everything(copy)
    broken = [copy / "models/main.test_byobnet/fitted.json", copy / "evaluations/main.test_byobnet/arms/keep-50-10000.safetensors"]
    for path in broken:
        path.unlink() if damage == "gone" else path.write_bytes(path.read_bytes()[:-20])
    run(copy)
    assert same(tables(copy)["main.test_byobnet"], tables(whole)["main.test_byobnet"])
    name = "models/main.test_byobnet/fitted.json"
    assert everything(copy)[name] == before[name]


# Found before anything is written


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    values = with_overrides(VALUES, {"prune": [{"name": "keep-50", "score": "el2n", "keep": 0.5}], "source.limit": 40, "evaluate.seeds": 1})
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ("[timm:test_byobnetz]", "evaluate.models timm:test_byobnetz: timm has no model 'test_byobnetz'; did you mean test_byobnet"),
        ("[resnet18]", "evaluate.models resnet18: 'resnet18' is not supported; write timm:NAME"),
        ("[timm:test_vit]", "evaluate.models timm:test_vit: "),
        ("[transformers:bert]", "evaluate.models transformers:bert: "),
        ("[timm:test_resnet]", "evaluate.models names timm:test_resnet, the model of the task, with which evaluation trains anyway"),
        (
            "[timm:a, transformers:A]",
            "models: timm:a and transformers:A would both be evaluation main.a; leave one out, or evaluate it under",
        ),
        ("timm:test_byobnet", "evaluate.models: input should be a valid tuple"),
    ],
)
@pytest.mark.parametrize("verb", [["run"], ["score"], ["run", "--dry-run"]])
def test_what_cannot_work_is_said_first(toy: Path, call: Call, models: str, said: str, verb: list[str]) -> None:
    code, out, err = call(*verb, "toy.yaml", f"evaluate.models={models}")
    assert (code, out) == (2, "") and err.startswith("hf-datadiet: ") and said in err and err.count("\n") == 1
    assert "task.model " not in err, "the key to mend is another"
    assert [path.name for path in toy.iterdir()] == ["toy.yaml"]


def test_a_finished_run_is_left_as_it_is(pruned: Path, call: Call) -> None:
    before = everything(pruned)
    assert call("evaluate", str(pruned), "evaluate.models=[timm:test_byobnetz]")[0] == 2
    assert everything(pruned) == before


def test_a_task_that_makes_its_own_model_knows_no_others(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"x": [[0.0, 1.0], [1.0, 0.0]] * 8, "label": [0, 1] * 8})
    task = CallableTask(lambda n: torch.nn.Linear(2, n), lambda found: torch.tensor([row["x"] for row in found]))
    with pytest.raises(RecipeError, match=r"evaluate\.models timm:resnet18: the task makes its model itself.*leave evaluate\.models out"):
        score_dataset(rows, task=task, options={"evaluate.models": ["timm:resnet18"]}, out=tmp_path / "run", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_python_evaluates_one_model_at_a_time() -> None:
    rows = Dataset.from_dict({"x": [0.0], "label": [0]})
    with pytest.raises(RecipeError, match="call it once for each"):
        evaluate_selections(rows, [], options={"evaluate.models": ["timm:resnet18"]})


# What is said of it


def test_a_dry_run_counts_every_model(toy: Path, call: Call) -> None:
    one = json.loads(call("run", "toy.yaml", "--dry-run", "--format", "json")[1])
    code, out, _ = call("run", "toy.yaml", "--dry-run", "--format", "json", f"evaluate.models=[{OTHER}]", "evaluate.redrawn=true")
    two = json.loads(out)
    # 40 rows in batches of 16, one epoch: three steps; twice two for each of the sets of 20.
    assert code == 0 and one["evaluate_steps"] == 3 + 3 * 2 and two["evaluate_steps"] == 2 * (3 + 4 * 2)
    assert (one["models"], two["models"]) == (1, 2) and "redrawn-20" in two["arms"]
    text = call("run", "toy.yaml", "--dry-run", f"evaluate.models=[{OTHER}]")[1]
    assert "1 seeds x 4 arms (full 40, keep-50 20, random-20 20, stratified-20 20) x 2 models = 18 steps" in text


def test_status_counts_every_model(toy: Path, call: Call) -> None:
    asked = [f"evaluate.models=[{OTHER}]", "evaluate.redrawn=true"]
    assert call("score", "toy.yaml", *asked, "--out", "run")[0] == 0
    assert call("prune", "run", "--name", "keep-50", "--score", "el2n", "--keep", "0.5")[0] == 0
    seen = status_of(RunFolder("run"))
    arms = ["full", "keep-50", "random-20", "stratified-20", "redrawn-20"]
    assert {name: list(found) for name, found in seen.evaluations.items()} == {"main": arms, "main.test_byobnet": arms}
    assert call("evaluate", "run")[0] == 0
    assert status_of(RunFolder("run")).next.startswith("read ")
    # Asked for beside the recipe: what is begun is gone on with.
    assert call("evaluate", "run", "evaluate.name=later", "evaluate.models=[timm:test_efficientnet]", "evaluate.redrawn=false")[0] == 0
    (Path("run") / "evaluations" / "later.test_efficientnet" / "arms" / "full-10000.safetensors").unlink()
    step = status_of(RunFolder("run")).next
    assert step == "hf-datadiet evaluate run evaluate.name=later 'evaluate.models=[timm:test_efficientnet]'"


def test_the_console_says_which_model(toy: Path, call: Call) -> None:
    code, out, err = call("run", "toy.yaml", f"evaluate.models=[{OTHER}]", "--out", "run")
    assert code == 0 and "evaluate  main.test_byobnet keep-50" in err
    assert f"Accuracy of {OTHER} on 36 rows" in out and f"The selections by scores of {SCORER}, with each model" in out
    report = Path("run/report.md").read_text()
    assert "## Transfer main" in report and "allows for 2 comparisons, of selections with 2 models (Bonferroni)" in report


# Texts: another model, other tokens


def text_model(folder: Path) -> str:
    """A small pretrained classifier with tokens of its own."""
    words = learn(iter(["a cat", "number one two three"] * 20), 300)
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(3)
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "max_position_embeddings": 16}
    BertForSequenceClassification(BertConfig(**small, vocab_size=len(tokenizer), num_labels=2)).save_pretrained(folder)
    return "transformers:./pretrained"


def test_a_pretrained_model_reads_its_own_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    monkeypatch.chdir(tmp_path)
    texts().to_parquet("rows.parquet")
    model = text_model(tmp_path / "pretrained")
    values = with_overrides(TEXTS, {"evaluate.models": [model]})
    Path("ours.yaml").write_text(yaml.safe_dump(values))
    assert call("run", "ours.yaml", "--out", "ours")[0] == 0
    fitted = [RunFolder("ours").fitted(name) for name in (None, "main.pretrained")]
    assert fitted[0]["fingerprint"] != fitted[1]["fingerprint"] and fitted[0]["tokenizer"] and fitted[1]["tokenizer"] is None

    own = {"task.model": model, "task.model_args": {}, "task.tokenizer": "./pretrained", "evaluate.models": [], "prune": []}
    theirs = recipe_from(with_overrides(TEXTS, own))
    score_run(open_session(theirs, RunFolder("theirs"), command="test"), progress=False)
    RunFolder("theirs").save_selection(RunFolder("ours").load_selection("keep-50"))
    table = evaluate.evaluate_run(open_session(theirs, RunFolder("theirs"), command="test"), progress=False)
    assert table is not None and same(RunFolder("ours").load_evaluation("main.pretrained"), table)


def test_a_text_without_a_token_of_another_model_is_found_before_scoring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    """None of the rows that are tried: the scorer's tokens know an empty text, those of the other model do not."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows").mkdir()
    rows = texts().to_dict()
    assert isinstance(rows, dict)
    rows["text"][3] = ""
    Dataset.from_dict(rows).to_parquet("rows/train.parquet")
    texts().to_parquet("rows/test.parquet")
    text_model(tmp_path / "pretrained")
    (tmp_path / "pretrained" / "tokenizer.json").unlink()
    plain_tokenizer(tmp_path / "pretrained", pad_token="<pad>", unk_token="<unk>")
    asked = {"source": {"path": "rows", "test": {"split": "test"}}, "evaluate.models": ["./pretrained"]}
    Path("mine.yaml").write_text(yaml.safe_dump(with_overrides(TEXTS, asked)))
    code, out, err = call("run", "mine.yaml", "--out", "run")
    assert (code, out) == (2, "") and "evaluate.models ./pretrained: row 3 has a text without any token" in err
    assert not Path("run").exists()


def test_a_model_without_weights_reads_the_tokens_of_the_recipe() -> None:
    task = TextTask(vocab_size=320)
    assert task.for_model("transformers:distilbert") == task
    assert task.for_model("transformers:org/name") == TextTask(vocab_size=320, tokenizer="org/name")
    with pytest.raises(RecipeError, match="not supported for text"):
        task.for_model("timm:resnet18")
