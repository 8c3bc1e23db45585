"""What a user waits for at a shell: a new process each, from start to exit, with a warm disk cache.

The import, a first call, and `astrid-gpu subtract` on two FITS files with every estimate, candidates, cutouts and a
picture. The error of the last is how far the width of S_corr on clean pixels is from 1 before it is divided by.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.run.scenes import subtraction_scene

pytest.importorskip("pytest_benchmark")

FIRST = """
import numpy as np, astrid_gpu as ag
frames = np.random.default_rng(1).standard_normal((2, 512, 512), dtype=np.float32)
y, x = np.mgrid[-7:8, -7:8]
psf = np.exp(-(x**2 + y**2) / 4.5)
assert np.isfinite(ag.zogy(*frames, psf, psf, 1.0, 1.0, backend={backend!r}).score_corr).all()
"""


def python(*words):
    """A run of this interpreter, which keeps the bytecode of modules as by default; its exit code is the result."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def run():
        return subprocess.run([sys.executable, *words], check=False, capture_output=True, env=environment).returncode

    return run


def test_import(bench):
    """Beside an interpreter that imports nothing, and one that imports numpy."""
    rivals = {"nothing": python("-c", "pass"), "numpy": python("-c", "import numpy")}
    bench.row("import astrid_gpu", "any", "process", python("-c", "import astrid_gpu"), rivals=rivals,
              error=float, error_of="exit code", tolerance=0)  # fmt: skip


def test_first_call(bench, backend):
    """Import, one pair of 512 x 512, exit."""
    bench.row("first zogy()", backend.name, "512 x 512", python("-c", FIRST.format(backend=backend.name)),
              error=float, error_of="exit code", tolerance=0)  # fmt: skip


def test_subtract_files(bench, tmp_path):
    """Two FITS files to a difference, candidates, cutouts and a picture."""
    fits = pytest.importorskip("astropy.io.fits")
    for package in ("h5py", "matplotlib"):
        pytest.importorskip(package)
    if bench.quick:
        pytest.skip("quick run")
    side = 2048
    scene = subtraction_scene((side, side))
    for name, frame, sky in (("science", scene.science[0], 300), ("reference", scene.reference, 400)):
        fits.writeto(tmp_path / f"{name}.fits", frame + np.float32(sky), fits.Header({"GAIN": 1.0, "RDNOISE": 8.0}))
    out, names = tmp_path / "out", [str(tmp_path / f"{name}.fits") for name in ("science", "reference")]
    run = python("-m", "astrid_gpu", "subtract", *names, "-o", str(out))

    def width(code):
        metrics = json.loads((out / "summary.json").read_text())["metrics"]
        return np.inf if code else abs(metrics["score_corr_std_raw"] - 1)

    bench.row("astrid-gpu subtract", ag.get_backend("auto").name, f"{side} x {side}", run, error=width, tolerance=0.1,
              error_of="width of S_corr - 1", rounds=3)  # fmt: skip
