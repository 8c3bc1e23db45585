"""`flux_ratio`: beta = F_n / F_r, the sky offset gamma, and the registration offset of a pair."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from astrid_gpu._flux_field import FluxModel, fit_flux_model
from astrid_gpu._registration_field import Places
from astrid_gpu.errors import AlignmentError, InputError, ShapeMismatchError
from astrid_gpu.image import PSF, Image, PSFModel
from astrid_gpu.kernels._pool import share
from astrid_gpu.ops.flux import (
    LineFit,
    MatchedSamples,
    fit_line,
    matched_planes,
    matched_samples,
    matched_values,
    robust_mean,
)
from astrid_gpu.ops.noise import clipped_statistics, median_sigma
from astrid_gpu.results import Step
from astrid_gpu.stars import StarFlag, match_stars

__all__ = ["FluxRatio", "flux_ratio", "level_reference", "level_step", "usable_beta"]

_log = logging.getLogger("astrid_gpu")

_UNUSABLE = int(StarFlag.EDGE | StarFlag.BAD_PIXEL | StarFlag.SATURATED | StarFlag.SHARP)
_MAX_LOST = 0.02  # part of a PSF on bad pixels or off the frame that a place may lose
_WINDOWS_COST = 60  # products a pixel of the frame, from which on FFTs of the frame cost less than windows cut from it
_ALONE = 2  # sources; so few may be a chance match, which zero points then tell
_ROWS = 64  # levelled at a time: what is made in between stays in cache
_UNKNOWN_ERROR = 0.5  # fractional error of a flux ratio nothing is known about


@dataclass(frozen=True)
class FluxRatio:
    """How two registered images compare.

    Parameters
    ----------
    beta : float
        F_n / F_r: counts in the science image per count in the reference.
    beta_error : float
    gamma : float
        Sky offset left in the science image: N = beta R + gamma, unit of the science image.
    n_stars : int
        Places that carry weight in the fit; 0 for an estimate without stars.
    dy, dx : float
        Robust mean offset, science minus reference, pixels; 0 if it could not be measured.
    scatter_y, scatter_x : float
        Scatter of the offsets from place to place beyond their measuring errors, pixels.
    intrinsic : float
        Fractional scatter of the ratios beyond the photon noise: PSF errors, flat fields, variables.
    method : str
        "stars", "pixels", "zero points", "exposure times" or "assumed"; "impossible" where sources gave a ratio that
        no two images of the same ones have and no header tells another: `subtract` refuses it.
    step : Step
    places : Places or None
        The matched sources that carry weight: where they are, and the offset of each.
    model : FluxModel or None
        The ratio over the field, None where it is constant or was not asked for.
    """

    beta: float
    beta_error: float
    gamma: float
    n_stars: int
    dy: float
    dx: float
    scatter_y: float
    scatter_x: float
    intrinsic: float
    method: str
    step: Step
    places: Places | None = None
    model: FluxModel | None = None

    def moved_from(self, before: FluxRatio) -> FluxRatio:
        """Return this ratio, measured on a reference that was moved, with all of the offset: what was and what is left.

        The scatter is this one's: offsets of half a pixel and more are measured too coarsely to tell it.
        """
        dy, dx = before.dy + self.dy, before.dx + self.dx
        text = f"{self.step.text}; measured once more after the reference was moved"
        values = {"dy": dy, "dx": dx, "dy_left": self.dy, "dx_left": self.dx}
        step = Step(self.step.stage, text, self.step.values | values)
        return replace(self, dy=dy, dx=dx, step=step, places=before.places)


def flux_ratio(
    science: Image,
    reference: Image,
    psf_science: PSF,
    psf_reference: PSF,
    stars_science: np.ndarray,
    stars_reference: np.ndarray,
    variance_science: Any = None,
    variance_reference: Any = None,
    *,
    mask: np.ndarray | None = None,
    psf_models: tuple[PSFModel | None, PSFModel | None] = (None, None),
    order: int | str = 0,
    min_snr: float = 20.0,
    max_stars: int = 400,
) -> FluxRatio:
    r"""Measure the flux ratio and the offset of a registered pair on the sources common to both.

    Both images are convolved with the other's PSF and compared at the sources (`ops.flux.matched_samples`):

    .. math:: (N \otimes P_r)(x_i) = \beta\, (R \otimes P_n)(x_i) + \gamma

    fitted with errors in both and Tukey weights (`ops.flux.fit_line`). Blends and static galaxies obey the same
    relation as stars, so crowding does no harm; variables, cosmic rays and bad matches are outvoted.

    Parameters
    ----------
    science, reference : Image
        Registered to a fraction of the FWHM and background-subtracted.
    psf_science, psf_reference : PSF
    stars_science, stars_reference : structured arrays of `find_stars`
    variance_science, variance_reference : array (ny, nx) or float, optional
        Default: that of the images' blank sky.
    mask : bool array (ny, nx), optional
        True = pixels not to use, besides those the images mark bad (saturated ones, say).
    psf_models : (PSFModel or None, PSFModel or None)
        PSFs that vary over the field; each source is then compared under those of its place.
    order : {0, 1, 2, 3, "auto"}
        Degree of the polynomial over the field that `model` of the result is; "auto" takes what the sources call for.
    min_snr : float
        Least S/N of a source in either image; lowered to 7 if fewer than 3 sources reach it.
    max_stars : int
        The brightest so many are used.

    Returns
    -------
    FluxRatio
        Without a usable source: from all bright pixels; without those, from the zero points, then the exposure
        times, of both; without those beta = 1 with a large error. `method` and `step` say which.


    References
    ----------
    .. [1] Zackay, Ofek & Gal-Yam 2016, ApJ 830, 27, eqs. 37-39.
    .. [2] York et al. 2004, Am. J. Phys. 72, 367.
    """
    if science.shape != reference.shape:
        msg = f"science has shape {science.shape} and reference {reference.shape}; register them to one grid first"
        raise ShapeMismatchError(msg)
    bad = science.bad | reference.bad
    if mask is not None:
        if mask.shape != science.shape:
            msg = f"mask has shape {mask.shape}, the images {science.shape}; they must be the same"
            raise ShapeMismatchError(msg)
        bad = bad | mask.astype(bool)
    pair = _Pair(science, reference, psf_science, psf_reference, variance_science, variance_reference, bad)
    pair.models, pair.order = psf_models, order
    for least in (min_snr, 7.0):
        y, x = _common_places(pair, stars_science, stars_reference, least, max_stars)
        samples = pair.sample(y, x)
        if len(samples.science) >= 3:
            break
    unusable = []
    for found in _measured(pair, samples, max_stars):
        if _possible(found, science, reference):
            return found
        unusable.append(found)
    return _without_places(science, reference, unusable)


def _measured(pair: _Pair, samples: MatchedSamples, max_places: int) -> Iterator[FluxRatio]:
    """Yield the ratio of matched sources, then that of bright pixels, where there are any."""
    if len(samples.science):
        yield _from_places(pair, samples, "stars")
    samples = pair.sample(*_bright_pixels(pair, max_places))
    if len(samples.science) >= 3:
        yield _from_places(pair, samples, "pixels")


def _possible(found: FluxRatio, science: Image, reference: Image) -> bool:
    """Whether a measured ratio is positive and, of one or two sources, within ten times what the zero points say."""
    if not (np.isfinite(found.beta) and found.beta > 0):
        return False
    headers = _from_headers(science, reference)
    alone = found.step.values["n_places"] <= _ALONE and headers.method == "zero points"
    return not alone or abs(np.log10(found.beta / headers.beta)) < 1


def _without_places(science: Image, reference: Image, unusable: list[FluxRatio]) -> FluxRatio:
    """Return the ratio by the headers; where sources were measured and gave an impossible one, that is said."""
    headers = _from_headers(science, reference)
    if not unusable:
        return headers
    what = " and ".join(f"{each.beta:.4g} from {_number_of(each)}" for each in unusable)
    text = (
        f"{science.name} / {reference.name}: a flux ratio of {what} is impossible, so they do not show the same "
        "sources where their alignment puts them: check that they show one field and that their WCS are right (align="
        "'stars' does without), or give flux_ratio"
    )
    if headers.method == "assumed":
        step = Step(headers.step.stage, text, headers.step.values | {"method": "impossible"})
        return replace(headers, method="impossible", step=step)
    text = f"{text}; taken to be {headers.beta:.4g} +- {headers.beta_error:.2g} by the {headers.method}"
    _log.warning("%s", text)
    return replace(headers, step=Step(headers.step.stage, text, headers.step.values))


def usable_beta(found: FluxRatio, given: float | None) -> float:
    """Return the flux ratio given, else that found.

    Raises
    ------
    AlignmentError
        The sources give none that is possible, and no header tells one.
    """
    if given is None and found.method == "impossible":
        raise AlignmentError(found.step.text)
    return given or found.beta


def _number_of(found: FluxRatio) -> str:
    n = int(found.step.values["n_places"])
    return f"{n} common source{'s' * (n != 1)}" if found.method == "stars" else f"{n} bright places"


class _Pair:
    """The arrays of a pair; the pixels in `bad` may hold anything."""

    def __init__(
        self, science: Image, reference: Image, psf_n: PSF, psf_r: PSF, var_n: Any, var_r: Any, bad: np.ndarray
    ) -> None:
        self.names = f"{science.name} / {reference.name}"
        self.models: tuple[PSFModel | None, PSFModel | None] = (None, None)
        self.order: int | str = 0
        self.bad = bad
        self.grid: tuple[np.ndarray, np.ndarray] | None = None
        self.n, self.r = science.data, reference.data
        self.psf_n, self.psf_r = (np.asarray(p.data, float) for p in (psf_n, psf_r))
        self.fwhm = float(np.nanmax([psf_n.fwhm, psf_r.fwhm, 1.5]))
        self.var_n, self.var_r = _variance(self.n, var_n, bad, science), _variance(self.r, var_r, bad, reference)

    def sky_offset(self, beta: float) -> tuple[float, float]:
        """Return the median of D_n - beta D_r over a grid of pixels, and its error.

        Under the same PSF what is constant cancels, so crowded fields have an offset too, where no sky is blank.
        """
        if self.grid is None:
            self.grid = self._sample_grid()
        values = self.grid[0] - beta * self.grid[1]
        if values.size < 20:
            return 0.0, float("nan")
        middle, sigma = median_sigma(values)
        return middle, float(1.2533 * sigma / np.sqrt(values.size))

    def _sample_grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Return D_n and D_r at up to some 4000 pixels so far apart that their noise is independent."""
        ny, nx = self.bad.shape
        step = max(int(np.ceil(1.8 * self.fwhm)), int(np.ceil(np.sqrt(ny * nx / 4000))))
        rows, columns = np.arange(step // 2, ny, step), np.arange(step // 2, nx, step)
        y, x = (a.ravel() for a in np.meshgrid(rows, columns, indexing="ij"))
        if len(y) * max(self.psf_n.size, self.psf_r.size) > _WINDOWS_COST * ny * nx:
            planes = matched_planes(self.n, self.r, self.psf_n, self.psf_r, self.bad)
            found = [plane[y, x] for plane in planes]
            return found[0][found[2] < _MAX_LOST], found[1][found[2] < _MAX_LOST]
        starts = range(0, len(y), 500)
        parts: list[Any] = [None] * len(starts)

        def measure(k: int) -> None:
            parts[k] = self._values(y[starts[k] : starts[k] + 500], x[starts[k] : starts[k] + 500])

        share(measure, len(starts))
        return tuple(np.concatenate([p[k] for p in parts]) for k in range(2))  # type: ignore[return-value]

    def _values(self, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return D_n and D_r at pixels (y, x), those that lose too much left out."""
        found = matched_values(self.n, self.r, self.psf_n, self.psf_r, self.bad, y, x)
        keep = found[2] < _MAX_LOST
        return found[0][keep], found[1][keep]

    def sample(self, y: np.ndarray, x: np.ndarray) -> MatchedSamples:
        """Sample both images at pixels (y, x), without the places that lose too much to bad pixels and edges."""
        if self.models == (None, None) or len(y) == 0:
            found = self._sample(y, x, self.psf_n, self.psf_r)
        else:
            cells = _cells(y, x, self.bad.shape)
            stamps = self._psfs_at(np.array([(y[k].mean(), x[k].mean()) for k in cells]))
            parts: list[Any] = [None] * len(cells)

            def measure(n: int) -> None:
                parts[n] = self._sample(y[cells[n]], x[cells[n]], *(psf[n % len(psf)] for psf in stamps))

            share(measure, len(cells))
            found = MatchedSamples(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        keep = (found.lost < _MAX_LOST) & (found.variance_science > 0) & (found.variance_reference > 0)
        return MatchedSamples(*(column[keep] for column in found))

    def _sample(self, y: np.ndarray, x: np.ndarray, psf_n: np.ndarray, psf_r: np.ndarray) -> MatchedSamples:
        return matched_samples(self.n, self.r, psf_n, psf_r, self.var_n, self.var_r, self.bad, y, x)

    def _psfs_at(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return both PSFs at places (n, 2), (n, ky, kx); (1, ky, kx) of one that is constant."""
        constant = self.psf_n, self.psf_r
        one, other = (
            own[None] if model is None else model.stamps(*places.T)
            for model, own in zip(self.models, constant, strict=True)
        )
        return one, other


def _cells(y: np.ndarray, x: np.ndarray, shape: tuple[int, int], n: int = 6) -> list[np.ndarray]:
    """Return the indices of the places in each of n x n cells of the frame that holds any."""
    number = (y * n // shape[0]) * n + x * n // shape[1]
    return [np.flatnonzero(number == k) for k in np.unique(number)]


def _variance(data: np.ndarray, variance: Any, bad: np.ndarray, image: Image) -> np.ndarray:
    """Return a variance map that is finite and positive."""
    given = image.variance if variance is None else variance
    if given is None:
        _, sigma, _ = clipped_statistics(data[~bad].astype(float))
        given = sigma**2
    plane = np.broadcast_to(np.asarray(given), data.shape)
    usable = np.isfinite(plane) & (plane > 0)
    if not usable.any():
        msg = f"{image.name}: the variance has no positive, finite value"
        raise InputError(msg)
    return plane if usable.all() else np.where(usable, plane, np.median(plane[usable]))


def _common_places(
    pair: _Pair, a: np.ndarray, b: np.ndarray, min_snr: float, max_stars: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels of sources found in both images; clean stars, or all sources if those are fewer than 8."""
    a, b = (s[((s["flags"] & _UNUSABLE) == 0) & (s["snr"] >= min_snr)] for s in (a, b))
    ia, ib = match_stars(a, b, radius=max(1.0, 0.5 * pair.fwhm))
    a, b = a[ia], b[ib]
    clean = (a["flags"] == 0) & (b["flags"] == 0)
    if clean.sum() >= 8:
        a, b = a[clean], b[clean]
    order = np.argsort(-np.minimum(a["snr"], b["snr"]))[:max_stars]
    y, x = 0.5 * (a["y"] + b["y"])[order], 0.5 * (a["x"] + b["x"])[order]
    return _whole(y, pair.n.shape[0]), _whole(x, pair.n.shape[1])


def _whole(position: np.ndarray, side: int) -> np.ndarray:
    return np.clip(np.rint(position), 0, side - 1).astype(np.intp)


def _bright_pixels(pair: _Pair, max_places: int) -> tuple[np.ndarray, np.ndarray]:
    """Return bright pixels of the sum of both images, one FWHM or more apart, most significant first."""
    from scipy.ndimage import gaussian_filter, maximum_filter

    width = pair.fwhm / 2.3548
    total = np.zeros(pair.n.shape)
    for image, variance in ((pair.n, pair.var_n), (pair.r, pair.var_r)):
        data = np.where(pair.bad, 0.0, image.astype(np.float64))
        noise = np.sqrt(gaussian_filter(variance, width) / (4 * np.pi * width**2))
        total += np.minimum(gaussian_filter(data, width) / noise, 1e4)
    side = 2 * max(1, round(0.5 * pair.fwhm)) + 1
    y, x = np.nonzero((total == maximum_filter(total, size=side)) & (total > 20.0) & ~pair.bad)
    order = np.argsort(-total[y, x])[:max_places]
    return y[order], x[order]


def _from_places(pair: _Pair, s: MatchedSamples, method: str) -> FluxRatio:
    """Fit ratio and offsets to sampled places."""
    fit, gamma, gamma_error = _ratio_and_offset(pair, s)
    dy, scatter_y = _shift(s.dy, s.dy_variance, fit)
    dx, scatter_x = _shift(s.dx, s.dx_variance, fit)
    n = int((fit.weights > 0.05).sum())
    what = f"{n} of {len(s.reference)} common stars" if method == "stars" else f"{n} bright places, not matched stars"
    text = (
        f"{pair.names}: flux ratio {fit.slope:.5g} +- {fit.slope_error:.2g} from {what}, "
        f"offset (dy, dx) ({dy:+.3f}, {dx:+.3f}) px, scatter ({scatter_y:.3f}, {scatter_x:.3f}) px"
    )
    values = {"beta": fit.slope, "beta_error": fit.slope_error, "gamma": gamma, "n_stars": n, "method": method}
    values |= {"gamma_error": gamma_error, "intrinsic": fit.intrinsic, "n_places": len(s.reference)}
    values |= {"dy": dy, "dx": dx, "scatter_y": scatter_y, "scatter_x": scatter_x}
    error = max(fit.slope_error, 0.1 * fit.slope) if len(s.reference) == 1 else fit.slope_error
    model, figures = _over_field(pair, s, fit, gamma)
    values |= {"order": 0 if model is None else model.order, "held_out": figures}
    return FluxRatio(
        beta=fit.slope,
        beta_error=error,
        gamma=gamma,
        n_stars=n if method == "stars" else 0,
        dy=dy,
        dx=dx,
        scatter_y=scatter_y,
        scatter_x=scatter_x,
        intrinsic=fit.intrinsic,
        method=method,
        step=Step("flux ratio", text, values),
        places=Places(*(c[fit.weights > 0.05] for c in (s.y, s.x, s.dy, s.dx, s.dy_variance, s.dx_variance))),
        model=model,
    )


def _over_field(
    pair: _Pair, s: MatchedSamples, fit: LineFit, gamma: float
) -> tuple[FluxModel | None, dict[int, float]]:
    """Fit the ratio of each source, over the constant one, as a polynomial in position."""
    if pair.order == 0:
        return None, {}
    good = (s.reference > 5 * np.sqrt(s.variance_reference)) & np.isfinite(s.science)
    expected = fit.slope * s.reference[good]
    ratios = (s.science[good] - gamma) / expected
    errors = np.sqrt(s.variance_science[good] + fit.slope**2 * s.variance_reference[good]) / expected
    return fit_flux_model(s.y[good], s.x[good], ratios, errors, fit.slope, pair.bad.shape, pair.order)


def _ratio_and_offset(pair: _Pair, s: MatchedSamples) -> tuple[LineFit, float, float]:
    """Fit the ratio at the sources and the sky offset on all pixels in turn: neither then stands in for the other."""
    fit = fit_line(s.reference, s.science, s.variance_reference, s.variance_science, intercept=False)
    gamma = error = 0.0
    for _ in range(3):
        gamma, error = pair.sky_offset(fit.slope)
        fit = fit_line(s.reference, s.science - gamma, s.variance_reference, s.variance_science, intercept=False)
    return fit, gamma, error


def _shift(offset: np.ndarray, variance: np.ndarray, fit: LineFit) -> tuple[float, float]:
    """Return the robust mean offset along one axis and its scatter; 0, 0 if no place gives one."""
    ok = np.isfinite(offset) & np.isfinite(variance) & (fit.weights > 0.05) & (np.abs(offset) < 3.0)
    if not ok.any():
        return 0.0, 0.0
    mean, _, scatter = robust_mean(offset[ok], variance[ok])
    return mean, scatter


def _from_headers(science: Image, reference: Image) -> FluxRatio:
    """Return the ratio that zero points or exposure times imply, or 1 with a large error."""
    beta, method = 1.0, "assumed"
    error = _UNKNOWN_ERROR
    times = [im.meta.get("EXPTIME") for im in (science, reference)]
    if science.zero_point is not None and reference.zero_point is not None:
        beta, method = 10 ** (0.4 * (science.zero_point - reference.zero_point)), "zero points"
        error = 0.05 * beta
    elif all(isinstance(t, int | float) and t > 0 for t in times):
        beta, method = float(times[0]) / float(times[1]), "exposure times"  # type: ignore[arg-type]
        error = 0.2 * beta
    text = (
        f"{science.name} / {reference.name}: no source common to both; flux ratio {beta:.4g} +- {error:.2g} "
        f"({method if method != 'assumed' else 'assumed: no zero points, no exposure times'}), no offset measured"
    )
    values = {"beta": beta, "beta_error": error, "n_stars": 0, "method": method}
    return FluxRatio(beta, error, 0.0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, method, Step("flux ratio", text, values))


def level_reference(reference: Image, found: FluxRatio) -> Image:
    """Return the reference times beta(y, x) / beta, its variance times the square: its flux ratio is then constant.

    ZOGY sees only R F_n / F_r and the noise in that unit, so D, S and S_corr are those of the flux ratio that varies.
    """
    if found.model is None:
        return reference
    model, given = found.model, reference.known_variance
    data, variance = np.empty_like(reference.data), np.empty(reference.shape, given.dtype)

    def level(k: int) -> None:
        rows = slice(_ROWS * k, _ROWS * (k + 1))
        factor = model.over_rows(rows) / found.beta
        data[rows] = reference.data[rows] * factor
        variance[rows] = given[rows] * factor**2

    share(level, -(-reference.shape[0] // _ROWS))
    return reference.with_(data=data, variance=variance)


def level_step(found: FluxRatio) -> Step:
    """Say how the flux ratio varies, and what was done about it."""
    assert found.model is not None
    low, high = found.model.spread
    held_out = found.step.values["held_out"]
    figures = f"; chi-squared of left-out sources by order {_listed(held_out)}" if held_out else ""
    text = (
        f"the flux ratio varies over the field from {low:.5g} to {high:.5g} (order {found.model.order}{figures}): "
        "the reference and its variance levelled by it"
    )
    values = {"order": found.model.order, "lowest": low, "highest": high}
    return Step("flux ratio", text, values | {"coefficients": found.model.coefficients.tolist()})


def _listed(figures: dict[int, float]) -> str:
    return ", ".join(f"{k}: {v:.3f}" for k, v in figures.items())
