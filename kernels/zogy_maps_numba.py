"""ZOGY by tiles: cuts a problem into tiles, prepares each image once, and lets plain threads take two tiles at a time.

A tile is computed with a margin, the halo, that holds the kernels of D and S; they are cut there, so that every pixel
is the same convolution whichever tile it lies in, and no seam can show. The halo is chosen for each pair of PSFs so
that what is cut off shows in neither the noise nor beside the brightest pixel; kernels that reach further than the
largest halo are left to the transform of the whole frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, ClassVar

import numpy as np
from astrid_gpu.kernels._memory import empty
from astrid_gpu.kernels._pool import share
from astrid_gpu.kernels.lanes_numba import LANES
from astrid_gpu.kernels.tile_frames_numba import Frame, largest, prepare
from astrid_gpu.kernels.tiles_numba import error_pair, kernel_pair, reference_pair, science_pair
from astrid_gpu.kernels.tiling_numba import Tiling, choose_halo, tiling
from astrid_gpu.kernels.whole_frames_numba import WholeFrames

from astrid_gpu.backends.threads import cpu_threads
from astrid_gpu.flags import INVALID

__all__ = ["zogy_maps"]

MAPS = ("score", "score_corr", "flux", "flux_error")
NOTHING = np.zeros((0, 0), np.float32)


def _cut(kernel: np.ndarray, halo: int) -> np.ndarray:
    """Return the part of a periodic kernel (g, g) that a halo holds, middle first as it came."""
    near = np.arange(-halo, halo + 1)
    return kernel[np.ix_(near, near)]


class _WorkSpace:
    """Arrays that a job needs for itself, kept from job to job and from call to call."""

    _idle: ClassVar[list[tuple[np.ndarray, ...]]] = []
    _lock = Lock()

    @classmethod
    def share(cls, cut: Tiling, count: int, job: Callable[[int, Any], None]) -> None:
        """Run job(i, work) for i from 0 to `count` - 1 on all threads, each with work space for tiles of `cut`."""
        size = max(cut.tx * (cut.ty + LANES), cut.ty * (cut.tx + LANES))
        shapes = (6, 2, size), (5, 2, LANES * max(cut.ty, cut.tx)), (6, cut.tx), _spectra_shape(2, cut)

        def task(k: int) -> None:
            with cls._lock:
                at = next((n for n, held in enumerate(cls._idle) if tuple(a.shape for a in held) == shapes), None)
                work = None if at is None else cls._idle.pop(at)
            work = work or tuple(np.zeros(s, np.float32) for s in shapes)  # the last: see `reference_of`
            job(k, work)
            with cls._lock:
                cls._idle.insert(0, work)
                del cls._idle[cpu_threads() :]

        share(task, count)


@dataclass
class _Subtraction:
    """One call: the problem, what was asked for, and the reference as far as it is ready."""

    problem: Any
    flags: np.ndarray
    wanted: set[str]
    held: tuple[Any, ...] = ()
    reference: tuple[Any, ...] = ()
    whole: WholeFrames | None = None
    spectra: tuple[Any, ...] = (None, None)
    ready: dict[tuple[int, int], Frame] = field(default_factory=dict)
    invalid: dict[int, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._looking = Lock()

    def bad(self, i: int) -> np.ndarray:
        """Return the invalid pixels of image i as uint8 (ny, nx), of no size where all are good."""
        i %= len(self.flags)
        with self._looking:
            if i not in self.invalid:
                self.invalid = {
                    k: plane for k, plane in self.invalid.items() if k == i - 1
                }  # of this image and the next
                plane = self.flags[i] & np.uint8(INVALID)
                self.invalid[i] = plane if plane.any() else np.zeros((0, 0), np.uint8)
            return self.invalid[i]

    def frame(self, i: int, which: int, *, sparse: bool = False) -> Frame:
        """Return image i (which = 0) or its reference (1) ready for the tiles, or `sparse` for whole frames."""
        if (which, i) in self.ready:
            return self.ready.pop((which, i))
        p = self.problem
        stack = (p.science, p.reference)[which]
        variance = (p.variance_science, p.variance_reference)[which]
        if isinstance(variance, np.ndarray):
            variance = np.ascontiguousarray(variance[i % len(variance)])
        profiles = p.fill_profiles[which]
        profile = profiles[i % len(profiles)]
        image, unit = stack[i % len(stack)], p.unit[which][i]
        return prepare(image, variance, self.bad(i), 1 / unit, profile, p.fill_limits, sparse=sparse)

    def halo(self, i: int) -> int | None:
        """Return the halo that image i needs, None if none is wide enough."""
        p = self.problem
        stamps = p.psf_science[i % len(p.psf_science)], p.psf_reference[i % len(p.psf_reference)]
        pairs = zip((p.science, p.reference), p.unit, stamps, strict=True)
        bad, peaks = self.bad(i), []
        for (stack, unit, psf), known in zip(pairs, p.brightest, strict=True):
            image = stack[i % len(stack)]
            peaks.append((largest(image, bad) if bad.size else known[i % len(known)]) / unit[i] / psf.max())
        return choose_halo(p.kernels(i), max(peaks), "difference" in self.wanted, bool(self.wanted - {"difference"}))

    def _halo_beside_frames(self, i: int) -> int | None:
        """Return `halo`, and make image and reference i ready meanwhile: what is done before the tiles is not shared.

        Not where there are holes: they make it a copy, which whole frames do without.
        """
        found: list[int | None] = [None]

        def step(k: int) -> None:
            if k == 2:
                found[0] = self.halo(i)
            elif not self.bad(i).size and (k, i) not in self.ready and not (k and self.held):
                self.ready[k, i] = self.frame(i, k)

        share(step, 3)
        return found[0]

    def reference_of(self, i: int, cut: Tiling, weigh: np.ndarray) -> tuple[Frame, Callable[[int, Any], np.ndarray]]:
        """Return the reference of image i and what gives the spectra of its tiles, made anew only if they differ.

        Those of a reference that the next image does not share are made tile by tile in the last array of the work
        space: they are still in cache when they are used, and none is kept.
        """
        key = self._reference_key(i, cut, weigh)
        if self.held != key:
            self.held, self.reference = (), ()  # its memory first
            frame = self.frame(i, 1)
            variance = frame.variance_map(self.bad(i)) if weigh.any() else NOTHING
            planes = 1 + int(weigh.any())

            def make(k: int, work: Any, spectra: np.ndarray) -> np.ndarray:
                reference_pair(frame.image, variance, cut.pairs[k], weigh[k], spectra, work[:3], cut.plan)
                return spectra

            if i + 1 == self.problem.n or self._reference_key(i + 1, cut, weigh) != key:
                return frame, lambda k, work: make(k, work, work[3][:planes])
            spectra = np.empty((len(cut.pairs), *_spectra_shape(planes, cut)), np.float32)
            _WorkSpace.share(cut, len(cut.pairs), lambda k, work: make(k, work, spectra[k]))
            self.held, self.reference = key, (frame, spectra)
        frame, spectra = self.reference
        return frame, lambda k, _: spectra[k]

    def _reference_key(self, i: int, cut: Tiling, weigh: np.ndarray) -> tuple[Any, ...]:
        """Return what the spectra of the reference of image i depend on."""
        p = self.problem
        planes = i % len(self.flags), i % len(p.reference), i % _count(p.variance_reference)
        return cut, p.unit[1][i], *planes, i % len(p.fill_profiles[1]), weigh.tobytes()

    def kernels(self, i: int, cut: Tiling, errors: bool) -> tuple[np.ndarray, float, float]:
        """Return `_kernels`, made anew only if they differ from those of the image before."""
        p = self.problem
        key = cut, errors, id(p.kernels(i)), p.unit[0][i], p.unit[1][i], p.difference_scale(i)
        if self.spectra[0] != key:
            self.spectra = key, self._kernels(i, cut, errors)
        return self.spectra[1]

    def _kernels(self, i: int, cut: Tiling, errors: bool) -> tuple[np.ndarray, float, float]:
        """Return the spectra of image i's kernels, V(S) where all variances are flat, and the floor of V(S)."""
        p = self.problem
        kernels, scales = p.kernels(i), [1 / unit[i] for unit in p.unit]
        dn, dr, kn, kr = (_cut(k[i % len(k)], cut.halo) for k in (*kernels.difference, *kernels.score))
        to_flux = 1 / p.difference_scale(i)
        squares = tuple(_cut(k[i % len(k)], cut.halo) ** 2 for k in kernels.weights)
        flat = sum(
            float(k.sum()) * s**2 * v
            for k, s, v in zip(squares, scales, (p.variance_science, p.variance_reference), strict=True)
            if not isinstance(v, np.ndarray)
        )
        parts = [dn * scales[0] * to_flux, dr * scales[1] * to_flux, kn * scales[0], kr * scales[1]]
        parts += [k * s**2 for k, s in zip(squares, scales, strict=True)]
        parts += [abs(k) * s for k, s in zip((kn, kr), scales, strict=True)] if errors else []
        return self._kernel_spectra(parts, cut), flat, 1e-6 * float(squares[0].sum() + squares[1].sum())

    def _kernel_spectra(self, kernels: list[np.ndarray], cut: Tiling) -> np.ndarray:
        """Return the transforms of kernels cut at the halo (middle first), for tiles and unnormalised inverses."""
        near = np.arange(-cut.halo, cut.halo + 1)
        frames = np.zeros((len(kernels), cut.ty, cut.tx), np.float32)
        for frame, kernel in zip(frames, kernels, strict=True):
            frame[np.ix_(near, near)] = kernel / (cut.ty * cut.tx)
        spectra = np.empty(_spectra_shape(len(kernels), cut), np.float32)

        def job(k: int, work: Any) -> None:
            kernel_pair(frames[2 * k], frames[2 * k + 1], spectra[2 * k : 2 * k + 2], work[:3], cut.plan)

        _WorkSpace.share(cut, len(kernels) // 2, job)
        return spectra

    def subtract(self, i: int, out: dict[str, np.ndarray]) -> None:
        """Subtract image i into its maps, by tiles if a halo is wide enough."""
        p, score = self.problem, bool(self.wanted - {"difference"})
        halo = self._halo_beside_frames(i)
        if halo is None:
            self.whole = self.whole or WholeFrames(self)
            self.whole.subtract(i, out)
            return
        cut, bad = tiling(tuple(p.shape), halo, cpu_threads()), self.bad(i)
        frame = self.frame(i, 0)
        flat = not any(isinstance(v, np.ndarray) for v in (p.variance_science, p.variance_reference))
        weigh = np.full(len(cut.pairs), score)
        if flat:
            weigh &= cut.beyond_edge() | (cut.touching(*np.nonzero(bad)) if bad.size else False)
        reference, spectra_of = self.reference_of(i, cut, weigh)
        unsure = np.zeros(len(cut.pairs), bool)
        frames = frame, reference
        for f in frames:
            unsure |= cut.touching(*f.uncertain) & score
        none = (np.zeros(p.shape if unsure.any() else (0, 0), np.float32), NOTHING, NOTHING)
        errors = [f.error or none for f in frames]
        kernels, flat_v, floor = self.kernels(i, cut, bool(unsure.any()))
        variance = frame.variance_map(bad) if weigh.any() else NOTHING
        noise = p.errors[i]
        apart = score and bool(noise.any())
        scales = np.array([*p.score_scales(i), floor], np.float32)
        noise = np.array([noise[0] ** 2 / 4, noise[1] ** 2 / 4, noise[2] ** 2], np.float32)
        maps = tuple(out.get(name, NOTHING).reshape(-1) for name in MAPS)

        def job(k: int, work: Any) -> None:
            if k == len(cut.pairs):  # the next image, made ready beside the last tiles of this one
                self.ready = {(0, i + 1): self.frame(i + 1, 0)}
                return
            spectra, work = spectra_of(k, work), work[:3]
            if unsure[k]:
                error_pair(*errors, cut.pairs[k], kernels[6:8], work, cut.plan)
            modes = np.array(["difference" in out, score, apart, weigh[k], unsure[k]])
            science_pair(
                frame.image, variance, cut.pairs[k], spectra, kernels, modes, np.float32(flat_v), scales, noise,
                bad, out.get("difference", NOTHING), maps, work, cut.plan,
            )  # fmt: skip

        _WorkSpace.share(cut, len(cut.pairs) + int(i + 1 < p.n), job)


def _spectra_shape(count: int, cut: Tiling) -> tuple[int, ...]:
    """Return the shape of spectra of two tiles, block by block of rows."""
    return count, cut.ty // LANES, 2, LANES * cut.tx


def _count(variance: Any) -> int:
    return len(variance) if isinstance(variance, np.ndarray) else 1


def zogy_maps(problem: Any, flags: np.ndarray, wanted: set[str]) -> dict[str, np.ndarray] | None:
    """Return the maps asked for, (n, ny, nx) each, or None where tiles will not do.

    Parameters
    ----------
    problem : engine._problem.Problem
    flags : uint8 (1 or n, ny, nx), or None
        Bits of `PixelFlag`; where one of `INVALID` is set a pixel is filled for the transforms and NaN in the maps.
        None: all are valid.
    wanted : subset of {"difference", "score", "score_corr", "flux"}

    Notes
    -----
    Equal to the transform of whole frames but for single precision and what `choose_halo` cuts off. Cost per image:
    4 to 6 real transforms of tiles that overlap by two halos, 2 more per reference. Memory: 8 spectra of a tile, 8
    tiles for each thread, and the spectra of the reference, 6 to 12 bytes a pixel; more where there are holes.
    """
    if problem.dtype != np.float32:
        return None
    names = {"score", "score_corr"} & wanted | ({"flux", "flux_error"} if "flux" in wanted else set())
    shape = (problem.n, *problem.shape)
    out = {name: empty(shape) for name in names | ({"difference"} & wanted)}
    job = _Subtraction(problem, np.zeros((1, 0, 0), np.uint8) if flags is None else flags, wanted)
    for i in range(problem.n):
        job.subtract(i, {name: maps[i] for name, maps in out.items()})
    return out
