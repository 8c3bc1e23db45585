"""Sources in the wings of the stars that a PSF is made of: found where they matter, and nothing else is called one."""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu.ops.psf_fit import MODEL_ERROR
from astrid_gpu.ops.psf_intruders import intruders

SIDE, FWHM, SKY = 37, 4.5, 10.0  # pixels, pixels, noise a pixel
GRID = np.arange(SIDE) - SIDE // 2


def moffat(fwhm=FWHM, beta=3.0, y=0.0, x=0.0, shear=0.0):
    """A Moffat profile, of unit sum where it is in the middle, elongated along x by `shear`."""
    alpha = 0.5 * fwhm / np.sqrt(2 ** (1 / beta) - 1)

    def profile(v, u):
        return (1 + (v**2 + u**2) / alpha**2) ** -beta

    stretched = profile((GRID[:, None] - y) * (1 + shear), (GRID[None] - x) * (1 - shear))
    return stretched / profile(GRID[:, None], GRID[None]).sum()


def sky_error():
    """The 1-sigma error of a point source's flux on blank sky."""
    return SKY / np.sqrt((moffat() ** 2).sum())


def stack(rng, fluxes, shapes=None, planted=()):
    """Stars of unit flux with Poisson noise (gain 1) and sky, and weights as `register_stars` gives them."""
    psf = moffat()
    shapes = [psf] * len(fluxes) if shapes is None else shapes
    stars, weight = [], []
    for k, (flux, shape) in enumerate(zip(fluxes, shapes, strict=True)):
        light = flux * shape
        for star, source, y, x in planted:
            light = light + (source * moffat(y=y, x=x) if star == k else 0.0)
        variance = SKY**2 + np.maximum(light, 0.0)
        stars.append((light + rng.normal(size=psf.shape) * np.sqrt(variance)) / flux)
        weight.append(1 / (variance / flux**2 + (MODEL_ERROR * psf) ** 2))
    return np.array(stars), np.array(weight), psf


def ring(rng, near=1.5, far=3.2):
    """A place at some FWHM from the middle."""
    radius, angle = FWHM * rng.uniform(near, far), rng.uniform(0, 2 * np.pi)
    return radius * np.sin(angle), radius * np.cos(angle)


FEW = np.array([1400.0, 500.0, 170.0, 160.0, 40.0])  # S/N on the sky, as on a small frame


def many(rng, n):
    """S/N of n stars, one of which has about as much weight as all others."""
    if n == len(FEW):
        return FEW
    snr = np.exp(rng.uniform(np.log(20), np.log(1500), n))
    snr[0] = np.sqrt((snr[1:] ** 2).sum())
    return snr


@pytest.mark.parametrize("stars", [5, 20])
def test_source_beside_the_star_that_rules_is_found(stars):
    found, n = 0, 60
    for seed in range(n):
        rng = np.random.default_rng(seed)
        y, x = ring(rng)
        error = sky_error()
        planted = [(0, 20 * error, y, x)]
        mask = intruders(*stack(rng, many(rng, stars) * error, planted=planted), FWHM)
        found += bool(mask[0, round(y) + SIDE // 2, round(x) + SIDE // 2])
        assert not mask[1:].any()
    assert found > 0.95 * n, f"{found} of {n}"


def test_two_sources_beside_one_star_are_found():
    rng, error = np.random.default_rng(1), sky_error()
    places = [(9.0, -5.0), (-7.0, 8.0)]
    mask = intruders(*stack(rng, FEW * error, planted=[(0, 25 * error, *p) for p in places]), FWHM)
    assert all(mask[0, int(y) + SIDE // 2, int(x) + SIDE // 2] for y, x in places)
    assert mask[0].mean() < 0.2


def test_a_source_keeps_its_light_out_of_the_mean():
    rng, error = np.random.default_rng(2), sky_error()
    stars, weight, psf = stack(rng, FEW * error, planted=[(0, 20 * error, 8.0, 6.0)])
    left = []
    for w in (weight, np.where(intruders(stars, weight, psf, FWHM), 0.0, weight)):
        mean = (w * stars).sum(0) / w.sum(0)
        near = np.hypot(GRID[:, None] - 8, GRID[None] - 6) < FWHM / 2
        left.append((mean - psf)[near].sum())
    assert abs(left[1]) < 0.25 * left[0]


@pytest.mark.parametrize("n", [5, 12, 40, 80])
def test_clean_stars_keep_their_pixels(n):
    trials = {5: 120, 12: 80, 40: 50, 80: 40}[n]
    wrong = 0
    for seed in range(trials):
        rng = np.random.default_rng([n, seed])
        wrong += bool(intruders(*stack(rng, many(rng, n) * sky_error()), FWHM).any())
    assert wrong <= 0.02 * trials, f"{wrong} of {trials}"


@pytest.mark.parametrize("n", [5, 20, 80])
def test_a_psf_that_varies_is_no_source(n):
    """The width by 6 % either way and the shear by 3 % over the field, the brightest stars anywhere in it."""
    for seed in range(25):
        rng = np.random.default_rng([7, n, seed])
        snr = many(rng, n)
        shapes = [moffat(FWHM * (1 + 0.06 * rng.uniform(-1, 1)), shear=0.03 * rng.uniform(-1, 1)) for _ in snr]
        assert not intruders(*stack(rng, snr * sky_error(), shapes), FWHM).any()


def test_wings_that_differ_are_no_source():
    """The exponent of the wings, coma, and 2 % of the PSF's own value over half of the star."""
    half = np.where(GRID[:, None] > 0, 1.02, 1.0) * np.ones(SIDE)
    coma = 1 + 0.05 * GRID[:, None] / FWHM * np.exp(-0.5 * (np.hypot(GRID[:, None], GRID[None]) / FWHM) ** 2)
    for seed in range(20):
        rng = np.random.default_rng([3, seed])
        shapes = [moffat() for _ in FEW]
        for k, odd in enumerate((moffat(beta=2.7), half * moffat(), coma * moffat())):
            assert not intruders(*stack(rng, FEW * sky_error(), [odd, *shapes[1:]]), FWHM).any(), k


def test_what_all_stars_show_belongs_to_the_psf():
    """A bump of 1 % of the light beside every star, as a ghost would be."""
    for seed in range(20):
        rng, error = np.random.default_rng([4, seed]), sky_error()
        planted = [(k, 0.01 * snr * error, 9.0, 6.0) for k, snr in enumerate(FEW)]
        assert not intruders(*stack(rng, FEW * error, planted=planted), FWHM).any()


def test_correlated_noise_is_no_source():
    from scipy.ndimage import gaussian_filter

    wrong = 0
    for seed in range(60):
        rng = np.random.default_rng([5, seed])
        stars, weight, psf = stack(rng, FEW * sky_error())
        noise = stars - psf
        smooth = np.stack([gaussian_filter(plane, 0.7, mode="wrap") for plane in noise * np.sqrt(weight)])
        stars = psf + smooth / smooth.std((1, 2), keepdims=True) / np.sqrt(weight)
        wrong += bool(intruders(stars, weight, psf, FWHM).any())
    assert wrong <= 1, wrong


@pytest.mark.parametrize("m", [0, 1, 2])
def test_few_stars_and_no_weight(m):
    rng = np.random.default_rng(6)
    stars, weight, psf = stack(rng, FEW[:m] * sky_error()) if m else (np.zeros((0, SIDE, SIDE)),) * 2 + (moffat(),)
    assert intruders(stars, weight, psf, FWHM).shape == (m, SIDE, SIDE)
    assert not intruders(stars, np.zeros_like(weight), psf, FWHM).any()


def test_pixels_without_weight_are_never_a_source():
    rng, error = np.random.default_rng(8), sky_error()
    stars, weight, psf = stack(rng, FEW * error)
    hole = (0, slice(24, 29), slice(24, 29))
    stars[hole], weight[hole] = 50.0, 0.0
    assert not intruders(stars, weight, psf, FWHM).any()
