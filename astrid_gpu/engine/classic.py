"""`classic`: plain image subtraction, the baseline that proper subtraction is compared with."""

from __future__ import annotations

from typing import Any

import numpy as np

from astrid_gpu.backends import Backend, resolve_backend
from astrid_gpu.engine import _checks
from astrid_gpu.engine._frames import combine_masks
from astrid_gpu.errors import InputError, ShapeMismatchError
from astrid_gpu.flags import INVALID
from astrid_gpu.ops.classic import fit_scale_offset, subtract_scaled
from astrid_gpu.results import Difference

__all__ = ["classic"]


def classic(
    science: Any,
    reference: Any,
    *,
    scale: Any = 1.0,
    offset: Any = 0.0,
    fit: bool = False,
    sigma_science: Any = None,
    sigma_reference: Any = None,
    mask: Any = None,
    backend: str | Backend = "auto",
    dtype: Any = None,
) -> Difference:
    r"""Subtract pixel by pixel: D = N - (scale R + offset), no PSF matching.

    For images of equal seeing, and as a baseline; stars leave rings wherever the PSFs differ (use `zogy`).

    Parameters
    ----------
    science, reference : array, shape (ny, nx) or (n, ny, nx)
        Registered images; the reference may be one image for the stack. NaN and infinities are masked pixels.
    scale, offset : float or array (n,)
        Used as given unless `fit`.
    fit : bool
        Fit scale and offset to the unmasked pixels of each pair, robustly (Tukey's biweight).
    sigma_science, sigma_reference : float or array (n,), optional
        Background noise per pixel. With both, `score_corr` is D / sqrt(sigma_n² + scale² sigma_r²), per pixel and
        not per source.
    mask : bool or uint8 array, optional
        As in `zogy`.
    backend, dtype
        As in `zogy`.

    Returns
    -------
    Difference
        `difference` in the science image's unit; `metrics` has scale, offset and, if fitted, scatter.

    Raises
    ------
    ShapeMismatchError, InputError
        Before any work is done.

    Notes
    -----
    Cost: three passes over the images; the fit adds a few tens of passes over the good pixels.
    """
    b = resolve_backend(backend, {"science": science, "reference": reference, "mask": mask})
    kind = _checks.float_type(b, [science, reference], dtype)
    N = _checks.as_stack(b, science, "science", kind)
    R = _checks.as_stack(b, reference, "reference", kind)
    n, shape = N.shape[0], tuple(N.shape[1:])
    if tuple(R.shape[1:]) != shape or R.shape[0] not in (1, n):
        msg = f"science has shape {tuple(N.shape)} and reference {tuple(R.shape)}; they must agree. Use align() first"
        raise ShapeMismatchError(msg)
    plane = None if mask is None else _checks.as_plane(b, mask, "mask", n, shape)
    flags = b.xp.broadcast_to(combine_masks(b, N, R, plane), N.shape)
    invalid = (flags & INVALID) != 0
    noise = [
        None if s is None else _checks.positive(s, k, n)
        for k, s in (("sigma_science", sigma_science), ("sigma_reference", sigma_reference))
    ]
    R = b.xp.broadcast_to(R, N.shape)
    a, c, metrics = _scales(b, N, R, ~invalid, scale, offset, noise[1], fit=fit)
    difference = subtract_scaled(N, R, b.asarray(a), b.asarray(c))
    difference[invalid] = np.nan
    score = None
    if noise[0] is not None and noise[1] is not None:
        width = b.asarray(np.sqrt(noise[0] ** 2 + (a * noise[1]) ** 2), kind)
        score = difference / width[:, None, None]
    pick = (lambda x: x[0]) if np.ndim(science) == 2 else (lambda x: x)
    return Difference(
        difference=pick(difference),
        score_corr=None if score is None else pick(score),
        mask=pick(b.xp.ascontiguousarray(flags)),
        backend=b.name,
        method="classic",
        metrics={k: float(v[0]) if n == 1 else v for k, v in metrics.items()},
    )


def _scales(
    b: Backend, N: Any, R: Any, good: Any, scale: Any, offset: Any, sigma_r: np.ndarray | None, *, fit: bool
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Return scale and offset (n,) on the host, given or fitted, and what to report."""
    n = N.shape[0]
    if not fit:
        a, c = _checks.per_image(scale, "scale", n), _checks.per_image(offset, "offset", n)
        return a, c, {"scale": a, "offset": c}
    counts = b.to_host(good.sum(axis=(1, 2)))
    if np.any(counts < 10):
        msg = (
            f"image {int(np.argmin(counts))} has {int(counts.min())} unmasked pixels; to fit scale and offset takes 10"
        )
        raise InputError(msg)
    noise = np.zeros(n) if sigma_r is None else sigma_r
    fitted = fit_scale_offset(N, R, good, noise, xp=b.xp)
    a, c, scatter = (b.to_host(v) for v in fitted)
    return a, c, {"scale": a, "offset": c, "scatter": scatter}
