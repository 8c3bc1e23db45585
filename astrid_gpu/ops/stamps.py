"""Cut windows of one size out of a stack."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["gather_stamps"]


def gather_stamps(images: Any, image: Any, y: Any, x: Any, size: int, fill: float, *, xp: Any = np) -> Any:
    """Cut a window round each of m pixels.

    Parameters
    ----------
    images : array, shape (n, ny, nx), any type
    image, y, x : int64 array, shape (m,)
        Image number and middle pixel of each window. The pixel may lie beyond the frame, the image number not.
    size : int
        Odd side of the windows.
    fill : float
        Value beyond the frame, cast to the type of `images`.

    Returns
    -------
    array, shape (m, size, size), type of `images`
    """
    _, ny, nx = images.shape
    image, y, x = (xp.asarray(a)[:, None, None] for a in (image, y, x))
    steps = xp.arange(size) - size // 2
    rows, columns = y + steps[None, :, None], x + steps[None, None, :]
    inside = (rows >= 0) & (rows < ny) & (columns >= 0) & (columns < nx)
    found = images[image, xp.clip(rows, 0, ny - 1), xp.clip(columns, 0, nx - 1)]
    return xp.where(inside, found, xp.asarray(fill).astype(images.dtype))
