"""The PSF of a difference where each candidate lies: of its image in a stack, of its tile where the PSF varies."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from astrid_gpu.errors import ShapeMismatchError
from astrid_gpu.ops.moments import PsfWindow, psf_window
from astrid_gpu.ops.psf_stamps import fwhm_of

__all__ = ["LocalPsfs"]


class LocalPsfs:
    """P_D and the window matched to it, by image and, of a frame that was differenced by tiles, by tile.

    Parameters
    ----------
    psf : array (ky, kx) or (n, ky, kx), or None
        P_D of the difference, one for all images or one each; on any device.
    n : int
        Images.
    tiles : TileValues, optional
        Of a lone image whose PSF varies: each tile's P_D is made when the first candidate in it asks.

    Raises
    ------
    ShapeMismatchError
        Neither one PSF nor one an image.
    """

    def __init__(self, psf: Any, n: int, tiles: Any = None) -> None:
        self._stamps: list[np.ndarray | None] = _stamps_of(psf, n)
        varies = tiles is not None and max(len(tiles.psf_science), len(tiles.psf_reference)) > 1
        self._tiles = tiles if n == 1 and varies else None
        self._window = lru_cache(maxsize=None)(self._measure)
        self._tile = lru_cache(maxsize=None)(lambda k: np.asarray(tiles.psf(k), np.float64))
        self.shared = len({id(stamp) for stamp in self._stamps}) == 1

    def middle(self, image: int) -> PsfWindow | None:
        """Return the window of an image's PSF, of the middle one where it varies."""
        return self._window(-1 - (0 if self.shared else image))

    def groups(self, image: np.ndarray, y: np.ndarray, x: np.ndarray) -> Iterator[tuple[np.ndarray, Any, Any]]:
        """Give the rows that share a PSF, the PSF (ky, kx) and its window; both None where there is none."""
        if self._tiles is None:
            for k in np.unique(image):
                yield np.flatnonzero(image == k), self._stamps[k], self.middle(int(k))
            return
        tile = self._tiles.tiles.holding_all(y, x)
        for k in np.unique(tile):
            yield np.flatnonzero(tile == k), self._tile(int(k)), self._window(int(k))

    def _measure(self, k: int) -> PsfWindow | None:
        """Return the window of tile k, or of image -1 - k."""
        stamp = self._tile(k) if k >= 0 else self._stamps[-1 - k]
        return None if stamp is None else psf_window(stamp, fwhm_of(stamp))


def _stamps_of(psf: Any, n: int) -> list[np.ndarray | None]:
    """Return one stamp an image, float64 on the host; the same object where it is shared."""
    if psf is None:
        return [None] * n
    host = np.asarray(psf.get() if hasattr(psf, "get") else psf, dtype=np.float64)
    if host.ndim not in (2, 3) or (host.ndim == 3 and host.shape[0] not in (1, n)):
        msg = f"diff.psf must be one stamp or one per image ({n}), got shape {host.shape}"
        raise ShapeMismatchError(msg)
    stamps = [host] if host.ndim == 2 else list(host)
    return list(stamps) if len(stamps) == n else stamps * n
