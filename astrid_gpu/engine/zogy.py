"""`zogy`: proper image subtraction of arrays, batched, on any backend."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from astrid_gpu.backends import Backend, library_of
from astrid_gpu.engine import _checks
from astrid_gpu.engine._frames import Frames, combine_masks, fill_frames, reach_flags
from astrid_gpu.engine._problem import Problem, check
from astrid_gpu.flags import INVALID
from astrid_gpu.ops import zogy as reference_ops
from astrid_gpu.results import Difference, Step

__all__ = ["zogy"]

OUTPUTS = ("difference", "score", "score_corr", "flux")


def zogy(
    science: Any,
    reference: Any,
    psf_science: Any,
    psf_reference: Any,
    sigma_science: Any,
    sigma_reference: Any,
    *,
    flux_science: Any = 1.0,
    flux_reference: Any = 1.0,
    variance_science: Any = None,
    variance_reference: Any = None,
    noise_spectrum_science: Any = None,
    noise_spectrum_reference: Any = None,
    mask: Any = None,
    astrometric_error: Any = (0.0, 0.0),
    flux_ratio_error: Any = 0.0,
    outputs: Collection[str] = ("difference", "score_corr", "flux"),
    backend: str | Backend = "auto",
    dtype: Any = None,
) -> Difference:
    r"""Subtract registered images with the ZOGY proper-subtraction statistic.

    The optimal test for a new, faded or vanished point source in `science` against `reference`, for background
    noise that is Gaussian, and white or of a known spectrum. Nothing is estimated: use `subtract` for images whose
    PSFs, noise and flux ratio are not known yet, and `classic` for a plain difference.

    .. math:: \hat D = \frac{F_r \hat P_r \hat N - F_n \hat P_n \hat R}
                            {\sqrt{\sigma_n^2 F_r^2 |\hat P_r|^2 + \sigma_r^2 F_n^2 |\hat P_n|^2}}

    Parameters
    ----------
    science : array, shape (ny, nx) or (n, ny, nx)
        N, background-subtracted, registered, any linear flux unit. NaN and infinities are masked pixels.
    reference : array, shape (ny, nx) or (n, ny, nx)
        R, likewise. Without the leading axis it is shared by the stack and transformed once.
    psf_science, psf_reference : array, shape (ky, kx) or (n, ky, kx)
        P_n and P_r. Odd or even sides, finite, positive sum; normalised and recentred here, refused if more than
        0.1 px off centre after that. Negative wings are kept.
    sigma_science, sigma_reference : float or array (n,)
        Background standard deviation per pixel, in the unit of the image. Positive.
    flux_science, flux_reference : float or array (n,)
        F_n and F_r: counts of a source of unit flux. Only with flux_science = 1 are `difference` and `flux` in
        the science image's unit.
    variance_science, variance_reference : array like the image, or float, optional
        Variance per pixel, background and sources included, in the square of the image's unit. Without it,
        sigma² everywhere: then the shot noise of sources is not in S_corr.
    noise_spectrum_science, noise_spectrum_reference : array, shape (ky, kx) or (n, ky, kx), optional
        Autocorrelation of the background noise, for resampled, drizzled or coadded images: an odd stamp, symmetric
        about its middle pixel (lag 0), to which it is normalised; `measure_noise_spectrum` makes one of an image.
        Its transform q(k) stands beside sigma² in the denominator, floored at 5 % of its maximum, and V(S) follows.
        sigma and the variances stay those of a pixel. Default: white, no cost.
    mask : bool or uint8 array, shape (ny, nx) or (n, ny, nx), optional
        True, or bits of `astrid_gpu.flags.PixelFlag`. Pixels with an INVALID bit are filled smoothly and come out
        NaN.
    astrometric_error : (float, float) or array (n, 2)
        1-sigma registration noise in y and x, pixels.
    flux_ratio_error : float or array (n,)
        Relative 1-sigma error of F_n / F_r, and of the PSFs from star to star: 0.01 lets 1 % of a static source pass.
    outputs : collection of {"difference", "score", "score_corr", "flux"}
        What to compute; "flux" gives flux and flux_error.
    backend : str or Backend
        See `get_backend`.
    dtype : float32 or float64, optional
        Type to compute in. Default: float32 for float32 images, else the backend's own.

    Returns
    -------
    Difference
        Arrays like `science` (same library, device and leading axis), NaN at invalid pixels. `mask` has the bits
        NEAR_BAD and EDGE within the reach of the PSFs from an invalid pixel or the edge.

    Raises
    ------
    ShapeMismatchError, PsfError, InputError
        Said before any work is done.
    TypeError
        Arrays of different libraries are mixed.

    Notes
    -----
    Edges do not wrap: frames are padded by the larger PSF and the padding filled smoothly. Cost per image: 2
    forward and 3-4 inverse real FFTs of the padded frame, and 2 forward ones for the variances; 6 per pair of PSFs;
    2 per reference. Memory: about 16 padded frames of the working type per image.

    References
    ----------
    .. [1] Zackay, Ofek & Gal-Yam 2016, ApJ 830, 27, eqs. 12-17, 25-33, 41-43.

    Examples
    --------
    >>> import numpy as np, astrid_gpu as ag
    >>> y, x = np.mgrid[-7:8, -7:8]
    >>> psf = np.exp(-(x**2 + y**2) / 8.0)
    >>> sky = np.random.default_rng(1).normal(size=(2, 64, 64))
    >>> sky[0, 20:35, 30:45] += 100 * psf / psf.sum()
    >>> diff = ag.zogy(sky[0], sky[1], psf, psf, 1.0, 1.0, backend="numpy")
    >>> [int(i) for i in np.unravel_index(np.argmax(diff.score_corr), diff.shape)]
    [27, 37]
    """
    wanted = _checks.check_outputs(outputs, OUTPUTS)
    problem = check(locals())
    maps, mask_out = _solve(problem, wanted)
    psf, scale = problem.difference_psf()
    single = problem.single
    host = problem.backend.is_gpu and library_of(science) != "cupy"
    move = problem.backend.to_host if host else (lambda a: a)  # what came in decides what goes out
    unpack = (lambda a: move(a[0])) if single else move
    return Difference(
        difference=unpack(maps["difference"]) if "difference" in maps else None,
        score=unpack(maps["score"]) if "score" in maps else None,
        score_corr=unpack(maps["score_corr"]) if "score_corr" in maps else None,
        flux=unpack(maps["flux"]) if "flux" in maps else None,
        flux_error=unpack(maps["flux_error"]) if "flux_error" in maps else None,
        psf=psf[0] if len(psf) == 1 else psf,
        flux_scale=float(scale[0]) if single else scale,
        mask=unpack(mask_out),
        backend=problem.backend.name,
        steps=tuple(Step("zogy", text, {}) for text in problem.notes),
    )


def _solve(problem: Problem, wanted: set[str]) -> tuple[dict[str, Any], Any]:
    """Return the maps (n, ny, nx) and the flags, by tiles or plans of its own if the backend has them."""
    b = problem.backend
    finite = problem.finite
    flags = combine_masks(b, problem.science, problem.reference, problem.mask, finite)
    clean = problem.mask is None and all(finite)
    own = b.ops.get("zogy_maps")
    maps = own(problem, None if clean else flags, wanted) if own else None
    if maps is None:
        maps = _whole_frames(problem, flags, wanted)
    return maps, _flags_of_all(problem, flags, clean)


def _flags_of_all(problem: Problem, flags: Any, clean: bool) -> Any:
    """Return the flags of every image with those of their surroundings; `flags` is written to.

    Each image by its own PSFs, whichever others are in the stack; on the host one at a time, so that what a plane needs
    in between does not grow with the stack.
    """
    b, n, radii = problem.backend, problem.n, problem.reach()
    if len(set(radii)) == 1 and (b.is_gpu or len(flags) == 1):
        reach_flags(b, flags, radii[0], clean)
    else:
        flags = flags if len(flags) == n else b.xp.repeat(flags, n, axis=0)
        for i in range(n):
            reach_flags(b, flags[i : i + 1], radii[i % len(radii)], clean)
    return b.xp.ascontiguousarray(b.xp.broadcast_to(flags, (n, *problem.shape)))


def _whole_frames(problem: Problem, flags: Any, wanted: set[str]) -> dict[str, Any]:
    """Run the FFTs of whole padded frames and the fused operations; return the maps (n, ny, nx)."""
    b, xp = problem.backend, problem.backend.xp
    invalid = (flags & INVALID) != 0
    pair = [
        fill_frames(b, images, variance, invalid, problem.padded, unit=unit, profiles=profiles)
        for images, variance, unit, profiles in (
            (problem.science, problem.variance_science, problem.unit[0], problem.fill_profiles[0]),
            (problem.reference, problem.variance_reference, problem.unit[1], problem.fill_profiles[1]),
        )
    ]
    N, R = (_whitened(b.rfft2(frames.data), white) for frames, white in zip(pair, problem.whiteners, strict=True))
    Pn, Pr = (p.astype(N.dtype) for p in problem.psf_spectra())
    spectra = b.ops.get("zogy_spectra")
    params = problem.params
    combined = spectra(N, R, Pn, Pr, params) if spectra else reference_ops.zogy_spectra(N, R, Pn, Pr, params, xp=xp)
    D, Sn, Sr = combined
    maps: dict[str, Any] = {}
    ny, nx = problem.shape
    if "difference" in wanted:
        scale = xp.asarray(1 / (problem.flux_scales * problem.gain), dtype=problem.dtype)
        maps["difference"] = b.irfft2(D, problem.padded)[:, :ny, :nx] * scale[:, None, None]
    if wanted - {"difference"}:
        maps |= _score_maps(problem, wanted, Sn, Sr, pair)
    if bool(invalid.any()):
        dead = xp.broadcast_to(invalid, (problem.n, ny, nx))
        maps = {name: xp.where(dead, values.dtype.type(np.nan), values) for name, values in maps.items()}
    return {name: values.astype(problem.dtype, copy=False) for name, values in maps.items()}


def _score_maps(problem: Problem, wanted: set[str], Sn: Any, Sr: Any, pair: list[Frames]) -> dict[str, Any]:
    """S, S_corr, flux and its error from the score spectra and the variances and fill errors of both frames."""
    b, xp = problem.backend, problem.backend.xp
    Pn, Pr = (p.astype(Sn.dtype) for p in problem.psf_spectra())  # made in double: small values keep their digits
    kernels = [b.irfft2(k, problem.padded) for k in reference_ops.score_kernels(Pn, Pr, problem.kernel_params, xp=xp)]
    kn2, kr2 = (b.rfft2(k**2) for k in _behind(problem, kernels, problem.remainders))
    floor = 1e-6 * b.to_host((kn2[:, 0, 0] + kr2[:, 0, 0]).real)
    variance = _weigh(b, [f.variance for f in pair], [kn2, kr2], problem.padded)  # eqs. 26, 27
    if any(f.error is not None for f in pair):
        kernels = _behind(problem, kernels, problem.whiteners)  # on N and R themselves, not on what is white of them
        variance = variance + _fill_variance(b, [f.error for f in pair], kernels, problem.padded)
    norm = b.to_host(reference_ops.score_norm(Pn, Pr, problem.kernel_params, problem.padded, xp=xp))
    n = problem.n
    scales = np.stack(
        [
            problem.gain,
            np.broadcast_to(1 / (norm * problem.gain), (n,)),
            np.broadcast_to(floor, (n,)),
        ],
        axis=1,
    )
    names = {"score", "score_corr"} & wanted | ({"flux", "flux_error"} if "flux" in wanted else set())
    finish = b.ops.get("zogy_finish")
    frames = b.irfft2(Sn, problem.padded), b.irfft2(Sr, problem.padded)
    if finish is None:
        return reference_ops.zogy_finish(*frames, variance, scales, problem.errors, problem.shape, names, xp=xp)
    return finish(*frames, variance, scales, problem.errors, problem.shape, names)


def _whitened(spectrum: Any, factor: Any) -> Any:
    """Return a spectrum times a real factor; as it is where that is None and noise white."""
    return spectrum if factor is None else spectrum * factor.astype(spectrum.real.dtype)


def _behind(problem: Problem, kernels: list[Any], factors: tuple[Any, Any]) -> list[Any]:
    """Return kernels on the padded frame behind others, given as spectra, or None."""
    b, pairs = problem.backend, zip(kernels, factors, strict=True)
    return [k if f is None else b.irfft2(_whitened(b.rfft2(k), f), problem.padded) for k, f in pairs]


def _weigh(b: Backend, maps: list[Any], kernels: list[Any], shape: tuple[int, int]) -> Any:
    """Convolve each map with its kernel (given as spectra) and add, by one inverse transform."""
    total = 0
    for values, kernel in zip(maps, kernels, strict=True):
        spectrum = b.rfft2(values)
        total = total + spectrum * kernel.astype(spectrum.dtype)
    return b.irfft2(total, shape)


def _fill_variance(b: Backend, errors: list[Any], kernels: list[Any], shape: tuple[int, int]) -> Any:
    """Square of the largest error that filled pixels can bring into S: (|k_n| * E_n + |k_r| * E_r)²."""
    present = [(error, b.rfft2(abs(k))) for error, k in zip(errors, kernels, strict=True) if error is not None]
    bound = _weigh(b, [error for error, _ in present], [k for _, k in present], shape)
    return b.xp.maximum(bound, 0) ** 2
