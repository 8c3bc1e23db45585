"""Resampling by SciPy, for machines without a fused kernel: the splines of ops/resample.py, in C on one thread."""

from __future__ import annotations

from typing import Any

import numpy as np

from astrid_gpu.ops import resample as reference

__all__ = ["resample", "spline_coefficients"]

_ORDERS = {"bilinear": 1, "cubic": 3, "quintic": 5}


def spline_coefficients(images: np.ndarray, degree: int) -> np.ndarray:
    """Return B-spline coefficients; contract in `astrid_gpu.ops.resample.spline_coefficients`."""
    from scipy import ndimage

    if min(images.shape[1:]) < 2:
        return np.asarray(reference.spline_coefficients(images, degree))
    filtered = [ndimage.spline_filter(image, order=degree, output=np.float64, mode="mirror") for image in images]
    return np.stack(filtered).astype(images.dtype)


def resample(
    images: np.ndarray,
    y_map: np.ndarray,
    x_map: np.ndarray,
    kernel: str,
    bad: Any = None,
    beyond: float = 0.5,
    filtered: bool = False,
) -> np.ndarray:
    """Read images at positions; contract in `astrid_gpu.ops.resample.resample`.

    What SciPy does not have, Lanczos-3, nearest pixels and bad ones, goes to the reference.
    """
    from scipy import ndimage

    ny, nx = images.shape[1:]
    if kernel not in _ORDERS or bad is not None or min(ny, nx) < 2:
        return np.asarray(reference.resample(images, y_map, x_map, kernel, bad, beyond, filtered))
    inside = (y_map >= -beyond) & (y_map <= ny - 1 + beyond) & (x_map >= -beyond) & (x_map <= nx - 1 + beyond)
    places = np.stack([np.where(inside, plane, 0.0) for plane in (y_map, x_map)])
    order = _ORDERS[kernel]
    source = images if filtered or order == 1 else spline_coefficients(images, order)
    read = [
        ndimage.map_coordinates(image, places, output=np.float64, order=order, mode="mirror", prefilter=False)
        for image in source
    ]
    return np.where(inside, np.stack(read), np.nan).astype(images.dtype)
