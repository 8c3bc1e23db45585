"""Plain subtraction: N - R, or N - (scale R + offset) with scale and offset fitted robustly."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["fit_scale_offset", "subtract_scaled"]


def subtract_scaled(science: Any, reference: Any, scale: Any, offset: Any) -> Any:
    """Return science - (scale · reference + offset); scale and offset are (n,), images (n, ny, nx)."""
    real = science.dtype
    return science - (scale.astype(real)[:, None, None] * reference + offset.astype(real)[:, None, None])


def fit_scale_offset(
    science: Any, reference: Any, good: Any, noise: Any, *, iterations: int = 30, tuning: float = 4.685, xp: Any = np
) -> tuple[Any, Any, Any]:
    r"""Fit N = scale R + offset over the good pixels of each pair by iteratively re-weighted least squares.

    Weights are Tukey's biweight of the residual over its own robust width, and the noise of R in the design is
    allowed for: with equal relative noise ordinary least squares would drive the scale to zero on blank sky
    (attenuation), so the sums of R² are reduced by the noise of R.

    Parameters
    ----------
    science, reference : array (n, ny, nx)
    good : bool array (n, ny, nx)
    noise : array (n,)
        1-sigma noise of a reference pixel.
    iterations : int
    tuning : float
        Tukey's constant, in robust standard deviations.

    Returns
    -------
    (scale, offset, scatter) : arrays (n,), float64
        `scatter` is 1.4826 times the median absolute residual.
    """
    n = science.shape[0]
    scale, offset, scatter = xp.ones(n), xp.zeros(n), xp.zeros(n)
    for i in range(n):
        y = science[i][good[i]].astype(np.float64)
        x = reference[i][good[i]].astype(np.float64)
        a, b = _start(x, y, xp=xp)
        for _ in range(iterations):
            residual = y - a * x - b
            width = 1.4826 * xp.median(abs(residual - xp.median(residual)))
            u = residual / (tuning * xp.maximum(width, 1e-30))
            w = xp.where(abs(u) < 1, (1 - u * u) ** 2, 0)
            total = xp.maximum(w.sum(), 1e-30)
            mx, my = (w * x).sum() / total, (w * y).sum() / total
            sxx = (w * (x - mx) ** 2).sum() / total - float(noise[i]) ** 2
            sxy = (w * (x - mx) * (y - my)).sum() / total
            new = sxy / sxx if float(sxx) > float(noise[i]) ** 2 else a
            done = abs(float(new) - float(a)) < 1e-8 * max(abs(float(a)), 1e-12)
            a, b = new, my - new * mx
            if done:
                break
        residual = y - a * x - b
        scale[i], offset[i] = a, b
        scatter[i] = 1.4826 * xp.median(abs(residual - xp.median(residual)))
    return scale, offset, scatter


def _start(x: Any, y: Any, *, xp: Any) -> tuple[Any, Any]:
    """Start from the brightest per cent of reference pixels against the rest: least swayed by noise."""
    low, high = xp.percentile(x, 50), xp.percentile(x, 99)
    faint, bright = x <= low, x >= high
    dx = x[bright].mean() - x[faint].mean()
    dy = xp.median(y[bright]) - xp.median(y[faint])
    a = dy / dx if float(dx) > 0 else xp.asarray(1.0)
    return a, xp.median(y) - a * xp.median(x)
