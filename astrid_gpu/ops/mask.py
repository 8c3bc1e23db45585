"""Growing masks."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["border", "dilate"]


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
