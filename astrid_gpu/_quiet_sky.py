"""Where S_corr shows noise and nothing else: away from what changed, from residuals, and from what is flagged."""

from __future__ import annotations

from typing import Any

import numpy as np

from astrid_gpu._noise import dilated

__all__ = ["MIN_PIXELS", "MIN_SHARPEN", "ROUGH", "middle_and_width", "part_of", "quiet_sky", "score_area"]

MIN_PIXELS = 500
"""Fewer unflagged pixels than this cannot fix the width of S_corr to a few per cent."""

MIN_SHARPEN = 5000
"""And fewer than this do not make candidates more significant than the noise model has them."""

_SAMPLE = 700_000  # pixels that fix it to two thousandths: rows a few pixels apart tell as much as all
ROUGH = 100_000
"""Pixels that fix the width of S_corr to a hundredth."""

_SOURCE = 5.0  # widths; S_corr beyond it is a source or a residual
_SHOWS = 0.2  # widths; what a source may add to a pixel that is taken for noise
_LEAST = 0.3  # of the clean pixels stay, or less is left out around each source
_INDEPENDENT = 400  # times the area that varies as one: what is left must fix the width to 5 %
_ROUNDS = 3
_SETTLED = 0.005  # change of the width from round to round


def part_of(values: np.ndarray, chosen: np.ndarray, most: int = _SAMPLE) -> np.ndarray:
    """Return the chosen pixels, of a large image those of every n-th row."""
    step = max(1, values.size // most)
    part = values[::step][chosen[::step]]
    return part if part.size >= MIN_SHARPEN else values[chosen]


def middle_and_width(values: np.ndarray) -> tuple[float, float]:
    """Return the median and half of the distance between the 15.9 and 84.1 percentiles."""
    low, middle, high = np.percentile(values, [15.865, 50, 84.135])
    return float(middle), float(high - low) / 2


def quiet_sky(score: np.ndarray, clean: np.ndarray, psf: Any = None) -> np.ndarray:
    """Return the clean pixels where no source of the difference shows, of either sign.

    Parameters
    ----------
    score : float array, shape (ny, nx)
        S_corr of any width; NaN where masked.
    clean : bool array, shape (ny, nx)
        Finite and unflagged.
    psf : array (ky, kx), optional
        P_D: a source shows in S as far as its autocorrelation goes. Two pixels if not given.

    Notes
    -----
    What is beyond five widths is left out with its surroundings, as far as a point source of that height adds a fifth
    of a width or more; then the width is measured anew, until it stays. What is fainter stays in, and so do the tails
    of noise that is not Gaussian. Where this left less than three tenths of the clean pixels, as in a field of poor
    residuals, only the core of the PSF is left out around each, and if need be nothing. Cost: some 10 ms for
    2048 x 2048.
    """
    reach, area = _reach(psf), score_area(psf)
    quiet = clean
    _, width = middle_and_width(part_of(score, clean, ROUGH))
    for _ in range(_ROUNDS):
        if not width > 0:
            break
        places = np.flatnonzero((score > _SOURCE * width) | (score < -_SOURCE * width))
        if places.size == 0:
            break
        height = np.abs(score[np.unravel_index(places, score.shape)]) / width
        quiet, before = _away(places, height, clean, reach, area), width
        _, width = middle_and_width(part_of(score, quiet, ROUGH))
        if abs(width - before) < _SETTLED * before:
            break
    return quiet


def _away(places: np.ndarray, height: np.ndarray, clean: np.ndarray, reach: np.ndarray, area: float) -> np.ndarray:
    """Return the clean pixels that no loud one, at these flat places and of this height, reaches."""
    classes = np.minimum(np.log2(height / _SOURCE).astype(int), 12)
    near = np.zeros(clean.shape, bool)
    for k in np.unique(classes):
        top = min(_SOURCE * 2.0 ** (k + 1), float(height.max()))
        near |= _grown(clean.shape, places[classes == k], int(np.count_nonzero(top * reach > _SHOWS)) or 1)
    quiet = clean & ~near
    least = max(MIN_PIXELS, _INDEPENDENT * area, _LEAST * np.count_nonzero(clean))
    if np.count_nonzero(quiet) > least:
        return quiet
    quiet = clean & ~_grown(clean.shape, places, int(np.count_nonzero(reach > 0.5)) + 1)
    return quiet if np.count_nonzero(quiet) > least else clean


def _grown(shape: tuple[int, ...], places: np.ndarray, radius: int) -> np.ndarray:
    """Return squares of half side `radius` about flat places."""
    mask = np.zeros(shape, bool)
    mask.ravel()[places] = True
    return dilated(mask, radius)


def _reach(psf: Any) -> np.ndarray:
    """Return how high a source of unit height is at most in S outside a square of half side 0, 1, 2..., pixels."""
    if psf is None:
        return np.ones(2)
    rho = np.abs(_autocorrelation(psf))
    rows, columns = (np.minimum(np.arange(n), n - np.arange(n)) for n in rho.shape)
    distance = np.maximum(rows[:, None], columns)
    ring = np.zeros(int(distance.max()) + 1)
    np.maximum.at(ring, distance, rho)
    return np.maximum.accumulate(ring[::-1])[::-1][1:]


def score_area(psf: Any) -> float:
    r"""Return A such that a width between percentiles of n pixels of S has the relative error sqrt(A / n).

    For independent values A is p (1 - 2p) / (2 phi²) = 0.925 with p = 0.159 below the lower percentile and phi the
    density there. Of it 0.5 belongs to the second Hermite polynomial, which for correlated values counts
    :math:`\sum \rho^2` times, and the rest to the fourth and higher ones, :math:`\sum \rho^4` times or less. rho is the
    autocorrelation of P_D, since D is white.
    """
    if psf is None:
        return 0.925
    rho = _autocorrelation(psf)
    return float(0.5 * np.sum(rho**2) + 0.425 * np.sum(rho**4))


def _autocorrelation(psf: Any) -> np.ndarray:
    """Return the autocorrelation of P_D on a grid twice its size, 1 at (0, 0)."""
    stamp = np.asarray(psf, float)
    shape = [2 * n for n in stamp.shape]
    rho = np.fft.irfft2(np.abs(np.fft.rfft2(stamp, s=shape)) ** 2, s=shape)
    return rho / rho[0, 0]
