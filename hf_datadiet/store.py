"""The run folder: where each record lies, written atomically, checked when read.

    recipe.yaml               the resolved recipe          source.json   the pinned source
    run.json                  what makes this run this run plan.json     what must be equal for equal bits
    fitted.json               what the task took from the rows to be scored (normalisation)
    models/NAME/              start.json and fitted.json of a further model (`evaluate.models`), NAME being its evaluation's
    unfinished/               trainings on their way (`unfinished`): score/000/, evaluate/NAME/ARM-SEED/, tune/...
    seeds/000/                one folder per scoring seed; its done.json, written last, holds the digest of every file
    scores.parquet            one row per example          seeds.parquet one row per example, seed and moment
    taken.json                of scores that were taken from the Hub, which have no seeds here: from where, and what they cost there
    label_noise.parquet       what `source.label_noise` changed
    skipped.parquet           rows that cannot be read, where `source.on_bad_row` is skip
    selections/NAME/          selection.parquet, and on request dataset/
    evaluations/NAME/         arms/ARM-SEED.safetensors, predictions.parquet, results.parquet, evaluation.json (last); on request also
                              weights/ARM-SEED.safetensors, each written before its arm's file
    tunings/NAME/             of a selection by `strategy: auto`: tuning.json (first), then the files of an evaluation, on validation rows
    report.json  report.md    pictures/ what the report links: NAME.png, .svg, .pdf; all others there are removed
    cache/                    decoded data, may be deleted at any time

Tables (`tables`) have the user's own ids as `source_id` beside `example_id`, where the recipe names their column.
Every file is written atomically (`durable`), every folder of a seed appears whole (`sealed`). Several launches may work in one
folder: where they could write different things, the first one wins and all go by what is there.
Records are parquet, JSON or safetensors; nothing is pickled.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_datadiet import sealed, tables
from hf_datadiet.claim import claim, is_claimed, require_free, require_marker
from hf_datadiet.durable import (
    GONE,
    glance_parquet,
    glance_safetensors,
    notice,
    read_parquet,
    read_record,
    read_safetensors,
    sound,
    write_bytes,
    write_json,
    write_parquet,
    write_record,
    write_safetensors,
    write_text,
)
from hf_datadiet.errors import DamagedError, RecipeError, StaleRecordError
from hf_datadiet.recipe import FIRST_EVALUATION_SEED, FIRST_TUNING_SEED
from hf_datadiet.records import ArmResult, EvaluationTable, Plan, Report, RunResult, ScoreTable, Selection, Source
from hf_datadiet.seed_folder import FORMAT, read_seed, write_seed
from hf_datadiet.unfinished import UNFINISHED, Unfinished

PICTURES = "pictures"


@dataclass(frozen=True)
class Trials:
    """Trainings on selections. Those of evaluations and those of tunings leave the same records, which lie apart.

    `what`: one of them, in a word; `folder`: where they lie; `verb`: what makes them; `held_out`: the rows that they are judged on;
    `rename`: how to get another one.
    """

    what: str
    folder: str
    verb: str
    held_out: str
    first_seed: int
    rename: str


EVALUATIONS = Trials("evaluation", "evaluations", "evaluate", "test", FIRST_EVALUATION_SEED, "set evaluate.name to a new name")
TUNINGS = Trials("tuning", "tunings", "tune", "validation", FIRST_TUNING_SEED, "give the selection another name")


class RunFolder:
    """One run on disk. Nothing is created before the first record is written.

    `trials`: what is meant by an evaluation, which may be one on validation rows (`tunings`).
    """

    def __init__(self, path: Path | str, trials: Trials = EVALUATIONS) -> None:
        self.path = Path(path)
        self.trials = trials

    @property
    def tunings(self) -> RunFolder:
        """The same folder, where what is said of evaluations goes for tunings."""
        return RunFolder(self.path, TUNINGS)

    # The identity

    def claim(self, identity: Mapping[str, Any], source: Source, recipe_yaml: str) -> None:
        """Make the folder this run's, or raise `StaleRecordError` with the difference if it is another run's."""
        wanted = {"format": FORMAT, "source_digest": source.digest, "test_digest": source.test_digest, **identity}
        claim(self.path, wanted | {"source_revision": source.revision})
        # Whoever holds the claim sees to it that the rest is there: another one may have died in between.
        sound(self.path / "source.json", self.source)
        write_record(self.path / "source.json", dataclasses.asdict(source), first_wins=True)
        write_text(self.path / "recipe.yaml", recipe_yaml, first_wins=True)

    def save_recipe(self, recipe_yaml: str) -> None:
        """Keep the resolved recipe: what later steps go by."""
        write_text(self.path / "recipe.yaml", recipe_yaml)

    def require_free(self) -> None:
        """Raise `StaleRecordError` if something lies here that is no run."""
        require_free(self.path)

    def exists(self) -> bool:
        """Whether a run lies here."""
        return is_claimed(self.path)

    def require(self) -> None:
        """Raise `RecipeError` unless a run lies here."""
        require_marker(self.path)
        if not self.exists():
            raise RecipeError(f"{self.path} holds no run; score one first: hf-datadiet score RECIPE --out {self.path}")

    @property
    def _again(self) -> str:
        """How to make anew what scoring makes."""
        return (
            f"score again (hf-datadiet score {self._quoted('recipe.yaml')} --out {self._quoted()}{self.launched}): finished seeds are kept"
        )

    @property
    def launched(self) -> str:
        """What commands that train end with: a run whose processes train each model together goes on with as many."""
        try:
            world = json.loads((self.path / "plan.json").read_text(encoding="utf-8"))["world"]
        except (OSError, ValueError, KeyError, TypeError):
            world = 1
        return f" --num-processes {world}" if world != 1 else ""

    def _quoted(self, name: str = "") -> str:
        return shlex.quote(str(self.path / name))

    def source(self) -> Source:
        """The pinned source."""
        return tables.unpack_source(read_record(self.path / "source.json", self._again))

    # The plan

    def plan(self) -> Plan | None:
        """The plan that was decided, or None."""
        path = self.path / "plan.json"
        return Plan(**read_record(path, self._again)) if path.exists() else None

    def save_plan(self, plan: Plan) -> Plan:
        """Keep the plan for every later process and resume, unless there is one; the one that is there."""
        write_record(self.path / "plan.json", dataclasses.asdict(plan), first_wins=True)
        return Plan(**read_record(self.path / "plan.json", self._again))

    def require_plan(self, made: Mapping[str, Any], path: Path) -> None:
        """Raise `StaleRecordError` if the record at `path` was made under another plan than this run's."""
        kept = self.plan()
        if kept is None:
            return
        plan = dataclasses.asdict(kept)
        # A smaller batch of the observe pass, where memory was short, stays within the tolerance of the scores.
        differences = [
            f"other {key}" if isinstance(plan[key], Mapping) else f"{key}: {made[key]} there, {plan[key]} in plan.json"
            for key in plan
            if key in made and made[key] != plan[key] and key != "observe_batch_size"
        ]
        if differences:
            raise StaleRecordError(
                f"{path} was made under another plan ({'; '.join(differences)}), so its numbers do not compare with the others; "
                "delete it and run the same command again, or choose another --out"
            )

    def start(self, evaluation: str | None = None) -> dict[str, Any] | None:
        """What a fresh model said of a few rows when the run began (`training/start.py`), or None; that of an evaluation if it is named."""
        path = self._of_model(evaluation) / "start.json"
        remedy = "delete it if model, tokenizer and task are those that the run was begun with: it is then made anew"
        return read_record(path, remedy) if path.exists() else None

    def save_start(self, start: Mapping[str, Any], evaluation: str | None = None) -> dict[str, Any]:
        """Keep it for every later call, unless there is one; the one that is there."""
        write_record(self._of_model(evaluation) / "start.json", start, first_wins=True)
        return self.start(evaluation) or dict(start)

    # What the task took from the data

    def save_fitted(self, fitted: Mapping[str, Any], evaluation: str | None = None) -> None:
        """Keep the task's constants, unless they are there: the weights of the seeds mean nothing without them."""
        write_record(self._of_model(evaluation) / "fitted.json", fitted, first_wins=True)

    def has_fitted(self, evaluation: str | None = None) -> bool:
        """Whether they are there."""
        return (self._of_model(evaluation) / "fitted.json").exists()

    def fitted(self, evaluation: str | None = None) -> dict[str, Any]:
        """The task's constants; those for the further model of an evaluation if it is named."""
        return read_record(
            self._of_model(evaluation) / "fitted.json", self._again if evaluation is None else self._evaluate_again(evaluation)
        )

    def _of_model(self, evaluation: str | None) -> Path:
        """Where what depends on a model lies: the run's own, or the further one of an evaluation."""
        return self.path if evaluation is None else self.path / "models" / evaluation

    # Trainings on their way

    def unfinished_seed(self, seed: int, note: Callable[[str], None] = notice, *, writes: bool = True) -> Unfinished:
        """The folder of a scoring seed until it is finished; `note` takes lines for the user."""
        return Unfinished(self.path / UNFINISHED / "score" / f"{seed:03d}", note, writes=writes)

    def unfinished_arm(
        self, evaluation: str, arm: str, seed: int, note: Callable[[str], None] = notice, *, writes: bool = True
    ) -> Unfinished:
        """The folder of a training of an evaluation until it is finished."""
        return Unfinished(self.unfinished_path(evaluation) / f"{arm}-{seed}", note, writes=writes)

    def unfinished_path(self, evaluation: str) -> Path:
        """Where the unfinished trainings of an evaluation lie."""
        return self.path / UNFINISHED / self.trials.verb / evaluation

    # Scoring seeds

    def seed_path(self, seed: int) -> Path:
        """The folder of one scoring seed."""
        return self.path / "seeds" / f"{seed:03d}"

    def seeds(self) -> list[int]:
        """The seeds that have a folder, ascending, finished or damaged."""
        return sorted(int(path.name) for path in self.path.glob("seeds/*") if path.name.isdigit())

    def has_seed(self, seed: int) -> bool:
        """Whether the seed is finished: its marker is written last."""
        return sealed.is_sealed(self.seed_path(seed))

    def save_seed(self, result: RunResult) -> None:
        """Write one finished seed as a whole. The first to finish wins."""
        write_seed(self.seed_path(result.seed), result)

    def glance_seed(self, seed: int) -> dict[str, Any]:
        """{"epochs": ..., "seconds": ...} of a finished seed, cheaply; `DamagedError` for a file that is missing or has another size."""
        return sealed.about(self.seed_path(seed), self._again)

    def load_seed(self, seed: int, *, with_weights: bool = False) -> RunResult:
        """Read one finished seed.

        `DamagedError` names a file that is missing or does not match its digest, `StaleRecordError` one of another plan.
        """
        result = read_seed(self.seed_path(seed), self._again, with_weights=with_weights)
        self.require_plan(result.plan, self.seed_path(seed))
        return result

    # Scores

    def save_scores(self, table: ScoreTable) -> None:
        """Write seeds.parquet, then scores.parquet."""
        self._write_table("seeds.parquet", tables.pack_seed_values(table), {"scores": table.digest})
        self._write_table("scores.parquet", *tables.pack_scores(table))

    def load_scores(self) -> ScoreTable:
        """Read scores.parquet and, where it lies beside it, seeds.parquet."""
        path = self.path / "scores.parquet"
        if not path.exists():
            raise RecipeError(f"{self.path} holds no scores; run hf-datadiet score first")
        scores = tables.unpack_scores(*read_parquet(path, self._again))
        path = self.path / "seeds.parquet"
        if not path.exists() and not self.seeds():
            return scores
        values, meta = read_parquet(path, self._again)
        if meta["scores"] != scores.digest:
            raise StaleRecordError(f"{path} belongs to other scores than scores.parquet; {self._again}")
        return tables.with_seed_values(scores, values)

    def save_taken(self, taken: Mapping[str, Any]) -> None:
        """Keep where scores were taken from: `repo` and `revision` (None where they lie in files), and `seed_seconds`."""
        write_record(self.path / "taken.json", taken)

    def taken(self) -> dict[str, Any] | None:
        """Where the scores were taken from, or None for those that were made here."""
        path = self.path / "taken.json"
        return read_record(path, "take the scores again: hf-datadiet score --from-hub REPO --out FOLDER") if path.exists() else None

    def seed_seconds(self, seeds: Iterable[int]) -> list[Mapping[str, float]]:
        """Wall seconds of each scoring seed, {"train", "observe"}, wherever it was trained."""
        taken = self.taken()
        return taken["seed_seconds"] if taken is not None else [self.load_seed(seed).seconds for seed in seeds]

    def glance_scores(self) -> tuple[Mapping[str, Mapping[str, Any]], int]:
        """{column: what it is} of scores.parquet and how many rows have a label, cheaply; nothing and 0 before it exists."""
        path = self.path / "scores.parquet"
        if not path.exists():
            return {}, 0
        table, meta = glance_parquet(path, ["label"], self._again)
        return meta["columns"], table.num_rows - table["label"].null_count

    def _write_table(self, name: str, columns: tables.Columns, meta: Mapping[str, Any] | None = None) -> None:
        write_parquet(self.path / name, columns, {"format": FORMAT, **(meta or {})})

    # What happened to single rows

    def save_label_noise(
        self, ids: NDArray[np.int64], before: NDArray[np.int32], after: NDArray[np.int32], source_id: NDArray[Any] | None = None
    ) -> None:
        """Record which labels `source.label_noise` changed, from what to what."""
        self._write_table("label_noise.parquet", tables.pack_label_noise(ids, before, after, source_id))

    def save_skipped(self, skipped: Mapping[int, str], test_skipped: Mapping[int, str], source_id: NDArray[Any] | None = None) -> None:
        """Record the rows that cannot be read, scored ones first, with the reason; `source_id` in the same order."""
        self._write_table("skipped.parquet", tables.pack_skipped(skipped, test_skipped, source_id))

    def skipped(self) -> tuple[dict[int, str], dict[int, str]] | None:
        """{id: reason} of the rows to be scored, and of those held out, that cannot be read; None if nobody has looked."""
        path = self.path / "skipped.parquet"
        return tables.unpack_skipped(read_parquet(path, self._again)[0]) if path.exists() else None

    def missing(self, name: str) -> DamagedError:
        """The error for a file of this run that scoring writes and that is not there."""
        return DamagedError(self.path / name, GONE, self._again)

    # Selections

    def selection_path(self, name: str) -> Path:
        """The folder of one selection."""
        return self.path / "selections" / name

    def save_selection(self, selection: Selection) -> None:
        """Write selection.parquet: every scored id, whether it is kept, and the reason if it is not.

        `StaleRecordError` if there is a different selection of that name; a damaged one makes way.
        """
        path = self.selection_path(selection.name) / "selection.parquet"
        sound(path, lambda: self.load_selection(selection.name))
        columns, meta = tables.pack_selection(selection)
        write_parquet(path, columns, {"format": FORMAT, **meta}, first_wins=True)
        if self.load_selection(selection.name).digest != selection.digest:
            raise StaleRecordError(
                f"{self.path} has another selection named {selection.name!r}; choose another name, or delete {path.parent}"
            )

    def load_selection(self, name: str) -> Selection:
        """Read one selection by name."""
        path = self.selection_path(name) / "selection.parquet"
        if not path.exists():
            raise RecipeError(
                f"{self.path} has no selection {name!r}; it has: {', '.join(self.selections()) or 'none, run hf-datadiet prune'}"
            )
        return tables.unpack_selection(*read_parquet(path, self._prune_again(name)))

    def glance_selection(self, name: str) -> int:
        """How many rows a selection keeps, cheaply."""
        table, _ = glance_parquet(self.selection_path(name) / "selection.parquet", ["kept"], self._prune_again(name))
        return int(np.asarray(table["kept"]).sum())

    def _prune_again(self, name: str) -> str:
        return f"prune again as before: hf-datadiet prune {self._quoted()} --name {name} ..."

    def selections(self) -> list[str]:
        """Names of the finished selections, sorted."""
        return sorted(path.parent.name for path in self.path.glob("selections/*/selection.parquet"))

    # Evaluations

    def evaluation_path(self, name: str) -> Path:
        """The folder of one evaluation."""
        return self.path / self.trials.folder / name

    def save_arm(self, evaluation: str, result: ArmResult, test_id: NDArray[np.int64]) -> None:
        """Write one finished training of an evaluation, its weights first: without these it counts as unfinished if they were asked for."""
        if result.weights is not None:
            about = {"arm": result.arm, "seed": result.seed, "predictions": result.digest}
            write_safetensors(self.weights_path(evaluation, result.arm, result.seed), result.weights, about)
        arrays = {"predicted": result.predicted, "p_label": result.p_label, "test_id": test_id}
        write_safetensors(self.arm_path(evaluation, result.arm, result.seed), arrays, tables.arm_meta(result), first_wins=True)

    def load_arm(self, evaluation: str, arm: str, seed: int) -> ArmResult | None:
        """One finished training, or None if it has not been done."""
        path = self.arm_path(evaluation, arm, seed)
        if not path.exists():
            return None
        arrays, meta = read_safetensors(path, self._evaluate_again(evaluation))
        self.require_plan(meta["plan"], path)
        return ArmResult(**meta, predicted=arrays["predicted"], p_label=arrays["p_label"])

    def has_weights(self, evaluation: str, result: ArmResult) -> bool:
        """Whether the weights of this very training lie there, cheaply: no weight is read."""
        path = self.weights_path(evaluation, result.arm, result.seed)
        return path.exists() and glance_safetensors(path, self._keep_again(evaluation))["predictions"] == result.digest

    def load_weights(self, evaluation: str, arm: str, seed: int) -> Mapping[str, NDArray[Any]]:
        """The weights that one finished training kept; `RecipeError` if there are none, or if they are another training's."""
        path, result = self.weights_path(evaluation, arm, seed), self.load_arm(evaluation, arm, seed)
        if result is None or not self.has_weights(evaluation, result):
            raise RecipeError(f"{self.path} has no weights of {arm}, evaluation {evaluation}; {self._keep_again(evaluation)}")
        return read_safetensors(path, self._keep_again(evaluation))[0]

    def _keep_again(self, evaluation: str) -> str:
        asked = f"{self._quoted()}{self.asking_for(evaluation)} evaluate.keep_weights=true{self.launched}"
        return f"evaluate again (hf-datadiet evaluate {asked}): what has kept them is not repeated"

    def weights_path(self, evaluation: str, arm: str, seed: int) -> Path:
        """The file of the weights of one training of an evaluation."""
        return self.evaluation_path(evaluation) / "weights" / f"{arm}-{seed}.safetensors"

    def begun_evaluations(self) -> list[str]:
        """Names of the evaluations that have a folder, sorted, finished or not."""
        return sorted(path.name for path in self.path.glob(f"{self.trials.folder}/*") if path.is_dir() and not path.name.startswith("."))

    def unfinished_evaluations(self) -> list[str]:
        """Names of the evaluations of which a training is unfinished."""
        return sorted(path.name for path in self.path.glob(f"{UNFINISHED}/{self.trials.verb}/*"))

    def trained(self, evaluation: str) -> dict[str, list[int]]:
        """Arm -> seeds of the trainings that an evaluation has finished, by the names of their files."""
        return _arms(path.stem for path in self.evaluation_path(evaluation).glob("arms/*-*.safetensors"))

    def in_training(self, evaluation: str) -> dict[str, list[int]]:
        """Arm -> seeds of the trainings of an evaluation that are unfinished, by the names of their folders."""
        return _arms(path.name for path in self.unfinished_path(evaluation).glob("*-*"))

    def arm_path(self, evaluation: str, arm: str, seed: int) -> Path:
        """The file of one training of an evaluation."""
        return self.evaluation_path(evaluation) / "arms" / f"{arm}-{seed}.safetensors"

    def _evaluate_again(self, name: str) -> str:
        if self.trials is TUNINGS:
            again = f"hf-datadiet prune {self._quoted()} --name {name} --strategy auto ...{self.launched}"
            return f"prune again as before ({again}): finished trainings are kept"
        return f"evaluate again (hf-datadiet evaluate {self._quoted()}{self.asking_for(name)}{self.launched}): finished trainings are kept"

    def asking_for(self, evaluation: str) -> str:
        """The overrides by which `hf-datadiet evaluate` makes that evaluation."""
        start = self.start(evaluation)
        if start is None:
            return f" evaluate.name={evaluation}"
        models = f"evaluate.models=[{start['model']}]"
        return f" evaluate.name={start['of']} {shlex.quote(models)}"

    def save_evaluation(self, table: EvaluationTable) -> None:
        """Write predictions.parquet and results.parquet, then evaluation.json, which says that they are complete."""
        meta = tables.evaluation_meta(table)
        folder = f"{self.trials.folder}/{table.name}"
        self._write_table(f"{folder}/predictions.parquet", tables.pack_predictions(table), {"trainings": tables.trainings(meta)})
        self._write_table(f"{folder}/results.parquet", tables.pack_results(table))
        write_record(self.evaluation_path(table.name) / "evaluation.json", {"format": FORMAT, **meta})

    def load_evaluation(self, name: str) -> EvaluationTable:
        """Read one finished evaluation."""
        folder, again = self.evaluation_path(name), self._evaluate_again(name)
        meta = read_record(folder / "evaluation.json", again)
        predictions, about = read_parquet(folder / "predictions.parquet", again)
        # As when an evaluation is extended by more seeds and stops between the two files.
        if about["trainings"] != tables.trainings(meta):
            raise StaleRecordError(f"{folder / 'predictions.parquet'} belongs to other trainings than evaluation.json; {again}")
        return tables.unpack_evaluation(predictions, meta)

    def evaluations(self) -> list[str]:
        """Names of the finished evaluations, sorted."""
        return sorted(path.parent.name for path in self.path.glob(f"{self.trials.folder}/*/evaluation.json"))

    def require_markers(self) -> None:
        """Raise `DamagedError` if an evaluation that was finished has lost its last file."""
        for name in self.begun_evaluations():
            path = self.evaluation_path(name)
            if (path / "results.parquet").exists() and not (path / "evaluation.json").exists():
                raise DamagedError(path / "evaluation.json", GONE, self._evaluate_again(name))

    def require_judged(self) -> None:
        """Raise `DamagedError` if a selection that was judged has lost its file; without its folder it was removed on purpose."""
        for name in self.evaluations():
            try:
                judged = read_record(self.evaluation_path(name) / "evaluation.json")["arm_selections"].values()
            except DamagedError:
                continue  # evaluating mends it
            for selection in {*judged} - {*self.selections()}:
                if self.selection_path(selection).exists():
                    raise DamagedError(self.selection_path(selection) / "selection.parquet", GONE, self._prune_again(selection))

    def to_judge(self) -> list[str]:
        """Names of the selections, for an evaluation of all of them; `RecipeError` if there is none."""
        self.require_judged()
        if not self.selections():
            raise RecipeError(f"{self.path} has no selection to evaluate; run hf-datadiet prune first")
        return self.selections()

    # What tunings compare

    def save_tuning(self, name: str, about: Mapping[str, Any]) -> None:
        """Keep what a tuning compares, before its first training; `StaleRecordError` if one of that name compares something else."""
        path = self.tunings.evaluation_path(name) / "tuning.json"
        sound(path, partial(read_record, path))
        write_record(path, about, first_wins=True)
        kept, wanted = self.load_tuning(name), json.loads(json.dumps(about))
        if kept != wanted:
            other = ", ".join(key for key in wanted if kept.get(key) != wanted[key])
            raise StaleRecordError(f"{path.parent} compares something else (other {other}); {TUNINGS.rename}, or delete {path.parent}")

    def load_tuning(self, name: str) -> dict[str, Any]:
        """What a tuning compares (`candidates.Comparison.record`)."""
        folder = self.tunings
        return read_record(folder.evaluation_path(name) / "tuning.json", folder._evaluate_again(name))

    def begun_tunings(self) -> list[str]:
        """Names of the tunings that have begun, sorted, finished or not."""
        return sorted(path.parent.name for path in self.path.glob("tunings/*/tuning.json"))

    # The report

    def save_pictures(self, files: Mapping[str, bytes]) -> None:
        """Write pictures/NAME for each, and remove those of an earlier report that are none of them."""
        for name, content in files.items():
            write_bytes(self.path / PICTURES / name, content)
        for path in (self.path / PICTURES).glob("*"):
            if path.name not in files and path.suffix in (".png", ".svg", ".pdf"):
                path.unlink(missing_ok=True)

    def save_report(self, report: Report, markdown: str) -> None:
        """Write report.json and report.md."""
        write_json(self.path / "report.json", dataclasses.asdict(report))
        write_text(self.path / "report.md", markdown)


def from_where(taken: Mapping[str, Any]) -> str:
    """Where scores were taken from, in words."""
    return "a folder" if taken["repo"] is None else f"{taken['repo']} at {taken['revision']}"


def _arms(names: Iterable[str]) -> dict[str, list[int]]:
    """{"full": [10000]} from ["full-10000"]."""
    found: dict[str, list[int]] = {}
    for name in sorted(names):
        arm, _, seed = name.rpartition("-")
        if arm and not arm.startswith(".") and seed.isdigit():
            found.setdefault(arm, []).append(int(seed))
    return found
