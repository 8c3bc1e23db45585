"""The windows of the stars that a PSF is built from, and the light that other sources bring into them."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

import numpy as np

from astrid_gpu._host_ops import host_backend, host_op
from astrid_gpu._windows import cut, cut_bad, cut_good
from astrid_gpu.backends import Backend
from astrid_gpu.errors import InputError
from astrid_gpu.image import Image
from astrid_gpu.ops.noise import clipped_statistics
from astrid_gpu.ops.psf_fit import crowd_light, crowd_sums, psf_at, spline_of

__all__ = ["Crowd", "Cuts", "conjugate_gradients"]

_ENOUGH = 500_000  # pixels that tell the noise of blank sky


class Cuts:
    """Windows of an image, its variance and its bad pixels round m stars; (m, s, s), s = 2 half + 1.

    Bad pixels hold 0; a variance that is not positive and finite is replaced by the median of those that are. The
    planes may lie on a device, of which `backend` is the one that holds them; the windows are on the host.
    """

    def __init__(
        self, image: Image, variance: Any, stars: np.ndarray, half: int, backend: Backend | None = None
    ) -> None:
        self.y, self.x, self.half = np.rint(stars["y"]).astype(int), np.rint(stars["x"]).astype(int), half
        self.backend = host_backend() if backend is None else backend
        data, self.bad = cut_bad(self.backend, image, self.y, self.x, half)
        self.data = data.astype(np.float64)
        if self.bad.any():
            self.data[self.bad] = 0.0
        self.variance = self._known(image, variance)

    def first(self, n: int) -> Cuts:
        """Return the windows of the first n stars."""
        few = copy(self)
        few.y, few.x, few.bad, few.data, few.variance = (
            a[:n] for a in (self.y, self.x, self.bad, self.data, self.variance)
        )
        return few

    def _known(self, image: Image, variance: Any) -> np.ndarray:
        given: Any = image.variance if variance is None else variance
        if given is None:
            given = _sky_variance(image)
        if np.ndim(given) == 0:
            if not (np.isfinite(float(given)) and float(given) > 0):
                raise InputError(self._no_variance(image))
            return np.full(self.data.shape, float(given))
        windows = cut(self.backend, given, self.y, self.x, self.half, np.nan)
        if windows.min() > 0 and windows.max() < np.inf:  # and none is NaN
            return windows.astype(np.float64)
        usable = np.isfinite(windows) & (windows > 0)
        if usable.any():
            return np.where(usable, windows, np.median(windows[usable].astype(np.float64))).astype(np.float64)
        usable = np.isfinite(given) & (given > 0)
        if not usable.any():
            raise InputError(self._no_variance(image))
        return np.full(windows.shape, float(np.median(given[usable])))

    @staticmethod
    def _no_variance(image: Image) -> str:
        return f"{image.name}: the variance has no positive, finite value"


def _sky_variance(image: Image) -> float:
    """Return the variance of blank sky, from a regular part of a large image."""
    step = int(np.sqrt(image.data.size / _ENOUGH)) + 1
    part = image.data[::step, ::step]
    good = np.isfinite(part)
    if image.mask is not None:
        good &= image.mask[::step, ::step] == 0
    _, sigma, _ = clipped_statistics(part[good].astype(float))
    return sigma**2


class Crowd:
    """All sources whose light reaches the windows of the chosen stars, and which of them overlap.

    Parameters
    ----------
    image : Image
        Background-subtracted.
    stars : structured array of `find_stars`
    chosen : int array (m,)
        The stars of the windows.
    cuts : Cuts
    half : int
        Half side of the PSF.
    """

    def __init__(self, image: Image, stars: np.ndarray, chosen: np.ndarray, cuts: Cuts, half: int) -> None:
        from scipy.spatial import cKDTree

        places = np.stack([stars["y"], stars["x"]], axis=1)
        middles = np.stack([cuts.y, cuts.x], axis=1)
        near = cKDTree(places).query_ball_point(middles, cuts.half + half, p=np.inf)
        source = np.concatenate([np.asarray(n, dtype=int) for n in near])
        window = np.repeat(np.arange(len(near)), [len(n) for n in near])
        self.involved = np.unique(source)
        other = source != chosen[window]
        self.window, self.source = window[other], np.searchsorted(self.involved, source[other])
        self.places = places[self.involved]
        self.y, self.x = (np.clip(np.rint(self.places[:, k]).astype(int), 0, n - 1) for k, n in enumerate(image.shape))
        self.half, self.cuts = half, cuts
        self.first = np.maximum(stars["flux"][self.involved], 0.0)
        if len(self.window):
            self.pixels = cut_good(cuts.backend, image, self.y, self.x, half)
            pairs = cKDTree(self.places).query_pairs(half, output_type="ndarray").reshape(-1, 2)
            self.i, self.j = pairs[:, 0], pairs[:, 1]

    def light(self, psf: np.ndarray) -> np.ndarray:
        """Return what all sources but the star itself bring into each window, (m, s, s), their PSF being `psf`."""
        out = np.zeros_like(self.cuts.data)
        if len(self.window) == 0:
            return out
        offset = self.places[:, 0] - self.y, self.places[:, 1] - self.x
        spline = spline_of(psf, self.half, max(np.abs(off).max() for off in offset))
        models = host_op("psf_at", psf_at)(spline, self.half, *offset)
        flux = self._joint_fluxes(psf, models)
        shift = self.y[self.source] - self.cuts.y[self.window], self.x[self.source] - self.cuts.x[self.window]
        host_op("crowd_light", crowd_light)(out, models, flux, self.window, self.source, *shift)
        return out

    def _joint_fluxes(self, psf: np.ndarray, models: np.ndarray) -> np.ndarray:
        """Solve the normal equations of unweighted PSF photometry of overlapping sources, fluxes not negative.

        The matrix is the PSF's autocorrelation at the separations: sum_x P(x - a) P(x - b) = A(a - b).
        """
        from scipy.ndimage import map_coordinates

        side = host_backend().next_fast_len(2 * psf.shape[0] + 1)
        auto = np.fft.fftshift(np.fft.irfft2(np.abs(np.fft.rfft2(psf, (side, side))) ** 2, (side, side)))
        lag = self.places[self.i] - self.places[self.j] + side // 2
        overlap = map_coordinates(auto, lag.T, order=3)
        right, seen = host_op("crowd_sums", crowd_sums)(self.pixels, models)
        # Holes take part of the self-overlap away; the first flux is a weak prior.
        diagonal = np.maximum(seen, 0.05 * auto.max()) + 0.01 * auto.max()
        right = right + 0.01 * auto.max() * self.first
        rows, columns = self.i, self.j

        def product(x: np.ndarray) -> np.ndarray:
            n = len(x)
            return (
                diagonal * x + np.bincount(rows, overlap * x[columns], n) + np.bincount(columns, overlap * x[rows], n)
            )

        return np.maximum(conjugate_gradients(product, right, self.first), 0.0)


def conjugate_gradients(
    product: Callable[[np.ndarray], np.ndarray], right: np.ndarray, first: np.ndarray, rtol: float = 1e-4
) -> np.ndarray:
    """Solve a symmetric, positive definite system to `rtol` of the right side (Hestenes & Stiefel 1952).

    `product` multiplies its matrix by a vector. SciPy's solver needs scipy.sparse.linalg, whose import takes a tenth of
    a second of every run of the program.
    """
    x = first.astype(float)
    rest = right - product(x)
    step, size = rest.copy(), float(rest @ rest)
    limit = (rtol * float(np.linalg.norm(right))) ** 2
    for _ in range(200):
        if size <= limit:
            break
        image = product(step)
        length = size / float(step @ image)
        x += length * step
        rest -= length * image
        size, before = float(rest @ rest), size
        step = rest + (size / before) * step
    return x
