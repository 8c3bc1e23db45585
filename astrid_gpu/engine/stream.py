"""`zogy_stream`: integers of many exposures in, peaks of S_corr and stamps out, as fast as the device takes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

import numpy as np

from astrid_gpu.backends import Backend, get_backend
from astrid_gpu.backends.exposures import Exposure, Found
from astrid_gpu.engine._frames import combine_masks
from astrid_gpu.engine._problem import check
from astrid_gpu.engine.peaks import find_peaks, gather
from astrid_gpu.engine.zogy import zogy
from astrid_gpu.errors import InputError, ShapeMismatchError

__all__ = ["Exposure", "Found", "zogy_stream"]

_KINDS = ("int16", "uint16", "int32")
_BATCH = 4  # on the host: the reference is transformed once a batch


def zogy_stream(
    exposures: Iterable[Exposure],
    reference: Any,
    psf_science: Any,
    psf_reference: Any,
    sigma_reference: float,
    *,
    flux_reference: float = 1.0,
    variance_reference: Any = None,
    mask: Any = None,
    astrometric_error: tuple[float, float] = (0.0, 0.0),
    flux_ratio_error: float = 0.0,
    threshold: float = 5.0,
    polarity: str = "both",
    stamps: int = 0,
    size: int = 31,
    batch: int | None = None,
    slots: int = 3,
    room: int = 8192,
    backend: str | Backend = "auto",
) -> Iterator[Found]:
    """Subtract one reference from a stream of exposures and return what changed, not the maps.

    On a GPU the integers of a batch go up, one batch is subtracted, and the peaks of another come down, all at once,
    through pinned memory; the maps never leave the device. Elsewhere batches are subtracted one after the other.

    Parameters
    ----------
    exposures : iterable of Exposure
        On one pixel grid, all of the first one's type of integer and of one PSF; taken a few batches ahead of what is
        returned. If the first has a `blank` value, all may.
    reference : array, shape (ny, nx)
        Sky-subtracted, on that grid. Copied to the device once.
    psf_science, psf_reference : array
        As in `zogy`.
    sigma_reference, flux_reference, variance_reference, mask, astrometric_error, flux_ratio_error
        As in `zogy`; `mask` is that of reference and detector.
    threshold : float
        In sigma of S_corr.
    polarity : {"positive", "both"}
    stamps : int
        Peaks of a batch that are cut out of science, reference and difference; 0: none.
    size : int
        Odd side of a stamp.
    batch : int, optional
        Exposures at a time. Default on a device: as many as have a frame each in its cache.
    slots : int
        Batches under way on a device: 2 or 3.
    room : int
        Peaks of a batch there is room for on a device.
    backend : str or Backend

    Returns
    -------
    iterator of Found
        One for each exposure, in order.

    Raises
    ------
    InputError, ShapeMismatchError, PsfError
        At once for what is said of the reference; for an exposure that does not fit, when its turn comes.
    DeviceMemoryError
        The slots do not fit.

    Notes
    -----
    Cost on a device: two bytes a pixel over the bus, and `zogy` without what it writes. Memory there: 3 slots of a
    batch's integers, images and variances, and the buffers of `zogy` once.

    References
    ----------
    .. [1] Zackay, Ofek & Gal-Yam 2016, ApJ 830, 27.

    Examples
    --------
    >>> import numpy as np, astrid_gpu as ag
    >>> from astrid_gpu.engine.stream import Exposure
    >>> y, x = np.mgrid[-7:8, -7:8]
    >>> psf = np.exp(-(x**2 + y**2) / 8.0)
    >>> sky = np.random.default_rng(1).normal(0, 5, size=(3, 64, 64))
    >>> sky[2, 20:35, 30:45] += 900 * psf
    >>> frames = [Exposure(np.rint(s + 100).astype("u2"), zero=-100.0, sigma=5.0) for s in sky[1:]]
    >>> found = ag.zogy_stream(frames, sky[0], psf, psf, 5.0, threshold=8.0)
    >>> [(f.number, f.y.tolist(), f.x.tolist()) for f in found]
    [(0, [], []), (1, [27], [37])]
    """
    if polarity not in ("positive", "both") or not (np.isfinite(threshold) and threshold >= 0):
        msg = f"a stream finds 'positive' peaks or 'both' beyond a threshold >= 0; got {polarity!r} and {threshold!r}"
        raise InputError(msg)
    if batch is not None and batch < 1:
        msg = f"batch is a number of exposures, at least 1; got {batch!r}"
        raise InputError(msg)
    b = get_backend(backend)
    source = iter(exposures)
    first = next(source, None)
    if first is None:
        return iter(())
    known: dict[str, Any] = {
        "reference": b.asarray(reference, np.float32),
        "psf_science": psf_science,
        "psf_reference": psf_reference,
        "sigma_reference": sigma_reference,
        "flux_reference": flux_reference,
        "variance_reference": variance_reference if np.ndim(variance_reference) == 0 else b.asarray(variance_reference),
        "mask": None if mask is None else b.asarray(mask),
        "astrometric_error": astrometric_error,
        "flux_ratio_error": flux_ratio_error,
    }
    kind = _kind_of(first)
    stream = b.ops.get("subtraction_stream")
    frames = chain([first], source)
    find = {"threshold": float(threshold), "both": polarity == "both", "stamps": stamps, "side": size}
    if stream is None:
        return _on_host(b, frames, known, kind, find, batch or _BATCH)
    problem, flags = _problem(b, known)
    options = {"dtype": kind, "batch": batch, "slots": slots, "room": room, "blanks": first.blank is not None}
    return stream(problem, flags, **find, **options).run(frames)  # type: ignore[no-any-return]


def _kind_of(exposure: Exposure) -> np.dtype:
    """Return the type of the stream's integers, in native byte order."""
    kind = exposure.pixels.dtype.newbyteorder("=")
    if kind.name not in _KINDS:
        msg = f"a stream takes {', '.join(_KINDS)} pixels as they lie in their files, got {kind}; use zogy() for others"
        raise InputError(msg)
    return kind


def _problem(b: Backend, known: dict[str, Any]) -> tuple[Any, Any]:
    """Return the checked problem of the reference, with a science image of nothing, and its flags."""
    nothing = {"variance_science": None, "noise_spectrum_science": None, "noise_spectrum_reference": None}
    science = b.xp.zeros(known["reference"].shape, np.float32)
    one = {"science": science, "sigma_science": 1.0, "flux_science": 1.0, "backend": b, "dtype": np.float32}
    problem = check(known | nothing | one)
    clean = problem.mask is None and all(problem.finite)
    flags = combine_masks(b, problem.science, problem.reference, problem.mask, problem.finite)
    return problem, None if clean else flags


def _on_host(
    b: Backend, frames: Iterator[Exposure], known: dict[str, Any], kind: np.dtype, find: dict[str, Any], size: int
) -> Iterator[Found]:
    """Subtract batch by batch with `zogy`."""
    number = 0
    while batch := list(islice(frames, size)):
        for place, exposure in enumerate(batch):
            _refuse(exposure, number + place, known["reference"].shape, kind)
        flux = np.stack([_flux(e) for e in batch])
        photons = np.array([e.per_count for e in batch])[:, None, None]
        sigma = np.array([e.sigma for e in batch])
        variance = (sigma**2)[:, None, None] + photons * np.maximum(np.nan_to_num(flux), 0) if photons.any() else None
        wanted = ("score_corr", "difference") if find["stamps"] else ("score_corr",)
        diff = zogy(
            flux,
            **known,
            sigma_science=sigma,
            flux_science=np.array([e.flux for e in batch]),
            variance_science=None if variance is None else variance.astype(np.float32),
            outputs=wanted,
            backend=b,
            dtype=np.float32,
        )
        yield from _peaks_of(b, diff, flux, known["reference"], find, number)
        number += len(batch)


def _refuse(exposure: Exposure, number: int, shape: tuple[int, ...], kind: np.dtype) -> None:
    """Raise about an exposure that is not like the stream's."""
    pixels = exposure.pixels
    if pixels.shape != shape or pixels.dtype.newbyteorder("=") != kind:
        msg = f"exposure {number} is {pixels.dtype} {pixels.shape}; the stream takes {kind} {shape}"
        raise (ShapeMismatchError if pixels.shape != shape else InputError)(msg)


def _flux(exposure: Exposure) -> np.ndarray:
    """Return an exposure in units of flux, NaN where it has no data."""
    flux = (exposure.zero + exposure.scale * exposure.pixels.astype(np.float64)).astype(np.float32)
    if exposure.blank is not None:
        flux[exposure.pixels == exposure.blank] = np.nan
    return flux


def _peaks_of(
    b: Backend, diff: Any, flux: np.ndarray, reference: Any, find: dict[str, Any], first: int
) -> Iterator[Found]:
    """Find the peaks of a batch and cut out the strongest."""
    polarity = "both" if find["both"] else "positive"
    peaks = find_peaks(diff.score_corr, find["threshold"], polarity=polarity, backend=b)
    peaks = peaks[np.lexsort((np.arange(len(peaks)), -np.abs(peaks["value"])))]
    cut = None
    if find["stamps"]:
        cut = np.full((len(peaks), 3, find["side"], find["side"]), np.nan, np.float32)
        some = peaks[: find["stamps"]]
        places = some["image"], some["y"], some["x"]
        for k, images in enumerate((flux, reference[None], diff.difference)):
            image = places[0] if len(images) > 1 else np.zeros(len(some), np.int64)
            cut[: len(some), k] = gather(b, b.asarray(images), image, *places[1:], find["side"], np.nan)
    truncated = 0 < find["stamps"] < len(peaks)
    for place in range(len(flux)):
        own = np.flatnonzero(peaks["image"] == place)
        mine = peaks[own]
        tied = np.zeros(len(own), bool)
        yield Found(
            first + place, mine["y"], mine["x"], mine["value"], tied, None if cut is None else cut[own], truncated
        )
