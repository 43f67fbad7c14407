"""The run folder: where each record lies, written atomically, checked when read.

    recipe.yaml               the resolved recipe          source.json   the pinned source
    run.json                  what makes this run this run plan.json     what must be equal for equal bits
    fitted.json               what the task took from the rows to be scored (normalisation)
    seeds/000/                one folder per scoring seed; its done.json, written last, holds the digest of every file
    scores.parquet            one row per example          seeds.parquet one row per example, seed and moment
    label_noise.parquet       what `source.label_noise` changed
    skipped.parquet           rows that cannot be read, where `source.on_bad_row` is skip
    selections/NAME/          selection.parquet, and on request dataset/
    evaluations/NAME/         arms/ARM-SEED.safetensors, predictions.parquet, results.parquet, evaluation.json (last)
    report.json  report.md    cache/  decoded data, may be deleted at any time

Tables have the user's own ids as `source_id` beside `example_id`, where the recipe names their column.
Every file is written atomically (`durable`). Records are parquet, JSON or safetensors; nothing is pickled.
"""

from __future__ import annotations

import dataclasses
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

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
from hf_datadiet.records import ArmResult, EvaluationTable, Plan, Provenance, Report, RunResult, ScoreColumn, ScoreTable, Selection, Source

FORMAT = 1
SE = "_se"


def _provenance(values: Mapping[str, Any]) -> Provenance:
    return Provenance(**values)


def _source(values: Mapping[str, Any]) -> Source:
    return Source(**{**values, "classes": tuple(values["classes"])})


def _nullable(values: NDArray[Any]) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))


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
        elif self.path.exists() and not self.path.is_dir():
            raise StaleRecordError(f"{self.path} is a file and no folder; choose another --out")
        elif self.path.exists() and not all(_is_a_beginning(entry.name) for entry in self.path.iterdir()):
            raise StaleRecordError(f"{self.path} is not empty and holds no run; choose another --out")
        else:
            write_record(self.path / "source.json", dataclasses.asdict(source))
            write_record(marker, wanted)
            self.save_recipe(recipe_yaml)

    def save_recipe(self, recipe_yaml: str) -> None:
        """Keep the resolved recipe: what later steps go by."""
        write_text(self.path / "recipe.yaml", recipe_yaml)

    def exists(self) -> bool:
        """Whether a run lies here."""
        return (self.path / "run.json").exists()

    def require(self) -> None:
        """Raise `RecipeError` unless a run lies here."""
        if not self.exists():
            raise RecipeError(f"{self.path} holds no run; score one first: hf-datadiet score RECIPE --out {self.path}")

    def source(self) -> Source:
        """The pinned source."""
        return _source(read_record(self.path / "source.json"))

    # The plan

    def plan(self) -> Plan | None:
        """The plan that was decided, or None."""
        path = self.path / "plan.json"
        return Plan(**read_record(path)) if path.exists() else None

    def save_plan(self, plan: Plan) -> None:
        """Keep the plan for every later process and resume."""
        write_record(self.path / "plan.json", dataclasses.asdict(plan))

    # What the task took from the data

    def save_fitted(self, fitted: Mapping[str, Any]) -> None:
        """Keep the task's constants: the weights of the seeds mean nothing without them."""
        write_record(self.path / "fitted.json", fitted)

    def fitted(self) -> dict[str, Any]:
        """The task's constants."""
        return read_record(self.path / "fitted.json")

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
            provenance=_provenance(meta["provenance"]),
        )

    # Scores

    def save_scores(self, table: ScoreTable) -> None:
        """Write seeds.parquet, then scores.parquet."""
        labelled = np.isfinite(next(iter(table.columns.values())).mean)
        self._save_seed_values(table, labelled)
        columns: dict[str, Any] = _ids(table.example_id, table.source_id) | {"label": pa.array(table.label, mask=~labelled)}
        if table.skipped:
            columns["skipped"] = pa.array([table.skipped.get(row) for row in table.example_id.tolist()], pa.string())
        about: dict[str, Any] = {}
        for name, column in table.columns.items():
            columns[name] = _nullable(column.mean)
            if column.se is not None:
                columns[name + SE] = _nullable(column.se)
            # JSON knows no infinity: an open end of a range is null.
            about[name] = {
                "score": column.score,
                "epoch": column.epoch,
                "higher_is": column.higher_is,
                "low": column.low if np.isfinite(column.low) else None,
                "high": column.high if np.isfinite(column.high) else None,
                "reliability": column.reliability,
                "origin": column.origin,
            }
        meta = {
            "format": FORMAT,
            "columns": about,
            "seeds": list(table.seeds),
            "source": dataclasses.asdict(table.source),
            "provenance": dataclasses.asdict(table.provenance),
        }
        write_parquet(self.path / "scores.parquet", columns, meta)

    def _save_seed_values(self, table: ScoreTable, labelled: NDArray[np.bool_]) -> None:
        known = {name: column for name, column in table.columns.items() if column.per_seed is not None}
        ids = table.example_id[labelled]
        epochs = sorted({column.epoch for column in known.values()})
        blocks = [(row, seed, epoch) for row, seed in enumerate(table.seeds) for epoch in epochs]
        own = None if table.source_id is None else np.tile(table.source_id[labelled], len(blocks))
        columns: dict[str, Any] = _ids(np.tile(ids, len(blocks)), own) | {
            "seed": np.repeat(np.array([seed for _, seed, _ in blocks], dtype=np.int32), ids.size),
            "epoch": np.repeat(np.array([epoch for _, _, epoch in blocks], dtype=np.int32), ids.size),
        }
        for score in dict.fromkeys(column.score for column in known.values()):
            at = {column.epoch: column.per_seed for column in known.values() if column.score == score}
            absent = np.full(ids.size, np.nan, np.float32)
            parts = [absent if (found := at.get(epoch)) is None else found[row][labelled] for row, _, epoch in blocks]
            columns[score] = _nullable(np.concatenate(parts)) if parts else pa.array([], pa.float32())
        write_parquet(self.path / "seeds.parquet", columns, {"format": FORMAT, "scores": table.digest})

    def load_scores(self) -> ScoreTable:
        """Read scores.parquet and, where it lies beside it, seeds.parquet."""
        if not (self.path / "scores.parquet").exists():
            raise RecipeError(f"{self.path} holds no scores; run hf-datadiet score first")
        table, meta = read_parquet(self.path / "scores.parquet")
        ids = np.asarray(table["example_id"], dtype=np.int64)
        columns: dict[str, ScoreColumn] = {}
        for name, about in meta["columns"].items():
            columns[name] = ScoreColumn(
                score=about["score"],
                epoch=about["epoch"],
                mean=_floats(table[name]),
                se=_floats(table[name + SE]) if name + SE in table.column_names else None,
                per_seed=None,
                higher_is=about["higher_is"],
                low=-np.inf if about["low"] is None else about["low"],
                high=np.inf if about["high"] is None else about["high"],
                reliability=about["reliability"],
                origin=about["origin"],
            )
        label = np.asarray(table["label"].combine_chunks().fill_null(-1), dtype=np.int32)
        made = ScoreTable(
            source=_source(meta["source"]),
            example_id=ids,
            label=label,
            seeds=tuple(meta["seeds"]),
            columns=columns,
            provenance=_provenance(meta["provenance"]),
            source_id=_source_ids(table),
            skipped=_reasons(table["skipped"], ids) if "skipped" in table.column_names else {},
        )
        if not (self.path / "seeds.parquet").exists():
            return made
        per_seed = self._load_seed_values(made)
        columns = {name: replace(column, per_seed=per_seed.get((column.score, column.epoch))) for name, column in columns.items()}
        return replace(made, columns=columns)

    def _load_seed_values(self, made: ScoreTable) -> dict[tuple[str, int], NDArray[np.float32]]:
        table, meta = read_parquet(self.path / "seeds.parquet")
        if meta["scores"] != made.digest:
            path = self.path / "seeds.parquet"
            raise StaleRecordError(f"{path} belongs to other scores than scores.parquet; score again: no seed is trained again")
        ids, seeds = made.example_id, made.seeds
        row_of = {seed: row for row, seed in enumerate(seeds)}
        order = np.argsort(ids)
        column = order[np.searchsorted(ids, np.asarray(table["example_id"]), sorter=order)]
        row = np.array([row_of[seed] for seed in np.asarray(table["seed"])], dtype=np.int64)
        epoch = np.asarray(table["epoch"])
        values: dict[tuple[str, int], NDArray[np.float32]] = {}
        for score in dict.fromkeys(column.score for column in made.columns.values() if column.score in table.column_names):
            given = _floats(table[score])
            for moment in np.unique(epoch):
                chosen = (epoch == moment) & np.isfinite(given)
                if chosen.any():
                    matrix = np.full((len(seeds), ids.size), np.nan, np.float32)
                    matrix[row[chosen], column[chosen]] = given[chosen]
                    values[score, int(moment)] = matrix
        return values

    def save_label_noise(
        self, ids: NDArray[np.int64], before: NDArray[np.int32], after: NDArray[np.int32], source_id: NDArray[Any] | None = None
    ) -> None:
        """Record which labels `source.label_noise` changed, from what to what."""
        columns = _ids(ids, source_id) | {"label_before": before, "label_after": after}
        write_parquet(self.path / "label_noise.parquet", columns, {"format": FORMAT})

    def save_skipped(self, skipped: Mapping[int, str], test_skipped: Mapping[int, str], source_id: NDArray[Any] | None = None) -> None:
        """Record the rows that cannot be read, scored ones first, with the reason; `source_id` in the same order."""
        columns = _ids(np.array([*skipped, *test_skipped], np.int64), source_id)
        columns["held_out"] = np.repeat([False, True], [len(skipped), len(test_skipped)])
        columns["reason"] = pa.array([*skipped.values(), *test_skipped.values()], pa.string())
        write_parquet(self.path / "skipped.parquet", columns, {"format": FORMAT})

    def skipped(self) -> tuple[dict[int, str], dict[int, str]] | None:
        """{id: reason} of the rows to be scored, and of those held out, that cannot be read; None if nobody has looked."""
        if not (self.path / "skipped.parquet").exists():
            return None
        table, _ = read_parquet(self.path / "skipped.parquet")
        ids, held_out = np.asarray(table["example_id"]), np.asarray(table["held_out"])
        return _reasons(table["reason"].filter(pa.array(~held_out)), ids[~held_out]), _reasons(
            table["reason"].filter(pa.array(held_out)), ids[held_out]
        )

    # Selections

    def selection_path(self, name: str) -> Path:
        """The folder of one selection."""
        return self.path / "selections" / name

    def save_selection(self, selection: Selection) -> None:
        """Write selection.parquet: every scored id, whether it is kept, and the reason if it is not."""
        ids = np.concatenate([selection.kept, selection.dropped])
        kept = np.concatenate([np.ones(selection.kept.size, bool), np.zeros(selection.dropped.size, bool)])
        reasons = pa.array([None] * selection.kept.size + list(selection.reasons), pa.string()).dictionary_encode()
        order = np.argsort(ids)
        meta = {name: getattr(selection, name) for name in _SELECTION_META} | {"provenance": dataclasses.asdict(selection.provenance)}
        columns = _ids(ids[order], selection.source_id) | {"kept": kept[order], "reason": reasons.take(pa.array(order))}
        write_parquet(self.selection_path(selection.name) / "selection.parquet", columns, {"format": FORMAT, **meta})

    def load_selection(self, name: str) -> Selection:
        """Read one selection by name."""
        path = self.selection_path(name) / "selection.parquet"
        if not path.exists():
            raise RecipeError(
                f"{self.path} has no selection {name!r}; it has: {', '.join(self.selections()) or 'none, run hf-datadiet prune'}"
            )
        table, meta = read_parquet(path)
        ids, kept = np.asarray(table["example_id"], dtype=np.int64), np.asarray(table["kept"])
        reasons = tuple(reason for reason, keep in zip(table["reason"].to_pylist(), kept, strict=True) if not keep)
        fields = {key: meta[key] for key in _SELECTION_META}
        return Selection(
            kept=ids[kept],
            dropped=ids[~kept],
            reasons=reasons,
            provenance=_provenance(meta["provenance"]),
            source_id=_source_ids(table),
            **fields,
        )

    def selections(self) -> list[str]:
        """Names of the finished selections, sorted."""
        return sorted(path.parent.name for path in self.path.glob("selections/*/selection.parquet"))

    # Evaluations

    def evaluation_path(self, name: str) -> Path:
        """The folder of one evaluation."""
        return self.path / "evaluations" / name

    def save_arm(self, evaluation: str, result: ArmResult, test_id: NDArray[np.int64]) -> None:
        """Write one finished training of an evaluation."""
        meta = {key: value for key, value in vars(result).items() if key not in ("predicted", "p_label")}
        arrays = {"predicted": result.predicted, "p_label": result.p_label, "test_id": test_id}
        write_safetensors(self._arm_file(evaluation, result.arm, result.seed), arrays, meta)

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
        folder = self.evaluation_path(table.name)
        results, tests = table.results, table.test_id.size
        predictions = {
            "arm": pa.array(np.repeat([result.arm for result in results], tests)),
            "seed": np.repeat(np.array([result.seed for result in results], np.int32), tests),
            "test_id": np.tile(table.test_id, len(results)),
            **({} if table.test_source_id is None else {"source_id": _strings(np.tile(table.test_source_id, len(results)))}),
            "label": np.tile(table.test_label, len(results)),
            "predicted": np.concatenate([result.predicted for result in results]),
            "p_label": np.concatenate([result.p_label for result in results]),
        }
        write_parquet(folder / "predictions.parquet", predictions, {"format": FORMAT})
        rows = [(result, metric, value) for result in results for metric, value in result.metrics.items()]
        long = {
            "arm": pa.array([result.arm for result, _, _ in rows]),
            "model": pa.array([table.model] * len(rows)),
            "seed": np.array([result.seed for result, _, _ in rows], np.int32),
            "metric": pa.array([metric for _, metric, _ in rows]),
            "value": np.array([value for _, _, value in rows], np.float64),
        }
        write_parquet(folder / "results.parquet", long, {"format": FORMAT})
        meta = {key: getattr(table, key) for key in _EVALUATION_META}
        meta["provenance"] = dataclasses.asdict(table.provenance)
        meta["results"] = [{k: v for k, v in vars(result).items() if k not in ("predicted", "p_label")} for result in results]
        write_record(folder / "evaluation.json", {"format": FORMAT, **meta})

    def load_evaluation(self, name: str) -> EvaluationTable:
        """Read one finished evaluation."""
        folder = self.evaluation_path(name)
        meta = read_record(folder / "evaluation.json")
        table, _ = read_parquet(folder / "predictions.parquet")
        tests = table.num_rows // len(meta["results"])
        predicted = np.asarray(table["predicted"]).reshape(-1, tests)
        p_label = np.asarray(table["p_label"]).reshape(-1, tests)
        results = tuple(ArmResult(**row, predicted=predicted[i], p_label=p_label[i]) for i, row in enumerate(meta["results"]))
        return EvaluationTable(
            **{key: meta[key] for key in _EVALUATION_META},
            test_id=np.asarray(table["test_id"][:tests], dtype=np.int64),
            test_label=np.asarray(table["label"][:tests], dtype=np.int32),
            results=results,
            provenance=_provenance(meta["provenance"]),
            test_source_id=_source_ids(table.slice(0, tests)),
        )

    def evaluations(self) -> list[str]:
        """Names of the finished evaluations, sorted."""
        return sorted(path.parent.name for path in self.path.glob("evaluations/*/evaluation.json"))

    # The report

    def save_report(self, report: Report, markdown: str) -> None:
        """Write report.json and report.md."""
        write_json(self.path / "report.json", dataclasses.asdict(report))
        write_text(self.path / "report.md", markdown)


_SELECTION_META = ("name", "score", "strategy", "parameters", "tie_seed", "quotas", "table_digest", "source_digest")
_EVALUATION_META = ("name", "model", "match", "margin", "arms", "arm_selections", "n_seeds", "source_digest")


def _is_a_beginning(name: str) -> bool:
    """Whether a run that was killed before its first record was whole, or `cache`, may have left this behind."""
    return name in ("cache", "source.json") or (name.startswith(".") and name.endswith(".tmp"))


def _ids(example_id: NDArray[np.int64], source_id: NDArray[Any] | None) -> dict[str, Any]:
    return {"example_id": example_id} | ({} if source_id is None else {"source_id": _strings(source_id)})


def _strings(source_id: NDArray[Any]) -> Any:
    return pa.array(source_id, pa.string()) if source_id.dtype == object else source_id


def _source_ids(table: pa.Table) -> NDArray[Any] | None:
    return table["source_id"].to_numpy() if "source_id" in table.column_names else None


def _reasons(column: pa.ChunkedArray, ids: NDArray[np.int64]) -> dict[int, str]:
    return {row: reason for row, reason in zip(ids.tolist(), column.to_pylist(), strict=True) if reason is not None}


def _floats(column: pa.ChunkedArray) -> NDArray[np.float32]:
    return np.asarray(column.combine_chunks().to_numpy(zero_copy_only=False), dtype=np.float32)


def _differences(found: Any, wanted: Any, at: str = "") -> list[str]:
    """Lines such as "score.epochs: 6 there, 10 asked", for nested plain values."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        return [
            line
            for key in sorted({*found, *wanted})
            for line in _differences(found.get(key), wanted.get(key), f"{at}.{key}" if at else key)
        ]
    return [] if found == wanted else [f"{at}: {found} there, {wanted} asked"]
