"""Numba twin of ops/fill.py: one gather per bad pixel, of a padded frame or of one without padding."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

__all__ = ["fill_frame", "fill_masked"]

# As astrid_gpu.ops.fill: kernels import nothing from above, and the parity test holds them equal.
FADE, SHRINK = 0.005, 4.0


@nb.njit(parallel=True, cache=True)
def _fill(images, bad, lines, full, rows, columns, out):  # noqa: ANN001, ANN202 - compiled, types are the caller's
    n, py, px = images.shape
    radius = lines.shape[1] - 1
    for row in nb.prange(n * py):
        i, y = row // py, row % py
        j, k = i % bad.shape[0], i % lines.shape[0]
        for x in range(px):
            if bad[j, y, x] == 0:
                out[i, y, x] = images[i, y, x]
                continue
            if not (rows[j, y] and columns[j, x]):  # the middle of the padding: nothing good within reach
                out[i, y, x] = 0
                continue
            total, weight, square = 0.0, 0.0, 0.0
            for dy in range(-radius, radius + 1):
                yy = (y + dy + py) % py
                for dx in range(-radius, radius + 1):
                    xx = x + dx
                    xx = xx + px if xx < 0 else (xx - px if xx >= px else xx)
                    if bad[j, yy, xx] == 0:
                        g = lines[k, abs(dy)] * lines[k, abs(dx)]
                        total += g * images[i, yy, xx]
                        weight += g
                        square += g * g
            norm = weight + FADE * full[k]
            value = total / norm
            size = max(abs(value) - SHRINK * np.sqrt(square) / norm, 0.0)
            out[i, y, x] = size if value > 0 else -size


def fill_masked(images: Any, bad: Any, profiles: np.ndarray) -> np.ndarray:
    """Fill bad pixels from the good ones round them; contract in `astrid_gpu.ops.fill.fill_masked`."""
    lines = np.asarray(profiles, float)
    full = (2 * lines.sum(axis=1) - lines[:, 0]) ** 2
    bad = np.ascontiguousarray(bad).view(np.uint8)
    near = (_within(~bad.all(axis=axis), lines.shape[1] - 1) for axis in (2, 1))
    out = np.empty_like(images)
    _fill(images, bad, lines, full, *near, out)
    return out


def _within(some: np.ndarray, radius: int) -> np.ndarray:
    """Return which rows (m, p), counted round, have one that is `some` within `radius`."""
    return np.any([np.roll(some, shift, axis=1) for shift in range(-radius, radius + 1)], axis=0)


@nb.njit(nogil=True, cache=True)
def _drawn(total, weight, square, full, scale):  # noqa: ANN001, ANN202 - compiled, types are the caller's
    """Return the fill of one pixel, in noise units, and the part of its window that is missing."""
    norm = weight + FADE * full
    value = total * scale / norm
    size = max(abs(value) - SHRINK * np.sqrt(square) / norm, 0.0)
    return (size if value > 0 else -size), min(max(1 - weight / full, 0.0), 1.0)


@nb.njit(nogil=True, cache=True)
def _whole(profile):  # noqa: ANN001, ANN202
    """Return the sum of the window's weights."""
    full = profile[0]
    for k in range(1, profile.size):
        full += 2 * profile[k]
    return full * full


@nb.njit(nogil=True, cache=True)
def _window(image, bad, scale, profile, y, x):  # noqa: ANN001, ANN202
    """Fill one pixel; what is outside the frame is missing."""
    ny, nx = image.shape
    radius = profile.size - 1
    total, weight, square = 0.0, 0.0, 0.0
    for yy in range(max(y - radius, 0), min(y + radius + 1, ny)):
        for xx in range(max(x - radius, 0), min(x + radius + 1, nx)):
            if bad.size == 0 or bad[yy, xx] == 0:
                g = profile[abs(yy - y)] * profile[abs(xx - x)]
                total += g * image[yy, xx]
                weight += g
                square += g * g
    return _drawn(total, weight, square, _whole(profile), scale)


@nb.njit(nogil=True, cache=True)
def _across(image, bad, profile, y, sums):  # noqa: ANN001, ANN202
    """Add up the columns of the windows of a row y, as far as they lie in the frame: of values, weights and squares."""
    ny, nx = image.shape
    sums[:] = 0
    for yy in range(max(y - profile.size + 1, 0), min(y + profile.size, ny)):
        g = profile[abs(yy - y)]
        for x in range(nx):
            if bad.size == 0 or bad[yy, x] == 0:
                sums[0, x] += g * image[yy, x]
                sums[1, x] += g
                sums[2, x] += g * g


@nb.njit(nogil=True, cache=True)
def _along(sums, profile, scale, first, values, part):  # noqa: ANN001, ANN202
    """Fill a row of pixels from `first` on, by the sums across."""
    n, full = sums.shape[1], _whole(profile)
    for k in range(values.size):
        p, total, weight, square = first + k, 0.0, 0.0, 0.0
        for j in range(max(p - profile.size + 1, 0), min(p + profile.size, n)):
            g = profile[abs(j - p)]
            total += g * sums[0, j]
            weight += g * sums[1, j]
            square += g * g * sums[2, j]
        values[k], part[k] = _drawn(total, weight, square, full, scale)


@nb.njit(nogil=True, cache=True)
def _fill_margins(image, bad, scale, profile, ends, sides, end_part, side_part):  # noqa: ANN001, ANN202
    """Fill the margins of a frame, as wide as the window reaches; the window is a product of two lines."""
    ny, nx = image.shape
    r = profile.size - 1
    rows, columns = np.empty((3, nx)), np.empty((3, ny))
    for k in range(2 * r):
        _across(image, bad, profile, k - r if k < r else ny + k - r, rows)
        _along(rows, profile, scale, -r, ends[k], end_part[k])
        _across(image.T, bad.T, profile, k - r if k < r else nx + k - r, columns)
        _along(columns, profile, scale, 0, sides[:, k], side_part[:, k])


@nb.njit(nogil=True, cache=True)
def _fill_pixels(image, bad, scale, profile, ys, xs, values, part):  # noqa: ANN001, ANN202
    """Fill the pixels (ys, xs)."""
    for k in range(ys.size):
        values[k], part[k] = _window(image, bad, scale, profile, ys[k], xs[k])


def fill_frame(image: np.ndarray, bad: np.ndarray, scale: float, profile: np.ndarray) -> tuple[Any, Any, Any]:
    """Fill the holes and the margins of one frame: `astrid_gpu.ops.fill.fill_masked` without the padding.

    Parameters
    ----------
    image : float32 (ny, nx)
    bad : uint8 (ny, nx), nonzero = replace, or of no size: no holes
    scale : float
        Turns the image into units of its background noise.
    profile : float (radius + 1,)
        The window; beyond its reach r outside the frame there is nothing.

    Returns
    -------
    holes, filled, missing
        `holes` are (y, x), the bad pixels. `filled` and `missing` are each (values at the holes, rows above and below
        (2 r, nx + 2 r), columns to the left and right (ny, 2 r)): the fill in noise units, and the part of the window
        that is missing.
    """
    ny, nx = image.shape
    r = profile.size - 1
    margins = [np.empty(s, np.float32) for s in ((2 * r, nx + 2 * r), (ny, 2 * r)) * 2]
    _fill_margins(image, bad, scale, profile, *margins)
    holes = np.nonzero(bad) if bad.size else (np.zeros(0, np.int64),) * 2
    values, part = (np.empty(holes[0].size, np.float32) for _ in range(2))
    _fill_pixels(image, bad, scale, profile, *holes, values, part)
    return holes, (values, *margins[:2]), (part, *margins[2:])
