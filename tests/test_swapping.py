"""A folder that another one takes the place of: whole or not there, whenever the process dies, and nothing stays behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hf_datadiet.swapping import swapping

FILES = {"a.txt": "a", "below/b.txt": "b", "below/c.txt": "c"}

KILLED = """
import os, signal, sys
from pathlib import Path
from hf_datadiet.swapping import swapping

def killed(root, n):
    left = [n]
    def count(event, arguments):
        if event.startswith(("os.", "fcntl.", "shutil.")) or event == "open":
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)
    with swapping(root / "tree") as new:
        for path, text in %r.items():
            (new / path).parent.mkdir(exist_ok=True)
            (new / path).write_text(text + "2")
    os._exit(0)

for n in range(1, 1000):
    root = Path(sys.argv[1]) / str(n)
    (root / "tree").mkdir(parents=True)
    for path, text in %r.items():
        (root / "tree" / path).parent.mkdir(exist_ok=True)
        (root / "tree" / path).write_text(text + "1")
    if not (child := os.fork()):
        killed(root, n)
    if os.waitpid(child, 0)[1] == 0:
        break
"""
"""Dies before each of its calls of the system in turn."""


def fill(folder: Path, version: str) -> None:
    with swapping(folder) as new:
        for path, text in FILES.items():
            (new / path).parent.mkdir(exist_ok=True)
            (new / path).write_text(text + version)


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def whole(version: str) -> dict[str, str]:
    return {path: text + version for path, text in FILES.items()}


def test_the_new_one_takes_the_place(tmp_path: Path) -> None:
    fill(tmp_path / "in" / "tree", "1")
    assert content(tmp_path / "in" / "tree") == whole("1")
    (tmp_path / "in" / "tree" / "more.txt").write_text("more")
    fill(tmp_path / "in" / "tree", "2")
    assert content(tmp_path / "in" / "tree") == whole("2") and [path.name for path in (tmp_path / "in").iterdir()] == ["tree"]


def test_what_fails_changes_nothing(tmp_path: Path) -> None:
    fill(tmp_path / "tree", "1")

    def half() -> None:
        with swapping(tmp_path / "tree") as new:
            (new / "a.txt").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert content(tmp_path / "tree") == whole("1") and [path.name for path in tmp_path.iterdir()] == ["tree"]


def test_it_is_killed_at_each_moment(tmp_path: Path) -> None:
    program = KILLED % (FILES, FILES)
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=120)
    moments = sorted(tmp_path.iterdir(), key=lambda path: int(path.name))
    seen = []
    for root in moments:
        found = content(root / "tree") if (root / "tree").exists() else {}
        assert found in ({}, whole("1"), whole("2")), root.name
        seen.append(next(version for version in "012" if found == ({} if version == "0" else whole(version))))
        fill(root / "tree", "3")
        assert content(root / "tree") == whole("3") and [path.name for path in root.iterdir()] == ["tree"], root.name
    # The old one, for a moment none, the new one.
    assert "".join(sorted(set(seen), key=seen.index)) == "102" and seen.count("0") <= 2


def test_another_process_is_left_alone(tmp_path: Path) -> None:
    program = "import sys; from pathlib import Path; from tests.test_swapping import fill; fill(Path(sys.argv[1]), '2')"
    with swapping(tmp_path / "tree") as new:
        (new / "a.txt").write_text("mine")
        subprocess.run([sys.executable, "-c", program, str(tmp_path / "tree")], check=True, timeout=120)
        assert (new / "a.txt").read_text() == "mine" and content(tmp_path / "tree") == whole("2")
    assert content(tmp_path / "tree") == {"a.txt": "mine"} and [path.name for path in tmp_path.iterdir()] == ["tree"]


def test_only_what_is_temporary_goes(tmp_path: Path) -> None:
    kept = [tmp_path / name for name in (".tree.0123abcd", "tree.0123abcd.tmp", ".trees.0123abcd.tmp", ".tree.mine.tmp")]
    for folder in [*kept, tmp_path / ".tree.0123abcd.tmp"]:
        folder.mkdir()
    fill(tmp_path / "tree", "1")
    assert sorted(tmp_path.iterdir()) == sorted([*kept, tmp_path / "tree"])
