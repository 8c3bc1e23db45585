"""Footprints on the sky: how far apart two images are, and how much of one the other covers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["overlap_fraction", "separation_deg"]


def separation_deg(ra1: Any, dec1: Any, ra2: Any, dec2: Any) -> Any:
    """Return the angle between positions in degrees (haversine formula: exact for small angles too)."""
    ra1, dec1, ra2, dec2 = (np.radians(np.asarray(a, float)) for a in (ra1, dec1, ra2, dec2))
    half = np.sin((dec2 - dec1) / 2) ** 2 + np.cos(dec1) * np.cos(dec2) * np.sin((ra2 - ra1) / 2) ** 2
    return np.degrees(2 * np.arcsin(np.sqrt(np.clip(half, 0, 1))))


def overlap_fraction(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> float:
    """Return the part of the first footprint's area that the second covers, 0 to 1.

    Parameters
    ----------
    first, second : sequences of (ra, dec), degrees
        Corners of convex polygons in order, smaller than a hemisphere. Edges are great circles.

    Notes
    -----
    Gnomonic projection about the first one's middle, where great circles are straight lines, then clipping of one
    convex polygon by the other (Sutherland & Hodgman 1974). Areas are those of the projection: 1 % off at 8 degrees.
    """
    centre = _middle(first)
    one, two = _project(first, centre), _project(second, centre)
    if one is None or two is None or not _area(one):
        return 0.0
    return float(min(1.0, abs(_area(_clip(one, two))) / abs(_area(one))))


def _vectors(corners: Sequence[Sequence[float]]) -> np.ndarray:
    ra, dec = np.radians(np.asarray(corners, float)).T
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)


def _middle(corners: Sequence[Sequence[float]]) -> np.ndarray:
    mean = _vectors(corners).mean(axis=0)
    return mean / np.linalg.norm(mean)


def _project(corners: Sequence[Sequence[float]], centre: np.ndarray) -> np.ndarray | None:
    """Return gnomonic coordinates (n, 2) about `centre`; None for what lies beyond its horizon."""
    vectors = _vectors(corners)
    along = vectors @ centre
    if np.any(along < 0.02):
        return None
    pole = np.array([0.0, 0.0, 1.0]) if abs(centre[2]) < 0.9 else np.array([1.0, 0.0, 0.0])
    east = np.cross(pole, centre)
    east /= np.linalg.norm(east)
    flat = vectors / along[:, None]
    points = np.stack([flat @ east, flat @ np.cross(centre, east)], axis=1)
    return points if _area(points) >= 0 else points[::-1]


def _area(points: np.ndarray) -> float:
    """Return the signed area of a polygon, positive if its corners run counter-clockwise."""
    if len(points) < 3:
        return 0.0
    x, y = points.T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2


def _clip(subject: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Return the part of a polygon inside a convex, counter-clockwise window."""
    points = list(subject)
    for a, b in zip(window, np.roll(window, -1, axis=0), strict=True):
        edge = b - a

        def side(p: np.ndarray, a: np.ndarray = a, edge: np.ndarray = edge) -> float:
            return float(edge[0] * (p[1] - a[1]) - edge[1] * (p[0] - a[0]))

        kept: list[np.ndarray] = []
        for p, q in zip(points, points[1:] + points[:1], strict=True):
            inside_p, inside_q = side(p), side(q)
            if inside_p >= 0:
                kept.append(p)
            if (inside_p > 0 > inside_q) or (inside_p < 0 < inside_q):
                kept.append(p + (q - p) * (inside_p / (inside_p - inside_q)))
        points = kept
        if not points:
            break
    return np.array(points).reshape(-1, 2)
