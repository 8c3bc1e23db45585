"""Noise spectra of the tiles of a pair: of each its own, where they differ by more than chance."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from astrid_gpu._noise_spectrum import (
    NoiseSpectrum,
    combined,
    core_of,
    depths_of,
    measure_blocks,
    noise_covariances,
    spectrum_of,
)
from astrid_gpu._noise_variation import Sensitivity, differs, sensitivity
from astrid_gpu._prepare import CORRELATED, Pair
from astrid_gpu._window_residual import middle_of, residual_in
from astrid_gpu.kernels._memory import forget
from astrid_gpu.kernels._pool import share
from astrid_gpu.ops.zogy import make_params
from astrid_gpu.ops.zogy_kernels import zogy_kernels
from astrid_gpu.results import Step
from astrid_gpu.tiles import Tiles

__all__ = ["TileNoise", "tile_noise"]

ENOUGH = 0.1
"""Error of the variance of S, for the blank sky of a tile to be enough for a spectrum of its own."""

_LEAST = 1000  # pixels
_SIDE = 256
_LOOKED_AT, _ONE_IN = 24, 36  # tiles, before all are measured: so many, and of a great many one in so many
_TRIALS = 36  # tiles on which spectra have to prove themselves
_BETTER = 0.95  # scatter of what the difference does about what they say, over that with one for all
_MARGIN = 24


class TileNoise(NamedTuple):
    """The noise of n tiles: autocorrelations (n, 25, 25) and variances over those of the maps (n,), of both images."""

    stamps: tuple[np.ndarray, np.ndarray]
    scales: tuple[np.ndarray, np.ndarray]


class _Measured(NamedTuple):
    """Covariances of the noise of both images in some part of the frame, of the sky taken off, and blank pixels."""

    own: list[np.ndarray]
    sky: list[np.ndarray]
    n: float


def tile_noise(pair: Pair, tiles: Tiles, psfs: tuple[np.ndarray, np.ndarray]) -> tuple[TileNoise | None, list[Step]]:
    """Measure the noise of every tile, and return it if it differs from tile to tile; and what is to be told.

    Parameters
    ----------
    pair : Pair
    tiles : Tiles
        Their interiors are measured.
    psfs : pair of arrays (n or 1, ky, kx)
        Of the tiles.

    Notes
    -----
    A tile's covariances are drawn to those of its 3 x 3 neighbourhood as far as they differ from them by no more than
    their errors allow (James & Stein 1961); a tile without enough blank sky has those of its neighbourhood, or of the
    frame. All this is kept only if the smoothed difference then varies less from tile to tile over what the spectra
    say. Cost: 0.15 s a megapixel on one core, for the middles of 24 tiles, or of one in 36 of very many. Where those
    differ all are measured, and tried on the difference, which costs some 2 s a megapixel, 36 tiles at most.
    """
    if not pair.noise.local or len(tiles) < 2:
        return None, []
    looked_at = max(_LOOKED_AT, len(tiles) // _ONE_IN)
    middles = {k: middle_of(tiles.interior(k), _SIDE) for k in _spread(len(tiles), looked_at)}
    first = _measured(pair, middles, psfs)
    varies, known, _ = _compared(pair, first)
    if not varies:
        return None, [_told(sum(m is not None for m in first.values()))]
    whole = {k: tiles.interior(k) for k in range(len(tiles))}
    found = first if whole == middles else _measured(pair, whole, psfs)
    varies, known, enough = _compared(pair, found)
    if not varies or known is None:
        return None, [_told(sum(m is not None for m in found.values()))]
    noise, numbers = _spectra(enough, _mean([m for m in found.values() if m is not None]), known, tiles, psfs)
    return _proven(pair, tiles, noise, varies, numbers)


def _spread(n: int, most: int) -> list[int]:
    """Return some of the numbers from 0 to n - 1, spread evenly."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(int)).tolist()


def _compared(pair: Pair, found: dict[int, _Measured | None]) -> tuple[str, Sensitivity | None, list[_Measured | None]]:
    """Return what varies from tile to tile, what matters, and the tiles with blank sky enough to tell."""
    present = [m for m in found.values() if m is not None]
    if len(present) < 2:
        return "", None, []
    known = _sensitivity(pair, _mean(present))
    enough = [m if m is not None and known.score_error(m.n) < ENOUGH else None for m in found.values()]
    measured = [m for m in enough if m is not None]
    return differs([m.own for m in measured], [m.n for m in measured], known)[0], known, enough


def _told(n: int) -> Step:
    text = f"one spectrum for all tiles: nothing varies by more than chance, and enough to matter, among {n} looked at"
    return Step("noise", text, {"n_own": 0, "n_looked_at": n})


def _measured(
    pair: Pair, windows: dict[int, tuple[slice, slice]], psfs: tuple[np.ndarray, np.ndarray]
) -> dict[int, _Measured | None]:
    """Measure the noise of some tiles, in a window of each."""
    numbers = list(windows)
    found: dict[int, _Measured | None] = dict.fromkeys(numbers)

    def task(i: int) -> None:
        found[numbers[i]] = _measure(pair, windows[numbers[i]], _of(psfs, numbers[i]))

    share(task, len(numbers))
    return found


def _measure(pair: Pair, window: tuple[slice, slice], stamps: list[np.ndarray]) -> _Measured | None:
    """Measure the noise in a window; None where there is too little blank sky, or more sky in it than noise."""
    images = [pair.science[window], np.asarray(pair.reference[window])]
    variances = [pair.variance_science[window], pair.variance_reference[window]]
    bad = (pair.flags[window] != 0) | ~np.isfinite(images[0]) | ~np.isfinite(images[1])
    blocks = [] if bad.all() else measure_blocks(images, variances, stamps, bad, least=_LEAST)
    if not blocks:
        return None
    whole = combined(blocks, [1.0] * len(blocks))
    own, sky = noise_covariances(whole, depths_of(variances, [1.0, 1 / pair.flux_ratio], bad), stamps)
    spectra = [spectrum_of(c, s, p, whole.n) for c, s, p in zip(own, sky, stamps, strict=True)]
    return _Measured(own, sky, whole.n) if all(s.reliable for s in spectra) else None


def _of(psfs: tuple[np.ndarray, np.ndarray], k: int) -> list[np.ndarray]:
    """Return both PSFs of a tile."""
    return [psf[k if len(psf) > 1 else 0] for psf in psfs]


def _mean(parts: list[_Measured]) -> _Measured:
    """Return the mean of parts, each counted by its blank pixels."""
    n = [part.n for part in parts]
    own, sky = (
        [np.average([getattr(p, name)[i] for p in parts], axis=0, weights=n) for i in (0, 1)] for name in ("own", "sky")
    )
    return _Measured(own, sky, float(sum(n)))


def _sensitivity(pair: Pair, frame: _Measured) -> Sensitivity:
    """Return what matters, with the kernels that the pair would be differenced with."""
    sigmas = pair.sigma_science, pair.sigma_reference
    stamps = [None if a is None else a[None] for a in (pair.noise_spectrum_science, pair.noise_spectrum_reference)]
    params = make_params(sigmas[0], sigmas[1], 1.0, 1 / pair.flux_ratio)
    cores = [core_of(psf.data)[None] for psf in (pair.psf_science, pair.psf_reference)]
    kernels = zogy_kernels(cores[0], cores[1], params, noise=(stamps[0], stamps[1]))
    return sensitivity(kernels, list(sigmas), frame.own)


def _spectra(
    enough: list[_Measured | None],
    frame: _Measured,
    known: Sensitivity,
    tiles: Tiles,
    psfs: tuple[np.ndarray, np.ndarray],
) -> tuple[TileNoise, dict[str, int]]:
    """Return the noise of every tile, and how many have it of their own blank sky, and of their neighbourhood's."""
    spectra: list[list[NoiseSpectrum]] = []
    near = 0
    for k, own in enumerate(enough):
        around = [m for m in (enough[j] for j in _neighbours(k, tiles.grid)) if m is not None]
        hood = _mean(around) if around else frame
        near += own is None and bool(around)
        spectra.append([_drawn(i, own, hood, known, psf) for i, psf in enumerate(_of(psfs, k))])
    stamps, scales = (
        tuple(np.array([getattr(pair[i], name) for pair in spectra]) for i in (0, 1)) for name in ("stamp", "variance")
    )
    n_own = sum(m is not None for m in enough)
    return TileNoise(stamps, scales), {"n_own": n_own, "n_near": near}  # type: ignore[arg-type]


def _neighbours(k: int, grid: tuple[int, int]) -> list[int]:
    """Return the numbers of a tile and of those that touch it."""
    j, i = divmod(k, grid[1])
    rows, columns = (range(max(0, p - 1), min(n, p + 2)) for p, n in zip((j, i), grid, strict=True))
    return [row * grid[1] + column for row in rows for column in columns]


def _drawn(i: int, own: _Measured | None, hood: _Measured, known: Sensitivity, psf: np.ndarray) -> NoiseSpectrum:
    """Return the spectrum of image i in a tile: its own, as far as it is to be believed before its neighbourhood's."""
    if own is None:
        return spectrum_of(hood.own[i], hood.sky[i], psf, hood.n)
    w = known.trust(i, own.own[i], hood.own[i], own.n, hood.n)
    c, sky = (w * a[i] + (1 - w) * b[i] for a, b in ((own.own, hood.own), (own.sky, hood.sky)))
    return spectrum_of(c, sky, psf, 1 / (w**2 / own.n + (1 - w**2) / hood.n))


def _proven(
    pair: Pair, tiles: Tiles, noise: TileNoise, varies: str, numbers: dict[str, int]
) -> tuple[TileNoise | None, list[Step]]:
    """Return the noise of the tiles if the smoothed difference bears it out, raised if there is more of it."""
    trials = _spread(len(tiles), _TRIALS)
    one = TileNoise(
        tuple(_repeated(a, len(tiles)) for a in (pair.noise_spectrum_science, pair.noise_spectrum_reference)),  # type: ignore[arg-type]
        (np.ones(len(tiles)), np.ones(len(tiles))),
    )
    widths = [np.array([w for w in (_width(pair, tiles, each, k) for k in trials) if w > 0]) for each in (one, noise)]
    scatter = [float(np.std(np.log(w))) if len(w) > 1 else 0.0 for w in widths]
    values: dict[str, Any] = numbers | {"scatter_one": scatter[0], "scatter_own": scatter[1]}
    if not scatter[1] < _BETTER * scatter[0]:
        text = (
            f"one spectrum for all tiles: {varies}, but with spectra of their own blank sky of the smoothed difference "
            f"scatters by {100 * scatter[1]:.1f} % about what they say, with one by {100 * scatter[0]:.1f} %"
        )
        return None, [Step("noise", text, values | {"n_own": 0})]
    factor = float(np.median(widths[1]))
    factor = factor if factor >= CORRELATED else 1.0
    noise = TileNoise(noise.stamps, (noise.scales[0] * factor**2, noise.scales[1] * factor**2))
    n = len(tiles)
    text = (
        f"spectra tile by tile: {numbers['n_own']} of {n} of their own blank sky, {numbers['n_near']} of their "
        f"neighbours', {n - numbers['n_own'] - numbers['n_near']} the frame's; {varies}; blank sky of the smoothed "
        f"difference scatters by {100 * scatter[1]:.1f} % from tile to tile about what they say, with one spectrum "
        f"for all by {100 * scatter[0]:.1f} %"
    )
    text += f"; variances raised by {factor:.3f}²" if factor > 1 else ""
    return noise, [Step("noise", text, values | {"factor": factor})]


def _repeated(stamp: np.ndarray | None, n: int) -> Any:
    return [None] * n if stamp is None else np.broadcast_to(stamp, (n, *stamp.shape))


def _width(pair: Pair, tiles: Tiles, noise: TileNoise, k: int) -> float:
    """Return the width of the smoothed difference in a tile over what its noise is said to be; 0 for none."""
    rows, columns = (
        slice(max(0, s.start - _MARGIN), min(n, s.stop + _MARGIN))
        for s, n in zip(tiles.interior(k), tiles.shape, strict=True)
    )
    stamps, scales = ((both[0][k], both[1][k]) for both in noise)
    psfs = pair.psf_science, pair.psf_reference
    found = residual_in(pair, (rows, columns), psfs, pair.flux_ratio, stamps, scales)
    if pair.short_of_memory:
        forget()
    return 0.0 if found is None else found.width
