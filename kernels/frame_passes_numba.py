"""The passes of ZOGY over a whole frame: sixteen columns go through a transform and what goes with it, in cache.

Two real images are transformed along y as one complex one and taken apart at once, so that half of the frequencies
are enough from there on. Between the passes a half spectrum lies as a plane [block of sixteen ky][x][re, im][ky]: what
a block of ky's needs for its transforms along x is in one piece. Along x the spectra are combined and transformed back
block by block; the inverse along y brings two real images at a time.

`plan` is (py, px, fy, wy, fx, wx): sides of the padded frame and the plans of `fft_numba`; `bufs`, (7, 2, 16 times the
longer side), a thread's work space, the last of it zeros. The images are the first pixels of the frame. Both far edges
share the padding: the margins below and to the right come first in it, those above and to the left last. All spectra
are twice what they should be.
"""
# ruff: noqa: ANN001, ANN201, ANN202 - compiled: the types are the caller's

from __future__ import annotations

import numba as nb
import numpy as np
from astrid_gpu.kernels.fft_numba import fft_columns
from astrid_gpu.kernels.lanes_numba import LANES, OPTIONS, load, root, splat, store, transpose16, where_above

__all__ = ["combine", "combine_errors", "forward_x", "forward_y"]

f4 = np.float32
FORWARD, INVERSE = np.float32(1), np.float32(-1)


@nb.njit(**OPTIONS)
def _gather_edge(source, shape, x0, width, py, px, out):
    """Do as `_gather` where the columns reach beyond the image, holes apart."""
    image, ends, sides, level, scale, _, _, _ = source
    ny, nx = shape
    r, inner = sides.shape[1] // 2, max(0, min(nx - x0, width))
    for y in range(py):
        row = out[width * y : width * (y + 1)]
        row[:] = f4(0)
        if ny + r <= y < py - r:
            continue
        if y < ny:
            for x in range(inner):
                row[x] = scale * image[y, x0 + x] if image.size else level
            if r == 0:
                continue
            before, after = sides[y, :r], sides[y, r:]
        else:
            whole = ends[y - ny + r if y < ny + r else y - py + r]
            for x in range(inner):
                row[x] = scale * whole[r + x0 + x]
            before, after = whole[:r], whole[r + nx :]
        for k in range(r):
            left, right = px - r + k - x0, nx + k - x0
            if 0 <= left < width:
                row[left] = scale * before[k]
            if 0 <= right < width:
                row[right] = scale * after[k]


@nb.njit(**OPTIONS)
def _gather(source, shape, x0, width, py, px, out):
    """Copy `width` columns of the padded frame, scaled and with its holes filled, to `out` (py, width)."""
    image, ends, sides, level, scale, ys, xs, values = source
    ny, nx = shape
    zero, factor, constant = splat(f4(0)), splat(scale), splat(level)
    r = sides.shape[1] // 2
    if x0 + width > nx:
        _gather_edge(source, shape, x0, width, py, px, out)
    else:
        flat, edge, pitch = image.reshape(image.size), ends.reshape(ends.size), nx + 2 * r
        for x in range(0, width, LANES):
            for y in range(ny, py):
                store(out, width * y + x, zero)
            for k in range(r):
                store(out, width * (ny + k) + x, factor * load(edge, (r + k) * pitch + r + x0 + x))
                store(out, width * (py - r + k) + x, factor * load(edge, k * pitch + r + x0 + x))
        for y in range(ny):
            for x in range(0, width, LANES):
                store(out, width * y + x, factor * load(flat, y * nx + x0 + x) if image.size else constant)
    for k in range(ys.size):
        if x0 <= xs[k] < x0 + width:
            out[width * ys[k] + xs[k] - x0] = scale * values[k]


@nb.njit(**OPTIONS)
def _take_apart(z, one, two, x0, few, py, px):
    """Write the half spectra along y of a and b from that of a + ib, both doubled."""
    zr, zi = z[0], z[1]
    flat = one.reshape(one.size), two.reshape(two.size)
    for block in range(one.shape[0]):
        for c in range(LANES):
            k = block * LANES + c
            i, j, o = k * LANES, (py - k) % py * LANES, c * LANES
            ar, ai, br, bi = load(zr, i), load(zi, i), load(zr, j), load(zi, j)
            store(few[0], o, ar + br)
            store(few[1], o, ai - bi)
            store(few[2], o, ai + bi)
            store(few[3], o, br - ar)
        at = (block * px + x0) * 2 * LANES
        for part in range(2):
            transpose16(few[part], 0, LANES, flat[0], at + part * LANES, 2 * LANES)
            if two.size:
                transpose16(few[2 + part], 0, LANES, flat[1], at + part * LANES, 2 * LANES)


@nb.njit(**OPTIONS)
def forward_y(a, b, shape, one, two, first, last, window, bufs, plan):
    """Transform two images along y: blocks of columns `first` to `last`, into the planes `one` and `two`.

    a, b : (image, ends, sides, level, scale, ys, xs, values) each: what `tile_frames_numba.prepare` makes, and what
    goes into the holes, all to be multiplied by `scale`; an image of no size is `level` everywhere, which is not.
    `two` may be of no size. window : float32 (2, at least 16 py (last - first)), work space.
    """
    py, px, fy, wy, _, _ = plan
    width, out, few = (last - first) * LANES, bufs[2], bufs[3].reshape(bufs[3].size)[: 4 * LANES**2]
    _gather(a, shape, first * LANES, width, py, px, window[0])
    _gather(b, shape, first * LANES, width, py, px, window[1])
    for x in range(0, width, LANES):
        u, v = window[0, x:], window[1, x:]
        fft_columns(u, v, width, out[0], out[1], LANES, bufs[0], bufs[1], py, fy, wy, FORWARD)
        _take_apart(out, one, two, first * LANES + x, few.reshape(4, LANES**2), py, px)


@nb.njit(**OPTIONS)
def _spectrum(block, ready, out, bufs, plan):
    """Transform a block of a plane along x into `out`, or copy it where that was done before."""
    px, flat = plan[1], block.reshape(block.size)
    if not ready:
        fft_columns(
            flat, flat[LANES:], 2 * LANES, out[0], out[1], LANES, bufs[0], bufs[1], px, plan[4], plan[5], FORWARD
        )
        return
    for x in range(px):
        store(out[0], LANES * x, load(flat, 2 * LANES * x))
        store(out[1], LANES * x, load(flat, 2 * LANES * x + LANES))


@nb.njit(**OPTIONS)
def _write_back(values, block, bufs, plan):
    """Transform `values` back along x into a block of a plane."""
    px, flat = plan[1], block.reshape(block.size)
    i, o = values, 2 * LANES
    fft_columns(i[0], i[1], LANES, flat, flat[LANES:], o, bufs[0], bufs[1], px, plan[4], plan[5], INVERSE)


@nb.njit(**OPTIONS)
def forward_x(plane, block, bufs, plan):
    """Transform one block of a plane along x, in place."""
    px, flat = plan[1], plane[block].reshape(plane[block].size)
    fft_columns(
        flat, flat[LANES:], 2 * LANES, flat, flat[LANES:], 2 * LANES, bufs[0], bufs[1], px, plan[4], plan[5], FORWARD
    )


@nb.njit(**OPTIONS)
def _stamp(columns, out, bufs, plan):
    """Transform along x a few columns (w, 2, 16) about x = 0; bufs[6] holds zeros before and after."""
    px, w, frame = plan[1], columns.shape[0], bufs[6]
    flat = columns.reshape(columns.size)
    for c in range(w):
        x = (c - w // 2) % px * LANES
        store(frame[0], x, load(frame[0], x) + load(flat, 2 * LANES * c))
        store(frame[1], x, load(frame[1], x) + load(flat, 2 * LANES * c + LANES))
    fft_columns(frame[0], frame[1], LANES, out[0], out[1], LANES, bufs[0], bufs[1], px, plan[4], plan[5], FORWARD)
    for c in range(w):
        x = (c - w // 2) % px * LANES
        store(frame[0], x, splat(f4(0)))
        store(frame[1], x, splat(f4(0)))


@nb.njit(**OPTIONS)
def _two_times(a, k, b, q, n):
    """Let a = a k + b q."""
    for i in range(0, n, LANES):
        ar, ai, kr, ki = load(a[0], i), load(a[1], i), load(k[0], i), load(k[1], i)
        br, bi, qr, qi = load(b[0], i), load(b[1], i), load(q[0], i), load(q[1], i)
        store(a[0], i, (ar * kr - ai * ki) + (br * qr - bi * qi))
        store(a[1], i, (ar * ki + ai * kr) + (br * qi + bi * qr))


@nb.njit(**OPTIONS)
def _inverse_den(p, q, i, c):
    """Return den, 1 / den (0 at its floor), |P_n|² and |P_r|²."""
    pr, pi, qr, qi = load(p[0], i), load(p[1], i), load(q[0], i), load(q[1], i)
    p2, q2 = pr * pr + pi * pi, qr * qr + qi * qi
    den = splat(c[0]) * q2 + splat(c[1]) * p2
    return den, where_above(den, splat(c[2]), splat(f4(1)) / den, splat(f4(0))), p2, q2


@nb.njit(**OPTIONS)
def _difference(p, q, n, r, c, out, size):
    """Write the spectrum of D (eq. 13) from P_n, P_r, N and R."""
    zero, floor = splat(f4(0)), splat(c[2])
    for i in range(0, size, LANES):
        den, inverse, _, _ = _inverse_den(p, q, i, c)
        width = root(inverse)
        for_n, for_r = splat(c[3]) * width, splat(c[4]) * width
        ar = where_above(den, floor, for_n * load(q[0], i), splat(c[5]))
        ai = where_above(den, floor, for_n * load(q[1], i), zero)
        br = where_above(den, floor, for_r * load(p[0], i), splat(c[6]))
        bi = where_above(den, floor, for_r * load(p[1], i), zero)
        nr, ni, rr, ri = load(n[0], i), load(n[1], i), load(r[0], i), load(r[1], i)
        store(out[0], i, (ar * nr - ai * ni) - (br * rr - bi * ri))
        store(out[1], i, (ar * ni + ai * nr) - (br * ri + bi * rr))


@nb.njit(**OPTIONS)
def _scores(p, q, n, r, c, size):
    """Turn N into S_N and R into S_R (eqs. 29, 28)."""
    for i in range(0, size, LANES):
        _, inverse, p2, q2 = _inverse_den(p, q, i, c)
        a, b = splat(c[7]) * q2 * inverse, splat(c[8]) * p2 * inverse
        pr, pi, qr, qi = load(p[0], i), load(p[1], i), load(q[0], i), load(q[1], i)
        nr, ni, rr, ri = load(n[0], i), load(n[1], i), load(r[0], i), load(r[1], i)
        store(n[0], i, a * (pr * nr + pi * ni))
        store(n[1], i, a * (pr * ni - pi * nr))
        store(r[0], i, b * (qr * rr + qi * ri))
        store(r[1], i, b * (qr * ri - qi * rr))


@nb.njit(**OPTIONS)
def _subtract(a, b, size):
    for i in range(0, size, LANES):
        store(a[0], i, load(a[0], i) - load(b[0], i))
        store(a[1], i, load(a[1], i) - load(b[1], i))


@nb.njit(**OPTIONS)
def _whiten(a, columns, block, w, bufs, plan):
    """Multiply a spectrum by that of a symmetric kernel, which is real; w is work space."""
    _stamp(columns[block], w, bufs, plan)
    for i in range(0, LANES * plan[1], LANES):
        factor = load(w[0], i)
        store(a[0], i, load(a[0], i) * factor)
        store(a[1], i, load(a[1], i) * factor)


@nb.njit(**OPTIONS)
def combine(block, planes, slots, modes, psfs, squares, white, numbers, bufs, plan):
    """Take one block of ky's of N, R, V_N and V_R along x to D, S_N, S_R and V(S), and back.

    planes : (m, blocks, px, 2, 16). slots : which of them hold N, R, V_N, V_R, and which take D, S_N (or S), S_R, V(S);
    the last may be the place of V_N, and the others of any of the first four. modes : bool (5,): D, S, S_N apart from
    S_R, V(S) wanted; reference transformed along x. psfs, squares : columns (blocks, w, 2, 16) of P_n, P_r, k_n², k_r².
    white : columns of what makes the noise of N and of R white, of no size where it is; P_n and P_r are behind it.
    numbers : float32 (9,): s_n² f_r², s_r² f_n², floor of den; factors of P_r and P_n in D, and what stands for them at
    the floor; factors of k_n and k_r.
    """
    size, n, r, p, q = LANES * plan[1], bufs[2], bufs[3], bufs[4], bufs[5]
    difference, score, apart, weigh, ready = modes
    if weigh:
        _spectrum(planes[slots[2], block], False, n, bufs, plan)
        _spectrum(planes[slots[3], block], ready, r, bufs, plan)
        _stamp(squares[0][block], p, bufs, plan)
        _stamp(squares[1][block], q, bufs, plan)
        _two_times(n, p, r, q, size)
        _write_back(n, planes[slots[7], block], bufs, plan)
    _spectrum(planes[slots[0], block], False, n, bufs, plan)
    _spectrum(planes[slots[1], block], ready, r, bufs, plan)
    if white[0].size:
        _whiten(n, white[0], block, p, bufs, plan)
    if white[1].size:
        _whiten(r, white[1], block, p, bufs, plan)
    _stamp(psfs[0][block], p, bufs, plan)
    _stamp(psfs[1][block], q, bufs, plan)
    if difference:
        out = bufs[0]  # read by the first step of the transform, written by the second
        _difference(p, q, n, r, numbers, out, size)
        _write_back(out, planes[slots[4], block], bufs, plan)
    if score:
        _scores(p, q, n, r, numbers, size)
        if apart:
            _write_back(r, planes[slots[6], block], bufs, plan)
        else:
            _subtract(n, r, size)
        _write_back(n, planes[slots[5], block], bufs, plan)


@nb.njit(**OPTIONS)
def combine_errors(block, one, two, kernels, bufs, plan):
    """Turn a block of E_n (plane `one`) and E_r into |k_n| ⊗ E_n + |k_r| ⊗ E_r, in place of E_n."""
    _spectrum(one[block], False, bufs[2], bufs, plan)
    _spectrum(two[block], False, bufs[3], bufs, plan)
    _stamp(kernels[0][block], bufs[4], bufs, plan)
    _stamp(kernels[1][block], bufs[5], bufs, plan)
    _two_times(bufs[2], bufs[4], bufs[3], bufs[5], LANES * plan[1])
    _write_back(bufs[2], one[block], bufs, plan)
