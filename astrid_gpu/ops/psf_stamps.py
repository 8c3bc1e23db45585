"""PSF stamps: normalise, find the centre, recentre by a Fourier phase, measure the width, make model ones.

A usable stamp has odd sides, is centred on its middle pixel and sums to 1. Negative wings are kept. All here is
float64 on the host: stamps are tiny, and what is done to them once is felt in every pixel of a difference.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from astrid_gpu.errors import PsfError
from astrid_gpu.ops.fourier import shift_phase

__all__ = [
    "MAX_OFFSET",
    "centre_psf",
    "centre_stamps",
    "centroid_of",
    "ellipticity_of",
    "fwhm_of",
    "gaussian_stamp",
    "moffat_stamp",
    "normalise_psf",
    "prepare_psf",
    "resize_odd",
    "with_fwhm",
]

MAX_OFFSET = 0.1
"""Largest distance in pixels of a PSF's centroid from its middle pixel along either axis."""

_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))  # FWHM of a Gaussian of sigma 1
_RAMP = 0.2  # of the peak: no step of a tenth of a pixel changes a PSF by more


def normalise_psf(stamp: Any, *, name: str = "psf") -> np.ndarray:
    """Return a stamp as a finite float64 array that sums to 1.

    Raises
    ------
    PsfError
        Not two-dimensional, smaller than 3x3, not numbers, not finite, or of a sum that is not positive.
    """
    array = np.asarray(stamp)
    if array.ndim != 2 or min(array.shape) < 3:
        msg = f"{name} must be a two-dimensional stamp of at least 3x3 pixels, got shape {array.shape}"
        raise PsfError(msg)
    if array.dtype.kind not in "fiub":
        msg = f"{name} must hold real numbers, got dtype {array.dtype}"
        raise PsfError(msg)
    values = array.astype(np.float64)
    n_bad = int(values.size - np.isfinite(values).sum())
    if n_bad:
        msg = f"{name} holds {n_bad} NaN or infinite pixels of {values.size}; replace them (0 in the far wings) first"
        raise PsfError(msg)
    total = values.sum()
    if not total > 1e-12 * np.abs(values).sum():
        msg = f"{name} sums to {total:.3g}; a PSF must have a positive sum. Is a background subtracted twice?"
        raise PsfError(msg)
    return values / total


def centroid_of(stamp: np.ndarray, *, n_iter: int = 60, fwhm: float | None = None) -> tuple[float, float]:
    """Return the centroid (y, x) in pixels, weighted by a Gaussian as wide as the PSF itself, or of `fwhm`.

    The windowed centroid, as SExtractor's XWIN: the start is the brightest pixel, each step moves the window by
    twice the weighted mean offset, until it moves by less than 1e-7 px. Noise in the wings hardly counts; for a
    symmetric PSF it is the centre of symmetry to rounding.
    """
    y, x = (float(v) for v in np.unravel_index(np.argmax(stamp), stamp.shape))
    sigma = max((fwhm_of(stamp) if fwhm is None else fwhm) / _SIGMA, 0.6)
    rows, columns = np.arange(stamp.shape[0]), np.arange(stamp.shape[1])
    for _ in range(n_iter):
        wy = np.exp(-0.5 * ((rows - y) / sigma) ** 2)
        wx = np.exp(-0.5 * ((columns - x) / sigma) ** 2)
        total = wy @ stamp @ wx
        if total <= 0:
            break
        step_y = 2.0 * ((wy * (rows - y)) @ stamp @ wx) / total
        step_x = 2.0 * (wy @ stamp @ (wx * (columns - x))) / total
        y, x = y + step_y, x + step_x
        if abs(step_y) + abs(step_x) < 1e-7:
            break
    return float(y), float(x)


def fwhm_of(stamp: np.ndarray) -> float:
    """Return the full width at half maximum in pixels: the diameter of the circle with the area above half peak.

    The core is interpolated by a quintic spline on a grid that is 10 times finer, so that the area is not counted
    in whole pixels; the answer includes the smearing by the pixel, as a width measured on an image does.
    """
    stamp = np.asarray(stamp, dtype=np.float64)
    py, px = (int(v) for v in np.unravel_index(np.argmax(stamp), stamp.shape))
    rough = 2.0 * np.sqrt((stamp >= 0.5 * stamp[py, px]).sum() / np.pi)
    half = int(np.ceil(rough)) + 2
    y0, y1 = max(py - half, 0), min(py + half, stamp.shape[0] - 1)
    x0, x1 = max(px - half, 0), min(px + half, stamp.shape[1] - 1)
    core = stamp[max(y0 - 8, 0) : y1 + 9, max(x0 - 8, 0) : x1 + 9]  # a spline forgets in a few pixels
    step = max(y1 - y0, x1 - x0) / 300.0 if half > 15 else 0.1
    rows = _quintic(core.shape[0], y0 - max(y0 - 8, 0), y1 - y0, step)
    columns = _quintic(core.shape[1], x0 - max(x0 - 8, 0), x1 - x0, step)
    fine = rows @ core @ columns.T
    peak = max(fine.max(), stamp[py, px])
    # A pixel of the fine grid near the half level counts by how far above it is: a linear ramp one step wide.
    level = fine - 0.5 * peak
    y, x = np.nonzero(np.abs(level) < _RAMP * peak)
    slope = np.hypot(_slope(fine, y, x), _slope(fine.T, x, y))
    ramp = np.clip(0.5 + level[y, x] / np.maximum(slope, 1e-12 * peak), 0.0, 1.0)
    area = np.count_nonzero(level >= _RAMP * peak) + ramp.sum()
    return float(2.0 * step * np.sqrt(area / np.pi))


def _slope(values: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the slope along the first axis at pixels, one-sided on the border."""
    up, down = np.minimum(y + 1, values.shape[0] - 1), np.maximum(y - 1, 0)
    return (values[up, x] - values[down, x]) / np.maximum(up - down, 1)  # type: ignore[no-any-return]


@lru_cache(maxsize=32)  # stamps of one image are of one size, and peak in the middle
def _quintic(n: int, first: int, length: int, step: float) -> np.ndarray:
    """Return the matrix (m, n) that takes n samples, mirrored at both ends, to their quintic spline in steps.

    As `scipy.ndimage.map_coordinates`, which is slower to import than a pair is to subtract. The basis is
    B(t) = sum_k (-1)^k C(6, k) max(3 - |t| - k, 0)^5 / 120 over k = 0, 1, 2; the samples fix its coefficients.
    """

    def basis(at: np.ndarray) -> np.ndarray:
        knots = np.floor(at).astype(int)[:, None] + np.arange(-2, 4)
        inside = 3.0 - np.abs(at[:, None] - knots)
        values = sum(c * np.maximum(inside - k, 0.0) ** 5 for k, c in enumerate((1, -6, 15))) / 120
        out = np.zeros((len(at), n))
        mirrored = np.abs((knots + n - 1) % max(2 * n - 2, 1) - (n - 1))
        np.add.at(out, (np.arange(len(at))[:, None], mirrored), values)
        return out

    places = first + np.arange(0.0, length + step / 2, step)
    matrix = basis(places) @ np.linalg.inv(basis(np.arange(n, dtype=float)))
    matrix.setflags(write=False)
    return matrix  # type: ignore[no-any-return]


def resize_odd(stamp: np.ndarray, middle: tuple[int, int], shape: tuple[int, int] | None = None) -> np.ndarray:
    """Return an odd-sided stamp whose middle pixel is pixel `middle` of the old one, padded with zeros or cut.

    Without `shape` nothing is lost: the sides become just large enough for the old stamp. Even numbers in `shape`
    are raised by one.
    """
    (my, mx), (ny, nx) = middle, stamp.shape
    if shape is None:
        hy, hx = max(my, ny - 1 - my), max(mx, nx - 1 - mx)
    else:
        hy, hx = int(shape[0]) // 2, int(shape[1]) // 2
    out = np.zeros((2 * hy + 1, 2 * hx + 1), dtype=stamp.dtype)
    y0, y1 = max(my - hy, 0), min(my + hy + 1, ny)
    x0, x1 = max(mx - hx, 0), min(mx + hx + 1, nx)
    out[y0 - my + hy : y1 - my + hy, x0 - mx + hx : x1 - mx + hx] = stamp[y0:y1, x0:x1]
    return out


def centre_psf(stamp: Any, *, name: str = "psf", tolerance: float = 0.002) -> np.ndarray:
    """Return a normalised, odd-sided stamp centred on its middle pixel.

    The brightest structure is first brought to the middle by whole pixels (nothing is interpolated), then, if
    still off by more than `tolerance` pixels along an axis, moved by a Fourier phase. An even-sided stamp is taken
    as what it is: one centred on pixel n/2 gains a row, one centred between two pixels is moved by half a pixel.

    Raises
    ------
    PsfError
        See `normalise_psf`; or peaked on the border (in FFT order, or cut off), or further than `MAX_OFFSET` from
        the middle even after recentring.
    """
    values = normalise_psf(stamp, name=name)
    ny, nx = values.shape
    py, px = np.unravel_index(np.argmax(values), values.shape)
    if py in (0, ny - 1) or px in (0, nx - 1):
        msg = (
            f"{name} peaks on its border, at pixel (y {py}, x {px}) of {ny}x{nx}; a PSF peaks in the middle. "
            "If it is in FFT order apply np.fft.fftshift first, else use a larger stamp"
        )
        raise PsfError(msg)
    y, x = centroid_of(values)
    if not (0 <= y <= ny - 1 and 0 <= x <= nx - 1):
        msg = f"{name} has no centre: its centroid (y {y:.1f}, x {x:.1f}) leaves the {ny}x{nx} stamp"
        raise PsfError(msg)
    middle = (round(y), round(x))
    values = resize_odd(values, middle)
    for _ in range(4):
        y, x = centroid_of(values)
        dy, dx = values.shape[0] // 2 - y, values.shape[1] // 2 - x
        if max(abs(dy), abs(dx)) <= tolerance:
            break
        values = np.fft.irfft2(np.fft.rfft2(values) * shift_phase(values.shape, dy, dx), values.shape)
    y, x = centroid_of(values)
    dy, dx = values.shape[0] // 2 - y, values.shape[1] // 2 - x
    if not max(abs(dy), abs(dx)) <= MAX_OFFSET:
        msg = (
            f"{name} cannot be centred: its centroid stays ({dy:+.2f}, {dx:+.2f}) px (y, x) from the middle pixel; "
            f"at most {MAX_OFFSET} px is allowed. Is it a PSF, alone in its stamp?"
        )
        raise PsfError(msg)
    return values / values.sum()


def centre_stamps(stamps: np.ndarray, *, tolerance: float = 0.002, n_iter: int = 60) -> np.ndarray:
    """Return a stack of normalised, odd-sided stamps centred on their middle pixels, those already there untouched.

    `centre_psf` for many stamps of one PSF, whose peaks lie within a pixel or two of the middle: one window, as wide as
    the PSF in the middle of the stack, finds all centroids at once; a Fourier phase moves what is off.

    Parameters
    ----------
    stamps : float64 array, shape (n, ky, kx)
        Of sum 1.
    """
    stamps = np.asarray(stamps, np.float64)
    if len(stamps) == 0:
        return stamps
    width = fwhm_of(stamps[len(stamps) // 2])
    middle = np.array([side // 2 for side in stamps.shape[1:]])
    for _ in range(4):
        off = middle - _centroids(stamps, width, n_iter)
        far = np.flatnonzero(np.abs(off).max(axis=1) > tolerance)
        if far.size == 0:
            break
        shape = stamps.shape[1:]
        phase = np.stack([shift_phase(shape, dy, dx) for dy, dx in off[far]])
        moved = np.fft.irfft2(np.fft.rfft2(stamps[far]) * phase, shape)
        stamps = stamps.copy()
        stamps[far] = moved / moved.sum(axis=(1, 2), keepdims=True)
    return stamps


def _centroids(stamps: np.ndarray, fwhm: float, n_iter: int) -> np.ndarray:
    """Return the windowed centroids (n, 2) of stamps, `centroid_of` for all at once, from the middle pixel on."""
    sigma = max(fwhm / _SIGMA, 0.6)
    sides = stamps.shape[1:]
    place = np.tile([side / 2 - 0.5 for side in sides], (len(stamps), 1))
    live = np.arange(len(stamps))
    for _ in range(n_iter):
        off = [np.arange(side)[None] - place[live, k, None] for k, side in enumerate(sides)]
        wy, wx = (np.exp(-0.5 * (d / sigma) ** 2) for d in off)
        rows = np.einsum("nyx,nx->ny", stamps[live], wx)
        total = (rows * wy).sum(axis=1)
        total = np.where(total > 0, total, np.inf)
        step_y = 2.0 * (rows * wy * off[0]).sum(axis=1) / total
        step_x = 2.0 * np.einsum("ny,nyx,nx->n", wy, stamps[live], wx * off[1], optimize=True) / total
        place[live] += np.stack([step_y, step_x], axis=1)
        live = live[np.abs(step_y) + np.abs(step_x) >= 1e-5]
        if live.size == 0:
            break
    return place


def ellipticity_of(stamp: np.ndarray, *, fwhm: float | None = None) -> float:
    """Return 1 - b/a from second moments under a Gaussian window as wide as the PSF; NaN if they make no ellipse."""
    cy, cx = stamp.shape[0] // 2, stamp.shape[1] // 2
    rows, columns = np.arange(stamp.shape[0])[:, None] - cy, np.arange(stamp.shape[1])[None, :] - cx
    sigma2 = ((fwhm_of(stamp) if fwhm is None else fwhm) / _SIGMA) ** 2
    weighted = stamp * np.exp(-0.5 * (rows**2 + columns**2) / sigma2)
    total = weighted.sum()
    if not total > 0:
        return float("nan")
    myy, mxx = (weighted * rows**2).sum() / total, (weighted * columns**2).sum() / total
    mxy = (weighted * rows * columns).sum() / total
    # the window shrinks each moment: 1/m = 1/m_true + 1/sigma2, exactly so for a Gaussian
    moments = np.linalg.inv(np.array([[mxx, mxy], [mxy, myy]])) - np.eye(2) / sigma2
    values = np.linalg.eigvalsh(moments)
    if values[0] <= 0:
        return float("nan")
    return float(1.0 - np.sqrt(values[0] / values[1]))


def prepare_psf(psf: Any, *, name: str = "psf") -> np.ndarray:
    """Return PSFs ready for the engine: float64, shape (m, ky, kx), odd sides, centred, each of sum 1.

    A stamp that is already odd and centred within `MAX_OFFSET` is only normalised, its pixels are not touched:
    the caller's centre is the caller's. Others go through `centre_psf`. If stamps come out with different sides
    all are padded with zeros to the largest.

    Parameters
    ----------
    psf : array, shape (ky, kx) or (m, ky, kx)
    name : str
        The argument's name, for messages.

    Raises
    ------
    PsfError
        In words, which stamp and why.
    """
    array = np.asarray(psf)
    if array.ndim not in (2, 3) or 0 in array.shape:
        msg = f"{name} must be a stamp (ky, kx) or a stack of stamps (m, ky, kx), got shape {array.shape}"
        raise PsfError(msg)
    stack = array[None] if array.ndim == 2 else array
    labels = [name] if len(stack) == 1 else [f"{name}[{i}]" for i in range(len(stack))]
    stamps = [_prepare_one(stamp, label) for stamp, label in zip(stack, labels, strict=True)]
    sides = tuple(max(stamp.shape[axis] for stamp in stamps) for axis in (0, 1))
    padded = [resize_odd(stamp, (stamp.shape[0] // 2, stamp.shape[1] // 2), sides) for stamp in stamps]
    return np.ascontiguousarray(np.stack(padded))


def _prepare_one(stamp: np.ndarray, name: str) -> np.ndarray:
    """Normalise one stamp, and recentre it only if it needs it."""
    values = normalise_psf(stamp, name=name)
    if values.shape[0] % 2 and values.shape[1] % 2:
        y, x = centroid_of(values)
        if max(abs(values.shape[0] // 2 - y), abs(values.shape[1] // 2 - x)) <= MAX_OFFSET:
            return values
    return centre_psf(values, name=name)


def gaussian_stamp(fwhm: float | tuple[float, float], side: int | None = None, *, theta: float = 0.0) -> np.ndarray:
    """Return a Gaussian integrated over pixels, centred, sum 1.

    Parameters
    ----------
    fwhm : float or (major, minor)
        Before the pixel, in pixels. On the image the pixel widens it: variance + 1/12 along each axis.
    side : int, optional
        Odd; by default 5 sigma to either side.
    theta : float
        Angle of the major axis from +x towards +y in radians, for an elliptical one.
    """
    from scipy.special import erf

    major, minor = (float(v) for v in np.broadcast_to(np.asarray(fwhm, dtype=float), (2,)))
    _check_fwhm(major, minor)
    half = int(side) // 2 if side else max(3, int(np.ceil(5.0 * major / _SIGMA)))
    if major == minor:
        edges = (np.arange(-half, half + 2) - 0.5) * (_SIGMA / major / np.sqrt(2.0))
        profile = np.diff(erf(edges))
        stamp = np.outer(profile, profile)
        return stamp / stamp.sum()

    def profile_at(dy: np.ndarray, dx: np.ndarray) -> np.ndarray:
        along, across = dx * np.cos(theta) + dy * np.sin(theta), dy * np.cos(theta) - dx * np.sin(theta)
        return np.exp(-0.5 * _SIGMA**2 * ((along / major) ** 2 + (across / minor) ** 2))

    return _integrate(profile_at, half)


def moffat_stamp(fwhm: float, beta: float = 3.0, side: int | None = None) -> np.ndarray:
    """Return a circular Moffat profile (1 + r^2/alpha^2)^-beta integrated over pixels, centred, sum 1.

    `fwhm` is before the pixel, in pixels; `side` is odd, by default 4 FWHM to either side; beta > 1.
    """
    _check_fwhm(fwhm)
    if not (np.isfinite(beta) and beta > 1):
        msg = f"a Moffat profile has finite flux only for beta > 1, got {beta:g}"
        raise PsfError(msg)
    alpha = 0.5 * fwhm / np.sqrt(2.0 ** (1.0 / beta) - 1.0)
    half = int(side) // 2 if side else max(3, int(np.ceil(4.0 * fwhm)))
    return _integrate(lambda dy, dx: (1.0 + (dy * dy + dx * dx) / alpha**2) ** -beta, half)


def with_fwhm(make: Callable[[float], np.ndarray], fwhm: float) -> np.ndarray:
    """Return `make(width)` for the width before the pixel that gives `fwhm` on the image, as `fwhm_of` measures it.

    The width of a star in a header or a catalogue includes the pixel; model profiles do not. Four secant steps.
    """
    _check_fwhm(fwhm)
    floor = 0.3
    width = np.sqrt(max(fwhm**2 - _SIGMA**2 / 12.0, floor**2))
    stamp = make(width)
    for _ in range(4):
        width = max(width * fwhm / fwhm_of(stamp), floor)
        stamp = make(width)
    return stamp


def _check_fwhm(*widths: float) -> None:
    """Refuse a width that is not a positive number."""
    for width in widths:
        if not (np.isfinite(width) and width > 0):
            msg = f"the FWHM of a PSF must be a positive number of pixels, got {width:g}"
            raise PsfError(msg)


def _integrate(profile: Callable[[np.ndarray, np.ndarray], np.ndarray], half: int) -> np.ndarray:
    """Integrate `profile(dy, dx)` over the pixels of a stamp of side 2 half + 1 by 8-point Gauss-Legendre."""
    nodes, weights = np.polynomial.legendre.leggauss(8)
    middle = np.arange(-half, half + 1)
    axis = (middle[:, None] + 0.5 * nodes[None, :]).ravel()
    fine = profile(axis[:, None], axis[None, :])
    side = middle.size
    stamp = np.einsum("iajb,a,b->ij", fine.reshape(side, 8, side, 8), weights, weights)
    return stamp / stamp.sum()
