"""Simulated pairs whose registration, PSF and throughput vary over the field, with new sources of known S/N on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from astrid_gpu.image import Image
from astrid_gpu.simulate.exposure import Exposure
from astrid_gpu.simulate.pair import REFERENCE, SCIENCE
from astrid_gpu.simulate.profiles import PsfModel
from astrid_gpu.simulate.render import draw_stars
from astrid_gpu.simulate.scene import open_places, scene
from astrid_gpu.simulate.truth import point_source_noise

__all__ = ["WidePair", "constant", "stretched", "wide_pair"]

Place = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
_CELLS = 16  # along each axis: within one of them the PSF is constant


class WidePair(NamedTuple):
    """Two images, the new sources of the science image (x, y, flux) and their S/N on blank sky were all known."""

    science: Image
    reference: Image
    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    snr: np.ndarray
    stars: np.ndarray


def constant(dy: float, dx: float) -> Place:
    """The same offset everywhere."""
    return lambda y, x: (np.full(np.shape(y), dy), np.full(np.shape(x), dx))


def stretched(dy: float, dx: float, shape: tuple[int, int]) -> Place:
    """Offsets from -1 to 1 times (dy, dx) over the frame, dx bent as well: scale, rotation and some distortion."""

    def offset(y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        v, u = (2 * np.asarray(p) / n - 1 for p, n in zip((y, x), shape, strict=True))
        return dy * (0.6 * v - 0.4 * u), dx * (0.5 * u + 0.4 * v**2)

    return offset


def wide_pair(
    seed: int,
    shape: tuple[int, int],
    *,
    shift: Place | None = None,
    fwhm: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    snr: tuple[float, float] = (8.0, 15.0),
    n_new: int = 20,
    n_stars: int | None = None,
) -> WidePair:
    """Stars alone, ZTF-like; `shift` moves those of the reference, `fwhm` is that of the science PSF over the frame."""
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence([seed, 77]).spawn(4)]
    sky = scene(streams[0], shape, n_stars=n_stars, n_galaxies=0)
    stars = sky.stars
    x, y, _ = open_places(sky, n_new, streams[1], border=60.0)
    wanted = streams[1].uniform(*snr, n_new)
    flux = np.empty(n_new)
    for k in range(n_new):
        here = SCIENCE if fwhm is None else replace(SCIENCE, psf=_psf(float(fwhm(y[k], x[k]))))
        unit = point_source_noise((here, REFERENCE))
        own = wanted[k] ** 2 / (2 * here.gain)
        flux[k] = 0.5 * (own + np.sqrt(own**2 + 4 * (wanted[k] * unit) ** 2))
    images = []
    for name, exposure, stream in (("science", SCIENCE, streams[2]), ("reference", REFERENCE, streams[3])):
        canvas = np.full(shape, exposure.sky)
        py, px, light = stars["y"].copy(), stars["x"].copy(), stars["flux"] * exposure.flux_scale
        if name == "reference" and shift is not None:
            dy, dx = shift(py, px)
            py, px = py + dy, px + dx
        width = fwhm if name == "science" else None
        _draw(canvas, py, px, light, exposure, width)
        if name == "science":
            _draw(canvas, y, x, flux, exposure, width)
        data = (stream.poisson(canvas * exposure.gain) + stream.normal(0, exposure.read_noise, shape)) / exposure.gain
        images.append(
            Image(
                np.minimum(data, exposure.saturation).astype(np.float32),
                gain=exposure.gain,
                read_noise=exposure.read_noise,
                saturation=exposure.saturation,
                name=name,
            )
        )
    return WidePair(images[0], images[1], x, y, flux, wanted, stars)


def _psf(fwhm: float) -> PsfModel:
    return replace(SCIENCE.psf, fwhm=fwhm)


def _draw(
    canvas: np.ndarray, y: np.ndarray, x: np.ndarray, flux: np.ndarray, exposure: Exposure, fwhm: Callable | None
) -> None:
    """Draw stars with the PSF of the exposure, or of the cell that each lies in."""
    floor = 0.02 * exposure.sky_noise
    if fwhm is None:
        draw_stars(canvas, x, y, flux, exposure.psf, floor=floor)
        return
    ny, nx = canvas.shape
    cells = [np.clip(p * _CELLS // n, 0, _CELLS - 1).astype(int) for p, n in ((y, ny), (x, nx))]
    number = cells[0] * _CELLS + cells[1]
    for k in np.unique(number):
        j, i = divmod(int(k), _CELLS)
        middle = fwhm(np.array((j + 0.5) * ny / _CELLS), np.array((i + 0.5) * nx / _CELLS))
        mine = number == k
        draw_stars(canvas, x[mine], y[mine], flux[mine], _psf(float(middle)), floor=floor)
