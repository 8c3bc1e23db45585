"""A flux ratio that varies over the field: found, removed, not invented; from galaxies alone; V_fratio in the noise."""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu._flux_field import FluxModel, fit_flux_model
from astrid_gpu.simulate.profiles import PsfModel
from astrid_gpu.simulate.render import draw_galaxies, draw_stars
from tests.star_fields import unit_snr_flux

SHAPE = (400, 400)
BETA = 0.7


def transparency(y, x, gradient):
    """From 1 - gradient / 2 to 1 + gradient / 2 across the frame."""
    return 1 + gradient * (0.6 * (x / (SHAPE[1] - 1) - 0.5) + 0.4 * (y / (SHAPE[0] - 1) - 0.5))


def field_of_galaxies(rng, n, flux):
    """Exponential discs of half-light radii of 3 to 6 px, none of them a star by any means."""
    table = np.zeros(n, ag.simulate.GALAXY_DTYPE)
    for name, low, high in (("x", 30, 370), ("y", 30, 370), ("radius", 3, 6), ("ratio", 0.4, 0.9), ("angle", 0, 180)):
        table[name] = rng.uniform(low, high, n)
    table["index"] = 1.0
    table["flux"] = flux * rng.uniform(1, 8, n)
    return table


def _scaled(table, factor):
    table = table.copy()
    table["flux"] *= factor
    return table


def pair(seed, *, gradient=0.0, n=80, changed=0.0, n_galaxies=0):
    """Stars (and galaxies) through a cloud that thins across the frame, in the science image alone."""
    rng = np.random.default_rng(seed)
    models = PsfModel("moffat", 3.0, 3.0), PsfModel("moffat", 3.6, 3.2)
    sigmas = np.sqrt(150 / 2 + 2.5**2), np.sqrt(80 / 3 + 2.0**2)
    y, x = (rng.uniform(14, side - 15, n) for side in SHAPE)
    flux = np.exp(rng.uniform(*np.log((40, 400)), n)) * unit_snr_flux(models[0], sigmas[0]) / BETA
    galaxies = field_of_galaxies(rng, n_galaxies, np.median(flux) if n else 2e4)
    factor = np.ones(n)
    factor[: round(changed * n)] = rng.uniform(1.3, 3.0, round(changed * n))
    images = []
    for k, (model, sigma, gain) in enumerate(zip(models, sigmas, (2.0, 3.0), strict=True)):
        clean = np.zeros(SHAPE)
        draw_stars(clean, x, y, flux * (BETA * factor if k == 0 else 1.0), model, floor=0.01 * sigma)
        draw_galaxies(clean, _scaled(galaxies, BETA if k == 0 else 1.0), model)
        if k == 0:
            clean *= transparency(*np.indices(SHAPE), gradient)
        data = 100 + clean + rng.normal(size=SHAPE) * np.sqrt(sigma**2 + clean / gain)
        images.append(ag.Image(data, gain=gain, read_noise=2.0, name=("science", "reference")[k]))
    return images


@pytest.fixture(scope="module")
def cloudy():
    images = pair(3, gradient=0.1)
    return [ag.subtract(*images, align="none", flux_order=order, renormalise="none") for order in ("auto", 0)]


def test_a_gradient_of_10_percent_is_measured(cloudy):
    diff = cloudy[0]
    said = [step for step in diff.steps if "the flux ratio varies" in step.text]
    assert len(said) == 1
    assert said[0].values["order"] >= 1
    assert diff.metrics["flux_order"] == said[0].values["order"]
    model = FluxModel(np.array(said[0].values["coefficients"]), np.eye(len(said[0].values["coefficients"])), SHAPE)
    for place in ((20, 20), (20, 380), (200, 200), (380, 20), (380, 380)):
        # 80 stars of S/N 40 to 400: 1 % each at the median, leverage of a corner 0.1 to 0.3.
        assert model.at(*place) == pytest.approx(BETA * transparency(*place, 0.1), rel=0.012)


def test_stars_leave_less_and_their_scatter_is_no_longer_an_error(cloudy):
    levelled, constant = (diff.metrics["flux_scatter"] for diff in cloudy)
    assert levelled < 0.006 < 0.015 < constant
    # What stars leave, in proportion to them, along the gradient: nothing once it is levelled.
    slope = []
    stars = cloudy[1].reference * (cloudy[1].reference > 100)
    for diff in cloudy:
        lean = stars * (transparency(*np.indices(SHAPE), 1.0) - 1)
        good = np.isfinite(diff.difference) & np.isfinite(lean)
        slope.append(float((diff.difference[good] * lean[good]).sum() / (lean[good] ** 2).sum()))
    assert slope[1] > 0.02
    assert abs(slope[0]) < 0.1 * slope[1]
    assert np.nanmax(np.abs(np.where(cloudy[0].mask != 0, 0, cloudy[0].score_corr))) < 5.5


def test_constant_transparency_stays_constant():
    orders = [ag.subtract(*pair(20 + k), align="none").metrics["flux_order"] for k in range(3)]
    assert orders.count(0) >= 2


def test_galaxies_alone_give_the_ratio():
    """No isolated star anywhere: what is constant in the sky still has one ratio under one PSF, and a step says how."""
    for seed in range(40, 43):
        science, reference = pair(seed, n=0, n_galaxies=25)
        psfs = {"psf_science": "moffat:3.1,3.0", "psf_reference": "moffat:3.7,3.2"}
        diff = ag.subtract(science, reference, align="none", **psfs)
        said = next(step for step in diff.steps if step.stage == "flux ratio")
        assert said.values["method"] in ("stars", "pixels")
        # The sky under a galaxy is good to some 0.1 a pixel, over 100 pixels 0.5 % of one.
        assert diff.metrics["flux_ratio"] == pytest.approx(
            BETA, abs=0.005 * BETA + 3 * diff.metrics["flux_ratio_error"]
        )
        assert diff.metrics["flux_ratio"] == pytest.approx(BETA, rel=0.01)


def test_twenty_stars_with_variables_among_them_give_one_percent():
    pulls = []
    for seed in range(60, 65):
        diff = ag.subtract(*pair(seed, n=22, changed=0.1), align="none")
        assert diff.metrics["flux_ratio"] == pytest.approx(BETA, rel=0.01)
        assert diff.metrics["flux_order"] == 0
        pulls.append((diff.metrics["flux_ratio"] - BETA) / diff.metrics["flux_ratio_error"])
    assert np.std(pulls) == pytest.approx(1.0, abs=3 / np.sqrt(2 * len(pulls)))
    assert abs(np.mean(pulls)) < 3 / np.sqrt(len(pulls)) + 0.5  # measured PSFs are shared by all stars


def test_the_error_of_the_ratio_is_in_the_noise():
    """V(S_corr) grows by (relative error x what the star gives S)²: a star ten sigma of that bright falls to 1 / it."""
    rng = np.random.default_rng(5)
    stamp = np.exp(-0.5 * ((np.arange(21) - 10) / 1.6) ** 2)
    psf = np.outer(stamp, stamp) / stamp.sum() ** 2
    image = np.zeros((64, 64))
    image[22:43, 22:43] = 20000 * psf
    noise = [rng.normal(size=image.shape) * 3 for _ in range(2)]
    given = {"outputs": ("score", "score_corr"), "variance_science": np.full(image.shape, 9.0)}
    given |= {"variance_reference": np.full(image.shape, 9.0), "backend": "numpy"}
    found = {}
    for error in (0.0, 0.02):
        arrays = image * 1.02 + noise[0], image + noise[1]
        found[error] = ag.zogy(*arrays, psf, psf, 3.0, 3.0, flux_ratio_error=error, **given).score_corr[32, 32]
    # 2 % too bright: 20000 x 0.02 against 3 sqrt(2) per root of sum P²; with that much error allowed, one sigma of it.
    assert found[0.0] > 15
    assert found[0.02] == pytest.approx(found[0.0] / np.hypot(1, found[0.0]), abs=0.15)


@pytest.mark.parametrize("order", ["auto", 1, 2])
def test_fit_of_known_ratios(rng, order):
    y, x = rng.uniform(0, 399, 60), rng.uniform(0, 399, 60)
    errors = rng.uniform(0.003, 0.02, 60)
    ratios = transparency(y, x, 0.2) + errors * rng.normal(size=60)
    ratios[:6] *= rng.uniform(1.2, 3, 6)
    model, figures = fit_flux_model(y, x, ratios, errors, BETA, SHAPE, order)
    assert model.order == (1 if order == "auto" else order)
    assert bool(figures) == (order == "auto")
    truth = BETA * transparency(*np.indices(SHAPE), 0.2)
    error = model.error_at(*np.indices(SHAPE))
    # The mean of the model is that of the sources, which are not the frame: a ratio of beta stays free.
    frame = model.over_frame()
    assert frame == pytest.approx(truth * np.median(frame / truth), rel=0.02)
    assert 0.0003 < error.min() < error.max() < 0.03
    assert repr(model).startswith(f"<FluxModel of order {model.order}: beta 0.69")
    assert model.middle == pytest.approx(BETA, rel=0.02)


def test_an_order_is_lowered_to_what_the_sources_support(rng):
    y, x = rng.uniform(0, 399, 7), rng.uniform(0, 399, 7)
    assert fit_flux_model(y, x, np.ones(7), np.full(7, 0.01), BETA, SHAPE, 3) == (None, {})
