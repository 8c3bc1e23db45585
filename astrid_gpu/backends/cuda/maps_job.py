"""The arguments of one call of `zogy_maps` as kernels take them: device arrays, tables, and what is shared by whom."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from astrid_gpu.backends.cuda.context import Context
from astrid_gpu.flags import INVALID

__all__ = ["FADE", "SHRINK", "Job", "Side", "job_of", "mix_table"]

# As in ops.fill, which this layer may not import; the parity tests hold them equal.
FADE, SHRINK = 0.005, 4.0


@dataclass(frozen=True)
class Side:
    """One of the two images of the pairs: (m, ...) with m = 1 where all pairs share it.

    Attributes
    ----------
    images : float32 (m, ny, nx)
    variance : float32 (m, ny, nx), or None: `levels` alone
    scales : float32 (m,)
        1 / noise of the image.
    levels : float32 (m,)
        Variance in units of that noise, where it is one number.
    lines, fulls : float32 (m, radius + 1), (m,)
        The window that fills holes, along one axis, and the sum of its square.
    stamps : float64 (m, ky, kx)
        The PSF, behind `white` if there is one.
    white, rest : float64 (m, ky, kx), or None where noise is white
        Kernels of 1 / sqrt(q_f) and sqrt(q / q_f), as `engine._noise_spectrum.Colour.kernels`.
    largest : uint32 (n,)
        Bits of the largest fill of each frame; zero until measured.
    """

    images: Any
    variance: Any
    scales: Any
    levels: Any
    lines: Any
    fulls: Any
    stamps: Any
    largest: Any
    white: Any = None
    rest: Any = None

    def part(self, start: int, stop: int) -> Side:
        """Return the images `start` to `stop`; what is shared stays whole."""
        names = ("images", "variance", "scales", "levels", "lines", "fulls", "stamps", "largest", "white", "rest")
        values = {name: getattr(self, name) for name in names}
        return Side(**{k: v[start:stop] if v is not None and v.shape[0] > 1 else v for k, v in values.items()})


@dataclass(frozen=True)
class Job:
    """All pairs of a call, or a batch of them.

    Attributes
    ----------
    n, first : int
        Pairs, and the number of the first one in the whole call.
    shape, padded : (ny, nx), (py, px)
    sides : (science, reference)
    flags : uint8 (1 or n, ny, nx), or None if no pixel is flagged
    params : float32 (n, 8); params64 : float64 (n, 5)
        As zogy_combine and score_kernels take them; the factor 1 / pixels is in the first.
    gains : float64 (n,); errors : float32 (n, 3)
    scales : float32 (n, 3)
        Filled by kernel_numbers.
    own : frozenset of str
        As in `maps_plan.Spec`.
    wanted : frozenset of str
        Maps to return, of difference, score, score_corr, flux, flux_error.
    split : bool
        Whether S_N and S_R are needed apart.
    limits : (float, float)
        `Problem.fill_limits`: fills that are followed, and their error as a fraction of them.
    """

    n: int
    first: int
    shape: tuple[int, int]
    padded: tuple[int, int]
    sides: tuple[Side, Side]
    flags: Any
    params: Any
    params64: Any
    gains: Any
    errors: Any
    scales: Any
    own: frozenset[str]
    wanted: frozenset[str]
    split: bool
    limits: tuple[float, float]

    def part(self, start: int, stop: int) -> Job:
        """Return pairs `start` to `stop` as views."""
        cut = {name: getattr(self, name)[start:stop] for name in ("params", "params64", "gains", "errors", "scales")}
        flags = self.flags[start:stop] if self.flags is not None and self.flags.shape[0] > 1 else self.flags
        sides = self.sides[0].part(start, stop), self.sides[1].part(start, stop)
        return replace(self, n=stop - start, first=self.first + start, sides=sides, flags=flags, **cut)


def job_of(ctx: Context, problem: Any, flags: Any, wanted: Collection[str]) -> Job:
    """Gather a problem of `engine.zogy` (float32) for the kernels. One byte leaves the device: is anything flagged."""
    xp = ctx.xp
    n, (py, px) = problem.n, problem.padded
    flagged = flags is not None and bool((flags & np.uint8(INVALID)).any())
    params64 = np.ascontiguousarray(problem.params, dtype=np.float64)
    names = {name for name in wanted if name != "flux"} | ({"flux", "flux_error"} if "flux" in wanted else set())
    many_flags = flagged and flags.shape[0] > 1
    sides = _side(ctx, problem, 0, n), _side(ctx, problem, 1, n)
    return Job(
        n=n,
        first=0,
        shape=problem.shape,
        padded=(py, px),
        sides=sides,
        flags=xp.ascontiguousarray(flags) if flagged else None,
        params=_table(xp, mix_table(params64, problem.gain, (py, px), problem.flux_scales), np.float32),
        params64=_table(xp, params64, np.float64),
        gains=_table(xp, problem.gain, np.float64),
        errors=_table(xp, problem.errors, np.float32),
        scales=xp.zeros((n, 3), np.float32),
        own=_own(problem, sides, many_flags),
        wanted=frozenset(names),
        split=bool(np.any(problem.errors > 0)) and "score_corr" in names,
        limits=problem.fill_limits,
    )


def mix_table(params: np.ndarray, gain: np.ndarray, padded: tuple[int, int], scale: Any = None) -> np.ndarray:
    """Return the rows (n, 8) that zogy_combine takes: params, the factors of S and of D, and one that is unused.

    `scale` is F_D (n,); that of white noise if not given.
    """
    s_n, s_r, f_n, f_r = params[:, :4].T
    flux_scale = f_n * f_r / np.sqrt(s_n**2 * f_r**2 + s_r**2 * f_n**2) if scale is None else scale
    table = np.zeros((len(params), 8))
    table[:, :5] = params
    table[:, 5] = 1 / (padded[0] * padded[1])
    table[:, 6] = table[:, 5] / (flux_scale * gain)
    return table


def _table(xp: Any, values: np.ndarray, dtype: Any) -> Any:
    """Return a small host array on the device, in C order whatever order it had."""
    return xp.asarray(np.ascontiguousarray(values, dtype=dtype))


def _side(ctx: Context, problem: Any, which: int, n: int) -> Side:
    """Return one side's arrays and tables."""
    xp = ctx.xp
    name = ("science", "reference")[which]
    images, variance = getattr(problem, name), getattr(problem, f"variance_{name}")
    stamps, (white, rest) = problem.colour[which].psf, problem.colour[which].kernels
    unit = problem.unit[which]
    unit = unit[:1] if np.all(unit == unit[0]) else unit
    profiles = np.asarray(problem.fill_profiles[which], dtype=np.float64)
    flat = np.ndim(variance) == 0
    levels = float(variance) / unit**2 if flat else np.zeros(len(unit))
    return Side(
        images=xp.ascontiguousarray(images, dtype=np.float32),
        variance=None if flat else xp.ascontiguousarray(variance, dtype=np.float32),
        scales=_table(xp, 1 / unit, np.float32),
        levels=_table(xp, levels, np.float32),
        lines=_table(xp, profiles, np.float32),
        fulls=_table(xp, (2 * profiles.sum(axis=1) - profiles[:, 0]) ** 2, np.float32),
        stamps=_table(xp, stamps, np.float64),
        largest=xp.zeros(n, np.uint32),
        white=None if white is None else _table(xp, white, np.float64),
        rest=None if rest is None else _table(xp, rest, np.float64),
    )


def _own(problem: Any, sides: tuple[Side, Side], many_flags: bool) -> frozenset[str]:
    """Return what differs from pair to pair: a shared reference does too where its holes, noise or window do."""
    reference = sides[1]
    differs = many_flags or max(a.shape[0] for a in (reference.images, reference.scales, reference.lines)) > 1
    own = {"R"} if differs else set()
    for name, kernel, side in (("VN", "Pn", sides[0]), ("VR", "Pr", sides[1])):
        maps = 1 if side.variance is None else side.variance.shape[0]
        if many_flags or maps > 1 or side.scales.shape[0] > 1:
            own.add(name)
        if side.stamps.shape[0] > 1:
            own.add(kernel)
        if side.white is not None and side.white.shape[0] > 1:
            own |= {f"W{kernel[1]}"} | ({"R"} if kernel == "Pr" else set())
    if len(problem.kernel_params) > 1:
        own.add("k")
    return frozenset(own)
