"""Smallest and largest values, and whether all are finite: one look at each pixel before any work is done."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["extremes"]


def extremes(images: Any, *, xp: Any = np) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Look through a stack once.

    Parameters
    ----------
    images : real array, shape (n, ny, nx)

    Returns
    -------
    finite : bool (n,), on the host
        Whether every pixel is finite.
    smallest, largest : float64 (n,), on the host
        Over the pixels that are numbers; not to be relied on where `finite` is False.
    """
    finite = xp.isfinite(images).all(axis=(1, 2))
    known = xp.where(xp.isnan(images), xp.zeros((), images.dtype), images)
    parts = finite, known.min(axis=(1, 2)).astype(float), known.max(axis=(1, 2)).astype(float)
    finite, smallest, largest = (np.asarray(p.get() if hasattr(p, "get") else p) for p in parts)
    return finite, smallest, largest
