"""Noise of an image: robust widths, the white part of the noise, and the variance that sources add."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = [
    "MAD_TO_SIGMA",
    "clipped_statistics",
    "lower_sigma",
    "median_sigma",
    "pixel_sigma",
    "ring_weights",
    "row_medians",
    "smooth_good",
    "source_variance",
]

MAD_TO_SIGMA = 1.4826022185056018
"""Standard deviation of a Gaussian over its median absolute deviation."""

_RESPONSES = 2_000_000  # their median is good to 0.1 % of sigma, neighbours being correlated
_LEAST = 1e-3  # of a Gaussian's weight on good pixels


def median_sigma(values: np.ndarray) -> tuple[float, float]:
    """Return the median and the standard deviation from the median absolute deviation; NaN for no values."""
    if values.size == 0:
        return float("nan"), float("nan")
    middle = float(np.median(values))
    return middle, MAD_TO_SIGMA * float(np.median(np.abs(values - middle)))


def row_medians(lines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the median of what is not NaN in each row, NaN where nothing is, and how many values that are.

    `numpy.nanmedian` goes through short rows one by one.
    """
    held = np.sort(lines, axis=1)  # NaN last
    n = held.shape[1] - np.count_nonzero(np.isnan(held), axis=1)
    at = np.arange(len(held))
    return 0.5 * (held[at, np.maximum(n - 1, 0) // 2] + held[at, np.minimum(n // 2, held.shape[1] - 1)]), n


def lower_sigma(values: np.ndarray, level: float) -> float:
    """Return the width of the half of `values` below `level`, which sources (all positive) do not touch.

    For a Gaussian about `level` it is its standard deviation; NaN if nothing lies below.
    """
    below = level - values[values < level]
    return MAD_TO_SIGMA * float(np.median(below)) if below.size else float("nan")


def clipped_statistics(values: np.ndarray, *, clip: float = 3.0, n_iter: int = 20) -> tuple[float, float, int]:
    """Return mean, standard deviation and count after clipping about the median at `clip` MAD-sigmas.

    The standard deviation is corrected for the cut: that of a Gaussian truncated at `clip` (3 sigma: 1.3 % low).

    Parameters
    ----------
    values : float array, any shape, finite

    Returns
    -------
    (mean, sigma, n)
        NaN and 0 for no values. O(n) per iteration.
    """
    kept = np.ravel(values)
    for _ in range(n_iter):
        middle, sigma = median_sigma(kept)
        inside = np.abs(kept - middle) <= clip * sigma
        if not sigma > 0 or inside.all():
            break
        kept = kept[inside]
    if kept.size == 0:
        return float("nan"), float("nan"), 0
    tail = clip * np.exp(-(clip**2) / 2.0) * np.sqrt(2.0 / np.pi)
    inside_fraction = _erf(clip / np.sqrt(2.0))
    truncated = np.sqrt(max(1.0 - tail / inside_fraction, 1e-6))
    return float(kept.mean()), float(kept.std() / truncated), int(kept.size)


def _erf(x: float) -> float:
    from math import erf

    return erf(x)


def pixel_sigma(image: np.ndarray, bad: np.ndarray) -> float:
    r"""Return the standard deviation of the pixel-to-pixel (white) part of the noise.

    The median absolute value of the image filtered by [1 -2 1] along both axes, whose response to white noise of
    unit variance is 6 (Immerkaer 1996, CVIU 64, 300). Anything smooth on the scale of a PSF drops out, so unresolved
    faint stars do not count; noise correlated between neighbours is underestimated, by design. Of images beyond
    four million pixels only every n-th row is filtered.

    Parameters
    ----------
    image : float array, shape (ny, nx)
        Finite wherever `bad` is False.
    bad : bool array, shape (ny, nx)
        A filtered pixel counts only if its whole 3x3 is good.
    """
    ny, nx = image.shape
    if min(ny, nx) < 3:
        return float("nan")
    y = np.arange(1, ny - 1, max(1, ny * nx // _RESPONSES))
    above, here, below = (np.where(bad[rows], 0.0, image[rows]) for rows in (y - 1, y, y + 1))
    rows = above - 2.0 * here + below
    both = rows[:, :-2] - 2.0 * rows[:, 1:-1] + rows[:, 2:]
    lost = bad[y - 1] | bad[y] | bad[y + 1]
    lost = lost[:, :-2] | lost[:, 1:-1] | lost[:, 2:]
    response = np.abs(both[~lost])
    return MAD_TO_SIGMA * float(np.median(response)) / 6.0 if response.size else float("nan")


def smooth_good(signal: np.ndarray, bad: np.ndarray, width: float, least: float) -> np.ndarray:
    r"""Return a Gaussian-weighted mean of the good pixels round each pixel.

    .. math:: \tilde I = \frac{g \star m I}{\max(g \star m, w_0)}

    with m = 1 for good pixels and 0 for bad ones, g of sum 1 cut at 4 sigma, and the outermost pixels repeated
    beyond the edges.

    Parameters
    ----------
    signal : float array, shape (ny, nx)
        Values under `bad` are not used.
    bad : bool array, shape (ny, nx)
    width : float
        Sigma of g in pixels.
    least : float
        w_0: below this share of weight on good pixels the mean fades towards 0.

    Returns
    -------
    array, shape (ny, nx), dtype of `signal`
    """
    from scipy.ndimage import gaussian_filter

    weight = gaussian_filter((~bad).astype(signal.dtype), width, mode="nearest")
    smooth = gaussian_filter(np.where(bad, signal.dtype.type(0), signal), width, mode="nearest")
    return smooth / np.maximum(weight, signal.dtype.type(least))


def ring_weights(width: float) -> tuple[float, float]:
    """Return the weight of the middle pixel in the Gaussian of `smooth_good`, and the noise of the mean without it.

    The second is the standard deviation, for white noise of unit variance, of the Gaussian mean of the neighbours.
    """
    reach = int(4.0 * width + 0.5)
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    taps /= taps.sum()
    own = float(taps[reach] ** 2)
    return own, float(np.sqrt(np.sum(taps**2) ** 2 - own**2) / (1.0 - own))


def source_variance(signal: np.ndarray, sigma: Any, gain: float, bad: np.ndarray, *, width: float = 0.8) -> np.ndarray:
    r"""Return the variance of each pixel: background plus the photon noise of the sources.

    .. math:: V = \sigma^2 + \max(\tilde I, 0) / g

    with g the gain. :math:`\tilde I` is the sky-subtracted image itself where a pixel is far above the noise, and where
    it is not, the Gaussian mean of its neighbours without itself, so that V does not go up and down with the very noise
    it describes: then bright noise would count for less than dark noise.

    .. math:: \tilde I = w I + (1 - w) I_r, \quad w = I_s^4 / (I_s^4 + (10 \sigma)^4)

    with I_r the mean without the pixel and I_s that with it. An I_r below 2.5 of its own sigmas is noise for the most
    part and fades out by a fourth power. V is never below the background's. Where a bright pixel counts itself, its
    noise moves V by :math:`1 / (g \sqrt V)` of V: 3 % at 1000 electrons.

    Parameters
    ----------
    signal : float array, shape (ny, nx)
        Sky-subtracted image, finite where `bad` is False.
    sigma : float or array (ny, nx)
        Background standard deviation in the unit of `signal`.
    gain : float
        Electrons per unit of `signal`.
    bad : bool array, shape (ny, nx)
    width : float
        Sigma in pixels of the Gaussian.

    Returns
    -------
    float64 array, shape (ny, nx)
        In the square of the unit of `signal`, at bad pixels that of the smoothed surroundings. (The fused twin returns
        the type of `signal`.)
    """
    from scipy.ndimage import gaussian_filter

    filled = np.where(bad, 0.0, np.asarray(signal, dtype=float))
    good = (~bad).astype(float)
    own, quiet = ring_weights(width)
    weight = gaussian_filter(good, width, mode="nearest") - own * good
    around = gaussian_filter(filled, width, mode="nearest") - own * filled
    ring = np.maximum(around / np.maximum(weight, _LEAST), 0.0)
    smooth = np.maximum(smooth_good(filled, bad, width, _LEAST), 0.0)
    noise = np.maximum(np.asarray(sigma, dtype=float), np.finfo(np.float32).tiny)
    ratio = (smooth / (10.0 * noise)) ** 4
    trust = np.where(bad, 0.0, ratio / (1.0 + ratio))
    faint = ring**4 / (ring**4 + (2.5 * quiet * noise) ** 4)
    adopted = trust * filled + (1.0 - trust) * faint * ring
    return np.asarray(sigma, dtype=float) ** 2 + np.maximum(adopted, 0.0) / gain
