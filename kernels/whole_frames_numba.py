"""ZOGY of whole frames in single precision, for kernels that reach too far for tiles: nothing is cut off.

The frame is padded by the larger PSF, as in the reference. PSFs are transformed along y in double precision, few
columns as they are, and along x with the block that they are needed for; the small squares of k_n and k_r come from the
small grid of `ops.zogy_kernels`, beyond which tails squared are nothing. See `frame_passes_numba` for the passes.
"""

from __future__ import annotations

from functools import lru_cache
from threading import Lock
from typing import Any, ClassVar

import numpy as np
from astrid_gpu.kernels._pool import share
from astrid_gpu.kernels.fft_numba import is_smooth, plan_fft
from astrid_gpu.kernels.frame_maps_numba import PITCH, WINDOW, write_maps
from astrid_gpu.kernels.frame_passes_numba import combine, combine_errors, forward_x, forward_y
from astrid_gpu.kernels.lanes_numba import LANES
from astrid_gpu.kernels.tile_frames_numba import Frame

from astrid_gpu.backends.threads import cpu_threads

__all__ = ["WholeFrames", "padded_side"]

f4 = np.float32
NAMES = ("difference", "score", "score_corr", "flux", "flux_error")
NOTHING, NO_COLUMNS, NO_PLACES = np.zeros((0, 0), f4), np.zeros((0, 0, 2, LANES), f4), np.zeros(0, np.int64)
NO_SOURCE = (NOTHING, NOTHING, NOTHING, f4(0), f4(0), NO_PLACES, NO_PLACES, np.zeros(0, f4))
KEPT = 1 << 27
"""Bytes of work space that are kept for the next call: fresh memory costs as much as the transforms."""

NEGLIGIBLE = 1e-7
"""Part of the sum of k² that may be left out."""


def padded_side(n: int) -> int:
    """Return the next length that `plan_fft` takes."""
    n = max(-(-n // LANES), 2) * LANES
    while not is_smooth(n):
        n += LANES
    return n


@lru_cache(maxsize=8)
def _plan(py: int, px: int) -> tuple[Any, ...]:
    return (py, px, *plan_fft(py), *plan_fft(px))


def _columns(kernel: np.ndarray, py: int) -> np.ndarray:
    """Transform a kernel (ky, kx) about its middle pixel along y: columns (blocks, kx, 2, 16) float32."""
    ky, kx = kernel.shape
    frame = np.zeros((py, kx))
    np.add.at(frame, (np.arange(ky) - ky // 2) % py, kernel)
    half = np.fft.rfft(frame, axis=0)
    blocks = len(half) // LANES + 1
    out = np.zeros((blocks * LANES, kx), np.complex128)
    out[: len(half)] = half
    parts = np.stack([out.real, out.imag], axis=1).reshape(blocks, LANES, 2, kx)
    return np.ascontiguousarray(parts.transpose(0, 3, 2, 1), dtype=f4)


def _centred(kernel: np.ndarray) -> np.ndarray:
    """Return a periodic kernel with its middle at (0, 0) as one with odd sides and its middle in the middle."""
    around = [np.arange(-(side // 2), side - side // 2) for side in kernel.shape]
    return np.pad(kernel[np.ix_(*around)], [(0, 1 - side % 2) for side in kernel.shape])


def _trimmed(kernel: np.ndarray) -> np.ndarray:
    """Return the middle of a kernel (odd sides) that holds all but `NEGLIGIBLE` of its sum of absolute values."""
    size = abs(kernel)
    for axis in (0, 1):
        line, middle = size.sum(axis=1 - axis), kernel.shape[axis] // 2
        outer = line[:middle][::-1] + line[middle + 1 :]
        beyond = outer[::-1].cumsum()[::-1]  # what lies at a distance of 1 + k or more
        half = int(np.count_nonzero(beyond > NEGLIGIBLE * line.sum()))
        kernel = np.moveaxis(np.moveaxis(kernel, axis, 0)[middle - half : middle + half + 1], 0, axis)
        size = abs(kernel)
    return kernel


def _source(frame: Frame, which: str, scale: float) -> tuple[Any, ...]:
    """Return what `forward_y` reads: the "image", "variance" or "error" of a frame, times `scale`."""
    part, (y, x, values, doubt) = getattr(frame, which), frame.holes
    if part is None:
        return NO_SOURCE
    if which == "variance":
        values, level = np.zeros(len(y), f4), 0.0 if isinstance(part, np.ndarray) else part * scale
        part = part if isinstance(part, np.ndarray) else NOTHING, NOTHING, NOTHING
    else:
        values, level = (values, 0.0) if which == "image" else (doubt, 0.0)
    return (*(np.ascontiguousarray(a, dtype=f4) for a in part), f4(level), f4(scale), y, x, values)


def _balance(frame: Frame, bad: np.ndarray, unit: float) -> float:
    """Return a power of two that makes the variances as large as the image, so that neither drowns the other."""
    good = bad[::4] == 0 if bad.size else np.True_
    image, variance = frame.image[0][::4], frame.variance
    image = np.max(abs(image), where=good, initial=0) / unit
    variance = np.max(variance[::4], where=good, initial=0) if isinstance(variance, np.ndarray) else variance
    variance = variance / unit**2
    return float(2.0 ** np.round(np.log2(image / variance))) if image > 0 and variance > 0 else 1.0


def _spectrum(stamp: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the transform of a stamp about its middle pixel on a periodic frame, which may be smaller."""
    frame = np.zeros(shape)
    np.add.at(
        frame, np.ix_(*((np.arange(n) - n // 2) % side for n, side in zip(stamp.shape, shape, strict=True))), stamp
    )
    return np.fft.rfft2(frame)


def _score_kernels(
    psf_n: np.ndarray, psf_r: np.ndarray, params: Any, shape: tuple[int, int], act: tuple[Any, Any]
) -> list[np.ndarray]:
    """Return k_n and k_r (eqs. 29, 28) on a periodic frame, middle at (0, 0); as `astrid_gpu.ops.zogy_kernels`.

    `act` are stamps to convolve them with, or None.
    """
    n, r = (_spectrum(psf, shape) for psf in (psf_n, psf_r))
    s_n, s_r, f_n, f_r, floor = params
    n2, r2 = abs(n) ** 2, abs(r) ** 2
    den = s_n**2 * f_r**2 * r2 + s_r**2 * f_n**2 * n2
    inverse = np.where(den > floor, 1 / np.maximum(den, floor), 0)
    kernels = f_n * f_r**2 * n.conj() * r2 * inverse, f_r * f_n**2 * r.conj() * n2 * inverse
    pairs = zip(kernels, act, strict=True)
    return [np.fft.irfft2(k if stamp is None else k * _spectrum(stamp, shape), s=shape) for k, stamp in pairs]


class _Memory:
    """Work space for the planes of calls, and what the last ones left."""

    _spare: ClassVar[list[np.ndarray]] = []
    idle: ClassVar[list[tuple[np.ndarray, np.ndarray]]] = []
    _lock = Lock()

    @classmethod
    def work(cls, py: int, px: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the work space of one thread: `bufs`, the last of them zeros, and a window."""
        shapes = (7, 2, LANES * max(py, px)), (6, (py + 1) * PITCH)
        try:
            work = cls.idle.pop()
        except IndexError:
            work = NOTHING, NOTHING
        return work if tuple(a.shape for a in work) == shapes else (np.zeros(shapes[0], f4), np.empty(shapes[1], f4))

    @classmethod
    def take(cls, shape: tuple[int, ...]) -> np.ndarray:
        """Return float32 of a shape, not cleared."""
        size = int(np.prod(shape))
        with cls._lock:
            flat = cls._spare.pop() if cls._spare else np.empty(0, f4)
        if not size <= flat.size <= 2 * size:
            del flat  # before the new one comes
            flat = np.empty(size, f4)
        return flat[:size].reshape(shape)

    @classmethod
    def leave(cls, planes: np.ndarray) -> None:
        """Keep what `take` gave, and of what was left before as much as is not too large with it."""
        flat = planes.base if planes.base is not None else planes
        with cls._lock:  # or another thread might take meanwhile what is then put back
            spare, room = [flat, *cls._spare[::-1]], KEPT
            kept = [a for a in spare if (room := room - a.nbytes) >= 0]
            cls._spare[:] = kept[::-1]


class WholeFrames:
    """Subtracts images of one call, one after the other; what they share is made once.

    Parameters
    ----------
    job : zogy_maps_numba._Subtraction
        The problem, what is wanted of it, and its frames.

    Notes
    -----
    Cost per pair: 8 forward and 4 inverse half transforms along x, and 4 and 4 along y; 2 and 4 fewer of the forward
    ones for a shared reference. Memory: 4 bytes per padded pixel for each of N, V_N, R, V_R, into whose places D, S_N,
    S_R and V(S) go; 8 more where the reference is kept, 4 more where fills may be wrong.
    """

    def __init__(self, job: Any) -> None:
        self.job, self.problem = job, job.problem
        p, wanted = job.problem, job.wanted
        self.difference, self.score = "difference" in wanted, bool(wanted - {"difference"})
        self.weigh = bool(wanted & {"score_corr", "flux"})
        self.keep = p.n > 1 and len(p.reference) == len(job.flags) == 1 and len(set(p.unit[1])) == 1
        self.keep &= _count(p.variance_reference) == len(p.fill_profiles[1]) == 1
        reach = 2 * max(profiles.shape[1] for profiles in p.fill_profiles) - 1
        py, px = (padded_side(max(side, n + reach)) for side, n in zip(p.padded, p.shape, strict=True))
        self.plan, self.blocks = _plan(py, px), py // 2 // LANES + 1
        self.norm = 1 / (2 * py * px)  # the half spectra are doubled
        self.apart = "score_corr" in wanted and bool(p.errors.any())
        self.planes: np.ndarray | None = None
        self.reference: tuple[Frame, float] | None = None
        self.known: dict[str, tuple[Any, Any]] = {}

    def subtract(self, i: int, out: dict[str, np.ndarray]) -> None:
        """Subtract image i and write its maps."""
        p, job = self.problem, self.job
        apart = "score_corr" in out and bool(p.errors[i].any())
        slots, count = self._slots()
        if self.planes is None:  # with one for the errors of fills, not touched without
            self.planes = _Memory.take((count + 1, self.blocks, self.plan[1], 2, LANES))
        frame, (reference, balance) = job.frame(i, 0, sparse=True), self.reference or self._prepare_reference(i)
        filled = self.weigh and any(f.error is not None for f in (frame, reference))
        if filled:
            self._errors(i, frame, reference, count)
        self._forward(i, frame, reference, balance)
        self._combine(i, slots, apart)
        self._write(i, slots, apart, filled, count, balance, out)
        if not self.keep or i == p.n - 1:
            _Memory.leave(self.planes)
            self.planes = None

    def _slots(self) -> tuple[np.ndarray, int]:
        """Return which planes hold N, R, V_N, V_R and then D, S_N, S_R, V(S), and how many there are."""
        count = 4 if self.weigh else 2
        if not self.keep:
            return np.array([0, 1, 2, 3, 0, 1, 3, 2]), count
        score = count if self.difference else 0
        count += int(self.difference)
        return np.array([0, 1, 2, 3, 0, score, count, 2]), count + int(self.apart)

    def _prepare_reference(self, i: int) -> tuple[Frame, float]:
        frame = self.job.frame(i, 1, sparse=True)
        return frame, _balance(frame, self.job.bad(i), self.problem.unit[1][i]) if self.weigh else 1.0

    def _run(self, task: Any, parts: int) -> None:
        """Share out task(k, bufs, window) for k from 0 to `parts` - 1."""

        def one(k: int) -> None:
            work = _Memory.work(*self.plan[:2])
            task(k, *work)
            _Memory.idle.append(work)

        share(one, parts)
        del _Memory.idle[cpu_threads() :]

    def _forward_y(self, a: Any, b: Any, one: int, two: int) -> None:
        blocks = self.plan[1] // LANES
        planes = self.planes[one], self.planes[two] if two >= 0 else self.planes[one, :0]

        def task(k: int, bufs: Any, window: Any) -> None:
            last = min((k + 1) * WINDOW, blocks)
            forward_y(a, b, tuple(self.problem.shape), *planes, k * WINDOW, last, window, bufs, self.plan)

        self._run(task, -(-blocks // WINDOW))

    def _forward(self, i: int, frame: Frame, reference: Frame, balance: float) -> None:
        """Transform the images and their variances along y, and a reference that is kept along x as well."""
        units = [float(unit[i]) for unit in self.problem.unit]
        images = [_source(f, "image", 1 / u) for f, u in zip((frame, reference), units, strict=True)]
        maps = [NO_SOURCE, NO_SOURCE]
        if self.weigh:
            maps = [_source(f, "variance", balance / u**2) for f, u in zip((frame, reference), units, strict=True)]
        elif not self.keep:
            self._forward_y(*images, 0, 1)
            return
        self._forward_y(images[0], maps[0], 0, 2 if self.weigh else -1)
        if self.reference is None:
            self._forward_y(images[1], maps[1], 1, 3 if self.weigh else -1)
        if self.keep and self.reference is None:
            self.reference = reference, balance
            held = (1, 3) if self.weigh else (1,)
            self._run(
                lambda k, bufs, _: forward_x(self.planes[held[k % len(held)]], k // len(held), bufs, self.plan),
                self.blocks * len(held),
            )

    def _kernel(self, name: str, key: Any, make: Any) -> Any:
        """Return the columns of two kernels, those of the last image if they are the same."""
        if name not in self.known or self.known[name][0] != key:
            self.known[name] = key, [NO_COLUMNS if k is None else _columns(k, self.plan[0]) for k in make()]
        return tuple(self.known[name][1])

    def _small(self, i: int, name: str) -> Any:
        """Return the columns of k_n² and k_r², or of |k_n| and |k_r|, for doubled spectra and unnormalised inverses."""
        power, key, noise = (2 if name == "squares" else 1), self._pair(i), self._noise(i)

        def make() -> list[np.ndarray]:
            kernels = self._score_kernels(i, act=power == 1)
            return [_trimmed(_centred(abs(k / noise) ** power)) * self.norm for k in kernels]

        return self._kernel(name, key, make)

    def _score_kernels(self, i: int, *, act: bool) -> list[np.ndarray]:
        """Return k_n and k_r, middle at (0, 0): from the small grid, or those of the frame where that is smaller.

        Those that `act` on N and R, or those that act on white noise.
        """
        kernels = self.problem.kernels(i)
        shape, small = self.plan[:2], [k[0] for k in (kernels.score if act else kernels.weights)]
        if min(shape) >= len(small[0]):
            return small
        return _score_kernels(*self._psfs(i), self.problem.params[i], shape, self._behind(i, 0 if act else 1))

    def _psfs(self, i: int) -> list[np.ndarray]:
        """Return P_n and P_r, behind what makes their images' noise white."""
        return [colour.psf[i % len(colour.psf)] for colour in self.problem.colour]

    def _behind(self, i: int, which: int) -> tuple[Any, Any]:
        """Return the kernels that make the noise of N and R white (0), or what is left of it (1); None where it is."""
        stamps = [colour.kernels[which] for colour in self.problem.colour]
        n, r = (None if stamp is None else stamp[i % len(stamp)] for stamp in stamps)
        return n, r

    def _pair(self, i: int) -> tuple[int, ...]:
        """Return what tells one pair of PSFs and flux scales from another."""
        p = self.problem
        one, two = (max(len(colour), len(colour.psf)) for colour in p.colour)
        return i % len(p.kernel_params), i % one, i % two

    def _noise(self, i: int) -> float:
        """Return the noise of S on blank sky: D and S are transformed back in units of their own noise."""
        return float(np.sqrt(sum((k**2).sum() for k in self.problem.kernels(i).weights)))

    def _errors(self, i: int, frame: Frame, reference: Frame, place: int) -> None:
        """Leave the largest error that filled pixels can bring into S in plane `place`, before the inverse along y."""
        pair = zip((frame, reference), self.problem.unit, strict=True)
        self._forward_y(*(_source(f, "error", 1 / unit[i]) for f, unit in pair), place, 0)
        kernels, one, two = self._small(i, "sizes"), self.planes[place], self.planes[0]
        self._run(lambda k, bufs, _: combine_errors(k, one, two, kernels, bufs, self.plan), self.blocks)

    def _combine(self, i: int, slots: np.ndarray, apart: bool) -> None:
        p = self.problem
        s_n, s_r, f_n, f_r, floor = p.params[i]
        white, to_score = np.hypot(s_n * f_r, s_r * f_n), 1 / self._noise(i)
        numbers = [f_r, f_n, f_r / white, f_n / white, f_n * f_r**2 * to_score, f_r * f_n**2 * to_score]
        numbers = np.array([s_n**2 * f_r**2, s_r**2 * f_n**2, floor, *(self.norm * k for k in numbers)], f4)
        modes = self.difference, self.score, apart, self.weigh, self.reference is not None
        psfs = self._kernel("psfs", self._pair(i), lambda: self._psfs(i))
        squares = self._small(i, "squares") if self.weigh else psfs
        whiten = self._kernel("whiten", self._pair(i), lambda: self._behind(i, 0))

        def task(k: int, bufs: Any, _: Any) -> None:
            combine(k, self.planes, slots, modes, psfs, squares, whiten, numbers, bufs, self.plan)

        self._run(task, self.blocks)

    def _write(self, i: int, slots: Any, apart: bool, filled: bool, place: int, balance: float, out: Any) -> None:
        p, bad = self.problem, self.job.bad(i)
        there = (self.score, apart, self.difference, self.weigh, filled)
        held = [plane for plane, is_there in zip((*slots[[5, 6, 4, 7]], place), there, strict=True) if is_there]
        pairs = np.array([*held, *[-1] * 6][:6])
        at = np.cumsum(there) - 1
        to_score, to_flux = (scale * self._noise(i) for scale in p.score_scales(i))
        scales = np.array([to_score, to_flux, 1e-6, 1 / balance, 1 / p.difference_scale(i)], f4)
        noise = p.errors[i]
        noise = np.array([noise[0] ** 2 / 4, noise[1] ** 2 / 4, noise[2] ** 2], f4)
        modes = self.difference, self.score, apart, self.weigh, filled
        maps = tuple(out.get(name, NOTHING) for name in NAMES)
        blocks = -(-p.shape[1] // LANES)
        bands = max(1, min(2 * cpu_threads(), blocks // WINDOW))

        def task(k: int, bufs: Any, window: Any) -> None:
            first, last = blocks * k // bands, blocks * (k + 1) // bands
            write_maps(
                self.planes, pairs, at, modes, scales, noise, first, last, tuple(p.shape), bad, maps, window,
                bufs, self.plan,
            )  # fmt: skip

        self._run(task, bands)


def _count(variance: Any) -> int:
    return len(variance) if isinstance(variance, np.ndarray) else 1
