"""What proves a publication: the records of a run that go along with its data, and the run folder that they make again.

    scores/SPLIT-*.parquet    config `scores`: every number of every example, also of each seed
    evidence/                 what a run folder has besides:
        scores.json           what the columns of `scores` are, of which source and seeds, and the seconds of each seed
        recipe.yaml           with names of files in the place of absolute paths
        fitted.json  plan.json  skipped.parquet
        selections/  evaluations/  tunings/    without what single trainings left behind
        report.json  report.md  pictures/      report.md names the files that there are

With ids only (`labels` False) no column of the source is among them: whoever has the source has the labels. What was found of a row is:
its scores, why it was dropped (which names its class where quotas were asked for), what was predicted of it.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from numpy.typing import NDArray

from hf_datadiet.durable import read_parquet, read_record, write_parquet, write_record, write_text
from hf_datadiet.errors import PublishError
from hf_datadiet.hub.published import EVIDENCE, SCORES, scores_meta, table_from
from hf_datadiet.hub.source import Pinned
from hf_datadiet.markdown import to_markdown
from hf_datadiet.recipe import Recipe
from hf_datadiet.recipe_yaml import kept_recipe, recipe_from, to_yaml
from hf_datadiet.records import Report, ScoreTable
from hf_datadiet.store import RunFolder

WHOLE = ("report.json", "plan.json", "skipped.parquet", "pictures/[!.]*", "selections/*/selection.parquet")
"""Files of a run folder that go along as they are; a name with a dot is one that somebody did not finish."""

JUDGED = ("results.parquet", "evaluation.json", "tuning.json")
"""Of an evaluation or a tuning, beside its predictions."""

VOCABULARY = "tokenizer"
"""What a task took from the data that is made of its words."""

NAMES = ("split", "columns", "id_column")
"""Keys of a recipe whose values are the source's own names, and no places, whatever they look like."""


def write_evidence(folder: RunFolder, table: ScoreTable, target: Path, *, labels: bool) -> None:
    """Write the records of a reported run below `target`, which is new. `table`: the scores of the folder."""
    for pattern in WHOLE:
        for path in sorted(folder.path.glob(pattern)):
            _copy(path, target / path.relative_to(folder.path))
    fitted = folder.fitted()
    write_record(target / "fitted.json", {**fitted, VOCABULARY: None} if VOCABULARY in fitted and not labels else fitted)
    for trials in (folder, folder.tunings):
        for name in trials.evaluations():
            place = trials.evaluation_path(name)
            for path in (place / each for each in JUDGED):
                if path.exists():
                    _copy(path, target / path.relative_to(folder.path))
            _write_predictions(place / "predictions.parquet", target / place.relative_to(folder.path) / "predictions.parquet", labels)
    taken = folder.taken() or {"repo": None, "revision": None, "seed_seconds": folder.seed_seconds(table.seeds)}
    write_record(target / "scores.json", {**scores_meta(table), "digest": table.digest, "labels": labels, "taken": taken})
    write_text(target / "recipe.yaml", to_yaml(without_places(kept_recipe(folder.path))))
    report = Report(**load_json(target / "report.json"))
    lying = {name: meaning for name, meaning in report.files.items() if list(target.glob(name))}
    write_text(target / "report.md", to_markdown(dataclasses.replace(report, files=lying)))


def _copy(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)


def _write_predictions(path: Path, target: Path, labels: bool) -> None:
    if labels:
        return _copy(path, target)
    predictions, meta = read_parquet(path)
    write_parquet(target, {name: predictions[name].combine_chunks() for name in predictions.column_names if name != "label"}, meta)


def without_places(recipe: Recipe) -> Recipe:
    """The recipe without the places of this machine: of an absolute path only the last name stays, wherever it stands."""
    return recipe_from(_without_places(recipe.to_dict()))


def _without_places(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: inner if key in NAMES else _without_places(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_places(inner) for inner in value]
    if isinstance(value, str) and re.match(r"[/~$]|\.\.?/|[A-Za-z]:[\\/]", value):
        return re.split(r"[\\/]", value.rstrip("\\/"))[-1] or "data"
    return value


def require_no_places(evidence: Path, recipe: Recipe, places: Sequence[Path]) -> None:
    """Raise `PublishError` if a record names a folder of this machine: provenance says what was done, not where or by whom.

    Looked for are `places` and the absolute paths in the recipe's task, as in a model's name; `without_places` has the source's.
    """
    # A root folder would be found everywhere.
    names = [str(place.absolute()) for place in [*places, *_absolute(recipe.to_dict()["task"])] if len(place.absolute().parts) > 1]
    for path in sorted(evidence.rglob("*")):
        said = _said(path)
        if found := next((name for name in names if re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])", said)), None):
            raise PublishError(
                f"evidence/{path.relative_to(evidence)} would publish the name of a folder here ({found}); name it otherwise, "
                "by a path that is relative to where you start"
            )


def _absolute(value: Any) -> Iterator[Path]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _absolute(inner)
    elif isinstance(value, str) and (found := re.fullmatch(r"(?:\w+:)?(/[^/].*)", value)):
        yield Path(found[1])


def _said(path: Path) -> str:
    """The words in a file."""
    if path.suffix in (".json", ".yaml", ".md", ".svg"):
        return path.read_text(encoding="utf-8")
    if path.suffix != ".parquet":
        return ""
    table = pq.read_table(path)
    texts = [name for name in table.column_names if not pa.types.is_primitive(table[name].type)]
    return f"{table.schema.metadata}" + "\n".join(str(value) for name in texts for value in table[name].unique().to_pylist())


def restore(
    published: Path, folder: RunFolder, *, taken: Mapping[str, Any], recipe: Recipe, labels: ScoredLabels | None = None
) -> ScoreTable:
    """Make the scores of a publication those of `folder`, a new one, and return them.

    `published`: the folder that the files of a commit lie in; `taken`: {"repo", "revision"} if they are taken from there; `recipe`: whose
    run it becomes. `labels`: those of the source, where none were published.
    """
    about = read_evidence(published)
    table = published_table(published, about, labels)
    evidence = published / EVIDENCE
    read_record(evidence / "fitted.json", "publish it again")  # before anything is written
    folder.claim(recipe.identity(), table.source, to_yaml(recipe))
    for name in ("fitted.json", "skipped.parquet"):
        if (evidence / name).exists():
            _copy(evidence / name, folder.path / name)
    folder.save_taken({**about["taken"], **taken})
    folder.save_scores(table)
    return table


def restore_judged(published: Path, folder: RunFolder, labels: ScoredLabels | None = None) -> None:
    """Put selections, evaluations and tunings of a publication into `folder` as well."""
    evidence = published / EVIDENCE
    for pattern in ("selections/*/selection.parquet", *(f"{kind}/*/{name}" for kind in ("evaluations", "tunings") for name in JUDGED)):
        for path in sorted(evidence.glob(pattern)):
            _copy(path, folder.path / path.relative_to(evidence))
    for path in sorted([*evidence.glob("evaluations/*/predictions.parquet"), *evidence.glob("tunings/*/predictions.parquet")]):
        predictions, meta = read_parquet(path)
        columns = {name: predictions[name].combine_chunks() for name in predictions.column_names}
        if "label" not in columns:
            # Between the ids and what was predicted, as `tables.pack_predictions` has it.
            ids = np.asarray(predictions["test_id"])
            known = _require(labels).of_tuning if path.parts[-3] == "tunings" else _require(labels).of_test
            columns["label"] = pa.array(known(ids))
        write_parquet(folder.path / path.relative_to(evidence), columns, meta)


@dataclasses.dataclass(frozen=True)
class ScoredLabels:
    """Labels by example id, from the source: `scored` int32 [n_rows] of the scored split, `test` those of the held-out rows by theirs."""

    scored: NDArray[np.int32]
    test: Mapping[int, int]

    def of_test(self, ids: NDArray[np.int64]) -> NDArray[np.int32]:
        """Labels of held-out rows."""
        return np.array([self.test[row] for row in ids.tolist()], np.int32)

    def of_tuning(self, ids: NDArray[np.int64]) -> NDArray[np.int32]:
        """Labels of validation rows, which lie among the scored ones."""
        return self.scored[ids]


def labels_of_source(pinned: Pinned) -> ScoredLabels:
    """The labels that a publication without any was made of."""
    return ScoredLabels(pinned.label, dict(zip(pinned.test_id.tolist(), pinned.test_label.tolist(), strict=True)))


def _require(labels: ScoredLabels | None) -> ScoredLabels:
    if labels is None:
        raise PublishError("this publication has no labels, and its source cannot be opened here; set source.path=FOLDER, or go online")
    return labels


def require_publication(published: Path) -> None:
    """Raise `PublishError` where none lies."""
    if not (published / EVIDENCE / "scores.json").exists():
        raise PublishError("no hf_datadiet publication lies there: it has no evidence/scores.json; check the name and the revision")


def read_evidence(published: Path) -> dict[str, Any]:
    """evidence/scores.json; `PublishError` where none lies, `DamagedError` if it was changed."""
    require_publication(published)
    return read_record(published / EVIDENCE / "scores.json", "publish it again")


def published_recipe(published: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a publication; a source on the Hub is pinned to the commit that was scored, unless the overrides name another."""
    revision = read_evidence(published)["source"]["revision"]
    named = any(word.startswith(("source.repo=", "source.revision=")) for word in overrides)
    if revision is not None and not named and kept_recipe(published / EVIDENCE).source.repo is not None:
        overrides = [f"source.revision={revision}", *overrides]
    return kept_recipe(published / EVIDENCE, overrides)


def published_table(published: Path, about: Mapping[str, Any], labels: ScoredLabels | None = None) -> ScoreTable:
    """The scores of a publication."""
    split = about["source"]["split"]
    paths = sorted((published / SCORES).glob(f"{split}-*-of-*.parquet"))
    if not paths:
        raise PublishError(f"this publication has lost its scores: there is no {SCORES}/{split}-*.parquet")
    given = None if about.get("labels", True) else _require(labels).scored
    try:
        return table_from(Dataset(pq.read_table(paths)), about, given)
    except (pa.ArrowException, OSError):
        raise PublishError(f"the files {SCORES}/{split}-*.parquet of this publication are damaged; publish it again") from None


def load_json(path: Path) -> Any:
    """A JSON file of a publication; `PublishError` where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise PublishError(f"{path.parent.name}/{path.name} is missing or damaged; publish it again") from None
