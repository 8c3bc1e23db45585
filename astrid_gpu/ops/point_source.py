"""How well a point source explains the pixels round a candidate."""

from __future__ import annotations

import numpy as np

__all__ = ["point_source_chi2"]

_LEAST = 3  # pixels more than the three numbers that a fit of place and flux takes


def point_source_chi2(
    stamps: np.ndarray, dy: np.ndarray, dx: np.ndarray, noise: np.ndarray, psf: np.ndarray
) -> np.ndarray:
    r"""Return the reduced chi-squared of point sources of free flux at given places.

    .. math:: \chi^2 = \frac{1}{\nu} \sum_p \frac{(d_p - a P_p)^2}{\sigma^2}, \quad
              a = \frac{\sum d P}{\sum P^2}, \quad \nu = n - 3

    In white noise of standard deviation sigma it is 1 with the scatter sqrt(2 / nu) if the place is that of maximum
    likelihood. An error of the PSF by a part e of its peak adds about e^2 (S/N)^2 / nu.

    Parameters
    ----------
    stamps : float array, shape (m, s, s)
        The difference round the peak pixels, s odd; pixels that are not finite are left out, and those beyond the
        circle in the square.
    dy, dx : float arrays, shape (m,)
        Places from the middle pixel, at most about a pixel away.
    noise : float array, shape (m,)
        Standard deviation of a pixel.
    psf : float array, shape (ky, kx)
        Odd, centred.

    Returns
    -------
    float64 array, shape (m,)
        NaN where fewer than six pixels are usable.
    """
    from scipy.ndimage import map_coordinates

    m, side, _ = stamps.shape
    if m == 0:
        return np.zeros(0)
    radius = side // 2
    v, u = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    middle = [k // 2 for k in psf.shape]
    places = np.stack([middle[0] + v - dy[:, None, None], middle[1] + u - dx[:, None, None]])
    model = map_coordinates(np.asarray(psf, float), places, order=5, mode="constant")
    usable = np.isfinite(stamps) & (v**2 + u**2 <= (radius + 0.5) ** 2)
    data, model = np.where(usable, stamps, 0.0), np.where(usable, model, 0.0)
    power = np.sum(model**2, axis=(1, 2))
    freedom = usable.sum(axis=(1, 2)) - 3
    with np.errstate(divide="ignore", invalid="ignore"):
        flux = np.sum(data * model, axis=(1, 2)) / power
        square = np.sum((data - flux[:, None, None] * model) ** 2, axis=(1, 2))
        return np.where((freedom >= _LEAST) & (power > 0), square / (noise**2 * freedom), np.nan)
