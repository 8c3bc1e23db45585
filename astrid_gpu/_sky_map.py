"""Pixel maps from world coordinates: which source pixel shows the sky of a target pixel."""

from __future__ import annotations

from typing import Any

import numpy as np

from astrid_gpu._pixel_map import Coordinates
from astrid_gpu.errors import WcsError
from astrid_gpu.io.files import silent

__all__ = ["SkyMap", "check_wcs", "describe_footprint"]

_ROUND_TRIP = 0.05  # px; an inverse projection that does not come back this close has not converged


class SkyMap:
    """Target pixels to source pixels through the sky, distortion (SIP, TPV, tables) included.

    Positions that do not come back to themselves, because the sky there is behind the projection or a distortion
    polynomial is far outside of its range, are NaN.
    """

    def __init__(self, target: Any, source: Any) -> None:
        self.target = target
        self.source = source

    def __call__(self, y: np.ndarray, x: np.ndarray) -> Coordinates:

        from astropy.wcs.utils import pixel_to_pixel

        shape = np.shape(y)
        if np.size(y) == 0:
            return np.zeros(shape), np.zeros(shape)
        columns, rows = np.ravel(x).astype(float), np.ravel(y).astype(float)
        # astropy warns where an inverse does not converge; the round trip finds those places itself.
        with silent():
            there_x, there_y = pixel_to_pixel(self.target, self.source, columns, rows)
            back_x, back_y = pixel_to_pixel(self.source, self.target, there_x, there_y)
        lost = ~(np.hypot(back_x - columns, back_y - rows) < _ROUND_TRIP)
        return tuple(np.where(lost, np.nan, plane).reshape(shape) for plane in (there_y, there_x))  # type: ignore[return-value]


def check_wcs(wcs: Any, name: str) -> Any:
    """Return a WCS that maps two pixel axes to the sky, or raise `WcsError`; an `Image` without one gives None."""
    if wcs is None:
        return None
    if not hasattr(wcs, "pixel_to_world"):
        msg = f"{name}: {type(wcs).__name__} is no WCS; give an astropy.wcs.WCS or another APE 14 object"
        raise WcsError(msg)
    celestial = getattr(wcs, "has_celestial", True)
    if wcs.pixel_n_dim != 2 or not celestial:
        msg = (
            f"{name}: its WCS has {wcs.pixel_n_dim} pixel axes and {'a' if celestial else 'no'} celestial pair; "
            "two axes on the sky are needed. Give wcs.celestial of a cube, or method='stars'"
        )
        raise WcsError(msg)
    return wcs


def describe_footprint(wcs: Any, shape: tuple[int, int]) -> str:
    """Centre and size of an image on the sky, in words."""
    ny, nx = shape
    sky = wcs.pixel_to_world(
        [(nx - 1) / 2, -0.5, nx - 0.5, nx - 0.5, -0.5], [(ny - 1) / 2, -0.5, -0.5, ny - 0.5, ny - 0.5]
    )
    sky = sky.icrs
    width, height = sky[1].separation(sky[2]).arcmin, sky[2].separation(sky[3]).arcmin
    return f"RA {sky[0].ra.deg:.4f}, Dec {sky[0].dec.deg:+.4f} deg, {width:.2f} x {height:.2f} arcmin"
