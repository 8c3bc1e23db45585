"""Light profiles: pixel-integrated PSFs at any sub-pixel position, and Sersic galaxies as sums of Gaussians.

Positions are 0-based pixel centres, angles in degrees from +x towards +y, lengths in pixels. All is float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from astrid_gpu.errors import ConfigError

__all__ = ["PsfModel", "psf", "sersic_gaussians"]

_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))  # FWHM of a Gaussian of sigma 1
_KINDS = ("gaussian", "moffat")


@dataclass(frozen=True)
class PsfModel:
    """An elliptical Gaussian or Moffat profile of unit flux, before the pixel.

    Parameters
    ----------
    kind : {"moffat", "gaussian"}
        Moffat: (1 + r^2)^-beta, the shape of seeing. Gaussian: without wings.
    fwhm : float
        Pixels; the geometric mean of the major and minor axes, before integration over the pixel.
    beta : float
        Moffat exponent, > 1. Smaller means wider wings; 2.5 to 4.5 in practice. Not used by the Gaussian.
    ellipticity : float
        1 - b/a, in [0, 0.9].
    angle : float
        Degrees from +x towards +y of the major axis.
    """

    kind: str = "moffat"
    fwhm: float = 2.5
    beta: float = 3.5
    ellipticity: float = 0.0
    angle: float = 0.0

    def __post_init__(self) -> None:
        problems = {
            f"kind is {self.kind!r}, allowed are {_KINDS}": self.kind not in _KINDS,
            f"fwhm is {self.fwhm!r} px, it must be 0.5 or more": not self.fwhm >= 0.5,
            f"beta is {self.beta!r}, it must exceed 1 or the flux is infinite": not self.beta > 1,
            f"ellipticity is {self.ellipticity!r}, it must lie in [0, 0.9]": not 0 <= self.ellipticity <= 0.9,
        }
        for problem, wrong in problems.items():
            if wrong:
                msg = f"PsfModel: {problem}"
                raise ConfigError(msg)

    def density(self, dy: np.ndarray, dx: np.ndarray) -> np.ndarray:
        """Return the flux per square pixel at offsets (dy, dx) from the centre; its integral is 1."""
        q, theta = 1.0 - self.ellipticity, np.deg2rad(self.angle)
        c, s = np.cos(theta), np.sin(theta)
        # u along the major axis and v along the minor, scaled so that u^2 + v^2 is round and of the mean width.
        r2 = (dx * c + dy * s) ** 2 * q + (dy * c - dx * s) ** 2 / q
        if self.kind == "gaussian":
            sigma2 = (self.fwhm / _SIGMA) ** 2
            return np.exp(-0.5 * r2 / sigma2) / (2.0 * np.pi * sigma2)
        alpha2 = 0.25 * self.fwhm**2 / (2.0 ** (1.0 / self.beta) - 1.0)
        return (self.beta - 1.0) / (np.pi * alpha2) * (1.0 + r2 / alpha2) ** -self.beta

    def reach(self, level: float) -> float:
        """Return the distance in pixels along the major axis at which the density falls to `level`, 0 if never."""
        centre = float(self.density(np.zeros(1), np.zeros(1))[0])
        if level >= centre:
            return 0.0
        stretch = 1.0 / np.sqrt(1.0 - self.ellipticity)
        if self.kind == "gaussian":
            return float(stretch * self.fwhm / _SIGMA * np.sqrt(2.0 * np.log(centre / level)))
        alpha2 = 0.25 * self.fwhm**2 / (2.0 ** (1.0 / self.beta) - 1.0)
        return float(stretch * np.sqrt(alpha2 * ((centre / level) ** (1.0 / self.beta) - 1.0)))

    def pixels(self, y: np.ndarray, x: np.ndarray, *, order: int = 6) -> np.ndarray:
        """Integrate over unit pixels centred at offsets y (m,) and x (n,) by Gauss-Legendre; shape (m, n).

        Order 6 is exact to 1e-6 of the peak for a FWHM of 1.2 pixels and better for wider ones.
        """
        nodes, weights = np.polynomial.legendre.leggauss(order)
        fine_y = (np.asarray(y)[:, None] + 0.5 * nodes).ravel()
        fine_x = (np.asarray(x)[:, None] + 0.5 * nodes).ravel()
        fine = self.density(fine_y[:, None], fine_x[None, :]).reshape(len(y), order, len(x), order)
        return np.einsum("iajb,a,b->ij", fine, 0.5 * weights, 0.5 * weights)


def psf(
    kind: str = "moffat",
    fwhm: float = 2.5,
    *,
    beta: float = 3.5,
    ellipticity: float = 0.0,
    angle: float = 0.0,
    size: int | None = None,
    dy: float = 0.0,
    dx: float = 0.0,
    normalize: bool = True,
) -> np.ndarray:
    """Make a pixel-integrated PSF stamp.

    Parameters
    ----------
    kind : {"moffat", "gaussian"}
    fwhm : float
        Pixels, before integration over the pixel; the geometric mean of both axes.
    beta : float
        Moffat exponent, > 1.
    ellipticity, angle : float
        1 - b/a, and degrees from +x towards +y of the major axis.
    size : int, optional
        Side in pixels, odd, at least 3; by default wide enough to hold all but about 1e-3 of the flux.
    dy, dx : float
        Offset of the centre from the middle pixel, in pixels.
    normalize : bool
        Scale to a sum of 1. Without it the stamp lacks the flux that falls outside it.

    Returns
    -------
    array, shape (size, size), float64

    Raises
    ------
    ConfigError
        An impossible width, exponent, ellipticity or size.

    Examples
    --------
    >>> stamp = psf("gaussian", 3.0, size=15)
    >>> stamp.shape, round(float(stamp.sum()), 12)
    ((15, 15), 1.0)
    """
    model = PsfModel(kind, fwhm, beta, ellipticity, angle)
    if size is None:
        size = 2 * int(np.ceil(max(model.reach(1e-5 / fwhm**2), 3.0))) + 1
    if size < 3 or size % 2 == 0:
        msg = f"the size of a PSF stamp is an odd number of pixels, 3 or more; got {size}"
        raise ConfigError(msg)
    axis = np.arange(size) - size // 2
    stamp = model.pixels(axis - dy, axis - dx, order=10)
    return stamp / stamp.sum() if normalize else stamp


@lru_cache(maxsize=8)
def sersic_gaussians(index: float) -> tuple[np.ndarray, np.ndarray]:
    """Return weights (sum 1) and widths (in half-light radii) of round Gaussians that make a Sersic profile.

    The profile exp(-b_n r^(1/n)) is fitted by non-negative least squares on flux in rings, out to 4 half-light
    radii for n <= 2 and 8 beyond, where surveys' own models end too. Sums of Gaussians stay Gaussian under
    convolution and have a Fourier transform in closed form, so galaxies need no oversampled pixels.

    Parameters
    ----------
    index : float
        Sersic n: 1 = exponential disc, 4 = de Vaucouleurs; allowed are 0.5 to 6.
    """
    from scipy.optimize import nnls
    from scipy.special import gammaincinv

    if not 0.5 <= index <= 6:
        msg = f"the Sersic index must lie in [0.5, 6], got {index!r}"
        raise ConfigError(msg)
    b = float(gammaincinv(2.0 * index, 0.5))
    edges = np.concatenate([[0.0], np.geomspace(1e-3, 4.0 if index <= 2 else 8.0, 200)])
    middle = 0.5 * (edges[1:] + edges[:-1])
    ring = np.pi * np.diff(edges**2)
    flux = np.exp(-b * middle ** (1.0 / index)) * ring
    widths = np.geomspace(0.02 if index > 2 else 0.1, 3.5 if index > 2 else 1.6, 18)
    rings = np.exp(-0.5 * (edges[:-1, None] / widths) ** 2) - np.exp(-0.5 * (edges[1:, None] / widths) ** 2)
    weights, _ = nnls(rings / np.sqrt(flux[:, None]), flux / np.sqrt(flux))
    kept = weights > 0
    return weights[kept] / weights[kept].sum(), widths[kept]
