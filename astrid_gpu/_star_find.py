"""A light star finder for registration: where the compact sources are, and how well that is known.

Made for positions alone: brightest first, blends, cosmic rays and masked stars left out rather than measured.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from astrid_gpu._host_ops import host_op
from astrid_gpu.ops.mask import places_of
from astrid_gpu.ops.noise import smooth_good

__all__ = ["Stars", "find_stars"]

_FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))
# Window of the centroid over the star's sigma. Neighbours ask for a narrow one, stars trailed or lopsided in one
# image only for a wide one; on the SAAO crowded series 1.0 costs 0.05 px on a trailed frame, 1.5 doubles the scatter.
_WINDOW = 1.2
_DETECTION = 6.0  # sigma of the smoothed image; a blank megapixel has 0.002 such peaks


class Stars(NamedTuple):
    """Stars, brightest first: positions (n,), flux in the window, 1-sigma position error per axis; typical FWHM, px."""

    y: np.ndarray
    x: np.ndarray
    flux: np.ndarray
    error: np.ndarray
    fwhm: float


def find_stars(
    data: np.ndarray, bad: np.ndarray, *, max_stars: int = 200, fwhm: float | None = None, gain: float | None = None
) -> Stars:
    """Find the brightest compact sources of an image.

    Peaks of the image smoothed by its own PSF width, refined by the Gaussian-windowed centroid (SExtractor's XWIN):
    unbiased by neighbours further than about one FWHM and within a few per cent of the best possible precision.

    Parameters
    ----------
    data : array, shape (ny, nx)
        Counts, with or without sky.
    bad : array of bool, shape (ny, nx)
        Pixels not to trust, saturated ones included. Stars with one within an FWHM of their centre are left out.
    max_stars : int
        Most stars returned.
    fwhm : float, optional
        Of the PSF in pixels; measured if not given.
    gain : float, optional
        Electrons a count, for the position errors of bright stars.

    Returns
    -------
    Stars
        May be empty. Cost: a few Gaussian filters of the image.
    """
    if min(data.shape) < 8 or bad.all():
        return _none(fwhm)
    flat, rms = _flatten(data, bad)
    if not rms > 0:
        return _none(fwhm)
    sigma = (fwhm or 3.0) / _FWHM_PER_SIGMA
    # The width found with a wrong window is a little wrong itself; two rounds bring it to a per cent.
    # The middle of a large frame is enough for that.
    part = tuple(slice(max(0, n // 2 - 512), n // 2 + 512) for n in flat.shape)
    for _ in range(0 if fwhm else 2):
        y, x = _peaks(flat[part], bad[part], sigma, 60)
        _, _, _, width, good = _centroids(flat[part], y, x, sigma)
        # Cosmic rays are a lower tail of widths and galaxies an upper one: the median of the best half is a star's.
        if good.sum() < 1:
            break
        sigma = float(np.clip(np.median(width[good]), 0.5, 12.0))
    y, x = _peaks(flat, bad, sigma, 3 * max_stars)
    cy, cx, total, width, good = _centroids(flat, y, x, _WINDOW * sigma)
    if good.any():
        typical = np.median(width[good][: max(5, good.sum() // 2)])
        good &= (width > 0.6 * typical) & (width < 1.8 * typical)
    share = _WINDOW**2 / (1 + _WINDOW**2)
    cy, cx, flux = cy[good], cx[good], total[good] / share
    order = np.argsort(-flux, kind="stable")[:max_stars]
    cy, cx, flux = cy[order], cx[order], flux[order]
    return Stars(cy, cx, flux, _errors(flux, sigma, rms, gain), sigma * _FWHM_PER_SIGMA)


def _none(fwhm: float | None) -> Stars:
    empty = np.zeros(0)
    return Stars(empty, empty, empty, empty, fwhm or float("nan"))


def _flatten(data: np.ndarray, bad: np.ndarray) -> tuple[np.ndarray, float]:
    """Subtract a coarse clipped-median sky, put 0 in bad pixels; also the rms of the sky from absolute deviations."""
    ny, nx = data.shape
    box = max(16, min(64, min(ny, nx) // 2), min(ny, nx) // 20)
    counts = [max(1, round(n / box)) for n in (ny, nx)]
    edges = [np.linspace(0, n, count + 1).astype(int) for n, count in zip((ny, nx), counts, strict=True)]
    mesh = np.full(counts, np.nan)
    for j in range(counts[0]):
        for i in range(counts[1]):
            cell = (slice(edges[0][j], edges[0][j + 1]), slice(edges[1][i], edges[1][i + 1]))
            values = _good_part(data[cell], bad[cell], 1024)
            if values.size >= 20:
                mesh[j, i] = _clipped_median(values)
    mesh = np.where(np.isfinite(mesh), mesh, np.nanmedian(mesh)) if np.isfinite(mesh).any() else np.zeros(counts)
    around = np.lib.stride_tricks.sliding_window_view(np.pad(mesh, 1, mode="edge"), (3, 3))
    mesh = np.median(around, axis=(2, 3))
    centres = [(edge[1:] + edge[:-1] - 1) / 2 for edge in edges]
    rows, columns = (np.interp(np.arange(n), c, np.arange(c.size)) for n, c in zip((ny, nx), centres, strict=True))
    flat = _less(data, bad, _between(mesh.T, columns).T, rows)
    return flat, _spread(_good_part(flat, bad))


def _less(data: np.ndarray, bad: np.ndarray, lines: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Subtract a sky given at some rows, at `rows` in between, and put 0 in bad pixels; some rows at a time."""
    kind = data.dtype if data.dtype.kind == "f" else np.dtype(np.float64)
    flat = np.empty(data.shape, kind)
    for first in range(0, len(rows), 32):
        part = slice(first, first + 32)
        np.subtract(data[part], _between(lines, rows[part]).astype(kind), out=flat[part])
        np.copyto(flat[part], 0, where=bad[part])
    return flat


def _good_part(image: np.ndarray, bad: np.ndarray, most: int = 200_000) -> np.ndarray:
    """Good pixels, of a large image those of a regular grid: enough for a median to a hundredth of the width."""
    step = max(1, int(np.ceil(np.sqrt(image.size / most))))
    values = image[::step, ::step][~bad[::step, ::step]]
    return (values if values.size >= min(20, image.size) else image[~bad]).astype(float)


def _spread(values: np.ndarray) -> float:
    """Robust standard deviation; of photon-counting images, where most pixels are equal, the clipped one."""
    deviations = np.abs(values - np.median(values))
    robust = 1.4826 * float(np.median(deviations))
    return robust if robust > 0 else float(values[deviations <= 5 * values.std()].std())


def _between(mesh: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Linear interpolation along the first axis at fractional rows."""
    low = np.minimum(rows.astype(int), mesh.shape[0] - 1)
    high = np.minimum(low + 1, mesh.shape[0] - 1)
    return mesh[low] + (rows - low)[:, None] * (mesh[high] - mesh[low])


def _clipped_median(values: np.ndarray) -> float:
    """Median after three rounds of clipping 3 sigma above and below; sigma from below, where no star is."""
    ordered = np.sort(values)
    low, high = 0, ordered.size
    for _ in range(3):
        middle = ordered[(low + high) // 2]
        reach = 3 * (middle - ordered[low + int(0.1587 * (high - low))])
        if reach == 0:
            break
        low = int(np.searchsorted(ordered, middle - reach))
        high = int(np.searchsorted(ordered, middle + reach, side="right"))
    return 0.5 * float(ordered[(low + high) // 2] + ordered[(low + high - 1) // 2])


def _peaks(flat: np.ndarray, bad: np.ndarray, sigma: float, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Local maxima of the smoothed image above the threshold, highest first, away from bad pixels and edges."""
    smooth = host_op("smooth_good", smooth_good)(flat, np.zeros(flat.shape, bool), sigma, 1.0)
    values = _good_part(smooth, bad)
    middle, spread = np.median(values), _spread(values)
    radius, margin = max(2, round(1.5 * sigma)), max(2, round(2 * sigma))
    inner = smooth[margin:-margin, margin:-margin]
    y, x = (index + margin for index in places_of(inner > middle + _DETECTION * spread))
    y, x = _highest(smooth, y, x, radius)
    if bad.any():
        near = max(1, round(1.2 * sigma))
        spoilt = np.zeros(y.size, bool)
        for j, i in _offsets(near):
            spoilt |= bad[np.clip(y + j, 0, bad.shape[0] - 1), np.clip(x + i, 0, bad.shape[1] - 1)]
        y, x = y[~spoilt], x[~spoilt]
    order = np.argsort(-smooth[y, x], kind="stable")[:limit]
    return y[order], x[order]


def _offsets(reach: int) -> list[tuple[int, int]]:
    """Return the places of a square window, nearest to its middle first."""
    side = range(-reach, reach + 1)
    return sorted(((j, i) for j in side for i in side), key=lambda place: place[0] ** 2 + place[1] ** 2)


def _highest(image: np.ndarray, y: np.ndarray, x: np.ndarray, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Return those places at which no pixel within `reach` along either axis is higher."""
    ny, nx = image.shape
    for j, i in _offsets(reach):  # most places fall at the first few comparisons
        neighbour = image[np.clip(y + j, 0, ny - 1), np.clip(x + i, 0, nx - 1)]
        still = image[y, x] >= neighbour
        y, x = y[still], x[still]
    return y, x


def _centroids(
    flat: np.ndarray, y: np.ndarray, x: np.ndarray, sigma: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Windowed centroids of all peaks at once: y, x, flux in the window, Gaussian width, converged."""
    reach = max(3, int(np.ceil(3.5 * sigma)))
    side = np.arange(-reach, reach + 1)
    padded = np.pad(flat, reach)
    stamps = padded[y[:, None, None] + side[:, None] + reach, x[:, None, None] + side + reach]
    dy, dx = np.zeros(y.size), np.zeros(y.size)
    for _ in range(12):
        v, u, window = _window(side, dy, dx, sigma)
        weighted = window * stamps
        total = weighted.sum(axis=(1, 2))
        safe = np.where(total > 0, total, np.inf)
        step_y, step_x = (2 * (weighted * t).sum(axis=(1, 2)) / safe for t in (v, u))
        dy, dx = (np.clip(d + s, -reach, reach) for d, s in ((dy, step_y), (dx, step_x)))
    v, u, window = _window(side, dy, dx, sigma)
    weighted = window * stamps
    total = weighted.sum(axis=(1, 2))
    safe = np.where(total > 0, total, np.inf)
    # Second moment in a Gaussian window of width s: 1 / m = 1 / sigma_star^2 + 1 / s^2.
    moment = 0.5 * (weighted * (v**2 + u**2)).sum(axis=(1, 2)) / safe
    inverse = 1 / np.maximum(moment, 1e-3) - 1 / sigma**2
    width = np.sqrt(1 / np.maximum(inverse, 1e-4))
    still = np.hypot(step_y, step_x) < 0.01
    good = (total > 0) & still & (np.hypot(dy, dx) < 1.5 + sigma) & (inverse > 1e-3)
    return y + dy, x + dx, total, width, good


def _window(
    side: np.ndarray, dy: np.ndarray, dx: np.ndarray, sigma: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates about each centre and the Gaussian window there, all broadcastable to (n, side, side)."""
    v = side[None, :, None] - dy[:, None, None]
    u = side[None, None, :] - dx[:, None, None]
    return v, u, np.exp(-0.5 * (v**2 + u**2) / sigma**2)


def _errors(flux: np.ndarray, sigma: float, rms: float, gain: float | None) -> np.ndarray:
    """Error per axis of the windowed centroid of a Gaussian star: sky noise and photon noise in quadrature."""
    share = _WINDOW**2 / (1 + _WINDOW**2)
    sky = np.sqrt(np.pi / 2) * (_WINDOW * sigma) ** 2 * rms / (share**2 * np.maximum(flux, 1e-30))
    photon = sigma / np.sqrt(np.maximum(flux * gain, 1e-30)) if gain else 0.0
    return np.hypot(sky, photon)
