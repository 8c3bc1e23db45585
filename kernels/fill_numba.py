"""Numba twin of ops/fill.py: one gather per bad pixel."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

__all__ = ["fill_masked"]

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
