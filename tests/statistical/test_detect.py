"""Positions, fluxes and flags of many candidates against the statistics they must follow."""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.flags import CandidateFlag
from astrid_gpu.ops.psf_stamps import fwhm_of, gaussian_stamp, moffat_stamp
from tests.hand_made import add_source, hand_made

SIDE, STEP = 24, 24  # SIDE x SIDE sources, STEP pixels apart
PSFS = {
    "gaussian 2.2": gaussian_stamp(2.2, 23),
    "gaussian 3": gaussian_stamp(2.9, 23),
    "moffat": moffat_stamp(2.6, 3.0, 23),
}
FWHMS = {name: fwhm_of(psf) for name, psf in PSFS.items()}


def grid_of(rng, snr, n=SIDE):
    cells = STEP * np.arange(n) + STEP / 2
    y, x = (a.ravel() for a in np.meshgrid(cells, cells, indexing="ij"))
    dy, dx = rng.uniform(-0.5, 0.5, (2, y.size))
    return np.stack([y + dy, x + dx, np.full(y.size, snr)], axis=1)


def match(cands, truth):
    """The candidate nearest to each true source, all within 2 px."""
    from scipy.spatial import cKDTree

    distance, rows = cKDTree(np.stack([cands["y"], cands["x"]], axis=1)).query(truth[:, :2])
    assert distance.max() < 2
    return cands.data[rows]


def position_bound(psf, snr):
    """Cramer-Rao: 1-sigma error along x of a source of known shape in white noise, sqrt(sum P²) / |dP/dx| / (S/N)."""
    fx = 2j * np.pi * np.fft.rfftfreq(psf.shape[1])
    slope = np.fft.irfft(np.fft.rfft(psf, axis=1) * fx, psf.shape[1], axis=1)
    return np.sqrt(np.sum(psf**2) / np.sum(slope**2)) / snr


@pytest.mark.parametrize("name", PSFS)
@pytest.mark.parametrize("snr", [20.0, 100.0])
def test_positions_reach_the_bound_and_fluxes_are_unbiased(rng, name, snr):
    psf = PSFS[name]
    truth = grid_of(rng, snr)
    n = len(truth)
    rows = match(ag.detect(hand_made(rng, psf, truth, shape=(SIDE * STEP,) * 2), 5.0, backend="numba"), truth)
    bound = position_bound(psf, snr)
    for axis, true in (("y", truth[:, 0]), ("x", truth[:, 1])):
        error = rows[axis] - true
        # The scatter of n errors is known to 1 / sqrt(2n); the bound itself is exceeded by the order of 1 / snr.
        assert np.std(error) < bound * (1 + 4 / np.sqrt(2 * n) + 1 / snr)
        assert abs(np.mean(error)) < 4 * bound / np.sqrt(n)
        if snr == 20:
            assert np.std(error) < 0.1
        # No pull towards pixel centres: the error does not go with the sub-pixel phase (sd of a uniform: 0.289).
        phase = true - np.rint(true)
        assert abs(np.polyfit(phase, error, 1)[0]) < 4 * bound / (0.289 * np.sqrt(n)) + 0.003
    pull = (rows["flux"] - snr * rows["flux_error"]) / rows["flux_error"]
    # Maximising over two coordinates adds 1 / snr to the mean pull; +- 4 standard errors.
    assert abs(np.mean(pull) - 1 / snr) < 4 / np.sqrt(n)
    assert abs(np.std(pull) - 1) < 4 / np.sqrt(2 * n)
    assert abs(np.mean(rows["flux"] / rows["flux_error"]) / snr - 1) < 0.005 + 4 / snr / np.sqrt(n)
    # A window of FWHM 2.2 px sums over few pixels: off centre it differs by up to 0.5 %. A median has 1.25 the scatter.
    assert abs(np.median(rows["fwhm"]) / FWHMS[name] - 1) < 4 * 1.25 / snr / np.sqrt(n) + 1 / snr**2 + 0.005


@pytest.mark.parametrize("name", PSFS)
@pytest.mark.parametrize("snr", [6.0, 8.0, 12.0])
def test_sharp_tells_hot_pixels_from_stars(rng, name, snr):
    psf = PSFS[name]
    stars = grid_of(rng, snr)
    hot_places = STEP * np.indices((SIDE, SIDE)).reshape(2, -1)
    hot = np.zeros((SIDE * STEP,) * 2)
    hot[tuple(hot_places)] = snr * np.sqrt(np.sum(psf**2)) / psf.max()  # the same S/N in S_corr
    diff = hand_made(rng, psf, stars, shape=hot.shape, extra=hot)
    cands = ag.detect(diff, 3.0, backend="numba")
    n = len(stars)
    is_sharp = lambda rows: (rows["flags"] & int(CandidateFlag.SHARP)) != 0  # noqa: E731
    from scipy.spatial import cKDTree

    tree = cKDTree(np.stack([cands["y"], cands["x"]], axis=1))
    near_star, star_rows = tree.query(stars[:, :2])
    near_hot, hot_rows = tree.query(hot_places.T)
    star_flags = is_sharp(cands.data[star_rows[near_star < 2]])
    hot_flags = is_sharp(cands.data[hot_rows[near_hot < 2]])
    assert min(len(star_flags), len(hot_flags)) > 0.95 * n
    # Two ways to be called sharp, each once in 700 by chance; 5-sigma Poisson room.
    assert star_flags.sum() <= n / 350 + 5 * np.sqrt(n / 350)
    # A hot pixel has excess -1 with a scatter of sqrt(2) / snr: beyond max(0.5, 3 / snr) it is missed.
    from scipy.stats import norm

    missed = norm.sf((1 - max(0.5, 3 / snr)) * snr / np.sqrt(2))
    assert (~hot_flags).mean() <= missed + 5 * np.sqrt(missed * (1 - missed) / n) + 1 / n


def test_blank_sky_rates(rng):
    """Candidates on pure noise: as many of either sign, none sharp by more than chance."""
    psf = PSFS["gaussian 3"]
    cands = ag.detect(hand_made(rng, psf, shape=(900, 900)), 3.5, backend="numba")
    positive = int((cands["polarity"] > 0).sum())
    n = len(cands)
    assert n > 100
    assert abs(positive - n / 2) < 4 * np.sqrt(n) / 2
    # Peaks of a Gaussian field above u (Adler 1981): area * |curvature| * u * exp(-u²/2) / (2 pi)^(3/2), two signs.
    fy = 2 * np.pi * np.fft.fftfreq(64)[:, None]
    power = np.abs(np.fft.fft2(psf, (64, 64))) ** 2
    curvature = (power * fy**2).sum() / power.sum()
    want = 2 * 900**2 * curvature * 3.5 * np.exp(-(3.5**2) / 2) / (2 * np.pi) ** 1.5
    # Sampling at pixels loses the summits between them: up to 10 % of the peaks so near the threshold.
    assert want * 0.85 - 4 * np.sqrt(want) < n < want + 4 * np.sqrt(want)
    # A lobe of the other sign beyond 3.5 sigma by chance, in the area of a circle of two FWHM; +- 4 standard errors.
    dipoles = ((cands["flags"] & int(CandidateFlag.DIPOLE)) != 0).mean()
    by_chance = np.pi * (2 * FWHMS["gaussian 3"]) ** 2 * n / 2 / 900**2
    assert dipoles < by_chance + 4 * np.sqrt(by_chance / n)


def test_cosmic_ray_tracks_are_sharp_and_trails_extended(rng):
    """Two pixels side by side or diagonal, at S/N above 8; a trail as wide as the PSF and 6 px long."""
    psf, n = PSFS["gaussian 3"], 12
    extra = np.zeros((n * STEP,) * 2)
    places = STEP * np.indices((n, n)).reshape(2, -1).T + STEP // 2
    height = 7 * np.sqrt(np.sum(psf**2)) / psf.max()
    for k, (y, x) in enumerate(places):
        if k % 3 == 2:
            for step in np.linspace(-3, 3, 7):
                add_source(extra, psf, y + 0.6 * step, x + 0.8 * step, 6.0 / np.sqrt(np.sum(psf**2)))
        else:
            extra[y, x] = extra[y + k % 3, x + 1] = height
    cands = match(ag.detect(hand_made(rng, psf, shape=extra.shape, extra=extra), 6.0, backend="numba"), places * 1.0)
    sharp = (cands["flags"] & int(CandidateFlag.SHARP)) != 0
    extended = (cands["flags"] & int(CandidateFlag.EXTENDED)) != 0
    trails = np.arange(len(places)) % 3 == 2
    assert sharp[~trails].mean() > 0.9
    assert not extended[~trails].any()
    assert extended[trails].mean() > 0.9
    assert not sharp[trails].any()


@pytest.mark.parametrize(("fwhm_n", "fwhm_r", "sigma_r"), [(2.5, 2.5, 0.3), (3.5, 2.5, 0.5), (3.0, 3.0, 1.0)])
def test_cosmic_rays_and_transients_through_zogy(rng, fwhm_n, fwhm_r, sigma_r):
    """The real difference: every transient found unflagged at its place, every hit pixel found and called sharp."""
    n, side = 10, 320
    psf_n, psf_r = moffat_stamp(fwhm_n, 3.0, 31), moffat_stamp(fwhm_r, 3.0, 31)
    science, reference = rng.normal(size=(side, side)), sigma_r * rng.normal(size=(side, side))
    cells = 32.0 * np.arange(n) + 20
    truth = np.stack([a.ravel() for a in np.meshgrid(cells, cells, indexing="ij")], axis=1)
    truth += rng.uniform(-0.5, 0.5, truth.shape)
    flux = 20 / np.sqrt(np.sum(psf_n**2))
    for y, x in truth:
        add_source(science, psf_n, y, x, flux)
        add_source(science, psf_n, y - 8, x - 8, 3 * flux)  # a constant star in both images
        add_source(reference, psf_r, y - 8, x - 8, 3 * flux)
    hits = 32 * np.indices((n, n)).reshape(2, -1) + 4
    science[tuple(hits)] += 40
    diff = ag.zogy(science, reference, psf_n, psf_r, 1.0, sigma_r, backend="numba")
    cands = ag.detect(diff, 6.0, backend="numba")
    stars = match(cands, truth)
    rays = match(cands, hits.T.astype(float))
    wrong = int(CandidateFlag.SHARP | CandidateFlag.EXTENDED | CandidateFlag.DIPOLE | CandidateFlag.NO_CENTROID)
    # Three standard deviations each way and a chance dipole: one in a hundred, with 5-sigma Poisson room.
    assert (((stars["flags"] & wrong) != 0).sum()) <= 1 + 5
    assert ((rays["flags"] & int(CandidateFlag.SHARP)) != 0).all()
    pull = (stars["flux"] - flux) / stars["flux_error"]
    assert abs(pull.mean() - 1 / np.median(stars["snr"])) < 4 / n
    assert abs(pull.std() - 1) < 4 / np.sqrt(2 * n * n)
    # The constant stars leave nothing: beyond transients and hits, noise alone, 6 sigma.
    assert len(cands) - len(stars) - len(rays) <= 1


@pytest.mark.parametrize("name", PSFS)
def test_sharpness_and_chi2_have_their_distributions(rng, name):
    """Point sources: sharpness 0 with the scatter noise_excess / snr, reduced chi² 1 with sqrt(2 / nu)."""
    from astrid_gpu.ops.moments import psf_window

    psf, snr = PSFS[name], 20.0
    truth = grid_of(rng, snr)
    n = len(truth)
    rows = match(ag.detect(hand_made(rng, psf, truth, shape=(SIDE * STEP,) * 2), 5.0, backend="numba"), truth)
    one = psf_window(psf, FWHMS[name]).noise_excess / snr
    # A ratio of noisy sums: its mean is off by the order of its variance; fitting the place takes some scatter.
    assert abs(np.mean(rows["sharpness"])) < 4 * one / np.sqrt(n) + 2 * one**2
    assert 0.8 * one < np.std(rows["sharpness"]) < one * (1 + 4 / np.sqrt(2 * n)) * 1.1
    radius = max(2, round(1.5 * FWHMS[name]))
    v, u = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    scatter = np.sqrt(2 / (np.count_nonzero(v**2 + u**2 <= (radius + 0.5) ** 2) - 3))
    assert abs(np.mean(rows["chi2"]) - 1) < 4 * scatter / np.sqrt(n) + 0.01
    assert np.std(rows["chi2"]) == pytest.approx(scatter, rel=4 / np.sqrt(2 * n) + 0.05)


@pytest.mark.parametrize("fwhms", [(2.5, 2.5, 0.3), (2.0, 2.0, 0.5), (3.0, 3.0, 1.0), (4.5, 3.0, 0.5)])
def test_sharp_at_every_significance_and_size_of_hit(rng, fwhms):
    """Through the engine: of point sources of S/N 5 to 50 under 1 % are sharp, of hits beyond 10 over 90 %."""
    n, step = 20, 28
    side = n * step
    psf_n, psf_r, sigma_r = moffat_stamp(fwhms[0], 3.0, 31), moffat_stamp(fwhms[1], 3.0, 31), fwhms[2]
    science, reference = rng.normal(size=(side, side)), sigma_r * rng.normal(size=(side, side))
    places = step * np.indices((n, n)).reshape(2, -1).T + step // 2
    star = np.arange(n * n) % 2 == 0
    unit = np.nanmedian(ag.zogy(science, reference, psf_n, psf_r, 1.0, sigma_r, backend="numba").flux_error)
    truth = places + rng.uniform(-0.5, 0.5, places.shape)
    for (y, x), snr in zip(truth[star], np.exp(rng.uniform(np.log(6), np.log(50), star.sum())), strict=True):
        add_source(science, psf_n, y, x, snr * unit)
    for k, (y, x) in enumerate(places[~star]):
        dy, dx = ((0, 1), (1, 0), (1, 1))[k % 3]
        for j in range(1 + k % 4 % 3):
            science[y + j * dy, x + j * dx] += rng.uniform(10, 25) * unit * psf_n.max() ** 0.5
    cands = ag.detect(ag.zogy(science, reference, psf_n, psf_r, 1.0, sigma_r, backend="numba"), 5.0)
    from scipy.spatial import cKDTree

    distance, row = cKDTree(np.stack([cands["y"], cands["x"]], axis=1)).query(truth)
    sharp = (cands["flags"][row] & int(CandidateFlag.SHARP)) != 0
    bright = np.abs(cands["score"][row]) > 10
    stars, hits = star & (distance < 2), ~star & (distance < 4) & bright
    assert stars.sum() > 180
    assert hits.sum() > 60
    # One in 350 by chance: of 200 five would be a sure sign of more than one in a hundred.
    assert sharp[stars].sum() <= 4
    assert sharp[hits].mean() > 0.9
