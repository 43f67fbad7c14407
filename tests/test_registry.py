from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from hf_datadiet import registry
from hf_datadiet.errors import PluginError
from hf_datadiet.scorers.base import BatchScore
from hf_datadiet.selectors.window import Window


def test_the_folder_listing_is_the_registry() -> None:
    folder = Path(registry.__file__).parent
    for kind in ("scorers", "selectors", "tasks"):
        files = {path.stem for path in (folder / kind).glob("*.py")}
        expected = sorted(name for name in files if name != "base" and not name.startswith("_"))
        assert [name for name in registry.names(kind) if name in files] == expected
    assert {"el2n", "grand", "forgetting"} <= set(registry.names("scorers"))
    assert {"hardest", "window", "random"} <= set(registry.names("selectors"))


def test_listing_imports_no_plug_in_and_not_torch() -> None:
    code = (
        "import sys; from hf_datadiet import registry\n"
        "assert 'el2n' in registry.names('scorers') and 'window' in registry.names('selectors')\n"
        "assert registry.meaning('scorers', 'el2n').startswith('Length of the error vector')\n"
        "plug_ins = ('hf_datadiet.scorers.', 'hf_datadiet.selectors.')\n"
        "loaded = [name for name in sys.modules if name == 'torch' or name.startswith(plug_ins)]\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=Path(registry.__file__).parents[1], timeout=60)


def test_finding() -> None:
    assert isinstance(registry.find("scorers", "el2n"), BatchScore)
    assert registry.find("selectors", "window") is Window


def test_an_unknown_name_gets_its_nearest_and_the_list() -> None:
    with pytest.raises(PluginError, match=r"^no score 'el2m'; did you mean el2n\? The scores are: .*\bgrand\b.*$"):
        registry.find("scorers", "el2m")
    with pytest.raises(PluginError, match=r"^no strategy 'zzz'; the strategies are: .*\bhardest\b"):
        registry.find("selectors", "zzz")
    with pytest.raises(PluginError, match="no score 'el2m'"):
        registry.meaning("scorers", "el2m")


@pytest.mark.parametrize("name", ["base", "_order", "", ":", "window:", ":X", "../window", "hf_datadiet.selectors.window"])
def test_what_is_not_a_public_module_is_unknown(name: str) -> None:
    with pytest.raises(PluginError, match="no strategy"):
        registry.find("selectors", name, allow_plugins=True)


def test_an_unknown_kind_is_a_bug_and_not_the_users() -> None:
    with pytest.raises(ValueError, match="no kind 'scores'"):
        registry.names("scores")  # pyright: ignore[reportArgumentType]


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the import path with modules of a third party."""
    (tmp_path / "their_scores.py").write_text(
        '"""Their score, in a line.\n\nMore."""\nSCORER = "theirs"\nclass Inner:\n    SCORER = "inner"\n'
    )
    (tmp_path / "their_broken.py").write_text("import a_module_that_is_not_there\n")
    (tmp_path / "their_crash.py").write_text("raise RuntimeError('first line\\nsecond line')\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("their_scores", "their_broken", "their_crash"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("outside")
def test_code_from_outside_is_imported_only_when_allowed() -> None:
    with pytest.raises(PluginError, match=r"--allow-plugins \(Python: allow_plugins=True\)"):
        registry.find("scorers", "their_scores:SCORER")
    assert "their_scores" not in sys.modules
    assert registry.find("scorers", "their_scores:SCORER", allow_plugins=True) == "theirs"
    assert registry.find("scorers", "their_scores:Inner.SCORER", allow_plugins=True) == "inner"


@pytest.mark.usefixtures("outside")
def test_a_plug_in_that_does_not_import_is_an_error_with_its_cause() -> None:
    with pytest.raises(PluginError, match="'their_broken:S' does not import: ModuleNotFoundError: No module named 'a_module") as fault:
        registry.find("scorers", "their_broken:S", allow_plugins=True)
    assert isinstance(fault.value.__cause__, ModuleNotFoundError)
    with pytest.raises(PluginError, match=r"RuntimeError: first line; mend their_crash$") as fault:
        registry.find("scorers", "their_crash:S", allow_plugins=True)
    assert "\n" not in str(fault.value)
    with pytest.raises(PluginError, match="their_scores has no SELECTOR; define it there") as fault:
        registry.find("selectors", "their_scores:SELECTOR", allow_plugins=True)
    assert isinstance(fault.value.__cause__, AttributeError)


@pytest.mark.usefixtures("outside")
def test_installed_entry_points_are_listed_and_found(monkeypatch: pytest.MonkeyPatch) -> None:
    group = "hf_datadiet.scorers"
    installed = EntryPoints(
        [
            EntryPoint("theirs", "their_scores:SCORER", group),
            EntryPoint("whole_module", "their_scores", group),
            EntryPoint("broken", "their_broken:SCORER", group),
            EntryPoint("el2n", "their_scores:SCORER", group),
        ]
    )
    monkeypatch.setattr(registry, "entry_points", lambda group: installed.select(group=group))
    assert {"theirs", "whole_module", "broken", "el2n"} <= set(registry.names("scorers"))
    assert registry.names("scorers").count("el2n") == 1
    assert "their_scores" not in sys.modules
    assert "theirs" not in registry.names("selectors")
    assert registry.meaning("scorers", "theirs") == "Their score, in a line."
    assert "their_scores" not in sys.modules
    assert registry.find("scorers", "theirs") == "theirs" == registry.find("scorers", "whole_module")
    assert isinstance(registry.find("scorers", "el2n"), BatchScore), "a built-in name cannot be taken over"
    with pytest.raises(PluginError, match="'broken' does not import"):
        registry.find("scorers", "broken")
