"""From a registered exposure to what ZOGY asks for: background, noise, saturated pixels, flux ratio."""

from __future__ import annotations

from typing import Any

import numpy as np

from astrid_gpu._flux_ratio import FluxRatio, flux_ratio
from astrid_gpu._noise import dilated, median_of, noise_variance, sky_sigma, source_pixels
from astrid_gpu._noise_model import seen_by
from astrid_gpu._noise_spectrum import measure_noise_spectrum
from astrid_gpu._saturation import saturation_mask
from astrid_gpu.errors import InputError
from astrid_gpu.image import PSF, Image
from astrid_gpu.ops.noise import clipped_statistics, median_sigma
from astrid_gpu.results import Background, Step

__all__ = [
    "FluxRatio",
    "flux_ratio",
    "measure_noise_spectrum",
    "noise_variance",
    "residual_background",
    "saturation_mask",
    "subtract_background",
]

_SMALLEST_MESH = 3  # boxes along the shorter side; fewer, and one level serves the whole image
_SMALLEST_BOX = 32
_SPARSE = 0.15  # part of the pixels


def subtract_background(
    image: Image,
    *,
    box: int | None = None,
    filter_size: int = 3,
    psf_fwhm: float | None = None,
    sources: np.ndarray | None = None,
    backend: Any = "auto",
) -> tuple[Image, Background, Step]:
    """Subtract the sky: a mesh of clipped levels, measured again with the objects of the first pass masked.

    Parameters
    ----------
    image : Image
    box : int, optional
        Side of a mesh box in pixels. Default: 64, or 12 FWHM if that is more, but at least 3 boxes along the
        shorter side; images too small for that (under 96 px, or with too few good pixels) get one level.
    filter_size : int
        Median filter over the mesh, in boxes.
    psf_fwhm : float, optional
        Pixels; default that of `image.psf` if there is one, else 4.
    sources : bool array (ny, nx), optional
        Pixels known to hold sources; found from the image otherwise.
    backend : str or Backend
        See `get_backend`; used for the mesh.

    Returns
    -------
    (Image, Background, Step)
        The image less its background, `background_level` raised by the median of what was taken off; level and rms
        maps (ny, nx) and mesh; what was done.

    Raises
    ------
    InputError
        No good pixel, or all good pixels have the same value.
    """
    bad = image.bad
    _refuse_constant(image, bad)
    fwhm = psf_fwhm or (image.psf.fwhm if image.psf is not None and np.isfinite(image.psf.fwhm) else 4.0)
    side = _box_side(image.shape, bad, box, fwhm)
    kind = image.data.dtype if image.data.dtype.kind == "f" else np.dtype(np.float64)
    data = np.where(bad, kind.type(0), image.data.astype(kind, copy=False))
    covered = np.zeros(image.shape, bool) if sources is None else sources.astype(bool)
    background = _measure(data, bad | covered, side, filter_size, backend)
    for _ in range(2 if sources is None else 0):
        covered = source_pixels(data - background.level, background.rms, bad, fwhm)
        background = _measure(data, bad | covered, side, filter_size, backend)
        if (
            np.count_nonzero(covered) < _SPARSE * covered.size
        ):  # the first pass was hardly disturbed: a third would change nothing
            break
    taken = median_of(background.level, np.zeros(image.shape, bool))
    subtracted = image.with_(data=image.data - background.level, background_level=image.background_level + taken)
    _, sigma, _ = sky_sigma(subtracted.data, bad | covered)
    how = f"mesh of {side} px boxes" if side else "one level (the image is small or mostly masked)"
    share = np.count_nonzero(covered) / covered.size
    text = f"{image.name}: sky {taken:.6g} +- {sigma:.4g} a pixel, {how}; {100 * share:.1f} % masked as sources"
    values = {"level": taken, "sigma": sigma, "box": side or 0, "source_fraction": share}
    return subtracted, background, Step("background", text, values)


def residual_background(
    science: Image,
    reference: np.ndarray,
    beta: float,
    psf_science: PSF,
    psf_reference: PSF,
    variances: tuple[np.ndarray, np.ndarray],
    footprint: np.ndarray,
    box: int | None = None,
    noise: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
) -> tuple[np.ndarray, float, str]:
    """Measure the sky and the noise that are left in N * P_r - beta R * P_n, where every static source cancels.

    In a crowded field the background of a single image is a guess; that of the difference is not. An offset gamma
    moves all of S by gamma F_D² / F_n: a tenth of a sigma a pixel is half a sigma in S_corr.

    Parameters
    ----------
    science : Image
        Background-subtracted.
    reference : array (ny, nx)
        Registered to it and background-subtracted.
    beta : float
        F_n / F_r.
    psf_science, psf_reference : PSF
    variances : pair of arrays (ny, nx)
        Of the science image and of the reference.
    footprint : bool array (ny, nx)
        Where the reference has data.
    box : int, optional
        Side of a mesh box. Default: 8 FWHM, 32 at least; smaller than for one image, since stars are gone.
    noise : pair of arrays (ky, kx), or None
        Autocorrelations of the noise of each; None is white.

    Returns
    -------
    (level, factor, how) : array (ny, nx), float, str
        `level` is what to take off the science image, and `how` in a few words how it was found. `factor` is the noise
        of the smoothed difference on blank sky over that of noise of the stated variances and autocorrelations: above 1
        where neighbouring pixels are correlated, as in drizzled and resampled images, and it is taken for white.

    Notes
    -----
    Smoothed by both PSFs the median of a box is its local mean, which is what the matched filter sees: faint halos of
    stars included, which differ from night to night and which no stamp holds. Blank sky is the half of the pixels
    with the least variance.
    """
    from astrid_gpu.engine.convolve import convolve

    out = science.bad | ~np.isfinite(reference) | ~footprint
    if out.all():
        msg = f"{science.name}: no pixel is usable in both images: masks and footprints leave none"
        raise InputError(msg)
    fwhm = max(psf_science.fwhm, psf_reference.fwhm)
    # Holes are sky-filled and what lies next to them left out; where that would leave too little, interpolated.
    near = dilated(out, max(1, round(0.5 * fwhm))) if out.any() and np.isfinite(fwhm) else out
    few = np.count_nonzero(near) < 0.7 * near.size
    psfs = (psf_reference, psf_science)
    smooth = [
        convolve(np.where(out, image.dtype.type(0 if few else np.nan), image), psf.data)
        for image, psf in zip((science.data, reference), psfs, strict=True)
    ]
    white = sum(
        convolve(
            np.where(out, v.dtype.type(median_of(v, out) if few else np.nan), v),
            _core(seen_by(psf.data, stamp)),
            normalize=False,
        )
        * v.dtype.type(scale)
        for v, psf, stamp, scale in zip(variances, psfs, noise, (1.0, beta**2), strict=True)
    )
    rest = smooth[0] - smooth[1].dtype.type(beta) * smooth[1]
    out = (near if few else out) | ~np.isfinite(rest)
    side = box or max(32, int(np.ceil(8 * fwhm)))
    if side * _SMALLEST_MESH > min(science.shape) or np.count_nonzero(out) > 0.7 * out.size:
        level, _ = _one_level(rest[~out])
        background, how = np.full(science.shape, level), "one level"
    else:
        background, how = _measure(np.where(out, 0, rest), out, side, 3, "auto").level, f"mesh of {side} px boxes"
    usable = ~out & np.isfinite(white) & (white > 0)
    blank = usable & (white <= median_of(white, ~usable)) if usable.any() else usable
    if np.count_nonzero(blank) <= 500:
        return background, 1.0, how
    step = max(1, blank.size // 1_000_000)  # of large images some rows
    blank, white = blank[::step], white[::step]
    return background, _robust_width((rest[::step] - background[::step])[blank] / np.sqrt(white[blank])), how


def _core(kernel: np.ndarray) -> np.ndarray:
    """Return the middle of a kernel of odd sides that holds 99.9 % of its sum, scaled to all of it."""
    total, middle = kernel.sum(), np.array(kernel.shape) // 2
    for reach in range(max(middle) + 1):
        rows, columns = (slice(max(0, m - reach), m + reach + 1) for m in middle)
        inner = kernel[rows, columns]
        if inner.sum() >= 0.999 * total:
            return inner * (total / inner.sum())
    return kernel


def _robust_width(values: np.ndarray) -> float:
    """Return half of the distance between the 15.9 and 84.1 percentiles."""
    low, high = np.percentile(values, [15.865, 84.135])
    return float(high - low) / 2


def _refuse_constant(image: Image, bad: np.ndarray) -> None:
    """Raise for an image that holds nothing to measure."""
    n_good = bad.size - np.count_nonzero(bad)
    if n_good == 0:
        msg = f"{image.name}: all {bad.size} pixels are masked or not finite; there is nothing to subtract"
        raise InputError(msg)
    if n_good < 9:
        msg = f"{image.name}: only {n_good} of {bad.size} pixels are good; at least 9 are needed for a background"
        raise InputError(msg)
    good = image.data[::16][~bad[::16]]
    if good.size and good.min() < good.max():
        return
    good = image.data[~bad]
    low, high = float(good.min()), float(good.max())
    if low == high:
        msg = (
            f"{image.name}: every good pixel has the value {low:g}; an exposure has noise. "
            "Is it the right extension of the file?"
        )
        raise InputError(msg)


def _box_side(shape: tuple[int, int], bad: np.ndarray, box: int | None, fwhm: float) -> int | None:
    """Return the side of a mesh box, or None for one level."""
    if box is not None:
        if box < 4:
            msg = f"box must be at least 4 pixels, got {box}"
            raise InputError(msg)
        return int(box) if box <= min(shape) else None
    side = max(64, int(np.ceil(12 * fwhm)))
    side = min(side, min(shape) // _SMALLEST_MESH)
    if side < max(_SMALLEST_BOX, 6 * fwhm) or np.count_nonzero(bad) > 0.7 * bad.size:
        return None
    return side


def _measure(data: np.ndarray, out: np.ndarray, side: int | None, filter_size: int, backend: Any) -> Background:
    """Return the background with the pixels `out` left out: the mesh, or one level."""
    if side is not None and np.count_nonzero(out) < 0.9 * out.size:
        from astrid_gpu.engine.background import estimate_background

        found = estimate_background(data, box=side, filter_size=filter_size, mask=out, backend=backend)
        level, rms = (np.asarray(plane, data.dtype) for plane in (found.level, found.rms))
        if np.all(np.isfinite(level)) and np.all(rms > 0):
            return Background(level, rms, np.asarray(found.mesh, float))
    if out.all():
        out = np.zeros_like(out)
    one, sigma = _one_level(data[~out])
    level, rms = (np.full(data.shape, value, data.dtype) for value in (one, sigma))
    return Background(level, rms, np.full((1, 1), one))


def _one_level(values: np.ndarray) -> tuple[float, float]:
    """Return the sky and its sigma from the good pixels: clipped mean, the mode's estimate where sources crowd it."""
    mean, sigma, _ = clipped_statistics(values)
    middle, _ = median_sigma(values[np.abs(values - mean) <= 3 * sigma]) if sigma > 0 else median_sigma(values)
    level = 2.5 * middle - 1.5 * mean if sigma > 0 and abs(mean - middle) < 0.3 * sigma else middle
    if not sigma > 0:
        sigma = float(np.std(values))  # more than half of the pixels share one value
    return float(level), float(sigma)
