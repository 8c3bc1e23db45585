"""Cosmic rays in one exposure, by astroscrappy (van Dokkum's L.A.Cosmic), where the user asks for it."""

from __future__ import annotations

import numpy as np

from astrid_gpu._noise import dilated
from astrid_gpu.errors import BackendUnavailableError
from astrid_gpu.image import Image
from astrid_gpu.ops.moments import measure_moments, psf_window, shapes
from astrid_gpu.ops.psf_stamps import gaussian_stamp
from astrid_gpu.results import Step
from astrid_gpu.stars import find_stars

__all__ = ["cosmic_rays"]

_MARGIN = 8  # pixels round the frame, and round saturated cores
_SHARP = -0.4  # excess of the narrow axis: 0 for a star, -1 for a pixel or a track a pixel wide
_INSTALL = "pip install 'astrid-gpu[cosmic]'"


def cosmic_rays(image: Image, sigma: float, how: str, saturated: int = 4) -> tuple[np.ndarray, list[Step]]:
    """Return the pixels hit by cosmic rays.

    Parameters
    ----------
    image : Image
        Background-subtracted, with its variance; masked and NaN pixels are left out.
    sigma : float
        Background standard deviation.
    how : {"none", "auto", "astroscrappy"}
        "auto" takes astroscrappy where it is installed and says so where it is not.
    saturated : int
        Bit of the image's mask that marks saturated pixels, around which nothing is taken for a ray.

    Returns
    -------
    (mask, steps) : bool array (ny, nx), list of Step

    Raises
    ------
    BackendUnavailableError
        "astroscrappy" was asked for and is not installed.

    References
    ----------
    .. [1] van Dokkum 2001, PASP 113, 1420; McCully et al. 2018, doi:10.5281/zenodo.1482019.
    """
    none = np.zeros(image.shape, bool)
    if how == "none":
        return none, []
    try:
        from astroscrappy import detect_cosmics
    except ImportError as exc:
        if how == "astroscrappy":
            msg = (
                f"cosmic_rays='astroscrappy' needs the package astroscrappy, which does not import ({exc}); {_INSTALL}"
            )
            raise BackendUnavailableError(msg) from exc
        text = f"{image.name}: cosmic rays not looked for, astroscrappy is not installed ({_INSTALL})"
        return none, [Step("cosmic rays", text, {"n_pixels": 0, "by": None})]
    bad = image.bad
    # Reflected margins: within a few pixels of the frame's edge astroscrappy takes stars for rays.
    data, variance = np.where(bad, 0, image.data / sigma), np.where(bad, 1, image.known_variance / sigma**2)
    data, variance, out = (np.pad(a, _MARGIN, mode="reflect") for a in (data, variance, bad))
    hit, _ = detect_cosmics(
        data.astype(np.float32), inmask=out, invar=variance.astype(np.float32), gain=1.0, satlevel=np.inf,
        cleantype="medmask",
    )  # fmt: skip
    hit = np.asarray(hit, bool)[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN] & ~bad
    if image.mask is not None:  # what surrounds a hole in a star's core is steep, and no ray
        hit &= ~dilated((image.mask & saturated) != 0, _MARGIN)
    hit, n_stars = _without_stars(image, sigma, hit)
    n = int(np.count_nonzero(hit))
    text = f"{image.name}: {n} pixels hit by cosmic rays masked (astroscrappy; {n_stars} as wide as stars left)"
    return hit, [Step("cosmic rays", text, {"n_pixels": n, "n_left": n_stars, "by": "astroscrappy"})]


def _without_stars(image: Image, sigma: float, hit: np.ndarray) -> tuple[np.ndarray, int]:
    """Drop the groups of pixels that are no sharper than the stars of the image; return the rest, and how many went.

    L.A.Cosmic takes the cores of bright stars for rays where they are sharp, of a FWHM below some 2.5 pixels.
    """
    from scipy.ndimage import center_of_mass, label

    stars = find_stars(image, background_rms=sigma)
    good = (stars["snr"] > 10) & np.isfinite(stars["fwhm"])
    parts, n = label(hit, np.ones((3, 3)))
    if n == 0 or not good.any():
        return hit, 0
    fwhm = float(np.median(stars["fwhm"][good]))
    window = psf_window(gaussian_stamp(fwhm, 2 * int(np.ceil(3 * fwhm)) + 1), fwhm)
    data = np.where(image.bad, np.nan, image.data)
    numbers = np.arange(1, n + 1)
    y, x = np.array(center_of_mass(np.where(hit, np.maximum(data, 1e-3 * sigma), 0), parts, numbers)).T
    sums = measure_moments(data[None], np.zeros(n, np.int64), y, x, np.full(n, window.sigma), window.radius)
    form = shapes(sums, window)
    narrow = form.excess - np.hypot(form.e1, form.e2) * (1 + form.excess)
    ray = ~(narrow > _SHARP)  # what has no shape, as beside the rim of a hole, stays a ray
    return np.r_[False, ray][parts], int(np.count_nonzero(~ray))
