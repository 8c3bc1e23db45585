"""The empirical PSF: stars put on one centre, cleaned of neighbours, averaged, their far wings replaced by a fit."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from astrid_gpu._moffat import Moffat, fit_moffat, fit_moffat_stars, moffat_profile
from astrid_gpu.ops.flux import cut_windows
from astrid_gpu.ops.psf_stamps import centroid_of

__all__ = ["PsfStack", "build_psf"]

_MARGIN = 4  # pixels cut round a stamp so that shifting it brings in nothing from outside
_MODEL_ERROR = 0.02  # of the PSF's own value: keeps the brightest stars and the core from ruling alone
_ROUNDS = 4


class PsfStack(NamedTuple):
    """A PSF and how it came about."""

    psf: np.ndarray
    moffat: Moffat
    used: np.ndarray
    chi2: float
    empirical_radius: float


def build_psf(
    data: np.ndarray,
    variance: np.ndarray,
    bad: np.ndarray,
    stars: np.ndarray,
    chosen: np.ndarray,
    half: int,
    fwhm: float,
    *,
    empirical: bool,
) -> PsfStack:
    """Build the PSF from `stars[chosen]`, the other `stars` being neighbours to take off.

    Each round: fluxes of all sources given the PSF so far (a linear system), neighbours subtracted, each star's
    flux, centre and local sky fitted, its pixels shifted to a common centre by a Fourier phase, and averaged with
    inverse-variance and Huber weights; a Moffat profile fitted to the average; where the average does not differ
    from that by more than its own noise the profile stands in (`_blend`). Stars that fit badly are dropped.

    Parameters
    ----------
    data, variance : float array (ny, nx)
        Background-subtracted; finite.
    bad : bool array (ny, nx)
    stars : structured array of `find_stars`
    chosen : int array
        Indices into `stars`.
    half : int
        Half side of the PSF.
    fwhm : float
        Start, pixels.
    empirical : bool
        False: the Moffat profile alone is returned.
    """
    if not empirical:
        return _profile_alone(data, variance, bad, stars, chosen, half, fwhm)
    psf = _start_psf(half, fwhm)
    y, x = np.rint(stars["y"][chosen]).astype(int), np.rint(stars["x"][chosen]).astype(int)
    cuts = _Cuts(data, variance, bad, y, x, half + _MARGIN)
    # A windowed centre in a crowd is off by a little: the fit against the PSF refines it from here.
    offset = np.stack([stars["y"][chosen] - y, stars["x"][chosen] - x], axis=1)
    keep = np.ones(len(chosen), dtype=bool)
    moffat: Moffat | None = None
    radius, chi2 = 0.0, np.full(len(chosen), np.nan)
    for i in range(_ROUNDS):
        neighbours = _neighbour_light(cuts, data, bad, stars, chosen, psf)
        shifted, weight, offset, chi2 = _register(cuts, neighbours, psf, offset, fwhm)
        if i >= 1:
            keep = _inliers(chi2)
        mean, error = _average(shifted[keep], weight[keep], psf)
        moffat = fit_moffat(mean, np.hypot(error, 0.01 * np.abs(psf)), fwhm, start=moffat)
        profile = moffat_profile(moffat, mean.shape)
        blended, radius = _blend(mean - moffat.constant, profile, error, fwhm)
        psf = _finish(blended)
    assert moffat is not None
    return PsfStack(psf, moffat, keep, float(np.median(chi2[keep])), radius)


def _profile_alone(
    data: np.ndarray,
    variance: np.ndarray,
    bad: np.ndarray,
    stars: np.ndarray,
    chosen: np.ndarray,
    half: int,
    fwhm: float,
) -> PsfStack:
    """Fit a Moffat profile to the pixels of the chosen stars, neighbours taken off with the last round's profile."""
    psf = _start_psf(half, fwhm)
    y, x = np.rint(stars["y"][chosen]).astype(int), np.rint(stars["x"][chosen]).astype(int)
    offset = np.stack([stars["y"][chosen] - y, stars["x"][chosen] - x], axis=1)
    reach = min(half, int(np.ceil(max(3.0 * fwhm, 4.0))))
    cuts = _Cuts(data, variance, bad, y, x, half)
    inner = slice(half - reach, half + reach + 1)
    start, chi2 = None, np.full(len(chosen), np.nan)
    for _ in range(2):
        light = _neighbour_light(cuts, data, bad, stars, chosen, psf)
        clean = (cuts.data - light)[:, inner, inner]
        error2 = (cuts.variance + (0.05 * light) ** 2)[:, inner, inner] + (_MODEL_ERROR * np.maximum(clean, 0.0)) ** 2
        error2 = np.where(cuts.bad[:, inner, inner], 0.0, error2)
        start, _, chi2 = fit_moffat_stars(clean, error2, offset, fwhm, start=start)
        psf = _finish(moffat_profile(start, psf.shape, centred=True))
    assert start is not None
    return PsfStack(psf, start, np.ones(len(chosen), bool), float(np.median(chi2)), 0.0)


class _Cuts:
    """Windows of the image, its variance and its bad pixels round each chosen star; (m, s, s), margin included."""

    def __init__(
        self, data: np.ndarray, variance: np.ndarray, bad: np.ndarray, y: np.ndarray, x: np.ndarray, half: int
    ) -> None:
        self.y, self.x, self.half = y, x, half
        self.data = cut_windows(np.where(bad, 0.0, data), y, x, half)
        self.variance = cut_windows(variance, y, x, half, fill=float(np.median(variance)))
        self.bad = cut_windows(bad.astype(float), y, x, half, fill=1.0) > 0


def _start_psf(half: int, fwhm: float) -> np.ndarray:
    alpha = 0.5 * fwhm / np.sqrt(2.0 ** (1.0 / 3.5) - 1.0)
    stamp = moffat_profile(Moffat(1.0, 0.0, 0.0, 0.0, alpha, 0.0, 0.0, 3.5), (2 * half + 1, 2 * half + 1))
    return stamp / stamp.sum()


def _at(psf: np.ndarray, half: int, dy: np.ndarray, dx: np.ndarray) -> np.ndarray:
    """Return the PSF centred (dy, dx) off the middle of windows of half side `half`, (m, s, s), by a cubic spline."""
    from scipy.ndimage import spline_filter

    own = psf.shape[0] // 2
    grow = max(half - own, 0) + 4 + int(np.ceil(max(np.abs(dy).max(initial=0), np.abs(dx).max(initial=0))))
    coefficients = spline_filter(np.pad(psf, grow), order=3, mode="mirror")
    side, first = 2 * half + 1, own + grow - half
    # One shift a window, so the spline is four taps along each axis; windows of one whole-pixel shift go together.
    (sy, wy), (sx, wx) = _taps(-dy), _taps(-dx)
    out = np.empty((len(dy), side, side))
    for jy, jx in {*zip(sy.tolist(), sx.tolist(), strict=True)}:
        these = np.flatnonzero((sy == jy) & (sx == jx))
        block = coefficients[first + jy - 1 : first + jy + side + 2, first + jx - 1 : first + jx + side + 2]
        rows = np.tensordot(wy[these], np.stack([block[k : k + side] for k in range(4)]), 1)
        out[these] = sum(wx[these, k, None, None] * rows[:, :, k : k + side] for k in range(4))
    return out


def _taps(shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the whole part of shifts (m,), and the weights (m, 4) of a cubic B-spline at what is left."""
    whole = np.floor(shift).astype(int)
    t = shift - whole
    weights = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
    return whole, np.stack(weights, axis=1) / 6


def _neighbour_light(
    cuts: _Cuts, data: np.ndarray, bad: np.ndarray, stars: np.ndarray, chosen: np.ndarray, psf: np.ndarray
) -> np.ndarray:
    """Return the light of all other sources in each window, (m, s, s): a model of the field less the star itself."""
    from scipy.spatial import cKDTree

    reach, half = cuts.half + psf.shape[0] // 2, psf.shape[0] // 2
    places = np.stack([stars["y"], stars["x"]], axis=1)
    near = cKDTree(places).query_ball_point(np.stack([cuts.y, cuts.x], axis=1), reach, p=np.inf)
    involved = np.unique(np.concatenate([np.asarray(n, dtype=int) for n in near]))
    if involved.size <= 1:
        return np.zeros_like(cuts.data)
    places = places[involved]
    y, x = _nearest(places, data.shape)
    models = _at(psf, half, places[:, 0] - y, places[:, 1] - x)
    flux = _joint_fluxes(data, bad, places, psf, models, np.maximum(stars["flux"][involved], 0.0))
    models *= flux[:, None, None]
    field = np.zeros((data.shape[0] + 2 * half, data.shape[1] + 2 * half))
    for k in range(len(places)):
        field[y[k] : y[k] + 2 * half + 1, x[k] : x[k] + 2 * half + 1] += models[k]
    light = cut_windows(field[half:-half, half:-half], cuts.y, cuts.x, cuts.half)
    own = np.searchsorted(involved, chosen)
    middle = slice(cuts.half - half, cuts.half + half + 1)
    light[:, middle, middle] -= models[own]
    return light


def _nearest(places: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels nearest to places (y, x), inside the frame."""
    y, x = np.rint(places).astype(int).T
    return np.clip(y, 0, shape[0] - 1), np.clip(x, 0, shape[1] - 1)


def _joint_fluxes(
    data: np.ndarray, bad: np.ndarray, places: np.ndarray, psf: np.ndarray, models: np.ndarray, first: np.ndarray
) -> np.ndarray:
    """Solve the normal equations of unweighted PSF photometry of overlapping sources, fluxes not negative.

    The matrix is the PSF's autocorrelation at the separations: sum_x P(x - a) P(x - b) = A(a - b).
    """
    from scipy.ndimage import map_coordinates, spline_filter
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import cg
    from scipy.spatial import cKDTree

    side = psf.shape[0]
    frame = np.pad(psf, side // 2 + 1)
    auto = np.fft.fftshift(np.fft.irfft2(np.abs(np.fft.rfft2(frame)) ** 2, frame.shape))
    middle = auto.shape[0] // 2
    reach, half = min(side // 2, middle - 1), side // 2
    y, x = _nearest(places, data.shape)
    holes = cut_windows(bad.astype(float), y, x, half, fill=1.0) > 0
    windows = cut_windows(np.where(bad, 0.0, data), y, x, half)
    right = np.einsum("mab,mab->m", windows, models)
    seen = np.einsum("mab,mab->m", np.where(holes, 0.0, models), models)  # holes take part of the self-overlap away
    pairs = cKDTree(places).query_pairs(reach, output_type="ndarray")
    i, j = (pairs[:, 0], pairs[:, 1]) if len(pairs) else (np.zeros(0, int), np.zeros(0, int))
    d = places[i] - places[j]
    lag = [d[:, 0] + middle, d[:, 1] + middle]
    overlap = map_coordinates(spline_filter(auto, order=3), lag, order=3, prefilter=False)
    n = len(places)
    rows, columns = np.concatenate([i, j, np.arange(n)]), np.concatenate([j, i, np.arange(n)])
    diagonal = np.maximum(seen, 0.05 * auto.max()) + 0.01 * auto.max()
    matrix = coo_matrix((np.concatenate([overlap, overlap, diagonal]), (rows, columns)), shape=(n, n)).tocsr()
    right = right + 0.01 * auto.max() * first
    solution, _ = cg(matrix, right, x0=first, rtol=1e-4, maxiter=200)
    return np.maximum(solution, 0.0)


def _register(
    cuts: _Cuts, neighbours: np.ndarray, psf: np.ndarray, offset: np.ndarray, fwhm: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Fit flux, centre and sky of each star, and return it shifted to the middle with unit flux.

    Returns
    -------
    shifted, weight : float arrays (m, side, side)
        Weight is the inverse variance of a pixel of `shifted`, 0 where bad.
    offset : float array (m, 2)
        Centres (y, x) relative to the middle pixel.
    chi2 : float array (m,)
        Reduced chi-squared over the core, errors of the model allowed for.
    """
    clean = cuts.data - neighbours
    # A neighbour is taken off to some 5 % only.
    variance = cuts.variance + (0.05 * neighbours) ** 2
    offset = offset.copy()
    for _ in range(3):
        model, flux, sky, step = _fit_each(clean, variance, cuts.bad, psf, cuts.half, offset, fwhm)
        offset += np.clip(step, -0.5, 0.5)
    offset = np.clip(offset, -2.0, 2.0)
    model, flux, sky, _ = _fit_each(clean, variance, cuts.bad, psf, cuts.half, offset, fwhm)
    safe = np.where(flux > 0, flux, 1.0)[:, None, None]
    unit = (clean - sky[:, None, None]) / safe
    unit = np.where(cuts.bad, model, unit)
    error2 = variance / safe**2 + (_MODEL_ERROR * model) ** 2
    grid = np.arange(-cuts.half, cuts.half + 1)
    core = (np.hypot(*np.meshgrid(grid, grid, indexing="ij")) < 1.2 * fwhm)[None] & ~cuts.bad
    misfit = np.where(core, (unit - model) ** 2 / error2, 0.0).sum((1, 2))
    chi2 = np.where(flux > 0, misfit / np.maximum(core.sum((1, 2)) - 4, 1), np.inf)
    shifted = _fourier_shift(unit, -offset)
    holes = _fourier_round(cuts.bad, -offset)
    centred = _at(psf, cuts.half, *np.zeros((2, 1)))
    weight = np.where(holes, 0.0, 1.0 / (variance / safe**2 + (_MODEL_ERROR * centred) ** 2))
    weight[flux <= 0] = 0.0
    inner = slice(_MARGIN, -_MARGIN)
    return shifted[:, inner, inner], weight[:, inner, inner], offset, chi2


def _fit_each(
    clean: np.ndarray,
    variance: np.ndarray,
    bad: np.ndarray,
    psf: np.ndarray,
    half: int,
    offset: np.ndarray,
    fwhm: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Linear fit of flux, shift and constant to each window; returns model (unit flux), flux, sky, shift."""
    model = _at(psf, half, offset[:, 0], offset[:, 1])
    slope_y, slope_x = np.gradient(model, axis=1), np.gradient(model, axis=2)
    peak = np.maximum((clean * model).sum((1, 2)) / (model**2).sum((1, 2)), 0.0)
    error2 = variance + (_MODEL_ERROR * peak[:, None, None] * model) ** 2
    weight = np.where(bad, 0.0, 1.0 / error2)
    columns = np.stack([model, -slope_y, -slope_x, np.ones_like(model)], axis=-1)
    normal = np.einsum("mabp,mab,mabq->mpq", columns, weight, columns, optimize=True)
    right = np.einsum("mabp,mab,mab->mp", columns, weight, clean, optimize=True)
    ridge = 1e-10 * np.einsum("mpp->mp", normal)[:, :, None] * np.eye(4) + 1e-300 * np.eye(4)
    solution = np.linalg.solve(normal + ridge, right[:, :, None])[:, :, 0]
    flux, sky = solution[:, 0], solution[:, 3]
    shift = solution[:, 1:3] / np.where(flux > 0, flux, np.inf)[:, None]
    return model, flux, sky, shift


def _fourier_shift(stamps: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Shift each (s, s) stamp by offset (y, x) with a Fourier phase; the edge is the margin's concern."""
    s = stamps.shape[1]
    fy, fx = np.fft.fftfreq(s), np.fft.rfftfreq(s)
    dy, dx = offset[:, 0, None, None], offset[:, 1, None, None]
    phase = np.exp(-2j * np.pi * (fy[None, :, None] * dy + fx[None, None, :] * dx))
    return np.fft.irfft2(np.fft.rfft2(stamps) * phase, (s, s))


def _fourier_round(holes: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Return bad pixels after the shift: the pixels a bad one reaches."""
    if not holes.any():
        return holes
    grown = holes.copy()
    for axis in (1, 2):
        grown |= np.roll(grown, 1, axis=axis) | np.roll(grown, -1, axis=axis)
    large = np.abs(offset).max(axis=1) > 0.05
    return np.where(large[:, None, None], grown, holes)


def _inliers(chi2: np.ndarray) -> np.ndarray:
    """Return which stars fit: chi-squared not far above the median's, at least half of them."""
    finite = np.isfinite(chi2)
    if finite.sum() < 4:
        return finite if finite.any() else np.ones_like(finite)
    middle = np.median(chi2[finite])
    spread = 1.4826 * np.median(np.abs(chi2[finite] - middle))
    return finite & (chi2 <= max(middle + 4.0 * spread, 1.5 * middle))


def _average(stamps: np.ndarray, weight: np.ndarray, psf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weighted mean with Huber weights about the pixel's median, and its error from the scatter."""
    if len(stamps) >= 5:
        middle = np.median(stamps, axis=0)
        residual = np.abs(stamps - middle) * np.sqrt(weight)
        weight = weight * np.minimum(1.0, 2.5 / np.maximum(residual, 1e-12))
    total = weight.sum(axis=0)
    mean = np.where(total > 0, (weight * stamps).sum(axis=0) / np.where(total > 0, total, 1.0), psf)
    formal = 1.0 / np.where(total > 0, total, 1.0)
    if len(stamps) >= 5:
        seen = (weight**2 * (stamps - mean) ** 2).sum(axis=0) / np.where(total > 0, total, 1.0) ** 2
        n = len(stamps)
        formal = _radial_mean(seen, total > 0) * n / (n - 1)
    return mean, np.where(total > 0, np.sqrt(formal), np.inf)


def _radius(shape: tuple[int, int]) -> np.ndarray:
    y, x = np.arange(shape[0]) - shape[0] // 2, np.arange(shape[1]) - shape[1] // 2
    return np.hypot(y[:, None], x[None, :])


def _radial_mean(values: np.ndarray, use: np.ndarray) -> np.ndarray:
    """Return the azimuthal mean in rings one pixel wide, at each pixel."""
    ring = np.rint(_radius(values.shape)).astype(int)
    n = np.bincount(ring[use], minlength=ring.max() + 1)
    total = np.bincount(ring[use], weights=values[use], minlength=ring.max() + 1)
    mean = total / np.maximum(n, 1)
    overall = values[use].mean() if use.any() else 0.0
    return np.where(n > 0, mean, overall)[ring]


def _blend(mean: np.ndarray, profile: np.ndarray, error: np.ndarray, fwhm: float) -> tuple[np.ndarray, float]:
    """Return mean where it says more than its noise, the profile where it does not.

    Per ring the departure from the profile is shrunk by (Stein) 1 - noise² / departure²; outside one FWHM the factor
    may only fall with radius. Also returns the radius at which it falls below a half.
    """
    radius = _radius(mean.shape)
    departure = np.where(np.isfinite(error), mean - profile, 0.0)
    use = np.isfinite(error)
    power, noise = _radial_mean(departure**2, use), _radial_mean(np.where(use, error, 0.0) ** 2, use)
    factor = np.clip(1.0 - noise / np.maximum(power, 1e-300), 0.0, 1.0)
    rings = np.rint(radius).astype(int)
    steps = np.zeros(rings.max() + 1)
    steps[rings.ravel()] = factor.ravel()
    steps = np.convolve(np.pad(steps, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")
    inner = max(1, round(fwhm))
    if inner < len(steps):
        steps[inner:] = np.minimum.accumulate(steps[inner:])
        # A ring or two beyond may be trusted only as far as it stands out; the tail of chance is cut.
        steps[inner:] = np.where(steps[inner:] < 0.2, 0.0, steps[inner:])
    smooth = np.interp(radius, np.arange(len(steps)), steps)
    reach = float(np.max(radius[smooth > 0.5], initial=0.0))
    return profile + smooth * departure, reach


def _finish(stamp: np.ndarray) -> np.ndarray:
    """Taper the border, centre, normalise."""
    half = stamp.shape[0] // 2
    radius = _radius(stamp.shape)
    taper = np.clip((half + 0.5 - radius) / max(0.1 * half, 1.5), 0.0, 1.0)
    tapered = stamp * np.sin(0.5 * np.pi * taper) ** 2
    for _ in range(3):
        y, x = centroid_of(tapered)
        shift = np.array([[half - y, half - x]])
        if np.abs(shift).max() < 0.003:
            break
        tapered = _fourier_shift(tapered[None], shift)[0]
    return tapered / tapered.sum()
