"""Find point-like sources: peaks of two Gaussian matched filters of an image with holes and uneven noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from astrid_gpu.ops.mask import dilate

__all__ = ["FWHM_PER_SIGMA", "filter_widths", "matched_filter", "peak_reach", "star_peaks"]

FWHM_PER_SIGMA = 2.3548200450309493
_LEAST_COVER = 0.05  # of the largest sum of weights under the filter: pixels with less have no significance


def filter_widths(fwhm: float) -> tuple[float, float]:
    """Return the sigmas in pixels of the matched filter and of the one of half its width; 0.4 at least."""
    return max(fwhm / FWHM_PER_SIGMA, 0.4), max(0.5 * fwhm / FWHM_PER_SIGMA, 0.4)


def peak_reach(fwhm: float) -> tuple[int, int]:
    """Return how far a peak must be the highest, and how far one of the narrow filter rules out others; pixels."""
    return max(1, round(0.5 * fwhm)), max(1, round(0.6 * fwhm))


def star_peaks(
    data: np.ndarray,
    bad: np.ndarray,
    rms: Any,
    widths: tuple[float, float],
    reach: tuple[int, int],
    threshold: float,
    *,
    xp: Any = np,
    blur: Callable[[Any, float], Any] | None = None,
) -> tuple[Any, Any, Any, Any]:
    r"""Find the sources above `threshold` in a Gaussian matched filter.

    With weights :math:`w = 1 / \sigma^2` (0 at bad pixels) and a Gaussian :math:`g` as wide as a star and of sum 1,

    .. math:: f = \frac{g \star w I}{g^2 \star w}, \qquad s = \frac{g \star w I}{\sqrt{g^2 \star w}}

    are the flux of the best Gaussian at a pixel and its significance. This filter sees faint sources best and merges
    those closer than 1.5 FWHM; one of half the width sees those apart, and its peaks go first: those that exceed by
    `threshold` (5 at least) what the star under the wide filter puts there, half its significance.

    Parameters
    ----------
    data : float array, shape (ny, nx)
        Background-subtracted; values at bad pixels do not count.
    bad : bool array, shape (ny, nx)
    rms : float or float array (ny, nx)
        Standard deviation of the background, positive; that of bad pixels does not count.
    widths : (float, float)
        Sigmas of both filters in pixels, see `filter_widths`.
    reach : (int, int)
        See `peak_reach`.
    threshold : float
        Sigmas.
    blur : callable, optional
        Of a plane and the sigma of a Gaussian of sum 1, cut off at 4 sigma, with zeros beyond the frame; computes in
        the type of `data`. Default: SciPy's, in float64.

    Returns
    -------
    y, x : int64 array (m,), in raster order
    snr, flux : float64 array (m,)
        s and f there. Cost: four Gaussian filters of the frame.
    """
    kind = np.dtype(np.float64) if blur is None else data.dtype
    values = xp.where(bad, kind.type(0), data.astype(kind))
    safe = xp.where(bad, kind.type(1), xp.broadcast_to(xp.asarray(rms, dtype=kind), data.shape))
    weight = xp.where(bad, kind.type(0), kind.type(1) / safe**2)
    snr, flux = matched_filter(values, weight, widths[0], xp=xp, blur=blur)
    fine, _ = matched_filter(values, weight, widths[1], xp=xp, blur=blur)
    # Noise of the difference about 1, and 2 % for imperfect profiles.
    excess = fine - 0.5 * snr
    highest, nearby = reach
    broad = _highest(snr, highest, xp) & (snr > threshold)
    close = _highest(fine, highest, xp) & (excess > max(threshold, 5.0) + 0.02 * snr) & (fine > threshold)
    close &= snr > threshold
    y, x = xp.nonzero(close | (broad & ~dilate(close, nearby, xp=xp)))
    return y, x, snr[y, x], flux[y, x]


def matched_filter(
    data: Any, weight: Any, sigma: float, *, xp: Any = np, blur: Callable[[Any, float], Any] | None = None
) -> tuple[Any, Any]:
    """Return s and f of `star_peaks` for a Gaussian of `sigma` pixels, cut off at 4 sigma; 0 where most is masked."""
    smooth = blur or _gaussian
    # g² is a Gaussian of sigma / sqrt(2) and of sum 1 / (4 pi sigma²).
    norm = smooth(weight, sigma / float(np.sqrt(2))) / float(4 * np.pi * sigma**2)
    signal = smooth(data * weight, sigma)
    enough = norm > _LEAST_COVER * norm.max() if norm.size else norm > 0
    safe, zero = xp.where(enough, norm, norm.dtype.type(1)), norm.dtype.type(0)
    return xp.where(enough, signal / xp.sqrt(safe), zero), xp.where(enough, signal / safe, zero)


def _gaussian(plane: np.ndarray, sigma: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(plane, sigma, mode="constant")  # type: ignore[no-any-return]


def _highest(snr: Any, reach: int, xp: Any) -> Any:
    """Return which pixels nothing within a square of `reach` exceeds, nor zero, which is what lies outside."""
    top = snr
    for axis in (0, 1):
        n, lines = snr.shape[axis], xp.pad(top, [(reach, reach) if k == axis else (0, 0) for k in (0, 1)])
        parts = [lines[k : k + n] if axis == 0 else lines[:, k : k + n] for k in range(2 * reach + 1)]
        top = parts[0].copy()
        for part in parts[1:]:
            xp.maximum(top, part, out=top)
    return snr == top
