"""What is in the sky: stars, galaxies, and the sources that change between two visits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from astrid_gpu.errors import ConfigError

__all__ = ["GALAXY_DTYPE", "STAR_DTYPE", "Scene", "open_places", "scene", "star_fluxes"]

STAR_DTYPE = np.dtype([("x", "f8"), ("y", "f8"), ("flux", "f8")])
GALAXY_DTYPE = np.dtype(
    [("x", "f8"), ("y", "f8"), ("flux", "f8"), ("radius", "f8"), ("index", "f8"), ("ratio", "f8"), ("angle", "f8")]
)


@dataclass(frozen=True)
class Scene:
    """The constant sky.

    Parameters
    ----------
    shape : (ny, nx)
        Pixels of the frame; some sources lie a little outside it and lend their wings.
    stars : structured array
        x, y (0-based pixels), flux (counts at flux scale 1).
    galaxies : structured array
        x, y, flux, radius (half-light, pixels), index (Sersic), ratio (b/a), angle (degrees).
    """

    shape: tuple[int, int]
    stars: np.ndarray
    galaxies: np.ndarray

    def __repr__(self) -> str:
        ny, nx = self.shape
        return f"<Scene {nx}x{ny} px: {len(self.stars)} stars, {len(self.galaxies)} galaxies>"


def star_fluxes(
    n: int, rng: np.random.Generator, *, faintest: float, brightest: float, slope: float = 0.7
) -> np.ndarray:
    """Draw n fluxes from a truncated power law, N(>f) proportional to f^-slope.

    A slope of 0.6 to 0.8 is what counts of stars away from the Galactic plane show over a few magnitudes.
    """
    if not 0 < faintest < brightest:
        msg = f"star fluxes need 0 < faintest < brightest, got {faintest!r} and {brightest!r}"
        raise ConfigError(msg)
    tail = (brightest / faintest) ** -slope
    return faintest * (tail + (1.0 - tail) * rng.random(n)) ** (-1.0 / slope)


def scene(
    seed: int | np.random.Generator,
    shape: tuple[int, int] = (512, 512),
    *,
    n_stars: int | None = None,
    n_galaxies: int | None = None,
    faintest: float = 80.0,
    brightest: float = 1e6,
    slope: float = 0.7,
) -> Scene:
    """Make a random constant sky.

    Parameters
    ----------
    seed : int or numpy.random.Generator
    shape : (ny, nx)
    n_stars, n_galaxies : int, optional
        By default 2000 stars and 130 galaxies per million pixels: a field of intermediate Galactic latitude at
        1 arcsec per pixel.
    faintest, brightest, slope : float
        Limits of the stars' fluxes in counts, and the slope of their cumulative power law.

    Returns
    -------
    Scene
    """
    ny, nx = _checked_shape(shape)
    rng = np.random.default_rng(seed)
    n_stars = round(2000e-6 * ny * nx) if n_stars is None else int(n_stars)
    n_galaxies = round(130e-6 * ny * nx) if n_galaxies is None else int(n_galaxies)
    margin = 24.0
    stars = np.zeros(n_stars, STAR_DTYPE)
    stars["x"], stars["y"] = rng.uniform(-margin, nx + margin, n_stars), rng.uniform(-margin, ny + margin, n_stars)
    stars["flux"] = star_fluxes(n_stars, rng, faintest=faintest, brightest=brightest, slope=slope)
    galaxies = np.zeros(n_galaxies, GALAXY_DTYPE)
    galaxies["x"], galaxies["y"] = rng.uniform(0, nx, n_galaxies), rng.uniform(0, ny, n_galaxies)
    # Euclidean counts, N(>f) ~ f^-1.5, from six times the faintest star up.
    galaxies["flux"] = star_fluxes(n_galaxies, rng, faintest=6 * faintest, brightest=brightest, slope=1.5)
    galaxies["radius"] = np.clip(
        1.5 * (galaxies["flux"] / (6 * faintest)) ** 0.3 * rng.lognormal(0, 0.25, n_galaxies), 0.6, 12
    )
    galaxies["index"] = rng.choice([1.0, 4.0], n_galaxies, p=[0.7, 0.3])
    galaxies["ratio"] = rng.uniform(0.3, 1.0, n_galaxies)
    galaxies["angle"] = rng.uniform(0.0, 180.0, n_galaxies)
    return Scene((ny, nx), stars, galaxies)


def open_places(
    sky: Scene, n: int, rng: np.random.Generator, *, near_galaxies: int = 0, border: float = 30.0, apart: float = 20.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose n places for changing sources: apart from each other, from bright stars and from the border.

    The first `near_galaxies` of them lie on galaxies, at half to one and a half half-light radii along a random
    direction; a frame with too few galaxies gets fewer.

    Returns
    -------
    x, y : array, shape (n,)
    on_galaxy : array of bool, shape (n,)

    Raises
    ------
    ConfigError
        The frame has no room for n.
    """
    ny, nx = sky.shape
    x: list[float] = []
    y: list[float] = []
    host: list[bool] = []
    # A star of flux f is unwelcome within a distance that grows with its wings.
    keep_out = np.clip(2.0 * (sky.stars["flux"] / 100.0) ** 0.3, 3.0, 60.0)

    def free(px: float, py: float) -> bool:
        inside = border <= px <= nx - 1 - border and border <= py <= ny - 1 - border
        clear = np.all(np.hypot(sky.stars["x"] - px, sky.stars["y"] - py) > keep_out)
        return bool(inside and clear and all(np.hypot(px - a, py - b) > apart for a, b in zip(x, y, strict=True)))

    def take(px: float, py: float, on_galaxy: bool) -> None:
        if free(px, py):
            x.append(px)
            y.append(py)
            host.append(on_galaxy)

    for index in rng.permutation(len(sky.galaxies)):
        if len(x) >= min(near_galaxies, n):
            break
        galaxy, turn = sky.galaxies[index], rng.uniform(0, 2 * np.pi)
        distance = galaxy["radius"] * rng.uniform(0.5, 1.5)
        px, py = float(galaxy["x"] + distance * np.cos(turn)), float(galaxy["y"] + distance * np.sin(turn))
        take(px, py, True)
    for _ in range(400 * max(n, 1)):
        if len(x) >= n:
            break
        px, py = float(rng.uniform(border, nx - 1 - border)), float(rng.uniform(border, ny - 1 - border))
        on_galaxy = bool(np.any(np.hypot(sky.galaxies["x"] - px, sky.galaxies["y"] - py) < 3 * sky.galaxies["radius"]))
        if not on_galaxy:
            take(px, py, False)
    if len(x) < n:
        msg = f"no room for {n} changing sources in {nx}x{ny} px ({len(x)} placed); ask for fewer or a larger shape"
        raise ConfigError(msg)
    return np.array(x), np.array(y), np.array(host, dtype=bool)


def _checked_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """Return (ny, nx) as ints, or refuse."""
    if len(shape) != 2 or min(int(s) for s in shape) < 16:
        msg = f"a simulated frame has a shape (ny, nx) of at least 16x16 pixels, got {shape!r}"
        raise ConfigError(msg)
    return int(shape[0]), int(shape[1])
