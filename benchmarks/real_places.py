"""Where sources are injected into a real frame, and with which PSF: what `benchmarks.real_inject` needs of a frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import astrid_gpu as ag
from astrid_gpu.calibrate import noise_variance, saturation_mask, subtract_background
from astrid_gpu.flags import INVALID, PixelFlag
from astrid_gpu.image import PSF, Image, PSFModel
from astrid_gpu.io import read_psf_model
from astrid_gpu.ops.psf_stamps import fwhm_of
from astrid_gpu.psf import measure_psf
from astrid_gpu.stars import StarFlag, find_stars

__all__ = ["PLACEMENTS", "SOURCE", "FrameFacts", "LocalPsf", "places", "prepared"]

PLACEMENTS = ("uniform", "galaxy", "bright star")
"""Anywhere; on light that no star explains; one to four FWHM from a star of S/N 200 or more."""

SOURCE = np.dtype([("x", "f8"), ("y", "f8"), ("flux", "f8"), ("snr", "f8"), ("place", "U12")])
_BORDER, _APART, _BRIGHT = 3.0, 5.0, 200.0  # FWHM from the edge, FWHM from each other, S/N of a bright star
_GOOD, _STARS_A_HALF, _SEED = 20.0, 12, 2026  # S/N of stars that make a PSF, the least of half of them, and which
_JOIN = 2.0, 3.0  # FWHM: where the core of the frame's own PSF goes over into the wings of a given one


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
    """The PSF that injected sources get: the frame's own over the field, which is not the one it is subtracted with.

    A frame that brings no PSF is subtracted with one of all its stars; this one is of half of them, as bright as the
    other half, chosen at random: the two PSFs differ by as much as chance makes that of all stars wrong. With fewer
    than 24 stars it is of all. A frame that brings a PSF is subtracted with that; here it lends its wings, beyond what
    a few stars show, to the core that the frame's stars have.
    """

    def __init__(self, frame: FrameFacts) -> None:
        image, stars = frame.image, frame.stars
        self._shape = image.shape
        self._given = None if image.psf is None else read_psf_model(image.psf, shape=image.shape)
        # As wide as `subtract` measures its own: light that a stamp cuts off would be in no flux.
        size = 2 * int(np.ceil(6 * measure_psf(image, stars=stars).fwhm)) + 1
        of = stars if self._given is not None else _half_of(stars)
        self._own = measure_psf(image, stars=of, size=size, order="auto")

    def at(self, x: float, y: float) -> PSF:
        """Return the PSF at a place."""
        own = _at(self._own, x, y)
        return own if self._given is None else _joined(own, _at(self._given, x, y))

    def describe(self) -> list[dict[str, Any]]:
        """Return FWHM, number of stars and origin in the middle of each quarter."""
        ny, nx = self._shape
        middles = [self.at(i * nx / 4, j * ny / 4) for j in (1, 3) for i in (1, 3)]
        return [{"fwhm": p.fwhm, "n_stars": p.n_stars, "origin": p.origin} for p in middles]


def _half_of(stars: np.ndarray) -> np.ndarray:
    """Return all stars, one of every two good ones that follow each other in brightness barred from a PSF."""
    good = np.flatnonzero((stars["flags"] == 0) & stars["isolated"] & (stars["snr"] >= _GOOD))
    if len(good) < 2 * _STARS_A_HALF:
        return stars
    pairs = good[np.argsort(-stars["snr"][good])][: len(good) // 2 * 2].reshape(-1, 2)
    barred = pairs[np.arange(len(pairs)), np.random.default_rng(_SEED).integers(2, size=len(pairs))]
    stars = stars.copy()
    stars["isolated"][barred] = False  # their light is still taken off their neighbours
    return stars


def _at(psf: PSF | PSFModel, x: float, y: float) -> PSF:
    return psf if isinstance(psf, PSF) else psf.at(y, x)


def _joined(own: PSF, given: PSF) -> PSF:
    """Return a core that goes over into the wings of a given PSF, on its stamp, as much light in the core as there."""
    light = np.zeros(given.data.shape)
    here, there = [], []
    for n, m in zip(own.data.shape, given.data.shape, strict=True):
        here.append(slice(max(n - m, 0) // 2, (n + min(n, m)) // 2))
        there.append(slice(max(m - n, 0) // 2, (m + min(n, m)) // 2))
    light[tuple(there)] = own.data[tuple(here)]
    rows, columns = (np.arange(n) - n // 2 for n in light.shape)
    radius = np.hypot(rows[:, None], columns) / own.fwhm
    core = radius <= _JOIN[0]
    light *= given.data[core].sum() / light[core].sum()
    wings = np.clip((radius - _JOIN[0]) / (_JOIN[1] - _JOIN[0]), 0, 1)
    light = (1 - wings) * light + wings * given.data
    light /= light.sum()
    return PSF(light, fwhm_of(light), own.ellipticity, own.n_stars, own.residual, f"{own.origin}, {given.origin} wings")


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
