"""Smooth fill of unusable pixels, so that no step and no NaN enters a Fourier transform."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["FADE", "SHRINK", "fill_masked", "fill_profiles"]

FADE = 0.005
"""Weight, as a fraction of the whole window, at which a fill has faded to half: deep inside a hole it goes to zero."""

SHRINK = 4.0
"""A fill is drawn towards zero by this many times its own noise: blank sky is filled with nothing at all."""


def fill_profiles(sigmas: Sequence[float] | np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return one-dimensional Gaussian weights (m, radius + 1), 0 beyond 3 sigma, for windows that fit `shape` once."""
    radius = min(int(np.ceil(3 * max(sigmas))), (min(shape) - 1) // 2)
    offset = np.arange(radius + 1)
    return np.stack([np.where(offset <= np.ceil(3 * s), np.exp(-0.5 * (offset / s) ** 2), 0.0) for s in sigmas])


def fill_masked(images: Any, bad: Any, profiles: np.ndarray, *, xp: Any = np) -> Any:
    r"""Replace each bad pixel by a Gaussian-weighted mean of the good pixels round it, less the noise of that mean.

    .. math:: v(p) = \frac{\sum_q G\, I\, g}{W}, \quad s(p) = \frac{\sqrt{\sum_q G^2 g}}{W}, \quad
              W = \sum_q G\, g + FADE \sum_q G, \quad
              fill(p) = \mathrm{sign}(v) \max(|v| - SHRINK\, s, 0)

    with g = 1 on good pixels and G(q - p) = w(|dy|) w(|dx|). The frame is periodic, so the padding between its far
    edges is filled from both. FADE takes the fill to 0, the sky, deep inside a hole. SHRINK keeps noise out: a fill
    that copied the noise at its rim would be coherent with it and double the variance of S there.

    Parameters
    ----------
    images : real array, shape (n, py, px)
        Background-subtracted, in units of the background noise; finite wherever `bad` is 0.
    bad : bool or uint8 array, shape (n, py, px) or (1, py, px)
        Nonzero = replace.
    profiles : float array, shape (1 or n, radius + 1), on the host
        w, from `fill_profiles`.

    Returns
    -------
    array, shape (n, py, px)
        A new array; good pixels are unchanged.
    """
    n, py, px = images.shape
    bad = xp.broadcast_to(bad != 0, images.shape)
    filled = xp.where(bad, xp.zeros((), images.dtype), images)
    i, y, x = xp.nonzero(bad)
    if i.size == 0:
        return filled
    lines = xp.asarray(np.broadcast_to(profiles, (n, profiles.shape[1])))[i]
    radius = profiles.shape[1] - 1
    full = (2 * lines.sum(axis=1) - lines[:, 0]) ** 2
    good = ~bad
    total, weight, square = xp.zeros(i.size), xp.zeros(i.size), xp.zeros(i.size)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            yy, xx = (y + dy) % py, (x + dx) % px
            g = lines[:, abs(dy)] * lines[:, abs(dx)] * good[i, yy, xx]
            total += g * filled[i, yy, xx]
            weight += g
            square += g * g
    norm = weight + FADE * full
    value = total / norm
    value = xp.sign(value) * xp.maximum(abs(value) - SHRINK * xp.sqrt(square) / norm, 0)
    filled[i, y, x] = value.astype(images.dtype)
    return filled
