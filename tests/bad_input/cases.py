"""Every wrong input that is known, with what its one line must say. A new fault is one entry of `CASES`.

`outcome` carries a case out in a folder of its own, the same way for the test and for the printed table.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import io
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate.tracking
import pytest
import yaml
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

from hf_datadiet import add_scores, cli, prune_dataset, score_dataset
from hf_datadiet.errors import DataDietError
from hf_datadiet.store import RunFolder
from tests.synthetic import pictures

RECIPE: dict[str, Any] = {
    "source": {"sample": "digits", "test": {"fraction": 0.2}, "limit": 60},
    "task": {"kind": "image", "model": "timm:test_resnet", "training": {"epochs": 1, "batch_size": 32}},
    "score": {"scores": ["el2n", "margin"], "seeds": 1},
    "prune": [{"name": "keep-50", "score": "el2n", "keep": 0.5}],
    "evaluate": {"seeds": 1},
}

Prepare = Callable[[Path], None]
Patch = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Case:
    """One wrong input: `said` is part of the line.

    `command`: words after `hf-datadiet`, or a call from Python (its text is then the case's `python`). It is carried out in an
    empty folder with `toy.yaml` in it (`RECIPE`), after `prepare`; `patch` plays a faulty machine. `begun`: the fault comes after
    work has begun, so that progress stands before the line and a run folder stays to go on with.
    """

    fault: str
    command: str | Callable[[], object]
    said: str
    prepare: Prepare = lambda folder: None
    patch: Patch = lambda monkeypatch: None
    begun: bool = False
    code: int = 2
    python: str = ""

    @property
    def shown(self) -> str:
        """The command as a reader would type it."""
        return f"hf-datadiet {self.command}" if isinstance(self.command, str) else self.python


@dataclass(frozen=True)
class Outcome:
    """Exit code, stdout, stderr; content of every file before and after. From Python: code 2 and the error's line."""

    code: int
    out: str
    err: str
    before: dict[str, bytes]
    after: dict[str, bytes]


def outcome(case: Case, folder: Path) -> Outcome:
    """Carry the case out in this process, in an empty folder. What is neither an exit nor a `DataDietError` goes on up."""
    (folder / "toy.yaml").write_text(yaml.safe_dump(RECIPE))
    case.prepare(folder)
    before = contents(folder)
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.chdir(folder)
        case.patch(patch)
        try:
            if isinstance(case.command, str):
                patch.setattr(sys, "argv", ["hf-datadiet", *shlex.split(case.command)])
                cli.main()
            else:
                case.command()
        except SystemExit as end:
            code = end.code or 0
        except DataDietError as error:
            code = 2
            err.write(f"{type(error).__name__}: {error}\n")
    return Outcome(code, out.getvalue(), err.getvalue(), before, contents(folder))


def contents(folder: Path) -> dict[str, bytes]:
    """{path: content} of every file, and b"" for every folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


# Folders to be wrong about


@functools.cache
def _scored() -> Path:
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "toy.yaml").write_text(yaml.safe_dump(RECIPE))
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["hf-datadiet", "score", "toy.yaml"])
        cli.main()
    return folder / "runs" / "toy"


def scored(folder: Path) -> None:
    """runs/toy: 60 rows of digits, scored."""
    shutil.copytree(_scored(), folder / "runs" / "toy")


def damaged(folder: Path) -> None:
    """runs/toy, with a scores.parquet that was cut."""
    scored(folder)
    file = folder / "runs" / "toy" / "scores.parquet"
    file.write_bytes(file.read_bytes()[:100])


def rows(dataset: Dataset | DatasetDict) -> Prepare:
    """`data`: a dataset as save_to_disk writes it."""

    def prepare(folder: Path) -> None:
        dataset.save_to_disk(str(folder / "data"))

    return prepare


def file(name: str, content: bytes = b"") -> Prepare:
    """A file of that name and content."""

    def prepare(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return prepare


def labelled(values: list[Any], feature: Any) -> Dataset:
    """Pictures with these labels."""
    return pictures(len(values)).remove_columns("label").add_column("label", values).cast_column("label", feature)


def broken_image() -> Dataset:
    pixels = [{"bytes": b"no image at all" if row == 3 else _png(row), "path": None} for row in range(8)]
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    return Dataset.from_dict({"image": pixels, "label": [0, 1] * 4}, features=features)


def _png(row: int) -> bytes:
    buffer = io.BytesIO()
    pictures(8)[row]["image"].save(buffer, "png")
    return buffer.getvalue()


def null_text() -> Dataset:
    texts = [None if row == 5 else f"text number {row} of some words" for row in range(8)]
    features = Features({"text": Value("string"), "label": ClassLabel(names=["a", "b"])})
    return Dataset.from_dict({"text": texts, "label": [0, 1] * 4}, features=features)


DATA = "score toy.yaml source.sample=null source.limit=null source.test=null source.path=data"
SMALL = "{hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 1, intermediate_size: 16}"
TEXT = f"{DATA} task.kind=text task.model=transformers:bert 'task.model_args={SMALL}' task.vocab_size=300 task.max_length=8"


# Machines that fail


def failing(function: str, error: BaseException) -> Patch:
    """The function raises the error instead of doing its work."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    return lambda monkeypatch: monkeypatch.setattr(function, fail)


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first seed that is trained finds no room."""

    def sync(path: Path) -> None:
        if "seeds" in path.parts:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("hf_datadiet.durable.sync", sync)


def no_trackers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [])


# Calls from Python


def score_without_labels() -> None:
    score_dataset(pictures(8).remove_columns("label"), progress=False)


def add_to_other_rows() -> None:
    table = score_dataset(pictures(8), model="timm:test_resnet", seeds=1, epochs=1, progress=False)
    add_scores(pictures(8, seed=1), table)


def prune_to_nothing() -> None:
    prune_dataset(Dataset.from_dict({"row": range(1797)}), RunFolder(_scored()).load_scores(), score="el2n", keep=0.0)


CASES = [
    # The command
    Case("no command of that name", "scor toy.yaml", "scor"),
    Case("unknown option", "score toy.yaml --owt x", "--owt"),
    Case("no recipe given", "score", "RECIPE"),
    Case("recipe that does not exist", "score none.yaml", "cannot read recipe none.yaml: No such file or directory; give the path"),
    Case("recipe that is a folder", "score data", "cannot read recipe data: Is a directory", rows(pictures(6))),
    Case("recipe that may not be read", "score toy.yaml", "cannot read recipe toy.yaml: Permission denied",
         patch=failing("pathlib.Path.read_text", PermissionError(errno.EACCES, os.strerror(errno.EACCES), "toy.yaml"))),
    Case("recipe that is no YAML", "score bad.yaml", "recipe bad.yaml is not valid YAML, line 2",
         file("bad.yaml", b"source: [1\nscore: 2")),
    Case("recipe that is no text", "score bad.yaml", "it is not UTF-8 text", file("bad.yaml", b"\xff\xfe\x00")),
    Case("unknown key", "run toy.yaml score.sees=3", "score.sees: unknown key; did you mean seeds?"),
    Case("unknown key of the task", "score toy.yaml task.cropp=1", "task.cropp: unknown key; did you mean crop?"),
    Case("several faults at once", "run toy.yaml score.seeds=0 evaluate.match=x", "; evaluate.match: "),
    Case("override without a value", "score toy.yaml epochs", "'epochs' is no override; write key.sub=value"),
    Case("limit 0", "score toy.yaml --limit 0", "source.limit: input should be greater than or equal to 1, not 0"),
    Case("weights of an epoch that never comes", "score toy.yaml score.keep_weights=[99]",
         "score.keep_weights names epoch 99, but scoring runs end after 1"),
    Case("observing an epoch that never comes", "score toy.yaml score.observe_at=[7]", "score.observe_at names epoch 7"),
    Case("run without a selection", "run toy.yaml prune=[]", "the recipe makes no selection; add prune:"),
    Case("run without held-out rows", "run toy.yaml source.test=null", "holds no rows out to evaluate on; set source.test"),
    # The source
    Case("no source at all", "score toy.yaml source.sample=null", "the recipe names no source; set source.path"),
    Case("source that does not exist", "score toy.yaml source.sample=null source.path=nowhere", "source.path nowhere does not exist; pass"),
    Case("source by an unset variable", "score toy.yaml source.sample=null source.path=$NOT_SET_HERE/x", "uses an environment variable"),
    Case("source that is no parquet", "score toy.yaml source.sample=null source.path=x.parquet", "cannot read x.parquet: ",
         file("x.parquet", b"no parquet")),
    Case("sample that does not exist", "score toy.yaml source.sample=digit", "no embedded sample 'digit'; there are: digits"),
    Case("split that does not exist", "score toy.yaml source.split=dev", "source has no split 'dev'; it has: train; set source.split"),
    Case("held-out split that does not exist", f"{DATA} 'source.test={{split: dev}}'", "source.test.split 'dev' is no other split",
         rows(pictures(8))),
    Case("source without a row", DATA, "cannot read data: ", rows(pictures(8).select([]))),
    Case("no image column", DATA, "cannot tell the image column: candidates are none", rows(pictures(8).remove_columns("image"))),
    Case("two image columns", DATA, "cannot tell the image column: candidates are 2 (left, right)",
         rows(Dataset.from_dict(
             {"left": pictures(4)["image"], "right": pictures(4)["image"], "label": [0, 1, 0, 1]},
             features=Features({"left": Image(), "right": Image(), "label": ClassLabel(names=["a", "b"])}),
         ))),
    Case("column that does not exist", f"{DATA} source.columns.image=photo", "source.columns.image names 'photo'; the dataset has: image",
         rows(pictures(8))),
    Case("no text column", "score toy.yaml task.kind=text task.model=transformers:bert", "cannot tell the text column"),
    Case("no label column", DATA, "cannot tell the label column", rows(pictures(8).remove_columns("label"))),
    Case("labels that are no integers", DATA, "label column 'label' holds Value('float64')",
         rows(labelled([0.5, 1.5] * 4, Value("float64")))),
    Case("labels of one class", DATA, "has labels of fewer than two classes", rows(labelled([0] * 8, Value("int64")))),
    Case("no label at all", DATA, "has labels of fewer than two classes", rows(labelled([-1] * 8, ClassLabel(names=["a", "b"])))),
    Case("labels below -1", DATA, "holds -2..1 where 0..1 are classes", rows(labelled([0, 1, -2, 0, 1, 0, 1, 0], Value("int64")))),
    Case("image that is corrupt", DATA, "row 3", rows(broken_image())),
    Case("text that is null", TEXT, "row 5 ", rows(null_text())),
    # Names
    Case("score that does not exist", "score toy.yaml score.scores=[el3n]", "no score 'el3n'; did you mean el2n"),
    Case("task that does not exist", "score toy.yaml task.kind=imag", "did you mean image"),
    Case("model that does not exist", "score toy.yaml task.model=timm:resnet_18", "timm has no model 'resnet_18'; did you mean "),
    Case("library that does not exist", "score toy.yaml task.model=tim:resnet18", "task.model 'tim:resnet18' is not supported"),
    Case("model argument that does not exist", "score toy.yaml 'task.model_args={widht: 3}'", "widht"),
    Case("model type that does not exist", f"{TEXT} task.model=transformers:brt", "transformers has no model type 'brt'; did you mean ",
         rows(null_text().select([0, 1, 2, 3]))),
    Case("model folder that does not exist", f"{TEXT} task.model=transformers:./none task.tokenizer=train", "none",
         rows(null_text().select([0, 1, 2, 3]))),
    Case("texts longer than the model", f"{TEXT} task.max_length=600", "cannot take texts of 600",
         rows(null_text().select([0, 1, 2, 3]))),
    Case("optimizer that does not exist", "score toy.yaml task.training.optimizer.name=SDG", "torch.optim has no optimizer 'SDG'"),
    Case("optimizer with another's parameter", "score toy.yaml 'task.training.optimizer={name: AdamW, momentum: 0.9}'",
         "AdamW does not take these parameters"),
    Case("plug-in without leave", "score toy.yaml score.scores=[tests.test_cli:PLUGIN]", "allow it with --allow-plugins"),
    Case("plug-in that does not import", "score toy.yaml --allow-plugins score.scores=[no.such:SCORE]",
         "does not import: ModuleNotFoundError"),
    Case("strategy without leave", "run toy.yaml prune.0.strategy=tests.test_prune:From", "allow it with --allow-plugins"),
    Case("tracker that is not installed", "score toy.yaml tracker=trackio", "tracker trackio is not installed; pip install trackio",
         patch=no_trackers),
    # Selections, before anything is trained for them
    Case("keep of 0", "run toy.yaml prune.0.keep=0", "keep is 0, which keeps no row"),
    Case("keep above 1", "run toy.yaml prune.0.keep=1.5", "keep is 1.5, a fraction above 1.0"),
    Case("keep above N", "run toy.yaml prune.0.keep=61", "keep is 61, but only 60 rows are labelled and scored"),
    Case("keep of words", "run toy.yaml prune.0.keep=half", "'half' is no budget; give a fraction such as 0.5"),
    Case("threshold without a bound", "run toy.yaml 'prune=[{name: a, keep: {score: el2n}}]'", "a threshold names its score and a bound"),
    Case("selection by a score that is not made", "run toy.yaml prune.0.score=grand",
         "no score column 'grand'; this table has: el2n, margin"),
    Case("strategy that does not exist", "run toy.yaml prune.0.strategy=hardst", "did you mean hardest"),
    Case("strategy's parameter that does not exist", "run toy.yaml prune.0.skp=0.1", "hardest has no parameter 'skp'"),
    Case("selection named like an arm", "run toy.yaml prune.0.name=random-30", "'random-30' is the name of an arm"),
    Case("two selections of one name", "run toy.yaml 'prune=[{name: a, keep: 0.5},{name: a, keep: 0.4}]'", "each selection needs a name"),
    Case("selection outside the run folder", "prune runs/toy --name ../x --keep 0.5 --score el2n", "prune.0.name: ", scored),
    Case("threshold that nothing passes", "prune runs/toy --name a --keep '{score: el2n, below: -1}'", "no row passes the threshold",
         scored),
    Case("keep above N, of a run", "prune runs/toy --name a --keep 61 --score el2n", "keep is 61, but only 60 rows", scored),
    # The run folder
    Case("output folder of another recipe", "score toy.yaml task.crop=1", "holds another run (task.crop: None there, 1 asked)", scored),
    Case("output folder of another source", "score toy.yaml source.sample=docstrings task.kind=text task.model=transformers:bert",
         "source_digest: ", scored),
    Case("output folder that is a file", "score toy.yaml --out toy.yaml", "toy.yaml is a file and no folder; choose another --out"),
    Case("output folder with other things in it", "score toy.yaml --out .", "is not empty and holds no run; choose another --out"),
    Case("output folder below a file", "score toy.yaml --out toy.yaml/run", "Not a directory; choose another place"),
    Case("run folder that is none", "status data", "data holds no run; score one first", rows(pictures(6))),
    Case("evaluation without a selection", "evaluate runs/toy", "has no selection to evaluate; run hf-datadiet prune first", scored),
    Case("record that is damaged", "prune runs/toy --name a --keep 0.5 --score el2n", "scores.parquet is missing or damaged; delete it",
         damaged),
    Case("recipe that would be overwritten", "cp digits toy.yaml", "toy.yaml exists; give another name: hf-datadiet cp digits TARGET"),
    Case("recipe that does not come along", "cp digts", "no recipe 'digts' comes along; did you mean digits?"),
    # While it runs
    Case("training that diverges", "score toy.yaml task.training.optimizer.lr=1e30 task.training.epochs=2",
         "diverged", begun=True),
    Case("full disk", "score toy.yaml", "No space left on device; free some space, then give the same command again",
         patch=full_disk, begun=True),
    Case("folder that may not be written", "score toy.yaml", "runs: Permission denied; get the right to it, or choose another place",
         patch=failing("pathlib.Path.mkdir", PermissionError(errno.EACCES, os.strerror(errno.EACCES), "runs"))),
    Case("Ctrl-C", "score toy.yaml", "interrupted; the same command goes on from the last finished seed",
         patch=failing("hf_datadiet.score.score_seed", KeyboardInterrupt()), begun=True, code=130),
    # From Python
    Case("dataset without labels", score_without_labels, "cannot tell the label column", python="score_dataset(dataset)"),
    Case("empty split", lambda: score_dataset(pictures(8).select([])), "split 'train' is empty; choose another with source.split",
         python="score_dataset(dataset)"),
    Case("scores of another dataset", add_to_other_rows, "StaleRecordError: ", python="add_scores(other, table)"),
    Case("keep of 0, from Python", prune_to_nothing, "keep is 0.0, which keeps no row", python="prune_dataset(dataset, table, keep=0.0)"),
]  # fmt: skip
