"""One science image and its reference, with known changes between them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from astrid_gpu.errors import ConfigError
from astrid_gpu.image import Image
from astrid_gpu.simulate.exposure import Exposure, Frame, expose, make_wcs
from astrid_gpu.simulate.profiles import PsfModel
from astrid_gpu.simulate.scene import Scene, open_places, scene
from astrid_gpu.simulate.truth import point_source_noise, truth_table

__all__ = ["REFERENCE", "SCIENCE", "SOURCE_DTYPE", "SimulatedPair", "bad_pixel_map", "field", "pair"]

SCIENCE = Exposure(psf=PsfModel("moffat", 2.6, 3.5, 0.06, 25.0), sky=320.0, flux_scale=0.94)
"""A ZTF-like science exposure: 2.6 arcsec seeing at 1 arcsec pixels, a little haze."""

REFERENCE = Exposure(psf=PsfModel("moffat", 2.1, 3.8, 0.03, 110.0), sky=180.0, gain=6.2 * 15, read_noise=10 * 15**0.5)
"""The mean of 15 good exposures: sharper, 15 times the electrons per count."""

SOURCE_DTYPE = np.dtype(
    [
        ("id", "i4"),
        ("x", "f8"),
        ("y", "f8"),
        ("kind", "U12"),
        ("on_galaxy", "?"),
        ("science", "f8"),
        ("reference", "f8"),
    ]
)


@dataclass(frozen=True, repr=False)
class SimulatedPair:
    """A science image, a reference, and the truth about them.

    Parameters
    ----------
    science, reference : Image
        As a user has them: sky included, bad pixels NaN and masked, a WCS and a zero point, but no PSF and no
        variance. `known()` gives them with the true ones.
    truth : structured array
        One row a changed source; the columns are `simulate.TRUTH_DTYPE`.
    frames : (Frame, Frame)
        Noise-free pixels, true variances and true PSFs of both.
    exposures : (Exposure, Exposure)
        The conditions of both.
    scene : Scene
        The constant sky.
    """

    science: Image
    reference: Image
    truth: np.ndarray
    frames: tuple[Frame, Frame]
    exposures: tuple[Exposure, Exposure]
    scene: Scene

    def known(self) -> tuple[Image, Image]:
        """Return (science, reference) with their true PSFs and variances: nothing is left to estimate but the sky."""
        return self.frames[0].known(), self.frames[1].known()

    def __repr__(self) -> str:
        ny, nx = self.science.shape
        (a, b), n = self.exposures, len(self.truth)
        changes = ", ".join(f"{np.sum(self.truth['kind'] == kind)} {kind}" for kind in np.unique(self.truth["kind"]))
        return (
            f"<SimulatedPair {nx}x{ny} px, {n} changed sources ({changes or 'none'})\n"
            f"  science    FWHM {self.frames[0].psf.fwhm:.2f} px, sky {a.sky:g}, noise {a.sky_noise:.2f}\n"
            f"  reference  FWHM {self.frames[1].psf.fwhm:.2f} px, sky {b.sky:g}, noise {b.sky_noise:.2f}>"
        )


def field(
    seed: int = 0,
    shape: tuple[int, int] = (512, 512),
    *,
    exposure: Exposure = SCIENCE,
    n_stars: int | None = None,
    n_galaxies: int | None = None,
    bad_fraction: float = 0.0,
    bad_columns: int = 0,
) -> Frame:
    """Simulate one exposure of a random field.

    Parameters
    ----------
    seed, shape, n_stars, n_galaxies, bad_fraction, bad_columns
        As in `pair`.
    exposure : Exposure

    Returns
    -------
    Frame
        `.image` as a camera delivers it, with `.expected`, `.variance` and `.psf` beside it.

    Examples
    --------
    >>> frame = field(seed=3, shape=(64, 64))
    >>> frame.image.data.dtype, frame.variance.shape
    (dtype('float32'), (64, 64))
    """
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence([seed, 3]).spawn(3)]
    sky = scene(streams[0], shape, n_stars=n_stars, n_galaxies=n_galaxies)
    bad = bad_pixel_map(sky.shape, streams[1], fraction=bad_fraction, columns=bad_columns)
    wcs = make_wcs(sky.shape, dither=exposure.dither)
    return expose(sky, exposure, seed=streams[2], bad=bad, wcs=wcs, name=f"field (seed {seed})")


def pair(
    seed: int = 0,
    shape: tuple[int, int] = (512, 512),
    *,
    science: Exposure = SCIENCE,
    reference: Exposure = REFERENCE,
    n_stars: int | None = None,
    n_galaxies: int | None = None,
    n_changes: int = 12,
    snr: tuple[float, float] = (6.0, 60.0),
    misregistration: tuple[float, float] = (0.0, 0.0),
    gradient: tuple[float, float] = (0.0, 0.0),
    bad_fraction: float = 2e-4,
    bad_columns: int = 1,
) -> SimulatedPair:
    """Simulate a science image and a reference of the same field, with known changes.

    Parameters
    ----------
    seed : int
        The same seed gives the same pixels, whatever else was drawn before.
    shape : (ny, nx)
    science, reference : Exposure
        The conditions; `dataclasses.replace(simulate.SCIENCE, sky=900.0)` changes one.
    n_stars, n_galaxies : int, optional
        See `simulate.scene`; 0 for none.
    n_changes : int
        Changed sources, dealt in turn to: new on blank sky, hosted (new on a galaxy), vanished, faded, brightened.
    snr : (low, high)
        Range of their expected significances, uniform in the logarithm.
    misregistration : (dy, dx)
        Pixels by which the reference is off from where its WCS says.
    gradient : (float, float)
        Counts by which the science background rises along y and along x.
    bad_fraction : float
        Part of the science pixels that are dead, at random.
    bad_columns : int
        Dead columns of the science image.

    Returns
    -------
    SimulatedPair

    Raises
    ------
    ConfigError
        An impossible condition, or no room for `n_changes`.

    Examples
    --------
    >>> field = pair(seed=1, shape=(128, 128), n_changes=2)
    >>> field.science.shape, len(field.truth)
    ((128, 128), 2)
    """
    if not 0 < snr[0] <= snr[1]:
        msg = f"snr is a range (low, high) with 0 < low <= high, got {snr!r}"
        raise ConfigError(msg)
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(5)]
    sky = scene(streams[0], shape, n_stars=n_stars, n_galaxies=n_galaxies)
    science = replace(science, gradient=gradient)
    reference = replace(reference, shift=misregistration)
    sources = _changed_sources(sky, streams[1], n_changes, snr, (science, reference))
    frames = []
    bad = bad_pixel_map(sky.shape, streams[2], fraction=bad_fraction, columns=bad_columns)
    for label, exposure, stream in (("science", science, streams[3]), ("reference", reference, streams[4])):
        extra = _at_epoch(sources, label)
        wcs = make_wcs(sky.shape, dither=exposure.dither)
        flaws = bad if label == "science" else None
        frames.append(
            expose(sky, exposure, seed=stream, extra=extra, bad=flaws, wcs=wcs, name=f"{label} (seed {seed})")
        )
    truth = truth_table(sources, frames[0], frames[1], (science, reference))
    return SimulatedPair(frames[0].image, frames[1].image, truth, (frames[0], frames[1]), (science, reference), sky)


def bad_pixel_map(
    shape: tuple[int, int], rng: np.random.Generator, *, fraction: float = 2e-4, columns: int = 1
) -> np.ndarray | None:
    """Return a boolean map of dead pixels and dead columns, or None if there are none."""
    bad = rng.random(shape) < fraction
    if columns:
        bad[:, rng.choice(shape[1], size=columns, replace=False)] = True
    return bad if bad.any() else None


def _at_epoch(sources: np.ndarray, label: str) -> np.ndarray:
    """Return x, y, flux of the changing sources in one of the two images."""
    points = np.zeros(len(sources), [("x", "f8"), ("y", "f8"), ("flux", "f8")])
    points["x"], points["y"], points["flux"] = sources["x"], sources["y"], sources[label]
    return points


def _changed_sources(
    sky: Scene, rng: np.random.Generator, n: int, snr: tuple[float, float], exposures: tuple[Exposure, Exposure]
) -> np.ndarray:
    """Place n changing sources and give them fluxes for the significances asked for on empty sky."""
    kinds = np.array(["hosted", "new", "vanished", "faded", "brightened"])[np.arange(n) % 5]
    kinds = kinds[np.argsort(kinds != "hosted", kind="stable")]  # the first places are the ones on galaxies
    x, y, on_galaxy = open_places(sky, n, rng, near_galaxies=int(np.sum(kinds == "hosted")))
    kinds = np.where((kinds == "hosted") & ~on_galaxy, "new", kinds)
    unit = point_source_noise(exposures) / exposures[0].flux_scale
    wanted = np.exp(rng.uniform(np.log(snr[0]), np.log(snr[1]), n))
    change = _flux_for(wanted, unit, exposures[0])
    sources = np.zeros(n, SOURCE_DTYPE)
    sources["id"], sources["x"], sources["y"] = np.arange(1, n + 1), x, y
    sources["kind"], sources["on_galaxy"] = kinds, on_galaxy
    base = change * rng.uniform(1.3, 3.0, n)  # a variable's lower or higher state
    cases = [kinds == "vanished", kinds == "faded", kinds == "brightened"]
    sources["science"] = np.select(cases, [0.0, base - change, base + change], change)
    sources["reference"] = np.select(cases, [change, base, base], 0.0)
    return sources


def _flux_for(snr: np.ndarray, unit: float, exposure: Exposure) -> np.ndarray:
    """Return fluxes whose own photon noise is allowed for: f / sqrt(unit^2 + f / (2 g)) = snr, roughly.

    Half of a source's photons fall where the matched filter weighs them. The truth table holds the exact value.
    """
    own = snr**2 / (2.0 * exposure.gain * exposure.flux_scale)
    return 0.5 * (own + np.sqrt(own**2 + 4.0 * (snr * unit) ** 2))
