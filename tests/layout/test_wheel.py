"""The wheel that users install: kernels inside the package, every module there, nothing at the top level besides."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version

import pytest

from tests.layout.source_tree import ROOT, modules

pytestmark = pytest.mark.slow

NO_NETWORK = (
    "could not find a version",
    "no matching distribution",
    "connection",
    "temporary failure",
    "network",
    "proxy",
)


def run(*command, cwd, **env):
    import os

    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=600, check=False, env={**os.environ, **env}
    )


def own_setuptools():
    """Whether this interpreter's setuptools satisfies pyproject.toml, so that nothing need be fetched."""
    return importlib.util.find_spec("setuptools") is not None and int(version("setuptools").split(".")[0]) >= 77


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy of the tree, so that the checkout stays clean."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("astrid_gpu", "kernels"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.cubin"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if not (ROOT / name).is_file():
            pytest.fail(f"{name} is missing, which pyproject.toml needs to build")
        shutil.copy(ROOT / name, source)
    isolation = ["--no-build-isolation"] if own_setuptools() else []
    done = run(sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "-q", "-w", str(out), *isolation, cwd=source)
    if done.returncode and any(sign in done.stderr.lower() for sign in NO_NETWORK):
        pytest.skip(f"setuptools >= 77 is not here and cannot be fetched: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_kernels_are_inside_the_package(names):
    wanted = {p.name for p in (ROOT / "kernels").iterdir() if p.suffix in {".cu", ".cuh", ".py", ".md"}}
    assert any(name.endswith(".cu") for name in wanted)
    there = {name.removeprefix("astrid_gpu/kernels/") for name in names if name.startswith("astrid_gpu/kernels/")}
    assert wanted <= there, f"left out: {sorted(wanted - there)}"


def test_nothing_else_at_the_top_level(names):
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"astrid_gpu"}


def test_every_module_is_in_the_wheel(names):
    """The list of packages in pyproject.toml is written by hand: a new folder must be added there."""
    folder = {"astrid_gpu.kernels": ROOT / "kernels"}
    missing = []
    for name, path in modules().items():
        base = folder["astrid_gpu.kernels"] if name.startswith("astrid_gpu.kernels") else ROOT / "astrid_gpu"
        prefix = "astrid_gpu/kernels/" if name.startswith("astrid_gpu.kernels") else "astrid_gpu/"
        if prefix + path.relative_to(base).as_posix() not in names:
            missing.append(name)
    assert not missing, f"not in the wheel: {missing}"


def test_no_test_data_or_cache_in_the_wheel(names):
    strange = [n for n in names if n.endswith((".pyc", ".fits", ".so")) or "/tests/" in n]
    assert not strange


def test_installed_package_finds_its_kernels(wheel, tmp_path):
    """Installed elsewhere, it imports, reads its own .cu files and offers its command."""
    target = tmp_path / "site"
    done = run(
        sys.executable, "-m", "pip", "install", "--no-deps", "-q", "--target", str(target), str(wheel), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    code = (
        "import astrid_gpu, astrid_gpu.kernels as k\n"
        "from pathlib import Path\n"
        "print(Path(astrid_gpu.__file__).parent)\n"
        "print(sorted(p.name for f in k.__path__ for p in Path(f).glob('*.cu')))"
    )
    done = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(target))
    assert done.returncode == 0, done.stderr
    where, sources = done.stdout.strip().splitlines()
    assert where == str(target / "astrid_gpu")
    assert sources == str(sorted(p.name for p in (ROOT / "kernels").glob("*.cu")))
    assert any((target / "bin").glob("astrid-gpu*"))
