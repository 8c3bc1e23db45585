"""Finding, matching and fitting stars for registration."""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu._pixel_map import Polynomial
from astrid_gpu._star_find import Stars, find_stars
from astrid_gpu._star_match import fit_map, match_blind, match_near
from tests.unit.align_fields import catalogue, scene


def no_bad(image):
    return np.zeros(image.shape, bool)


def as_stars(y, x, error=0.02, fwhm=3.0):
    return Stars(y, x, np.linspace(2, 1, y.size), np.full(y.size, error), fwhm)


def nearest(found, y, x):
    distance = np.hypot(found.y[:, None] - y, found.x[:, None] - x)
    return distance.argmin(axis=1), distance.min(axis=1)


@pytest.mark.parametrize("sigma", [0.9, 1.3, 2.5])
def test_positions_and_their_errors(rng, sigma):
    y, x, flux = catalogue(rng, 150, (400, 400), border=20, faint=3e3, bright=3e4, apart=9 * sigma)
    image = scene((400, 400), y, x, flux, sigma=sigma, sky=300.0, noise=10.0, rng=rng)
    found = find_stars(image, no_bad(image))
    assert found.fwhm == pytest.approx(2.3548 * np.hypot(sigma, np.sqrt(1 / 12)), rel=0.08)
    index, distance = nearest(found, y, x)
    assert distance.max() < 1.0
    assert found.y.size >= 0.9 * y.size
    pulls = np.concatenate([(found.y - y[index]) / found.error, (found.x - x[index]) / found.error])
    # Isolated stars in white noise: the width of the pulls is known to 1 / sqrt(2 n); the formula is good to 15 %.
    assert np.std(pulls) == pytest.approx(1, abs=0.15 + 5 / np.sqrt(2 * pulls.size))
    assert np.mean(pulls) == pytest.approx(0, abs=5 * np.std(pulls) / np.sqrt(pulls.size))
    assert np.all(np.diff(found.flux) <= 0)
    np.testing.assert_allclose(np.median(found.flux / flux[index]), 1, atol=0.1)


def test_blank_sky_has_no_stars(rng):
    image = rng.normal(100, 5, (300, 300))
    assert find_stars(image, no_bad(image)).y.size == 0


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_constant_image_has_no_stars(value):
    image = np.full((33, 33), value)
    assert find_stars(image, no_bad(image)).y.size == 0


def test_all_bad_or_tiny_image_has_no_stars():
    assert find_stars(np.full((33, 33), np.nan), np.ones((33, 33), bool)).y.size == 0
    assert find_stars(np.ones((4, 4)), np.zeros((4, 4), bool)).y.size == 0


def test_noise_free_field_is_found():
    image = scene((80, 80), [20.3, 55.1, 60.6], [30.2, 22.7, 60.4], [1e4, 5e3, 2e4])
    found = find_stars(image, no_bad(image))
    np.testing.assert_allclose(sorted(found.y), [20.3, 55.1, 60.6], atol=0.01)


def test_cosmic_rays_masked_and_edge_stars_are_left_out(rng):
    y, x, flux = catalogue(rng, 40, (200, 200), border=15, faint=2e4, apart=15)
    y, x, flux = np.append(y, 1.0), np.append(x, 100.0), np.append(flux, 1e5)
    image = scene((200, 200), y, x, flux, sigma=1.6, noise=5.0, rng=rng)
    hits = [(30, 40), (100, 12), (150, 180)]
    for j, i in hits:
        image[j, i] += 2e4
    bad = no_bad(image)
    bad[round(y[0]), round(x[0])] = True
    image[bad] = np.nan
    found = find_stars(image, bad)
    for j, i in [*hits, (1.0, 100.0), (y[0], x[0])]:
        isolated = np.min(np.hypot(y - j, x - i)[np.hypot(y - j, x - i) > 0]) > 6
        if isolated:
            assert np.min(np.hypot(found.y - j, found.x - i)) > 2, (j, i)


def transformed(y, x, scale=1.0, rotation=0.0, shift=(0.0, 0.0), flip=False, centre=200.0):
    z = (x - centre) + 1j * (y - centre)
    w = scale * np.exp(1j * rotation) * (z.conj() if flip else z) + centre + shift[1] + 1j * shift[0]
    return w.imag, w.real


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("scale", "rotation", "shift"),
    [
        (1.0, 0.0, (0.0, 0.0)),
        (1.0, 0.0, (47.3, -62.8)),
        (1.0, 2.1, (5.0, 9.0)),
        (0.5, 0.3, (0.0, 20.0)),
        (2.0, -1.0, (3.0, 3.0)),
    ],
)
def test_blind_match(rng, scale, rotation, shift, flip):
    y, x, _ = catalogue(rng, 60, (400, 400))
    sy, sx = transformed(y, x, scale, rotation, shift, flip)
    noise = rng.normal(0, 0.1, (2, y.size))
    # A third of each list has no counterpart, and the orders by brightness differ.
    extra = rng.uniform(0, 400 * scale, (2, 20))
    order = np.argsort(np.arange(80) + rng.normal(0, 5, 80), kind="stable")
    source = as_stars(np.append(sy + noise[0], extra[0])[order], np.append(sx + noise[1], extra[1])[order])
    match = match_blind(as_stars(y, x), source, (400.0 * scale) ** 2)
    assert match is not None
    assert match.parity == (-1 if flip else 1)
    right = order[match.source] == match.target
    assert right.sum() >= 50
    assert right.mean() >= 0.9


def test_unrelated_fields_do_not_match(rng):
    """100 pairs of random fields: the promise of 0.01 accidental solutions a pair allows 1, and 5 is beyond 0.4 %."""
    accidents = 0
    for _ in range(100):
        n = int(rng.integers(4, 40))
        a, b = rng.uniform(0, 300, (2, 2, n))
        accidents += match_blind(as_stars(*a), as_stars(*b), 300.0**2) is not None
    assert accidents <= 4


@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_than_three_never_match(n):
    y = np.arange(n) * 30.0
    assert match_blind(as_stars(y, y), as_stars(y, y), 1e4) is None
    assert match_near(y, y, as_stars(y, y), 5.0, 1e4) is None


def test_three_shifted_stars_match():
    y, x = np.array([10.0, 70.0, 30.0]), np.array([12.0, 20.0, 85.0])
    match = match_blind(as_stars(y, x), as_stars(y + 4.2, x - 3.1), 1e4)
    assert match is not None
    assert match.target.tolist() == match.source.tolist() == [0, 1, 2]


def test_match_near_takes_out_a_common_shift(rng):
    y, x, _ = catalogue(rng, 30, (300, 300))
    match = match_near(y, x, as_stars(y + 6.1, x - 4.3), 10.0, 9e4)
    assert match is not None
    assert (match.target == match.source).sum() >= 28


def test_match_near_refuses_chance(rng):
    accidents = 0
    for _ in range(100):
        a, b = rng.uniform(0, 300, (2, 2, 12))
        accidents += match_near(a[0], a[1], as_stars(*b), 10.0, 9e4) is not None
    assert accidents <= 4


MODELS = ("none", "shift", "similarity", "affine", "quadratic", "cubic")


def truth(name, y, x):
    v, u = (y - 500) / 500, (x - 500) / 500
    dy, dx = {
        "none": (0, 0),
        "shift": (3.2, -1.7),
        "similarity": (3.2 + 0.9 * v - 1.4 * u, -1.7 + 1.4 * v + 0.9 * u),
        "affine": (0.6 * v - 0.8 * u, 0.9 * v + 0.3 * u),
        "quadratic": (0.7 * v * u + 0.5 * u**2, 0.4 * v**2),
        "cubic": (0.8 * v * (v**2 + u**2), 0.8 * u * (v**2 + u**2)),
    }[name]
    return y + dy, x + dx


@pytest.mark.parametrize("name", MODELS)
def test_simplest_sufficient_model_is_chosen(rng, name):
    """And it is accurate to its formal error where there are stars."""
    y, x = rng.uniform(0, 1000, (2, 150))
    goal = [plane + rng.normal(0, 0.05, 150) for plane in truth(name, y, x)]
    outliers = rng.choice(150, 15, replace=False)
    goal[0][outliers] += rng.uniform(0.6, 1.4, 15)
    fit = fit_map((y, x), (goal[0], goal[1]), np.full(150, 0.05), models=MODELS)
    assert fit.model == name
    assert fit.keep[outliers].sum() == 0
    grid = [plane.ravel() for plane in np.meshgrid(np.linspace(100, 900, 9), np.linspace(100, 900, 9))]
    error = np.array(fit.polynomial(*grid)) - np.array(truth(name, *grid))
    assert np.sqrt(np.mean(error**2)) < 4 * max(max(fit.formal), 1e-4)


def test_scatter_is_what_the_centroids_do_not_explain(rng):
    y, x = rng.uniform(0, 1000, (2, 2000))
    goal = [plane + rng.normal(0, np.hypot(0.1, own), 2000) for plane, own in ((y, 0.3), (x, 0.2))]
    fit = fit_map((y, x), (goal[0], goal[1]), np.full(2000, 0.1), models=("shift",))
    # 3-sigma clipping takes 1.3 % off the rms; its own error is 1 / sqrt(2 n).
    np.testing.assert_allclose(fit.scatter, (0.3, 0.2), rtol=0.03 + 5 / np.sqrt(4000))


def test_one_bright_star_that_moved_is_clipped():
    """A proper motion of half a pixel on the best measured of five stars."""
    y, x = np.array([20.0, 190, 27, 28, 14]), np.array([83.0, 121, 184, 132, 25])
    moves = np.array([-0.56, -0.04, -0.06, -0.1, -0.01])
    fit = fit_map((y, x), (y + moves, x), np.array([0.004, 0.02, 0.03, 0.04, 0.13]), models=MODELS, caution=3)
    assert fit.keep.tolist() == [False, True, True, True, True]
    assert fit.polynomial(y, x)[0] - y == pytest.approx(-0.05, abs=0.06)


def test_mirror_image_fit(rng):
    y, x = rng.uniform(0, 500, (2, 30))
    goal = 3.0 + 0.9 * y + 0.1 * x, 400 + 0.1 * y - 0.9 * x
    fit = fit_map((y, x), goal, np.full(30, 0.01), models=("similarity",), parity=-1)
    np.testing.assert_allclose(fit.polynomial(y, x), goal, atol=1e-9)


def test_polynomial_terms_and_call_agree(rng):
    polynomial = Polynomial(rng.normal(size=(2, 10)), 3, (10.0, 20.0), 30.0)
    y, x = rng.uniform(0, 50, (2, 7))
    np.testing.assert_allclose(polynomial.terms(y, x) @ polynomial.coefficients.T, np.stack(polynomial(y, x), -1))
