"""Stars against world coordinates: which stars match where a WCS does not put them, and what is said about it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np

from astrid_gpu._pixel_map import Coordinates
from astrid_gpu._star_find import Stars
from astrid_gpu._star_match import Match, fit_map, match_blind
from astrid_gpu.results import Step

__all__ = ["alignment_metrics", "match_elsewhere", "tell_moved", "tell_unmatched", "within"]

_log = logging.getLogger("astrid_gpu")

_LEAST = 6  # stars that must agree to overrule a WCS
_PLENTY = 8  # stars in common sky, from which on it is told that none agree with it
_FEW = 20  # stars that agree, below which they must be half of those that both frames should show; else a quarter
_FREE = (3, 6)  # stars that an affine and a quadratic map bring together by themselves; the second from 20 on
_CHANCE = 1e-6  # odds that the rest of them agree by chance
_RADIUS = 1.5  # px
_DEFECTS = 1.6  # px; "stars" narrower than this that stay on their pixels may be the detector's


def match_elsewhere(
    stars: tuple[Stars, Stars], places: Coordinates, shapes: tuple[tuple[int, int], tuple[int, int]]
) -> Match | None:
    """Match stars of the target and of the source blindly; only what overrules a WCS is returned.

    Parameters
    ----------
    stars : Stars of the target, Stars of the source
        Brightest first.
    places : (y, x) of arrays
        Where the WCS puts the target's stars in the source; those on it are tried first, then all.
    shapes : (ny, nx) of the target, (ny, nx) of the source

    Returns
    -------
    Match or None
        None unless 6 stars and a quarter (of few, half) of those that both frames should show agree, and not by
        chance. `parity` is that between `places` and the source's stars.
    """
    wanted, found = stars
    known = np.isfinite(places[0]) & np.isfinite(places[1])
    for index in (np.flatnonzero(known & within(*places, shapes[1])), np.flatnonzero(known)):
        if min(index.size, found.y.size) < _LEAST:
            continue
        some = Stars(wanted.y[index], wanted.x[index], wanted.flux[index], wanted.error[index], wanted.fwhm)
        match = match_blind(some, found, float(np.prod(shapes[1])))
        if match is None:
            continue
        match = match._replace(target=index[match.target])
        if _convincing(match, wanted, found, shapes):
            y, x = (place[match.target] for place in places)
            return match._replace(parity=match.parity * _parity(wanted, match.target, y, x))
    return None


def within(y: np.ndarray, x: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return (y > -0.5) & (y < shape[0] - 0.5) & (x > -0.5) & (x < shape[1] - 0.5)


def _parity(stars: Stars, index: np.ndarray, y: np.ndarray, x: np.ndarray) -> int:
    """Return -1 if places are a mirror image of stars, else 1."""
    design = np.stack([stars.y[index], stars.x[index], np.ones(index.size)], axis=1)
    linear = np.linalg.lstsq(design, np.stack([y, x], axis=1), rcond=None)[0][:2]
    return -1 if np.linalg.det(linear) < 0 else 1


def _convincing(match: Match, wanted: Stars, found: Stars, shapes: tuple[tuple[int, int], tuple[int, int]]) -> bool:
    """Whether a blind match is many, and much of what should match."""
    from scipy.special import pdtrc

    n = match.target.size
    if n < _LEAST:
        return False
    there = (wanted.y[match.target], wanted.x[match.target])
    here = (found.y[match.source], found.x[match.source])
    ways = ((there, here, wanted, shapes[1]), (here, there, found, shapes[0]))
    expected = min(_seen(one, other, stars, shape, match.parity) for one, other, stars, shape in ways)
    if n < (0.5 if n < _FEW else 0.25) * expected or _on_the_detector(there, here, (wanted, found), shapes):
        return False
    chance = expected * found.y.size * np.pi * _RADIUS**2 / float(np.prod(shapes[1]))
    return float(pdtrc(n - _FREE[n >= _FEW] - 1, chance)) < _CHANCE


def _on_the_detector(
    there: Coordinates, here: Coordinates, stars: tuple[Stars, Stars], shapes: tuple[tuple[int, int], tuple[int, int]]
) -> bool:
    """Whether matches may be hot pixels: narrower than stars, and on the same pixels of two frames of one shape."""
    off = max(float(np.median(np.abs(one - other))) for one, other in zip(there, here, strict=True))
    return shapes[0] == shapes[1] and off < 1.0 and min(each.fwhm for each in stars) < _DEFECTS


def _seen(base: Coordinates, goal: Coordinates, stars: Stars, shape: tuple[int, int], parity: int) -> int:
    """Return how many stars fall on a frame of `shape` by the similarity that takes `base` to `goal`."""
    fit = fit_map(base, goal, np.ones(base[0].size), models=("similarity",), parity=parity)
    y, x = fit.polynomial(stars.y, stars.x)
    return int(np.count_nonzero(within(y, x, shape)))


def tell_moved(names: tuple[str, str], n: int, off: Coordinates) -> Step:
    """Say, aloud too, that stars overrule the WCS by `off`: found less predicted places, pixels of the first image."""
    dy, dx = (float(np.median(part)) for part in off)
    far = float(np.median(np.hypot(*off)))
    text = (
        f"the WCS of {names[0]} or of {names[1]} is wrong by {far:.1f} px (y {dy:+.1f}, x {dx:+.1f}; medians of {n} "
        "stars, which match each other there and not where it puts them): aligned by the stars"
    )
    _log.warning("%s", text)
    return Step("alignment", text, {"wcs_wrong": True, "wcs_off_y": dy, "wcs_off_x": dx, "n_stars": n})


def tell_unmatched(names: tuple[str, str], n: int, m: int) -> Step:
    """Say that stars do not correct the WCS; aloud where both images show enough of them, `n` and `m` in common sky."""
    text = f"the WCS is not corrected: {n} and {m} stars in common sky are too few or do not match"
    values: dict[str, Any] = {"n_stars": n, "n_stars_target": m}
    if min(n, m) >= _PLENTY:
        text = (
            f"{n} sources of {names[0]} and {m} of {names[1]} lie in common sky by their WCS, and no 3 of them match, "
            "there or elsewhere: the images are placed by the WCS alone, and nothing confirms it; check that both show "
            "one field, and both WCS"
        )
        values["n_unmatched"] = min(n, m)
        _log.warning("%s", text)
    return Step("alignment", text, values)


def alignment_metrics(steps: Iterable[Step]) -> dict[str, Any]:
    """Return the numbers of these steps that the quality of a difference is judged by."""
    found = [step.values["n_unmatched"] for step in steps if step.stage == "alignment" and "n_unmatched" in step.values]
    return {"n_unmatched": max(found)} if found else {}
