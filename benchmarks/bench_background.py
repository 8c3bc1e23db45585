"""Background of one float32 frame with 600 stars a megapixel, beside sep and photutils, as accurate and not only fast.

The error is the RMS of the level against the true sky, in units of the noise: a faster row with a larger error is no
gain. The JSON has the bias of level and rms too, and how far a backend is from the reference in float64.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.run.scenes import star_field
from benchmarks.harness import Work, installed

pytest.importorskip("pytest_benchmark")

BOX = 64
field = cache(star_field)


def make_background(backend, side):
    """Level and rms maps, input and output where the backend lives."""
    b = ag.get_backend(backend)
    given = b.asarray(field((side, side))[0])

    def run():
        found = ag.estimate_background(given, box=BOX, backend=b)
        b.synchronize()
        return found.level, found.rms

    return run


def make_sep(side):
    """sep.Background with back() and rms() maps, one thread (it has no more)."""
    import sep

    image = field((side, side))[0]

    def run():
        found = sep.Background(image, bw=BOX, bh=BOX, fw=3, fh=3)
        return found.back(), found.rms()

    return run


def make_photutils(side):
    """Background2D with SExtractor's estimator."""
    from photutils.background import Background2D, SExtractorBackground

    image = field((side, side))[0]

    def run():
        found = Background2D(image, BOX, filter_size=3, bkg_estimator=SExtractorBackground())
        return found.background, found.background_rms

    return run


def row(bench, name, work, side, to_host=np.asarray, **more):
    """One row; the truth is the same for all."""
    _, sky, sigma = field((side, side))

    def error(found):
        return (to_host(found[0]) - sky).std() / sigma

    def notes(found):
        level, rms = map(to_host, found)
        return {"level_bias": (level - sky).mean() / sigma, "rms_bias": rms.mean() / sigma - 1}

    bench.row("background", name, f"{side} x {side}", work, error=error, tolerance=0.1, notes=notes,
              error_of="level rms, sigma", pixels=side * side, moved=12e-6 * side * side, **more)  # fmt: skip


@pytest.fixture
def side(bench):
    return 512 if bench.quick else 2048


def test_background(bench, backend, side):
    """Every backend, beside sep."""
    work = Work(make_background, {"backend": backend.name, "side": side}, {"side": 256})
    row(bench, backend.name, work, side, backend.to_host, rivals={"sep": make_sep(side)} if installed("sep") else {})


@pytest.mark.parametrize("peer", ["sep", "photutils"])
def test_peer(bench, peer, side):
    """The peers themselves."""
    pytest.importorskip(peer)
    maker = {"sep": make_sep, "photutils": make_photutils}[peer]
    row(bench, peer, Work(maker, {"side": side}, {"side": 256}), side, rounds=3 if peer == "photutils" else None)
