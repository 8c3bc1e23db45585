"""Every name of the array namespace that device code uses exists in CuPy, with the keywords it is called with.

Found here rather than on the first machine with a GPU. CuPy imports without one.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

PACKAGE = Path(__file__).resolve().parent.parent.parent / "astrid_gpu"
FOLDERS = (".", "ops", "engine", "backends/cuda")
NAMESPACES = {"xp"}  # also reached as backend.xp, b.xp, ctx.xp, self.xp


@dataclass(frozen=True)
class Use:
    """``xp.<name>`` in a source, with the keywords if it is called."""

    place: str
    name: str
    keywords: tuple[str, ...]


def dotted(node: ast.AST) -> list[str]:
    """Return a.b.c as its parts, or nothing if it does not start with a plain name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return [node.id, *reversed(parts)] if isinstance(node, ast.Name) else []


def uses(source: str, place: str) -> Iterator[Use]:
    called: dict[int, tuple[str, ...]] = {}
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called[id(node.func)] = tuple(k.arg for k in node.keywords if k.arg)
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or id(node) in inner:
            continue
        parts = dotted(node)
        at = next((i for i, part in enumerate(parts[:-1]) if part in NAMESPACES), None)
        if at is not None:
            yield Use(f"{place}:{node.lineno}", ".".join(parts[at + 1 :]), called.get(id(node), ()))


def all_uses() -> list[Use]:
    found: list[Use] = []
    for folder in FOLDERS:
        for path in sorted((PACKAGE / folder).glob("*.py")):
            found += uses(path.read_text(encoding="utf-8"), f"{folder}/{path.name}")
    return found


def problem(use: Use, namespace: ModuleType) -> str:
    """Return what `namespace` lacks of a use, or an empty string."""
    thing = namespace
    for part in use.name.split("."):
        if not hasattr(thing, part):
            return f"{use.place}: {namespace.__name__}.{use.name} does not exist"
        thing = getattr(thing, part)
    try:
        known = inspect.signature(thing).parameters
    except (TypeError, ValueError):  # ufuncs and compiled functions do not tell
        return ""
    if any(p.kind is p.VAR_KEYWORD for p in known.values()):
        return ""
    odd = [k for k in use.keywords if k not in known]
    return f"{use.place}: {namespace.__name__}.{use.name} takes no {', '.join(odd)}" if odd else ""


def test_uses_are_found():
    source = "a = xp.fft.rfft2(x, norm='n')\nb = backend.xp.where(m, p, q)\nc = self.xp\nd = xp.zeros\ne = np.ones(3)\n"
    found = {(use.name, use.keywords) for use in uses(source, "here")}
    assert found == {("fft.rfft2", ("norm",)), ("where", ()), ("zeros", ())}


def test_problems_are_found():
    import numpy as np

    assert "numpy.nope does not exist" in problem(Use("here:1", "nope", ()), np)
    assert "numpy.median takes no axes" in problem(Use("here:1", "median", ("axes",)), np)
    assert problem(Use("here:1", "median", ("axis",)), np) == ""


def test_there_is_something_to_check():
    names = {use.name for use in all_uses()}
    assert {"where", "zeros", "empty", "asarray"} <= names
    assert len(names) > 25


def test_names_exist_in_cupy():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed", exc_type=ImportError)
    problems = [text for use in all_uses() if (text := problem(use, cupy))]
    assert problems == []


def test_names_exist_in_numpy():
    import numpy as np

    own = ("cuda.", "RawModule", "asnumpy", "get_default_memory_pool")  # the device's own, behind `is_gpu`
    problems = [text for use in all_uses() if (text := problem(use, np)) and not use.name.startswith(own)]
    assert problems == []
