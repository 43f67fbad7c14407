"""The run folder: where each record lies, written atomically, checked when read.

    recipe.yaml               the resolved recipe          source.json   the pinned source
    run.json                  what makes this run this run plan.json     what must be equal for equal bits
    fitted.json               what the task took from the rows to be scored (normalisation)
    unfinished/               trainings on their way (`unfinished`): score/000/, evaluate/NAME/ARM-SEED/
    seeds/000/                one folder per scoring seed; its done.json, written last, holds the digest of every file
    scores.parquet            one row per example          seeds.parquet one row per example, seed and moment
    label_noise.parquet       what `source.label_noise` changed
    skipped.parquet           rows that cannot be read, where `source.on_bad_row` is skip
    selections/NAME/          selection.parquet, and on request dataset/
    evaluations/NAME/         arms/ARM-SEED.safetensors, predictions.parquet, results.parquet, evaluation.json (last)
    report.json  report.md    cache/  decoded data, may be deleted at any time

Tables (`tables`) have the user's own ids as `source_id` beside `example_id`, where the recipe names their column.
Every file is written atomically (`durable`). Records are parquet, JSON or safetensors; nothing is pickled.
"""

from __future__ import annotations

import dataclasses
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_datadiet import tables
from hf_datadiet.durable import (
    file_digest,
    read_parquet,
    read_record,
    read_safetensors,
    sync,
    write_json,
    write_parquet,
    write_record,
    write_safetensors,
    write_text,
)
from hf_datadiet.errors import RecipeError, StaleRecordError
from hf_datadiet.records import ArmResult, EvaluationTable, Plan, Provenance, Report, RunResult, ScoreTable, Selection, Source
from hf_datadiet.unfinished import UNFINISHED, Unfinished

FORMAT = 1


class RunFolder:
    """One run on disk. Nothing is created before the first record is written."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    # The identity

    def claim(self, identity: Mapping[str, Any], source: Source, recipe_yaml: str) -> None:
        """Make the folder this run's, or raise `StaleRecordError` with the difference if it is another run's."""
        wanted = {"format": FORMAT, "source_digest": source.digest, "test_digest": source.test_digest, **identity}
        wanted["source_revision"] = source.revision
        marker = self.path / "run.json"
        if marker.exists():
            found = read_record(marker)
            if all(found.get(key) == wanted[key] for key in ("source_digest", "test_digest")):
                # Another commit with the same content is the same source.
                found["source_revision"] = source.revision
            differences = _differences(found, wanted)
            if differences:
                raise StaleRecordError(
                    f"{self.path} holds another run ({'; '.join(differences)}); choose another --out or delete the folder"
                )
        else:
            self.require_free()
            write_record(self.path / "source.json", dataclasses.asdict(source))
            write_record(marker, wanted)
            self.save_recipe(recipe_yaml)

    def save_recipe(self, recipe_yaml: str) -> None:
        """Keep the resolved recipe: what later steps go by."""
        write_text(self.path / "recipe.yaml", recipe_yaml)

    def require_free(self) -> None:
        """Raise `StaleRecordError` if something lies here that is no run."""
        if self.path.exists() and not self.path.is_dir():
            raise StaleRecordError(f"{self.path} is a file and no folder; choose another --out")
        if self.path.exists() and not all(_is_a_beginning(entry.name) for entry in self.path.iterdir()):
            raise StaleRecordError(f"{self.path} is not empty and holds no run; choose another --out")

    def exists(self) -> bool:
        """Whether a run lies here."""
        return (self.path / "run.json").exists()

    def require(self) -> None:
        """Raise `RecipeError` unless a run lies here."""
        if not self.exists():
            raise RecipeError(f"{self.path} holds no run; score one first: hf-datadiet score RECIPE --out {self.path}")

    def source(self) -> Source:
        """The pinned source."""
        return tables.unpack_source(read_record(self.path / "source.json"))

    # The plan

    def plan(self) -> Plan | None:
        """The plan that was decided, or None."""
        path = self.path / "plan.json"
        return Plan(**read_record(path)) if path.exists() else None

    def save_plan(self, plan: Plan) -> None:
        """Keep the plan for every later process and resume."""
        write_record(self.path / "plan.json", dataclasses.asdict(plan))

    def start(self) -> dict[str, Any] | None:
        """What a fresh model said of a few rows when the run began (`training/start.py`), or None."""
        path = self.path / "start.json"
        return read_record(path) if path.exists() else None

    def save_start(self, start: Mapping[str, Any]) -> None:
        """Keep it for every later call."""
        write_record(self.path / "start.json", start)

    # What the task took from the data

    def save_fitted(self, fitted: Mapping[str, Any]) -> None:
        """Keep the task's constants: the weights of the seeds mean nothing without them."""
        write_record(self.path / "fitted.json", fitted)

    def fitted(self) -> dict[str, Any]:
        """The task's constants."""
        return read_record(self.path / "fitted.json")

    # Trainings on their way

    def unfinished_seed(self, seed: int, note: Callable[[str], None], *, writes: bool = True) -> Unfinished:
        """The folder of a scoring seed until it is finished; `note` takes lines for the user."""
        return Unfinished(self.path / UNFINISHED / "score" / f"{seed:03d}", note, writes=writes)

    def unfinished_arm(self, evaluation: str, arm: str, seed: int, note: Callable[[str], None], *, writes: bool = True) -> Unfinished:
        """The folder of a training of an evaluation until it is finished."""
        return Unfinished(self.path / UNFINISHED / "evaluate" / evaluation / f"{arm}-{seed}", note, writes=writes)

    # Scoring seeds

    def seed_path(self, seed: int) -> Path:
        """The folder of one scoring seed."""
        return self.path / "seeds" / f"{seed:03d}"

    def has_seed(self, seed: int) -> bool:
        """Whether the seed is finished: its marker is written last."""
        return (self.seed_path(seed) / "done.json").exists()

    def save_seed(self, result: RunResult) -> None:
        """Write one finished seed as a whole: all files, then the marker, then one rename. The first to finish wins."""
        target = self.seed_path(result.seed)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            arrays = {f"observed/{name}": values for name, values in result.observed.items()}
            arrays |= {f"accumulated/{name}": values for name, values in result.accumulated.items()}
            arrays |= {"example_id": result.example_id, "predicted": result.predicted, "p_label": result.p_label}
            meta = {
                "seed": result.seed,
                "moments": list(result.moments),
                "curve": list(result.curve),
                "seconds": result.seconds,
                "provenance": dataclasses.asdict(result.provenance),
            }
            write_safetensors(temporary / "result.safetensors", arrays, meta)
            for epoch, weights in result.weights.items():
                write_safetensors(temporary / f"weights-e{epoch}.safetensors", weights, {"seed": result.seed, "epoch": epoch})
            digests = {path.name: file_digest(path) for path in sorted(temporary.iterdir())}
            write_record(temporary / "done.json", {"format": FORMAT, "files": digests})
            try:
                temporary.rename(target)
            except OSError:
                if not self.has_seed(result.seed):
                    raise
            sync(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def load_seed(self, seed: int, *, with_weights: bool = False) -> RunResult:
        """Read one finished seed; `StaleRecordError` names a file that is missing or does not match its digest."""
        folder = self.seed_path(seed)
        for name, digest in read_record(folder / "done.json")["files"].items():
            path = folder / name
            if not path.exists() or file_digest(path) != digest:
                raise StaleRecordError(f"{path} is missing or damaged; delete {folder} and score again: only that seed is computed anew")
        arrays, meta = read_safetensors(folder / "result.safetensors")
        weights: dict[int, Mapping[str, NDArray[Any]]] = {}
        for path in sorted(folder.glob("weights-e*.safetensors")) if with_weights else ():
            values, about = read_safetensors(path)
            weights[about["epoch"]] = values
        return RunResult(
            seed=meta["seed"],
            example_id=arrays["example_id"],
            moments=tuple(meta["moments"]),
            observed={name.removeprefix("observed/"): values for name, values in arrays.items() if name.startswith("observed/")},
            accumulated={name.removeprefix("accumulated/"): values for name, values in arrays.items() if name.startswith("accumulated/")},
            predicted=arrays["predicted"],
            p_label=arrays["p_label"],
            curve=tuple(meta["curve"]),
            seconds=meta["seconds"],
            weights=weights,
            provenance=Provenance(**meta["provenance"]),
        )

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
        scores = tables.unpack_scores(*read_parquet(path))
        path = self.path / "seeds.parquet"
        if not path.exists():
            return scores
        values, meta = read_parquet(path)
        if meta["scores"] != scores.digest:
            raise StaleRecordError(f"{path} belongs to other scores than scores.parquet; score again: no seed is trained again")
        return tables.with_seed_values(scores, values)

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
        return tables.unpack_skipped(read_parquet(path)[0]) if path.exists() else None

    # Selections

    def selection_path(self, name: str) -> Path:
        """The folder of one selection."""
        return self.path / "selections" / name

    def save_selection(self, selection: Selection) -> None:
        """Write selection.parquet: every scored id, whether it is kept, and the reason if it is not."""
        self._write_table(f"selections/{selection.name}/selection.parquet", *tables.pack_selection(selection))

    def load_selection(self, name: str) -> Selection:
        """Read one selection by name."""
        path = self.selection_path(name) / "selection.parquet"
        if not path.exists():
            raise RecipeError(
                f"{self.path} has no selection {name!r}; it has: {', '.join(self.selections()) or 'none, run hf-datadiet prune'}"
            )
        return tables.unpack_selection(*read_parquet(path))

    def selections(self) -> list[str]:
        """Names of the finished selections, sorted."""
        return sorted(path.parent.name for path in self.path.glob("selections/*/selection.parquet"))

    # Evaluations

    def evaluation_path(self, name: str) -> Path:
        """The folder of one evaluation."""
        return self.path / "evaluations" / name

    def save_arm(self, evaluation: str, result: ArmResult, test_id: NDArray[np.int64]) -> None:
        """Write one finished training of an evaluation."""
        arrays = {"predicted": result.predicted, "p_label": result.p_label, "test_id": test_id}
        write_safetensors(self._arm_file(evaluation, result.arm, result.seed), arrays, tables.arm_meta(result))

    def load_arm(self, evaluation: str, arm: str, seed: int) -> ArmResult | None:
        """One finished training, or None if it has not been done."""
        path = self._arm_file(evaluation, arm, seed)
        if not path.exists():
            return None
        arrays, meta = read_safetensors(path)
        return ArmResult(**meta, predicted=arrays["predicted"], p_label=arrays["p_label"])

    def trained(self, evaluation: str) -> dict[str, list[int]]:
        """Arm -> seeds of the trainings that an evaluation has finished, by the names of their files."""
        found: dict[str, list[int]] = {}
        for path in sorted(self.evaluation_path(evaluation).glob("arms/*-*.safetensors")):
            arm, _, seed = path.stem.rpartition("-")
            if seed.isdigit():
                found.setdefault(arm, []).append(int(seed))
        return found

    def _arm_file(self, evaluation: str, arm: str, seed: int) -> Path:
        return self.evaluation_path(evaluation) / "arms" / f"{arm}-{seed}.safetensors"

    def save_evaluation(self, table: EvaluationTable) -> None:
        """Write predictions.parquet and results.parquet, then evaluation.json, which says that they are complete."""
        self._write_table(f"evaluations/{table.name}/predictions.parquet", tables.pack_predictions(table))
        self._write_table(f"evaluations/{table.name}/results.parquet", tables.pack_results(table))
        write_record(self.evaluation_path(table.name) / "evaluation.json", {"format": FORMAT, **tables.evaluation_meta(table)})

    def load_evaluation(self, name: str) -> EvaluationTable:
        """Read one finished evaluation."""
        folder = self.evaluation_path(name)
        meta = read_record(folder / "evaluation.json")
        predictions, _ = read_parquet(folder / "predictions.parquet")
        return tables.unpack_evaluation(predictions, meta)

    def evaluations(self) -> list[str]:
        """Names of the finished evaluations, sorted."""
        return sorted(path.parent.name for path in self.path.glob("evaluations/*/evaluation.json"))

    # The report

    def save_report(self, report: Report, markdown: str) -> None:
        """Write report.json and report.md."""
        write_json(self.path / "report.json", dataclasses.asdict(report))
        write_text(self.path / "report.md", markdown)


def _is_a_beginning(name: str) -> bool:
    """Whether a run that was killed before its first record was whole, or `cache`, may have left this behind."""
    return name in ("cache", "source.json") or (name.startswith(".") and name.endswith(".tmp"))


def _differences(found: Any, wanted: Any, at: str = "") -> list[str]:
    """Lines such as "score.epochs: 6 there, 10 asked", for nested plain values."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        return [
            line
            for key in sorted({*found, *wanted})
            for line in _differences(found.get(key), wanted.get(key), f"{at}.{key}" if at else key)
        ]
    return [] if found == wanted else [f"{at}: {found} there, {wanted} asked"]
