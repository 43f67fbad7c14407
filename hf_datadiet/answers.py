"""What a command says when it is done: as text for people, as one JSON object for programs. Both hold the same facts."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from hf_datadiet.cells import number, short, table
from hf_datadiet.durable import json_text
from hf_datadiet.escaping import coded, visible
from hf_datadiet.markdown import summary
from hf_datadiet.records import AUTO, Report, Selection
from hf_datadiet.spreadsheet import csv_text
from hf_datadiet.status import Status, status_of
from hf_datadiet.store import RunFolder
from hf_datadiet.trainings import State, Training

if TYPE_CHECKING:
    from hf_datadiet.hub.push import Planned, Pushed
    from hf_datadiet.publish import Published
    from hf_datadiet.suspects import Suspects
    from hf_datadiet.training.estimate import Forecast
    from hf_datadiet.verify import Verification

Form: TypeAlias = Literal["text", "json", "csv"]


@dataclass(frozen=True)
class Answer:
    """`text` for a person, `data` as plain JSON values for a program; `rows` where what is said is one table, which may be CSV then."""

    text: str
    data: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]] = ()

    def in_form(self, form: Form) -> str:
        """What goes to stdout, ending in a line feed."""
        if form == "text":
            # Whatever names of the data it holds, a terminal shows them, and obeys none.
            return "".join(f"{coded(line)}\n" for line in self.text.split("\n"))
        return csv_text(self.rows) if form == "csv" else json_text(self.data)


def of_report(folder: RunFolder, report: Report) -> Answer:
    """The tables of a run, where its files lie, and what to do next."""
    step = status_of(folder).next
    lines = ["", summary(report), "", f"report  {folder.path / 'report.md'}", f"scores  {folder.path / 'scores.parquet'}"]
    if report.selections and report.evaluations:
        lines.append(f"kept    {folder.selection_path(report.selections[0]['name']) / 'selection.parquet'}")
    data = {"run": str(folder.path), "report": dataclasses.asdict(report), "next": step}
    return Answer("\n".join([*lines, f"next    {step}"]), data)


def of_selection(folder: RunFolder, selection: Selection, dataset: Path | None) -> Answer:
    """What a selection keeps, and where it was written."""
    step = status_of(folder).next
    path = folder.selection_path(selection.name) / "selection.parquet"
    kept, dropped = selection.kept.size, selection.dropped.size
    written = [] if dataset is None else [f"pruned dataset: {dataset}"]
    tuned = selection.parameters.get(AUTO)
    if tuned:
        of = f"{len(tuned['candidates'])} candidates on {tuned['n_validation']} validation rows"
        written.insert(0, f"strategy: {tuned['chosen']}, chosen among {of}; hf-datadiet report shows them")
    data = {
        "run": str(folder.path),
        "name": selection.name,
        "kept": kept,
        "dropped": dropped,
        "selection": str(path),
        "dataset": None if dataset is None else str(dataset),
        "next": step,
    } | ({AUTO: tuned} if tuned else {})
    return Answer("\n".join([f"{kept} rows kept, {dropped} dropped: {path}", *written, f"next: {step}"]), data)


def of_forecast(found: Forecast, *, source: str, n_source_rows: int, seeds_done: int, folder: Path) -> Answer:
    """What a run would do and take."""
    from hf_datadiet.training.progress import clock

    together, whose = (f" in {found.processes} processes", "each") if found.processes > 1 else ("", "this")
    lines = [
        f"rows      {found.n_rows} scored, {found.n_test} held out, of {source} ({n_source_rows} rows)",
        f"score     {found.n_seeds} seeds ({seeds_done} done) x {found.score_epochs} epochs = {found.score_steps} steps, "
        f"observed after epoch {', '.join(map(str, found.moments))}: about {clock(found.score_seconds)} for all{together}",
    ]
    if found.tunings:
        lines.append(
            f"tune      {'; '.join(found.tunings.values())} = {found.tune_steps} steps: about {clock(found.tune_seconds)}{together}"
        )
    if found.arms:
        sizes = ", ".join(f"{arm} {rows}" for arm, rows in found.arms.items())
        models = f" x {found.models} models" if found.models > 1 else ""
        lines.append(
            f"evaluate  {found.evaluate_seeds} seeds x {len(found.arms)} arms ({sizes}){models} = {found.evaluate_steps} steps: "
            f"about {clock(found.evaluate_seconds)}{together}"
        )
    lines += [
        f"memory    about {found.memory_bytes / 2**30:.1f} GiB of {whose} process, decoded rows not counted (they are mapped from disk)",
        f"disk      about {found.disk_bytes / 2**20:.0f} MiB in {folder}",
        "nothing was written; unreadable rows were not looked for; times are from a few steps on this machine as busy as it is",
    ]
    about = {"run": str(folder), "source": source, "n_source_rows": n_source_rows, "seeds_done": seeds_done}
    return Answer("\n".join(lines), about | dataclasses.asdict(found))


def of_suspects(folder: RunFolder, found: Suspects) -> Answer:
    """The rows whose labels are most suspect, and what their numbers mean."""
    rows = found.plain()
    data = {"run": str(folder.path), **dataclasses.asdict(found), "rows": rows}
    head = {"example_id": "example", "p_label": "p(label)", "score": found.score}
    shown = [[_suspect_cell(name, value) for name, value in row.items()] for row in rows]
    return Answer("\n".join([*_suspect_meaning(found), "", table([head.get(name, name) for name in rows[0]], shown)]), data, rows)


def _suspect_meaning(found: Suspects) -> list[str]:
    """What the columns are, in words."""
    end = "low" if found.higher_is == "easier" else "high"
    lines = [f"{len(found.rows)} of {found.n_rows} rows with a label, most suspect first, by {found.score} ({end} is suspect)"]
    seeds = f"{found.n_seeds} seed{'s' if found.n_seeds != 1 else ''}"
    if found.n_epochs:
        how = "in the given logits" if found.origin == "logits" else "while it was trained on"
        known = "" if found.origin == "logits" else "; in the end wrong labels are known by heart"
        epochs = f"{found.n_epochs} epoch{'s' if found.n_epochs != 1 else ''}"
        lines.append(f"p(label)   probability of the label {how}, mean over {seeds} and {epochs}{known}")
    if found.moments:
        where = ", ".join(map(str, found.moments))
        lines.append(f"suggested  the class predicted most often instead, and its share of the predictions of {seeds} after epoch {where}")
    return lines


def _suspect_cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "share":
        return f"{number(100 * value, 0)} %"
    return number(value, 3) if name == "p_label" else short(value) if name == "score" else str(value)


def of_publication(found: Published) -> Answer:
    """What was written, what was sent, and how it is used."""
    lines = [f"tree      {found.tree}", f"configs   {', '.join(found.configs)}"]
    lines += [f"model     {place}" for place in found.models.values()]
    for plan in found.planned:
        lines += ["", *_plan(plan)]
    for pushed in found.pushed:
        lines.append(_pushed(pushed))
    place = found.to if found.pushed else str(found.tree)
    name = next((name for name in found.configs if name != "scores"), "scores")
    if found.pushed or not found.planned:
        lines.append(f'load      load_dataset("{place}", "{name}")')
        lines.append(f"next      hf-datadiet verify {shlex.quote(place)}")
    data = {
        "to": found.to,
        "tree": str(found.tree),
        "models": {repo: str(place) for repo, place in found.models.items()},
        "configs": {name: dict(rows) for name, rows in found.configs.items()},
        "planned": [_planned(plan) for plan in found.planned],
        "pushed": [dataclasses.asdict(pushed) for pushed in found.pushed],
    }
    return Answer("\n".join(lines), data)


def _plan(plan: Planned) -> list[str]:
    sent = [operation for operation in plan.operations if operation.kind in ("add", "replace")]
    who = "private" if plan.private else "public"
    gate = f", gated ({plan.gated})" if plan.gated else ""
    head = f"{plan.repo}: {'would be created, ' if plan.creates else ''}{who}{gate}"
    about = [f"what lies there is not known: {plan.unknown}"] if plan.unknown else []
    rows = [[operation.kind, str(operation.size), operation.path] for operation in plan.operations]
    total = f"{len(sent)} files of {sum(operation.size for operation in sent)} bytes would be sent in one commit; nothing was"
    return [head, *about, table(["what", "bytes", "file"], rows), total]


def _planned(plan: Planned) -> dict[str, Any]:
    listed = [{"path": each.path, "size": each.size, "kind": each.kind} for each in plan.operations]
    shown = {name: getattr(plan, name) for name in ("repo", "creates", "private", "gated", "unknown")}
    return {**shown, "operations": listed}


def _pushed(pushed: Pushed) -> str:
    what = "pushed" if pushed.changed else "the same"
    who = ("private" if pushed.private else "public") + (f", gated ({pushed.gated})" if pushed.gated else "")
    where = f"pull request {pushed.pull_request}" if pushed.pull_request else f"{pushed.url} at {pushed.sha}"
    return f"{what:8}  {where} ({who})" + ("" if pushed.changed else "; nothing had to be sent")


def of_verification(found: Verification) -> Answer:
    """What was looked at, and what differs."""
    marks = {"holds": "holds  ", "differs": "DIFFERS", "not verifiable": "unknown"}
    lines = [f"{found.name}{f' at {found.revision}' if found.revision else ''}", ""]
    for check in found.checks:
        lines += [f"{marks[check.state]}  {check.what}", *(f"         {visible(detail)}" for detail in check.details)]
    differs = sum(check.state == "differs" for check in found.checks)
    lines += ["", f"{differs} of {len(found.checks)} checks differ" if differs else "nothing that data can prove differs"]
    return Answer("\n".join(lines), {**dataclasses.asdict(found), "holds": found.holds})


def of_catalogue(shelf: str, found: Mapping[str, str]) -> Answer:
    """Names and meanings, one a line."""
    width = max(map(len, found), default=0)
    text = "\n".join(f"{name:{width}}  {meaning}".rstrip() for name, meaning in found.items())
    return Answer(text, {shelf: [{"name": name, "meaning": meaning} for name, meaning in found.items()]})


def of_status(status: Status) -> Answer:
    """How far a run has come."""
    lines = [
        f"run         {status.run}: {status.model} on {status.source}",
        f"seeds       {_count(status.seeds)}{_others(status.seeds)}" if status.taken is None else f"taken       from {status.taken}",
        f"scores      {', '.join(status.scores) or 'none yet'}",
        f"selections  {', '.join(f'{name} ({kept} rows)' for name, kept in status.selections.items()) or 'none yet'}",
    ]
    begun = [("tuning", status.tunings), ("evaluation", status.evaluations)]
    for what, name, arms in ((what, name, arms) for what, trials in begun for name, arms in trials.items()):
        everything = {(arm, seed): training for arm, trainings in arms.items() for seed, training in trainings.items()}
        lines.append(f"{what:10}  {name}: {_count(everything, ' trainings')}")
        width = max(map(len, arms), default=0)
        lines += [f"            {arm:{width}}  {_seeds(trainings)}" for arm, trainings in arms.items()]
    lines += [*_left(status), f"report      {'written' if status.report else 'none yet'}", f"next        {status.next}"]
    return Answer("\n".join(lines), dataclasses.asdict(status))


def _count(trainings: Mapping[Any, Training], unit: str = "") -> str:
    return f"{sum(training.state == 'done' for training in trainings.values())} of {len(trainings)}{unit} done"


def _others(seeds: Mapping[int, Training]) -> str:
    """What the scoring seeds that are neither done nor to do are about."""
    found = {seed: training for seed, training in seeds.items() if training.state not in ("done", "to do")}
    return f": {_seeds(found)}" if found else ""


def _seeds(trainings: Mapping[int, Training]) -> str:
    """Such as "done 10000 10001, running 10002 (epoch 3 of 10), to do 10003"."""
    grouped: dict[State, list[str]] = {}
    for seed, training in trainings.items():
        grouped.setdefault(training.state, []).append(f"{seed}{_detail(training)}")
    return ", ".join(f"{state} {' '.join(seeds)}" for state, seeds in grouped.items())


def _detail(training: Training) -> str:
    if training.state in ("done", "to do"):
        return ""
    epoch = [] if training.epochs is None else [f"epoch {training.epoch} of {training.epochs}"]
    return f" ({'; '.join([*epoch, *([training.reason] if training.reason else [])])})"


def _left(status: Status) -> list[str]:
    """How long it will take, unless there is nothing left to train."""
    from hf_datadiet.training.progress import clock

    if status.seconds_left == 0:
        return []
    if status.seconds_left is None:
        return ["time left   not known before the first epoch of each step is finished"]
    many = f"{status.running} running" if status.running else "one at a time"
    return [f"time left   about {clock(status.seconds_left)}, {many}"]
