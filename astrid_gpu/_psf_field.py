"""The PSF over the field: how registered stars depart from the constant PSF, and which order they support.

Each term of the polynomial is a stamp in two parts. What a change of width or of ellipticity would look like is known
from the constant PSF itself; its amplitude is fitted to every star and then over the field. What else the stars show,
pixel by pixel, is added as far as it stands out of the noise, ring by ring (`_psf_stack.blend`), so that the wings stay
smooth and no term brings in noise where the stars say nothing.
"""

from __future__ import annotations

from copy import copy
from typing import NamedTuple

import numpy as np

from astrid_gpu._field_fit import ORDERS, highest_order, left_out, lowest_order
from astrid_gpu._host_ops import both, host_op
from astrid_gpu._psf_stack import PsfStack, Registered, blend, inliers, register, spline_reach, tapered
from astrid_gpu.backends.threads import cpu_threads
from astrid_gpu.ops.field import frame_scale, n_terms, terms_at
from astrid_gpu.ops.field_fit import fit_pixels, fit_polynomial, linear_fits
from astrid_gpu.ops.psf_fit import spline_of

__all__ = ["FieldFit", "fit_field", "spread_over"]

_FOLDS = 5
_ROUNDS = 1
_CAUTION = 2.0  # a term multiplies its noise over the whole frame
_LOOSE = 4.0  # times the limit for chi-squared about the constant PSF
_ONE_THREAD = 1 << 18  # multiplications up to which OpenBLAS stays on one thread
_FLOOR = 0.005  # of the PSF's own value: what stars are trusted to when orders are compared


class FieldFit(NamedTuple):
    """Stamps of the polynomial, its stars, their median reduced chi-squared, what held-out stars say of each order."""

    terms: np.ndarray
    used: np.ndarray
    chi2: float
    order: int
    held_out: dict[int, float]


def spread_over(y: np.ndarray, x: np.ndarray, shape: tuple[int, int], most: int, cells: int = 4) -> np.ndarray:
    """Return indices of at most `most` places, given best first, taken in turn from cells of the frame."""
    cell = [np.clip(p * cells // n, 0, cells - 1).astype(int) for p, n in zip((y, x), shape, strict=True)]
    number = cell[0] * cells + cell[1]
    rank = np.zeros(len(number), int)
    for k in np.unique(number):
        these = np.flatnonzero(number == k)
        rank[these] = np.arange(these.size)
    return np.sort(np.argsort(rank, kind="stable")[:most])


def fit_field(stack: PsfStack, shape: tuple[int, int], fwhm: float, order: int | str) -> FieldFit:
    """Fit the PSF over the field to the stars that the constant one was built from.

    Parameters
    ----------
    stack : PsfStack
        With its registered stars.
    shape : (ny, nx)
        Of the image.
    fwhm : float
    order : {"auto", 0, 1, 2, 3}
        "auto" takes the lowest order whose prediction of held-out stars is within one standard error of the best one's.

    Returns
    -------
    FieldFit
        With one term if order 0 is enough.
    """
    stars = stack.stars
    assert stars is not None
    field = _Field(stack, shape, fwhm)
    held_out: dict[int, float] = {}
    if order == "auto":
        order, held_out = field.choose(highest_order(field.y[field.usable], field.x[field.usable], shape))
    if order == 0:
        return FieldFit(stack.psf[None], stack.used, stack.chi2, 0, held_out)
    keep, smooth = field.usable, np.zeros((n_terms(int(order)), *stack.psf.shape))
    for _ in range(_ROUNDS):
        terms, smooth = field.fit(int(order), keep, smooth)
        chi2 = field.register(terms)
        keep = inliers(chi2)
    terms, _ = field.fit(int(order), keep, smooth)
    return FieldFit(terms, keep, float(np.median(chi2[keep])), int(order), held_out)


class _Field:
    """Registered stars, their places, and the shapes that a change of width and ellipticity would bring."""

    def __init__(self, stack: PsfStack, shape: tuple[int, int], fwhm: float) -> None:
        assert stack.stars is not None
        self.psf, self.fwhm, self.shape = stack.psf, fwhm, shape
        self.stars: Registered = stack.stars
        # A star at the border may fit the constant PSF badly because the PSF varies.
        self.usable = inliers(self.stars.chi2, _LOOSE)
        cuts = self.stars.cuts
        self.y, self.x = cuts.y + self.stars.offset[:, 0], cuts.x + self.stars.offset[:, 1]
        self.slopes, self.shapes = _templates(self.psf)
        half = self.psf.shape[0] // 2
        grid = np.hypot(*np.meshgrid(*(np.arange(-half, half + 1),) * 2, indexing="ij"))
        self.core = grid < 1.2 * fwhm

    def basis(self, order: int) -> np.ndarray:
        """Return the terms at the stars, (m, n_terms)."""
        return terms_at(self.y, self.x, order, *frame_scale(self.shape))

    def constant(self, order: int) -> np.ndarray:
        """Return the constant PSF as a polynomial of this order."""
        terms = np.zeros((n_terms(order), *self.psf.shape))
        terms[0] = self.psf
        return terms

    def local(self, terms: np.ndarray, order: int) -> np.ndarray:
        """Return the PSF at each star."""
        return _stamps(self.basis(order), terms)

    def register(self, terms: np.ndarray) -> np.ndarray:
        """Register the stars anew, each with the PSF of its own place; return their reduced chi-squared."""
        order = _order(terms)
        local, cuts, light = self.local(terms, order), self.stars.cuts, self.stars.light
        total = local.sum((1, 2), keepdims=True)
        # The spline through a sum of stamps is the sum of their splines.
        planes, first = spline_of(terms, cuts.half, spline_reach(self.stars.offset))
        spline = _stamps(self.basis(order), planes) / total, first
        found = register(cuts, light, local / total, self.stars.offset, self.fwhm, spline)
        shifted, weight, offset, chi2 = found
        self.stars = Registered(cuts, light, shifted, weight, offset, chi2)
        return chi2

    def fit(self, order: int, keep: np.ndarray, smooth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fit the stars in `keep`: the polynomial, and of it the part `smooth` that widths and ellipticities make up.

        `smooth` is where to start, zeros as a rule; the pixels' part is made anew, so that its noise does not add up.
        """
        basis, weight = self.basis(order)[keep], self.stars.weight[keep]
        stars, none = self.stars.shifted[keep], np.zeros_like(self.psf)
        terms = self.constant(order) + smooth
        for last in (False, True):
            # Flux, centre and sky of a star were fitted with the PSF of the last pass, for which the shapes are enough.
            stars = self._settled(stars, _of_unit_sum(_stamps(basis, terms)), weight)
            plain = self.constant(order) + smooth
            smooth = smooth + self._by_shapes(basis, stars - _stamps(basis, plain), weight)
            terms = self.constant(order) + smooth
            if last:
                pixels, error = _by_pixels(basis, stars - _stamps(basis, terms), weight)
                terms = terms + tapered(blend(pixels, none, error, self.fwhm, _CAUTION)[0])
            terms[1:] -= terms[1:].sum((1, 2), keepdims=True) / terms[0].sum() * terms[0]
            terms /= terms[0].sum()
        return terms, smooth

    def _settled(self, stars: np.ndarray, local: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Return stars on the flux, centre and sky that fit the PSF of their place best."""
        others = np.stack([*self.slopes, np.ones_like(self.psf)])
        solution, _, _ = _linear_fits(local, others, stars, weight)
        flux = np.where(solution[:, 0] > 0.1, solution[:, 0], 1.0)
        return (stars - _stamps(solution[:, 1:], others)) / flux[:, None, None]

    def amplitudes(self, rest: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return how much of each shape is in what a star has more than the PSF, and its error; both (m, 3)."""
        columns, n = np.stack([*self.shapes, self.psf, *self.slopes, np.ones_like(self.psf)]), len(self.shapes)
        solution, error, _ = _linear_fits(None, columns, rest, weight)
        return solution[:, :n], error[:, :n]

    def _by_shapes(self, basis: np.ndarray, rest: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Return stamps (n_terms, k, k): amplitudes of the shapes, fitted to each star and then over the field."""
        values, errors = self.amplitudes(rest, weight)
        fit = host_op("fit_polynomial", fit_polynomial)
        fitted = [fit(basis, value, error)[0] for value, error in zip(values.T, errors.T, strict=True)]
        return np.einsum("tk,tab->kab", np.stack(fitted), self.shapes)

    def choose(self, highest: int) -> tuple[int, dict[int, float]]:
        """Return the order that stars left out of the fit call for, and what they say of each order.

        Asked twice, of the shapes' amplitudes and of all pixels of the core: the first sees small changes of width and
        ellipticity, the second whatever else there is. The higher answer counts.
        """
        if highest == 0:
            return 0, {}
        use = self.usable
        values, errors = self.amplitudes(self.stars.shifted[use] - self.psf, self.stars.weight[use])
        misfit = left_out([self.basis(k)[use] for k in range(highest + 1)], values, errors)
        least = lowest_order(misfit)
        figures = dict(enumerate(misfit.mean(axis=1).tolist()))
        if least == highest:
            return least, figures
        return least + lowest_order(self.cropped().held_out(range(least, highest + 1))), figures

    def cropped(self) -> _Field:
        """Return the same with smaller stamps, which hold the core: quicker, and enough to compare orders."""
        cut = self.psf.shape[0] // 2 - min(self.psf.shape[0] // 2, int(np.ceil(1.2 * self.fwhm)) + 2)
        inner = (..., slice(cut, self.psf.shape[0] - cut), slice(cut, self.psf.shape[1] - cut))
        small = copy(self)
        small.psf, small.slopes, small.shapes, small.core = (
            plane[inner] for plane in (self.psf, self.slopes, self.shapes, self.core)
        )
        small.stars = self.stars._replace(shifted=self.stars.shifted[inner], weight=self.stars.weight[inner])
        return small

    def held_out(self, orders: range) -> np.ndarray:
        """Return reduced chi-squared of each star about what a fit without it and its fold predicts, (orders, m)."""
        fold = np.full(len(self.usable), -1)
        fold[self.usable] = np.arange(int(self.usable.sum())) % _FOLDS
        chi2 = np.zeros((len(orders), len(fold)))
        tasks = [(k, i) for i in range(len(orders) - 1, -1, -1) for k in range(_FOLDS)]  # the longest first

        def work(part: list[tuple[int, int]]) -> None:
            for k, i in part:
                out, order = fold == k, orders[i]
                start = np.zeros((n_terms(order), *self.psf.shape))
                terms = self.constant(0) if order == 0 else self.fit(order, self.usable & ~out, start)[0]
                chi2[i, out] = self._misfit(out, self.local(terms, order)[out])

        if cpu_threads() > 1:
            both(lambda: work(tasks[::2]), lambda: work(tasks[1::2]))
        else:
            work(tasks)
        return chi2[:, self.usable]

    def _misfit(self, which: np.ndarray, local: np.ndarray) -> np.ndarray:
        """Return reduced chi-squared of stars over the core about a PSF, with flux, centre and sky left free."""
        core, stars = self.core, self.stars
        weight = stars.weight[which][:, core]
        # `register` grants the model 2 %; what tells the orders apart is less.
        plain = 1.0 / np.maximum(weight, 1e-300) - (0.02 * self.psf[core]) ** 2
        tight = np.maximum(plain, 0.1 / np.maximum(weight, 1e-300)) + (_FLOOR * self.psf[core]) ** 2
        weight = np.where(weight > 0, 1.0 / tight, 0.0)
        own, others = local[:, core], np.stack([*self.slopes, np.ones_like(self.psf)])[:, core]
        _, _, chi2 = host_op("linear_fits", linear_fits)(own, others, stars.shifted[which][:, core] - own, weight)
        return chi2 / np.maximum((weight > 0).sum(axis=1) - 4, 1)  # type: ignore[no-any-return]


def _linear_fits(
    own: np.ndarray | None, shared: np.ndarray, values: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit columns to stars, all of them stamps; see `linear_fits`."""
    flat = [None if a is None else a.reshape(len(a), -1) for a in (own, shared, values, weight)]
    return host_op("linear_fits", linear_fits)(*flat)  # type: ignore[no-any-return]


def _order(terms: np.ndarray) -> int:
    return {n_terms(order): order for order in ORDERS}[len(terms)]


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a @ b in pieces that BLAS does on one thread: its threads cost more than products as small as these."""
    rows = max(1, _ONE_THREAD // max(a.shape[1] * b.shape[1], 1))
    if rows >= len(a):
        return a @ b  # type: ignore[no-any-return]
    return np.concatenate([a[k : k + rows] @ b for k in range(0, len(a), rows)])


def _stamps(basis: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """Return the polynomial of stamps at places, (m, k, k)."""
    return _product(basis, terms.reshape(len(terms), -1)).reshape(-1, *terms.shape[1:])


def _of_unit_sum(stamps: np.ndarray) -> np.ndarray:
    return stamps / stamps.sum((1, 2), keepdims=True)


def _templates(psf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the slopes of a PSF along y and x, and how it changes with ln size and two components of shear."""
    pad = 8
    frame = np.pad(psf, pad)
    spectrum = np.fft.rfft2(frame)
    factors = 2j * np.pi * np.fft.fftfreq(frame.shape[0])[:, None], 2j * np.pi * np.fft.rfftfreq(frame.shape[1])[None]
    py, px = (np.fft.irfft2(spectrum * f, frame.shape)[pad:-pad, pad:-pad] for f in factors)
    y, x = (np.arange(n, dtype=float) - n // 2 for n in psf.shape)
    y, x = y[:, None], x[None, :]
    shapes = np.stack([-(2 * psf + y * py + x * px), -(x * px - y * py), -(x * py + y * px)])
    return np.stack([py, px]), shapes


def _by_pixels(basis: np.ndarray, rest: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return stamps (n_terms, k, k) fitted pixel by pixel, and their errors from the scatter of the stars."""
    m, shape = len(basis), (basis.shape[1], *rest.shape[1:])
    solution, error = host_op("fit_pixels", fit_pixels)(basis, rest.reshape(m, -1), weight.reshape(m, -1))
    return solution.reshape(shape), error.reshape(shape)
