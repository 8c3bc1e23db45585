"""PSFModel: a PSF that varies over the field, evaluated anywhere; what it accepts and refuses."""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.errors import PsfError
from astrid_gpu.image import PSF, Image, PSFModel
from astrid_gpu.ops.field import frame_scale, n_terms, order_of, powers, terms_at
from astrid_gpu.ops.psf_stamps import centroid_of, ellipticity_of, fwhm_of, gaussian_stamp

SHAPE = (300, 201)


def widening(y, x, side=31):
    """A Gaussian whose width and ellipticity change smoothly from corner to corner."""
    v, u = (y - 149.5) / 149.5, (x - 100) / 100
    major = 4.0 + 0.25 * v + 0.15 * u
    return gaussian_stamp((major, major * (0.95 + 0.05 * u)), side, theta=0.3)


def model(order=2, n=9):
    y, x = (a.ravel() for a in np.meshgrid(np.linspace(0, 299, n), np.linspace(0, 200, n), indexing="ij"))
    stamps = np.stack([widening(*place) for place in zip(y, x, strict=True)])
    return PSFModel.fit(stamps, y, x, order=order, shape=SHAPE, origin="test")


@pytest.mark.parametrize("order", [0, 1, 2, 3, 7])
def test_terms_of_an_order(order):
    assert order_of(n_terms(order)) == order == max(j + i for j, i in powers(order))
    assert len(powers(order)) == n_terms(order)
    assert order_of(n_terms(order) + 1) is None or order == 0
    terms = terms_at([0, 299], [0, 200], order, *frame_scale(SHAPE))
    np.testing.assert_allclose(terms, [[(-1.0) ** (j + i) for j, i in powers(order)], [1.0] * n_terms(order)])


@pytest.mark.parametrize("place", [(0, 0), (299, 200), (149.5, 100), (20, 180.5)])
def test_the_psf_is_right_anywhere(place):
    got, exact = model().at(*place), widening(*place)
    # The peak goes as (1 + e)^-2, e up to 0.15 at the corners: the cubic term, 4 e^3, is what order 2 lacks, a fit
    # leaves about a quarter of it.
    np.testing.assert_allclose(got.data, exact, atol=5e-3 * exact.max())
    # At half maximum a Gaussian falls by ln 2 of its peak per half width: 0.005 / ln 2.
    assert got.fwhm == pytest.approx(fwhm_of(exact), rel=7e-3)
    assert got.ellipticity == pytest.approx(ellipticity_of(exact), abs=5e-3)
    assert got.origin == "test"


def test_stamps_are_odd_centred_and_of_sum_one(rng):
    varying = model(1)
    y, x = rng.uniform(0, 299, 40), rng.uniform(0, 200, 40)
    terms = varying.terms.copy()
    terms[1] += 0.02 * np.gradient(terms[0], axis=1)  # the centre wanders over the field: it is put back
    for each in (varying, PSFModel(terms, SHAPE)):
        stamps = each.stamps(y, x)
        assert stamps.shape == (40, 31, 31)
        assert stamps.dtype == np.float64
        np.testing.assert_allclose(stamps.sum((1, 2)), 1.0, atol=1e-12)
        np.testing.assert_allclose([centroid_of(s) for s in stamps], 15.0, atol=0.003)
    np.testing.assert_array_equal(varying.stamps(5, 6)[0], varying.at(5, 6).data)
    np.testing.assert_array_equal(varying.at().data, varying.at(149.5, 100).data)
    assert varying.stamps([], []).shape == (0, 31, 31)


def test_a_constant_model_is_its_stamp():
    stamp = gaussian_stamp(3.0, 25)
    constant = PSFModel(stamp[None], SHAPE)
    assert constant.order == 0
    np.testing.assert_allclose(constant.stamps([0, 7], [3, 200]), np.stack([stamp, stamp]), atol=1e-15)
    assert constant.fwhm == pytest.approx(fwhm_of(stamp))


def test_negative_wings_are_kept():
    stamp = gaussian_stamp(3.0, 25) - 0.2 * gaussian_stamp(6.0, 25)
    got = PSFModel((stamp / stamp.sum())[None], SHAPE).stamps(10, 10)[0]
    np.testing.assert_allclose(got, stamp / stamp.sum(), atol=1e-15)


def test_it_shows_what_it_is():
    assert repr(model()) == f"<PSFModel 31x31 px of order 2 over 201x300, FWHM {model().fwhm:.2f} px, from test>"


def test_centre_and_scale_of_a_file_whose_image_is_not_known():
    terms = model(1).terms
    known, shifted = PSFModel(terms, SHAPE), PSFModel(terms, None, (49.5, 0.0), (149.5, 100.0))
    np.testing.assert_allclose(known.stamps(149.5, 100), shifted.stamps(49.5, 0), atol=1e-12)
    assert shifted.at().fwhm == pytest.approx(known.at().fwhm)


@pytest.mark.parametrize(
    ("terms", "options", "words"),
    [
        (np.ones((2, 5, 5)), {"shape": SHAPE}, r"1, 3, 6, 10, .* got shape \(2, 5, 5\)"),
        (np.ones((3, 4, 5)), {"shape": SHAPE}, "odd sides"),
        (np.ones((5, 5)), {"shape": SHAPE}, r"got shape \(5, 5\)"),
        (np.full((1, 5, 5), np.nan), {"shape": SHAPE}, "25 pixels are not"),
        (np.ones((1, 5, 5)), {}, "needs the shape of its image"),
    ],
)
def test_refused_in_words(terms, options, words):
    with pytest.raises(PsfError, match=words):
        PSFModel(terms, **options)


def test_a_polynomial_that_runs_off_is_refused():
    terms = model(1).terms.copy()
    terms[1] -= terms[0]
    with pytest.raises(PsfError, match=r"no positive sum at \(y 149.5, x 600\)"):
        PSFModel(terms, SHAPE).stamps(149.5, 600)


def test_too_few_places_for_the_order():
    stamps = np.stack([gaussian_stamp(3.0, 15)] * 5)
    with pytest.raises(PsfError, match="5 places do not fix the 6 terms of order 2; lower the order"):
        PSFModel.fit(stamps, np.arange(5.0), np.arange(5.0) ** 2, order=2, shape=SHAPE)


def test_an_image_carries_it_and_refuses_another_ones():
    image = Image(np.zeros(SHAPE), psf=model(), name="a.fits")
    assert "psf" in repr(image)
    with pytest.raises(PsfError, match=r"a.fits: its PSF model belongs to an image of \(300, 201\), this one has"):
        Image(np.zeros((200, 201)), psf=model(), name="a.fits")


def test_subtract_takes_it_from_the_image_or_the_call():
    pair = ag.simulate.pair(seed=3, shape=(160, 160))
    stamp = pair.science.psf.data if isinstance(pair.science.psf, PSF) else gaussian_stamp(3.0, 25)
    varying = PSFModel(np.stack([stamp, 0 * stamp, 0 * stamp]), (160, 160), origin="mine")
    diff = ag.subtract(pair.science, pair.reference, psf_science=varying)
    said = next(step for step in diff.steps if step.stage == "psf")
    assert "science: PSF given (mine), varying over the field (order 1)" in said.text
    assert said.values["order"] == 1
    with pytest.raises(PsfError, match=r"psf_reference: the PSF model belongs to an image of \(300, 201\)"):
        ag.subtract(pair.science, pair.reference, psf_reference=model())
