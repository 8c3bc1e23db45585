"""Train, validation and test by object: cutouts of one object never fall on both sides.

The side is a hash of the object's name or place, so it does not depend on the order or number of the triplets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from astrid_gpu.ops.groups import linked_groups

__all__ = ["FRACTIONS", "SPLITS", "object_keys", "split_of"]

SPLITS = ("train", "validation", "test")
FRACTIONS = (0.8, 0.1, 0.1)

LINK_ARCSEC = 3.0
"""Candidates nearer than this are one object; a chain of them is one too."""
LINK_PIXELS = 3.0
_CELL_ARCSEC = 60.0
_CELL_PIXELS = 32.0


def split_of(keys: Sequence[str], fractions: Sequence[float] = FRACTIONS) -> np.ndarray:
    """Return "train", "validation" or "test" for each object key, by SHA-256: the same on every machine."""
    edges = np.cumsum(fractions) / np.sum(fractions)
    numbers = [int.from_bytes(hashlib.sha256(str(key).encode()).digest()[:8], "big") / 2.0**64 for key in keys]
    places = np.searchsorted(edges[:-1], np.asarray(numbers, dtype=float), side="right")
    return np.asarray(SPLITS, dtype="U10")[places]


def object_keys(candidates: np.ndarray | None, n: int, ids: Any = None) -> list[str]:
    """Return one key per triplet; equal keys are the same object.

    Given ids are the keys. Else candidates within 3 arcseconds on the sky (3 pixels without a WCS), chains
    included, are one object, and its key is the cell, 1 arcminute (32 pixels) wide, in which its first member in
    order of declination and right ascension lies: two files of one field then agree on nearly all of their objects.
    Without candidates each triplet is an object of its own.
    """
    if ids is not None:
        return [str(value) for value in np.asarray(ids).ravel()]
    names = () if candidates is None else (candidates.dtype.names or ())
    if candidates is None or "x" not in names:
        return [f"row{i}" for i in range(n)]
    on_sky = (
        np.isfinite(candidates["ra"]) & np.isfinite(candidates["dec"])
        if {"ra", "dec"} <= set(names)
        else np.zeros(n, dtype=bool)
    )
    keys = np.empty(n, dtype=object)
    for chosen, sky in ((on_sky, True), (~on_sky, False)):
        rows = np.nonzero(chosen)[0]
        if rows.size:
            keys[rows] = _linked(candidates[rows], sky=sky)
    return [str(key) for key in keys]


def _linked(candidates: np.ndarray, *, sky: bool) -> list[str]:
    """Return the keys of candidates that all have a sky position, or all only a pixel."""
    from scipy.spatial import cKDTree

    if sky:
        ra, dec = np.radians(candidates["ra"]), np.radians(candidates["dec"])
        points = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)
        reach, first, second = np.radians(LINK_ARCSEC / 3600.0), candidates["dec"], candidates["ra"]
    else:
        points = np.stack([candidates["x"], candidates["y"]], axis=1)
        reach, first, second = LINK_PIXELS, candidates["y"], candidates["x"]
    group = linked_groups(cKDTree(points).query_pairs(reach, output_type="ndarray"), len(points))
    order = np.lexsort((second, first, group))
    numbers, starts = np.unique(group[order], return_index=True)
    leader = order[starts][np.searchsorted(numbers, group)]
    return [_cell(first[i], second[i], sky=sky) for i in leader]


def _cell(first: float, second: float, *, sky: bool) -> str:
    """Return the name of the cell at (dec, ra) in degrees or (y, x) in pixels."""
    if not sky:
        return f"pix{int(np.floor(first / _CELL_PIXELS))}_{int(np.floor(second / _CELL_PIXELS))}"
    step = _CELL_ARCSEC / 3600.0
    row = int(np.floor((first + 90.0) / step))
    per_turn = max(1, round(360.0 * np.cos(np.radians((row + 0.5) * step - 90.0)) / step))
    return f"sky{row}_{int(np.floor((second % 360.0) / 360.0 * per_turn)) % per_turn}"
