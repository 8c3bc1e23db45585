"""`Tiles`: a frame of any size as a stack of overlapping tiles of one shape, and back.

Not to be confused with the cache tiles inside the CPU's engine (kernels/tiling_numba.py), which share one PSF: these
are pieces of sky, each with a PSF, noise, flux ratio and registration of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from astrid_gpu.backends import get_backend
from astrid_gpu.errors import ConfigError, ShapeMismatchError
from astrid_gpu.ops.background import mesh_fill, mesh_filter
from astrid_gpu.ops.zogy import make_params
from astrid_gpu.ops.zogy_kernels import zogy_kernels

__all__ = ["TileValues", "Tiles"]

_SMALLEST_SIDE = 16


@dataclass(frozen=True)
class Tiles:
    """How a frame is cut into overlapping tiles, all of one shape.

    The frame is shared evenly by as few interiors as are no larger than `side`; a tile is its interior with `overlap`
    pixels more on every side. At the edges of the frame, where there are none, it reaches further inward instead: tiles
    never leave the frame, and the edge of a tile is either the frame's or `overlap` pixels from the interior. Interiors
    cover the frame once and do not overlap, so what is pasted is whole.

    Parameters
    ----------
    shape : (ny, nx)
        Of the frame.
    side : int
        Largest side of an interior, pixels; 16 at least.
    overlap : int
        Pixels: no less than the reach of whatever is done to the tiles, so that what a cut removes does not matter. For
        ZOGY the larger PSF stamp and the ringing of the matched filter.

    Raises
    ------
    ConfigError
        A side or an overlap that makes no sense.

    Examples
    --------
    >>> import numpy as np
    >>> frame = np.arange(70.0 * 50).reshape(70, 50)
    >>> tiles = Tiles(frame.shape, side=32, overlap=8)
    >>> tiles
    <Tiles of 70x50 px: 3 x 2 with interiors of up to 24x25 px, 40x41 with the overlap>
    >>> stack = tiles.cut(frame)
    >>> stack.shape
    (6, 40, 41)
    >>> bool(np.array_equal(tiles.paste(stack), frame))
    True
    """

    shape: tuple[int, int]
    side: int = 512
    overlap: int = 32

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", (int(self.shape[0]), int(self.shape[1])))
        if min(self.shape) < 1:
            msg = f"a frame has at least one pixel, got shape {self.shape}"
            raise ShapeMismatchError(msg)
        for name, least in (("side", _SMALLEST_SIDE), ("overlap", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                msg = f"{name} of a tile must be a whole number of pixels, at least {least}; got {value!r}"
                raise ConfigError(msg)

    def __len__(self) -> int:
        """Return the number of tiles."""
        return self.grid[0] * self.grid[1]

    @cached_property
    def grid(self) -> tuple[int, int]:
        """Tiles along y and x; they are numbered row by row."""
        ny, nx = (-(-n // self.side) for n in self.shape)
        return ny, nx

    @cached_property
    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Edges of the interiors along y and x: interior j covers pixels edges[j] to edges[j + 1] - 1."""
        rows, columns = (np.arange(k + 1) * n // k for n, k in zip(self.shape, self.grid, strict=True))
        return rows, columns

    @cached_property
    def tile_shape(self) -> tuple[int, int]:
        """Sides of every tile, overlap included; at most the frame's."""
        sides = (min(n, int(np.diff(e).max()) + 2 * self.overlap) for n, e in zip(self.shape, self.edges, strict=True))
        return next(sides), next(sides)

    @cached_property
    def corners(self) -> np.ndarray:
        """First pixel (y, x) of each tile, int, shape (n, 2)."""
        starts = [
            np.clip(e[:-1] - self.overlap, 0, n - side)
            for e, n, side in zip(self.edges, self.shape, self.tile_shape, strict=True)
        ]
        return np.stack(np.meshgrid(*starts, indexing="ij"), axis=-1).reshape(-1, 2)

    @cached_property
    def centres(self) -> np.ndarray:
        """Middle (y, x) of each interior in pixels of the frame, shape (n, 2): where its PSF is taken."""
        middles = [0.5 * (e[:-1] + e[1:] - 1) for e in self.edges]
        return np.stack(np.meshgrid(*middles, indexing="ij"), axis=-1).reshape(-1, 2)

    @property
    def middle(self) -> int:
        """Number of the tile that holds the middle pixel of the frame."""
        return self.holding(self.shape[0] // 2, self.shape[1] // 2)

    def holding(self, y: int, x: int) -> int:
        """Return the number of the tile whose interior holds a pixel."""
        j, i = (int(np.searchsorted(e, p, side="right")) - 1 for e, p in zip(self.edges, (y, x), strict=True))
        return int(np.clip(j, 0, self.grid[0] - 1)) * self.grid[1] + int(np.clip(i, 0, self.grid[1] - 1))

    def holding_all(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return the numbers of the tiles whose interiors hold positions (m,); beyond the frame, of the nearest."""
        j, i = (
            np.clip(np.searchsorted(e, np.floor(np.asarray(p, float) + 0.5), side="right") - 1, 0, n - 1)
            for e, p, n in zip(self.edges, (y, x), self.grid, strict=True)
        )
        return j * self.grid[1] + i

    def window(self, k: int) -> tuple[slice, slice]:
        """Return the slices of the frame that tile `k` covers, overlap included."""
        (y, x), (ty, tx) = self.corners[k].tolist(), self.tile_shape
        return slice(y, y + ty), slice(x, x + tx)

    def interior(self, k: int) -> tuple[slice, slice]:
        """Return the slices of the frame that the interior of tile `k` covers."""
        return tuple(slice(*edge) for edge in self._interior(k))  # type: ignore[return-value]

    def inner(self, k: int) -> tuple[slice, slice]:
        """Return the slices of tile `k` itself that hold its interior."""
        return tuple(  # type: ignore[return-value]
            slice(first - int(corner), last - int(corner))
            for (first, last), corner in zip(self._interior(k), self.corners[k], strict=True)
        )

    def _interior(self, k: int) -> list[tuple[int, int]]:
        places = divmod(range(len(self))[k], self.grid[1])
        return [(int(e[p]), int(e[p + 1])) for e, p in zip(self.edges, places, strict=True)]

    def cut(self, frame: Any, tiles: Any = None) -> Any:
        """Return tiles of a frame as a new stack (n, ty, tx), in the library and on the device of the frame.

        Parameters
        ----------
        frame : array, shape (ny, nx)
        tiles : sequence of int, optional
            Numbers of the tiles wanted; all by default.
        """
        self._refuse(frame.shape[-2:], self.shape, "frame")
        numbers = range(len(self)) if tiles is None else tiles
        return _library(frame).stack([frame[self.window(k)] for k in numbers])

    def paste(self, stack: Any, into: Any = None, tiles: Any = None) -> Any:
        """Write the interiors of tiles into a frame, and return it.

        Parameters
        ----------
        stack : array, shape (n, ty, tx)
        into : array, shape (ny, nx), optional
            Written to where the interiors are; a new frame by default.
        tiles : sequence of int, optional
            Numbers of the tiles in `stack`; all by default.
        """
        self._refuse(stack.shape[1:], self.tile_shape, "tiles")
        if into is None:
            into = _library(stack).empty(self.shape, stack.dtype)
        self._refuse(into.shape, self.shape, "frame")
        for tile, k in zip(stack, range(len(self)) if tiles is None else tiles, strict=True):
            into[self.interior(k)] = tile[self.inner(k)]
        return into

    def smooth(self, values: np.ndarray) -> np.ndarray:
        """Return one number per tile smoothed over its neighbours: no jump at a seam that noise alone would make.

        A running median over 3 x 3 tiles, then a (1, 2, 1) mean along both axes; a plane stays what it is.

        Parameters
        ----------
        values : array, shape (n,)
            NaN where a tile has none: its nearest neighbours fill it. All NaN stays so.
        """
        mesh = np.asarray(values, float).reshape(1, *self.grid)
        known = np.isfinite(mesh)
        if not known.any():
            return np.full(len(self), np.nan)
        smooth = mesh_filter(mesh_fill(mesh, known), 3)[0]
        for axis, count in enumerate(self.grid):
            if count > 1:
                line = np.moveaxis(smooth, axis, 0)
                padded = np.concatenate([2 * line[:1] - line[1:2], line, 2 * line[-1:] - line[-2:-1]])
                smooth = np.moveaxis(0.25 * padded[:-2] + 0.5 * line + 0.25 * padded[2:], 0, axis)
        return smooth.ravel()

    def _refuse(self, got: Any, wanted: tuple[int, int], what: str) -> None:
        if tuple(got) != wanted:
            msg = f"the {what} has shape {tuple(got)}, these tiles are cut from {self.shape} and call for {wanted}"
            raise ShapeMismatchError(msg)

    def __repr__(self) -> str:
        inner = tuple(int(np.diff(e).max()) for e in self.edges)
        return (
            f"<Tiles of {self.shape[0]}x{self.shape[1]} px: {self.grid[0]} x {self.grid[1]} with interiors of up to "
            f"{inner[0]}x{inner[1]} px, {self.tile_shape[0]}x{self.tile_shape[1]} with the overlap>"
        )


@dataclass(frozen=True, eq=False, repr=False)
class TileValues:
    """What each of n tiles was differenced with, and the flux scale of the difference that came out.

    Parameters
    ----------
    tiles : Tiles
    psf_science, psf_reference : array, shape (n, ky, kx) or (1, ky, kx)
        One for all where the PSF does not vary.
    sigma_science, sigma_reference : array, shape (n,)
        Background noise of a pixel.
    flux_ratio : array, shape (n,)
        F_n / F_r.
    astrometric_error : array, shape (n, 2)
        1 sigma in y and x, pixels.
    flux_scale : array, shape (n,), or None
        F_D.
    noise : pair of arrays (ky, kx) or (n, ky, kx), or None for white
        Autocorrelations of the noise of science and reference: one for all tiles, or of each its own.
    noise_scale : pair of arrays (n,), or None
        Variance of a pixel in each tile over that of the maps, where spectra are the tiles' own.
    """

    tiles: Tiles
    psf_science: np.ndarray
    psf_reference: np.ndarray
    sigma_science: np.ndarray
    sigma_reference: np.ndarray
    flux_ratio: np.ndarray
    astrometric_error: np.ndarray
    flux_scale: np.ndarray | None = None
    noise: tuple[np.ndarray | None, np.ndarray | None] = (None, None)
    noise_scale: tuple[np.ndarray, np.ndarray] | None = None

    def noise_of(self, tiles: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Return the autocorrelations (1 or m, ky, kx) of some tiles, given by their numbers (m,)."""
        n, r = (None if a is None else a[None] if a.ndim == 2 else a[tiles] for a in self.noise)
        return n, r

    def psf(self, k: int) -> np.ndarray:
        """Return P_D of tile `k` (Zackay et al. 2016, eq. 14), (ky, kx), odd, centred, sum 1.

        Made when it is asked for, some 30 ms each: of all tiles of a mosaic they would be as large as a map of it.
        """
        k = range(len(self.tiles))[k]
        stamps = [psf[k if len(psf) > 1 else 0] for psf in (self.psf_science, self.psf_reference)]
        flux = 1 / self.sigma_science[k], 1 / self.flux_ratio[k] / self.sigma_reference[k]
        params = make_params(1.0, 1.0, flux[0] / max(flux), flux[1] / max(flux))
        kernels = zogy_kernels(stamps[0][None], stamps[1][None], params, noise=self.noise_of([k]))
        sides = (a + b - 1 for a, b in zip(stamps[0].shape, stamps[1].shape, strict=True))
        return kernels.psf_stamps((next(sides), next(sides)))[0]

    def with_flux_scale(self, flux_scale: np.ndarray) -> TileValues:
        """Return a copy with the flux scales of the difference."""
        return replace(self, flux_scale=flux_scale)

    def spread(self) -> dict[str, float]:
        """Return how much noise, PSFs and flux ratio vary: the largest relative departure from the middle tile's."""
        found = {
            "noise_science": _departure(self.sigma_science),
            "noise_reference": _departure(self.sigma_reference),
            "flux_ratio": _departure(self.flux_ratio),
        }
        for name, stamps in (("psf_science", self.psf_science), ("psf_reference", self.psf_reference)):
            middle = stamps[self.tiles.middle if len(stamps) > 1 else 0]
            size = np.sqrt((middle**2).sum())
            found[name] = float(np.sqrt(((stamps - middle) ** 2).sum(axis=(1, 2)).max()) / size)
        return found

    def within(self) -> float:
        """Return how much PSFs and flux ratio change from the middle of a tile to its edge, as a fraction, at most.

        That is half of the difference between neighbours.
        """
        found = [_half_step(self.flux_ratio[:, None] / np.median(self.flux_ratio), self.tiles.grid)]
        for stamps in (self.psf_science, self.psf_reference):
            if len(stamps) > 1:
                middle = stamps[self.tiles.middle]
                flat = stamps.reshape(len(stamps), -1) / np.sqrt((middle**2).sum())
                found.append(_half_step(flat, self.tiles.grid))
        return max(found)

    def reasons(self, noise: float, psf: float) -> list[str]:
        """Return in words what varies by more than a fraction `noise`, or for PSFs and flux ratio than `psf`.

        And the registration error, by more than half.
        """
        limits = {
            "noise_science": ("the science noise", noise),
            "noise_reference": ("the reference noise", noise),
            "psf_science": ("the science PSF", psf),
            "psf_reference": ("the reference PSF", psf),
            "flux_ratio": ("the flux ratio", psf),
        }
        found = self.spread()
        told = [
            f"{what} varies by {100 * found[name]:.1f} %"
            for name, (what, limit) in limits.items()
            if found[name] > limit
        ]
        for axis, low, high in zip(
            "yx", *(limit(self.astrometric_error, axis=0) for limit in (np.min, np.max)), strict=True
        ):
            if high > 1.5 * low:
                told.append(f"the registration error in {axis} varies from {low:.3f} to {high:.3f} px")
        return told

    def __repr__(self) -> str:
        return f"<TileValues of {self.tiles!r}>"


def _half_step(rows: np.ndarray, grid: tuple[int, int]) -> float:
    """Return half of the largest difference between neighbours along y and x, added in square, of rows (n, m)."""
    mesh = rows.reshape(*grid, -1)
    steps = [np.sqrt((np.diff(mesh, axis=axis) ** 2).sum(axis=-1)).max(initial=0.0) for axis in (0, 1)]
    return 0.5 * float(np.hypot(*steps))


def _departure(values: np.ndarray) -> float:
    middle = float(np.median(values))
    return float(np.abs(values / middle - 1).max())


def _library(array: Any) -> Any:
    """Return the array namespace of an array: NumPy, or that of its device."""
    return np if isinstance(array, np.ndarray) else get_backend(array).xp
