"""Measuring how two images lie to each other: world coordinates, stars, or the one corrected by the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from astrid_gpu._host_ops import both
from astrid_gpu._pixel_map import Coordinates, PixelMap
from astrid_gpu._sky_map import SkyMap
from astrid_gpu._star_find import Stars, find_stars
from astrid_gpu._star_match import Fit, Match, fit_map, match_blind, match_near
from astrid_gpu._wrong_wcs import match_elsewhere, tell_moved, tell_unmatched, within
from astrid_gpu.errors import AlignmentError, WcsError
from astrid_gpu.image import Image
from astrid_gpu.results import Step

__all__ = ["Options", "Registration", "Target", "by_sky", "by_stars", "stars_of"]

_SAME = 1e-3  # px; without stars, maps that agree to this are the same
_SEARCH = 10.0  # px; how far off a WCS may be and still be corrected by stars next to where it puts them
_WEAK = 0.25  # of the stars in common sky; if fewer match there, they are tried elsewhere too


@dataclass(frozen=True)
class Target:
    """Where to: a grid, with an image on it unless only its WCS is known."""

    image: Image | None
    wcs: Any
    shape: tuple[int, int]
    name: str


@dataclass(frozen=True)
class Options:
    """The keywords of `align`, checked: models to choose from, and the rest by their own names."""

    models: tuple[str, ...]
    max_stars: int
    tolerance: float
    kernel: str
    min_overlap: float = 0.0
    backend: Any = "auto"


@dataclass(frozen=True)
class Registration:
    """A measured map: `limit` px within which it counts as a whole-pixel shift, `scale` source px in a target px."""

    pixel_map: PixelMap
    method: str
    limit: float
    fit: Fit | None = None
    steps: tuple[Step, ...] = ()
    scale: float = 1.0


def stars_of(image: Image, options: Options) -> Stars:
    """Find the stars of an image with all that is known about it."""
    width = getattr(image.psf, "fwhm", None)
    fwhm = float(width) if width is not None and np.isfinite(width) and width > 0.5 else None
    return find_stars(image.data, image.bad, max_stars=options.max_stars, fwhm=fwhm, gain=image.gain)


def by_sky(
    image: Image,
    target: Target,
    options: Options,
    *,
    refine: bool,
    find: Callable[[Image], Stars] | None = None,
) -> Registration:
    """Map by world coordinates and, if `refine`, the correction that common stars demand; `find` lists them."""
    for wcs, name in ((image.wcs, image.name), (target.wcs, target.name)):
        if wcs is None:
            msg = f"{name} has no WCS; give one, or use method='stars'"
            raise WcsError(msg)
    sky = PixelMap(SkyMap(target.wcs, image.wcs))
    plain = Registration(sky, "wcs", _SAME)
    if not refine or target.image is None:
        return plain
    there = target.image
    look = find or (lambda frame: stars_of(frame, options))
    wanted, found = both(lambda: look(there), lambda: look(image))
    y, x = sky(wanted.y, wanted.x)
    ny, nx = image.shape
    inside = within(y, x, (ny, nx))
    near = match_near(y[inside], x[inside], found, _SEARCH, float(ny * nx))
    n_near, n_there, n_here = 0 if near is None else near.target.size, int(inside.sum()), _seen_by(target, image, found)
    far = None
    if n_near < _WEAK * min(n_there, n_here) or (near is None and n_there):
        far = match_elsewhere((wanted, found), (y, x), (target.shape, image.shape))
    names = image.name, target.name
    if far is not None and far.target.size > 2 * n_near:
        off = found.y[far.source] - y[far.target], found.x[far.source] - x[far.target]
        moved = _corrected(sky, (y, x), (wanted, found), far, options, caution=1)
        return replace(moved, steps=(tell_moved(names, far.target.size, off),))
    if near is None:
        return replace(plain, steps=(tell_unmatched(names, n_here, n_there),))
    near = near._replace(target=np.flatnonzero(inside)[near.target])
    # A WCS knows scale and rotation better than a handful of stars does, so it takes more of them to overrule it.
    return _corrected(sky, (y, x), (wanted, found), near, options, caution=3)


def _seen_by(target: Target, image: Image, found: Stars) -> int:
    """Return how many of an image's stars its WCS puts on the target."""
    y, x = SkyMap(image.wcs, target.wcs)(found.y, found.x)
    return int(np.count_nonzero(within(y, x, target.shape)))


def _corrected(
    sky: PixelMap, places: Coordinates, stars: tuple[Stars, Stars], match: Match, options: Options, *, caution: int
) -> Registration:
    """Return the map by world coordinates, which put the target's stars at `places`, corrected by those matched."""
    (wanted, found), i, j = stars, match.target, match.source
    middle = (float(np.median(wanted.y[i])), float(np.median(wanted.x[i])))
    scale = float(np.sqrt(abs(np.linalg.det(sky.jacobian(*middle)))))
    error = np.hypot(wanted.error[i] * scale, found.error[j])
    base, goal = (places[0][i], places[1][i]), (found.y[j], found.x[j])
    models = tuple(name for name in options.models if match.parity > 0 or name not in {"none", "shift"})
    fit = fit_map(base, goal, error, models=models or ("similarity",), parity=match.parity, caution=caution)
    return Registration(PixelMap(sky.base, fit.polynomial), "wcs+stars", options.tolerance, fit, scale=scale)


def by_stars(image: Image, target: Target, found: tuple[Stars, Stars], options: Options) -> Registration:
    """Map from the stars `found` in the image and in the target, and nothing else."""
    here, there = found
    match = match_blind(there, here, float(np.prod(image.shape)))
    if match is None:
        n, m = here.y.size, there.y.size
        reason = "matched fewer than 3" if min(n, m) < 3 else "no 3 of them match beyond chance"
        msg = (
            f"found {n} stars in {image.name} and {m} in {target.name}, {reason}, need at least 3; give both a WCS, "
            "mask defects that pass for stars, or say that the grids are the same: align='none' in subtract(), "
            "method='none' in align()"
        )
        raise AlignmentError(msg)
    models = tuple(name for name in options.models if match.parity > 0 or name not in {"none", "shift"})
    if not models:
        msg = f"{image.name} is a mirror image of {target.name}: order 0 cannot align them, use 1 or 'auto'"
        raise AlignmentError(msg)
    i, j = match.target, match.source
    spread = [float(np.var(stars.y[k]) + np.var(stars.x[k])) for stars, k in ((there, i), (here, j))]
    scale = float(np.sqrt(spread[1] / spread[0])) if spread[0] > 0 else 1.0
    error = np.hypot(there.error[i] * scale, here.error[j])
    base, goal = (there.y[i], there.x[i]), (here.y[j], here.x[j])
    fit = fit_map(base, goal, error, models=models, parity=match.parity)
    return Registration(PixelMap(None, fit.polynomial), "stars", options.tolerance, fit, scale=scale)
