"""A camera: how a scene is observed, and the pixels that come out with their noise."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from astrid_gpu.errors import ConfigError
from astrid_gpu.image import PSF, Image
from astrid_gpu.ops.psf_stamps import fwhm_of
from astrid_gpu.simulate.profiles import PsfModel, psf
from astrid_gpu.simulate.render import draw_galaxies, draw_stars
from astrid_gpu.simulate.scene import Scene

__all__ = ["Exposure", "Frame", "expose", "make_wcs", "true_psf"]


@dataclass(frozen=True)
class Exposure:
    """The conditions of one exposure. The defaults are those of a 30 s ZTF r-band image.

    Parameters
    ----------
    psf : PsfModel
    sky : float
        Background in counts per pixel.
    gradient : (float, float)
        Counts by which the background rises from the first row to the last, and from the first column to the last.
    gain : float
        Electrons per count.
    read_noise : float
        Electrons per pixel.
    flux_scale : float
        Counts here per count of the scene: transparency times exposure.
    saturation : float
        Counts (sky included) at which pixels clip.
    shift : (float, float)
        (dy, dx) pixels by which this exposure's pixels are off from where its WCS says: an astrometric error.
    dither : (float, float)
        (dy, dx) pixels by which it points elsewhere, and its WCS knows it.
    zero_point : float
        AB magnitude of one count at flux scale 1; the image's own is shifted by 2.5 log10(flux_scale).
    """

    psf: PsfModel = field(default_factory=PsfModel)
    sky: float = 300.0
    gradient: tuple[float, float] = (0.0, 0.0)
    gain: float = 6.2
    read_noise: float = 10.0
    flux_scale: float = 1.0
    saturation: float = 50000.0
    shift: tuple[float, float] = (0.0, 0.0)
    dither: tuple[float, float] = (0.0, 0.0)
    zero_point: float = 26.3

    def __post_init__(self) -> None:
        for name, low in (("sky", 0.0), ("read_noise", 0.0)):
            if not getattr(self, name) >= low:
                msg = f"Exposure: {name} is {getattr(self, name)!r}, it must be {low:g} or more"
                raise ConfigError(msg)
        for name in ("gain", "flux_scale", "saturation"):
            if not getattr(self, name) > 0:
                msg = f"Exposure: {name} is {getattr(self, name)!r}, it must be positive"
                raise ConfigError(msg)

    @property
    def offset(self) -> tuple[float, float]:
        """Pixels (dy, dx) from the scene's grid to this exposure's."""
        return self.shift[0] + self.dither[0], self.shift[1] + self.dither[1]

    @property
    def sky_noise(self) -> float:
        """Standard deviation of an empty pixel in counts."""
        return float(np.sqrt(self.sky * self.gain + self.read_noise**2) / self.gain)


class Frame(NamedTuple):
    """One simulated exposure and what only a simulator knows about it.

    `image` is as a camera delivers it (sky included, bad pixels NaN and masked, no PSF, no variance); `expected`
    (ny, nx) is its noise-free self and `variance` (ny, nx) the true variance of each pixel in counts squared, both
    float64 and before saturation; `psf` is the true PSF.
    """

    image: Image
    expected: np.ndarray
    variance: np.ndarray
    psf: PSF

    def known(self) -> Image:
        """Return the image with its true PSF and variance attached."""
        return self.image.with_(psf=self.psf, variance=self.variance.astype(np.float32))


def make_wcs(
    shape: tuple[int, int],
    *,
    ra: float = 150.0,
    dec: float = 2.2,
    pixel_scale: float = 1.01,
    rotation: float = 0.0,
    dither: tuple[float, float] = (0.0, 0.0),
) -> Any:
    """Return a TAN WCS centred on a frame of `shape`, or None without astropy.

    `ra`, `dec` and `rotation` (of north from +y towards -x) in degrees, `pixel_scale` in arcsec; `dither` (dy, dx)
    moves the frame's origin by that many pixels against a frame without dither, so sources appear at +dither.
    """
    try:
        from astropy.wcs import WCS
    except ImportError:
        return None
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [shape[1] / 2 + 0.5 + dither[1], shape[0] / 2 + 0.5 + dither[0]]
    angle, scale = np.deg2rad(rotation), pixel_scale / 3600.0
    wcs.wcs.cd = scale * np.array([[-np.cos(angle), -np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    wcs.wcs.radesys = "ICRS"
    wcs.pixel_shape = (shape[1], shape[0])
    wcs.wcs.set()
    return wcs


def expose(
    sky: Scene,
    exposure: Exposure,
    *,
    seed: int | np.random.Generator,
    extra: np.ndarray | None = None,
    shape: tuple[int, int] | None = None,
    bad: np.ndarray | None = None,
    wcs: Any = None,
    name: str = "simulated",
    meta: dict[str, Any] | None = None,
) -> Frame:
    """Observe a scene: render, add the background, Poisson and read noise, clip, and lose the bad pixels.

    Parameters
    ----------
    sky : Scene
    exposure : Exposure
    seed : int or numpy.random.Generator
        Of the noise alone.
    extra : structured array, optional
        More point sources with fields x, y (scene pixels) and flux (counts at flux scale 1).
    shape : (ny, nx), optional
        Of the frame, if it is not the scene's.
    bad : array of bool, shape (ny, nx), optional
        Pixels that deliver NaN and are masked.
    wcs, name, meta : optional
        For the Image.

    Returns
    -------
    Frame
        Image data float32.
    """
    rng = np.random.default_rng(seed)
    shape = shape or sky.shape
    expected = _noise_free(sky, exposure, extra, shape)
    electrons = rng.poisson(expected * exposure.gain) + rng.normal(0.0, exposure.read_noise, shape)
    data = np.minimum(electrons / exposure.gain, exposure.saturation).astype(np.float32)
    mask = None
    if bad is not None:
        data[bad] = np.nan
        mask = bad.astype(np.uint8)
    image = Image(
        data,
        mask=mask,
        wcs=wcs,
        zero_point=exposure.zero_point + 2.5 * float(np.log10(exposure.flux_scale)),
        gain=exposure.gain,
        read_noise=exposure.read_noise,
        saturation=exposure.saturation,
        meta=dict(meta or {}),
        name=name,
    )
    variance = (expected * exposure.gain + exposure.read_noise**2) / exposure.gain**2
    return Frame(image, expected, variance, true_psf(exposure.psf))


def true_psf(model: PsfModel, size: int | None = None) -> PSF:
    """Return the pixel-integrated, centred PSF of a model: what a perfect measurement would find."""
    stamp = psf(model.kind, model.fwhm, beta=model.beta, ellipticity=model.ellipticity, angle=model.angle, size=size)
    return PSF(stamp, fwhm=fwhm_of(stamp), ellipticity=model.ellipticity, origin="simulation")


def _noise_free(sky: Scene, exposure: Exposure, extra: np.ndarray | None, shape: tuple[int, int]) -> np.ndarray:
    """Return the expected counts of every pixel, background included, float64; never negative."""
    dy, dx = exposure.offset
    canvas = np.zeros(shape)
    floor = 0.02 * exposure.sky_noise
    for points in (sky.stars, extra):
        if points is not None and len(points):
            flux = points["flux"] * exposure.flux_scale
            draw_stars(canvas, points["x"] + dx, points["y"] + dy, flux, exposure.psf, floor=floor)
    galaxies = sky.galaxies.copy()
    galaxies["x"] += dx
    galaxies["y"] += dy
    galaxies["flux"] *= exposure.flux_scale
    draw_galaxies(canvas, galaxies, exposure.psf)
    canvas += exposure.sky + exposure.gradient[0] * (np.linspace(-0.5, 0.5, shape[0]))[:, None]
    canvas += exposure.gradient[1] * np.linspace(-0.5, 0.5, shape[1])[None, :]
    return np.maximum(canvas, 0.0)
