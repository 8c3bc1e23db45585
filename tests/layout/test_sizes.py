"""Nothing grows out of sight: files of at most 600 lines, functions of at most 80 without their docstring."""

from __future__ import annotations

import ast

import pytest

from tests.layout.source_tree import ROOT, tree

FOLDERS = ("astrid_gpu", "kernels", "benchmarks", "tests")
SOURCES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".cu", ".cuh", ".h"} and "__pycache__" not in path.parts
)
PYTHON = [path for path in SOURCES if path.suffix == ".py"]


def name(path):
    return str(path.relative_to(ROOT))


def body_lines(function):
    """Lines of a function from `def` to its end, its docstring not counted."""
    total = function.end_lineno - function.lineno + 1
    first = function.body[0]
    is_doc = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return total - (first.end_lineno - first.lineno + 1 if is_doc else 0)


def test_sources_were_found():
    assert len(PYTHON) > 60


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_file_is_at_most_600_lines(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 600, f"{name(path)} has {lines} lines: split it"


@pytest.mark.parametrize("path", PYTHON, ids=name)
def test_functions_are_at_most_80_lines(path):
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    long = {
        f"{node.name} (line {node.lineno})": body_lines(node)
        for node in ast.walk(tree(path))
        if isinstance(node, kinds) and body_lines(node) > 80
    }
    assert not long, f"{name(path)}: {long}"


def test_half_of_the_files_are_short():
    """The median module of the package has at most 250 lines."""
    lines = sorted(
        len(p.read_text(encoding="utf-8").splitlines()) for p in PYTHON if p.is_relative_to(ROOT / "astrid_gpu")
    )
    assert lines[len(lines) // 2] <= 250


def test_folders_are_at_most_two_deep():
    deep = [name(p) for p in PYTHON if p.is_relative_to(ROOT / "astrid_gpu") and len(p.relative_to(ROOT).parts) > 4]
    assert not deep
