"""One small call of every fused operation: what the schedule, sanitizer and device tests run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from astrid_gpu.ops import background, zogy
from astrid_gpu.ops import convolve as convolution
from astrid_gpu.ops.fill import fill_profiles

__all__ = ["CASES", "ON_DEVICE", "leaves"]


def _images(rng: np.random.Generator, real: type, shape: tuple[int, int, int]) -> np.ndarray:
    return (10 * rng.standard_normal(shape)).astype(real)


def _zogy_spectra(rng: np.random.Generator, real: type) -> tuple[Any, ...]:
    kind = np.complex64 if real is np.float32 else np.complex128
    N, R = (rng.standard_normal((2, 2, 33, 21)) + 1j).astype(kind)
    Pn, Pr = (rng.standard_normal((2, 1, 33, 21)) - 0.5j).astype(kind)
    return N, R, Pn, Pr, zogy.make_params([1.0, 1.5], [2.0, 0.5], 1.0, [0.9, 1.1])


def _zogy_finish(rng: np.random.Generator, real: type) -> tuple[Any, ...]:
    Sn, Sr = rng.standard_normal((2, 2, 19, 37)).astype(real)
    variance = rng.uniform(0.1, 2, (2, 19, 37)).astype(real)
    astrometric = np.array([[0.0, 0.0, 0.0], [0.3, 0.7, 0.1]])
    outputs = {"score", "score_corr", "flux", "flux_error"}
    return Sn, Sr, variance, rng.uniform(0.1, 1, (2, 3)), astrometric, (18, 35), outputs


def _fill_masked(rng: np.random.Generator, real: type) -> tuple[Any, ...]:
    bad = (rng.random((1, 37, 41)) < 0.1).astype(np.uint8)
    bad[:, -6:] = 1
    return _images(rng, real, (2, 37, 41)), bad, fill_profiles([1.4, 2.0], (37, 41))


def _mesh_statistics(rng: np.random.Generator, real: type) -> tuple[Any, ...]:
    images = _images(rng, real, (2, 70, 45)) + real(100)
    images[0, 3, 4] = np.nan
    images[1, 20:24, 20:24] += 5000
    return images, rng.random((1, 70, 45)) < 0.05, 32, 3.0, "sextractor"


def _mesh_interpolate(rng: np.random.Generator, real: type) -> tuple[Any, ...]:
    rows, columns = background.spline_axis(50, 3), background.spline_axis(70, 4)
    return rng.standard_normal((2, 3, 4)), rows, columns, real


def _convolve(rng: np.random.Generator, real: type) -> tuple[Any, ...]:
    rows, columns = convolution.border_index(37, 5, "reflect"), convolution.border_index(50, 7, "zero")
    return _images(rng, real, (2, 37, 50)), rng.standard_normal((1, 5, 7)), rows, columns


def _find_peaks(rng: np.random.Generator, real: type) -> tuple[Any, ...]:
    images = np.round(_images(rng, real, (2, 40, 50)))
    images[1, 10:12, 10:12] = 60  # a plateau
    return images, np.array([5.0, 10.0]), rng.random((1, 40, 50)) < 0.05, True


def _measure_moments(rng: np.random.Generator, real: type) -> tuple[Any, ...]:
    m = 11
    image, y, x = rng.integers(0, 2, m), rng.uniform(-1, 31, m), rng.uniform(-1, 41, m)
    mask = (rng.random((2, 30, 40)) < 0.1).astype(np.uint8)
    return _images(rng, real, (2, 30, 40)), image.astype(np.int64), y, x, rng.uniform(1, 3, m), 5, mask


def _gather_stamps(rng: np.random.Generator, real: type) -> tuple[Any, ...]:
    m = 13
    image, y, x = rng.integers(0, 2, m), rng.integers(-3, 33, m), rng.integers(-3, 43, m)
    return _images(rng, real, (2, 30, 40)), image, y, x, 9, float("nan")


def _resample(rng: np.random.Generator, real: type) -> tuple[Any, ...]:
    y, x = rng.uniform(-2, 41, (19, 23)), rng.uniform(-2, 31, (19, 23))
    y[3, 4], x[5] = np.nan, np.rint(x[5])
    return _images(rng, real, (2, 40, 30)), y, x, "lanczos3", rng.random((2, 40, 30)) < 0.01


def _extremes(rng: np.random.Generator, real: type) -> tuple[Any, ...]:
    images = _images(rng, real, (3, 50, 47))
    images[1, 20, 30] = np.nan
    return (images,)


CASES: Mapping[str, Callable[[np.random.Generator, type], tuple[Any, ...]]] = {
    "zogy_spectra": _zogy_spectra,
    "zogy_finish": _zogy_finish,
    "fill_masked": _fill_masked,
    "mesh_statistics": _mesh_statistics,
    "mesh_interpolate": _mesh_interpolate,
    "convolve": _convolve,
    "find_peaks": _find_peaks,
    "measure_moments": _measure_moments,
    "gather_stamps": _gather_stamps,
    "resample": _resample,
    "extremes": _extremes,
}

# Which arguments live on the device, by position; the others are tables on the host by contract.
ON_DEVICE: Mapping[str, tuple[int, ...]] = {
    "zogy_spectra": (0, 1, 2, 3),
    "zogy_finish": (0, 1, 2),
    "fill_masked": (0, 1),
    "mesh_statistics": (0, 1),
    "mesh_interpolate": (0,),
    "convolve": (0,),
    "find_peaks": (0, 2),
    "measure_moments": (0, 6),
    "gather_stamps": (0,),
    "resample": (0, 1, 2, 4),
    "extremes": (0,),
}


def leaves(name: str, result: Any) -> list[Any]:
    """Return the arrays of the result of operation `name` in a fixed order; peaks, which have none, are sorted."""
    if isinstance(result, dict):
        return [result[key] for key in sorted(result)]
    if name == "find_peaks":
        image, y, x, *_ = result
        order = np.lexsort((x, y, image))
        return [column[order] for column in result]
    return list(result) if isinstance(result, tuple) else [result]
