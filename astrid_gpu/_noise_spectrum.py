r"""The power spectrum of the noise of one image, or of two of one field, or of a part, measured on blank sky.

The covariance of blank pixels d apart, in units of the variance stated for them, is the noise's

.. math:: c(d) = v \, a(d), \quad a(0) = 1

and what is left of the sky: faint sources below any threshold, haloes, the background's residue. In a pair that is in
both images, noise is not. So the covariance of one image with the other is what the sky has in it, and is taken off:
multiplied, to go from one PSF and flux scale to the other, by :math:`|\hat P_n|^2 / (\hat P_n \overline{\hat P_r})` and
:math:`F_n \sigma_r / (F_r \sigma_n)`. Noise that the two have in common, as where one is a part of the other, goes the
same way: it cancels in the difference. What varies slowly, over more than any resampling reaches, is sky of one image
alone, and is taken off before (`_slow_sky`): the second look at the background, on the difference, sees to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from astrid_gpu._noise import median_of, source_pixels
from astrid_gpu._slow_sky import without_slow
from astrid_gpu.errors import InputError
from astrid_gpu.image import PSF, Image
from astrid_gpu.ops.autocorrelation import lag_covariances
from astrid_gpu.ops.fourier import transfer_function

__all__ = [
    "REACH",
    "Blank",
    "NoiseSpectrum",
    "combined",
    "core_of",
    "depths_of",
    "measure_blocks",
    "measure_noise_spectrum",
    "noise_covariances",
    "noise_spectra",
    "spectra_of",
    "spectrum_of",
    "tapered",
]

REACH = 12
"""Largest lag, pixels."""

RANGES = (1.5, 2.5, 4.0, 6.0)
"""Lags up to which the covariance may be kept whole; it fades from there to twice as far, and one pixel more."""

_BLOCK = 256
_MOST = 12  # blocks measured: 800 000 pixels fix the covariances to two thousandths of the variance
_EACH = 1536  # px: of very large frames one block for each square of this side, to see what varies
_LEAST = 4000  # blank pixels
_CLIP = 5.0  # of the stated noise: no blank pixel
_PSF_GRID = 64
_TINY = 1e-6  # of the stated variance
_LEFT = 0.1  # of the variance of blank pixels, that the sky has to leave
_WEAK = (
    0.04  # of the product of two PSFs' transforms at k = 0, squared root 0.2: where one no longer tells of the other
)

_MATTERS, _SURE = 0.1, 3.0  # change of the variance that a PSF sees, and in how many sigma
_CORRELATED, _CERTAIN = 0.1, 5.0  # correlation of neighbours likewise
_CROWDED = 1.0  # sky over noise, as a PSF sees them, from which on the one is not known well enough to leave the other


@dataclass(frozen=True)
class NoiseSpectrum:
    """The noise of an image's blank sky: its autocorrelation, whose transform is its power spectrum.

    Attributes
    ----------
    stamp : float64 array, shape (25, 25)
        a(d): correlation of two pixels d apart, lag 0 in the middle, 1 there. What `zogy` takes.
    variance : float
        v: variance of a pixel over the one stated for it.
    correlation, correlation_error : float
        Of neighbours, mean of those in y and in x; 1-sigma error.
    excess, excess_error : float
        Variance of the image smoothed by its PSF over that of white noise of the same pixel variance; 1 is white.
    sky : float
        Variance of what both images have in common, over that of the noise, as the PSF sees them; it was taken off.
    reach : float
        Lag in pixels up to which the correlation was kept.
    n_pixels : int
        Blank pixels measured.
    """

    stamp: np.ndarray
    variance: float
    correlation: float
    correlation_error: float
    excess: float
    excess_error: float
    sky: float
    reach: float
    n_pixels: int

    @property
    def coloured(self) -> bool:
        """Whether this noise is not white: by a tenth of the variance that a PSF sees or of that of neighbours."""
        seen = abs(self.excess - 1) > max(_MATTERS, _SURE * self.excess_error)
        return seen or abs(self.correlation) > max(_CORRELATED, _CERTAIN * self.correlation_error)

    @property
    def reliable(self) -> bool:
        """Whether there is less sky than noise among the blank pixels: in a crowd there is not."""
        return self.sky < _CROWDED

    def __repr__(self) -> str:
        """Return one line."""
        return (
            f"<noise of {self.n_pixels} blank pixels: neighbours correlated by {self.correlation:.3f} +- "
            f"{self.correlation_error:.3f}, a PSF sees {self.excess:.3f} +- {self.excess_error:.3f} of white noise>"
        )


def measure_noise_spectrum(image: Image, psf: PSF | np.ndarray | None = None) -> NoiseSpectrum:
    """Measure the autocorrelation of an image's background noise on blank sky.

    For one image alone: what faint sources there are beside those found count as noise. `subtract` measures both images
    of a pair together, and takes off what they have in common.

    Parameters
    ----------
    image : Image
        Background-subtracted, with a variance.
    psf : PSF or array (ky, kx), optional
        Default: that of the image.

    Returns
    -------
    NoiseSpectrum

    Raises
    ------
    InputError
        No variance, no PSF, or fewer than 4000 blank pixels.

    Examples
    --------
    >>> import numpy as np, astrid_gpu as ag
    >>> y, x = np.mgrid[-7:8, -7:8]
    >>> sky = np.random.default_rng(1).normal(size=(257, 257))
    >>> sky = (sky[1:, 1:] + sky[:-1, 1:]) / 2  # as a shift by half a pixel leaves it
    >>> image = ag.Image(sky, variance=np.full(sky.shape, 0.5))
    >>> noise = ag.measure_noise_spectrum(image, np.exp(-(x**2 + y**2) / 8.0))
    >>> np.round(noise.stamp[11:14, 12], 1)
    array([0.5, 1. , 0.5])
    """
    stamp = psf if psf is not None else image.psf
    if image.variance is None or stamp is None:
        what = "variance" if image.variance is None else "PSF"
        msg = f"{image.name}: a noise spectrum is measured against the {what}, and there is none; give it"
        raise InputError(msg)
    data = np.asarray(getattr(stamp, "data", stamp) if not isinstance(stamp, np.ndarray) else stamp, float)
    found = noise_spectra([image.data], [np.asarray(image.variance)], [data / data.sum()], [1.0], image.bad)
    if found is None:
        msg = f"{image.name}: fewer than {_LEAST} blank pixels; a noise spectrum needs more"
        raise InputError(msg)
    return found[0]


def noise_spectra(
    images: list[np.ndarray], variances: list[np.ndarray], psfs: list[np.ndarray], fluxes: list[float], bad: np.ndarray
) -> list[NoiseSpectrum] | None:
    """Measure the noise of one image, or of two on one grid, on the sky that is blank in all.

    Parameters
    ----------
    images, variances : lists of 1 or 2 arrays (ny, nx)
        Background-subtracted and registered.
    psfs : list of arrays (ky, kx)
        Odd, centred, sum 1.
    fluxes : list of float
        F of each: counts of a source of unit flux.
    bad : bool array (ny, nx)
        Bad in one or the other.

    Returns
    -------
    list of NoiseSpectrum, or None
        None where fewer than 4000 pixels are blank.

    Notes
    -----
    Of frames above 800 000 pixels a regular part is measured. Cost: some 0.07 s on one core for that many.
    """
    blocks = measure_blocks(images, variances, psfs, bad)
    return (
        spectra_of(combined(blocks, [1.0] * len(blocks)), depths_of(variances, fluxes, bad), psfs) if blocks else None
    )


class Blank(NamedTuple):
    """What the blank pixels of a part of the frame give: covariances (m, m, 25, 25) of m images and their pixels."""

    covariances: np.ndarray
    pairs: np.ndarray  # (25, 25), of pixels at a lag
    n: float


def measure_blocks(
    images: list[np.ndarray],
    variances: list[np.ndarray],
    psfs: list[np.ndarray],
    bad: np.ndarray,
    least: int = _LEAST,
) -> list[Blank]:
    """Measure the covariances of blank pixels by blocks of up to 256 x 256; none where fewer than `least` are blank.

    The other arguments as of `noise_spectra`; images and variances may be frames on disk, of which the blocks are read.
    """
    parts = [_blank(images, variances, psfs, bad, part) for part in _blocks(bad.shape)]
    n = int(sum(np.count_nonzero(good) for _, good in parts))
    if n < least:
        return []
    levels = [sum(float(z[i][good].sum(dtype=float)) for z, good in parts) / n for i in range(len(images))]
    found = []
    for values, good in parts:
        centred = [z - z.dtype.type(level) for z, level in zip(values, levels, strict=True)]
        for y in range(0, good.shape[0], _BLOCK):
            for x in range(0, good.shape[1], _BLOCK):
                inner = np.s_[y : y + _BLOCK, x : x + _BLOCK]
                count = int(np.count_nonzero(good[inner]))
                if count:
                    covariances, pairs = lag_covariances([z[inner] for z in centred], good[inner], REACH, block=_BLOCK)
                    found.append(Blank(covariances, pairs, count))
    return found


def combined(parts: list[Blank], weights: list[float]) -> Blank:
    """Return the covariances of several parts as one: means by number of pairs, each part's times its weight."""
    pairs: Any = sum(w * part.pairs for w, part in zip(weights, parts, strict=True))
    total: Any = sum(w * part.pairs * part.covariances for w, part in zip(weights, parts, strict=True))
    return Blank(
        total / np.maximum(pairs, 1e-9), pairs, sum(w * part.n for w, part in zip(weights, parts, strict=True))
    )


def depths_of(variances: list[np.ndarray], fluxes: list[float], bad: np.ndarray) -> list[float]:
    """Return the flux scale of each image in units of its noise, which tells how deep it goes."""
    return [f / float(np.sqrt(median_of(v, bad))) for f, v in zip(fluxes, variances, strict=True)]


def noise_covariances(
    measured: Blank, depths: list[float], psfs: list[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the covariances of the noise of each image, and those of the sky that was taken off them."""
    count, taper = len(measured.covariances), tapered(RANGES[-1])
    quick = np.array([[without_slow(c, measured.pairs, taper) for c in row] for row in measured.covariances])
    own = both = [(c + c[::-1, ::-1]) / 2 for c in (quick[i, i] for i in range(count))]
    if count == 2:
        common = (quick[0, 1] + quick[1, 0]) / 2
        own = _without_sky(own, common, psfs, depths, measured.n)
    return own, [whole - c for c, whole in zip(own, both, strict=True)]


def spectra_of(measured: Blank, depths: list[float], psfs: list[np.ndarray]) -> list[NoiseSpectrum]:
    """Return what the covariances tell of the noise of each image."""
    pairs = zip(*noise_covariances(measured, depths, psfs), psfs, strict=True)
    return [spectrum_of(c, sky, psf, measured.n) for c, sky, psf in pairs]


def _blocks(shape: tuple[int, int]) -> list[tuple[slice, slice]]:
    """Return the whole frame, or blocks spread evenly over a large one."""
    ny, nx = shape
    if ny * nx <= _MOST * _BLOCK**2:
        return [np.s_[:, :]]
    rows, columns = (max(1, n // _BLOCK) for n in shape)
    j, i = (v.ravel() for v in np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"))
    step = max(1, len(j) // max(_MOST, ny * nx // _EACH**2))
    step += int(step > 1 and columns % step == 0)  # not the same column of blocks again and again
    corners = [(ny - _BLOCK) * j[::step] // max(1, rows - 1), (nx - _BLOCK) * i[::step] // max(1, columns - 1)]
    return [np.s_[y : y + _BLOCK, x : x + _BLOCK] for y, x in zip(*corners, strict=True)]


def _blank(
    images: list[np.ndarray], variances: list[np.ndarray], psfs: list[np.ndarray], bad: np.ndarray, part: Any
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the pixels of a part of the frame in units of their noise, and which are good and blank in all images."""
    out = bad[part].copy()
    values = []
    for image, variance in zip(images, variances, strict=True):
        usable = np.isfinite(variance[part]) & (variance[part] > 0) & np.isfinite(image[part])
        out |= ~usable
        with np.errstate(invalid="ignore", divide="ignore"):
            values.append(np.where(usable, image[part] / np.sqrt(variance[part]), 0).astype(np.float32))
    if out.all():
        return values, ~out
    good = ~out
    rms = np.ones(out.shape, np.float32)
    for z, psf in zip(values, psfs, strict=True):
        good &= ~source_pixels(z, rms, out, _fwhm(psf)) & (abs(z) < _CLIP * max(1.0, _width(z[~out])))
    return values, good


def _width(values: np.ndarray) -> float:
    """Return the robust width of pixels in units of their stated noise."""
    low, middle = np.percentile(values[:: max(1, values.size // 100_000)], [15.865, 50])
    return float(middle - low)


def _fwhm(psf: np.ndarray) -> float:
    """Return a width of a stamp of sum 1: that of the Gaussian with the same sum of squares."""
    return float(2.3548 / np.sqrt(4 * np.pi * (psf**2).sum()))


def _without_sky(
    own: list[np.ndarray], common: np.ndarray, psfs: list[np.ndarray], depths: list[float], n: float
) -> list[np.ndarray]:
    """Take off each covariance what the two images have in common, as far as that is more than chance."""
    inner = np.s_[REACH - 3 : REACH + 4, REACH - 3 : REACH + 4]
    chance = np.sqrt(common[inner].size * own[0][REACH, REACH] * own[1][REACH, REACH] / n)
    trust = float(np.clip(1 - (2 * chance / max(abs(common[inner].sum()), chance)) ** 2, 0, 1))
    if trust == 0:
        return own
    grid = (_PSF_GRID, _PSF_GRID)
    transfer = [transfer_function(core_of(p)[None], grid, np.fft.rfft2)[0] for p in psfs]
    cross = (transfer[0] * transfer[1].conj()).real
    power = transfer_function((common * tapered(RANGES[-1]))[None], grid, np.fft.rfft2)[0].real
    cleaned = []
    for i, covariance in enumerate(own):
        ratio = abs(transfer[i]) ** 2 * cross / (cross**2 + _WEAK * abs(transfer[i]) ** 2)
        ratio *= 1 + _WEAK  # 1 at k = 0
        static = np.fft.irfft2(power * ratio, s=grid)
        lags = np.arange(-REACH, REACH + 1)
        cleaned.append(covariance - trust * depths[i] / depths[1 - i] * static[np.ix_(lags, lags)])
    return cleaned


def core_of(psf: np.ndarray) -> np.ndarray:
    """Return the middle of a stamp, as large as the grid of its transform holds."""
    largest = _PSF_GRID - 1
    cuts = [slice(max(0, (n - largest) // 2), n - max(0, (n - largest) // 2)) for n in psf.shape]
    inner = psf[cuts[0], cuts[1]]
    return inner / inner.sum()


def tapered(reach: float) -> np.ndarray:
    """Return weights of lags: 1 up to `reach`, 0 from 2 `reach` + 1 on."""
    lags = np.arange(-REACH, REACH + 1)
    distance = np.hypot(lags[:, None], lags)
    return 0.5 + 0.5 * np.cos(np.pi * np.clip((distance - reach) / (reach + 1), 0, 1))


def spectrum_of(covariance: np.ndarray, sky: np.ndarray, psf: np.ndarray, n: float) -> NoiseSpectrum:
    """Return what is told of a noise covariance: how far it reaches, what it does, whether it is more than chance.

    It is kept up to the lag beyond which it no longer changes what the PSF sees, by more than a hundredth or chance.
    """
    whole = float(covariance[REACH, REACH] + sky[REACH, REACH])
    lost = covariance[REACH, REACH] < _LEFT * whole  # what there is, both have: no noise of its own is left to tell of
    covariance = covariance + sky if lost else covariance
    variance = max(float(covariance[REACH, REACH]), _TINY)
    a = covariance / variance
    grid = (_PSF_GRID, _PSF_GRID)
    lags = np.arange(-REACH, REACH + 1)
    seen = np.fft.irfft2(abs(transfer_function(core_of(psf)[None], grid, np.fft.rfft2)[0]) ** 2, s=grid)
    seen = seen[np.ix_(lags, lags)] / seen[0, 0]
    chance = np.sqrt(2 * (a[tapered(RANGES[0]) > 0] ** 2).sum() / n)  # of one lag; opposite ones are the same
    widest = tapered(RANGES[-1])
    most = float((widest * a * seen).sum())
    for reach in RANGES:
        taper = tapered(reach)
        left = abs(float(((widest - taper) * a * seen).sum()))
        if left <= max(0.01 * most, 2 * chance * float(np.sqrt((((widest - taper) * seen) ** 2).sum()))):
            break
    stamp = _positive(a * taper, chance * float(np.sqrt((taper**2).sum())))
    inner = taper.copy()
    inner[REACH, REACH] = 0
    neighbours = (a[REACH, REACH + 1] + a[REACH + 1, REACH]) / 2
    return NoiseSpectrum(
        stamp=stamp,
        variance=variance,
        correlation=float(neighbours),
        correlation_error=float(chance / 2),
        excess=float((stamp * seen).sum()),
        excess_error=float(chance * np.sqrt(((inner * seen) ** 2).sum())),
        sky=np.inf
        if lost
        else abs(float((widest * sky * seen).sum())) / max(variance * float((stamp * seen).sum()), _TINY),
        reach=reach,
        n_pixels=int(n),
    )


def _positive(stamp: np.ndarray, chance: float) -> np.ndarray:
    """Return an autocorrelation whose power is nowhere below the error of that power, 1 in the middle."""
    grid = (_PSF_GRID, _PSF_GRID)
    lags = np.arange(-REACH, REACH + 1)
    power = transfer_function(stamp[None], grid, np.fft.rfft2)[0].real
    back = np.fft.irfft2(np.maximum(power, chance), s=grid)[np.ix_(lags, lags)]
    back = np.where(stamp == 0, 0, back)
    return (back + back[::-1, ::-1]) / (2 * back[REACH, REACH])
