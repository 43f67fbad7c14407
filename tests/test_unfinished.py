from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_datadiet import unfinished
from hf_datadiet.errors import DivergedError
from hf_datadiet.unfinished import Unfinished, UnusableError

ABOUT = {"seed": 3, "plan": {"threads": 1}, "moments": (0, 2)}
ARRAYS = {"a": np.arange(5), "b": np.array(0.25, np.float32)}


@pytest.fixture
def unit(tmp_path: Path) -> Unfinished:
    return Unfinished(tmp_path / "run" / "unfinished" / "score" / "003")


def said(unit: Unfinished) -> dict[str, Any]:
    return json.loads((unit.path / "progress.json").read_text())


def test_what_is_kept_is_loaded(unit: Unfinished) -> None:
    assert unit.load(ABOUT) is None and not unit.path.exists()
    unit.keep({"old": np.zeros(2)}, {"epoch": 1}, ABOUT)
    unit.keep(ARRAYS, {"epoch": 2}, ABOUT)
    unit.keep_weights(1, ARRAYS, ABOUT)
    found = Unfinished(unit.path).load(ABOUT)
    assert found is not None and found[1] == {"epoch": 2}
    for arrays in (found[0], unit.load_weights(1, ABOUT)):
        assert arrays.keys() == ARRAYS.keys() and all(np.array_equal(arrays[name], ARRAYS[name]) for name in ARRAYS)
    assert sorted(path.name for path in unit.path.iterdir()) == ["checkpoint.safetensors", "weights-e1.safetensors"]


@pytest.mark.parametrize("damage", ["cut", "emptied", "flipped", "text"])
def test_damage_is_named(unit: Unfinished, damage: str) -> None:
    unit.keep(ARRAYS, {}, ABOUT)
    path = unit.path / "checkpoint.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= damage == "flipped"
    path.write_bytes({"cut": content[:-3], "emptied": b"", "flipped": content, "text": b"x" * 200}[damage])
    with pytest.raises(UnusableError, match=r"^checkpoint\.safetensors is missing or damaged$"):
        unit.load(ABOUT)


def test_weights_that_are_missing_are_named(unit: Unfinished) -> None:
    with pytest.raises(UnusableError, match=r"^weights-e2\.safetensors is missing or damaged$"):
        unit.load_weights(2, ABOUT)


@pytest.mark.parametrize(
    ("other", "named"),
    [({**ABOUT, "plan": {"threads": 2}}, "plan"), ({"seed": 3}, "moments, plan"), ({**ABOUT, "rows": "x", "seed": 4}, "rows, seed")],
)
def test_anothers_is_not_loaded(unit: Unfinished, other: dict[str, Any], named: str) -> None:
    unit.keep(ARRAYS, {}, ABOUT)
    unit.keep_weights(1, ARRAYS, ABOUT)
    with pytest.raises(UnusableError, match=f"belongs to a training with another {named}$"):
        unit.load(other)
    with pytest.raises(UnusableError, match=f"belongs to a training with another {named}$"):
        unit.load_weights(1, other)


def test_progress_from_begin_to_end(unit: Unfinished) -> None:
    with unit.at_work(6):
        assert said(unit) == {"state": "running", "epoch": 0, "epochs": 6, "seconds": 0.0, "reason": None}
        unit.progress(2, 3.5)
        assert said(unit) == {"state": "running", "epoch": 2, "epochs": 6, "seconds": 3.5, "reason": None}
        unit.keep(ARRAYS, {}, ABOUT)
    run = unit.path.parents[2]
    assert list(run.iterdir()) == [], "no folder is left behind"


def test_other_trainings_stay_when_one_is_finished(unit: Unfinished) -> None:
    other = Unfinished(unit.path.with_name("004"))
    other.progress(1, 1.0)
    with unit.at_work(6):
        pass
    assert said(other)["epoch"] == 1 and not unit.path.exists()


@pytest.mark.parametrize(
    ("end", "state", "reason"),
    [
        (KeyboardInterrupt(), "stopped", None),
        (DivergedError("the training diverged"), "failed", "the training diverged"),
        (RuntimeError("two\nlines"), "failed", "two lines"),
        (ValueError(), "failed", "ValueError"),
    ],
)
def test_how_it_ended(unit: Unfinished, end: BaseException, state: str, reason: str | None) -> None:
    def work() -> None:
        with unit.at_work(6):
            unit.progress(2, 3.5)
            unit.keep(ARRAYS, {}, ABOUT)
            raise end

    with pytest.raises(type(end)):
        work()
    more = {"diverged": True} if isinstance(end, DivergedError) else {}
    assert said(unit) == {"state": state, "epoch": 2, "epochs": 6, "seconds": 3.5, "reason": reason, **more}
    assert unit.load(ABOUT) is not None


def test_a_full_disk_does_not_hide_what_happened(unit: Unfinished, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    def work() -> None:
        with unit.at_work(6):
            monkeypatch.setattr(unfinished, "write_json", full)
            raise DivergedError("the training diverged")

    with pytest.raises(DivergedError):
        work()


def test_signs_of_life(unit: Unfinished, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    unit = Unfinished(unit.path)
    unit.progress(0, 0.0)
    path = unit.path / "progress.json"

    def touched_after(seconds: float) -> bool:
        os.utime(path, (0, 0))
        now[0] += seconds
        unit.alive()
        return path.stat().st_mtime > 0

    assert [touched_after(seconds) for seconds in (1.0, 3.0, 2.0, 4.0, 60.0)] == [False, False, True, False, True]
    path.unlink()
    now[0] += 60
    unit.alive()


def test_another_process_may_have_finished_it(unit: Unfinished, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder is gone, at any time: nothing that is done to it fails."""
    with unit.at_work(6):
        Unfinished(unit.path).clear()
        unit.progress(1, 1.0)
        unit.keep(ARRAYS, {}, ABOUT)
        Unfinished(unit.path).clear()
    original = Path.replace

    def gone(path: Path, target: Path) -> Path:
        shutil.rmtree(unit.path, ignore_errors=True)
        return original(path, target)

    monkeypatch.setattr(Path, "replace", gone)
    with unit.at_work(6):
        unit.progress(1, 1.0)
        unit.keep(ARRAYS, {}, ABOUT)
        unit.keep_weights(1, ARRAYS, ABOUT)
    assert not unit.path.exists()


def test_nobody_waits_for_what_has_diverged(tmp_path: Path) -> None:
    def life(error: Exception) -> bool:
        def work() -> None:
            with Unfinished(tmp_path / "unit").at_work(3):
                assert not Unfinished(tmp_path / "unit").has_diverged(), "it is at work"
                raise error

        with pytest.raises(type(error)):
            work()
        return Unfinished(tmp_path / "unit").has_diverged()

    assert not Unfinished(tmp_path / "unit").has_diverged()
    assert life(DivergedError("the training diverged")) and not life(RuntimeError("something else"))
    (tmp_path / "unit" / "progress.json").write_text("{")
    assert not Unfinished(tmp_path / "unit").has_diverged()
