"""Sources that hide in the wings of the stars that a PSF is averaged from: a star against the others and itself."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

__all__ = ["intruders"]

_SURE = 5.0
"""Standard errors; there are some hundred places about a star, and ten stars at most that are tested."""
_AGREED = 2.5  # standard errors by which the other stars alone must lack what this one shows
_SAME = 0.5  # of a peak; what is as high on the other side of a star too belongs to its shape
_LEVERAGE = 0.1
"""Share of the weight off the core from which a star can put a source of its own into the mean."""
_CORE = 1.1  # FWHM; nearer than this a companion is not told from the shape of the star
_REACH = 1.2  # FWHM about a source within which its light is kept out
_MODEL = 0.03  # of the PSF's own value and over wide areas: what PSFs of two places differ by besides width and shear
_ROUNDS = 4  # sources of one star that are found, the brightest first
_SEEN = 0.3  # least share of a source's light, squared, that has to fall on usable pixels
_FEW = 8  # pixels; a ring with fewer says nothing
_SIGMA = 2.354820045  # FWHM of a Gaussian


class _Plan(NamedTuple):
    """What depends on the size of the stamps and the FWHM alone.

    `along` (k, k) applies a Gaussian of unit integral along one axis, `square` its square, whose integral is `norm`;
    `off` (k, k) are the pixels off the core; `members` (rings, longest) the flat indices of those of each ring about
    the star, and `real` which of them are no padding.
    """

    along: np.ndarray
    square: np.ndarray
    norm: float
    off: np.ndarray
    members: np.ndarray
    real: np.ndarray


class _Light(NamedTuple):
    """The flux of a point source at every pixel of a stack, and the variance of its noise, inf where unseen."""

    flux: np.ndarray
    variance: np.ndarray


def intruders(stars: np.ndarray, weight: np.ndarray, psf: np.ndarray, fwhm: float) -> np.ndarray:
    r"""Find point sources that one star has and the others do not, and say which pixels to leave out.

    A star that is much brighter than the others rules their weighted mean, and whatever faint source lies in its wings
    becomes part of the PSF: robust weights do not see it, since the other stars are too noisy to outvote it pixel by
    pixel. Here the light at each place of a star k that matters is held against what two witnesses expect there: the
    mean of the other stars, and the median of this star's own light at that radius. For either the residual d of the
    star, less flux, centre, width, shear and sky, in which stars may differ, goes through the matched filter

    .. math:: a = \frac{\sum g d / V}{\sum g^2 / V}, \qquad V = 1 / w_k + 1 / \sum_{j \ne k} w_j

    (:math:`V = 1 / w_k` for the star by itself), g a Gaussian of this FWHM. What the first witness says errs by the
    noise of the other stars and 3 % of the PSF's own light at the place, the second by the scatter along the ring: by
    how far the PSF is from round. The two are averaged with these errors. A source is a peak off the core that stands
    five errors above them, the star's own noise included, and 2.5 above the other stars alone, and that is not half as
    high on the opposite side. Where a map scatters by more than its errors they are raised to that: noise of resampled
    pixels is not white.

    Parameters
    ----------
    stars, weight : float64 array, shape (m, k, k), k odd
        Stars of unit flux on the middle pixel, and inverse variances, 0 for a pixel that is not to be used. Weights may
        allow for an error of the model.
    psf : float64 array, shape (k, k)
        About that of the stars; only its radial profile is used, by medians, so it may hold the sources.
    fwhm : float
        Of the stars, pixels.

    Returns
    -------
    bool array, shape (m, k, k)
        The pixels within 1.2 FWHM of such a source: to be given no weight in that star.

    Notes
    -----
    Stars that hold less than a tenth of the weight off the core are not tested: the mean hardly hears them. A star by
    itself keeps all its pixels. The Gaussian underestimates the flux of a source with wings, as it does its noise.
    Cost: O(k³) for each of the nine stars at most that are tested, for each source found in the same one once more.
    """
    mask = np.zeros(stars.shape, bool)
    plan = _plan(psf.shape[0], float(fwhm))
    tested = _with_leverage(weight, plan.off)
    if len(stars) < 2 or tested.size == 0:
        return mask
    profile = _profile(psf)
    columns = _columns(profile)
    for _ in range(_ROUNDS):
        free = np.where(mask, 0.0, weight)
        own = _light(_flattened(stars[tested], free[tested], columns), free[tested], plan)
        rest, inverse = _against_others(stars, free, tested)
        others = _light(_flattened(rest, inverse, columns), inverse, plan)
        model = _MODEL * _light(np.broadcast_to(profile, rest.shape), inverse, plan).flux
        found = _peaks(*_significance(own, others, model, plan), plan, fwhm)
        if not found.any():
            break
        mask[tested] |= found
    return mask


@lru_cache(maxsize=8)  # the rounds of one PSF ask for the same
def _plan(side: int, fwhm: float) -> _Plan:
    sigma = fwhm / _SIGMA
    step = np.arange(side, dtype=float)
    along = np.exp(-0.5 * ((step[:, None] - step) / sigma) ** 2) / (np.sqrt(2 * np.pi) * sigma)
    radius = _radius(side)
    off = radius > _CORE * fwhm
    ring = np.rint(radius / max(1.0, fwhm / 4)).astype(int)
    pixels = [np.flatnonzero(off & (ring == k)) for k in np.unique(ring[off])]
    members = np.zeros((len(pixels), max(map(len, pixels), default=0)), int)
    real = np.zeros(members.shape, bool)
    for k, here in enumerate(pixels):
        members[k, : len(here)], real[k, : len(here)] = here, True
    return _Plan(along, along**2, 1.0 / (4 * np.pi * sigma**2), off, members, real)


def _radius(side: int) -> np.ndarray:
    step = np.arange(side, dtype=float) - side // 2
    return np.hypot(step[:, None], step)


def _with_leverage(weight: np.ndarray, off: np.ndarray) -> np.ndarray:
    """Return the stars that hold more than a tenth of all weight off the core."""
    share = weight.reshape(len(weight), off.size) @ off.ravel().astype(float)
    return np.flatnonzero(share > _LEVERAGE * max(float(share.sum()), 1e-300))


def _profile(psf: np.ndarray) -> np.ndarray:
    """Return a PSF made round: the median of each ring one pixel wide, interpolated in radius."""
    radius = _radius(len(psf))
    ring = np.rint(radius).astype(int)
    rings = [ring == k for k in range(ring.max() + 1)]
    return np.interp(radius, [radius[r].mean() for r in rings], [np.median(psf[r]) for r in rings])


def _columns(profile: np.ndarray) -> np.ndarray:
    """Return what a star may differ by, (7, k²), unit vectors: flux, shifts, a change of width, two of shear, sky."""
    slope_y, slope_x = np.gradient(profile)
    step = np.arange(len(profile), dtype=float) - len(profile) // 2
    y, x = step[:, None], step[None, :]
    shapes = (y * slope_y + x * slope_x, x * slope_x - y * slope_y, x * slope_y + y * slope_x)
    flat = np.stack([profile, slope_y, slope_x, *shapes, np.ones_like(profile)]).reshape(7, -1)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-300)


def _flattened(values: np.ndarray, inverse: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return stamps (n, k, k) less their least-squares fit by the columns, weighted by the inverse variance."""
    weight = inverse.reshape(len(values), -1)
    weight = weight / np.maximum(weight.max(axis=1, keepdims=True), 1e-300)
    normal = (weight[:, None, :] * columns) @ columns.T + 1e-12 * np.eye(len(columns))
    right = (weight * values.reshape(len(values), -1)) @ columns.T
    solution = np.linalg.solve(normal, right[:, :, None])[:, :, 0]
    return values - (solution @ columns).reshape(values.shape)


def _against_others(stars: np.ndarray, weight: np.ndarray, tested: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return stars less the mean of all others, and the inverse variance of that, 0 where either is unknown."""
    total, sums, own = weight.sum(axis=0), (weight * stars).sum(axis=0), weight[tested]
    others = np.maximum(total - own, 0.0)
    known = (own > 0) & (others > 1e-9 * total)
    safe = np.where(known, others, 1.0)
    rest = np.where(known, stars[tested] - (sums - own * stars[tested]) / safe, 0.0)
    return rest, np.where(known, own * safe / (own + safe), 0.0)


def _light(values: np.ndarray, inverse: np.ndarray, plan: _Plan) -> _Light:
    """Return the matched filter of stamps (n, k, k) at every pixel."""
    norm = plan.square @ inverse @ plan.square
    seen = plan.square @ (inverse > 0).astype(float) @ plan.square
    usable = (seen > _SEEN * plan.norm) & (norm > 0)
    safe = np.where(usable, norm, 1.0)
    return _Light(plan.along @ (values * inverse) @ plan.along / safe, np.where(usable, 1.0 / safe, np.inf))


def _significance(own: _Light, others: _Light, model: np.ndarray, plan: _Plan) -> tuple[np.ndarray, np.ndarray]:
    """Return by how many errors a star is above both witnesses together, and above the other stars; -inf if unseen."""
    seen = np.isfinite(own.variance) & np.isfinite(others.variance)
    noise = np.where(seen, own.variance, 1.0)
    theirs = np.where(seen, np.maximum(others.variance - noise, 0.0), 1.0) + model**2
    level, scatter = _along_rings(np.where(seen, own.flux, np.nan), plan)
    share = 1.0 / (1.0 + theirs / np.maximum(scatter**2, 1e-300))  # of the other stars in what is expected
    excess = share * others.flux + (1.0 - share) * (own.flux - level)
    both, alone = excess / np.sqrt(noise + theirs * share), others.flux / np.sqrt(noise + theirs)
    return _scaled(both, seen, plan), _scaled(alone, seen, plan)


def _scaled(significance: np.ndarray, seen: np.ndarray, plan: _Plan) -> np.ndarray:
    """Return maps over their robust scatter off the core where that is above 1, -inf where nothing is seen."""
    scatter = _median(np.where(seen, np.abs(significance), np.nan)[:, plan.off]) / 0.6745
    return np.where(seen, significance / np.fmax(scatter, 1.0)[:, None, None], -np.inf)


def _along_rings(flux: np.ndarray, plan: _Plan) -> tuple[np.ndarray, np.ndarray]:
    """Return the median and the robust scatter of each ring, at each pixel; the scatter inf where it is not known."""
    n, side = flux.shape[:2]
    values = np.where(plan.real, flux.reshape(n, -1)[:, plan.members], np.nan)
    middle = _median(values)
    spread = _median(np.abs(values - middle[..., None])) / 0.6745
    few = np.isfinite(values).sum(axis=-1) < _FEW
    level, scatter = np.zeros((n, side * side)), np.full((n, side * side), np.inf)
    ring, where = np.nonzero(plan.real)[0], plan.members[plan.real]
    level[:, where], scatter[:, where] = np.where(few, 0.0, middle)[:, ring], np.where(few, np.inf, spread)[:, ring]
    return level.reshape(flux.shape), scatter.reshape(flux.shape)


def _median(values: np.ndarray) -> np.ndarray:
    """Return medians along the last axis of what is not NaN, the lower one of two; NaN if there is nothing."""
    count = np.isfinite(values).sum(axis=-1)
    middle = np.maximum((count - 1) // 2, 0)[..., None]
    return np.take_along_axis(np.sort(values, axis=-1), middle, axis=-1)[..., 0]  # sorted, NaN are last


def _peaks(both: np.ndarray, alone: np.ndarray, plan: _Plan, fwhm: float) -> np.ndarray:
    """Return the pixels about the highest point off the core of each star, where that is a source; (n, k, k)."""
    n, side = both.shape[:2]
    rows = np.arange(n)
    place = np.where(plan.off, both, -np.inf).reshape(n, -1).argmax(axis=1)
    here, there = both.reshape(n, -1)[rows, place], both[:, ::-1, ::-1].reshape(n, -1)[rows, place]
    lacking = alone.reshape(n, -1)[rows, place]
    real = plan.off.ravel()[place] & (here > _SURE) & (lacking > _AGREED) & (there < _SAME * here)
    step = np.arange(side)
    dy, dx = step - (place // side)[:, None], step - (place % side)[:, None]
    near = dy[:, :, None] ** 2 + dx[:, None, :] ** 2 <= (_REACH * fwhm) ** 2
    return near & real[:, None, None]  # type: ignore[no-any-return]
