"""Why injected sources were missed: what the bare difference says of their places, and what was found there."""

from __future__ import annotations

from typing import Any

import numpy as np

import astrid_gpu as ag
from astrid_gpu.flags import PixelFlag
from astrid_gpu.simulate.compare import forced_flux

__all__ = ["CAUSES", "LEAST", "SAFE", "causes", "local_snr"]

LEAST = 8.0
"""S/N on blank sky from which a source that is missed must have a reason."""

SAFE = 6.5
"""S/N at the place from which on chance alone loses less than 7 % at 5 sigma."""

CAUSES = ("masked", "filled beside", "light beneath", "neighbour", "flux short", "chance")
"""The first that holds: the place touches an invalid pixel; its S/N is below `SAFE` because pixels within the reach of
the PSFs are filled; or because of the light that is there; a stronger candidate of the same sign within two FWHM; the
forced flux is short of the truth by 2.5 sigma; none of these."""

_SHORT = 2.5


def local_snr(bare: ag.Difference, sources: np.ndarray) -> np.ndarray:
    """Return flux over the error that the bare difference has at each place, 0 where it touches invalid pixels."""
    _, error = forced_flux(bare, sources["x"], sources["y"])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nan_to_num(sources["flux"] / error, nan=0.0, posinf=0.0)


def causes(bare: ag.Difference, diff: ag.Difference, rows: np.ndarray, sources: np.ndarray, fwhm: float) -> np.ndarray:
    """Say of each source why it would be missed.

    Parameters
    ----------
    bare, diff : Difference
        Of the frame without and with the sources; of one method that gives fluxes.
    rows : structured array
        Candidates of `diff`.
    sources : structured array of `benchmarks.real_places.SOURCE`
    fwhm : float

    Returns
    -------
    str array, of `CAUSES`
    """
    snr = local_snr(bare, sources)
    at = np.rint(sources["y"]).astype(int), np.rint(sources["x"]).astype(int)
    filled = (bare.mask[at] & int(PixelFlag.NEAR_BAD)) != 0
    flux, error = forced_flux(diff, sources["x"], sources["y"])
    with np.errstate(invalid="ignore"):
        short = flux - sources["flux"] < -_SHORT * error
    strong = rows[(rows["polarity"] > 0)]
    apart = np.hypot(strong["x"] - sources["x"][:, None], strong["y"] - sources["y"][:, None])
    beside = ((apart < 2 * fwhm) & (strong["score"] > np.maximum(5.0, snr)[:, None])).any(axis=1)
    tests: list[Any] = [snr == 0, (snr < SAFE) & filled, snr < SAFE, beside, short]
    return np.select(tests, list(CAUSES[:-1]), CAUSES[-1])
