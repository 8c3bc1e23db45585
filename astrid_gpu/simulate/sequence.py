"""A field through a season: a deep reference, epochs under changing skies, and transients with light curves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from astrid_gpu.errors import ConfigError
from astrid_gpu.image import Image
from astrid_gpu.simulate.exposure import Exposure, Frame, expose, make_wcs
from astrid_gpu.simulate.pair import REFERENCE, SCIENCE, SOURCE_DTYPE, SimulatedPair, bad_pixel_map
from astrid_gpu.simulate.profiles import PsfModel
from astrid_gpu.simulate.scene import Scene, open_places, scene
from astrid_gpu.simulate.truth import point_source_noise, truth_table

__all__ = ["OBJECT_DTYPE", "SimulatedSequence", "light_curve", "sequence"]

OBJECT_DTYPE = np.dtype(
    [
        ("id", "i4"),
        ("x", "f8"),  # scene pixels
        ("y", "f8"),
        ("kind", "U12"),  # supernova, flare, variable, vanished
        ("on_galaxy", "?"),
        ("peak", "f8"),  # counts at flux scale 1
        ("start", "f8"),  # days: maximum, outburst, phase zero or disappearance
        ("scale", "f8"),  # days: e-folding decline, or period
        ("reference", "f8"),  # flux in the reference
    ]
)

_KINDS = ("supernova", "flare", "variable", "vanished")


def light_curve(kind: str, days: np.ndarray, *, peak: float, start: float, scale: float) -> np.ndarray:
    """Return the flux of a changing source at times `days`.

    Simple shapes with the right time scales, not templates of the real classes:

    - supernova: Gaussian rise of width scale/4 to its maximum at `start`, exponential decline of `scale`;
    - flare: instantaneous outburst at `start`, exponential decline of `scale`;
    - variable: peak * (1 + 0.6 sin(2 pi (t - start) / scale)) / 1.6, a star that is there in the reference;
    - vanished: `peak` before `start`, nothing after.

    Parameters
    ----------
    kind : str
    days : array
    peak : float
        Counts at flux scale 1.
    start, scale : float
        Days.
    """
    t = np.asarray(days, dtype=float) - start
    decline = np.exp(-np.clip(t, 0.0, None) / scale)
    if kind == "supernova":
        return peak * np.where(t < 0, np.exp(-0.5 * (t / (0.25 * scale)) ** 2), decline)
    if kind == "flare":
        return peak * np.where(t < 0, 0.0, decline)
    if kind == "variable":
        return peak * (1.0 + 0.6 * np.sin(2.0 * np.pi * t / scale)) / 1.6
    if kind == "vanished":
        return peak * (t < 0)
    msg = f"no light curve is called {kind!r}; there are {', '.join(_KINDS)}"
    raise ConfigError(msg)


@dataclass(frozen=True, repr=False)
class SimulatedSequence:
    """Epochs of one field, each rendered when it is asked for.

    Parameters
    ----------
    reference : Image
        The deep reference, wider than the epochs by the dither.
    objects : structured array
        The changing sources and their light curves, `OBJECT_DTYPE`.
    exposures : tuple of Exposure
        The conditions of each epoch.
    days : array, shape (n,)
    scene : Scene
    frames : (Frame,)
        The reference with its truth.
    seed : int

    Notes
    -----
    ``sequence[i]`` is a `SimulatedPair`, the same whenever and in whatever order it is asked for. `len`, iteration
    and `truth(i)` work as expected.
    """

    reference: Image
    objects: np.ndarray
    exposures: tuple[Exposure, ...]
    days: np.ndarray
    scene: Scene
    frames: tuple[Frame]
    reference_exposure: Exposure
    bad: np.ndarray | None
    seed: int

    def __len__(self) -> int:
        return len(self.exposures)

    def __iter__(self) -> Iterator[SimulatedPair]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> SimulatedPair:
        """Render epoch `index`."""
        if not -len(self) <= index < len(self):
            msg = f"epoch {index} of a sequence of {len(self)}"
            raise IndexError(msg)
        index %= len(self)
        exposure, day = self.exposures[index], float(self.days[index])
        sources = self._sources(day)
        points = np.zeros(len(sources), [("x", "f8"), ("y", "f8"), ("flux", "f8")])
        points["x"], points["y"], points["flux"] = sources["x"], sources["y"], sources["science"]
        science = expose(
            self.scene,
            exposure,
            seed=np.random.default_rng([self.seed, 1000 + index]),
            extra=points,
            bad=self.bad,
            wcs=make_wcs(self.scene.shape, dither=exposure.dither),
            name=f"epoch {index + 1:02d} (seed {self.seed})",
            meta={"MJD-OBS": 60000.0 + day, "OBSID": f"sim{self.seed}-{index + 1:02d}"},
        )
        conditions = (exposure, self.reference_exposure)
        truth = truth_table(sources, science, self.frames[0], conditions)
        return SimulatedPair(science.image, self.reference, truth, (science, self.frames[0]), conditions, self.scene)

    def _sources(self, day: float) -> np.ndarray:
        """Return the changing sources with their flux on one day and in the reference."""
        sources = np.zeros(len(self.objects), SOURCE_DTYPE)
        for name in ("id", "x", "y", "kind", "on_galaxy", "reference"):
            sources[name] = self.objects[name]
        for row, thing in zip(sources, self.objects, strict=True):
            curve = light_curve(
                str(thing["kind"]), np.array(day), peak=thing["peak"], start=thing["start"], scale=thing["scale"]
            )
            row["science"] = float(curve)
        return sources

    def __repr__(self) -> str:
        ny, nx = self.scene.shape
        widths = [e.psf.fwhm for e in self.exposures]
        return (
            f"<SimulatedSequence {len(self)} epochs of {nx}x{ny} px over {self.days[-1] - self.days[0]:.0f} days, "
            f"{len(self.objects)} changing sources\n"
            f"  seeing {min(widths):.1f} to {max(widths):.1f} px, "
            f"transparency {min(e.flux_scale for e in self.exposures):.2f} "
            f"to {max(e.flux_scale for e in self.exposures):.2f}>"
        )


def sequence(
    n_epochs: int = 12,
    shape: tuple[int, int] = (1024, 1024),
    *,
    seed: int = 0,
    cadence: float = 3.0,
    n_objects: int | None = None,
    snr: tuple[float, float] = (8.0, 80.0),
    n_stars: int | None = None,
    n_galaxies: int | None = None,
    dither: float = 0.0,
    registration_error: float = 0.03,
) -> SimulatedSequence:
    """Simulate a ZTF-like field: n epochs, a deep reference, and transients with light curves.

    Seeing, sky, transparency, background gradient and pointing change from night to night.

    Parameters
    ----------
    n_epochs : int
    shape : (ny, nx)
    seed : int
    cadence : float
        Days between epochs.
    n_objects : int, optional
        Changing sources, by default 24 per million pixels and at least 6: supernovae near galaxies, flares,
        variables, and stars that vanish.
    snr : (low, high)
        Range of the significances at peak, uniform in the logarithm, for the conditions of `simulate.SCIENCE`.
    n_stars, n_galaxies : int, optional
        See `simulate.scene`.
    dither : float
        Pointing scatter in pixels along each axis; the WCS knows of it.
    registration_error : float
        1-sigma error of the WCS in pixels along each axis.

    Returns
    -------
    SimulatedSequence

    Examples
    --------
    >>> season = sequence(3, (128, 128), seed=1, n_objects=4)
    >>> len(season), season[1].science.shape
    (3, (128, 128))
    """
    if n_epochs < 1:
        msg = f"a sequence has one epoch or more, got {n_epochs}"
        raise ConfigError(msg)
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence([seed, 7]).spawn(5)]
    sky = scene(streams[0], shape, n_stars=n_stars, n_galaxies=n_galaxies)
    days = cadence * np.arange(n_epochs) + streams[1].uniform(-0.1, 0.1, n_epochs)
    if n_objects is None:
        n_objects = max(6, round(24e-6 * shape[0] * shape[1]))
    objects = _objects(sky, streams[2], n_objects, snr, days)
    exposures = tuple(_night(streams[3], dither, registration_error) for _ in range(n_epochs))
    points = np.zeros(n_objects, [("x", "f8"), ("y", "f8"), ("flux", "f8")])
    points["x"], points["y"], points["flux"] = objects["x"], objects["y"], objects["reference"]
    name, meta = f"reference (seed {seed})", {"OBSID": f"sim{seed}-ref"}
    wcs = make_wcs(sky.shape)
    reference = expose(
        sky, REFERENCE, seed=np.random.default_rng([seed, 999]), extra=points, wcs=wcs, name=name, meta=meta
    )
    bad = bad_pixel_map(sky.shape, streams[4])
    return SimulatedSequence(reference.image, objects, exposures, days, sky, (reference,), REFERENCE, bad, seed)


def _night(rng: np.random.Generator, dither: float, registration_error: float) -> Exposure:
    """Draw the conditions of one epoch."""
    clouds = rng.exponential(0.06)
    return replace(
        SCIENCE,
        psf=PsfModel(
            "moffat",
            float(np.clip(2.4 * rng.lognormal(0, 0.14), 1.8, 4.0)),
            3.5,
            float(rng.uniform(0, 0.1)),
            float(rng.uniform(0, 180)),
        ),
        sky=float(320 * rng.lognormal(0, 0.25)),
        flux_scale=float(max(0.98 - clouds, 0.5)),
        gradient=(float(rng.normal(0, 8)), float(rng.normal(0, 8))),
        shift=(float(rng.normal(0, registration_error)), float(rng.normal(0, registration_error))),
        dither=(float(rng.normal(0, dither)), float(rng.normal(0, dither))) if dither else (0.0, 0.0),
    )


def _objects(sky: Scene, rng: np.random.Generator, n: int, snr: tuple[float, float], days: np.ndarray) -> np.ndarray:
    """Place the changing sources and draw their light curves."""
    kinds = np.array([*("supernova",) * 3, "flare", "variable", "vanished"])[np.arange(n) % 6]
    kinds = kinds[np.argsort(kinds != "supernova", kind="stable")]  # the first places are the ones on galaxies
    x, y, on_galaxy = open_places(sky, n, rng, near_galaxies=int(0.7 * np.sum(kinds == "supernova")))
    unit = point_source_noise((SCIENCE, REFERENCE))
    objects = np.zeros(n, OBJECT_DTYPE)
    objects["id"], objects["x"], objects["y"] = np.arange(1, n + 1), x, y
    objects["kind"], objects["on_galaxy"] = kinds, on_galaxy
    objects["peak"] = unit * np.exp(rng.uniform(np.log(snr[0]), np.log(snr[1]), n))
    objects["start"] = rng.uniform(days[0], days[-1], n)
    ranges = {"supernova": (12.0, 30.0), "flare": (2.0, 6.0), "variable": (1.0, 25.0), "vanished": (1.0, 1.0)}
    for row in objects:
        row["scale"] = rng.uniform(*ranges[str(row["kind"])])
        row["reference"] = {"variable": row["peak"] / 1.6, "vanished": row["peak"]}.get(str(row["kind"]), 0.0)
    return objects
