"""Tiles against the whole frame, and backend against backend, with the very same numbers for each tile.

What differs otherwise is what tiles are given: a noise, a PSF, a registration error of their own.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu._prepare import Given, PairPreparer
from astrid_gpu._tiled import plan_tiles, subtract_tiles
from astrid_gpu.backends import get_backend
from astrid_gpu.config import SubtractConfig
from astrid_gpu.engine.zogy import zogy
from tests.scenes import moffat_psf, noisy_pair

SHAPE = (400, 480)
PSFS = {"psf_science": moffat_psf(3.4), "psf_reference": moffat_psf(2.9)}


@pytest.fixture(scope="module")
def prepared():
    """A pair, and tiles that all have the numbers of the frame."""
    rng = np.random.default_rng(11)
    stars = [(*rng.uniform(15, 385, 2), 2e3 * (1 + rng.pareto(1.2))) for _ in range(80)]
    made = noisy_pair(rng, SHAPE, sources=stars, flux=(1.0, 1.0), **PSFS)
    images = [
        ag.Image(getattr(made, role).astype(np.float32), variance=made.kwargs[f"variance_{role}"].astype(np.float32))
        for role in ("science", "reference")
    ]
    settings = SubtractConfig(align="none", renormalise="none", tiles=128, psf_order=0)
    given = Given(PSFS["psf_science"], PSFS["psf_reference"], None, None, 1.0, (0.02, 0.02))
    pair = PairPreparer(images[1], settings, given).prepare(images[0])
    values = plan_tiles(pair, settings, get_backend("numpy")).values
    names = ("sigma_science", "sigma_reference")
    same = {name: np.full(len(values.tiles), getattr(pair, name)) for name in names}
    return pair, settings, values, replace(values, **same)


def by_tiles(prepared, values, backend):
    pair, settings, *_ = prepared
    return subtract_tiles(pair, values, settings, get_backend(backend), ("score_corr",)).score_corr[0].astype(float)


def inside(score, margin=20):
    return score[margin:-margin, margin:-margin]


def test_tiles_change_s_corr_by_less_than_3e_4_where_they_have_the_numbers_of_the_frame(prepared):
    pair, _, _, same = prepared
    whole = zogy(
        pair.science, pair.reference, pair.psf_science.data, pair.psf_reference.data, pair.sigma_science,
        pair.sigma_reference, flux_reference=1 / pair.flux_ratio, variance_science=pair.variance_science,
        variance_reference=pair.variance_reference, mask=pair.flags, astrometric_error=pair.astrometric_error,
        flux_ratio_error=pair.relative_error, outputs=("score_corr",), backend="numpy",
    ).score_corr  # fmt: skip
    off = abs(inside(by_tiles(prepared, same, "numpy") - whole))
    assert np.mean(off > 3e-4) < 5e-3
    assert off.max() < 1e-3
    louder = replace(same, sigma_science=1.04 * same.sigma_science)  # as noise does from tile to tile
    assert abs(inside(by_tiles(prepared, louder, "numpy") - whole)).max() > 2 * off.max()


def test_backends_agree_on_the_same_tiles(prepared):
    pytest.importorskip("numba")
    _, _, own, _ = prepared
    off = abs(inside(by_tiles(prepared, own, "numba") - by_tiles(prepared, own, "numpy")))
    assert off.max() < 1e-3
