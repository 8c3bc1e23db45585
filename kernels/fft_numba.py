"""Complex FFTs of sixteen columns side by side, in cache: Stockham passes of radix 3, 4, 5 and 8 on vectors of lanes.

A transform along the first axis of a C-ordered array needs no transposing: sixteen neighbouring columns are sixteen
lanes. Real and imaginary parts lie apart, so two real images are one complex one at no cost. The first pass reads and
the last one writes wherever the caller's data lie (a row stride each); the passes between stay in two small buffers.
"""

from __future__ import annotations

import numba as nb
import numpy as np
from astrid_gpu.kernels.lanes_numba import LANES, OPTIONS, load, splat, store
from llvmlite import ir
from llvmlite.binding import add_symbol
from numba import carray
from numba.core import cgutils, types
from numba.extending import intrinsic

__all__ = ["factorize", "fft_columns", "is_smooth", "plan_fft"]

f4 = np.float32


def is_smooth(n: int) -> bool:
    """Whether `plan_fft` takes length n: multiples of 16 without prime factors above 5."""
    return n > 0 and n % LANES == 0 and _strip(_strip(_strip(n, 2)[0], 3)[0], 5)[0] == 1


def _strip(n: int, prime: int) -> tuple[int, int]:
    """Divide n by `prime` as often as it goes; return what is left, and how often."""
    count = 0
    while n % prime == 0:
        n, count = n // prime, count + 1
    return n, count


def factorize(n: int) -> list[int]:
    """Return the radices in the order that proved fastest: a 4 or 8 first and last, 5 and 3 between, 2 never alone."""
    rest, twos = _strip(n, 2)
    rest, threes = _strip(rest, 3)
    rest, fives = _strip(rest, 5)
    if rest != 1 or n % LANES:
        msg = f"no transform of length {n}: multiples of {LANES} with prime factors 2, 3 and 5 only"
        raise ValueError(msg)
    eights = next(e for e in range(twos % 2, twos // 3 + 1) if (twos - 3 * e) % 2 == 0)
    powers = [8] * eights + [4] * ((twos - 3 * eights) // 2)
    return [powers[0], *[5] * fives, *[3] * threes, *powers[1:]]


def plan_fft(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the radices (int64) and the twiddle factors (2, ...) float32 of a forward transform of length n."""
    radices, parts, length = factorize(n), [], n
    for radix in radices:
        m = length // radix
        parts.append(np.exp(-2j * np.pi * np.outer(np.arange(m), np.arange(1, radix)) / length).ravel())
        length = m
    w = np.concatenate(parts)
    return np.array(radices, dtype=np.int64), np.stack([w.real, w.imag]).astype(f4)


# Each pass: (xr, xi) with row stride sx -> (yr, yi) with row stride sy; m = length / radix, s = transforms done so far,
# o = first twiddle, sign = 1 forward, -1 inverse. The names a, b, c, ... are complex numbers in two vectors, ar and ai.


@nb.njit(**OPTIONS)
def _turn(ur, ui, wr, wi, k, sign, yr, yi, j):  # noqa: ANN001, ANN202 - compiled, types are the caller's
    """Store u times the k-th twiddle factor."""
    c, s = splat(wr[k]), splat(sign * wi[k])
    store(yr, j, ur * c - ui * s)
    store(yi, j, ur * s + ui * c)


@nb.njit(**OPTIONS)
def _pass3(xr, xi, sx, yr, yi, sy, m, s, wr, wi, o, sign):  # noqa: ANN001, ANN202
    d, e = sx * s * m, sy * s
    half, g = splat(f4(0.5)), splat(sign * f4(0.8660254037844386))
    for p in range(m):
        k = o + 2 * p
        for q in range(s):
            i, j = sx * (q + s * p), sy * (q + s * 3 * p)
            ar, ai, br, bi = load(xr, i), load(xi, i), load(xr, i + d), load(xi, i + d)
            cr, ci = load(xr, i + 2 * d), load(xi, i + 2 * d)
            tr, ti, er, ei = br + cr, bi + ci, g * (bi - ci), g * (cr - br)
            store(yr, j, ar + tr)
            store(yi, j, ai + ti)
            mr, mi = ar - half * tr, ai - half * ti
            _turn(mr + er, mi + ei, wr, wi, k, sign, yr, yi, j + e)
            _turn(mr - er, mi - ei, wr, wi, k + 1, sign, yr, yi, j + 2 * e)


@nb.njit(**OPTIONS)
def _pass4(xr, xi, sx, yr, yi, sy, m, s, wr, wi, o, sign):  # noqa: ANN001, ANN202
    d, e, g = sx * s * m, sy * s, splat(sign)
    for p in range(m):
        k = o + 3 * p
        for q in range(s):
            i, j = sx * (q + s * p), sy * (q + s * 4 * p)
            ar, ai, br, bi = load(xr, i), load(xi, i), load(xr, i + d), load(xi, i + d)
            cr, ci, dr, di = load(xr, i + 2 * d), load(xi, i + 2 * d), load(xr, i + 3 * d), load(xi, i + 3 * d)
            tr, ti, ur, ui = ar + cr, ai + ci, ar - cr, ai - ci
            vr, vi, zr, zi = br + dr, bi + di, g * (bi - di), g * (dr - br)
            store(yr, j, tr + vr)
            store(yi, j, ti + vi)
            _turn(ur + zr, ui + zi, wr, wi, k, sign, yr, yi, j + e)
            _turn(tr - vr, ti - vi, wr, wi, k + 1, sign, yr, yi, j + 2 * e)
            _turn(ur - zr, ui - zi, wr, wi, k + 2, sign, yr, yi, j + 3 * e)


@nb.njit(**OPTIONS)
def _pass5(xr, xi, sx, yr, yi, sy, m, s, wr, wi, o, sign):  # noqa: ANN001, ANN202
    d, e = sx * s * m, sy * s
    c1, c2 = splat(f4(0.30901699437494745)), splat(f4(-0.8090169943749475))
    s1, s2 = splat(sign * f4(0.9510565162951535)), splat(sign * f4(0.5877852522924731))
    for p in range(m):
        k = o + 4 * p
        for q in range(s):
            i, j = sx * (q + s * p), sy * (q + s * 5 * p)
            ar, ai = load(xr, i), load(xi, i)
            br, bi, zr, zi = load(xr, i + d), load(xi, i + d), load(xr, i + 4 * d), load(xi, i + 4 * d)
            pr, pi, qr, qi = br + zr, bi + zi, br - zr, bi - zi
            br, bi, zr, zi = load(xr, i + 2 * d), load(xi, i + 2 * d), load(xr, i + 3 * d), load(xi, i + 3 * d)
            tr, ti, ur, ui = br + zr, bi + zi, br - zr, bi - zi
            store(yr, j, ar + pr + tr)
            store(yi, j, ai + pi + ti)
            mr, mi = ar + c1 * pr + c2 * tr, ai + c1 * pi + c2 * ti
            fr, fi = s1 * qi + s2 * ui, s1 * qr + s2 * ur
            _turn(mr + fr, mi - fi, wr, wi, k, sign, yr, yi, j + e)
            _turn(mr - fr, mi + fi, wr, wi, k + 3, sign, yr, yi, j + 4 * e)
            mr, mi = ar + c2 * pr + c1 * tr, ai + c2 * pi + c1 * ti
            fr, fi = s2 * qi - s1 * ui, s2 * qr - s1 * ur
            _turn(mr + fr, mi - fi, wr, wi, k + 1, sign, yr, yi, j + 2 * e)
            _turn(mr - fr, mi + fi, wr, wi, k + 2, sign, yr, yi, j + 3 * e)


@nb.njit(**OPTIONS)
def _even_half(xr, xi, i, d, g):  # noqa: ANN001, ANN202
    """Return the radix-4 butterfly of rows 0, 2, 4 and 6: sums, then what goes with an odd frequency."""
    ar, ai, br, bi = load(xr, i), load(xi, i), load(xr, i + 4 * d), load(xi, i + 4 * d)
    tr, ti, ur, ui = ar + br, ai + bi, ar - br, ai - bi
    ar, ai, br, bi = load(xr, i + 2 * d), load(xi, i + 2 * d), load(xr, i + 6 * d), load(xi, i + 6 * d)
    vr, vi, zr, zi = ar + br, ai + bi, g * (ai - bi), g * (br - ar)
    return tr + vr, ti + vi, tr - vr, ti - vi, ur + zr, ui + zi, ur - zr, ui - zi


@nb.njit(**OPTIONS)
def _pass8(xr, xi, sx, yr, yi, sy, m, s, wr, wi, o, sign):  # noqa: ANN001, ANN202
    d, e, g, h = sx * s * m, sy * s, splat(sign), splat(f4(0.7071067811865476))
    for p in range(m):
        k = o + 7 * p
        for q in range(s):
            i, j = sx * (q + s * p), sy * (q + s * 8 * p)
            a0r, a0i, a2r, a2i, a1r, a1i, a3r, a3i = _even_half(xr, xi, i, d, g)
            b0r, b0i, ur, ui, pr, pi, zr, zi = _even_half(xr, xi, i + d, d, g)
            b1r, b1i = h * (pr + g * pi), h * (pi - g * pr)  # times exp(-i pi sign / 4)
            b2r, b2i = g * ui, splat(f4(0)) - g * ur
            b3r, b3i = h * (g * zi - zr), splat(f4(0)) - h * (zi + g * zr)
            store(yr, j, a0r + b0r)
            store(yi, j, a0i + b0i)
            _turn(a1r + b1r, a1i + b1i, wr, wi, k, sign, yr, yi, j + e)
            _turn(a2r + b2r, a2i + b2i, wr, wi, k + 1, sign, yr, yi, j + 2 * e)
            _turn(a3r + b3r, a3i + b3i, wr, wi, k + 2, sign, yr, yi, j + 3 * e)
            _turn(a0r - b0r, a0i - b0i, wr, wi, k + 3, sign, yr, yi, j + 4 * e)
            _turn(a1r - b1r, a1i - b1i, wr, wi, k + 4, sign, yr, yi, j + 5 * e)
            _turn(a2r - b2r, a2i - b2i, wr, wi, k + 5, sign, yr, yi, j + 6 * e)
            _turn(a3r - b3r, a3i - b3i, wr, wi, k + 6, sign, yr, yi, j + 7 * e)


@nb.njit(**OPTIONS)
def _one_pass(radix, xr, xi, sx, yr, yi, sy, m, s, wr, wi, o, sign):  # noqa: ANN001, ANN202
    if radix == 4:
        _pass4(xr, xi, sx, yr, yi, sy, m, s, wr, wi, o, sign)
    elif radix == 8:
        _pass8(xr, xi, sx, yr, yi, sy, m, s, wr, wi, o, sign)
    elif radix == 5:
        _pass5(xr, xi, sx, yr, yi, sy, m, s, wr, wi, o, sign)
    else:
        _pass3(xr, xi, sx, yr, yi, sy, m, s, wr, wi, o, sign)


_TWO = (types.CPointer(types.float32),) * 2
_PLAN = types.CPointer(types.int64), types.intp, *_TWO, types.intp
_SYMBOL = "astrid_gpu_fft_columns"


_SIGNATURE = types.void(*_TWO, types.intp, *_TWO, types.intp, *_TWO, *_TWO, types.intp, *_PLAN, types.float32)


@nb.cfunc(_SIGNATURE, cache=True)
def _columns(xr, xi, sx, yr, yi, sy, ar, ai, br, bi, n, radices, passes, wr, wi, twiddles, sign):  # noqa: ANN001, ANN202
    """Do what `fft_columns` says, on bare pointers."""
    factors, w_r, w_i = carray(radices, (passes,)), carray(wr, (twiddles,)), carray(wi, (twiddles,))
    last, length, s, o = passes - 1, n, 1, 0
    for k in range(passes):
        radix = factors[k]
        m = length // radix
        fr, fi, sf = (xr, xi, sx) if k == 0 else (ar, ai, LANES)
        tr, ti, st = (yr, yi, sy) if k == last else (br, bi, LANES)
        _one_pass(radix, fr, fi, sf, tr, ti, st, m, s, w_r, w_i, o, sign)
        ar, br = br, ar
        ai, bi = bi, ai
        o += (radix - 1) * m
        length = m
        s *= radix


# Kernels call it by name, so that the passes are compiled once and not into each of them.
add_symbol(_SYMBOL, _columns.address)


@intrinsic
def _call(typingctx, xr, xi, sx, yr, yi, sy, one, two, n, radices, w, sign):  # noqa: ANN001, ANN202
    """Call `_columns` with the addresses of arrays."""

    def codegen(context, builder, sig, args):  # noqa: ANN001, ANN202
        def rows(k):  # noqa: ANN001, ANN202
            array = context.make_array(sig.args[k])(context, builder, args[k])
            if sig.args[k].ndim == 1:
                return [array.data], cgutils.unpack_tuple(builder, array.shape, 1)[0]
            step = builder.sdiv(cgutils.unpack_tuple(builder, array.strides, 2)[0], array.itemsize)
            return [array.data, builder.gep(array.data, [step])], cgutils.unpack_tuple(builder, array.shape, 2)[1]

        (radix, passes), (twiddles, count) = rows(9), rows(10)
        given = [*rows(0)[0], *rows(1)[0], args[2], *rows(3)[0], *rows(4)[0], args[5], *rows(6)[0], *rows(7)[0]]
        given += [args[8], *radix, passes, *twiddles, count, args[11]]
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in given])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, _SYMBOL), given)
        return context.get_dummy_value()

    numbers = types.intp, types.float32
    return types.void(xr, xi, numbers[0], yr, yi, numbers[0], one, two, numbers[0], radices, w, numbers[1]), codegen


@nb.njit(**OPTIONS)
def fft_columns(xr, xi, sx, yr, yi, sy, one, two, n, radices, w, sign) -> None:  # noqa: ANN001
    """Transform sixteen columns of n rows, unnormalised.

    Parameters
    ----------
    xr, xi : flat float32 arrays
        Row k of the columns is xr[sx * k : sx * k + 16] and the same of xi.
    yr, yi : flat float32 arrays
        Where the result goes, with row stride sy; may be the input's own place.
    one, two : float32 arrays (2, 16 * n)
        Work space.
    radices, w
        From `plan_fft(n)`.
    sign : float32
        1 forward, -1 inverse.
    """
    _call(xr, xi, sx, yr, yi, sy, one, two, n, radices, w, sign)
