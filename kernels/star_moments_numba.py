"""Numba twin of ops/star_moments.py: source by source, its window read from the frame, in double precision."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba as nb
import numpy as np
from astrid_gpu.kernels._pool import share

__all__ = ["star_moments"]

# As in the reference.
_ROUNDS = 30
_LEAST_MOVE = 1e-4
_LEAST_VARIANCE = 0.05
_PART = 250  # sources that a thread takes at a time


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _half_row(row, holes, i, step, end, w, ratio, falling, cx, sums):  # noqa: ANN001, ANN202 - compiled
    """Add w d, w d dx, w d dx² of the pixels from i up to `end`, exclusive, by a Gaussian's two recurrences."""
    s0 = s1 = s2 = 0.0
    while i != end:
        if not holes[i]:
            dx = i - cx
            t = w * row[i]
            s0 += t
            t *= dx
            s1 += t
            s2 += t * dx
        w *= ratio
        ratio *= falling
        i += step
    sums[0] += s0
    sums[1] += s1
    sums[2] += s2


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _sums(data, bad, box, cy, cx, yy, xy, xx, out):  # noqa: ANN001, ANN202
    """Sum w d (1, dy, dx, dy², dy dx, dx²) over the box (y0, y1, x0, x1) under a window of covariance yy, xy, xx."""
    det = yy * xx - xy * xy
    a, b, c = yy / det, -xy / det, xx / det
    falling = np.exp(-a)
    out[:] = 0.0
    row = np.empty(3)
    for j in range(box[0], box[1]):
        dy = j - cy
        # From the row's highest point outwards, so that nothing large comes out of something that underflowed.
        i = min(max(int(np.rint(cx - b * dy / a)), box[2]), box[3] - 1)
        dx = i - cx
        w = np.exp(-0.5 * (c * dy * dy + 2.0 * b * dy * dx + a * dx * dx))
        slope = a * dx + b * dy
        row[:] = 0.0
        _half_row(data[j], bad[j], i, 1, box[3], w, np.exp(-0.5 * a - slope), falling, cx, row)
        left = np.exp(-0.5 * a + slope)
        _half_row(data[j], bad[j], i - 1, -1, box[2] - 1, w * left, left * falling, falling, cx, row)
        out[0] += row[0]
        out[1] += dy * row[0]
        out[2] += row[1]
        out[3] += dy * dy * row[0]
        out[4] += dy * row[1]
        out[5] += row[2]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _unweight(sums, my, mx, yy, xy, xx, most, own):  # noqa: ANN001, ANN202
    """Write the source's own covariance; return whether its moments are usable."""
    total = sums[0]
    s_yy, s_xy, s_xx = sums[3] / total - my * my, sums[4] / total - my * mx, sums[5] / total - mx * mx
    m_yy, m_xx = max(s_yy, _LEAST_VARIANCE), max(s_xx, _LEAST_VARIANCE)
    bound = 0.99 * np.sqrt(m_yy * m_xx)
    m_xy = min(max(s_xy, -bound), bound)
    solvable = s_yy > -0.5 and s_xx > -0.5
    m_det = m_yy * m_xx - m_xy * m_xy if solvable else 1.0
    c_det = yy * xx - xy * xy
    i_yy, i_xy, i_xx = m_xx / m_det - xx / c_det, xy / c_det - m_xy / m_det, m_yy / m_det - yy / c_det
    mean, half = 0.5 * (i_yy + i_xx), 0.5 * (i_yy - i_xx)
    diff = np.sqrt(half * half + i_xy * i_xy)
    e1 = 1.0 / min(max(mean + diff, 1.0 / most), 4.0)
    e2 = 1.0 / min(max(mean - diff, 1.0 / most), 4.0)
    # Cosine and sine of twice the angle of the first axis.
    c, s = (half / diff, i_xy / diff) if diff > 0 else (1.0, 0.0)
    middle, part = 0.5 * (e1 + e2), 0.5 * (e1 - e2)
    own[0], own[1], own[2] = middle + part * c, part * s, middle - part * c
    return solvable


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _fit(data, bad, y, x, half, start, most, reach, place, cov):  # noqa: ANN001, ANN202
    """Iterate one source; `place` becomes its offset from the pixel; return whether it converged."""
    ny, nx = data.shape
    box = (max(0, y - half), min(ny, y + half + 1), max(0, x - half), min(nx, x + half + 1))
    cov[0], cov[1], cov[2] = start, 0.0, start
    place[:] = 0.0
    sums, own = np.empty(6), np.empty(3)
    for i in range(_ROUNDS):
        _sums(data, bad, box, y + place[0], x + place[1], cov[0], cov[1], cov[2], sums)
        if not sums[0] > 0:
            return False
        my, mx = sums[1] / sums[0], sums[2] / sums[0]
        fine = _unweight(sums, my, mx, cov[0], cov[1], cov[2], most, own)
        step_y, step_x = min(max(2 * my, -1.0), 1.0), min(max(2 * mx, -1.0), 1.0)
        place[0] += step_y
        place[1] += step_x
        change = max(abs(own[0] - cov[0]), abs(own[1] - cov[1]), abs(own[2] - cov[2]))
        if i >= 2 and fine:
            cov[:] = own
        if not (fine and np.hypot(place[0], place[1]) < reach):
            return False
        if abs(step_y) + abs(step_x) + change / start <= _LEAST_MOVE:
            break
    return True


@nb.njit(cache=True, nogil=True)
def _fit_some(data, bad, y, x, half, start, most, reach, first, last, places, cov, ok):  # noqa: ANN001, ANN202
    for k in range(first, last):
        ok[k] = _fit(data, bad, y[k], x[k], half, start, most, reach, places[k], cov[k])


class _Moments(NamedTuple):
    dy: np.ndarray
    dx: np.ndarray
    covariance: np.ndarray
    converged: np.ndarray


def star_moments(data: Any, bad: Any, y: Any, x: Any, limits: tuple[int, float, float, float]) -> _Moments:
    """Fit Gaussian windows; contract in `astrid_gpu.ops.star_moments.star_moments`. float32 frames are read as such."""
    pixels = np.require(data, np.float32, "CW")
    holes = np.require(bad, bool, "CW").view(np.uint8)
    rows, columns = (np.require(a, np.int64, "CW") for a in (y, x))
    m = len(rows)
    places, cov, ok = np.empty((m, 2)), np.empty((m, 3)), np.empty(m, np.bool_)
    half, start, most, reach = limits

    def part(k: int) -> None:
        first, last = k * _PART, min((k + 1) * _PART, m)
        _fit_some(pixels, holes, rows, columns, half, start, most, reach, first, last, places, cov, ok)

    share(part, -(-m // _PART))
    return _Moments(places[:, 0].copy(), places[:, 1].copy(), cov, ok)
