"""`inject`: point sources into an image that exists, with its own PSF and photon noise, and their truth."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from astrid_gpu.calibrate import noise_variance, subtract_background
from astrid_gpu.errors import InputError
from astrid_gpu.image import PSF, Image
from astrid_gpu.io import as_image, read_psf, read_psf_model
from astrid_gpu.ops.fourier import shift_phase
from astrid_gpu.psf import measure_psf
from astrid_gpu.simulate.profiles import PsfModel
from astrid_gpu.simulate.truth import TRUTH_DTYPE, sky_coordinates

__all__ = ["Injected", "inject"]

_MARGIN = 4  # pixels round a stamp, so that moving it by half a pixel wraps nothing round
_STAMP = 12.0  # side in FWHM of a stamp made from a model profile


class Injected(NamedTuple):
    """An image with sources added, and the truth about them: rows of `simulate.TRUTH_DTYPE`."""

    image: Image
    truth: np.ndarray


def inject(
    image: Any,
    sources: Any,
    *,
    psf: Any = None,
    gain: float | None = None,
    noise: bool = True,
    seed: int | np.random.Generator = 0,
) -> Injected:
    """Add point sources to an image, real or simulated, as if they had been on the sky.

    The same light as a star's falls on each pixel, with the Poisson noise of its own photons; pixels that come to
    saturation stay at its level, masked ones masked and NaN ones NaN. A variance plane grows by the sources' share.

    Parameters
    ----------
    image : Image, array (ny, nx), CCDData, path, ...
        What `subtract` takes. Left as it is.
    sources : structured array, table or mapping of columns
        `x` and `y` (0-based pixels) or `ra` and `dec` (degrees, with a WCS); `flux` (unit of the image) or `mag` (with
        a zero point). Optional: `id`, `kind`, `on_galaxy`, copied into the truth.
    psf : PSF, array, path, str, PsfModel or object with ``at(x, y)``, optional
        Shape of the sources; a model that varies is evaluated at each of them. Default: `image.psf`, else measured on
        the image's stars. A stamp is moved to the sub-pixel place by a Fourier phase, which keeps its sum; below a
        FWHM of two pixels that rings a little, and a `PsfModel`, integrated over each pixel, does not.
    gain : float, optional
        Electrons per unit of the image. Default: `image.gain`.
    noise : bool
        Draw the photon noise. Without it exactly the expected light is added and no gain is needed.
    seed : int or numpy.random.Generator

    Returns
    -------
    (image, truth) : Injected
        `truth["snr"]` is the best significance that the source can have in this image alone; NaN where the image has
        neither a variance nor noise of its own.

    Raises
    ------
    InputError
        Columns missing, places off the image, fluxes not positive, no gain for the noise; each says what to do.
    PsfError
        No PSF was given and none can be measured.

    Notes
    -----
    To let a source fade, inject it into the reference. Cost: one small FFT a source, and a background if the image
    brings no variance.

    Examples
    --------
    >>> import astrid_gpu as ag
    >>> field = ag.simulate.pair(seed=1, shape=(128, 128), n_changes=0)
    >>> image, truth = ag.simulate.inject(field.science, {"x": [40.3], "y": [61.8], "flux": [3000.0]})
    >>> float(truth["flux"][0])
    3000.0
    """
    image = as_image(image, name="image")
    table = _columns(sources)
    x, y = _places(table, image)
    flux = _fluxes(table, image)
    gain = _gain(image, gain, noise=noise)
    patches = _patches(image, psf, x, y)
    light = np.zeros(image.shape, np.float64)
    for patch, f in zip(patches, flux, strict=True):
        inside, part = _overlap(patch, image.shape)
        light[inside] += f * part
    changed = _exposed(image, light, gain if noise else None, np.random.default_rng(seed))
    if image.variance is not None and gain is not None:
        variance = image.variance + np.maximum(light, 0) / gain
        changed = changed.with_(variance=variance.astype(image.variance.dtype))
    truth = _truth(table, image, x, y, flux)
    truth["snr"] = flux / _errors(changed, patches)
    return Injected(changed, truth)


class _Patch(NamedTuple):
    """Light of a source of unit flux, and the pixel (y, x) of its first corner."""

    light: np.ndarray
    y: int
    x: int


def _columns(sources: Any) -> dict[str, np.ndarray]:
    """Return the columns of whatever holds them, all of one length."""
    names = getattr(getattr(sources, "dtype", None), "names", None) or getattr(sources, "colnames", None)
    if names is None:
        if not hasattr(sources, "keys"):
            msg = (
                "sources must be a table, a structured array or a mapping with columns x, y and flux; got "
                f"{type(sources).__name__}. A list of positions is written {{'x': [...], 'y': [...], 'flux': [...]}}"
            )
            raise InputError(msg)
        names = list(sources.keys())
    table = {str(name): np.atleast_1d(np.asarray(sources[name])) for name in names}
    lengths = {name: column.shape for name, column in table.items()}
    if len(set(lengths.values())) > 1 or any(column.ndim != 1 for column in table.values()):
        told = ", ".join(f"{name} {shape}" for name, shape in lengths.items())
        msg = f"the columns of sources must be one-dimensional and of one length; got {told}"
        raise InputError(msg)
    return table


def _places(table: dict[str, np.ndarray], image: Image) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y in pixels, on the image."""
    if {"x", "y"} <= table.keys():
        x, y = (np.asarray(table[name], np.float64) for name in ("x", "y"))
    elif {"ra", "dec"} <= table.keys() and image.wcs is not None:
        x, y = (np.asarray(v, np.float64) for v in image.wcs.world_to_pixel_values(table["ra"], table["dec"]))
    else:
        more = "" if image.wcs is not None else f"; {image.name} has no WCS for ra and dec"
        msg = f"sources need the columns x and y (pixels) or ra and dec (degrees), got {', '.join(table)}{more}"
        raise InputError(msg)
    ny, nx = image.shape
    off = ~((x >= -0.5) & (x < nx - 0.5) & (y >= -0.5) & (y < ny - 0.5))
    if off.any():
        i = int(np.argmax(off))
        msg = f"{off.sum()} of {len(x)} sources lie off the {nx}x{ny} image, the first at x {x[i]:g}, y {y[i]:g}"
        raise InputError(msg)
    return x, y


def _fluxes(table: dict[str, np.ndarray], image: Image) -> np.ndarray:
    """Return fluxes in the unit of the image."""
    if "flux" in table:
        flux = np.asarray(table["flux"], np.float64)
    elif "mag" in table and image.zero_point is not None:
        flux = 10 ** (0.4 * (image.zero_point - np.asarray(table["mag"], np.float64)))
    else:
        more = "" if image.zero_point is not None else f"; {image.name} has no zero point for mag"
        msg = f"sources need the column flux (unit of the image) or mag, got {', '.join(table)}{more}"
        raise InputError(msg)
    if not np.all(np.isfinite(flux) & (flux > 0)):
        worst = flux[~(np.isfinite(flux) & (flux > 0))][0]
        msg = (
            f"fluxes must be finite and positive, got {worst:g}: the photon noise of light that is there cannot be "
            "taken back. To let a source fade, inject it into the reference"
        )
        raise InputError(msg)
    return flux


def _gain(image: Image, gain: float | None, *, noise: bool) -> float | None:
    """Return electrons per unit: as given, or the image's; it must be known if noise is to be drawn."""
    found = image.gain if gain is None else gain
    if found is None and not noise:
        return None
    if found is None or not (np.isfinite(found) and found > 0):
        what = "has no gain" if found is None else f"has a gain of {found!r}"
        msg = f"{image.name} {what}: give gain= in electrons per unit of the image, or noise=False for noise-free light"
        raise InputError(msg)
    return float(found)


def _patches(image: Image, psf: Any, x: np.ndarray, y: np.ndarray) -> list[_Patch]:
    """Return the light of each source for unit flux."""
    if isinstance(psf, PsfModel):
        return [_profile_patch(psf, float(sx), float(sy)) for sx, sy in zip(x, y, strict=True)]
    spec = psf if psf is not None else image.psf
    if spec is None:
        # As wide as `subtract` measures its own: the light that a stamp cuts off would be in no flux.
        spec = measure_psf(image, size=2 * int(np.ceil(6 * measure_psf(image).fwhm)) + 1)
    if not hasattr(spec, "at"):
        spec = read_psf_model(spec, shape=image.shape)
    if isinstance(spec, PSF):
        stamps = [spec.data] * len(x)
    else:
        stamps = [read_psf(spec, x=float(sx), y=float(sy)).data for sx, sy in zip(x, y, strict=True)]
    return [_moved(stamp, float(sx), float(sy)) for stamp, sx, sy in zip(stamps, x, y, strict=True)]


def _profile_patch(model: PsfModel, x: float, y: float) -> _Patch:
    half = int(np.ceil(0.5 * _STAMP * model.fwhm))
    iy, ix = round(y), round(x)
    axis = np.arange(-half, half + 1)
    light = model.pixels(axis + (iy - y), axis + (ix - x))
    return _Patch(light / light.sum(), iy - half, ix - half)


def _moved(stamp: np.ndarray, x: float, y: float) -> _Patch:
    """Move a centred stamp to a sub-pixel place by a Fourier phase; its sum stays what it was."""
    iy, ix = round(y), round(x)
    frame = np.pad(stamp, _MARGIN)
    moved = np.fft.irfft2(np.fft.rfft2(frame) * shift_phase(frame.shape, y - iy, x - ix), s=frame.shape)
    return _Patch(moved, iy - frame.shape[0] // 2, ix - frame.shape[1] // 2)


def _overlap(patch: _Patch, shape: tuple[int, int]) -> tuple[tuple[slice, slice], np.ndarray]:
    """Return where a patch lies on a frame, and what of it does."""
    here, there = [], []
    for start, side, n in zip((patch.y, patch.x), patch.light.shape, shape, strict=True):
        low, high = max(start, 0), min(start + side, n)
        here.append(slice(low, high))
        there.append(slice(low - start, high - start))
    return (here[0], here[1]), patch.light[there[0], there[1]]


def _exposed(image: Image, light: np.ndarray, gain: float | None, rng: np.random.Generator) -> Image:
    """Return the image with light added, its photons counted if there is a gain, clipped where it saturates."""
    if gain is not None:
        # Rings of a measured PSF may be negative: no photons there, the expectation only.
        light = rng.poisson(np.maximum(light, 0) * gain) / gain + np.minimum(light, 0)
    kind = image.data.dtype if image.data.dtype.kind == "f" else np.dtype(np.float64)
    data = (image.data + light).astype(kind)
    if image.saturation is not None and np.isfinite(image.saturation):
        limit = image.saturation - image.background_level
        over = (data > limit) & (light != 0)
        data[over] = np.maximum(image.data[over], kind.type(limit))
    return image.with_(data=data)


def _errors(image: Image, patches: list[_Patch]) -> np.ndarray:
    """Return the 1-sigma error of each source's PSF flux in this image, 1 / sqrt(sum P² / V), NaN without noise."""
    variance = image.variance
    if variance is None:
        try:
            subtracted, background, _ = subtract_background(image)
        except InputError:  # a canvas without noise
            return np.full(len(patches), np.nan)
        if not np.median(background.rms) > 0:
            return np.full(len(patches), np.nan)
        variance, _, _ = noise_variance(subtracted, background)
    usable = np.isfinite(image.data) & np.isfinite(variance) & (variance > 0)
    if image.mask is not None:
        usable &= image.mask == 0
    weight = np.where(usable, 1 / np.where(usable, variance, 1), 0)
    found = []
    for patch in patches:
        inside, part = _overlap(patch, image.shape)
        found.append(np.sum(part**2 * weight[inside]))
    with np.errstate(divide="ignore"):
        return 1 / np.sqrt(np.array(found))


def _truth(table: dict[str, np.ndarray], image: Image, x: np.ndarray, y: np.ndarray, flux: np.ndarray) -> np.ndarray:
    """Return the rows of truth but for the significance."""
    truth = np.zeros(len(x), TRUTH_DTYPE)
    truth["id"] = table.get("id", np.arange(1, len(x) + 1))
    truth["kind"] = table.get("kind", "new")
    truth["on_galaxy"] = table.get("on_galaxy", False)
    truth["x"], truth["y"] = x, y
    truth["ra"], truth["dec"] = sky_coordinates(image.wcs, x, y)
    truth["flux"] = truth["flux_science"] = flux
    truth["polarity"] = 1
    return truth
