"""Piff's PixelGrid: pixels in the plane of the sky, with a Lanczos kernel between them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from astrid_gpu.errors import PsfError

__all__ = ["grid_stamps", "why_not_between"]

_FIRST = 3  # kernel of files that do not name one
_KERNEL = re.compile(r"^(?:galsim\.)?Lanczos\(\s*(?:n\s*=\s*)?(\d+)\s*(?:,\s*(?:conserve_dc\s*=\s*)?(True|False))?")


def why_not_between(model: Any) -> str | None:
    """Return why the values between the pixels are not known here, None if they are."""
    if "interp" in model.names and not _KERNEL.match(str(model["interp"][0])):
        return f"model PixelGrid with {str(model['interp'][0]).split('(')[0]} between its pixels"
    return None


def _kernel(model: Any) -> tuple[int, bool]:
    """Return the Lanczos order, and whether a constant stays one."""
    found = _KERNEL.match(str(model["interp"][0])) if "interp" in model.names else None
    return (int(found[1]), found[2] != "False") if found else (_FIRST, True)


def grid_stamps(model: Any, parameters: np.ndarray, jacobian: np.ndarray) -> np.ndarray:
    """Return the model on the pixels of the image, (n, side, side), from parameters (n, p) and d(v, u)/d(y, x)."""
    scale, size = float(model["scale"][0]), int(model["size"][0])
    grids = _grids(parameters, size, scale)
    half = int(np.floor(size // 2 * scale / np.sqrt(abs(np.median(np.linalg.det(jacobian))))))
    kernel = _kernel(model)
    return np.stack([_drawn(grid, jac, scale, half, *kernel) for grid, jac in zip(grids, jacobian, strict=True)])


def _grids(parameters: np.ndarray, size: int, scale: float) -> np.ndarray:
    """Return the grids (n, size, size), v along the first axis, that parameters (n, p) stand for.

    Older files leave out the middle pixel, whose value makes the sum 1, and, where the centre was held, the next one
    along each axis, whose values make the centroid 0.
    """
    n_missing = size * size - parameters.shape[1]
    if n_missing == 0:
        return parameters.reshape(-1, size, size)
    if n_missing not in (1, 3):
        msg = f"a Piff grid of {size}x{size} pixels with {parameters.shape[1]} parameters is not read"
        raise PsfError(msg)
    middle = size // 2
    held = [(middle, middle), (middle + 1, middle), (middle, middle + 1)][:n_missing]
    free = np.ones((size, size), bool)
    for place in held:
        free[place] = False
    grids = np.zeros((len(parameters), size, size))
    grids[:, free] = parameters
    offset = np.arange(size) - middle
    total, first, second = grids.sum((1, 2)), grids.sum(2) @ offset, grids.sum(1) @ offset
    if n_missing == 3:
        grids[:, middle + 1, middle], grids[:, middle, middle + 1] = -first, -second
        total = total - first - second
    grids[:, middle, middle] = 1.0 / scale**2 - total
    return grids


def _drawn(grid: np.ndarray, jacobian: np.ndarray, scale: float, half: int, order: int, keep: bool) -> np.ndarray:
    """Return a grid in the sky's plane at whole pixels of the image about its centre."""
    offset = np.arange(-half, half + 1)
    dy, dx = np.meshgrid(offset, offset, indexing="ij")
    v, u = ((jacobian[k, 0] * dy + jacobian[k, 1] * dx) / scale for k in (0, 1))
    rows, columns = (_taps(w, len(grid), order, keep) for w in (v, u))
    return np.einsum("yxa,ab,yxb->yx", rows, grid, columns, optimize=True)


def _taps(place: np.ndarray, size: int, order: int, keep: bool) -> np.ndarray:
    """Return the weights of the pixels of an axis at places counted from its middle, (*places, size).

    Kept: over the whole of their kernel they sum to 1, so that a constant stays one.
    """
    weights = _lanczos(place[..., None] - (np.arange(size) - size // 2), order)
    if not keep:
        return weights
    around = np.arange(-order, order + 1)
    return weights / _lanczos((place - np.floor(place))[..., None] - around, order).sum(-1, keepdims=True)


def _lanczos(distance: np.ndarray, order: int) -> np.ndarray:
    near = np.abs(distance) < order
    return np.where(near, np.sinc(distance) * np.sinc(distance / order), 0.0)
