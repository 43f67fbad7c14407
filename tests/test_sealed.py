"""Folders that appear whole, what is damaged put aside, what was forgotten removed, and several processes at once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hf_datadiet import durable, sealed
from hf_datadiet.errors import DamagedError


def made(folder: Path) -> Path:
    with sealed.appearing(folder, {"epochs": 3}) as temporary:
        (temporary / "a.bin").write_bytes(b"first")
        (temporary / "b.bin").write_bytes(b"second")
    return folder


def test_it_appears_whole(tmp_path: Path) -> None:
    folder = made(tmp_path / "x" / "000")
    assert sorted(path.name for path in folder.iterdir()) == ["a.bin", "b.bin", "done.json"] and sealed.about(folder)["epochs"] == 3
    sealed.check(folder)

    def interrupted() -> None:
        with sealed.appearing(tmp_path / "x" / "001") as temporary:
            (temporary / "a.bin").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["000"]


def test_the_first_to_finish_wins_and_what_has_no_marker_makes_way(tmp_path: Path) -> None:
    folder = made(tmp_path / "000")
    with sealed.appearing(folder) as temporary:
        (temporary / "a.bin").write_bytes(b"later")
    assert (folder / "a.bin").read_bytes() == b"first"
    (folder / "done.json").unlink()
    with sealed.appearing(folder) as temporary:
        (temporary / "a.bin").write_bytes(b"later")
    assert (folder / "a.bin").read_bytes() == b"later" and not (folder / "b.bin").exists()


@pytest.mark.parametrize("content", [b"", b"secon", b"Second", None])
def test_damage_is_named_and_made_anew(content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = made(tmp_path / "000")
    if content is None:
        (folder / "b.bin").unlink()
    else:
        (folder / "b.bin").write_bytes(content)
    with pytest.raises(DamagedError, match=r"000/b\.bin is missing or damaged; score again"):
        sealed.check(folder, "score again")
    sealed.cached(folder, lambda new: (new / "b.bin").write_bytes(b"second"))
    assert capsys.readouterr().err == f"{folder / 'b.bin'} is missing or damaged: it is made anew\n"
    sealed.check(folder)
    sealed.cached(folder, lambda new: pytest.fail("it is whole"))
    assert len(list(tmp_path.iterdir())) == 2, "the damaged one was put aside"


def test_what_another_process_made_anew_is_not_put_aside(tmp_path: Path) -> None:
    """It was damaged when this process began to read, and is whole when this process would put it aside."""
    folder = made(tmp_path / "000")
    (folder / "a.bin").unlink()
    looks: list[int] = []

    def slow_look() -> None:
        looks.append(1)
        try:
            sealed.check(folder)
        finally:
            if len(looks) == 1:
                folder.rename(tmp_path / "aside")
                made(folder)

    assert durable.sound(folder, slow_look) and len(looks) == 2
    sealed.check(folder)


def test_what_was_forgotten_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [".a.json.01234567.tmp", "seeds/.000.89abcdef.tmp/result.safetensors", "evaluations/main/arms/.full-1.safetensors.01234567.tmp"]
    others = [".hidden", "seeds/000/done.json", "mine.tmp", ".a.tmp"]
    for name in (*names, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    sealed.remove_forgotten(tmp_path)
    assert all((tmp_path / name).exists() for name in (*names, *others)), "somebody may be writing them"
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3500)
    sealed.remove_forgotten(tmp_path)
    assert all((tmp_path / name).exists() for name in names)
    monkeypatch.setattr(time, "time", lambda: now + 3700)
    sealed.remove_forgotten(tmp_path)
    assert not any((tmp_path / name).exists() for name in names) and not (tmp_path / "seeds" / ".000.89abcdef.tmp").exists()
    assert all((tmp_path / name).exists() for name in others)


CLAIMING = """
import sys, time
from pathlib import Path
from hf_datadiet.records import Plan
from hf_datadiet.store import RunFolder
from tests.synthetic import evaluation, run_result, score_table, selection, source

root, me, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
table = score_table()
for k in range(rounds):
    (root / f"ready-{k}-{me}").touch()
    while len(list(root.glob(f"ready-{k}-*"))) < 2:
        pass
    folder = RunFolder(root / f"run-{k}")
    folder.require_free()
    folder.claim({"task": "same"}, source(24), "source: {}\\n")
    plan = folder.save_plan(Plan("cpu", int(me), "float32", 64))
    start = folder.save_start({"who": me})
    folder.save_fitted({"who": me})
    folder.save_seed(run_result(0))
    folder.save_arm("main", evaluation().results[0], evaluation().test_id)
    folder.save_selection(selection(table, [0, 2, 4]))
    folder.load_seed(0), folder.load_arm("main", "full", 10_000), folder.load_selection("keep-50")
    print(plan.threads, start["who"], folder.fitted()["who"])
"""


def test_two_processes_claim_one_folder(tmp_path: Path) -> None:
    """Again and again at the same moment: nothing is torn, and both go by the same plan."""
    rounds = 25
    started = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIMING, str(tmp_path), me, str(rounds)], stdout=-1, stderr=-1, text=True, env=dict(os.environ)
        )
        for me in ("1", "2")
    ]
    (one, one_err), (two, two_err) = (process.communicate(timeout=120) for process in started)
    assert [process.returncode for process in started] == [0, 0], one_err + two_err
    assert one == two and len(one.splitlines()) == rounds
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]


def test_without_links_a_file_still_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(path: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    for value in (1, 2):
        durable.write_record(tmp_path / "plan.json", {"value": value}, first_wins=True)
    assert durable.read_record(tmp_path / "plan.json") == {"value": 1}
