"""One image made ready for tiles: holes and margins filled, variances 0 where nothing was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
from astrid_gpu.kernels.fill_numba import fill_frame

__all__ = ["Frame", "largest", "prepare"]


@dataclass
class Frame:
    """One image ready for the tiles, in its own unit: holes and margins filled; variances 0 where nothing is known.

    If made `sparse` for whole frames, image and variance are the caller's, and `holes` says what goes where.
    """

    image: tuple[np.ndarray, np.ndarray, np.ndarray]
    variance: Any
    error: tuple[np.ndarray, np.ndarray, np.ndarray] | None
    uncertain: tuple[np.ndarray, np.ndarray]
    holes: tuple[np.ndarray, ...]  # y, x, what is filled in, and how wrong that may be

    def variance_map(self, bad: np.ndarray) -> np.ndarray:
        """Return the variances as a map (ny, nx), 0 in the holes; made when it is needed."""
        if not isinstance(self.variance, np.ndarray):
            self.variance = np.full(self.image[0].shape, self.variance, np.float32)
            self.variance[bad != 0 if bad.size else ...] *= np.float32(0 if bad.size else 1)
        return self.variance


def prepare(
    image: np.ndarray,
    variance: Any,
    bad: np.ndarray,
    scale: float,
    profile: np.ndarray,
    limits: Any,
    *,
    sparse: bool = False,
) -> Frame:
    """Fill one image and note how wrong the fill may be (as `engine._frames.fill_frames`, without padding).

    With `sparse` nothing as large as the image is made: what goes into the holes is listed.
    """
    profile = profile[: np.flatnonzero(profile)[-1] + 1]
    holes, filled, missing = fill_frame(image, bad, scale, profile)
    negligible, uncertainty = limits
    values = filled[0] / np.float32(scale)
    if bad.size and not sparse:
        image = image.copy()
        image[holes] = values
        if isinstance(variance, np.ndarray):
            variance = variance.copy()
            variance[holes] = 0
    error, doubt, uncertain = None, np.zeros(0, np.float32), (np.zeros(0, int), np.zeros(0, int))
    if max(abs(f).max(initial=0) for f in filled) > negligible:
        doubt, ends, sides = (
            abs(f) * np.float32(uncertainty / scale) * m for f, m in zip(filled, missing, strict=True)
        )
        inside = np.zeros((0, 0) if sparse else image.shape, np.float32)
        if not sparse:
            inside[holes] = doubt
        error = (inside, ends, sides)
        uncertain = _positions(holes, [doubt, ends, sides], image.shape)
    margins = tuple(np.float32(1 / scale) * f for f in filled[1:])
    return Frame((image, *margins), variance, error, uncertain, (*holes, values, doubt))


def _positions(holes: Any, sizes: list[np.ndarray], shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return y and x of the pixels, holes and margins, whose fill may be wrong."""
    r = sizes[2].shape[1] // 2
    sure = sizes[0] > 0
    (ke, xe), (ys, ks) = np.nonzero(sizes[1]), np.nonzero(sizes[2])
    ye, xs = np.where(ke < r, ke - r, shape[0] + ke - r), np.where(ks < r, ks - r, shape[1] + ks - r)
    return np.concatenate([holes[0][sure], ye, ys]), np.concatenate([holes[1][sure], xe - r, xs])


@nb.njit(nogil=True, cache=True)
def _largest_of(image, bad):  # noqa: ANN001, ANN202
    top = np.float32(0)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            if bad.size == 0 or bad[y, x] == 0:
                top = max(top, abs(image[y, x]))
    return top


def largest(image: np.ndarray, bad: np.ndarray) -> float:
    """Return the largest absolute value of the good pixels."""
    return float(_largest_of(image, bad))
