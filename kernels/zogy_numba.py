"""Numba twins of ops/zogy.py: the spectrum combination and the final pass, each in one sweep over the pixels."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numba as nb
import numpy as np

__all__ = ["zogy_finish", "zogy_spectra"]


@nb.njit(parallel=True, cache=True, fastmath={"contract", "nsz", "arcp"})
def _combine(N, R, Pn, Pr, params, D, Sn, Sr):  # noqa: ANN001, ANN202 - compiled, types are the caller's
    n, py, hx = N.shape
    zero = N.real.dtype.type(0)
    one = N.real.dtype.type(1)
    for row in nb.prange(n * py):
        i, y = row // py, row % py
        s_n, s_r, f_n, f_r, floor = params[i, 0], params[i, 1], params[i, 2], params[i, 3], params[i, 4]
        a, b = s_n * s_n * f_r * f_r, s_r * s_r * f_n * f_n
        white = one / np.sqrt(a + b)
        ir, ip, iq = i % R.shape[0], i % Pn.shape[0], i % Pr.shape[0]
        for x in range(hx):
            v, r, pn, pr = N[i, y, x], R[ir, y, x], Pn[ip, y, x], Pr[iq, y, x]
            pn2 = pn.real * pn.real + pn.imag * pn.imag
            pr2 = pr.real * pr.real + pr.imag * pr.imag
            den = a * pr2 + b * pn2
            if den > floor:
                inverse = one / den
                root = np.sqrt(inverse)
                D[i, y, x] = (f_r * root) * (pr * v) - (f_n * root) * (pn * r)
                Sn[i, y, x] = (f_n * f_r * f_r * pr2 * inverse) * (np.conj(pn) * v)
                Sr[i, y, x] = (f_r * f_n * f_n * pn2 * inverse) * (np.conj(pr) * r)
            else:
                D[i, y, x] = (f_r * white) * v - (f_n * white) * r
                Sn[i, y, x] = zero
                Sr[i, y, x] = zero


def zogy_spectra(N: Any, R: Any, Pn: Any, Pr: Any, params: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Combine four spectra into D̂, Ŝ_N, Ŝ_R; contract in `astrid_gpu.ops.zogy.zogy_spectra`."""
    D, Sn, Sr = np.empty_like(N), np.empty_like(N), np.empty_like(N)
    _combine(N, R, Pn, Pr, np.asarray(params).astype(N.real.dtype), D, Sn, Sr)
    return D, Sn, Sr


@nb.njit(parallel=True, cache=True, fastmath={"contract", "nsz", "arcp"})
def _finish(Sn, Sr, variance, scales, ast, ny, nx, score, corr, flux, error):  # noqa: ANN001, ANN202
    n, py, px = Sn.shape
    quarter = Sn.dtype.type(0.25)
    zero = Sn.dtype.type(0)
    for row in nb.prange(n * ny):
        i, y = row // ny, row % ny
        to_score, to_flux, floor = scales[i, 0], scales[i, 1], scales[i, 2]
        wy, wx, wf = ast[i, 0] * ast[i, 0] * quarter, ast[i, 1] * ast[i, 1] * quarter, ast[i, 2] * ast[i, 2]
        iv = i % variance.shape[0]
        up, down = (y + 1) % py, (y + py - 1) % py
        for x in range(nx):
            s = Sn[i, y, x] - Sr[i, y, x]
            v = max(variance[iv, y, x], floor)
            if score.size:
                score[i, y, x] = s * to_score
            if flux.size:
                flux[i, y, x] = s * to_flux
            if error.size:
                error[i, y, x] = np.sqrt(v) * to_flux
            if corr.size:
                right = x + 1 if x + 1 < px else 0
                left = x - 1 if x > 0 else px - 1
                ny_, ry_ = Sn[i, up, x] - Sn[i, down, x], Sr[i, up, x] - Sr[i, down, x]
                nx_, rx_ = Sn[i, y, right] - Sn[i, y, left], Sr[i, y, right] - Sr[i, y, left]
                total = v + wy * (ny_ * ny_ + ry_ * ry_) + wx * (nx_ * nx_ + rx_ * rx_)
                a, b = Sn[i, y, x], Sr[i, y, x]
                static = min(abs(a), abs(b)) if a * b > 0 else zero
                corr[i, y, x] = s / np.sqrt(total + wf * static * static)


def zogy_finish(
    Sn: Any, Sr: Any, variance: Any, scales: Any, errors: Any, shape: tuple[int, int], outputs: Collection[str]
) -> dict[str, np.ndarray]:
    """Divide, scale and crop in one pass; contract in `astrid_gpu.ops.zogy.zogy_finish`."""
    names = ("score", "score_corr", "flux", "flux_error")
    ny, nx = shape
    maps = {k: np.empty((Sn.shape[0], ny, nx) if k in outputs else (0, 0, 0), Sn.dtype) for k in names}
    real = Sn.dtype
    _finish(
        Sn, Sr, np.ascontiguousarray(variance), np.asarray(scales).astype(real), np.asarray(errors).astype(real),
        ny, nx, *(maps[k] for k in names),
    )  # fmt: skip
    return {k: v for k, v in maps.items() if k in outputs}
