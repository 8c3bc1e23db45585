"""Differencing a pair by tiles: whether, how large, with which numbers each, and one stack through the engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from astrid_gpu._mosaic import BLOCK
from astrid_gpu._noise_tiles import TileNoise, tile_noise
from astrid_gpu._prepare import Pair
from astrid_gpu.backends import Backend, get_backend
from astrid_gpu.backends.threads import cpu_threads
from astrid_gpu.config import SubtractConfig
from astrid_gpu.engine.zogy import zogy
from astrid_gpu.flags import INVALID
from astrid_gpu.image import Image
from astrid_gpu.kernels._memory import forget
from astrid_gpu.kernels._pool import share
from astrid_gpu.ops.zogy import make_params
from astrid_gpu.ops.zogy_kernels import zogy_kernels
from astrid_gpu.results import Difference, Step
from astrid_gpu.tiles import Tiles, TileValues

__all__ = [
    "Plan",
    "allowance",
    "by_blocks",
    "choose_overlap",
    "noise_ratio",
    "plan_tiles",
    "subtract_tiles",
    "tile_psfs",
    "tile_values",
]

SIDE = 512
"""Interior of a tile where the reason is that something varies."""

SIDES = (512, 384, 256, 192, 128)
"""Sides to choose from: the largest over which PSF and flux ratio are constant enough."""

WITHIN = 0.04
"""How much the PSF and the flux ratio may change from the middle of a tile to its edge, as a fraction (of the norm of
the PSF). tests/statistical/test_tiles.py: at 0.07 no bright star shows, at 0.11 a dozen in a megapixel do."""

COLOUR_SIDE = 256
"""Where it is the noise's correlation: what 60 000 pixels tell of it is good to 2 % of the width of S_corr."""

LARGE_SIDE = 1024
"""And where it is memory alone."""

FRAME_BYTES = 110
"""What preparing and differencing a pair takes at the most, whole, for each pixel (80 measured)."""

PROGRAM_BYTES = 500 << 20
"""And the program and its libraries."""

NOISE_VARIES = 0.05
"""Largest relative departure of a tile's noise from the frame's that is left to the variance map."""

PSF_VARIES = 0.02
"""The same of the PSF: sqrt(sum (P - P_0)² / sum P_0²)."""

_OVERLAPS = (16, 24, 32, 48, 64, 96)
_SCORE_NOISE, _SCORE_STAR, _DIFFERENCE_NOISE = 2e-4, 3e-4, 1e-3  # what a cut may change, in sigma of S, S and D
_FRAMES_PER_TILE = 24
_LARGEST_BATCH = 16
_MAPS = ("difference", "score", "score_corr", "flux", "flux_error")


class Plan(NamedTuple):
    """Tiles, what is known of each, and why; `tiles` None for the whole frame at once."""

    tiles: Tiles | None
    values: TileValues | None
    steps: list[Step]


def plan_tiles(pair: Pair, settings: SubtractConfig, backend: Backend) -> Plan:
    """Decide whether a pair is differenced by tiles, and with what numbers each.

    Parameters
    ----------
    pair : Pair
    settings : SubtractConfig
        Its `tiles`: "auto" cuts if the PSF, the noise, its correlation or the flux ratio measurably vary, or if memory
        is short.
    backend : Backend
        Whose free memory counts.
    """
    shape = pair.science.shape
    if settings.method != "zogy":
        return _whole(f"{settings.method} works pixel by pixel")
    if settings.tiles == "never":
        return _whole("as asked")
    if settings.tiles != "auto":
        return _cut(pair, int(settings.tiles), [])
    tiles = Tiles(shape, SIDE, 0)
    reasons = tile_values(pair, tiles).reasons(NOISE_VARIES, PSF_VARIES) if len(tiles) > 1 else []
    colours = pair.noise.varies if max(shape) > COLOUR_SIDE else ""
    if len(tiles) == 1 and not pair.short_of_memory and not colours:
        return _whole("it is no larger than a tile")
    told: list[Step] = []
    if reasons or colours:
        side = _side(pair, COLOUR_SIDE if colours else SIDE)
        noise = _own_noise(pair, side)
        if reasons or noise[0] is not None:
            return _cut(pair, side, [*reasons, *([colours] if colours else [])], noise)
        told = noise[1]  # why the noise is taken for one after all
    need, allowed = FRAME_BYTES * pair.science.size, allowance(settings, backend)
    if pair.short_of_memory or (need > allowed and max(shape) > LARGE_SIDE):
        text = f"the whole frame would take {need / 2**30:.1f} GiB, of {allowed / 2**30:.1f} that it may"
        return _cut(pair, LARGE_SIDE, [text], (None, told) if told else None)
    return _whole("nothing measurably varies over it", told)


def _side(pair: Pair, largest: int) -> int:
    """Return the largest side of tiles, up to `largest`, over which PSF and flux ratio are constant enough."""
    shape = pair.science.shape
    sides = (side for side in SIDES if side <= largest and tile_values(pair, Tiles(shape, side, 0)).within() <= WITHIN)
    return next(sides, SIDES[-1])


def allowance(settings: SubtractConfig, backend: Backend) -> int:
    """Return the bytes that a pair may take beside the program: as asked, or two thirds of what is free."""
    if settings.memory is None:
        return backend.free_memory() * 2 // 3
    return max(0, int(settings.memory * 2**30) - PROGRAM_BYTES)


def by_blocks(science: Image, reference: Image, settings: SubtractConfig) -> bool:
    """Return whether a pair is too large to be prepared whole."""
    need = FRAME_BYTES * max(science.data.size, reference.data.size)
    if settings.method != "zogy" or settings.grid != "science" or settings.tiles == "never":
        return False
    return max(science.shape) > BLOCK and need > allowance(settings, get_backend("numpy"))


def _whole(why: str, told: list[Step] | None = None) -> Plan:
    return Plan(None, None, [*(told or []), Step("tiles", f"the whole frame at once: {why}", {"n_tiles": 1})])


def _own_noise(pair: Pair, side: int) -> tuple[TileNoise | None, list[Step]]:
    """Return what noise tiles of a side have, None for that of the frame, and what is to be told."""
    interiors = Tiles(pair.science.shape, side, 0)
    return tile_noise(pair, interiors, tile_psfs(pair, interiors))


def _cut(
    pair: Pair, side: int, reasons: list[str], measured: tuple[TileNoise | None, list[Step]] | None = None
) -> Plan:
    noise, steps = measured or _own_noise(pair, side)
    tiles = Tiles(pair.science.shape, side, _widest_overlap(pair, noise))
    values = tile_values(pair, tiles)
    if noise is not None:  # their variances are measured anew, and so is what is left of that factor
        pair.metrics["noise_factor"] = steps[-1].values["factor"]
        values = replace(
            values,
            sigma_science=values.sigma_science * np.sqrt(noise.scales[0]),
            sigma_reference=values.sigma_reference * np.sqrt(noise.scales[1]),
            noise=noise.stamps,
            noise_scale=noise.scales,
        )
    (ny, nx), (ty, tx) = tiles.grid, tiles.tile_shape
    why = f"because {' and '.join(reasons)}" if reasons else f"of {side} px as asked"
    text = f"{ny} x {nx} tiles of {ty}x{tx} px with {tiles.overlap} px of overlap, {why}"
    numbers: dict[str, Any] = {"n_tiles": len(tiles), "side": tiles.side, "overlap": tiles.overlap}
    return Plan(tiles, values, [*steps, Step("tiles", text, numbers | values.spread())])


def _widest_overlap(pair: Pair, noise: TileNoise | None) -> int:
    """Return how far tiles must overlap, by the frame's spectra and by those farthest from white of the tiles'."""
    found = choose_overlap(pair, (pair.noise_spectrum_science, pair.noise_spectrum_reference))
    if noise is None:
        return found
    strongest = {int(np.argmax(abs(stamps).sum(axis=(1, 2)))) for stamps in noise.stamps}
    return max(found, *(choose_overlap(pair, (noise.stamps[0][k], noise.stamps[1][k])) for k in strongest))


def choose_overlap(pair: Pair, spectra: tuple[np.ndarray | None, np.ndarray | None]) -> int:
    """Return how far tiles must overlap: beyond that the kernels of S and D hold nothing that matters.

    `spectra` are the autocorrelations of the noise of both images, None for white.
    """
    stamps = [psf.data for psf in (pair.psf_science, pair.psf_reference)]
    sigma_n, sigma_r, f_r = pair.sigma_science, pair.sigma_reference, 1 / pair.flux_ratio
    scale = max(1 / sigma_n, f_r / sigma_r)
    params = make_params(1.0, 1.0, 1 / sigma_n / scale, f_r / sigma_r / scale)
    noise = [None if a is None else a[None] for a in spectra]
    kernels = zogy_kernels(stamps[0][None], stamps[1][None], params, noise=(noise[0], noise[1]))
    least = max(max(stamp.shape) for stamp in stamps) // 2 + 1
    brightest = _brightest(pair) / sigma_n / stamps[0].max()
    for halo in _OVERLAPS:
        if halo < least or 2 * halo + 2 > kernels.psf.shape[-1]:
            continue
        tails = kernels.tails(halo)
        quiet = tails.score_rms < _SCORE_NOISE and tails.difference_rms < _DIFFERENCE_NOISE
        if quiet and kernels.star_residuals(halo)[0] * brightest < _SCORE_STAR:
            return halo
    return max(least, _OVERLAPS[-1])


def _brightest(pair: Pair) -> float:
    """Return the largest usable pixel of the science image, found some rows at a time."""
    found = 0.0
    for start in range(0, pair.flags.shape[0], 256):
        rows = slice(start, start + 256)
        found = max(found, float(np.nanmax(np.where(pair.flags[rows] & INVALID, 0, pair.science[rows]))))
    return found


def tile_values(pair: Pair, tiles: Tiles) -> TileValues:
    """Return PSFs, noise, flux ratio and registration error of every tile."""
    n = len(tiles)
    stamps = tile_psfs(pair, tiles)
    noise = [
        sigma * noise_ratio(variance, pair.flags, tiles)
        for sigma, variance in (
            (pair.sigma_science, pair.variance_science),
            (pair.sigma_reference, pair.variance_reference),
        )
    ]
    return TileValues(
        tiles=tiles,
        psf_science=stamps[0],
        psf_reference=stamps[1],
        sigma_science=noise[0],
        sigma_reference=noise[1],
        flux_ratio=np.full(n, pair.flux_ratio),
        astrometric_error=_registration_error(pair, tiles),
        noise=(pair.noise_spectrum_science, pair.noise_spectrum_reference),
    )


def tile_psfs(pair: Pair, tiles: Tiles) -> tuple[np.ndarray, np.ndarray]:
    """Return the PSFs of every tile, of science and reference, (n or 1, ky, kx)."""
    psfs = pair.psf_science, pair.psf_reference
    n, r = (_stamps(model, psf.data, tiles) for model, psf in zip(pair.psf_models, psfs, strict=True))
    return n, r


def _registration_error(pair: Pair, tiles: Tiles) -> np.ndarray:
    """Return what remains of the registration of each tile, 1 sigma in y and x, (n, 2)."""
    if pair.registered is None:
        return np.broadcast_to(np.asarray(pair.astrometric_error, float), (len(tiles), 2)).copy()
    return pair.registered.error_at(tiles.centres)


def _stamps(model: Any, stamp: np.ndarray, tiles: Tiles) -> np.ndarray:
    """Return the PSF of each tile (n, ky, kx), or the one for all (1, ky, kx)."""
    if model is None:
        return stamp[None]
    return model.stamps(*tiles.centres.T)  # type: ignore[no-any-return]


def noise_ratio(variance: np.ndarray, flags: np.ndarray, tiles: Tiles) -> np.ndarray:
    """Return the noise of each tile's blank sky over that of the whole frame's, smoothed over neighbours, (n,).

    Of the variances of a tile's usable pixels the 30 % point stands for its blank sky: sources only ever add. The same
    of the frame divides it, so what the point itself is off by cancels.
    """
    level = np.full(len(tiles), np.nan)
    samples = []
    for k in range(len(tiles)):
        window = tiles.interior(k)
        step = max(1, int(np.sqrt(tiles.side**2 / 20_000)))
        part, lost = variance[window][::step, ::step], (flags[window][::step, ::step] & INVALID) != 0
        good = part[~lost & np.isfinite(part) & (part > 0)]
        if good.size < 20:
            continue
        level[k] = np.percentile(good, 30)
        samples.append(good)
    if not samples:
        return np.ones(len(tiles))
    whole = float(np.percentile(np.concatenate(samples), 30))
    return np.sqrt(tiles.smooth(level) / whole)


def subtract_tiles(
    pair: Pair, values: TileValues, settings: SubtractConfig, backend: Backend, outputs: tuple[str, ...]
) -> Difference:
    """Difference the tiles of a pair as one stack, in batches that fit the memory, and paste their interiors.

    Returns
    -------
    Difference
        Maps (1, ny, nx); `psf` and `flux_scale` of the tile in the middle; `tiles` with those of all.
    """
    tiles = values.tiles
    maps: dict[str, np.ndarray] = {}
    scales = np.empty(len(tiles))
    notes: dict[str, Step] = {}
    allowed = allowance(settings, backend) // (16 if pair.short_of_memory else 4)
    waiting = list(_batches(tiles, allowed))[::-1]
    while waiting:
        numbers = waiting.pop()
        try:
            results = _run_parts(pair, values, numbers, settings, backend, outputs)
        except MemoryError:
            if len(numbers) == 1:
                raise
            half = len(numbers) // 2
            waiting += [numbers[half:], numbers[:half]]
            continue
        for part, result in results:
            for name in (*_MAPS, "mask"):
                stack = getattr(result, name)
                if stack is None:
                    continue
                if name not in maps:
                    maps[name] = np.empty(tiles.shape, stack.dtype)
                tiles.paste(stack, maps[name], part)
            scales[part] = np.ravel(result.flux_scale)
            notes |= {step.text: step for step in result.steps}
        if pair.short_of_memory:
            forget()
    planes: dict[str, Any] = {name: plane[None] for name, plane in maps.items()}
    return Difference(
        **{"difference": None} | planes,
        psf=values.psf(tiles.middle),
        flux_scale=scales[tiles.middle],
        backend=backend.name,
        steps=tuple(notes.values()),
        tiles=values.with_flux_scale(scales),
    )


def _batches(tiles: Tiles, allowed: int) -> Iterator[list[int]]:
    """Yield the numbers of tiles to run together: what the memory allowed for them holds, 16 at most."""
    need = _FRAMES_PER_TILE * 4 * tiles.tile_shape[0] * tiles.tile_shape[1]
    size = int(np.clip(allowed // need, 1, _LARGEST_BATCH))
    for start in range(0, len(tiles), size):
        yield list(range(start, min(start + size, len(tiles))))


def _run_parts(
    pair: Pair, values: TileValues, numbers: list[int], settings: SubtractConfig, backend: Backend, outputs: Any
) -> list[tuple[list[int], Difference]]:
    """Run the engine on some tiles, on the CPU on as many parts of them as there are threads.

    Of a tile with a PSF of its own a good part of the work is its kernels, which one thread makes.
    """
    one = backend.is_gpu or pair.short_of_memory
    count = 1 if one else min(cpu_threads(), len(numbers))
    parts = [part.tolist() for part in np.array_split(numbers, count)]
    results: list[Any] = [None] * count

    def run(k: int) -> None:
        results[k] = parts[k], _run(pair, values, parts[k], settings, backend, outputs)

    share(run, count)
    return results


def _run(
    pair: Pair,
    values: TileValues,
    numbers: list[int],
    settings: SubtractConfig,
    backend: Backend,
    outputs: tuple[str, ...],
) -> Difference:
    """Run the engine on some tiles."""
    tiles, chosen = values.tiles, np.array(numbers)

    def psf(stamps: np.ndarray) -> np.ndarray:
        return stamps if len(stamps) == 1 else stamps[chosen]

    def variance(i: int, plane: Any) -> Any:
        stack = tiles.cut(plane, numbers)
        if values.noise_scale is not None:
            stack *= values.noise_scale[i][chosen].astype(stack.dtype)[:, None, None]
        return stack

    noise = values.noise_of(chosen)
    return zogy(
        tiles.cut(pair.science, numbers),
        tiles.cut(pair.reference, numbers),
        psf(values.psf_science),
        psf(values.psf_reference),
        values.sigma_science[chosen],
        values.sigma_reference[chosen],
        flux_science=1.0,
        flux_reference=1 / values.flux_ratio[chosen],
        variance_science=variance(0, pair.variance_science),
        variance_reference=variance(1, pair.variance_reference),
        noise_spectrum_science=noise[0],
        noise_spectrum_reference=noise[1],
        mask=tiles.cut(pair.flags, numbers),
        astrometric_error=values.astrometric_error[chosen],
        flux_ratio_error=pair.relative_error,
        outputs=outputs,
        backend=backend,
        dtype=settings.dtype,
    )
