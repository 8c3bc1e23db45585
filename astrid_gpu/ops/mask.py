"""Growing masks."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["border", "connected", "dilate", "places_of"]


def dilate(mask: Any, radius: int, *, xp: Any = np) -> Any:
    """Grow True pixels into squares of side 2 `radius` + 1, not round the edges.

    Parameters
    ----------
    mask : bool array, shape (..., ny, nx)
    radius : int
        Pixels; 0 returns a copy.

    Returns
    -------
    bool array of the same shape. Costs about 2 log2(radius) + 4 passes.
    """
    grown = mask.copy()
    for axis in (-2, -1):
        grown = xp.moveaxis(_dilate_last(xp.moveaxis(grown, axis, -1), radius, xp=xp), -1, axis)
    return xp.ascontiguousarray(grown)


def _dilate_last(mask: Any, radius: int, *, xp: Any) -> Any:
    """Grow along the last axis by doubling: a run grown by k and then by j is grown by k + j."""
    grown, done = mask.copy(), 0
    while done < radius:
        step = min(max(done, 1), radius - done)
        wider = grown.copy()
        if step < grown.shape[-1]:
            wider[..., step:] |= grown[..., :-step]
            wider[..., :-step] |= grown[..., step:]
        else:
            wider |= grown.any(axis=-1, keepdims=True)
        grown, done = wider, done + step
    return grown


def border(shape: tuple[int, int], width: int, *, xp: Any = np) -> Any:
    """Return a bool array of `shape`, True within `width` pixels of its edge."""
    edge = xp.ones(shape, dtype=bool)
    if 2 * width < min(shape):
        edge[width : shape[0] - width, width : shape[1] - width] = False
    return edge


def places_of(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (y, x) of the True pixels in raster order: `numpy.nonzero`, several times sooner where they are few."""
    y, x = np.divmod(np.flatnonzero(mask), mask.shape[1])
    return y, x


def connected(seeds: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the parts of `high` and `seeds` together, connected across sides and corners, that hold a seed.

    Parameters
    ----------
    seeds, high : bool array, shape (ny, nx)

    Returns
    -------
    bool array, shape (ny, nx)
        Grown from the seeds ring by ring: costs a look at each pixel of the parts, not a labelling of the frame.
    """
    ny, nx = high.shape
    found = seeds.copy()
    flat, allowed = found.ravel(), np.ascontiguousarray(high).ravel()
    rim = np.flatnonzero(flat)
    while rim.size:
        y, x = np.divmod(rim, nx)
        ring = [
            (rim + j * nx + i)[(y + j >= 0) & (y + j < ny) & (x + i >= 0) & (x + i < nx)]
            for j in (-1, 0, 1)
            for i in (-1, 0, 1)
            if j or i
        ]
        near = np.concatenate(ring)
        rim = np.unique(near[allowed[near] & ~flat[near]])
        flat[rim] = True
    return found
