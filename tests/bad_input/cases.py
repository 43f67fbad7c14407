"""Every wrong input that is known, with what its one line must say. A new fault is one entry of `CASES`."""

from __future__ import annotations

import errno
import os

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

from hf_datadiet import add_scores, prune_dataset, score_dataset
from hf_datadiet.store import RunFolder
from tests.bad_input.case import Case
from tests.bad_input.folders import (
    all_of,
    broken_images,
    damaged,
    digits_run,
    diverging,
    failing,
    file,
    full_disk,
    labelled,
    logits,
    model,
    no_trackers,
    one_of_four,
    online,
    rows,
    scored,
    scored_from_logits,
    scored_with_noise,
    tables,
    texts,
    two_gpus,
    without_row_2,
)
from tests.synthetic import pictures

NORMAL = np.random.default_rng(0).normal(size=(2, 9, 3))
"""Logits of 2 epochs, 9 rows, 3 classes."""

NO_SAMPLE = "score toy.yaml source.sample=null"
FROM_LOGITS = "score --from-logits logits.npy --labels labels.npy"
PRUNE = "prune runs/toy --name a --score el2n"


# Calls from Python


def score_without_labels() -> None:
    score_dataset(pictures(8).remove_columns("label"), progress=False)


def score_with_nothing_held_out() -> None:
    splits = DatasetDict(train=pictures(8), test=pictures(8).select([]))
    score_dataset(splits, options={"source.test.split": "test"}, progress=False)


def add_to_other_rows() -> None:
    table = score_dataset(pictures(8), model="timm:test_resnet", seeds=1, epochs=1, progress=False)
    add_scores(pictures(8, seed=1), table)


def add_to_other_splits() -> None:
    add_scores(DatasetDict(test=pictures(8)), digits_run())


def prune_to_nothing() -> None:
    prune_dataset(Dataset.from_dict({"row": range(1797)}), RunFolder(digits_run()).load_scores(), score="el2n", keep=0.0)


CASES = [
    # The command
    Case("no command of that name", "scor toy.yaml", "scor"),
    Case("unknown option", "score toy.yaml --owt x", "--owt"),
    Case("no recipe given", "score", "nothing to score is named; give a RECIPE, or --from-logits FILE"),
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
    Case("nothing known to be done with bad rows", "score toy.yaml --on-bad-row drop", "'drop' is not one of 'error', 'skip'"),
    Case("weights of an epoch that never comes", "score toy.yaml score.keep_weights=[99]",
         "score.keep_weights names epoch 99, but scoring runs end after 1"),
    Case("observing an epoch that never comes", "score toy.yaml score.observe_at=[7]", "score.observe_at names epoch 7"),
    Case("run without a selection", "run toy.yaml prune=[]", "the recipe makes no selection; add prune:"),
    Case("run without held-out rows", "run toy.yaml source.test=null", "holds no rows out to evaluate on; set source.test"),
    # The source
    Case("no source at all", NO_SAMPLE, "the recipe names no source; set source.path"),
    Case("two sources", "score toy.yaml source.repo=org/toys", "source: give one of sample, path and repo"),
    Case("source that does not exist", f"{NO_SAMPLE} source.path=nowhere", "source.path nowhere does not exist; pass"),
    Case("source by an unset variable", f"{NO_SAMPLE} source.path=$NOT_SET_HERE/x", "uses an environment variable that is not set; set it"),
    Case("source of another kind", f"{NO_SAMPLE} source.path=toy.yaml",
         "source.path toy.yaml is no data file; give one of .parquet, .csv, .json, .jsonl, or a folder"),
    Case("source that is no parquet", f"{NO_SAMPLE} source.path=x.parquet", "; write it again, or pass another: source.path=FILE",
         file("x.parquet", b"no parquet")),
    Case("folder without data", "score images.yaml",
         "cannot read data: it has no data files; pass source.path=FOLDER with .parquet, .csv, .json, .jsonl files or images",
         file("data/notes.md", b"# Notes")),
    Case("folder that save_to_disk did not finish", "score images.yaml", "cannot read data: ", file("data/state.json", b"{}")),
    Case("folder without a row", "score images.yaml", "a split of it has no rows, which datasets cannot read; leave that split out",
         tables(train=pictures(4).select([]))),
    Case("saved folder without a row", "score images.yaml", "cannot read data: a split of it has no rows", rows(pictures(8).select([]))),
    Case("sample that does not exist", "score toy.yaml source.sample=digit", "no embedded sample 'digit'; there are: digits"),
    Case("Hub name, offline and not cached", f"{NO_SAMPLE} source.repo=org/toys",
         "org/toys at main is not whole in the cache and the Hub cannot be reached; go online for the first time"),
    Case("Hub name that is none", f"{NO_SAMPLE} 'source.repo=no name/at all'", "is no name of a dataset on the Hub; write org/name"),
    Case("repository that does not exist", f"{NO_SAMPLE} source.repo=org/none",
         "the Hub has no dataset org/none, or it is private; check source.repo, or log in: hf auth login", patch=online),
    Case("repository that is gated", f"{NO_SAMPLE} source.repo=org/gated",
         "org/gated is gated; ask for access on its page, then log in: hf auth login", patch=online),
    Case("revision that does not exist", f"{NO_SAMPLE} source.repo=org/toys source.revision=v9",
         "org/toys has no revision 'v9'; set source.revision to a branch, a tag or a whole commit sha", patch=online),
    Case("config that does not exist", f"{NO_SAMPLE} source.repo=org/toys source.config=b",
         "org/toys has no config 'b'; set source.config to one of: a", patch=online),
    Case("split that does not exist", "score toy.yaml source.split=dev", "source has no split 'dev'; it has: train; set source.split"),
    Case("held-out split that does not exist", "score images.yaml source.test.split=dev",
         "source.test.split 'dev' is no other split; there are: test",
         rows(DatasetDict(train=pictures(8), test=pictures(4)))),
    Case("held-out split where there is one split", "score images.yaml source.test.split=dev", "none, use source.test.fraction=0.2",
         rows(pictures(8))),
    Case("held-out split without a row", "score images.yaml source.test.split=test", "cannot read data: a split of it has no rows",
         tables(train=pictures(8), test=pictures(4).select([]))),
    # Its columns
    Case("no image column", "score images.yaml", "cannot tell the image column: candidates are none",
         rows(pictures(8).remove_columns("image"))),
    Case("two image columns", "score images.yaml",
         "cannot tell the image column: candidates are 2 (left, right); name it with source.columns.image=NAME",
         rows(Dataset.from_dict(
             {"left": pictures(4)["image"], "right": pictures(4)["image"], "label": [0, 1, 0, 1]},
             features=Features({"left": Image(), "right": Image(), "label": ClassLabel(names=["a", "b"])}),
         ))),
    Case("column that does not exist", "score images.yaml source.columns.image=photo",
         "source.columns.image names 'photo'; the dataset has: image",
         rows(pictures(8))),
    Case("no text column", "score toy.yaml task.kind=text task.model=transformers:bert", "cannot tell the text column"),
    Case("two text columns", "score texts.yaml", "cannot tell the text column: candidates are 2 (body, title)",
         rows(texts().rename_column("text", "body").add_column("title", [f"title {row}" for row in range(8)]))),
    Case("no label column", "score images.yaml", "cannot tell the label column: candidates are none",
         rows(pictures(8).remove_columns("label"))),
    Case("label column that does not exist", "score images.yaml source.columns.label=kind",
         "source.columns.label names 'kind'; the dataset has: image, label", rows(pictures(8))),
    Case("labels that are no integers", "score images.yaml", "label column 'label' holds 0.5, which is no class; labels are",
         rows(labelled([0.5, 1.5] * 4, Value("float64")))),
    Case("labels that are all different texts", "score images.yaml", "holds 8 texts, all different, and no classes; name another",
         rows(labelled([f"row {row}" for row in range(8)], Value("string")))),
    Case("labels of one class", "score images.yaml", "has labels of fewer than two classes; name another: source.columns.label=NAME",
         rows(labelled([0] * 8, Value("int64")))),
    Case("no label at all", "score images.yaml", "has labels of fewer than two classes",
         rows(labelled([-1, None] * 4, ClassLabel(names=["a", "b"])))),
    Case("labels below -1", "score images.yaml", "holds -2..1 where 0..1 are classes; use these, and null or -1 for no label",
         rows(labelled([0, 1, -2, 0, 1, 0, 1, 0], Value("int64")))),
    Case("id column that does not exist", "score images.yaml source.id_column=uid",
         "source.id_column names 'uid'; the dataset has: image, label",
         rows(pictures(8))),
    Case("ids that are no ids", "score images.yaml source.id_column=label", "ids are integers or strings", rows(pictures(8))),
    Case("ids that are doubled", "score images.yaml source.id_column=uid",
         "source.id_column 'uid' has u1 in rows 1 and 5; every row needs an id of its own",
         rows(pictures(8, uid=["u0", "u1", "u2", "u3", "u4", "u1", "u6", "u7"]))),
    Case("ids that are null", "score images.yaml source.id_column=uid",
         "source.id_column 'uid' is null in 2 rows; give every row an id, or leave id_column out",
         rows(pictures(8, uid=[0, 1, None, 3, 4, 5, 6, None]))),
    # Its rows
    Case("images that are corrupt", "score images.yaml",
         "2 rows cannot be read: 3 (cannot identify image file), 5 (cannot identify image file); mend the data, or leave these rows "
         "without a score: source.on_bad_row=skip (--on-bad-row skip)", rows(broken_images(3, 5))),
    Case("text that is null", "score texts.yaml", "1 row cannot be read: 5 (text is null); mend the data", rows(texts(5))),
    Case("no row that can be read", "score images.yaml --on-bad-row skip", "no row can be read (cannot identify image file); mend the data",
         rows(broken_images(*range(8)))),
    # Names
    Case("score that does not exist", "score toy.yaml score.scores=[el3n]", "no score 'el3n'; did you mean el2n"),
    Case("task that does not exist", "score toy.yaml task.kind=imag", "did you mean image"),
    Case("optimizer that does not exist", "score toy.yaml task.training.optimizer.name=SDG", "torch.optim has no optimizer 'SDG'"),
    Case("optimizer with another's parameter", "score toy.yaml 'task.training.optimizer={name: AdamW, momentum: 0.9}'",
         "AdamW does not take these parameters"),
    Case("optimizer that needs a closure", "score toy.yaml 'task.training.optimizer={name: LBFGS}'",
         "LBFGS evaluates a batch several times"),
    Case("score from outside without leave", "score toy.yaml score.scores=[tests.test_cli:PLUGIN]", "allow it with --allow-plugins"),
    Case("task from outside without leave", "score toy.yaml task.kind=my_module:TASK", "allow it with --allow-plugins"),
    Case("strategy from outside without leave", "run toy.yaml prune.0.strategy=tests.test_prune:From", "allow it with --allow-plugins"),
    Case("score from outside that does not import", "score toy.yaml --allow-plugins score.scores=[no.such:SCORE]",
         "does not import: ModuleNotFoundError"),
    Case("tracker that is not installed", "score toy.yaml tracker=trackio", "tracker trackio is not installed; pip install trackio",
         patch=no_trackers),
    # Models
    Case("timm model that does not exist", "score toy.yaml task.model=timm:resnet_18",
         "timm has no model 'resnet_18'; did you mean resnet18"),
    Case("type of model that does not exist", "score texts.yaml task.model=transformers:brt",
         "transformers has no model type 'brt'; did you mean bert", rows(texts())),
    Case("type of model for other data", "score toy.yaml task.model=transformers:bert", "transformers has no image classification for"),
    Case("model on the Hub, offline and not cached", "score toy.yaml task.model=transformers:no/such",
         "it is not in the local cache and the Hub cannot be reached; check the name, go online once, or give a ./folder"),
    Case("model folder that does not exist", "score texts.yaml task.model=./none", "task.model: there is no folder ./none; name another",
         rows(texts())),
    Case("library that does not exist", "score toy.yaml task.model=tim:resnet18",
         "task.model 'tim:resnet18' is not supported; write timm:NAME"),
    Case("model argument that does not exist", "score toy.yaml 'task.model_args={widht: 3}'", "'widht'; mend task.model_args"),
    Case("model argument of transformers that does not exist", "score texts.yaml task.model_args.hidden_sizes=8",
         "task.model_args.hidden_sizes: bert has no such key; did you mean hidden_size?", rows(texts())),
    Case("model arguments that do not fit together", "score texts.yaml task.model_args.num_attention_heads=3", "; mend task.model_args",
         rows(texts())),
    Case("images too small for the model", "score toy.yaml task.model=transformers:vit", "cannot take 8 x 8 images ("),
    Case("images too small for the weights", "score toy.yaml task.model=./vit", "; set task.image_size=16", model("vit")),
    Case("model folder with a pickle", "score toy.yaml task.model=./pickled",
         "pytorch_model.bin, which can run code when it is read: refused; convert them", model("pickled")),
    Case("model that needs code of its own", "score toy.yaml task.model=./code",
         "it needs code of its own (auto_map in config.json), which is never run here", model("code")),
    Case("weights for other tokens", "score texts.yaml task.model=./bert",
         "is pretrained on its own tokens; set task.tokenizer=", all_of(rows(texts()), model("bert"))),
    Case("tokenizer without a pad token", "score texts.yaml task.tokenizer=./no-pad", "has no pad token; add one",
         all_of(rows(texts()), model("no-pad"))),
    Case("tokenizer on the Hub, offline and not cached", "score texts.yaml task.tokenizer=no/such",
         "task.tokenizer no/such cannot be loaded: it is not in the local cache", rows(texts())),
    Case("texts longer than the model", "score texts.yaml task.max_length=600",
         "cannot take texts of 600 of these tokens", rows(texts())),
    # Selections, before anything is trained for them
    Case("keep of 0", "run toy.yaml prune.0.keep=0", "keep is 0, which keeps no row; give a fraction above 0"),
    Case("keep above 1", "run toy.yaml prune.0.keep=1.5", "keep is 1.5, a fraction above 1.0; give"),
    Case("keep above N", "run toy.yaml prune.0.keep=61", "keep is 61, but only 60 rows are labelled and scored; give at most 60"),
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
    Case("keep above N, of a run", f"{PRUNE} --keep 61", "keep is 61, but only 60 rows", scored),
    Case("dataset of a run with label noise", f"{PRUNE} --keep 0.5 --write parquet",
         "its labels are not the source's; write a dataset from a run without source.label_noise", scored_with_noise),
    Case("dataset of a run from logits", f"{PRUNE} --keep 0.5 --write parquet",
         "this run was scored from logits and knows no dataset", scored_from_logits),
    # The run folder
    Case("output folder of another recipe", "score toy.yaml task.crop=1", "holds another run (task.crop: None there, 1 asked)", scored),
    Case("output folder of another source", "score toy.yaml source.sample=docstrings task.kind=text task.model=transformers:bert",
         "source_digest: ", scored),
    Case("output folder that is a file", "score toy.yaml --out toy.yaml", "toy.yaml is a file and no folder; choose another --out"),
    Case("output folder with other things in it", "score toy.yaml --out .", "is not empty and holds no run; choose another --out"),
    Case("output folder below a file", "score toy.yaml --out toy.yaml/run", "Not a directory; choose another place"),
    Case("run folder that is none", "status data", "data holds no run; score one first", rows(pictures(6))),
    Case("evaluation without a selection", "evaluate runs/toy", "has no selection to evaluate; run hf-datadiet prune first", scored),
    Case("evaluation with a tracker that is not installed", "evaluate runs/toy tracker=trackio", "tracker trackio is not installed", scored,
         patch=no_trackers),
    Case("evaluation that would change the scores", "evaluate runs/toy score.seeds=9",
         "score.seeds=9 has no effect on what was scored; only evaluate.KEY=VALUE can be set", scored),
    Case("evaluation of a run from logits", "evaluate runs/toy", "this run was scored from logits and knows no dataset to train on",
         scored_from_logits),
    Case("record that is damaged", f"{PRUNE} --keep 0.5", "scores.parquet is missing or damaged; score again", damaged),
    Case("recipe that would be overwritten", "cp digits toy.yaml", "toy.yaml exists; give another name: hf-datadiet cp digits TARGET"),
    Case("recipe that does not come along", "cp digts", "no recipe 'digts' comes along; did you mean digits?"),
    # Scores from logits
    Case("logits without labels", "score --from-logits logits.npy", "the logits come without labels; give integers [N]", logits(NORMAL)),
    Case("labels without logits", "score toy.yaml --labels labels.npy", "--labels goes with --from-logits", logits(NORMAL)),
    Case("logits that do not exist", FROM_LOGITS, "cannot read logits.npy: No such file or directory; write it with numpy.save"),
    Case("logits that are pickled", FROM_LOGITS, "it is no array of numbers in numpy's .npy format; write it with numpy.save",
         logits(np.array([NORMAL, None], object))),
    Case("logits of one epoch", FROM_LOGITS, "has shape [9, 3]; logits are [E epochs, N rows, C classes], C at least 2", logits(NORMAL[0])),
    Case("logits that are whole numbers", FROM_LOGITS, "holds int64; logits are floating point numbers", logits(NORMAL.astype(np.int64))),
    Case("logits that are not finite", FROM_LOGITS, "epoch 2 has logits that are not finite for example ids 4; leave that epoch out",
         logits(np.where(np.indices(NORMAL.shape)[1] * np.indices(NORMAL.shape)[0] == 4, np.nan, NORMAL))),
    Case("probabilities instead of logits", FROM_LOGITS, "holds probabilities: every row lies in [0, 1] and sums to 1; give logits",
         logits(np.exp(NORMAL) / np.exp(NORMAL).sum(-1, keepdims=True))),
    Case("labels of other rows", FROM_LOGITS, "there are 8 labels for 9 rows of logits.npy; give one for each row",
         logits(NORMAL, [0, 1] * 4)),
    Case("labels that are no class of the logits", FROM_LOGITS, "labels of example ids 4 are no class of the 3 in logits.npy",
         logits(NORMAL, [0, 1, 2, 0, 3, 2, 0, 1, 2])),
    Case("logits where an epoch misses a row", "score --from-logits logits.parquet", "logits.parquet: epoch 2 misses 2; every epoch has",
         without_row_2),
    Case("score that logits do not tell", f"{FROM_LOGITS} score.scores=[grand]",
         "grand needs grad_norms, which logits do not tell; leave it out",
         logits(NORMAL)),
    Case("training key beside logits", f"{FROM_LOGITS} task.model=x", "so task.model has no effect; only score.scores", logits(NORMAL)),
    Case("training option beside logits", f"{FROM_LOGITS} --limit 3", "are for trainings; leave them out with --from-logits",
         logits(NORMAL)),
    # Several processes
    Case("no process at all", "score toy.yaml --num-processes 0", "0 is not in the range x>=1"),
    Case("more processes than GPUs", "run toy.yaml --num-processes 3", "3 processes need 3 GPUs, and this machine shows 2; start 2",
         patch=two_gpus),
    Case("number that another launcher has decided", "score toy.yaml --num-processes 2", "has started 4; leave it out", patch=one_of_four),
    Case("part that is none of the whole", "score toy.yaml --share 5/4", "--share 5/4 is no part of a whole; give K/N with 1 <= K <= N"),
    # While it runs
    Case("training that diverges", "score toy.yaml task.training.optimizer.lr=1e30 task.training.epochs=2",
         "every seed diverged; seed 0: the training diverged in epoch 1 (loss nan); lower task.training.optimizer.lr", begun=True),
    Case("seed that diverges", "score toy.yaml score.seeds=2", "scores.parquet has the other 1 of 2 seeds", patch=diverging, begun=True),
    Case("one row and BatchNorm", "score toy.yaml --limit 1", "the model's BatchNorm cannot train on a batch of one row; give it two rows"),
    Case("full disk", "score toy.yaml", "No space left on device; free some space, then give the same command again",
         patch=full_disk, begun=True),
    Case("disk too small for the decoded images", "score toy.yaml", "No space left on device; free some space",
         patch=failing("os.posix_fallocate", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))),
    Case("folder that may not be written", "score toy.yaml", "runs: Permission denied; get the right to it, or choose another place",
         patch=failing("pathlib.Path.mkdir", PermissionError(errno.EACCES, os.strerror(errno.EACCES), "runs"))),
    Case("Ctrl-C", "score toy.yaml", "interrupted; the same command goes on where it stopped",
         patch=failing("hf_datadiet.score.score_seed", KeyboardInterrupt()), begun=True, code=130),
    # From Python
    Case("dataset without labels", score_without_labels, "cannot tell the label column", python="score_dataset(dataset)"),
    Case("empty split", lambda: score_dataset(pictures(8).select([])), "split 'train' is empty; choose another with source.split",
         python="score_dataset(dataset)"),
    Case("empty held-out split", score_with_nothing_held_out, "split 'test' is empty; choose another with source.test.split",
         python='score_dataset(splits, options={"source.test.split": "test"})'),
    Case("scores of another dataset", add_to_other_rows, "StaleRecordError: ", python="add_scores(other, table)"),
    Case("splits without the one that was scored", add_to_other_splits,
         "split 'train' was scored and this dataset has test; pass the dataset as it was loaded", python="add_scores(splits, table)"),
    Case("keep of 0, from Python", prune_to_nothing, "keep is 0.0, which keeps no row", python="prune_dataset(dataset, table, keep=0.0)"),
]  # fmt: skip
