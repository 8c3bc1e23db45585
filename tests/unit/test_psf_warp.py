"""A PSF that varies over the field goes with its image to another grid."""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu._psf_warp import warp_psf
from astrid_gpu.image import Image, PSFModel
from astrid_gpu.ops.psf_stamps import ellipticity_of, fwhm_of, gaussian_stamp

wcs = pytest.importorskip("astropy.wcs", reason="aligning by world coordinates needs astropy")


def model(shape):
    """Narrow at the left, wide at the right."""
    y, x = (a.ravel() for a in np.meshgrid(np.linspace(0, shape[0] - 1, 4), np.linspace(0, shape[1] - 1, 4)))
    stamps = [gaussian_stamp(3.0 + 1.0 * u / (shape[1] - 1), 31) for u in x]
    return PSFModel.fit(np.stack(stamps), y, x, order=2, shape=shape, n_stars=7, origin="test")


def sky(shape, scale, rotation=0.0):
    found = wcs.WCS(naxis=2)
    found.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    found.wcs.crval = [150.0, 2.0]
    found.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    c, s = np.cos(np.radians(rotation)), np.sin(np.radians(rotation))
    found.wcs.cd = scale / 3600 * np.array([[-c, s], [s, c]])
    found.array_shape = shape
    return found


def test_a_rotated_and_finer_grid(rng):
    shape = (120, 160)
    image = Image(rng.normal(size=shape), psf=model(shape), wcs=sky(shape, 1.0))
    target = sky((200, 200), 0.8, rotation=90.0)
    moved = ag.align(image, target, method="wcs")
    psf = moved.image.psf
    assert isinstance(psf, PSFModel)
    assert (psf.shape, psf.n_stars, psf.origin) == ((200, 200), 7, "test")
    assert any("varying PSF carried along" in step.text for step in moved.steps)
    for y, x in ((60, 100), (100, 100), (140, 100)):
        from_y, from_x = (float(p[0]) for p in moved.pixel_map(np.array([y]), np.array([x])))
        there = image.psf.at(from_y, from_x)
        got = psf.at(y, x)
        assert got.fwhm == pytest.approx(there.fwhm / 0.8, rel=0.01)
        assert got.ellipticity < 0.02


def test_whole_pixel_shifts_move_the_centre():
    shape = (90, 100)
    image = Image(np.random.default_rng(2).normal(size=shape), psf=model(shape), wcs=sky(shape, 1.0))
    target = sky((80, 90), 1.0)
    target.wcs.crpix = [45.5, 43.5]  # 5 columns and 2 rows off
    moved = ag.align(image, target, method="wcs")
    assert not moved.resampled
    psf = moved.image.psf
    assert psf.shape == (80, 90)
    np.testing.assert_allclose(psf.at(30, 20).data, image.psf.at(32, 25).data, atol=1e-12)


def test_a_shear_makes_it_elliptical():
    class Shear:
        def __call__(self, y, x):
            return y, 1.3 * x

        def jacobian(self, y, x):
            return np.array([[1.0, 0.0], [0.0, 1.3]])

    shape = (90, 130)
    psf = warp_psf(model(shape), Shear(), (90, 100))
    got = psf.at(45, 50)
    assert got.fwhm == pytest.approx(fwhm_of(model(shape).at(45, 65).data) / np.sqrt(1.3), rel=0.01)
    assert ellipticity_of(got.data) == pytest.approx(1 - 1 / 1.3, abs=0.02)


def test_an_image_elsewhere_has_no_psf_here():
    class Far:
        def __call__(self, y, x):
            return y + 1000.0, x

    assert warp_psf(model((50, 50)), Far(), (50, 50)) is None


def test_a_model_given_for_the_reference_goes_with_it_to_the_science_grid(rng):
    """Of the reference's own shape, not of the science image's; a model of neither is refused before any work."""
    from astrid_gpu.errors import PsfError

    pair = ag.simulate.pair(seed=6, shape=(160, 180), n_changes=0)
    cut = np.s_[10:150, 20:170]
    science = pair.science.with_(data=pair.science.data[cut], mask=None, wcs=pair.science.wcs[cut])
    diff = ag.subtract(science, pair.reference, psf_reference=model((160, 180)), align="wcs")
    said = [step.text for step in diff.steps if step.stage == "psf"][1]
    assert "reference: PSF given (test), varying over the field (order " in said
    with pytest.raises(PsfError, match=r"psf_reference: the PSF model belongs to an image of \(140, 150\)"):
        ag.subtract(science, pair.reference, psf_reference=model((140, 150)))
