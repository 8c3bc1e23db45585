"""What the package shows: every public name resolves, is told in numpydoc, and __all__ says exactly what there is."""

from __future__ import annotations

import inspect
import re
import types

import pytest

import astrid_gpu as ag
from tests.layout.source_tree import bound, declared_all, defined, has_all, is_package, modules

MODULES = modules()
FUNCTIONS = [name for name in ag.__all__ if name in ag._PUBLIC and name[0].islower()]


def test_front_page_is_short_and_without_repeats():
    assert len(ag.__all__) <= 34
    assert len(set(ag.__all__)) == len(ag.__all__)


@pytest.mark.parametrize("name", ag.__all__)
def test_public_name_resolves(name):
    value = getattr(ag, name)
    assert callable(value) or isinstance(value, type | types.ModuleType)
    assert name in dir(ag)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_function_stays_itself_when_its_module_is_imported(name):
    """`subtract`, `align`, `detect` and others are functions and modules: the function wins, in either order."""
    import importlib

    importlib.import_module(ag._PUBLIC[name])
    assert callable(getattr(ag, name))


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'substract'"):
        _ = ag.substract


@pytest.mark.parametrize(
    "name", [n for n in MODULES if n not in {"astrid_gpu", "astrid_gpu.kernels", "astrid_gpu.__main__"}]
)
def test_all_is_exact(name):
    """Every public function or class of a module is in its __all__, and everything there exists."""
    path = MODULES[name]
    assert has_all(path) or (is_package(path) and not defined(path)), f"{name} has no __all__"
    listed = declared_all(path)
    if listed is None:
        return
    assert len(set(listed)) == len(listed), f"{name}: __all__ repeats itself"
    missing = defined(path) - set(listed)
    assert not missing, f"{name}: public but not in __all__: {sorted(missing)}"
    names = bound(path)
    if "__getattr__" not in names:
        unknown = {n for n in listed if n not in names and not _is_submodule(name, n)}
        assert not unknown, f"{name}: in __all__ but not there: {sorted(unknown)}"


def _is_submodule(package, name):
    return f"{package}.{name}" in MODULES


def section(doc, title):
    """Text of a numpydoc section, or None."""
    pieces = re.split(r"^(\S[^\n]*)\n-{3,}\n", doc, flags=re.MULTILINE)
    return dict(zip(pieces[1::2], pieces[2::2], strict=True)).get(title)


def documented(text):
    """Names told in a Parameters section: `a, b : array`, `**options`."""
    heads = re.findall(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*)\s*(?::.*)?$", text, re.MULTILINE)
    return {name.strip().lstrip("*") for head in heads for name in head.split(",")}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_function_is_told_in_numpydoc(name):
    function = getattr(ag, name)
    doc = inspect.getdoc(function)
    assert doc, f"{name} has no docstring"
    summary = doc.splitlines()[0]
    assert len(summary) <= 110
    assert summary.endswith(".")
    parameters = [p for p in inspect.signature(function).parameters if p != "self"]
    told = documented(section(doc, "Parameters") or "")
    returns = inspect.signature(function).return_annotation
    if returns not in (None, "None"):
        assert section(doc, "Returns") or section(doc, "Yields"), f"{name}: no Returns section"
    missing = [p for p in parameters if p not in told]
    assert not missing, f"{name}: parameters not told: {missing}"
    invented = told - set(parameters)
    has_keywords = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values())
    assert has_keywords or not invented, f"{name}: told but not there: {sorted(invented)}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_function_is_annotated_and_keyword_only_after_its_arrays(name):
    signature = inspect.signature(getattr(ag, name))
    bare = [p.name for p in signature.parameters.values() if p.annotation is p.empty]
    assert not bare, f"{name}: no annotation for {bare}"
    assert signature.return_annotation is not signature.empty
    positional = [p for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    defaults = [p.name for p in positional if p.default is not p.empty]
    assert len(defaults) <= 2, f"{name}: options {defaults} can be given by position"


@pytest.mark.parametrize("name", [n for n in ag.__all__ if n in ag._PUBLIC and n[0].isupper()])
def test_public_class_is_told(name):
    assert len(inspect.getdoc(getattr(ag, name)) or "") > 60
