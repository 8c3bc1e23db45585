"""The source tree as syntax trees: what each module defines and imports."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent


class Import(NamedTuple):
    """One imported module, in full, with the line and whether it runs when the file is loaded."""

    module: str
    line: int
    at_load: bool


def modules():
    """Every Python file of the package and of the kernels, with its module name."""
    found = {}
    for folder, prefix in ((ROOT / "astrid_gpu", "astrid_gpu"), (ROOT / "kernels", "astrid_gpu.kernels")):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join((prefix, *parts))] = path
    return found


@cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def is_package(path):
    return path.name == "__init__.py"


def imports(name, path):
    """Every import of a module, those inside functions and import_module("...") with a constant included."""
    found = []
    for node, at_load in _walk(tree(path), at_load=True):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, node.lineno, at_load) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name.split(".") if is_package(path) else name.split(".")[:-1]
                package = package[: len(package) - node.level + 1]
                base = ".".join([*package, base] if base else package)
            found += [Import(f"{base}.{alias.name}", node.lineno, at_load) for alias in node.names]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module":
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    found.append(Import(argument.value, node.lineno, at_load))
    return found


def front_page_names(path):
    """Names used as attributes of the package itself, ``import astrid_gpu as ag; ag.subtract``, with their lines."""
    aliases = {
        alias.asname or alias.name
        for node, _ in _walk(tree(path), at_load=True)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == "astrid_gpu"
    }
    return [
        (node.attr, node.lineno)
        for node, _ in _walk(tree(path), at_load=True)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases
    ]


def _walk(node, *, at_load):
    """All nodes; `at_load` is false within functions and under `if TYPE_CHECKING`, which is left out entirely."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        inside = at_load and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield child, inside
        yield from _walk(child, at_load=inside)


def declared_all(path):
    """The names of __all__ if it is a plain list or tuple of strings; None otherwise."""
    for node in tree(path).body:
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        if any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets):
            try:
                return list(ast.literal_eval(node.value))
            except ValueError:
                return None
    return None


def has_all(path):
    return any(
        isinstance(t, ast.Name) and t.id == "__all__"
        for node in tree(path).body
        for t in getattr(node, "targets", [getattr(node, "target", None)])
    )


def defined(path):
    """Public functions and classes defined at the top of a module."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return {node.name for node in tree(path).body if isinstance(node, kinds) and not node.name.startswith("_")}


def bound(path):
    """Every name bound at the top level: definitions, assignments, imports."""
    names = set()
    for node, _ in _walk(tree(path), at_load=True):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return names
