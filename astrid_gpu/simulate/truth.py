"""The truth table: what changed, by how much, and how significant it can be at best."""

from __future__ import annotations

from typing import Any

import numpy as np

from astrid_gpu.ops.fourier import transfer_function
from astrid_gpu.ops.zogy import make_params, score_kernels, score_norm
from astrid_gpu.simulate.exposure import Exposure, Frame, true_psf

__all__ = ["TRUTH_DTYPE", "expected_snr", "point_source_noise", "sky_coordinates", "truth_table"]

TRUTH_DTYPE = np.dtype(
    [
        ("id", "i4"),  # the same object keeps its number through a sequence
        ("x", "f8"),  # 0-based pixels of the science grid
        ("y", "f8"),
        ("ra", "f8"),  # degrees ICRS, NaN without a WCS
        ("dec", "f8"),
        ("kind", "U12"),  # new, hosted, vanished, faded, brightened; in a sequence the class of the light curve
        ("on_galaxy", "?"),
        ("flux_science", "f8"),  # counts of the science image
        ("flux_reference", "f8"),  # the same source in the reference, in counts of the science image
        ("flux", "f8"),  # their difference: what alpha estimates
        ("snr", "f8"),  # expected S_corr at the source's place, with true PSFs and variances; signed
        ("polarity", "i1"),  # sign of the change
    ]
)


def _kernels(
    psf_science: np.ndarray, psf_reference: np.ndarray, sigmas: tuple[float, float], fluxes: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return k_n and k_r as centred real images and F_S (Zackay et al. 2016, eqs. 28, 29, 42)."""
    side = 2 * max(*psf_science.shape, *psf_reference.shape)
    shape = (side, side)
    params = make_params(sigmas[0], sigmas[1], fluxes[0], fluxes[1])
    pn, pr = (transfer_function(stamp[None], shape, np.fft.rfft2) for stamp in (psf_science, psf_reference))
    images = (np.fft.fftshift(np.fft.irfft2(k[0], shape)) for k in score_kernels(pn, pr, params))
    kn, kr = images
    return kn, kr, float(score_norm(pn, pr, params, shape)[0])


def point_source_noise(exposures: tuple[Exposure, Exposure]) -> float:
    """Return the 1-sigma error in science counts of the flux of a point source on empty sky, 1 / sqrt(F_S)."""
    sigmas, fluxes = _scales(exposures)
    psf_science, psf_reference = (true_psf(exposure.psf).data for exposure in exposures)
    return float(1.0 / np.sqrt(_kernels(psf_science, psf_reference, sigmas, fluxes)[2]))


def _scales(exposures: tuple[Exposure, Exposure]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return (sigma_n, sigma_r) and (F_n, F_r) with F_n = 1, as `subtract` sets them."""
    science, reference = exposures
    return (science.sky_noise, reference.sky_noise), (1.0, reference.flux_scale / science.flux_scale)


def expected_snr(
    flux: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    science: Frame,
    reference: Frame,
    exposures: tuple[Exposure, Exposure],
) -> np.ndarray:
    """Return the S_corr that sources of `flux` (science counts) at x, y should reach on average.

    S = flux F_S (eq. 42) over the square root of the true variance maps under the squared kernels (eqs. 26, 27),
    source noise included. Positions are rounded to the pixel, and both frames must share one grid within a few
    pixels; astrometric noise is not counted.
    """
    sigmas, fluxes = _scales(exposures)
    kn, kr, norm = _kernels(science.psf.data, reference.psf.data, sigmas, fluxes)
    half = kn.shape[0] // 2
    out = np.zeros(len(flux))
    for i, (f, px, py) in enumerate(zip(flux, x, y, strict=True)):
        rows = np.arange(round(py) - half, round(py) - half + kn.shape[0])
        columns = np.arange(round(px) - half, round(px) - half + kn.shape[1])
        variance = 0.0
        for frame, kernel in ((science, kn), (reference, kr)):
            ny, nx = frame.variance.shape
            window = frame.variance[np.ix_(np.clip(rows, 0, ny - 1), np.clip(columns, 0, nx - 1))]
            variance += float((window * kernel**2).sum())
        out[i] = f * norm / np.sqrt(variance)
    return out


def sky_coordinates(wcs: Any, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return RA and Dec in degrees, NaN without a WCS."""
    if wcs is None or not len(x):
        return np.full(len(x), np.nan), np.full(len(x), np.nan)
    ra, dec = wcs.pixel_to_world_values(x, y)
    return np.asarray(ra, dtype=float), np.asarray(dec, dtype=float)


def truth_table(
    sources: np.ndarray, science: Frame, reference: Frame, exposures: tuple[Exposure, Exposure]
) -> np.ndarray:
    """Return the truth about one pair.

    Parameters
    ----------
    sources : structured array
        Fields id, x, y (scene pixels), kind, on_galaxy, science, reference (counts at flux scale 1).
    science, reference : Frame
    exposures : (Exposure, Exposure)

    Returns
    -------
    structured array of `TRUTH_DTYPE`
    """
    scale = exposures[0].flux_scale
    table = np.zeros(len(sources), TRUTH_DTYPE)
    for name in ("id", "kind", "on_galaxy"):
        table[name] = sources[name]
    dy, dx = exposures[0].offset
    table["x"], table["y"] = sources["x"] + dx, sources["y"] + dy
    table["ra"], table["dec"] = sky_coordinates(science.image.wcs, table["x"], table["y"])
    table["flux_science"], table["flux_reference"] = sources["science"] * scale, sources["reference"] * scale
    table["flux"] = table["flux_science"] - table["flux_reference"]
    table["snr"] = expected_snr(table["flux"], table["x"], table["y"], science, reference, exposures)
    table["polarity"] = np.sign(table["flux"])
    return table
