"""`noise_variance`: the variance of every pixel and the noise of the sky; and which pixels are sky."""

from __future__ import annotations

from typing import Any

import numpy as np

from astrid_gpu._host_ops import host_op
from astrid_gpu.errors import InputError
from astrid_gpu.image import Image
from astrid_gpu.ops import mask as mask_ops
from astrid_gpu.ops import noise as noise_ops
from astrid_gpu.ops.noise import clipped_statistics, lower_sigma, pixel_sigma
from astrid_gpu.results import Background, Step

__all__ = ["dilated", "median_of", "noise_variance", "sky_sigma", "source_pixels"]

_MUCH = 3.0  # times; a plane whose sky is this much quieter than the image's is no variance of it
_SKY_ONLY = 0.1  # of the photon noise of bright pixels; a plane that has less of it was made from the sky
_FEW_BRIGHT = 20  # pixels beyond 10 sigma, to judge that by
_WINGS = ((30.0, 2.0), (200.0, 3.0), (1000.0, 5.0), (5000.0, 8.0))  # peak in noise of the smoothed image; FWHM


def noise_variance(image: Image, background: Background) -> tuple[np.ndarray, float, Step]:
    r"""Return the variance of every pixel and the scalar background noise for the Fourier denominators.

    From `image.variance` if given: a plane that does not rise with the sources, though their photons are noise, gets
    that noise by the gain; one below a ninth of the noise of the pixels is scaled. Else from the gain:
    V = sigma_bkg² + (source counts) / gain, the source counts smoothed where they are faint
    (`ops.noise.source_variance`). Without a gain one is estimated from the sky level and its noise, or, where no sky
    was left in the image, the photon noise of sources is left out; the Step says so.

    Parameters
    ----------
    image : Image
        Background-subtracted, `background_level` telling how much was taken off.
    background : Background
        Of the same image.

    Returns
    -------
    variance : array, shape (ny, nx), dtype of the image
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
    rms = np.broadcast_to(np.asarray(background.rms, _float(image)), image.shape)
    if image.variance is not None:
        return _given_variance(image, bad, rms)
    gain, origin = _gain(image, rms, bad)
    sigma, why = _background_sigma(image, bad, rms, gain if origin == "given" else None)
    typical = rms.dtype.type(median_of(rms, bad))
    sigma_map = np.clip(rms / typical, 0.5, 3.0) * rms.dtype.type(sigma)
    if gain is None:
        variance = sigma_map**2
        text = f"{image.name}: background noise {sigma:.4g} a pixel ({why}); no gain: source photon noise left out"
    else:
        variance = host_op("source_variance", noise_ops.source_variance)(image.data, sigma_map, gain, bad)
        variance = variance.astype(rms.dtype, copy=False)
        note = "gain" if origin == "given" else "gain estimated from the sky level and its noise"
        text = f"{image.name}: background noise {sigma:.4g} a pixel ({why}); source photon noise by {note} {gain:.4g}"
    values = {"sigma": sigma, "gain": gain, "gain_origin": origin, "sigma_origin": why, "sources_missing": gain is None}
    return variance, sigma, Step("noise", text, values)


def _given_variance(image: Image, bad: np.ndarray, rms: np.ndarray) -> tuple[np.ndarray, float, Step]:
    """Take the variance plane; sigma is that of its blank sky, its ratio to the pixels' own noise is reported.

    A plane that knows of the sky only gets the photon noise of the sources, if there is a gain; one that is far too
    small for the noise that neighbouring pixels show is scaled up.
    """
    plane = np.asarray(image.variance)
    usable = np.isfinite(plane) & (plane > 0)
    good = usable & ~bad
    if not good.any():
        msg = f"{image.name}: no good pixel has a positive, finite variance; give a variance in data units squared"
        raise InputError(msg)
    typical = median_of(plane, ~good)
    sky = good & (np.abs(np.where(bad, 0, image.data)) < 3 * median_of(rms, bad))
    enough = np.count_nonzero(sky) > 100
    sigma = float(np.sqrt(median_of(plane, ~sky) if enough else typical))
    measured = sky_sigma(image.data, bad | source_pixels(image.data, rms, bad, 3.5))[1]
    ratio = measured / sigma
    n_unusable = int(np.count_nonzero(~usable & ~bad))
    more = f"; {n_unusable} pixels without a usable variance got that of blank sky" if n_unusable else ""
    values = {"sigma": sigma, "measured_over_given": ratio, "n_unusable": n_unusable, "sigma_origin": "variance plane"}
    variance = np.where(usable, plane, plane.dtype.type(sigma**2))
    text = f"variance as given, background noise {sigma:.4g} a pixel, the sky's {ratio:.2f} of it{more}"
    scale = pixel_sigma(image.data, bad) / sigma
    if ratio > _MUCH and scale > _MUCH:
        variance, sigma = variance * plane.dtype.type(ratio**2), sigma * ratio
        values |= {"sigma": sigma, "scaled_by": ratio**2}
        text += f"; no variance of these pixels, so scaled by {ratio**2:.4g}"
    added, how, numbers = _missing_sources(image, variance, sigma, rms, bad)
    if added is not None:
        variance = variance + added.astype(variance.dtype, copy=False)
    return variance, sigma, Step("noise", f"{image.name}: {text}{how}", values | numbers)


def _missing_sources(
    image: Image, variance: np.ndarray, sigma: float, rms: np.ndarray, bad: np.ndarray
) -> tuple[np.ndarray | None, str, dict[str, Any]]:
    """Return the photon noise that sources lack in a variance plane, None if none; what is to be told, in numbers too.

    Over bright pixels the plane of an image that counts photons rises by I / gain above the sky's; one made from the
    sky alone does not.
    """
    bright = ~bad & (np.where(bad, 0, image.data) > 10 * sigma)
    if np.count_nonzero(bright) < _FEW_BRIGHT:
        return None, "", {}
    light = image.data[bright].astype(float)
    rise = float(np.sum(variance[bright] - sigma**2) / light.sum())
    numbers: dict[str, Any] = {"rise": rise}
    gain, origin = _gain(image, rms, bad)
    # Of sources too faint to make noise of their own nothing can be said, and nothing is missing.
    if gain is None or float(np.median(light)) / gain < 0.1 * sigma**2:
        if gain is None and abs(rise) * float(np.median(light)) < 0.01 * sigma**2:
            return (
                None,
                "; it does not rise with the sources, and no gain tells their photon noise",
                numbers | {"sources_missing": True},
            )
        return None, "", numbers
    numbers |= {"gain": gain, "gain_origin": origin, "sources_in_plane": rise * gain}
    if rise * gain > _SKY_ONLY:
        return None, "", numbers
    whole = host_op("source_variance", noise_ops.source_variance)(image.data, rms.dtype.type(sigma), gain, bad)
    how = f"; it does not rise with the sources: their photon noise by gain {gain:.4g} ({origin}) added"
    return np.maximum(whole - sigma**2, 0), how, numbers


def _gain(image: Image, rms: np.ndarray, bad: np.ndarray) -> tuple[float | None, str]:
    """Return electrons per unit and where that number comes from: "given", "sky" or "unknown"."""
    if image.gain is not None and np.isfinite(image.gain) and image.gain > 0:
        return float(image.gain), "given"
    sigma = pixel_sigma(image.data, bad)
    level = image.background_level
    # A calibrated sky near zero says nothing of photons; a pedestal makes this gain an upper limit.
    if np.isfinite(sigma) and sigma > 0 and level > 10 * sigma:
        return level / sigma**2, "sky"
    return None, "unknown"


def _background_sigma(image: Image, bad: np.ndarray, rms: np.ndarray, gain: float | None) -> tuple[float, str]:
    """Return the background noise of a pixel and which measurement it is."""
    measured = median_of(rms, bad)
    bright = np.where(bad, False, image.data > 3.0 * rms)
    white = pixel_sigma(image.data, bad | dilated(bright, 1))
    if not np.isfinite(white):
        white = pixel_sigma(image.data, bad)
    if gain is not None and image.background_level > 0 and np.isfinite(white):
        photon = image.background_level / gain + ((image.read_noise or 0.0) / gain) ** 2
        predicted = float(np.sqrt(photon))
        if 0.8 < white / predicted < 1.25 and white < measured:
            return white, "pixel to pixel, as gain and sky predict"
    return measured, "clipped histogram of the sky"


def source_pixels(signal: np.ndarray, rms: np.ndarray, bad: np.ndarray, fwhm: float) -> np.ndarray:
    """Return pixels of sources: 2.5 sigma after smoothing to the PSF, three or more together, grown by a FWHM."""
    from scipy.ndimage import label

    width = fwhm / 2.3548
    pixels = np.asarray(signal, np.float32)
    smooth = host_op("smooth_good", noise_ops.smooth_good)(pixels, bad, width, 0.1)
    noise = median_of(rms, bad) / (2 * np.sqrt(np.pi) * width)
    # Correlated pixels keep more noise than that through the smoothing: ask the smoothed image itself as well.
    sample = _sample(smooth, bad)
    noise = max(noise, lower_sigma(sample, float(np.median(sample))))
    above = (smooth > 2.5 * noise) & ~bad
    parts, n = label(above)
    if n == 0:
        return above
    # From here on only the pixels above the threshold are looked at: few of a sky's.
    places = np.flatnonzero(above)
    number = parts.ravel()[places]
    area, peak = np.bincount(number, minlength=n + 1), np.zeros(n + 1, np.float32)
    np.maximum.at(peak, number, smooth.ravel()[places])
    real = (area >= 3) & (peak > 4.0 * noise)
    core = _marked(above.shape, places[real[number]])
    grown = dilated(core, max(2, round(fwhm)))
    # Wings of brighter objects reach further; in a crowd they cannot all be masked.
    for brightness, reach in _WINGS:
        bright = (peak > brightness * noise) & real
        if bright.any():
            wider = grown | dilated(_marked(above.shape, places[bright[number]]), round(reach * fwhm))
        else:
            wider = grown
        if _share(wider | bad) > 0.5:
            break
        grown = wider
    return grown if _share(grown | bad) < 0.85 else core


def _marked(shape: tuple[int, ...], places: np.ndarray) -> np.ndarray:
    """Return a mask that is True at flat indices."""
    mask = np.zeros(shape, bool)
    mask.ravel()[places] = True
    return mask


def dilated(mask: np.ndarray, radius: int) -> np.ndarray:
    """Return a mask grown into squares of side 2 `radius` + 1."""
    return host_op("dilate", mask_ops.dilate)(mask, radius)


def _share(mask: np.ndarray) -> float:
    return np.count_nonzero(mask) / mask.size


def sky_sigma(signal: np.ndarray, out: np.ndarray) -> tuple[float, float, int]:
    """Return level, sigma and count of the sky pixels of a background-subtracted image, of a large one of a part."""
    values = _sample(signal, out) if not out.all() else signal[np.isfinite(signal)]
    return clipped_statistics(values.astype(np.float64))


def _sample(values: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """Return the good pixels, of large images a regular part: a median of 10^5 values is good to 0.4 % of sigma."""
    step = max(1, int(np.sqrt(values.size / 250_000)))
    part, lost = values[::step, ::step], bad[::step, ::step]
    found = part[~lost]
    return found if found.size else values[~bad] if not bad.all() else values.ravel()


def median_of(values: np.ndarray, bad: np.ndarray) -> float:
    """Return the median of the good pixels, of a large image that of a regular part; `values` may lie on disk."""
    plane = values if np.shape(values) == bad.shape else np.broadcast_to(values, bad.shape)
    return float(np.median(_sample(plane, bad)))


def _float(image: Image) -> np.dtype:
    """Return the type to compute in: the image's, if it is one of reals."""
    return image.data.dtype if image.data.dtype.kind == "f" else np.dtype(np.float64)
