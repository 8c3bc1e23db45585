"""Numba twin of ops/field_fit.py. Pixels of large stamps go on all threads; else the folds of a PSF go at once."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
from astrid_gpu.kernels._threads import shares

__all__ = ["fit_pixels", "fit_polynomial", "linear_fits"]

_FAST = {"contract", "nsz", "reassoc"}
# As in the reference.
_ROUNDS = 8
_FAR = 5.0
_HUBER = 2.5
_RIDGE = 1e-9
_LANES = 32  # pixels fitted at once
_SUMS = 200_000  # products of linear fits that one thread adds up sooner than another wakes up
_BLOCK = 30_000  # stars times products of terms: of so many blocks of pixels a thread is woken for


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _invert(a):  # noqa: ANN001, ANN202 - compiled
    """Invert a positive definite matrix in place by Gauss and Jordan's method."""
    n = a.shape[0]
    for k in range(n):
        pivot = 1.0 / a[k, k]
        a[k, k] = 1.0
        for j in range(n):
            a[k, j] *= pivot
        for i in range(n):
            if i != k:
                factor = a[i, k]
                a[i, k] = 0.0
                for j in range(n):
                    a[i, j] -= factor * a[k, j]


@nb.njit(cache=True, nogil=True)
def _place(values, k):  # noqa: ANN001, ANN202
    """Put the k-th smallest of the values in its place, none larger before it and none smaller behind (Hoare)."""
    low, high = 0, values.size - 1
    while low < high:
        pivot, i, j = values[k], low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if j < k:
            low = i
        if i > k:
            high = j
    return values[k]


@nb.njit(cache=True, nogil=True)
def _median(values):  # noqa: ANN001, ANN202
    ordered, n = values.copy(), values.size
    upper = _place(ordered, n // 2)
    if n % 2:
        return upper
    lower = ordered[0]
    for i in range(1, n // 2):
        lower = max(lower, ordered[i])
    return 0.5 * (lower + upper)


@nb.njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
def _solve(basis, values, root, normal, right, solution):  # noqa: ANN001, ANN202
    """Solve the weighted least squares of a polynomial; weights are root²."""
    m, n = basis.shape
    normal[:], right[:] = 0.0, 0.0
    for k in range(m):
        w, b = root[k] * root[k], basis[k]
        for i in range(n):
            wb = w * b[i]
            right[i] += wb * values[k]
            for j in range(n):
                normal[i, j] += wb * b[j]
    for i in range(n):
        normal[i, i] += 1e-13 * normal[i, i] + 1e-300
    _invert(normal)
    for i in range(n):
        solution[i] = 0.0
        for j in range(n):
            solution[i] += normal[i, j] * right[j]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _polynomial(basis, values, error, spread2, known):  # noqa: ANN001, ANN202
    m, n = basis.shape
    normal, right, solution = np.empty((n, n)), np.empty(n), np.empty(n)
    root, size, rest = np.empty(m), np.empty(m), values - _median(values)
    noise = _median(error * error)
    for i in range(_ROUNDS):
        for k in range(m):
            size[k] = abs(rest[k]) / np.sqrt(error[k] ** 2 + spread2)
        scale = max(1.4826 * _median(size), 1.0)
        for k in range(m):
            s = size[k] / scale
            if i < _ROUNDS // 2:
                w = min(1.0, 2.0 / max(s, 1e-12))
            else:
                w = max((1.0 - (s / _FAR) ** 2) ** 2 if s < _FAR else 0.0, 1e-6)
            root[k] = np.sqrt(w / (error[k] ** 2 + spread2))
        _solve(basis, values, root, normal, right, solution)
        for k in range(m):
            fitted = 0.0
            for j in range(n):
                fitted += basis[k, j] * solution[j]
            rest[k] = values[k] - fitted
        if not known:
            spread2 = max((1.4826 * _median(np.abs(rest))) ** 2 - noise, 0.0)
    return solution, root * root, spread2


@nb.njit(cache=True, nogil=True, fastmath=_FAST)
def _add_up(weight, rows, out):  # noqa: ANN001, ANN202
    """Write sum_k rows[k, t] weight[k, lane] for all t, four stars at a time."""
    m = weight.shape[0]
    for t in range(out.shape[0]):
        o = out[t]
        for i in range(_LANES):
            o[i] = 0.0
    for k in range(0, m - 3, 4):
        a, b, c, d = weight[k], weight[k + 1], weight[k + 2], weight[k + 3]
        for t in range(out.shape[0]):
            o = out[t]
            p, q, r, s = rows[k, t], rows[k + 1, t], rows[k + 2, t], rows[k + 3, t]
            for i in range(_LANES):
                o[i] += p * a[i] + q * b[i] + r * c[i] + s * d[i]
    for k in range(m - m % 4, m):
        a = weight[k]
        for t in range(out.shape[0]):
            o, p = out[t], rows[k, t]
            for i in range(_LANES):
                o[i] += p * a[i]


@nb.njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
def _invert_all(half, full, seen):  # noqa: ANN001, ANN202
    """Write the inverses of the matrices whose upper halves are in `half` (n (n + 1) / 2, lanes), ridge added."""
    n, t = full.shape[0], 0
    for i in range(n):
        for j in range(i, n):
            for lane in range(_LANES):
                full[i, j, lane] = full[j, i, lane] = half[t, lane]
            t += 1
    for lane in range(_LANES):
        scale = 0.0
        for i in range(n):
            scale += full[i, i, lane]
        seen[lane] = scale > 0
        for i in range(n):
            full[i, i, lane] += _RIDGE * scale if seen[lane] else 1.0
    pivot, factor = np.empty(_LANES), np.empty(_LANES)
    for k in range(n):
        for lane in range(_LANES):
            pivot[lane] = 1.0 / full[k, k, lane]
            full[k, k, lane] = 1.0
        for j in range(n):
            for lane in range(_LANES):
                full[k, j, lane] *= pivot[lane]
        for i in range(n):
            if i != k:
                for lane in range(_LANES):
                    factor[lane] = full[i, k, lane]
                    full[i, k, lane] = 0.0
                for j in range(n):
                    for lane in range(_LANES):
                        full[i, j, lane] -= factor[lane] * full[k, j, lane]


@nb.njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
def _weigh(basis, values, weight, w, solution, rest):  # noqa: ANN001, ANN202
    """Write what the solution leaves, and Huber's weights for it; `w` are those of the fit and the result."""
    n = basis.shape[1]
    for k in range(values.shape[0]):
        v, r, u, first = values[k], rest[k], w[k], weight[k]
        for i in range(_LANES):
            r[i] = v[i]
        for a in range(n):
            b, s = basis[k, a], solution[a]
            for i in range(_LANES):
                r[i] -= b * s[i]
        for i in range(_LANES):
            u[i] = first[i] * min(1.0, _HUBER / max(abs(r[i]) * np.sqrt(u[i]), 1e-12))


@nb.njit(cache=True, nogil=True, fastmath=_FAST)
def _times(matrix, vector, out):  # noqa: ANN001, ANN202
    for i in range(out.shape[0]):
        o = out[i]
        for lane in range(_LANES):
            o[lane] = 0.0
        for j in range(out.shape[0]):
            a, b = matrix[i, j], vector[j]
            for lane in range(_LANES):
                o[lane] += a[lane] * b[lane]


@nb.njit(cache=True, nogil=True, fastmath=_FAST)
def _errors(inverse, half, line, error):  # noqa: ANN001, ANN202
    """Write the diagonal of inverse x meat x inverse; `half` is the upper half of the meat."""
    n = inverse.shape[0]
    for k in range(n):
        for lane in range(_LANES):
            error[k, lane] = 0.0
        t = 0
        for i in range(n):
            for j in range(i, n):
                twice = 1.0 if i == j else 2.0
                for lane in range(_LANES):
                    error[k, lane] += twice * half[t, lane] * inverse[k, i, lane] * inverse[k, j, lane]
                t += 1


@nb.njit(cache=True, nogil=True)
def _pixels(basis, squares, values, weight, solution, error, final):  # noqa: ANN001, ANN202
    (m, n), size, t = basis.shape, values.shape[1], squares.shape[1]
    v, first, w = np.zeros((m, _LANES)), np.zeros((m, _LANES)), np.zeros((m, _LANES))
    rest, product, seen = np.zeros((m, _LANES)), np.zeros((m, _LANES)), np.zeros(_LANES, np.bool_)
    half, inverse = np.zeros((t, _LANES)), np.zeros((n, n, _LANES))
    right, found, sigma = np.zeros((n, _LANES)), np.zeros((n, _LANES)), np.zeros((n, _LANES))
    for start in range(0, size, _LANES):
        here = min(_LANES, size - start)
        for k in range(m):
            for i in range(here):
                v[k, i], first[k, i] = values[k, start + i], weight[k, start + i]
        w[:] = first
        for _ in range(2):
            _add_up(w, squares, half)
            product[:] = w * v
            _add_up(product, basis, right)
            _invert_all(half, inverse, seen)
            _times(inverse, right, found)
            _weigh(basis, v, first, w, found, rest)
        product[:] = (w * rest) ** 2
        _add_up(product, squares, half)
        _errors(inverse, half, right, sigma)
        for a in range(n):
            for i in range(here):
                solution[a, start + i] = found[a, i] if seen[i] else 0.0
                error[a, start + i] = np.sqrt(sigma[a, i] * m / max(m - n, 1)) if seen[i] else np.inf
        for k in range(m):
            for i in range(here):
                final[k, start + i] = w[k, i]


@nb.njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
def _fit_columns(shared, own, values, weight, solution, error, chi2):  # noqa: ANN001, ANN202
    m, size = values.shape
    c = solution.shape[1]
    columns, normal, right, line = np.empty((c, size)), np.empty((c, c)), np.empty(c), np.empty(size)
    columns[1:] = shared
    for k in range(m):
        w, v = weight[k], values[k]
        columns[0] = own[k]
        for a in range(c):
            p, total = columns[a], 0.0
            for i in range(size):
                line[i] = w[i] * p[i]
                total += line[i] * v[i]
            right[a] = total
            for b in range(a, c):
                q, total = columns[b], 0.0
                for i in range(size):
                    total += line[i] * q[i]
                normal[a, b] = normal[b, a] = total
        for a in range(c):
            normal[a, a] += _RIDGE * max(normal[a, a], 1e-300)
        _invert(normal)
        for a in range(c):
            solution[k, a] = 0.0
            for b in range(c):
                solution[k, a] += normal[a, b] * right[b]
            error[k, a] = np.sqrt(max(normal[a, a], 0.0))
        line[:] = v
        for a in range(c):
            p, s = columns[a], solution[k, a]
            for i in range(size):
                line[i] -= s * p[i]
        total = 0.0
        for i in range(size):
            total += w[i] * line[i] * line[i]
        chi2[k] = total


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _solve_all(half, right, solution, error):  # noqa: ANN001, ANN202
    """Solve normal equations whose upper halves are in `half` (m, c (c + 1) / 2), right sides (m, c)."""
    m, c = right.shape
    normal = np.empty((c, c))
    for k in range(m):
        t = 0
        for a in range(c):
            for b in range(a, c):
                normal[a, b] = normal[b, a] = half[k, t]
                t += 1
            normal[a, a] += _RIDGE * max(normal[a, a], 1e-300)
        _invert(normal)
        for a in range(c):
            solution[k, a] = 0.0
            for b in range(c):
                solution[k, a] += normal[a, b] * right[k, b]
            error[k, a] = np.sqrt(max(normal[a, a], 0.0))


def fit_polynomial(
    basis: Any, values: Any, error: Any, *, spread2: float | None = None
) -> tuple[np.ndarray, np.ndarray, float]:
    """Fit a polynomial; contract in `astrid_gpu.ops.field_fit.fit_polynomial`."""
    arrays = (np.require(a, float, "CW") for a in (basis, values, error))
    return _polynomial(*arrays, float(spread2 or 0.0), spread2 is not None)  # type: ignore[no-any-return]


def fit_pixels(basis: Any, values: Any, weight: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit a polynomial to each pixel; contract in `astrid_gpu.ops.field_fit.fit_pixels`."""
    basis, values, weight = (np.require(a, float, "CW") for a in (basis, values, weight))
    rows, columns = np.triu_indices(basis.shape[1])
    squares, (m, p) = basis[:, rows] * basis[:, columns], values.shape
    out, final = np.empty((2, basis.shape[1], p)), np.empty((m, p))

    def part(first: int, last: int) -> None:
        these = slice(_LANES * first, min(_LANES * last, p))
        planes = values[:, these], weight[:, these], out[0, :, these], out[1, :, these], final[:, these]
        _pixels(basis, squares, *planes)

    shares(part, -(-p // _LANES), least=max(1, _BLOCK // (m * squares.shape[1])))
    return out[0], out[1], final


def linear_fits(own: Any, shared: Any, values: Any, weight: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit columns; contract in `astrid_gpu.ops.field_fit.linear_fits`."""
    shared, values, weight = (np.require(a, float, "CW") for a in (shared, values, weight))
    m, c = len(values), len(shared) + (own is not None)
    solution, error, chi2 = np.empty((m, c)), np.empty((m, c)), np.empty(m)
    if own is None:  # sums of products with the weights, all at once
        rows, columns = np.triu_indices(c)
        weighted = weight * values
        right = weighted @ shared.T
        _solve_all(weight @ (shared[rows] * shared[columns]).T, right, solution, error)
        return solution, error, (weighted * values).sum(axis=1) - (solution * right).sum(axis=1)
    first = np.require(own, float, "CW")

    def part(low: int, high: int) -> None:
        _fit_columns(shared, *(a[low:high] for a in (first, values, weight, solution, error, chi2)))

    shares(part, m, least=max(1, _SUMS // (c * c * values.shape[1])))
    return solution, error, chi2
