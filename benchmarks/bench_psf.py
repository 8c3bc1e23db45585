"""The PSF of one exposure from its stars, constant and over the field, beside photutils' EPSFBuilder and FITS reading.

All measure from the same list of isolated stars: `measure_psf` on up to 80 of them (160 where the PSF may vary),
EPSFBuilder on the same 80, twice oversampled, five iterations. The error is the largest difference from the true PSF
over its peak; that of the varying PSF the worst of nine places. EPSFBuilder's own error is among the notes. Reading the
file is a rival too: a subtraction reads two such files, and measuring a PSF should take no longer.
"""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from astrid_gpu.image import Image, PSFModel
from astrid_gpu.io import read_image
from astrid_gpu.psf import measure_psf
from astrid_gpu.simulate.profiles import PsfModel
from astrid_gpu.simulate.render import draw_stars
from astrid_gpu.stars import find_stars
from benchmarks.bench_stars import with_backend
from benchmarks.harness import Work, installed

pytest.importorskip("pytest_benchmark")

PER_MEGAPIXEL = 150
SIGMA = 10.0
SIZE = 27


def local(y, x, side, amplitude):
    """The PSF at a place: FWHM of 3 px, wider to the right and towards the corners."""
    v, u = 2 * y / (side - 1) - 1, 2 * x / (side - 1) - 1
    return PsfModel("moffat", 3.0 * (1 + amplitude * (u + 0.5 * v + 0.3 * u * u)), 3.0, 0.3 * amplitude * (1 + v), 40.0)


@cache
def field(side, amplitude):
    """An exposure of stars of S/N 30 to 1000 less its sky, and the list of its stars."""
    rng = np.random.default_rng(8)
    n = int(PER_MEGAPIXEL * side * side / 1e6) + 20
    y, x = rng.uniform(20, side - 21, n), rng.uniform(20, side - 21, n)
    flux = SIGMA * np.exp(rng.uniform(np.log(200), np.log(6000), n))
    clean = np.zeros((side, side))
    for place in zip(y, x, flux, strict=True):
        model = local(place[0], place[1], side, amplitude)
        draw_stars(clean, [place[1]], [place[0]], [place[2]], model, floor=0.05 * SIGMA)
    data = clean + rng.normal(size=clean.shape) * np.sqrt(SIGMA**2 + clean / 2)
    image = Image(data.astype(np.float32), gain=2.0, variance=(SIGMA**2 + clean / 2).astype(np.float32))
    return image, find_stars(image, background_rms=SIGMA)


def truth(y, x, side, amplitude, size):
    """The true PSF on a stamp of odd side, of sum 1."""
    axis = np.arange(size) - float(size // 2)
    stamp = local(y, x, side, amplitude).pixels(axis, axis, order=10)
    return stamp / stamp.sum()


def make_psf(backend, side, amplitude, order):
    """The PSF from the stars found."""
    image, stars = field(side, amplitude)
    return with_backend(backend, lambda: measure_psf(image, stars=stars, size=SIZE, order=order))


def make_reading(side, amplitude):
    """Reading the exposure from a FITS file: a new one, from the disk, and one that the system holds in memory."""
    from astropy.io import fits

    path = Path(tempfile.mkdtemp()) / "image.fits"
    fits.PrimaryHDU(field(side, amplitude)[0].data).writeto(path)
    found = {"read_image": lambda: read_image(path)}
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())

        def new():
            with path.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            read_image(path)

        found["read_image, new file"] = new
    return found


def make_epsf(side, amplitude):
    """photutils' EPSFBuilder on the 80 best isolated stars."""
    from astropy.nddata import NDData
    from astropy.table import Table
    from photutils.psf import EPSFBuilder, extract_stars

    image, stars = field(side, amplitude)
    good = stars[(stars["flags"] == 0) & stars["isolated"]]
    good = good[np.argsort(-good["snr"])[:80]]
    table = Table({"x": good["x"], "y": good["y"]})
    data = NDData(image.data.astype(float))

    def run():
        builder = EPSFBuilder(oversampling=2, maxiters=5, progress_bar=False)
        return builder(extract_stars(data, table, size=SIZE))[0]

    return run


def misfit(psf, side, amplitude):
    """Largest difference from the truth over its peak, the worst of nine places."""
    if not isinstance(psf, PSFModel):
        stamp = psf.data
        true = truth(side / 2, side / 2, side, amplitude, stamp.shape[0])
        return float(np.abs(stamp - true).max() / true.max())
    places = [(v * (side - 1), u * (side - 1)) for v in (0.1, 0.5, 0.9) for u in (0.1, 0.5, 0.9)]
    worst = 0.0
    for y, x in places:
        true = truth(y, x, side, amplitude, psf.terms.shape[1])
        worst = max(worst, float(np.abs(psf.at(y, x).data - true).max() / true.max()))
    return worst


def epsf_misfit(epsf, side):
    """The same of an EPSFModel, evaluated at whole pixels."""
    offset = np.arange(SIZE) - SIZE // 2
    y, x = np.meshgrid(offset, offset, indexing="ij")
    stamp = np.asarray(epsf.evaluate(x, y, 1.0, 0.0, 0.0), float)
    true = truth(side / 2, side / 2, side, 0.0, SIZE)
    return float(np.abs(stamp / stamp.sum() - true).max() / true.max())


def _rivals(side, amplitude):
    found = make_reading(side, amplitude) if installed("astropy") else {}
    if installed("photutils"):
        found["photutils EPSFBuilder"] = make_epsf(side, amplitude)
    return found


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_constant(bench, backend):
    """The constant PSF."""
    if backend == "numba" and not installed("numba"):
        pytest.skip("Numba is not installed")
    side = 512 if bench.quick else 3072
    work = Work(make_psf, {"backend": backend, "side": side, "amplitude": 0.0, "order": 0}, {"side": 256})
    peer = {"epsf_error": epsf_misfit(make_epsf(side, 0.0)(), side)} if installed("photutils") else {}
    bench.row("PSF, constant", backend, f"{side} x {side}", work, rivals=_rivals(side, 0.0), tolerance=0.02,
              error=lambda got: misfit(got, side, 0.0), error_of="peak", pixels=side * side,
              notes=lambda got: {"stars": got.n_stars, **peer})  # fmt: skip


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_over_the_field(bench, backend):
    """The PSF over the field, its order chosen."""
    if backend == "numba" and not installed("numba"):
        pytest.skip("Numba is not installed")
    side = 640 if bench.quick else 3072
    work = Work(make_psf, {"backend": backend, "side": side, "amplitude": 0.06, "order": "auto"}, {"side": 256})
    rivals = make_reading(side, 0.06) if installed("astropy") else {}
    bench.row("PSF over the field", backend, f"{side} x {side}", work, rivals=rivals, tolerance=0.04,
              error=lambda got: misfit(got, side, 0.06), error_of="peak", pixels=side * side,
              notes=lambda got: {"stars": got.n_stars, "order": getattr(got, "order", 0)})  # fmt: skip
