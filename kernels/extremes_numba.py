"""Numba twin of ops/extremes.py: sixteen pixels at a time, bands of rows shared among plain threads."""

from __future__ import annotations

from itertools import pairwise

import numba as nb
import numpy as np
from astrid_gpu.kernels._pool import share
from astrid_gpu.kernels.lanes_numba import LANES, OPTIONS, larger, load, smaller, splat, store

from astrid_gpu.backends.threads import cpu_threads

__all__ = ["extremes"]

_BAND = 1 << 18
"""Pixels below which a second thread is not worth starting."""


@nb.njit(**OPTIONS)
def _look(values):  # noqa: ANN001, ANN202 - compiled, types are the caller's
    """Return the sum of 0 x value, and the extremes, of a flat float32 array."""
    zero = splat(np.float32(0))
    low, high, sum_of_zeros = splat(np.float32(np.inf)), splat(np.float32(-np.inf)), zero
    whole = values.size - values.size % LANES
    for i in range(0, whole, LANES):
        v = load(values, i)
        low, high, sum_of_zeros = smaller(v, low), larger(v, high), sum_of_zeros + v * zero
    out = np.empty((3, LANES), np.float32)
    store(out[0], 0, sum_of_zeros)
    store(out[1], 0, low)
    store(out[2], 0, high)
    nought, least, most = out[0, 0], out[1, 0], out[2, 0]
    for c in range(1, LANES):
        nought += out[0, c]
        least, most = min(out[1, c], least), max(out[2, c], most)
    for i in range(whole, values.size):
        nought += values[i] * np.float32(0)
        least, most = min(values[i], least), max(values[i], most)
    return nought, least, most


def extremes(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Look through a stack once; contract in `astrid_gpu.ops.extremes.extremes`."""
    if images.dtype != np.float32:
        with np.errstate(invalid="ignore"):
            zeros, axes = images * 0, (1, 2)
        return (
            np.isfinite(zeros).all(axis=axes),
            images.min(axis=axes).astype(float),
            images.max(axis=axes).astype(float),
        )
    flat = images.reshape(len(images), -1)
    parts = min(cpu_threads(), max(1, flat.shape[1] // _BAND))
    edges = [flat.shape[1] * k // parts for k in range(parts + 1)]
    bands = [image[a:b] for image in flat for a, b in pairwise(edges)]
    looked = np.empty((len(bands), 3))

    def task(k: int) -> None:
        looked[k] = _look(bands[k])

    share(task, len(bands))
    nought, least, most = looked.reshape(len(flat), parts, 3).transpose(2, 0, 1)
    return np.isfinite(nought).all(axis=1), least.min(axis=1), most.max(axis=1)
