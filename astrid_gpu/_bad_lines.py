"""Bad columns and rows: lines of one or two pixels that differ from their neighbours over their length."""

from __future__ import annotations

import numpy as np

from astrid_gpu.ops.noise import MAD_TO_SIGMA

__all__ = ["bad_lines"]

_SAMPLE = 128  # pixels along a segment whose median is taken
_SEGMENTS = 2  # of a line: a defect often ends somewhere
_SIGMAS = 10.0  # of the scatter from line to line
_SHARP = 0.2  # of the step may show in the next line: a PSF of FWHM 1.6 px puts a third there
_WINDOW = 11  # lines whose median is the level that a line should have
_SHORTEST = 64  # pixels along a line, without which it is not judged


def bad_lines(data: np.ndarray, bad: np.ndarray) -> tuple[np.ndarray, list[tuple[str, int, int, int]]]:
    """Find columns and rows that are off.

    The median of a line over half of its length is compared with those of its neighbours. Stars, however many stand in
    a row, do not move a median, and what the telescope's optics make, such as a diffraction spike along a column, is as
    wide as the PSF and shows in the next line.

    Parameters
    ----------
    data : float array, shape (ny, nx)
    bad : bool array, shape (ny, nx)
        Pixels that are known to be bad, left out.

    Returns
    -------
    mask : bool array, shape (ny, nx)
    lines : list of (kind, number, first, last)
        "column" or "row", its number, and the pixels along it.

    Notes
    -----
    Cost: sorting at most 256 pixels of each column and of each row.
    """
    mask, lines = np.zeros(data.shape, bool), []
    for kind, values, lost, out in (("column", data, bad, mask), ("row", data.T, bad.T, mask.T)):
        for number, first, last in _of_columns(values, lost):
            out[first : last + 1, number] = True
            lines.append((kind, number, first, last))
    return mask, lines


def _of_columns(data: np.ndarray, bad: np.ndarray) -> list[tuple[int, int, int]]:
    ny, nx = data.shape
    if ny < _SHORTEST or nx < 2 * _WINDOW:
        return []
    found: list[tuple[int, int, int]] = []
    for rows in np.array_split(np.arange(ny), _SEGMENTS if ny >= 2 * _SHORTEST else 1):
        step = max(1, len(rows) // _SAMPLE)
        part = slice(rows[0] + step // 2, rows[-1] + 1, step)
        odd = _odd(*_medians(data[part], bad[part]))
        found.extend((number, int(rows[0]), int(rows[-1])) for number in odd)
    return found


def _medians(part: np.ndarray, bad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return median and its error of the good pixels of each column, NaN where fewer than half are good."""
    held = np.ascontiguousarray(np.where(bad, part.dtype.type(np.nan) if part.dtype.kind == "f" else 0, part).T)
    held.sort(axis=1)  # NaN last
    good = len(part) - np.count_nonzero(np.isnan(held), axis=1)
    lines, n = np.arange(len(held)), np.maximum(good, 1)
    low, below, above, high = (
        held[lines, place].astype(np.float64)
        for place in ((0.15865 * (n - 1)).astype(int), (n - 1) // 2, n // 2, (0.84135 * (n - 1)).astype(int))
    )
    error = 1.2533 * 0.5 * (high - low) / np.sqrt(n)
    enough = 2 * good >= len(part)
    return np.where(enough, 0.5 * (below + above), np.nan), np.where(enough, error, np.nan)


def _odd(medians: np.ndarray, errors: np.ndarray) -> list[int]:
    """Return the numbers of single lines and pairs that stand out sharply, from their like and from their own noise."""
    from scipy.ndimage import median_filter

    known = np.isfinite(medians)
    if not known.any():
        return []
    level = np.where(known, medians, np.median(medians[known]))
    off = np.where(known, level - median_filter(level, _WINDOW, mode="mirror"), 0.0)
    scatter = MAD_TO_SIGMA * float(np.median(np.abs(off[known])))
    if not scatter > 0:
        return []
    # What lies along a line, a star's profile say, widens its values: it must be off by more than that leaves open.
    noise = np.maximum(np.where(known, errors, np.inf), scatter)
    size = np.abs(off)
    beyond = np.pad(size > _SIGMAS * noise, 1)
    first = np.flatnonzero(beyond[1:-1] & ~beyond[:-2])
    last = np.flatnonzero(beyond[1:-1] & ~beyond[2:])
    out: list[int] = []
    padded = np.pad(size, 1)
    for a, b in zip(first, last, strict=True):
        sharp = all(
            padded[1 + outer] <= _SHARP * size[inner] + 2 * scatter for inner, outer in ((a, a - 1), (b, b + 1))
        )
        if b - a < 2 and sharp:
            out.extend(range(int(a), int(b) + 1))
    return out
