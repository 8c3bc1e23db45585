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


def test_subtract_of_two_files_loads_what_it_needs(tmp_path, monkeypatch):
    """A file without a WCS asks for no sky, tables are written without astropy's, and another process draws."""
    for package in ("astropy", "h5py", "matplotlib"):
        pytest.importorskip(package)
    import astrid_gpu as ag

    monkeypatch.setenv("ASTRID_GPU_THREADS", "2")  # on one core it would be this process that draws
    field = ag.simulate.pair(seed=1, shape=(192, 192))
    names = []
    for name in ("science", "reference"):
        names.append(str(tmp_path / f"{name}.fits"))
        ag.simulate.write_fits(getattr(field, name).with_(wcs=None), names[-1])
    out = tmp_path / "out"
    code = (
        "import sys\nfrom astrid_gpu.cli import main\n"
        f"assert main(['subtract', *{names!r}, '-q', '-o', {str(out)!r}]) == 0\n"
        "print('LOADED', *sorted(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.splitlines()[-1].split())
    assert {"LOADED", "astropy.io.fits", "numpy"} <= loaded
    heavy = {
        "matplotlib", "PIL", "astropy.wcs", "astropy.table", "astropy.coordinates", "astropy.time", "scipy.optimize",
        "scipy.interpolate", "scipy.signal", "scipy.sparse.linalg", "scipy.stats", "scipy.integrate", "pandas",
        "photutils", "sep", "reproject", "dask", "torch", "requests", "numba.cuda",
    }  # fmt: skip
    assert sorted(loaded & heavy) == []
    assert {path.name for path in out.iterdir()} >= {
        "difference.fits", "candidates.ecsv", "triplets.h5", "summary.png", "summary.json",
    }  # fmt: skip
