"""One stem, one story: every kernel has its reference, its CUDA and CPU twins, a parity test and a benchmark."""

from __future__ import annotations

import re

import pytest

from tests.layout.source_tree import ROOT

TABLE = ROOT / "kernels" / "README.md"
# A header that other kernels include is no stem of its own.
NOT_STEMS = {"common"}


def rows(columns):
    """Stem of every row of the tables with that many columns, with the row's cells."""
    if not TABLE.is_file():
        return {}
    found = {}
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.lstrip().startswith("|") and len(cells) == columns and re.fullmatch(r"`[a-z][a-z0-9_.]*`", cells[0]):
            stem = cells[0].strip("`")
            if stem != "stem":
                found[stem] = cells
    return found


ROWS = rows(6)
CPU_ONLY = rows(4)  # stem | reference | numba | parity test
PARTS = rows(2)  # what several are built of
STEMS = sorted({path.stem for path in (ROOT / "kernels").glob("*.cu")} - NOT_STEMS)


def test_the_table_is_there_and_names_every_kernel():
    assert TABLE.is_file(), "kernels/README.md is missing"
    assert sorted(ROWS) == STEMS, "kernels/README.md and kernels/*.cu name different stems"


def test_every_numba_twin_has_a_kernel():
    twins = {path.stem.removesuffix("_numba") for path in (ROOT / "kernels").glob("*_numba.py")}
    parts = {name.removesuffix(".py").removesuffix("_numba") for name in PARTS}
    assert twins == set(STEMS) | set(CPU_ONLY) | (twins & parts)
    assert {"fft_numba.py", "lanes_numba.py"} <= set(PARTS)


@pytest.mark.parametrize("stem", sorted(CPU_ONLY))
@pytest.mark.parametrize("pattern", ["astrid_gpu/ops/{}.py", "kernels/{}_numba.py"])
def test_stem_without_a_kernel_has_its_reference(stem, pattern):
    path = pattern.format(stem)
    assert (ROOT / path).is_file(), f"{stem}: {path} is missing"


@pytest.mark.parametrize("name", sorted(PARTS))
def test_parts_exist(name):
    assert (ROOT / "kernels" / name).is_file()


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize(
    "pattern",
    [
        "astrid_gpu/ops/{}.py",
        "kernels/{}.cu",
        "kernels/{}_numba.py",
        "astrid_gpu/backends/cuda/{}.py",
        "tests/parity/test_{}.py",
        "benchmarks/bench_{}.py",
    ],
)
def test_stem_is_complete(stem, pattern):
    path = pattern.format(stem)
    assert (ROOT / path).is_file(), f"{stem}: {path} is missing"


@pytest.mark.parametrize("stem", sorted(ROWS | CPU_ONLY))
def test_files_named_in_the_table_exist(stem):
    """Paths in the cells, given from the root or from kernels/, are real."""
    for cell in (ROWS | CPU_ONLY)[stem][1:]:
        paths = [target.split("#")[0] for target in re.findall(r"\]\(([^)]+)\)", cell)]
        paths += [name for name in re.findall(r"`([^`]+)`", cell) if re.search(r"\.(py|cuh?|md)$", name)]
        for path in paths:
            there = any((base / path).is_file() for base in (ROOT, ROOT / "kernels", ROOT / "astrid_gpu"))
            assert there, f"{stem}: {path} named in kernels/README.md does not exist"


@pytest.mark.parametrize("stem", STEMS)
def test_cuda_source_opens_with_its_story(stem):
    """A comment heads the file; it names the reference whose mathematics it repeats."""
    head = (ROOT / "kernels" / f"{stem}.cu").read_text(encoding="utf-8")[:2500]
    assert head.lstrip().startswith(("//", "/*")), f"{stem}.cu does not open with a comment"
    assert re.search(rf"ops/{stem}\.py|ops\.{stem}\b", head), (
        f"{stem}.cu does not name astrid_gpu/ops/{stem}.py at its head"
    )
