r"""Flux ratio and registration offset of two images at given places, and robust fits of them.

Convolved each with the other's PSF, two images of the same sky have the same PSF (Zackay et al. 2016, eqs. 37-39):

.. math:: D_n = N \otimes P_r, \quad D_r = R \otimes P_n, \quad D_n(x) = \beta D_r(x - \delta) + \gamma

so whatever is constant in the sky, blended or resolved, has the same ratio beta in them, and what the PSF stamps
leave out of the far wings cancels as it does in the subtraction itself.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = [
    "LineFit",
    "MatchedSamples",
    "cut_windows",
    "extra_variance",
    "fit_line",
    "matched_planes",
    "matched_samples",
    "matched_values",
    "robust_mean",
    "tukey",
]

_TUKEY = 6.0
_NARROW = 4.0  # of the scatter: 5 values of 6 settle it
_NARROW_CHI2 = 0.771  # E[w r²] / E[w] of that biweight for Gaussian residuals r
_TUKEY_VARIANCE = 0.967  # 1.02 (variance of the estimate over least squares) times E[w] for Gaussian residuals


class MatchedSamples(NamedTuple):
    """Both images at m places, under the same PSF; every array is float64 (m,)."""

    science: np.ndarray
    reference: np.ndarray
    variance_science: np.ndarray
    variance_reference: np.ndarray
    lost: np.ndarray
    dy: np.ndarray
    dx: np.ndarray
    dy_variance: np.ndarray
    dx_variance: np.ndarray
    y: np.ndarray
    x: np.ndarray


class LineFit(NamedTuple):
    """y = slope x + intercept, its errors, the weights (0 = rejected) and the scatter beyond the errors given."""

    slope: float
    slope_error: float
    intercept: float
    intercept_error: float
    weights: np.ndarray
    intrinsic: float


def cut_windows(image: np.ndarray, y: np.ndarray, x: np.ndarray, half: int, fill: float = 0.0) -> np.ndarray:
    """Return the windows of side 2 `half` + 1 centred on integer pixels, shape (m, side, side), `fill` outside."""
    size = 2 * half + 1
    if min(image.shape) >= size:  # whole windows by their rows, which lie together
        all_windows = np.lib.stride_tricks.sliding_window_view(image, (size, size))
        inner = [np.clip(place - half, 0, n - size) for place, n in zip((y, x), image.shape, strict=True)]
        windows = all_windows[inner[0], inner[1]]
        cut = np.flatnonzero((inner[0] != y - half) | (inner[1] != x - half))
    else:
        windows, cut = np.empty((len(y), size, size), image.dtype), np.arange(len(y))
    if cut.size:  # those that reach over an edge
        windows[cut] = _cut_at_edge(image, y[cut], x[cut], half, fill)
    return windows


def _cut_at_edge(image: np.ndarray, y: np.ndarray, x: np.ndarray, half: int, fill: float) -> np.ndarray:
    """Return windows pixel by pixel, `fill` outside the image."""
    side = np.arange(-half, half + 1)
    places = [(axis[:, None] + side, n) for axis, n in zip((y, x), image.shape, strict=True)]
    rows, columns = (np.clip(index, 0, n - 1) for index, n in places)
    down, across = ((index < 0) | (index >= n) for index, n in places)
    return np.where(down[:, :, None] | across[:, None], fill, image[rows[:, :, None], columns[:, None]])


def _good_windows(image: np.ndarray, holes: np.ndarray, y: np.ndarray, x: np.ndarray, half: int) -> np.ndarray:
    """Return windows as rows of a float64 matrix, 0 where there are holes."""
    values = cut_windows(image, y, x, half).astype(np.float64).reshape(len(y), (2 * half + 1) ** 2)
    np.copyto(values, 0.0, where=holes)
    return values


def _kernels(psf: np.ndarray) -> dict[str, np.ndarray]:
    """Return the kernels that give value, gradient and curvature of an image convolved with `psf` at a pixel.

    Each is flipped, so that a sum over window times kernel is the convolution at the window's centre.
    """
    ky, kx = psf.shape
    pad = 4
    frame = np.pad(psf, pad)
    fy = 2j * np.pi * np.fft.fftfreq(frame.shape[0])[:, None]
    fx = 2j * np.pi * np.fft.rfftfreq(frame.shape[1])[None, :]
    spectrum = np.fft.rfft2(frame)

    def back(factor: np.ndarray | float) -> np.ndarray:
        full = np.fft.irfft2(spectrum * factor, frame.shape)
        return full[pad : pad + ky, pad : pad + kx][::-1, ::-1]

    gradient = {"y": back(fy), "x": back(fx)}
    return {"value": psf[::-1, ::-1], **gradient, "yy": back(fy**2), "xx": back(fx**2), "xy": back(fy * fx)}


def matched_samples(
    science: np.ndarray,
    reference: np.ndarray,
    psf_science: np.ndarray,
    psf_reference: np.ndarray,
    variance_science: np.ndarray,
    variance_reference: np.ndarray,
    bad: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
) -> MatchedSamples:
    r"""Sample D_n and D_r (see the module) and their local offset at pixels (y, x).

    The offset follows from the gradients, to second order in it, H being the curvature of :math:`\beta D_r`:

    .. math:: \delta = -H^{-1} (\nabla D_n - \beta \nabla D_r)

    Its sign: a source of the science image lies at +delta from the same source in the reference.

    Parameters
    ----------
    science, reference, variance_science, variance_reference : float array, shape (ny, nx)
        Background-subtracted images and their variances; values at bad pixels are not used.
    psf_science, psf_reference : float array, odd sides, sum 1
    bad : bool array, shape (ny, nx)
    y, x : int array, shape (m,)

    Returns
    -------
    MatchedSamples
        `lost` is the part of either PSF that falls on bad pixels or off the frame. O(m ky kx).
    """
    sums: dict[str, np.ndarray] = {}
    lost = np.zeros(len(y))
    frames = {"n": (science, variance_science, psf_reference), "r": (reference, variance_reference, psf_science)}
    for which, (image, variance, psf) in frames.items():
        half = max(psf.shape) // 2
        holes = cut_windows(bad, y, x, half, fill=True).reshape(len(y), (2 * half + 1) ** 2)
        windows, noise = (_good_windows(plane, holes, y, x, half) for plane in (image, variance))
        kernels = {key: stamp.ravel() for key, stamp in _kernels(_square(psf, half)).items()}
        stamps = np.stack(list(kernels.values()), axis=1)
        for prefix, values in ((which, windows @ stamps), ("v" + which, noise @ stamps**2)):
            sums |= {prefix + key: values[:, i] for i, key in enumerate(kernels)}
        lost = np.maximum(lost, holes.astype(np.float64) @ np.abs(kernels["value"]))
    dy, dx, var_y, var_x = _offsets(sums)
    places = np.asarray(y, float), np.asarray(x, float)
    sampled = sums["nvalue"], sums["rvalue"], sums["vnvalue"], sums["vrvalue"]
    return MatchedSamples(*sampled, lost, dy, dx, var_y, var_x, *places)


def matched_values(
    science: np.ndarray,
    reference: np.ndarray,
    psf_science: np.ndarray,
    psf_reference: np.ndarray,
    bad: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return D_n, D_r and the part of a PSF that is lost at pixels (y, x): `matched_samples` without the rest."""
    values, lost = [], np.zeros(len(y))
    for image, psf in ((science, psf_reference), (reference, psf_science)):
        half = max(psf.shape) // 2
        kernel = _square(psf, half)[::-1, ::-1].ravel()
        holes = cut_windows(bad, y, x, half, fill=True).reshape(len(y), (2 * half + 1) ** 2)
        values.append(_good_windows(image, holes, y, x, half) @ kernel)
        hit = np.flatnonzero(holes.any(axis=1))
        lost[hit] = np.maximum(lost[hit], holes[hit].astype(np.float64) @ np.abs(kernel))
    return values[0], values[1], lost


def matched_planes(
    science: np.ndarray, reference: np.ndarray, psf_science: np.ndarray, psf_reference: np.ndarray, bad: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return D_n, D_r and the part of a PSF that is lost at every pixel: `matched_values` of a whole frame, by FFT.

    O(n log n) of the pixels, whatever the size of the PSFs.
    """
    from scipy.signal import fftconvolve

    good = np.where(bad, 0.0, 1.0)
    values, lost = [], np.zeros(bad.shape)
    for image, psf in ((science, psf_reference), (reference, psf_science)):
        kernel = _square(psf, max(psf.shape) // 2)
        ky, kx = (side // 2 for side in kernel.shape)
        inner = slice(ky, ky + bad.shape[0]), slice(kx, kx + bad.shape[1])
        values.append(fftconvolve(np.where(bad, 0.0, image), kernel)[inner])
        weight = np.abs(kernel)
        lost = np.maximum(lost, weight.sum() - fftconvolve(good, weight)[inner])
    return values[0], values[1], lost


def _square(psf: np.ndarray, half: int) -> np.ndarray:
    """Pad a stamp with zeros to the square of side 2 half + 1."""
    grow_y, grow_x = half - psf.shape[0] // 2, half - psf.shape[1] // 2
    return np.pad(psf, ((grow_y, grow_y), (grow_x, grow_x)))


def _offsets(s: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Solve H delta = -(grad D_n - beta grad D_r) per place, with the error that the noise gives; NaN if flat."""
    with np.errstate(divide="ignore", invalid="ignore"):
        beta = s["nvalue"] / s["rvalue"]
        gy, gx = s["ny"] - beta * s["ry"], s["nx"] - beta * s["rx"]
        hyy, hxx, hxy = beta * s["ryy"], beta * s["rxx"], beta * s["rxy"]
        det = hyy * hxx - hxy**2
        usable = (beta > 0) & (hyy < 0) & (hxx < 0) & (det > 0)
        det = np.where(usable, det, np.nan)
        dy, dx = -(hxx * gy - hxy * gx) / det, -(hyy * gx - hxy * gy) / det
        vy, vx = s["vny"] + beta**2 * s["vry"], s["vnx"] + beta**2 * s["vrx"]
        var_y = (hxx**2 * vy + hxy**2 * vx) / det**2
        var_x = (hyy**2 * vx + hxy**2 * vy) / det**2
    return dy, dx, var_y, var_x


def robust_mean(values: np.ndarray, variance: np.ndarray, *, n_iter: int = 30) -> tuple[float, float, float]:
    """Return mean, its error, and the intrinsic scatter of values with known error variances.

    Tukey-weighted about a median start; the scatter is what has to be added to the errors for the kept residuals
    to have unit chi-squared, 0 if they already have. NaN for no values; a single value gives no scatter.
    """
    values, variance = np.asarray(values, float), np.asarray(variance, float)
    if values.size == 0:
        return float("nan"), float("nan"), float("nan")
    if values.size == 1:
        return float(values[0]), float(np.sqrt(variance[0])), 0.0
    mean, scatter2 = float(np.median(values)), 0.0
    spread = MAD = 1.4826 * float(np.median(np.abs(values - mean)))
    scatter2 = max(MAD**2 - float(np.median(variance)), 0.0)
    weights = np.ones(values.size)
    for _ in range(n_iter):
        total = variance + scatter2
        weights = tukey((values - mean) / np.sqrt(np.maximum(total, 1e-300)))
        w = weights / np.maximum(total, 1e-300)
        new = float((w * values).sum() / w.sum()) if w.sum() > 0 else mean
        scatter2 = extra_variance(values - new, variance, np.ones(values.size), weights, n_fit=1)
        done, mean = abs(new - mean) < 1e-6 * max(spread, 1e-12), new
        if done:
            break
    total = np.maximum(variance + scatter2, 1e-300)
    error = np.sqrt(_TUKEY_VARIANCE / max((weights / total).sum(), 1e-300))
    return mean, float(error), float(np.sqrt(scatter2))


def tukey(residual: np.ndarray) -> np.ndarray:
    """Return biweights for residuals in units of their errors: 1 at 0, 0 beyond 6."""
    return np.where(np.abs(residual) < _TUKEY, (1.0 - (residual / _TUKEY) ** 2) ** 2, 0.0)


def extra_variance(
    residual: np.ndarray, variance: np.ndarray, shape: np.ndarray, weights: np.ndarray, n_fit: int
) -> float:
    """Return s² that brings chi-squared to its expectation, by bisection; 0 unless it exceeds that by 1 sigma.

    Chi-squared is weighted by a biweight of 4, narrower than that of `weights`, so that an outlier among a handful,
    five times as far off as the others, does not widen the scatter until it fits: of six values one may be anything.
    """
    kept = weights > 0.05
    if int(kept.sum()) <= n_fit:
        return 0.0
    narrow = _narrower(weights[kept])
    m, total = int((narrow > 0).sum()), float(narrow.sum())
    if m <= n_fit:
        return 0.0
    r2, v, f = residual[kept] ** 2, np.maximum(variance[kept], 1e-300), np.maximum(shape[kept], 1e-300)
    target = (_NARROW_CHI2 if (narrow < 1).any() else 1.0) * total * (m - n_fit) / m
    if (narrow * r2 / v).sum() <= target + np.sqrt(2.0 * target):
        return 0.0
    low, high = 0.0, float((r2 / f).max() * total / target)
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if (narrow * r2 / (v + middle * f)).sum() > target else (low, middle)
    return 0.5 * (low + high)


def _narrower(weights: np.ndarray) -> np.ndarray:
    """Return the biweights of `_NARROW` of the residuals that have these of `_TUKEY`; these if half were lost."""
    square = _TUKEY**2 * (1.0 - np.sqrt(weights))
    narrow = np.where(square < _NARROW**2, (1.0 - square / _NARROW**2) ** 2, 0.0)
    return narrow if (narrow > 0.05).sum() > len(weights) / 2 else weights


def fit_line(
    x: np.ndarray, y: np.ndarray, variance_x: np.ndarray, variance_y: np.ndarray, *, intercept: bool = True
) -> LineFit:
    """Fit y = slope x + intercept with errors in both, robust against outliers up to some 40 %.

    The start is the ratio most places agree with; then York's (2004) solution for errors in both coordinates with
    Tukey weights (c = 6), and a fractional scatter of y beyond the errors (flat fields, PSF errors) raised until the
    kept residuals have unit chi-squared.

    Parameters
    ----------
    x, y, variance_x, variance_y : float array, shape (m,), m >= 1, variances positive

    Returns
    -------
    LineFit
        Errors are those of the weighted fit, intrinsic scatter included.
    """
    slope, offset = _start(x, y, variance_x, variance_y, intercept)
    intrinsic2, weights = _start_scatter(x, y, variance_x, variance_y, slope, offset), np.ones(x.size)
    n_fit = 2 if intercept else 1
    for _ in range(50):
        vy = variance_y + intrinsic2 * (slope * x) ** 2
        total = vy + slope**2 * variance_x
        weights = tukey((y - slope * x - offset) / np.sqrt(total))
        if (weights > 0).sum() < n_fit:
            weights = np.ones(x.size)
        new, offset = _york(x, y, variance_x, vy, weights, slope, intercept)
        residual = y - new * x - offset
        plain = variance_y + new**2 * variance_x
        intrinsic2 = extra_variance(residual, plain, (new * x) ** 2, weights, n_fit)
        done, slope = abs(new - slope) < 1e-8 * abs(new), new
        if done:
            break
    vy = variance_y + intrinsic2 * (slope * x) ** 2
    total = vy + slope**2 * variance_x
    adjusted = (x * vy + slope * (y - offset) * variance_x) / total
    w = weights / total
    middle = (w * adjusted).sum() / w.sum() if intercept else 0.0
    slope_error = np.sqrt(_TUKEY_VARIANCE / max((w * (adjusted - middle) ** 2).sum(), 1e-300))
    offset_error = np.sqrt(_TUKEY_VARIANCE / w.sum() + (middle * slope_error) ** 2) if intercept else 0.0
    return LineFit(
        float(slope), float(slope_error), float(offset), float(offset_error), weights, float(np.sqrt(intrinsic2))
    )


def _york(
    x: np.ndarray, y: np.ndarray, vx: np.ndarray, vy: np.ndarray, weights: np.ndarray, slope: float, intercept: bool
) -> tuple[float, float]:
    """One step of York's solution: the slope and intercept given the last slope."""
    w = weights / (vy + slope**2 * vx)
    xm, ym = ((w * x).sum() / w.sum(), (w * y).sum() / w.sum()) if intercept else (0.0, 0.0)
    u, v = x - xm, y - ym
    lever = (u * vy + slope * v * vx) / (vy + slope**2 * vx)
    den = (w * lever * u).sum()
    new = (w * lever * v).sum() / den if den > 0 else slope
    return float(new), float(ym - new * xm)


def _start(x: np.ndarray, y: np.ndarray, vx: np.ndarray, vy: np.ndarray, intercept: bool) -> tuple[float, float]:
    """Return slope and intercept of the largest consensus, which outliers under a half cannot move."""
    slope, offset = _consensus(x, y, vx, vy), 0.0
    for _ in range(5 if intercept else 0):
        offset = _weighted_median(y - slope * x, 1.0 / np.sqrt(vy + slope**2 * vx + (0.02 * slope * x) ** 2))
        slope = _consensus(x, y - offset, vx, vy)
    return slope, offset


def _consensus(x: np.ndarray, y: np.ndarray, vx: np.ndarray, vy: np.ndarray) -> float:
    """Return the ratio of one place that most others agree with, to their errors and 3 %; 1 if none is positive."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = y / x
    tried = np.flatnonzero(np.isfinite(ratio) & (ratio > 0))
    if tried.size == 0:
        return 1.0
    tried = tried[np.argsort(-np.abs(x[tried]) / np.sqrt(vx[tried]))[:200]]
    slopes = ratio[tried]
    error2 = vy + slopes[:, None] ** 2 * vx + (0.03 * slopes[:, None] * x) ** 2
    cost = np.minimum((y - slopes[:, None] * x) ** 2 / error2, 9.0) + np.log(error2 / error2.min())
    # The logarithm keeps a large slope from buying agreement with large errors.
    return float(slopes[np.argmin(cost.sum(axis=1))])


def _start_scatter(x: np.ndarray, y: np.ndarray, vx: np.ndarray, vy: np.ndarray, slope: float, offset: float) -> float:
    """Return a first fractional scatter squared, from the median residual in units of its error."""
    plain = vy + slope**2 * vx
    r2 = (y - slope * x - offset) ** 2
    excess = (r2 / 0.4549 - plain) / np.maximum((slope * x) ** 2, 1e-300)
    return max(float(np.median(excess)), 0.0)


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(cumulative, 0.5 * cumulative[-1])])
