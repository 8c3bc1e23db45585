"""Windows of planes that lie on the host or on a device: what the host sees of a device's image are these alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from astrid_gpu.backends import Backend
from astrid_gpu.engine.peaks import gather
from astrid_gpu.image import Image
from astrid_gpu.ops.stamps import gather_stamps

__all__ = ["cut", "cut_bad", "cut_good"]


def cut(backend: Backend, plane: Any, y: np.ndarray, x: np.ndarray, half: int, fill: float) -> np.ndarray:
    """Return windows (m, 2 half + 1, 2 half + 1) of a plane on `backend`, on the host: they alone are brought there."""
    if plane.dtype == np.dtype(bool):
        plane = plane.view(np.uint8)
    zero, side = np.zeros(len(y), np.int64), 2 * half + 1
    if backend.is_gpu or (plane.dtype.isnative and plane.flags.c_contiguous):
        return gather(backend, backend.asarray(plane)[None], zero, y, x, side, fill)
    return gather_stamps(plane[None], zero, y, x, side, fill)  # type: ignore[no-any-return]


def cut_bad(backend: Backend, image: Image, y: np.ndarray, x: np.ndarray, half: int) -> tuple[np.ndarray, np.ndarray]:
    """Return windows of the pixels of an image, of its type (float64 for whole numbers), and which are bad."""
    data = image.data if image.data.dtype.kind == "f" else image.data.astype(np.float64)
    windows = cut(backend, data, y, x, half, np.nan)
    bad = ~np.isfinite(windows)
    if image.mask is not None:
        mask = image.mask if image.mask.dtype in (np.dtype(np.uint8), np.dtype(bool)) else image.mask != 0
        bad |= cut(backend, mask, y, x, half, 0) != 0
    return windows, bad


def cut_good(backend: Backend, image: Image, y: np.ndarray, x: np.ndarray, half: int) -> np.ndarray:
    """Return windows of the pixels of an image, of its type (float64 for whole numbers), NaN where they are bad."""
    windows, bad = cut_bad(backend, image, y, x, half)
    if bad.any():
        windows[bad] = np.nan
    return windows
