"""Where sources are injected into a real frame, and with which PSF: what `benchmarks.real_inject` needs of a frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import astrid_gpu as ag
from astrid_gpu.calibrate import noise_variance, saturation_mask, subtract_background
from astrid_gpu.errors import PsfError
from astrid_gpu.flags import INVALID, PixelFlag
from astrid_gpu.image import PSF, Image
from astrid_gpu.psf import measure_psf
from astrid_gpu.stars import StarFlag, find_stars

__all__ = ["PLACEMENTS", "SOURCE", "FrameFacts", "LocalPsf", "places", "prepared"]

PLACEMENTS = ("uniform", "galaxy", "bright star")
"""Anywhere; on light that no star explains; one to four FWHM from a star of S/N 200 or more."""

SOURCE = np.dtype([("x", "f8"), ("y", "f8"), ("flux", "f8"), ("snr", "f8"), ("place", "U12")])
_BORDER, _APART, _BRIGHT = 3.0, 5.0, 200.0  # FWHM from the edge, FWHM from each other, S/N of a bright star
_STARS_A_CELL = 12


@dataclass(frozen=True)
class FrameFacts:
    """A science frame after its own stages: sky off, variance on, its stars, and electrons per unit."""

    image: Image
    sigma: float
    stars: np.ndarray
    gain: float | None


def prepared(image: Image) -> FrameFacts:
    """Run the stages of a single image; the gain is the header's, else the sky's, else the variance plane's."""
    saturated, _ = saturation_mask(image)
    mask = saturated.astype(np.uint8) if image.mask is None else ((image.mask != 0) | saturated).astype(np.uint8)
    subtracted, background, _ = subtract_background(image.with_(mask=mask))
    variance, sigma, step = noise_variance(subtracted, background)
    stars = find_stars(subtracted, background_rms=sigma, saturated=saturated)
    gain = step.values.get("gain")
    if gain is None and image.variance is not None:
        gain = _gain_of_plane(subtracted, variance, sigma)
    return FrameFacts(subtracted.with_(variance=variance), sigma, stars, None if gain is None else float(gain))


def _gain_of_plane(image: Image, variance: np.ndarray, sigma: float) -> float | None:
    """Return electrons per unit from how a variance plane grows with the light, None if it does not."""
    bright = (image.data > 30 * sigma) & ~image.bad
    if np.count_nonzero(bright) < 50:
        return None
    slope = float(np.median((variance[bright] - sigma**2) / image.data[bright]))
    return 1 / slope if slope > 0 else None


class LocalPsf:
    """The PSF measured in each quarter of a frame, or in the whole where a quarter has too few stars."""

    def __init__(self, frame: FrameFacts) -> None:
        self._shape = frame.image.shape
        narrow = measure_psf(frame.image, stars=frame.stars)
        # As wide as `subtract` measures its own: light that a stamp cuts off would be in no flux.
        self._size = 2 * int(np.ceil(6 * narrow.fwhm)) + 1
        whole = measure_psf(frame.image, stars=frame.stars, size=self._size)
        self._cells = [[self._cell(frame, j, i) or whole for i in (0, 1)] for j in (0, 1)]

    def _cell(self, frame: FrameFacts, j: int, i: int) -> PSF | None:
        ny, nx = self._shape
        x, y = frame.stars["x"], frame.stars["y"]
        here = frame.stars[((y >= ny / 2) == bool(j)) & ((x >= nx / 2) == bool(i))]
        clean = (here["flags"] == 0) & here["isolated"] & (here["snr"] >= 20)
        if clean.sum() < _STARS_A_CELL:
            return None
        try:
            return measure_psf(frame.image, stars=here, size=self._size)
        except PsfError:
            return None

    def at(self, x: float, y: float) -> PSF:
        """Return the PSF at a place."""
        ny, nx = self._shape
        return self._cells[int(y >= ny / 2)][int(x >= nx / 2)]

    def describe(self) -> list[dict[str, Any]]:
        """Return FWHM and number of stars of each quarter."""
        return [{"fwhm": p.fwhm, "n_stars": p.n_stars, "origin": p.origin} for row in self._cells for p in row]


def places(
    diff: ag.Difference, frame: FrameFacts, number: int, where: tuple[str, ...], rng: np.random.Generator
) -> np.ndarray:
    """Choose places for sources, placement after placement.

    Parameters
    ----------
    diff : Difference
        Of the bare frame: which pixels are usable.
    frame : FrameFacts
    number : int
        At most so many; fewer where they would come too near to each other.
    where : tuple of str
        Of `PLACEMENTS`, in turn; one that is named twice gets twice as many.
    rng : numpy.random.Generator

    Returns
    -------
    structured array of `SOURCE`, fluxes still zero
    """
    fwhm = diff.metrics["fwhm_science"]
    usable = np.isfinite(diff.score_corr) & ((diff.mask & (INVALID | int(PixelFlag.EDGE))) == 0)
    pools = {name: np.argwhere(usable & pixels) for name, pixels in _pools(frame, fwhm).items() if name in where}
    turns = [name for name in where if len(pools[name])]
    out = np.zeros(number, SOURCE)
    count = 0
    for k in range(number):
        name = turns[k % len(turns)]
        for _ in range(60):
            y, x = pools[name][rng.integers(len(pools[name]))] + rng.uniform(-0.5, 0.5, 2)
            apart = np.hypot(out["x"][:count] - x, out["y"][:count] - y)
            if count == 0 or apart.min() > _APART * fwhm:
                out["x"][count], out["y"][count], out["place"][count] = x, y, name
                count += 1
                break
    return out[:count]


def _pools(frame: FrameFacts, fwhm: float) -> dict[str, np.ndarray]:
    """Return for each placement the pixels that belong to it."""
    from scipy.ndimage import distance_transform_edt, median_filter

    shape = frame.image.shape
    rows, columns = np.indices(shape)
    border = _BORDER * fwhm
    inside = (rows >= border) & (rows < shape[0] - border) & (columns >= border) & (columns < shape[1] - border)
    stars = frame.stars
    bright = stars[(stars["snr"] >= _BRIGHT) & (stars["flags"] & int(StarFlag.EXTENDED | StarFlag.EDGE) == 0)]
    centres = np.ones(shape, bool)
    if len(bright):
        centres[np.clip(np.rint(bright["y"]).astype(int), 0, shape[0] - 1),
                np.clip(np.rint(bright["x"]).astype(int), 0, shape[1] - 1)] = False  # fmt: skip
    distance = distance_transform_edt(centres) if len(bright) else np.full(shape, np.inf)
    light = np.where(frame.image.bad, 0, frame.image.data)
    # A median over four FWHM keeps no star but the saturated ones, and these are kept out by their distance.
    extended = median_filter(light, size=2 * round(2 * fwhm) + 1) > 1.0 * frame.sigma
    extended &= distance > 3 * fwhm
    return {
        "uniform": inside,
        "galaxy": inside & extended,
        "bright star": inside & (distance > fwhm) & (distance < 4 * fwhm),
    }
