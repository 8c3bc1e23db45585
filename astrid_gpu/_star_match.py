"""Which star is which, and the map between two images that follows from it.

Blind matching tries every similarity (shift, rotation, scale, mirror image) that three stars or two pairs suggest and
keeps the one that brings the most stars together, provided chance would hardly do as well. The fit then picks the
simplest map that explains all matched stars: shift, similarity, affine, quadratic, cubic, by the Bayesian
information criterion.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from astrid_gpu._pixel_map import Polynomial
from astrid_gpu._star_find import Stars

__all__ = ["MODELS", "Fit", "Match", "fit_map", "match_blind", "match_near", "match_nearest"]

# name: (polynomial order, parameters of both axes, fewest stars)
MODELS = {
    "none": (1, 0, 1),
    "shift": (1, 2, 1),
    "similarity": (1, 4, 3),
    "affine": (1, 6, 6),
    "quadratic": (2, 12, 20),
    "cubic": (3, 20, 60),
}

_CHANCE = 0.01  # largest expected number of accidental solutions as good as the one accepted
_BRIGHT = 50  # stars used for the blind search
_SHAPE = 0.01  # radius within which two triangles have the same shape: side ratios
_POSITION_FLOOR = 0.05  # px; blends, colours and proper motions keep bright stars from being better than this


class Match(NamedTuple):
    """Matched indices into the target's and the source's stars; `parity` -1 for a mirror image."""

    target: np.ndarray
    source: np.ndarray
    parity: int


class Fit(NamedTuple):
    """A fitted map: polynomial, model name, stars kept, scatter (y, x) and formal error (y, x) in pixels."""

    polynomial: Polynomial
    model: str
    keep: np.ndarray
    scatter: tuple[float, float]
    formal: tuple[float, float]


def match_blind(target: Stars, source: Stars, area: float) -> Match | None:
    """Match two star lists of unknown relation.

    Parameters
    ----------
    target, source : Stars
        Brightest first.
    area : float
        Of the source image in square pixels, for the odds of chance matches.

    Returns
    -------
    Match or None
        None if fewer than 3 stars match or chance would do as well.
    """
    from scipy.spatial import cKDTree
    from scipy.special import pdtrc

    z, w = (stars.x[:_BRIGHT] + 1j * stars.y[:_BRIGHT] for stars in (target, source))
    if min(z.size, w.size) < 3:
        return None
    tolerance = _tolerance(target, source)
    tree = cKDTree(np.column_stack([w.real, w.imag]))
    best: tuple[float, np.ndarray] | None = None
    lam = z.size * w.size * np.pi * tolerance**2 / area
    for (a, b, flipped), trials, given in (_shifts(z, w), _triangles(z, w)):
        if a.size == 0:
            continue
        moved = a[:, None] * np.where(flipped[:, None], z.conj(), z) + b[:, None]
        _, nearest = tree.query(np.stack([moved.real, moved.imag], -1), distance_upper_bound=tolerance)
        count = _distinct(nearest, w.size)
        top = int(np.argmax(count))
        # The stars that suggested the map match by construction; the others would do so by chance lam at a time.
        extra = int(count[top]) - given
        odds = trials * (1.0 if extra <= 0 else float(pdtrc(extra - 1, lam)))
        if count[top] >= 3 and odds < _CHANCE and (best is None or count[top] > best[0]):
            best = (count[top], np.array([a[top], b[top], -1 if flipped[top] else 1]))
    if best is None:
        return None
    a, b, parity = best[1]
    return _grow(target, source, complex(a), complex(b), int(parity.real), tolerance)


def match_near(y: np.ndarray, x: np.ndarray, source: Stars, radius: float, area: float) -> Match | None:
    """Match predicted source positions (a WCS's) with stars found, allowing one common shift up to `radius` px.

    Parameters
    ----------
    y, x : array, shape (n,)
        Predicted positions, brightest first.
    source : Stars
        Stars found.
    radius : float
        Largest common error of the prediction in pixels.
    area : float
        Of the source image in square pixels.

    Returns
    -------
    Match or None
        None if fewer than 3 stars match or chance would do as well.
    """
    from scipy.spatial import cKDTree
    from scipy.special import pdtrc

    if min(y.size, source.y.size) < 3:
        return None
    tree = cKDTree(np.column_stack([source.y, source.x]))
    pairs = [(i, j) for i, near in enumerate(tree.query_ball_point(np.column_stack([y, x]), radius)) for j in near]
    if len(pairs) < 3:
        return None
    i, j = np.array(pairs).T
    shifts = np.column_stack([source.y[j] - y[i], source.x[j] - x[i]])
    tolerance = 1.0
    votes = np.array([len(v) for v in cKDTree(shifts).query_ball_point(shifts, tolerance)])
    best = int(np.argmax(votes))
    shift = np.median(shifts[np.hypot(*(shifts - shifts[best]).T) <= tolerance], axis=0)
    match = match_nearest(y + shift[0], x + shift[1], source, 1.5 * tolerance)
    lam = y.size * source.y.size * np.pi * (1.5 * tolerance) ** 2 / area
    if match.target.size < 3 or len(pairs) * float(pdtrc(match.target.size - 2, lam)) >= _CHANCE:
        return None
    return match


def match_nearest(y: np.ndarray, x: np.ndarray, source: Stars, radius: float, parity: int = 1) -> Match:
    """Pair each predicted position with the nearest star within `radius` that has it for its own nearest."""
    from scipy.spatial import cKDTree

    predicted, found = np.column_stack([y, x]), np.column_stack([source.y, source.x])
    distance, j = cKDTree(found).query(predicted, distance_upper_bound=radius)
    i = np.flatnonzero(np.isfinite(distance))
    _, back = cKDTree(predicted).query(found[j[i]])
    i = i[back == i]
    return Match(i, j[i], parity)


def fit_map(
    base: tuple[np.ndarray, np.ndarray],
    stars: tuple[np.ndarray, np.ndarray],
    error: np.ndarray,
    *,
    models: tuple[str, ...],
    parity: int = 1,
    caution: int = 1,
) -> Fit:
    """Fit the simplest sufficient polynomial from `base` to `stars` positions, clipping outliers at 3 sigma.

    Parameters
    ----------
    base, stars : (y, x) of arrays, shape (n,)
        Positions before and after the map, pixels.
    error : array, shape (n,)
        1-sigma error per axis of each pair, pixels.
    models : tuple of str
        Names in `MODELS` to choose from, simplest first; those that ask for more stars are passed over.
    parity : int
        -1 if the similarity is a mirror image.
    caution : int
        Multiplies the number of stars a model asks for.

    Returns
    -------
    Fit
        `scatter` is the rms residual per axis with the centroid errors taken out in quadrature, but no less than half
        of it nor than the formal error of the fit.
    """
    y, x = base
    goal = np.concatenate(stars)
    weight = 1 / (error**2 + _POSITION_FLOOR**2)
    usable = [name for name in models if y.size >= MODELS[name][2] * caution] or [models[0]]
    _, keep = _clipped_fit(usable[-1], y, x, goal, weight, parity)
    scores = {}
    for name in usable:
        polynomial = _solve(name, y[keep], x[keep], goal[np.tile(keep, 2)], weight[keep], parity)
        residual = np.concatenate(polynomial(y[keep], x[keep])) - goal[np.tile(keep, 2)]
        n = residual.size
        chi2 = float(np.sum(np.tile(weight[keep], 2) * residual**2))
        k = MODELS[name][1]
        # BIC with the correction for small samples (after McQuarrie 1999): few stars must plead hard for freedom.
        scores[name] = n * np.log(chi2 / n + 1e-6) + k * np.log(n) * n / max(n - k - 1, 0.5)
    model = min(scores, key=lambda name: scores[name])
    polynomial, keep = _clipped_fit(model, y, x, goal, weight, parity)
    moved = polynomial(y[keep], x[keep])
    share = MODELS[model][1] / 2 / max(1, keep.sum())
    scatter, formal = [], []
    for got, wanted in zip(moved, stars, strict=True):
        w = weight[keep]
        square = np.sum(w * (got - wanted[keep]) ** 2) / w.sum() / max(1e-9, 1 - min(share, 0.9))
        noise = np.sum(w * error[keep] ** 2) / w.sum()
        fit_error = square * max(share, 1 / max(1, keep.sum()))
        # Centroid errors of a crowded field are themselves uncertain: take out no more than halves the rms.
        scatter.append(float(np.sqrt(max(square - noise, square / 4, fit_error))))
        formal.append(float(np.sqrt(fit_error)))
    return Fit(polynomial, model, keep, (scatter[0], scatter[1]), (formal[0], formal[1]))


def _tolerance(target: Stars, source: Stars) -> float:
    widths = [stars.fwhm for stars in (target, source) if np.isfinite(stars.fwhm)]
    return max(1.5, 0.5 * max(widths, default=0.0))


def _distinct(nearest: np.ndarray, size: int) -> np.ndarray:
    """How many different stars each row of indices names; `size` stands for none."""
    ordered = np.sort(nearest, axis=1)
    fresh = np.ones(ordered.shape, bool)
    fresh[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return np.sum(fresh & (ordered < size), axis=1)


Hypotheses = tuple[tuple[np.ndarray, np.ndarray, np.ndarray], float, int]


def _shifts(z: np.ndarray, w: np.ndarray) -> Hypotheses:
    """Every pure translation that brings one pair together; one star matches by construction."""
    b = (w[None, :] - z[:, None]).ravel()
    return (np.ones(b.size, complex), b, np.zeros(b.size, bool)), float(b.size), 1


def _triangles(z: np.ndarray, w: np.ndarray) -> Hypotheses:
    """Similarities from triangles of equal shape; three stars match by construction."""
    from scipy.spatial import cKDTree

    (tz, fz), (tw, fw) = _shapes(z), _shapes(w)
    empty = (np.zeros(0, complex), np.zeros(0, complex), np.zeros(0, bool)), 0.0, 3
    if len(tz) == 0 or len(tw) == 0:
        return empty
    near = cKDTree(fw).query_ball_point(fz, _SHAPE)
    pairs = np.array([(i, j) for i, hits in enumerate(near) for j in hits]).reshape(-1, 2)
    if len(pairs) == 0:
        return empty
    distance = np.hypot(*(fz[pairs[:, 0]] - fw[pairs[:, 1]]).T)
    pairs = pairs[np.argsort(distance, kind="stable")[:4000]]
    p, q = z[tz[pairs[:, 0]]], w[tw[pairs[:, 1]]]
    flipped = _turn(p) * _turn(q) < 0
    p = np.where(flipped[:, None], p.conj(), p)
    pc, qc = p - p.mean(axis=1, keepdims=True), q - q.mean(axis=1, keepdims=True)
    a = np.sum(qc * pc.conj(), axis=1) / np.sum(np.abs(pc) ** 2, axis=1)
    b = q.mean(axis=1) - a * p.mean(axis=1)
    sane = (np.abs(a) > 0.1) & (np.abs(a) < 10)
    # Shapes fill about a quarter of a unit square, so this many pairs agree by accident.
    trials = len(tz) * len(tw) * np.pi * _SHAPE**2 / 0.25
    return (a[sane], b[sane], flipped[sane]), trials, 3


def _turn(p: np.ndarray) -> np.ndarray:
    """Sign of the area of triangles (m, 3)."""
    return np.sign(((p[:, 1] - p[:, 0]).conj() * (p[:, 2] - p[:, 0])).imag)


def _shapes(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Triangles (m, 3) with vertices ordered by their opposite sides, longest first, and their two side ratios."""
    from itertools import combinations

    from scipy.spatial import cKDTree

    chosen = {tuple(c) for c in combinations(range(min(z.size, 10)), 3)}
    _, near = cKDTree(np.column_stack([z.real, z.imag])).query(np.column_stack([z.real, z.imag]), k=min(z.size, 6))
    for row in near:
        chosen |= {tuple(sorted(map(int, c))) for c in combinations(row, 3)}
    triangles = np.array(sorted(chosen)).reshape(-1, 3)
    sides = np.abs(z[np.roll(triangles, -1, axis=1)] - z[np.roll(triangles, -2, axis=1)])
    order = np.argsort(-sides, axis=1, kind="stable")
    sides = np.take_along_axis(sides, order, axis=1)
    triangles = np.take_along_axis(triangles, order, axis=1)
    # Tiny and needle-like triangles say nothing about shape, equal sides nothing about which vertex is which.
    sound = (sides[:, 0] > 8) & (sides[:, 2] > 3) & (sides[:, 1] + sides[:, 2] > 1.02 * sides[:, 0])
    ratios = sides[:, 1:] / np.maximum(sides[:, :1], 1e-9)
    return triangles[sound], ratios[sound]


def _grow(target: Stars, source: Stars, a: complex, b: complex, parity: int, tolerance: float) -> Match | None:
    """From the similarity of a few bright stars to all stars: match, fit, match closer."""
    z = target.x + 1j * target.y
    moved = a * (z if parity > 0 else z.conj()) + b
    y, x = moved.imag, moved.real
    match = match_nearest(y, x, source, tolerance, parity)
    for model, radius in (("affine", 2 * tolerance), ("quadratic", tolerance), ("quadratic", tolerance)):
        if match.target.size < 3:
            return None
        names = tuple(name for name in ("similarity", "affine", "quadratic") if MODELS[name][1] <= MODELS[model][1])
        i, j = match.target, match.source
        error = np.hypot(target.error[i], source.error[j])
        fit = fit_map((target.y[i], target.x[i]), (source.y[j], source.x[j]), error, models=names, parity=parity)
        y, x = fit.polynomial(target.y, target.x)
        match = match_nearest(y, x, source, radius, parity)
    return match if match.target.size >= 3 else None


def _clipped_fit(
    model: str, y: np.ndarray, x: np.ndarray, goal: np.ndarray, weight: np.ndarray, parity: int
) -> tuple[Polynomial, np.ndarray]:
    """Weighted least squares with pairs beyond 3 robust sigma of either axis left out, until nothing changes."""
    keep = np.ones(y.size, bool)
    fewest = max(MODELS[model][2], 3)
    # Cauchy weights first, so that one bright star that moved cannot hide behind its own pull.
    robust = weight.copy()
    for _ in range(15):
        polynomial = _solve(model, y, x, goal, robust, parity)
        square = np.sum((np.concatenate(polynomial(y, x)) - goal).reshape(2, -1) ** 2, axis=0)
        robust = weight / (1 + square * weight / 4)
    for _ in range(10):
        # In units of each pair's own error, so that faint stars neither hide a bright one that moved nor are cut.
        residual = np.abs(np.concatenate(polynomial(y, x)) - goal).reshape(2, -1) * np.sqrt(weight)
        spread = np.maximum(1.4826 * np.median(residual[:, keep], axis=1, keepdims=True), 1.0)
        new = np.all(residual <= 3 * spread, axis=0)
        if new.sum() < fewest:
            break
        same, keep = np.array_equal(new, keep), new
        polynomial = _solve(model, y[keep], x[keep], goal[np.tile(keep, 2)], weight[keep], parity)
        if same:
            break
    return polynomial, keep


def _solve(model: str, y: np.ndarray, x: np.ndarray, goal: np.ndarray, weight: np.ndarray, parity: int) -> Polynomial:
    """Weighted least squares of one model; `goal` holds y then x."""
    order = MODELS[model][0]
    centre = (float(y.mean()), float(x.mean()))
    scale = float(max(np.ptp(y), np.ptp(x), 2.0)) / 2
    blank = Polynomial(np.zeros((2, (order + 1) * (order + 2) // 2)), order, centre, scale)
    root = np.sqrt(weight)
    if model in {"none", "shift"}:
        free = model == "shift"
        shifts = [float(np.average(part, weights=weight)) * free for part in (goal[: y.size] - y, goal[y.size :] - x)]
        linear = [[centre[0] + shifts[0], scale, 0.0], [centre[1] + shifts[1], 0.0, scale]]
        return Polynomial(np.array(linear), 1, centre, scale)
    v, u = (y - centre[0]) / scale, (x - centre[1]) / scale
    if model == "similarity":
        one, zero = np.ones_like(v), np.zeros_like(v)
        # x' = a u - s b v + t_x ; y' = b u + s a v + t_y with s the parity.
        rows = np.vstack([np.column_stack([parity * v, u, one, zero]), np.column_stack([u, -parity * v, zero, one])])
        both = np.tile(root, 2)
        a, b, ty, tx = np.linalg.lstsq(rows * both[:, None], goal * both, rcond=None)[0]
        return Polynomial(np.array([[ty, parity * a, b], [tx, -parity * b, a]]), 1, centre, scale)
    design = blank.terms(y, x) * root[:, None]
    both_goals = goal.reshape(2, -1).T * root[:, None]
    return Polynomial(np.linalg.lstsq(design, both_goals, rcond=None)[0].T, order, centre, scale)
