"""Smooth fill of unusable pixels, so that no step and no NaN enters a Fourier transform."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["FADE", "fill_masked"]

FADE = 0.02
"""Weight, as a fraction of the whole window, at which a fill has faded to half: deep inside a hole it goes to zero."""


def fill_masked(images: Any, bad: Any, sigma: float, radius: int, *, xp: Any = np) -> Any:
    r"""Replace each bad pixel by a Gaussian-weighted mean of the good pixels round it.

    .. math:: v(p) = \frac{\sum_q G(q-p)\, I(q)\, g(q)}{\sum_q G(q-p)\, g(q) + FADE \sum_q G(q-p)}

    with g = 1 on good pixels and G a Gaussian cut to a square window; the frame is periodic, so the padding
    between its far edges is filled from both. The last term fades the fill to 0, the sky, deep inside a hole.

    Parameters
    ----------
    images : real array, shape (n, py, px)
        Background-subtracted; finite wherever `bad` is 0.
    bad : bool or uint8 array, shape (n, py, px) or (1, py, px)
        Nonzero = replace.
    sigma : float
        Width of G in pixels, about that of the PSF.
    radius : int
        Half side of the window in pixels, cut to what fits the frame once.

    Returns
    -------
    array, shape (n, py, px)
        A new array; good pixels are unchanged.
    """
    _, py, px = images.shape
    bad = xp.broadcast_to(bad != 0, images.shape)
    filled = xp.where(bad, xp.zeros((), images.dtype), images)
    i, y, x = xp.nonzero(bad)
    if i.size == 0:
        return filled
    radius = min(radius, (min(py, px) - 1) // 2)
    total, weight, full = xp.zeros(i.size), xp.zeros(i.size), 0.0
    good = ~bad
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            g = float(np.exp(-(dy * dy + dx * dx) / (2 * sigma * sigma)))
            yy, xx = (y + dy) % py, (x + dx) % px
            total += g * filled[i, yy, xx]
            weight += g * good[i, yy, xx]
            full += g
    filled[i, y, x] = (total / (weight + FADE * full)).astype(images.dtype)
    return filled
