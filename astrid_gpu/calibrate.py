"""From a registered exposure to what ZOGY asks for: background, noise, saturated pixels, flux ratio."""

from __future__ import annotations

from typing import Any

import numpy as np

from astrid_gpu._flux_ratio import FluxRatio, flux_ratio
from astrid_gpu.errors import InputError
from astrid_gpu.image import PSF, Image
from astrid_gpu.ops.mask import dilate
from astrid_gpu.ops.noise import clipped_statistics, lower_sigma, median_sigma, pixel_sigma, source_variance
from astrid_gpu.results import Background, Step

__all__ = [
    "FluxRatio",
    "flux_ratio",
    "noise_variance",
    "residual_background",
    "saturation_mask",
    "subtract_background",
]

_SMALLEST_MESH = 3  # boxes along the shorter side; fewer, and one level serves the whole image
_SMALLEST_BOX = 32
_WINGS = ((30.0, 2.0), (200.0, 3.0), (1000.0, 5.0), (5000.0, 8.0))  # peak in noise of the smoothed image; FWHM
_LARGEST_SATURATION = (255, 1023, 4095, 16383, 32767, 65535)


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
    data = np.where(bad, 0.0, image.data.astype(np.float64))
    covered = np.zeros(image.shape, bool) if sources is None else sources.astype(bool)
    background = _measure(data, bad | covered, side, filter_size, backend)
    for _ in range(2 if sources is None else 0):
        covered = _objects(data - background.level, background.rms, bad, fwhm)
        background = _measure(data, bad | covered, side, filter_size, backend)
    level = background.level.astype(image.data.dtype if image.data.dtype.kind == "f" else np.float64)
    taken = float(np.median(background.level))
    subtracted = image.with_(data=image.data - level, background_level=image.background_level + taken)
    _, sigma, _ = _sky_sigma(subtracted.data, bad | covered)
    how = f"mesh of {side} px boxes" if side else "one level (the image is small or mostly masked)"
    share = float(covered.mean())
    text = f"{image.name}: sky {taken:.6g} +- {sigma:.4g} a pixel, {how}; {100 * share:.1f} % masked as sources"
    values = {"level": taken, "sigma": sigma, "box": side or 0, "source_fraction": share}
    return subtracted, background, Step("background", text, values)


def residual_background(
    science: Image,
    reference: np.ndarray,
    beta: float,
    psf_science: PSF,
    psf_reference: PSF,
    variance_reference: np.ndarray,
    footprint: np.ndarray,
    box: int | None = None,
) -> tuple[np.ndarray, float, list[Step]]:
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
    variance_reference : array (ny, nx)
    footprint : bool array (ny, nx)
        Where the reference has data.
    box : int, optional
        Side of a mesh box. Default: 8 FWHM, 32 at least; smaller than for one image, since stars are gone.

    Returns
    -------
    (level, factor, steps) : array (ny, nx), float, list of Step
        `level` is to be taken off the science image. `factor` is the noise of the smoothed difference on blank sky
        over that of white noise of the stated variances: above 1 where neighbouring pixels are correlated, as in
        drizzled and resampled images.

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
    smooth = [
        convolve(np.where(out, np.nan, image), psf.data)
        for image, psf in ((science.data, psf_reference), (reference, psf_science))
    ]
    white = sum(
        convolve(np.where(out, np.nan, variance), psf.data**2, normalize=False) * scale
        for variance, psf, scale in (
            (science.known_variance, psf_reference, 1.0),
            (variance_reference, psf_science, beta**2),
        )
    )
    rest = smooth[0] - beta * smooth[1]
    out |= ~np.isfinite(rest)
    side = box or max(32, int(np.ceil(8 * max(psf_science.fwhm, psf_reference.fwhm))))
    if side * _SMALLEST_MESH > min(science.shape) or out.mean() > 0.7:
        level, _ = _one_level(rest[~out])
        background, how = np.full(science.shape, level), "one level"
    else:
        background, how = _measure(np.where(out, 0, rest), out, side, 3, "auto").level, f"mesh of {side} px boxes"
    middle = float(np.median(background))
    text = f"{science.name}: {middle:+.4g} a pixel left in the difference, taken off ({how})"
    steps = [Step("background", text, {"offset": middle})]
    usable = ~out & np.isfinite(white) & (white > 0)
    blank = usable & (white <= np.median(white[usable])) if usable.any() else usable
    factor = _robust_width((rest - background)[blank] / np.sqrt(white[blank])) if blank.sum() > 500 else 1.0
    text = f"smoothed difference varies {factor:.3f} times as much as white noise of the stated variance on blank sky"
    steps.append(Step("noise", text, {"factor": factor}))
    return background, factor, steps


def _robust_width(values: np.ndarray) -> float:
    """Return half of the distance between the 15.9 and 84.1 percentiles."""
    low, high = np.percentile(values, [15.865, 84.135])
    return float(high - low) / 2


def _refuse_constant(image: Image, bad: np.ndarray) -> None:
    """Raise for an image that holds nothing to measure."""
    good = image.data[~bad]
    if good.size == 0:
        msg = f"{image.name}: all {bad.size} pixels are masked or not finite; there is nothing to subtract"
        raise InputError(msg)
    if good.size < 9:
        msg = f"{image.name}: only {good.size} of {bad.size} pixels are good; at least 9 are needed for a background"
        raise InputError(msg)
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
    if side < max(_SMALLEST_BOX, 6 * fwhm) or bad.mean() > 0.7:
        return None
    return side


def _measure(data: np.ndarray, out: np.ndarray, side: int | None, filter_size: int, backend: Any) -> Background:
    """Return the background with the pixels `out` left out: the mesh, or one level."""
    if side is not None and out.mean() < 0.9:
        from astrid_gpu.engine.background import estimate_background

        found = estimate_background(data, box=side, filter_size=filter_size, mask=out, backend=backend)
        level, rms = np.asarray(found.level, float), np.asarray(found.rms, float)
        if np.all(np.isfinite(level)) and np.all(rms > 0):
            return Background(level, rms, np.asarray(found.mesh, float))
    if out.all():
        out = np.zeros_like(out)
    one, sigma = _one_level(data[~out])
    return Background(np.full(data.shape, one), np.full(data.shape, sigma), np.full((1, 1), one))


def _one_level(values: np.ndarray) -> tuple[float, float]:
    """Return the sky and its sigma from the good pixels: clipped mean, the mode's estimate where sources crowd it."""
    mean, sigma, _ = clipped_statistics(values)
    middle, _ = median_sigma(values[np.abs(values - mean) <= 3 * sigma]) if sigma > 0 else median_sigma(values)
    level = 2.5 * middle - 1.5 * mean if sigma > 0 and abs(mean - middle) < 0.3 * sigma else middle
    if not sigma > 0:
        sigma = float(np.std(values))  # more than half of the pixels share one value
    return float(level), float(sigma)


def _objects(signal: np.ndarray, rms: np.ndarray, bad: np.ndarray, fwhm: float) -> np.ndarray:
    """Return pixels of sources: 2.5 sigma after smoothing to the PSF, three or more together, grown by a FWHM."""
    from scipy.ndimage import gaussian_filter, label

    width = fwhm / 2.3548
    weight = gaussian_filter((~bad).astype(float), width, mode="nearest")
    smooth = gaussian_filter(np.where(bad, 0.0, signal), width, mode="nearest") / np.maximum(weight, 0.1)
    noise = np.median(rms) / (2 * np.sqrt(np.pi) * width)
    # Correlated pixels keep more noise than that through the smoothing: ask the smoothed image itself as well.
    noise = max(noise, lower_sigma(smooth[~bad], float(np.median(smooth[~bad]))))
    above = (smooth > 2.5 * noise) & ~bad
    parts, n = label(above)
    if n == 0:
        return above
    area = np.bincount(parts.ravel())
    peak = np.zeros(n + 1)
    np.maximum.at(peak, parts.ravel(), smooth.ravel())
    real = (area >= 3) & (peak > 4.0 * noise)
    real[0] = False
    core = real[parts]
    grown = dilate(core, max(2, round(fwhm)))
    # Wings of brighter objects reach further; in a crowd they cannot all be masked.
    for brightness, reach in _WINGS:
        bright = (peak > brightness * noise) & real
        wider = grown | dilate(bright[parts], round(reach * fwhm)) if bright.any() else grown
        if (wider | bad).mean() > 0.5:
            break
        grown = wider
    return grown if (grown | bad).mean() < 0.85 else core


def _sky_sigma(signal: np.ndarray, out: np.ndarray) -> tuple[float, float, int]:
    """Return level, sigma and count of the sky pixels of a background-subtracted image."""
    values = signal[~out] if not out.all() else signal[np.isfinite(signal)]
    return clipped_statistics(values.astype(np.float64))


def noise_variance(image: Image, background: Background) -> tuple[np.ndarray, float, Step]:
    r"""Return the variance of every pixel and the scalar background noise for the Fourier denominators.

    From `image.variance` if given. Else from the gain: V = sigma_bkg² + (source counts) / gain, the source counts
    smoothed where they are faint (`ops.noise.source_variance`). Without a gain one is estimated from the sky level
    and its noise, or, where no sky was left in the image, the photon noise of sources is left out; the Step says so.

    Parameters
    ----------
    image : Image
        Background-subtracted, `background_level` telling how much was taken off.
    background : Background
        Of the same image.

    Returns
    -------
    variance : float64 array, shape (ny, nx)
        Unit of the image squared; positive and finite everywhere (bad pixels get that of blank sky).
    sigma : float
        Background standard deviation of a pixel.
    step : Step

    Notes
    -----
    Faint unresolved stars widen the pixel histogram of a crowded field but cancel in a difference. So where gain and
    sky predict the noise of the pixels, and the pixel-to-pixel noise agrees, that is taken and not the histogram's.
    """
    bad = image.bad
    rms = np.broadcast_to(np.asarray(background.rms, float), image.shape)
    if image.variance is not None:
        return _given_variance(image, bad, rms)
    gain, origin = _gain(image, rms, bad)
    sigma, why = _background_sigma(image, bad, rms, gain if origin == "given" else None)
    shape = rms / np.median(rms[~bad]) if (~bad).any() else np.ones_like(rms)
    sigma_map = sigma * np.clip(shape, 0.5, 3.0)
    if gain is None:
        variance = sigma_map**2
        text = f"{image.name}: background noise {sigma:.4g} a pixel ({why}); no gain: source photon noise left out"
    else:
        variance = source_variance(np.where(bad, 0.0, image.data), sigma_map, gain, bad)
        note = "gain" if origin == "given" else "gain estimated from the sky level and its noise"
        text = f"{image.name}: background noise {sigma:.4g} a pixel ({why}); source photon noise by {note} {gain:.4g}"
    values = {"sigma": sigma, "gain": gain, "gain_origin": origin, "sigma_origin": why}
    return variance, sigma, Step("noise", text, values)


def _given_variance(image: Image, bad: np.ndarray, rms: np.ndarray) -> tuple[np.ndarray, float, Step]:
    """Take the variance plane; sigma is that of its blank sky, its ratio to the pixels' own noise is reported."""
    plane = image.variance.astype(np.float64)  # type: ignore[union-attr]
    usable = np.isfinite(plane) & (plane > 0)
    good = usable & ~bad
    if not good.any():
        msg = f"{image.name}: no good pixel has a positive, finite variance; give a variance in data units squared"
        raise InputError(msg)
    typical = float(np.median(plane[good]))
    sky = good & (np.abs(np.where(bad, 0.0, image.data)) < 3 * np.median(rms))
    sigma = float(np.sqrt(np.median(plane[sky]))) if sky.sum() > 100 else float(np.sqrt(typical))
    measured = _sky_sigma(image.data, bad | _objects(np.where(bad, 0.0, image.data), rms, bad, 3.5))[1]
    ratio = measured / sigma
    n_unusable = int((~usable & ~bad).sum())
    more = f"; {n_unusable} pixels without a usable variance got that of blank sky" if n_unusable else ""
    text = f"{image.name}: variance as given, background noise {sigma:.4g} a pixel, the sky's {ratio:.2f} of it{more}"
    values = {"sigma": sigma, "measured_over_given": ratio, "n_unusable": n_unusable, "sigma_origin": "variance plane"}
    return np.where(usable, plane, sigma**2), sigma, Step("noise", text, values)


def _gain(image: Image, rms: np.ndarray, bad: np.ndarray) -> tuple[float | None, str]:
    """Return electrons per unit and where that number comes from: "given", "sky" or "unknown"."""
    if image.gain is not None and np.isfinite(image.gain) and image.gain > 0:
        return float(image.gain), "given"
    sigma = pixel_sigma(np.where(bad, 0.0, image.data), bad)
    level = image.background_level
    # A calibrated sky near zero says nothing of photons; a pedestal makes this gain an upper limit.
    if np.isfinite(sigma) and sigma > 0 and level > 10 * sigma:
        return level / sigma**2, "sky"
    return None, "unknown"


def _background_sigma(image: Image, bad: np.ndarray, rms: np.ndarray, gain: float | None) -> tuple[float, str]:
    """Return the background noise of a pixel and which measurement it is."""
    data = np.where(bad, 0.0, image.data.astype(np.float64))
    measured = float(np.median(rms[~bad])) if (~bad).any() else float(np.median(rms))
    white = pixel_sigma(data, bad | _objects(data, rms, bad, 3.5))
    if not np.isfinite(white):
        white = pixel_sigma(data, bad)
    if gain is not None and image.background_level > 0 and np.isfinite(white):
        photon = image.background_level / gain + ((image.read_noise or 0.0) / gain) ** 2
        predicted = float(np.sqrt(photon))
        if 0.8 < white / predicted < 1.25 and white < measured:
            return white, "pixel to pixel, as gain and sky predict"
    return measured, "clipped histogram of the sky"


def saturation_mask(image: Image) -> tuple[np.ndarray, Step]:
    """Return saturated pixels: at the level of the header, at an integer type's ceiling, or piled up at the top.

    Seeds at the level are grown over connected pixels above 90 % of it (bleeding, non-linear rims) and by one
    pixel. Pixels that are NaN or infinite count as saturated, because detectors' pipelines write them there.

    Parameters
    ----------
    image : Image
        As read, or background-subtracted: `background_level` is added back.

    Returns
    -------
    (mask, step) : bool array (ny, nx), Step
    """
    finite = np.isfinite(image.data)
    raw = np.where(finite, image.data.astype(np.float64), -np.inf) + image.background_level
    level, origin = _saturation_level(image, raw[finite])
    mask = ~finite
    if level is not None:
        seeds = raw >= level
        floor = image.background_level + 0.9 * (level - image.background_level)
        mask |= _connected(seeds, raw >= floor)
    n = int((mask & finite).sum())
    at = f"at {level:.6g} ({origin})" if level is not None else "(no level in the header, no pile-up at the top)"
    text = f"{image.name}: {n} saturated pixels {at}, {int((~finite).sum())} not finite"
    return mask, Step("saturation", text, {"level": level, "origin": origin, "n_saturated": n})


def _saturation_level(image: Image, values: np.ndarray) -> tuple[float | None, str]:
    """Return the saturation level in raw units and where it comes from.

    A plateau in the pixels wins over a level from a header that it does not reach: keywords are often those of the
    converter, while the detector saturates before.
    """
    given = image.saturation
    known = given is not None and np.isfinite(given) and given > 0
    level, origin = _pile_up(values)
    if known and (level is None or level >= float(given)):  # type: ignore[arg-type]
        return float(given), "given"  # type: ignore[arg-type]
    return level, origin


def _pile_up(values: np.ndarray) -> tuple[float | None, str]:
    """Return the level of a plateau at the top of the pixel values, if there is one."""
    if values.size == 0:
        return None, "none"
    top = float(values.max())
    for ceiling in _LARGEST_SATURATION:
        if abs(top - ceiling) <= 0.5 and (np.abs(values - ceiling) <= 0.5).sum() >= 2:
            return float(ceiling) - 0.5, "ceiling of the integer type"
    middle, sigma = median_sigma(values)
    reach = top - middle
    if not reach > 50 * sigma:
        return None, "none"
    at_top = int((values >= middle + 0.98 * reach).sum())
    below = int(((values >= middle + 0.90 * reach) & (values < middle + 0.98 * reach)).sum())
    # A star's profile has a quarter as many pixels in its top 2 % as in the next 8 %; a plateau has more.
    if at_top >= 5 and at_top > below:
        return middle + 0.98 * reach, "pixels piled up at the top"
    return None, "none"


def _connected(seeds: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the connected parts of `high` that hold a seed, grown by one pixel."""
    if not seeds.any():
        return seeds
    from scipy.ndimage import binary_propagation

    return dilate(binary_propagation(seeds, np.ones((3, 3)), mask=high | seeds), 1)
