"""The registration that stars show, over the field: removed as a Fourier phase, the rest counted as noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from astrid_gpu._flux_ratio import FluxRatio
from astrid_gpu._given import Given
from astrid_gpu._registration_field import RegistrationField, fit_registration
from astrid_gpu.align import Aligned
from astrid_gpu.backends import get_backend
from astrid_gpu.config import SubtractConfig
from astrid_gpu.image import PSF, Image
from astrid_gpu.ops.fill import fill_masked, fill_profiles
from astrid_gpu.ops.fourier import padded_shape, shift_phase
from astrid_gpu.results import Step
from astrid_gpu.tiles import Tiles

__all__ = [
    "LARGE_SHIFT",
    "MIN_SHIFT",
    "PSF_CENTRE",
    "Registered",
    "move_by_field",
    "plan_registration",
    "register_reference",
]

MIN_SHIFT = 0.005
"""Registration offsets below this many pixels are left alone and counted as noise."""

PSF_CENTRE = 0.02
"""What the centres of two measured PSFs are good for, pixels: added to the registration noise."""

LARGE_SHIFT = 0.05
"""Offsets from which on the flux ratio is measured once more on the moved reference."""

DEPARTURE = 0.03
"""A phase is constant over a tile: how far the field may run within it, pixels. What it does run is made up for by the
gradient of the image; what that leaves is of second order, (0.03 / sigma)² / 2 of a star's peak."""

_SHIFT_OVERLAP = 64


@dataclass(frozen=True)
class Registered:
    """What is removed of the registration offset and what remains uncertain; and the reference, once it is moved.

    `shift` (dy, dx) is one offset for the whole frame, `field` one that varies; both None where nothing is removed.
    """

    error: tuple[float, float]
    steps: list[Step]
    reference: Any = None
    shift: tuple[float, float] | None = None
    field: RegistrationField | None = None
    moved: float = 0.0

    def error_at(self, places: np.ndarray) -> np.ndarray:
        """Return the astrometric error (y, x) at places (n, 2), 1 sigma in pixels."""
        if self.field is None:
            return np.broadcast_to(np.array(self.error), (len(places), 2)).copy()
        return np.hypot(self.field.error(*places.T), PSF_CENTRE)

    def move(self, image: Image, psf: PSF, noise: float, origin: tuple[int, int] = (0, 0)) -> np.ndarray:
        """Return the pixels of the reference, or of a window of it whose first pixel is `origin`, moved."""
        if self.field is not None:
            side = self.field.side(DEPARTURE)
            return move_by_field(image, self.field, Tiles(image.shape, side, _SHIFT_OVERLAP), psf, noise, origin)
        return image.data if self.shift is None else _shifted(image, *self.shift, psf, noise)


def register_reference(
    aligned: Aligned, ratio: FluxRatio, psf: PSF, noise: float, config: SubtractConfig, given: Given
) -> Registered:
    """Remove the registration offset as a Fourier phase; what remains uncertain of it is astrometric noise."""
    found = plan_registration(aligned.image.shape, aligned.scatter, ratio, config, given)
    return replace(found, reference=found.move(aligned.image, psf, noise))


def plan_registration(
    shape: tuple[int, int],
    left: tuple[float, float] | None,
    ratio: FluxRatio,
    config: SubtractConfig,
    given: Given,
) -> Registered:
    """Decide what is removed: a smooth field where the stars demand one, else one number.

    With too few stars for a field, the mean of what there is; with none, `left`, the scatter that the alignment left,
    is all that is known.
    """
    if given.astrometric_error is not None:
        text = f"astrometric error {given.astrometric_error[0]:g}, {given.astrometric_error[1]:g} px (y, x) as given"
        return Registered(given.astrometric_error, [Step("registration", text, {})])
    if config.registration == "none":
        return Registered((0.0, 0.0), [Step("registration", "offset and scatter ignored, as asked", {})])
    field = None if ratio.places is None else fit_registration(ratio.places, shape)
    if field is not None and field.order and config.registration == "shift":
        return _by_field(field)
    return _by_mean(left, ratio, config)


def _by_mean(left: tuple[float, float] | None, ratio: FluxRatio, config: SubtractConfig) -> Registered:
    """Remove one offset for the whole frame, or count it as noise."""
    scatter = (ratio.scatter_y, ratio.scatter_x)
    if not np.all(np.isfinite(scatter)):
        scatter = left or (0.0, 0.0)
    dy, dx = ratio.dy, ratio.dx
    known = np.isfinite(dy) and np.isfinite(dx)
    error = (float(np.hypot(scatter[0], PSF_CENTRE)), float(np.hypot(scatter[1], PSF_CENTRE)))
    few = "" if ratio.n_stars >= 3 else f"; {ratio.n_stars} stars are too few to tell how it varies"
    if config.registration == "noise" or not known or max(abs(dy), abs(dx)) < MIN_SHIFT:
        if known:
            error = (float(np.hypot(error[0], dy)), float(np.hypot(error[1], dx)))
        text = f"offset y {dy:+.3f}, x {dx:+.3f} px left in place; astrometric error {error[0]:.3f}, {error[1]:.3f} px"
        return Registered(error, [Step("registration", text + few, {"dy": dy, "dx": dx})])
    text = (
        f"reference moved by y {dy:+.3f}, x {dx:+.3f} px (Fourier phase); "
        f"astrometric error {error[0]:.3f}, {error[1]:.3f} px from the scatter of {ratio.n_stars} stars{few}"
    )
    step = Step("registration", text, {"dy": dy, "dx": dx})
    return Registered(error, [step], shift=(dy, dx), moved=float(np.hypot(dy, dx)))


def _by_field(field: RegistrationField) -> Registered:
    """Remove a field of offsets by tiles, each with its own phase."""
    places = field.grid()
    offsets, errors = field.at(*places), np.hypot(field.error(*places), PSF_CENTRE)
    error = tuple(float(e) for e in np.sqrt(np.mean(errors**2, axis=0)))
    (low_y, low_x), (high_y, high_x) = offsets.min(axis=0), offsets.max(axis=0)
    text = (
        f"reference moved by a field of order {field.order} from {field.n_stars} stars, y {low_y:+.3f} to "
        f"{high_y:+.3f}, x {low_x:+.3f} to {high_x:+.3f} px (Fourier phases of tiles of {field.side(DEPARTURE)} px); "
        f"astrometric error {error[0]:.3f}, {error[1]:.3f} px (rms), {errors.max():.3f} at most"
    )
    mean = offsets.mean(axis=0)
    values: dict[str, Any] = {"dy": float(mean[0]), "dx": float(mean[1]), "order": field.order}
    values |= {"n_stars": field.n_stars, "departure": field.departure(), "largest_error": float(errors.max())}
    largest = float(np.hypot(*offsets.T).max())
    return Registered(error, [Step("registration", text, values)], field=field, moved=largest)  # type: ignore[arg-type]


def move_by_field(
    image: Image, field: RegistrationField, tiles: Tiles, psf: PSF, noise: float, origin: tuple[int, int] = (0, 0)
) -> np.ndarray:
    r"""Move an image by a field of small offsets: R(x - d(x)) = R_k(x) - (d(x) - d_k) . grad R_k(x).

    R_k is the image moved by the field's value d_k in the middle of tile k, by a Fourier phase; the gradient carries it
    on to the field's own value, so that nothing jumps from tile to tile. `origin` is the place of the image's first
    pixel in the field.
    """
    out = np.empty(image.shape, image.data.dtype)
    for k, (dy, dx) in enumerate(field.at(*(tiles.centres + origin).T)):
        window, inner, interior = tiles.window(k), tiles.inner(k), tiles.interior(k)
        mask = None if image.mask is None else image.mask[window]
        moved = _shifted(Image(image.data[window], mask=mask, name=image.name), float(dy), float(dx), psf, noise)
        rows, columns = (np.arange(part.start, part.stop) + first for part, first in zip(interior, origin, strict=True))
        rest_y, rest_x = (
            (d - middle).astype(moved.dtype) for d, middle in zip(field.on_grid(rows, columns), (dy, dx), strict=True)
        )
        whole = np.nan_to_num(moved)
        slope_y, slope_x = (_slope(whole, axis)[inner] for axis in (0, 1))
        out[interior] = moved[inner] - rest_y * slope_y - rest_x * slope_x
    return out


def _slope(image: np.ndarray, axis: int) -> np.ndarray:
    """Return the derivative along an axis, of sixth order in the pixel."""
    line = np.moveaxis(image, axis, 0)
    padded = np.pad(line, ((3, 3), (0, 0)), mode="edge")
    n = len(line)
    step = [padded[3 + k : 3 + k + n] - padded[3 - k : 3 - k + n] for k in (1, 2, 3)]
    kind = image.dtype.type
    return np.moveaxis(kind(45 / 60) * step[0] - kind(9 / 60) * step[1] + kind(1 / 60) * step[2], 0, axis)


def _shifted(image: Image, dy: float, dx: float, psf: PSF, noise: float) -> np.ndarray:
    """Move an image by a fraction of a pixel: holes and edges filled, a phase in Fourier space, holes put back."""
    from scipy import fft

    ny, nx = image.shape
    padded = padded_shape(image.shape, psf.data.shape[0], lambda n: fft.next_fast_len(n))
    bad = np.ones((1, *padded), np.uint8)
    bad[0, :ny, :nx] = image.bad
    frame = np.zeros((1, *padded), image.data.dtype)
    frame[0, :ny, :nx] = np.where(image.bad, 0, image.data)
    profiles = fill_profiles([max(psf.fwhm / 2.3548, 0.7)], padded)
    backend = get_backend("auto")
    fill = None if backend.is_gpu else backend.ops.get("fill_masked")
    filled = (fill or fill_masked)(frame / noise, bad, profiles) * noise
    moved = fft.irfft2(fft.rfft2(filled[0]) * shift_phase(padded, dy, dx), s=padded)[:ny, :nx]
    return np.where(image.bad, np.nan, moved).astype(image.data.dtype)
