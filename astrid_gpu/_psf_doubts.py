"""What speaks against a PSF that was measured: few stars, sources of several widths, a fit that is none."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from astrid_gpu._field_fit import highest_order
from astrid_gpu.image import PSF
from astrid_gpu.ops.field import frame_scale, terms_at
from astrid_gpu.ops.field_fit import fit_polynomial
from astrid_gpu.ops.flux import robust_mean
from astrid_gpu.results import Step

__all__ = ["doubts_of", "doubts_said", "width_scatter"]

_FEW = 5  # stars: with fewer nothing tells whether they are any
_LEAST_SNR, _WIDTH_ERROR = 20.0, 1.2  # of a source, and the error of its ln FWHM times the S/N
_WIDTHS = 0.10  # scatter of ln FWHM: real crowded frames have up to 0.06, galaxies 0.11 and more
_MOST_ORDER = 2  # of a polynomial over the field that the widths follow
_MISFIT = 8.0  # chi-squared: real crowded frames have up to 5


def width_scatter(stars: np.ndarray, shape: tuple[int, int]) -> float:
    """Return by how much the widths of a PSF's stars differ: of ln FWHM, beyond noise and change over the field.

    NaN with fewer than five of S/N 20 or more.
    """
    stars = stars[(stars["snr"] >= _LEAST_SNR) & np.isfinite(stars["fwhm"])]
    if len(stars) < _FEW:
        return float("nan")
    width, error = np.log(stars["fwhm"]), _WIDTH_ERROR / stars["snr"]
    order = min(highest_order(stars["y"], stars["x"], shape), _MOST_ORDER)
    basis = terms_at(stars["y"], stars["x"], order, *frame_scale(shape))
    rest = width - basis @ fit_polynomial(basis, width, error)[0]
    m, n = basis.shape
    return robust_mean(rest, error**2)[2] * float(np.sqrt((m - 1) / (m - n)))


def doubts_of(psf: PSF, scatter: float) -> list[str]:
    """Return in words what speaks against a measured PSF; `scatter` is `width_scatter` of its stars."""
    said = []
    if psf.n_stars < _FEW:
        said.append(f"fewer than {_FEW} stars: {psf.n_stars}")
    if scatter > _WIDTHS:
        said.append(f"the sources it is from differ in width by {100 * scatter:.0f} %, as galaxies and blends do")
    if psf.residual > _MISFIT:
        said.append(f"they do not fit it: chi-squared {psf.residual:.3g}")
    return said


def doubts_said(steps: Iterable[Step]) -> dict[str, str]:
    """Return what the steps of PSFs say against them, by image."""
    return {
        step.values["role"]: "; ".join(step.values["doubts"])
        for step in steps
        if step.stage == "psf" and step.values.get("doubts")
    }
