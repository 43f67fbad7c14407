"""What an import costs, what is public, and what no file may contain."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import hf_datadiet

PACKAGE = Path(hf_datadiet.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
HEAVY = ["accelerate", "huggingface_hub", "datasets", "transformers", "timm", "matplotlib"]


def loaded_by(statement: str) -> set[str]:
    """Top-level names in sys.modules after the statement, in a fresh interpreter."""
    program = f"import json, sys; {statement}; print(json.dumps([name for name in sys.modules if '.' not in name]))"
    result = subprocess.run([sys.executable, "-c", program], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout))


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import hf_datadiet", [*HEAVY, "torch", "numpy"]),
        ("import hf_datadiet; hf_datadiet.ScoreTable", [*HEAVY, "torch"]),
        ("import hf_datadiet.stats", [*HEAVY, "torch"]),
        ("import hf_datadiet.report", [*HEAVY, "torch"]),
        ("import hf_datadiet.scorers.el2n", HEAVY),
        ("import hf_datadiet.cli", ["matplotlib", "torch"]),
    ],
)
def test_an_import_loads_no_heavy_library(statement, absent):
    assert loaded_by(statement).isdisjoint(absent)


@pytest.mark.parametrize("name", hf_datadiet.__all__)
def test_a_public_name_comes_from_the_module_that_defines_it(name):
    value = getattr(hf_datadiet, name)
    assert not inspect.ismodule(value)
    assert value.__module__ == f"hf_datadiet.{hf_datadiet._MODULE_OF[name]}"
    assert getattr(hf_datadiet, name) is value


def test_the_three_lists_of_public_names_agree():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    for_type_checkers = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("hf_datadiet.")
        for alias in node.names
    }
    assert for_type_checkers == {name: f"hf_datadiet.{module}" for name, module in hf_datadiet._MODULE_OF.items()}
    assert hf_datadiet.__all__ == sorted(for_type_checkers)


def test_nothing_else_is_public():
    assert [name for name in dir(hf_datadiet) if not name.startswith("_")] == sorted(hf_datadiet.__all__)
    assert "__version__" in dir(hf_datadiet)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'scoer_dataset'"):
        _ = hf_datadiet.scoer_dataset


def public_callables():
    for name in hf_datadiet.__all__:
        value = getattr(hf_datadiet, name)
        yield name, value
        if inspect.isclass(value):
            for member, raw in vars(value).items():
                function = raw.fget if isinstance(raw, property) else getattr(raw, "__func__", raw)
                if not member.startswith("_") and inspect.isfunction(function):
                    yield f"{name}.{member}", function


def test_every_public_name_is_documented():
    # A dataclass without a docstring gets its signature as one.
    undocumented = [
        name
        for name, value in public_callables()
        if not value.__doc__ or (inspect.isclass(value) and value.__doc__.startswith(f"{value.__name__}("))
    ]
    assert not undocumented


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def unsafe(node: ast.AST) -> bool:
    """Would this node read a pickle, or run code that came with a model?"""
    if isinstance(node, ast.keyword):
        forbidden = {"trust_remote_code": True, "allow_pickle": True, "weights_only": False}
        return node.arg in forbidden and getattr(node.value, "value", None) is forbidden[node.arg]
    if not isinstance(node, ast.Call):
        return False
    if called(node) == "torch.load":
        return all(keyword.arg != "weights_only" for keyword in node.keywords)
    return called(node).split(".")[0] in {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_reads_pickles_or_runs_remote_code(path):
    assert [ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if unsafe(node)] == []


@pytest.mark.parametrize(
    "line",
    [
        "pickle.load(file)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_the_check_above_sees_an_unsafe_line(line):
    assert any(unsafe(node) for node in ast.walk(ast.parse(line)))
