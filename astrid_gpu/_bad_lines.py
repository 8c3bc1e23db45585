"""Bad columns and rows: lines of one or two pixels that differ from their neighbours over their length."""

from __future__ import annotations

import numpy as np

from astrid_gpu.ops.noise import MAD_TO_SIGMA

__all__ = ["bad_lines"]

_SEGMENTS = ((2, 128), (8, 32))  # of a line, and pixels of each whose median is taken: defects end somewhere
_PIECE = 16  # pixels along a line by which a defect is followed beyond its segment
_SIGMAS = 10.0  # of the scatter from line to line
_SHARP = 0.2  # of the step may show in the next line: a PSF of FWHM 1.6 px puts a third there
_WINDOW = 11  # lines whose median is the level that a line should have
_SHORTEST = 64  # pixels along a line, without which it is not judged


def bad_lines(data: np.ndarray, bad: np.ndarray) -> tuple[np.ndarray, list[tuple[str, int, int, int]]]:
    """Find columns and rows that are off.

    The median of a line over half of its length, and over an eighth, is compared with those of its neighbours. Stars,
    however many stand in a row, do not move a median, and what the telescope's optics make, such as a diffraction spike
    along a column, is as wide as the PSF and shows in the next line.

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
    Cost: sorting 512 pixels of each column and of each row at most.
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
    for segments, sample in _SEGMENTS:
        shorter: dict[int, list[tuple[int, int]]] = {}
        for rows in np.array_split(np.arange(ny), max(1, min(segments, ny // _SHORTEST))):
            step = max(1, len(rows) // sample)
            part = slice(rows[0] + step // 2, rows[-1] + 1, step)
            first, last = int(rows[0]), int(rows[-1])
            for number in _odd(*_medians(data[part], bad[part])):
                covered = sum(max(0, min(b, last) - max(a, first) + 1) for n, a, b in found if n == number)
                if covered < len(rows):
                    shorter.setdefault(number, []).append((first, last))
        if segments == _SEGMENTS[0][0]:
            found = [(number, *ends) for number, parts in shorter.items() for ends in parts]
        else:
            known = {number for number, _, _ in found}
            found += [(n, *ends) for n, parts in shorter.items() for ends in _followed(data, bad, n, parts, known)]
    return sorted(found, key=lambda each: each[1:])


def _followed(
    data: np.ndarray, bad: np.ndarray, number: int, parts: list[tuple[int, int]], known: set[int]
) -> list[tuple[int, int]]:
    """Return parts of a column, neighbours joined, each followed piece by piece to where the column is itself again."""
    joined: list[tuple[int, int]] = []
    for first, last in parts:
        if joined and first == joined[-1][1] + 1:
            joined[-1] = joined[-1][0], last
        else:
            joined.append((first, last))
    beside = [c for c in (number - 2, number - 1, number + 1, number + 2) if 0 <= c < data.shape[1] and c not in known]
    off = data[:, number].astype(np.float64) - np.median(data[:, beside], axis=1)
    off[bad[:, number] | ~np.isfinite(off)] = np.nan
    out = []
    for first, last in joined:
        step = _middle(off[first : last + 1])
        least = np.sign(step) * 0.5 * step
        while first > 0 and np.sign(step) * _middle(off[max(0, first - _PIECE) : first]) > least:
            first = max(0, first - _PIECE)
        while last < len(off) - 1 and np.sign(step) * _middle(off[last + 1 : last + 1 + _PIECE]) > least:
            last = min(len(off) - 1, last + _PIECE)
        out.append((first, last))
    return out


def _middle(values: np.ndarray) -> float:
    """Return the median of what is not NaN; NaN for nothing."""
    values = values[np.isfinite(values)]
    return float(np.median(values)) if values.size else float("nan")


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
