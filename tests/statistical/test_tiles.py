"""Differencing by tiles: no seam in S_corr, and stars that subtract where the PSF varies over the field."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import astrid_gpu as ag
from astrid_gpu.flags import INVALID, PixelFlag
from astrid_gpu.simulate.exposure import true_psf
from astrid_gpu.simulate.pair import REFERENCE, SCIENCE
from astrid_gpu.simulate.profiles import PsfModel
from tests.wide_fields import stretched, wide_pair

SHAPE = (900, 1000)
SIDE = 128


def width_at(y, x):
    """Science FWHM from 2.2 in one corner to 3.2 in the other, in pixels: a tilted focal plane."""
    return 2.2 + 0.5 * np.asarray(y) / SHAPE[0] + 0.5 * np.asarray(x) / SHAPE[1]


def true_model(side=31):
    """The science PSF of `width_at`, fitted to true stamps on a grid."""
    y, x = (a.ravel() for a in np.meshgrid(*(np.linspace(0, n - 1, 5) for n in SHAPE), indexing="ij"))
    psf = SCIENCE.psf
    stamps = [
        true_psf(PsfModel(psf.kind, float(w), psf.beta, psf.ellipticity, psf.angle), side).data for w in width_at(y, x)
    ]
    return ag.PSFModel.fit(np.array(stamps), y, x, order=3, shape=SHAPE)


@pytest.fixture(scope="module")
def pair():
    return wide_pair(11, SHAPE, fwhm=width_at, n_new=20)


@pytest.fixture(scope="module")
def tiled(pair):
    return difference(pair, "auto")


def difference(pair, tiles):
    return ag.subtract(
        pair.science, pair.reference, psf_science=true_model(), psf_reference=true_psf(REFERENCE.psf, 31),
        align="none", tiles=tiles, renormalise="none",
    )  # fmt: skip


def false_alarms(pair, diff):
    rows = ag.detect(diff, 5.0).data
    return sum(np.hypot(pair.x - row["x"], pair.y - row["y"]).min() > 4 for row in rows)


def test_a_psf_that_varies_makes_tiles(tiled):
    (step,) = [s for s in tiled.steps if s.stage == "tiles"]
    assert "because the science PSF varies by" in step.text
    assert "reference" not in step.text
    peaks = [tiled.psf_at(y, x).max() for y, x in ((10, 10), (SHAPE[0] - 10, SHAPE[1] - 10))]
    assert peaks[0] > 1.2 * peaks[1]
    assert np.array_equal(tiled.psf, tiled.psf_at(SHAPE[0] // 2, SHAPE[1] // 2))


def test_stars_subtract_by_tiles_and_not_with_the_psf_of_the_middle(pair, tiled):
    """0.9 Mpix of noise alone makes 0.7 candidates; the PSF of the middle leaves dozens of bright stars."""
    assert false_alarms(pair, tiled) <= 3
    assert false_alarms(pair, difference(pair, "never")) > 20


def test_new_sources_have_their_flux_everywhere(pair, tiled):
    """20 sources of S/N 8 to 15: pulls of unit width, mean 0, to 4 standard errors."""
    from astrid_gpu.simulate.compare import forced_flux

    flux, error = forced_flux(tiled, pair.x, pair.y)
    pull = (flux - pair.flux) / error
    assert abs(pull.mean()) < 4 / np.sqrt(len(pull))
    assert abs(pull.std() - 1) < 4 / np.sqrt(2 * len(pull))


def test_no_seam_is_visible(rng):
    """S_corr within 2 px of a seam and elsewhere: the same width, the same tails, the same distribution.

    Blank sky with a varying PSF and noise that varies as well; every 5th pixel is as good as independent.
    """
    sigma = 7.0 * (1 + 0.3 * np.linspace(0, 1, SHAPE[1])) * np.ones(SHAPE)
    images = [
        ag.Image((s * rng.normal(size=SHAPE)).astype(np.float32), variance=(s * s * np.ones(SHAPE)).astype(np.float32))
        for s in (sigma, 1.5)
    ]
    diff = ag.subtract(
        *images, psf_science=true_model(), psf_reference=true_psf(REFERENCE.psf, 31), align="none", tiles=SIDE,
        flux_ratio=0.94, registration="none", renormalise="none",
    )  # fmt: skip
    tiles = diff.tiles.tiles
    near = np.zeros(SHAPE, bool)
    for edge in tiles.edges[0][1:-1]:
        near[edge - 2 : edge + 2] = True
    for edge in tiles.edges[1][1:-1]:
        near[:, edge - 2 : edge + 2] = True
    good = (diff.mask & int(INVALID | PixelFlag.EDGE)) == 0
    seam, rest = (diff.score_corr[where & good].astype(float) for where in (near, ~near))
    area = 25  # pixels that one independent value of S_corr stands for, at most
    for values in (seam, rest):
        assert abs(values.std() - 1) < 4 / np.sqrt(2 * values.size / area)
        assert abs(values.mean()) < 4 / np.sqrt(values.size / area)
    assert abs(seam.std() - rest.std()) < 4 / np.sqrt(2 * seam.size / area)
    thin = [np.random.default_rng(k).choice(v, v.size // area, replace=False) for k, v in enumerate((seam, rest))]
    assert stats.ks_2samp(*thin).pvalue > 1e-3
    for level in (3.0, 4.0):
        n_seam, n_rest = (np.sum(np.abs(v) > level) / area for v in (seam, rest))
        expected = (n_seam + n_rest) * seam.size / (seam.size + rest.size)
        assert abs(n_seam - expected) < 4 * np.sqrt(expected) + 2


def test_noise_is_not_sharper_on_tiles_than_on_the_frame(rng):
    """The same blank sky by tiles and whole: the same S_corr to a thousandth of its width."""
    images = [
        ag.Image((s * rng.normal(size=(400, 500))).astype(np.float32), variance=np.full((400, 500), s * s, np.float32))
        for s in (7.0, 1.5)
    ]
    known = {"psf_science": true_psf(SCIENCE.psf, 31), "psf_reference": true_psf(REFERENCE.psf, 31)}
    known |= {"align": "none", "registration": "none", "flux_ratio": 0.94}
    a, b = (ag.subtract(*images, tiles=tiles, **known).score_corr for tiles in ("never", 100))
    assert np.abs(a - b).max() < 5e-3
    assert np.std(a - b) < 1e-3


def test_everything_varies_and_nothing_is_given():
    """PSF and registration over the field, both measured: under 2 false alarms per Mpix at 0.96 of the ideal S/N.

    The ideal is that of the true PSFs on blank sky, so the mean of 20 sources of S/N 8 to 15 is good to 2 %.
    """
    pair = wide_pair(11, SHAPE, fwhm=width_at, n_new=20, shift=stretched(0.2, 0.2, SHAPE))
    diff = ag.subtract(pair.science, pair.reference, align="none")
    said = {s.stage: s for s in diff.steps}
    assert said["tiles"].values["n_tiles"] > 1
    assert said["registration"].values["order"] == 2
    assert false_alarms(pair, diff) / (np.isfinite(diff.score_corr).sum() / 1e6) < 2
    y, x = (np.rint(p).astype(int) for p in (pair.y, pair.x))
    got = [np.nanmax(diff.score_corr[j - 1 : j + 2, i - 1 : i + 2]) for j, i in zip(y, x, strict=True)]
    assert np.mean(got / pair.snr) > 0.96
    assert abs(diff.metrics["score_corr_std_raw"] - 1) < 0.03
