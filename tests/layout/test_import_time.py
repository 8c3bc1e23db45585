"""`import astrid_gpu` loads nothing heavy, in a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.layout.source_tree import ROOT

HEAVY = [
    "astropy", "numba", "cupy", "matplotlib", "h5py", "scipy", "sep", "photutils", "reproject", "astroalign", "dask",
    "requests", "pandas", "torch",
]  # fmt: skip


def loaded_after(statement):
    """Top-level packages in sys.modules after a statement in a fresh interpreter."""
    code = f"import sys, json\n{statement}\nprint(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "statement",
    [
        "import astrid_gpu",
        "import astrid_gpu; dir(astrid_gpu); astrid_gpu.__version__",
        "import astrid_gpu.errors, astrid_gpu.flags",
    ],
)
def test_import_is_light(statement):
    assert loaded_after(statement).isdisjoint(HEAVY), sorted(loaded_after(statement) & set(HEAVY))


def test_numpy_engine_needs_neither_astronomy_nor_jit():
    """The pure engine on the reference backend runs without FITS, WCS, plotting, JIT or GPU libraries."""
    statement = (
        "import numpy as np, astrid_gpu as ag\nag.find_peaks(np.eye(9), 0.5, backend='numpy')\nag.get_backend('numpy')"
    )
    assert loaded_after(statement).isdisjoint(set(HEAVY) - {"scipy"})


def test_command_line_help_is_light():
    statement = (
        "import contextlib, io\nfrom astrid_gpu.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n    main(['--help'])"
    )
    assert loaded_after(statement).isdisjoint({"numba", "cupy", "matplotlib", "h5py", "astropy"})
