"""What the functions give back: frozen, self-describing, with a repr worth showing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from astrid_gpu.errors import InputError
from astrid_gpu.flags import INVALID, decode

__all__ = ["Background", "Candidates", "Cutouts", "Difference", "Step"]

_CITATION = (
    "@article{2016ApJ...830...27Z,\n"
    "  author  = {{Zackay}, Barak and {Ofek}, Eran O. and {Gal-Yam}, Avishay},\n"
    '  title   = "{Proper Image Subtraction: Optimal Transient Detection, Photometry, and Hypothesis Testing}",\n'
    "  journal = {ApJ}, year = 2016, volume = 830, pages = {27}, doi = {10.3847/0004-637X/830/1/27}\n"
    "}"
)


class Step(NamedTuple):
    """One thing that was done or estimated: the stage, a sentence for people, the numbers for machines."""

    stage: str
    text: str
    values: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.stage:<11} {self.text}"


class Background(NamedTuple):
    """A background: `level` and `rms` like the images, and the mesh (n, by, bx) of levels they come from."""

    level: Any
    rms: Any
    mesh: Any


@dataclass(frozen=True, repr=False)
class Difference:
    """The result of a subtraction. Arrays are (ny, nx), or (n, ny, nx) for a stack; NaN where masked.

    Parameters
    ----------
    difference : array
        D / F_D: the difference in flux units, those of the image whose flux scale was set to 1.
    score : array or None
        S, the matched-filter statistic (Zackay et al. 2016, eq. 12).
    score_corr : array or None
        S_corr (eq. 25): significance with unit noise. Threshold this one.
    flux, flux_error : array or None
        PSF flux alpha of a point source centred on each pixel (eq. 41) and its 1-sigma error (eq. 43).
    psf : array, shape (ky, kx) or (n, ky, kx)
        P_D, odd, centred, sum 1 (eq. 14).
    flux_scale : float or array (n,)
        F_D (eq. 15).
    mask : array of uint16, of uint8 from the engine alone
        Bits of `astrid_gpu.flags.PixelFlag`; 0 = good.
    backend : str
        The backend that computed it.
    steps : tuple of Step
        What was done, and every estimate that replaced a missing input.
    metrics : dict
        Numbers about the result.
    science, reference : array or None
        The registered, background-subtracted images that were differenced, for cutouts.
    tiles : astrid_gpu.tiles.TileValues or None
        PSFs, noise, flux ratios and flux scales of the tiles, where the frame was differenced by tiles; `psf` and
        `flux_scale` are then those of the middle one.
    flux_response : object or None
        Where the PSFs vary: what `flux` and `flux_error` were divided by, so that they are those of a source of the
        science image with the PSF of its own place. `flux_response.vanished(y, x)` are the factors from there to a
        source that only the reference has; `detect` applies them to negative candidates.
    """

    difference: Any
    score: Any = None
    score_corr: Any = None
    flux: Any = None
    flux_error: Any = None
    psf: Any = None
    flux_scale: Any = 1.0
    mask: Any = None
    wcs: Any = None
    zero_point: float | None = None
    backend: str = "numpy"
    method: str = "zogy"
    steps: tuple[Step, ...] = ()
    metrics: dict[str, Any] = field(default_factory=dict)
    science: Any = None
    reference: Any = None
    meta: dict[str, Any] = field(default_factory=dict)
    tiles: Any = None
    flux_response: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image arrays."""
        first = next(a for a in (self.difference, self.score_corr, self.score, self.flux, self.mask) if a is not None)
        return tuple(first.shape)

    def psf_at(self, y: float, x: float) -> Any:
        """Return P_D at a 0-based pixel: that of the tile it lies in, or the one of the frame (stack)."""
        if self.tiles is None:
            return self.psf
        return self.tiles.psf(self.tiles.tiles.holding(round(y), round(x)))

    def limiting_flux(self, n_sigma: float = 5.0) -> Any:
        """Return the flux a point source centred on each pixel needs for `n_sigma`, in the unit of `flux`."""
        if self.flux_error is None:
            msg = "no flux error was computed; ask for it with outputs=(..., 'flux')"
            raise InputError(msg)
        return n_sigma * self.flux_error

    def limiting_magnitude(self, n_sigma: float = 5.0) -> float:
        """Return the median `n_sigma` point-source limit as a magnitude, NaN without a zero point."""
        if self.zero_point is None or self.flux_error is None:
            return float("nan")
        limit = float(np.nanmedian(_to_numpy(self.limiting_flux(n_sigma))))
        return self.zero_point - 2.5 * float(np.log10(limit)) if limit > 0 else float("nan")

    def to_hdulist(self, extensions: tuple[str, ...] | None = None) -> Any:
        """Return an astropy HDUList (design of the file: docs/data-format.md)."""
        from astrid_gpu.io import difference_hdulist

        return difference_hdulist(self, extensions)

    def write(self, path: str | Path, extensions: tuple[str, ...] | None = None) -> Path:
        """Write FITS to `path`, by a temporary name, and return the path."""
        from astrid_gpu.io import write_difference

        return write_difference(self, path, extensions)

    def citation(self) -> str:
        """Return the BibTeX entry of the method."""
        return _CITATION

    def __repr__(self) -> str:
        size = "x".join(str(s) for s in reversed(self.shape[-2:]))
        stack = f"{self.shape[0]} images of " if len(self.shape) == 3 else ""
        lines = [f"<Difference {stack}{size} px, {self.method} on {self.backend}"]
        if self.mask is not None:
            bad = float(np.mean((_to_numpy(self.mask) & INVALID) != 0))
            lines.append(f"  masked {100 * bad:.2f} % of the pixels")
        told = ("score_corr_std", "flux_ratio", "limiting_magnitude", "n_candidates")
        lines += [f"  {key} {self.metrics[key]:.4g}" for key in told if key in self.metrics]
        return "\n".join(lines) + ">"


def _to_numpy(array: Any) -> np.ndarray:
    """Return `array` on the host, wherever it lives."""
    return array.get() if hasattr(array, "get") else np.asarray(array)


@dataclass(frozen=True, repr=False)
class Candidates:
    """Candidates as one structured array, with what is needed to place them on the sky.

    `data` has the columns of design section 4: id, x, y, ra, dec, polarity, score, flux, flux_error, snr, mag,
    mag_error, fwhm, elongation, sharpness, chi2, flags, n_bad, edge_distance. x and y are 0-based pixels of the
    science grid.
    """

    data: np.ndarray
    threshold: float = 5.0
    extractor: str = "peaks"
    meta: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: Any) -> Any:
        """Return a column by name, or a subset of rows as `Candidates`."""
        if isinstance(key, str):
            return self.data[key]
        rows = self.data[key]
        return Candidates(np.atleast_1d(rows), self.threshold, self.extractor, self.meta)

    def to_table(self) -> Any:
        """Return an astropy QTable with units, descriptions and provenance."""
        from astrid_gpu.io import candidates_table

        return candidates_table(self)

    def write(self, path: str | Path) -> Path:
        """Write CSV or ECSV, by the ending of `path`, through a temporary name."""
        from astrid_gpu.io import write_candidates

        return write_candidates(self, path)

    def __repr__(self) -> str:
        n_pos = int(np.sum(self.data["polarity"] > 0))
        head = (
            f"<Candidates: {len(self)} beyond {self.threshold:g} sigma ({n_pos} positive, {len(self) - n_pos} negative)"
        )
        order = np.argsort(-np.abs(self.data["score"]))[:10]
        rows = [
            f"  {row['id']:>4} x {row['x']:8.2f} y {row['y']:8.2f} S_corr {row['score']:+8.1f} "
            f"flux {row['flux']:+.4g} +- {row['flux_error']:.2g} {' '.join(decode(row['flags']))}"
            for row in self.data[order]
        ]
        more = [f"  ... and {len(self) - 10} more"] if len(self) > 10 else []
        return "\n".join([head, *rows, *more]) + ">"


@dataclass(frozen=True, repr=False)
class Cutouts:
    """Triplets: `images` (n, 3, size, size) = science, reference, difference, in science flux units, unnormalised.

    `score_corr` (n, size, size) and `mask` (n, size, size) uint8 go with them; `ids` name the candidates.
    Pixels beyond the frame are NaN with the NO_DATA bit set.
    """

    images: np.ndarray
    score_corr: np.ndarray
    mask: np.ndarray
    ids: np.ndarray
    meta: dict[str, Any] = field(default_factory=dict)

    channels = ("science", "reference", "difference")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> int:
        """Side in pixels."""
        return int(self.images.shape[-1])

    def __repr__(self) -> str:
        return f"<Cutouts: {len(self)} triplets of {self.size}x{self.size} px ({', '.join(self.channels)})>"
