"""How frames are cut into tiles: sides, halos, corners."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from astrid_gpu.kernels.fft_numba import is_smooth, plan_fft
from astrid_gpu.kernels.lanes_numba import LANES

__all__ = ["HALOS", "Tiling", "choose_halo", "tiling"]

HALOS = (16, 32, 48, 64)
LONGEST_SIDE = 640
"""Of a tile: two threads' work space then still fits a common last-level cache."""

WORK_BYTES = 32
"""For each pixel of the frame, that the work space should not go beyond: small frames take smaller tiles than large."""

NOWHERE = 1 << 30
"""Position of the tile that an odd one is paired with."""

SCORE_NOISE, SCORE_STAR = 2e-4, 3e-4
"""What cutting the kernels of S may change, in sigma: the noise of S, and what shows of the brightest star."""

DIFFERENCE_NOISE, DIFFERENCE_STAR = 1e-3, 1e-2
"""The same for D, which is not thresholded."""


@dataclass(frozen=True)
class Tiling:
    """How frames of one shape are cut: sides of a tile with its halo, and the corners of each two tiles."""

    shape: tuple[int, int]
    halo: int
    ty: int
    tx: int

    @cached_property
    def corners(self) -> tuple[np.ndarray, np.ndarray]:
        """Y and x of the first pixel, halo included, of the rows and of the columns of tiles."""
        sides = zip(self.shape, (self.ty, self.tx), strict=True)
        ys, xs = (np.arange(-self.halo, n - self.halo, side - 2 * self.halo) for n, side in sides)
        return ys, xs

    @cached_property
    def pairs(self) -> np.ndarray:
        """Corners of two tiles at a time, (m, 4): y, x, y, x."""
        ys, xs = self.corners
        tiles = np.stack(np.meshgrid(ys, xs, indexing="ij"), axis=-1).reshape(-1, 2)
        if len(tiles) % 2:
            tiles = np.concatenate([tiles, [[NOWHERE, NOWHERE]]])
        return np.ascontiguousarray(tiles.reshape(-1, 4))

    @cached_property
    def plan(self) -> tuple[Any, ...]:
        """What the kernels of `tiles_numba` need to know."""
        return (self.ty, self.tx, self.halo, *plan_fft(self.ty), *plan_fft(self.tx))

    def touching(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return which pairs (m,) hold one of the pixels (y, x), halo included."""
        ys, xs = self.corners
        hit = np.zeros((len(ys), len(xs)), bool)
        rows, columns = self.ty - 2 * self.halo, self.tx - 2 * self.halo
        first, left = (y + self.halo) // rows, (x + self.halo) // columns
        for j in range(-(-self.ty // rows)):
            for i in range(-(-self.tx // columns)):
                jj, ii = first - j, left - i
                inside = (jj >= 0) & (jj < len(ys)) & (ii >= 0) & (ii < len(xs))
                jj, ii, yy, xx = jj[inside], ii[inside], y[inside], x[inside]
                held = (yy < ys[jj] + self.ty) & (xx < xs[ii] + self.tx)
                hit[jj[held], ii[held]] = True
        flat = hit.ravel()
        return np.append(flat, np.zeros(flat.size % 2, bool)).reshape(-1, 2).any(axis=1)

    def beyond_edge(self) -> np.ndarray:
        """Return which pairs (m,) reach beyond the frame, or have a tile nowhere."""
        first = self.pairs.reshape(-1, 2, 2)
        last = first + np.array([self.ty, self.tx])
        return ((first < 0) | (last > self.shape)).any(axis=(1, 2))


@lru_cache(maxsize=64)
def tiling(shape: tuple[int, int], halo: int, threads: int) -> Tiling:
    """Choose the sides of the tiles: the fewest operations, halos and idle threads included, in bounded work space."""
    sides = np.array([n for n in range(2 * halo + LANES, LONGEST_SIDE + 1, LANES) if is_smooth(n)])
    counts = [-(-n // (sides - 2 * halo)) for n in shape]
    tiles = counts[0][:, None] * counts[1]
    rounds = -(-tiles // (2 * threads))
    area = sides[:, None] * sides
    cost = rounds * area * (6 + np.log2(area))  # 6: loads, stores and products, in units of a transform's one step
    busy = np.minimum(threads, -(-tiles // 2))
    work = 4 * area * (16 * busy + 12 + 8)  # two spectra and buffers of a pair each; the kernels' spectra and frames
    cost = cost * np.maximum(1, work / (WORK_BYTES * shape[0] * shape[1]))
    j, i = np.unravel_index(np.argmin(cost), cost.shape)
    return Tiling(shape, halo, int(sides[j]), int(sides[i]))


def choose_halo(kernels: Any, brightest: float, difference: bool, score: bool) -> int | None:
    """Return the smallest of `HALOS` at which `ZogyKernels` may be cut, if there is one.

    `brightest` is the flux of the brightest star in noise units; `difference` and `score` tell what is wanted.
    """
    for halo in HALOS:
        if 2 * halo + 2 > kernels.psf.shape[-1]:
            break
        tails = kernels.tails(halo)
        limits = []
        if score:
            limits.append((tails.score_rms / SCORE_NOISE, tails.score_peak * brightest / SCORE_STAR))
        if difference:
            limits.append(
                (tails.difference_rms / DIFFERENCE_NOISE, tails.difference_peak * brightest / DIFFERENCE_STAR)
            )
        if max(noise for noise, _ in limits) > 1:
            continue
        if max(peak for _, peak in limits) <= 1:
            return halo
        score_star, difference_star = kernels.star_residuals(halo)
        shown = score_star / SCORE_STAR if score else 0, difference_star / DIFFERENCE_STAR if difference else 0
        if max(shown) * brightest <= 1:
            return halo
    return None
