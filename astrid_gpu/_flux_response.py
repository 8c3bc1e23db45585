"""The flux of sources where the PSF is not quite that of the middle of their tile: alpha over the filter's response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from astrid_gpu.image import PSFModel
from astrid_gpu.kernels._pool import share
from astrid_gpu.ops.field import on_grid, terms_at
from astrid_gpu.ops.source_response import source_response
from astrid_gpu.ops.zogy import make_params
from astrid_gpu.tiles import Tiles, TileValues

__all__ = ["FluxResponse", "flux_response"]

_LEAST = 0.1  # a model that runs off must not make a flux of nothing


@dataclass(frozen=True, eq=False)
class _Response:
    """The response of the filter of each tile to a source with the PSF of its own place; 1 in the tile's middle.

    A polynomial in position over another, those of the PSFModel: `filtered` (n, n_terms) are the coefficients of
    <k, P> by tile, `sums` (n_terms,) those of the sum of P.
    """

    model: PSFModel
    filtered: np.ndarray
    sums: np.ndarray

    def at(self, tile: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return the response at places (m,) in tiles (m,)."""
        basis = terms_at(y, x, self.model.order, self.model.centre, self.model.scale)  # type: ignore[arg-type]
        response: np.ndarray = np.einsum("mt,mt->m", basis, self.filtered[tile]) / (basis @ self.sums)
        return np.maximum(response, _LEAST)

    def over(self, k: int, window: tuple[slice, slice]) -> np.ndarray:
        """Return the response of the filter of tile k on the pixels of a window."""
        y, x = (np.arange(w.start, w.stop) for w in window)
        filtered, sums = (
            on_grid(terms, y, x, self.model.centre, self.model.scale)  # type: ignore[arg-type]
            for terms in (self.filtered[k], self.sums)
        )
        return np.maximum(filtered / sums, _LEAST)


@dataclass(frozen=True, eq=False, repr=False)
class FluxResponse:
    """What a flux of S / F_S must be divided by where the PSF varies; 1 in the middle of each tile.

    `science` is the response to a source that the science image has, `reference` to one that only the reference has;
    None where that image's PSF is constant. Exact for a source without a static one beneath; errors scale likewise.
    """

    tiles: Tiles
    science: _Response | None
    reference: _Response | None

    def divide(self, *maps: np.ndarray) -> None:
        """Divide maps (ny, nx), the flux and its error, by the response to a source of the science image."""
        response = self.science
        if response is None:
            return

        def one(k: int) -> None:
            window = self.tiles.interior(k)
            inverse = (1 / response.over(k, window)).astype(maps[0].dtype)
            for plane in maps:
                plane[window] *= inverse

        share(one, len(self.tiles))

    def vanished(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return the factors (m,) from the flux of the maps to that of a source of the reference, at places (m,)."""
        tile, factor = self.tiles.holding_all(y, x), np.ones(len(y))
        if self.science is not None:
            factor *= self.science.at(tile, y, x)
        return factor if self.reference is None else factor / self.reference.at(tile, y, x)


def flux_response(values: TileValues, models: tuple[PSFModel | None, PSFModel | None]) -> FluxResponse | None:
    """Return the responses of the filters of tiles, None where both PSFs are constant."""
    if models == (None, None):
        return None
    flux = 1 / values.sigma_science, 1 / values.flux_ratio / values.sigma_reference
    scale = np.maximum(*flux)
    params = make_params(1.0, 1.0, flux[0] / scale, flux[1] / scale)
    noise = values.noise_of(np.arange(len(values.tiles)))
    n, r = (None if m is None else m.terms for m in models)
    found = source_response((values.psf_science, values.psf_reference), params, (n, r), noise=noise)
    parts = [_normalised(m, f, values.tiles) for m, f in zip(models, found, strict=True)]
    return FluxResponse(values.tiles, *parts)


def _normalised(model: PSFModel | None, filtered: Any, tiles: Tiles) -> _Response | None:
    """Return a response that is 1 in the middle of each tile."""
    if model is None:
        return None
    sums = model.terms.sum(axis=(1, 2))
    y, x = tiles.centres.T
    basis = terms_at(y, x, model.order, model.centre, model.scale)  # type: ignore[arg-type]
    middle = (basis * filtered).sum(axis=1) / (basis @ sums)
    return _Response(model, filtered / middle[:, None], sums)
