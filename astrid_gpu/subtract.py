"""`subtract`: from two exposures to a difference, with every estimate made on the way written down."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from astrid_gpu._calibration import rough_width
from astrid_gpu._flux_response import FluxResponse, flux_response
from astrid_gpu._mosaic import Mosaic
from astrid_gpu._noise_model import stack_stamps
from astrid_gpu._noise_steps import calibrate
from astrid_gpu._prepare import Given, Pair, PairPreparer, timed
from astrid_gpu._quiet_sky import part_of
from astrid_gpu._star_lines import flag_star_lines
from astrid_gpu._tiled import by_blocks, plan_tiles, subtract_tiles, tile_values
from astrid_gpu._trails import flag_trails
from astrid_gpu.backends import Backend, get_backend, library_of
from astrid_gpu.config import SubtractConfig, from_mapping
from astrid_gpu.engine.classic import classic
from astrid_gpu.engine.zogy import zogy
from astrid_gpu.errors import DeviceMemoryError
from astrid_gpu.image import Image
from astrid_gpu.io import as_image, whole_image
from astrid_gpu.results import Difference, Step
from astrid_gpu.tiles import Tiles

__all__ = ["subtract"]

_log = logging.getLogger("astrid_gpu")
_OUTPUTS = ("difference", "score", "score_corr", "flux")


def subtract(
    science: Any,
    reference: Any,
    *,
    psf_science: Any = None,
    psf_reference: Any = None,
    mask_science: Any = None,
    mask_reference: Any = None,
    variance_science: Any = None,
    variance_reference: Any = None,
    sigma_science: float | None = None,
    sigma_reference: float | None = None,
    flux_ratio: float | None = None,
    astrometric_error: tuple[float, float] | None = None,
    config: SubtractConfig | None = None,
    **options: Any,
) -> Difference:
    """Find what changed between two exposures of a field.

    Whatever is not given is estimated from the pixels, and said in the result's `steps`: saturation, background,
    noise, registration, both PSFs, the flux ratio. Use `zogy` for arrays of which all that is known.

    Parameters
    ----------
    science, reference : array, Image, CCDData, NDData, (data, wcs), HDU or path
        Two-dimensional. The output grid is the science image's, unless grid="reference".
    psf_science, psf_reference : array, PSF, path or str, optional
        A stamp, a FITS or PSFEx file, or "gaussian:FWHM", "moffat:FWHM,BETA". Measured on stars if not given.
    mask_science, mask_reference : bool or integer array, optional
        Nonzero = bad, added to what the image brings.
    variance_science, variance_reference : array, optional
        Variance per pixel. Default: the image's own, else from gain and read noise, else from the pixels.
    sigma_science, sigma_reference : float, optional
        Background standard deviation.
    flux_ratio : float, optional
        beta = F_n / F_r. Measured on matched stars if not given.
    astrometric_error : (float, float), optional
        1-sigma registration noise in y and x, pixels.
    config : SubtractConfig, optional
    **options
        Fields of `SubtractConfig`: method, align, grid, kernel, min_overlap, background, box, cosmic_rays, bad_lines,
        trails, psf_size, psf_order, flux_order, registration, noise, renormalise, tiles, memory, backend, dtype.

    Returns
    -------
    Difference
        In the science image's flux unit (F_n = 1), NumPy arrays, NaN where masked.

    Raises
    ------
    InputError, FitsError, PsfError, WcsError, ShapeMismatchError, AlignmentError, ConfigError
        Naming what was given, what is allowed and what to do.
    TypeError
        A device array was given: the estimates run on the host, and nothing is copied unasked. Use `zogy`.

    Notes
    -----
    Cost on the CPU: the engine's FFTs (see `zogy`) plus background, star finding and, where the grids differ,
    resampling.

    References
    ----------
    .. [1] Zackay, Ofek & Gal-Yam 2016, ApJ 830, 27.

    Examples
    --------
    >>> import astrid_gpu as ag
    >>> field = ag.simulate.pair(seed=1)
    >>> diff = ag.subtract(field.science, field.reference)
    >>> diff.score_corr.shape == field.science.shape
    True
    """
    settings = _settings(config, options)
    images = [
        _load(image, name, mask, variance, lazy=True)
        for image, name, mask, variance in (
            (science, "science", mask_science, variance_science),
            (reference, "reference", mask_reference, variance_reference),
        )
    ]
    given = Given(psf_science, psf_reference, sigma_science, sigma_reference, flux_ratio, astrometric_error)
    if by_blocks(images[0], images[1], settings):
        pair = Mosaic(images[0], images[1], settings, given).prepare()
    else:
        pair = PairPreparer(whole_image(images[1]), settings, given).prepare(whole_image(images[0]))
    return _difference([pair], settings)[0]


def _settings(config: SubtractConfig | None, options: dict[str, Any]) -> SubtractConfig:
    """Return the configuration with the keyword options on top."""
    base = {} if config is None else {k: getattr(config, k) for k in SubtractConfig.__dataclass_fields__}
    return from_mapping(SubtractConfig, base | options, where="subtract()")


def _load(image: Any, role: str, mask: Any, variance: Any, *, lazy: bool = False) -> Image:
    """Return an Image with the caller's mask and variance added."""
    if library_of(image) == "cupy":
        msg = f"{role} is on a GPU, but subtract() estimates on the host; call .get() on it, or use zogy() there"
        raise TypeError(msg)
    loaded = as_image(image, name=role, lazy=lazy)
    if loaded.name == "image":
        loaded = loaded.with_(name=role)
    if mask is not None:
        extra = np.asarray(mask) != 0
        merged = extra if loaded.mask is None or extra.shape != loaded.shape else extra | (loaded.mask != 0)
        loaded = loaded.with_(mask=merged.astype(np.uint8))
    if variance is not None:
        loaded = loaded.with_(variance=np.asarray(variance))
    return loaded


def _difference(pairs: list[Pair], settings: SubtractConfig) -> list[Difference]:
    """Difference prepared pairs of one shape in one call to the engine, halving the batch if memory runs out."""
    backend = get_backend(settings.backend)
    if any(pair.plan is None for pair in pairs):
        for pair in pairs:
            pair.plan = plan_tiles(pair, settings, backend)
            pair.steps += pair.plan.steps
    if len(pairs) > 1 and any(pair.plan.tiles is not None for pair in pairs):
        return [_difference([pair], settings)[0] for pair in pairs]
    profile: dict[str, float] = {}
    with timed(profile, "subtraction"):
        try:
            plan = pairs[0].plan
            if plan.tiles is None:
                result = _run_engine(pairs, settings, backend)
            else:
                outputs = tuple(name for name in _OUTPUTS if name != "score" or not pairs[0].short_of_memory)
                result = subtract_tiles(pairs[0], plan.values, settings, backend, outputs)
        except MemoryError as exc:
            if len(pairs) == 1:
                msg = f"one image of {pairs[0].science.shape} does not fit the memory of backend {backend.name}"
                raise DeviceMemoryError(msg) from exc
            half = len(pairs) // 2
            _log.warning("out of memory with %d images; going on with %d at a time", len(pairs), half)
            return _difference(pairs[:half], settings) + _difference(pairs[half:], settings)
    seconds = profile["subtraction"] / len(pairs)
    return [_finish(pair, result, i, settings, seconds) for i, pair in enumerate(pairs)]


def _run_engine(pairs: list[Pair], settings: SubtractConfig, backend: Backend) -> Difference:
    """Stack the pairs and call the engine; a reference that all share is passed once."""
    science = _stacked([p.science for p in pairs])
    shared = all(p.reference is pairs[0].reference for p in pairs)
    reference = pairs[0].reference if shared else np.stack([p.reference for p in pairs])
    flags = _stacked([p.flags for p in pairs])
    sigma: dict[str, Any] = {
        "sigma_science": np.array([p.sigma_science for p in pairs]),
        "sigma_reference": np.array([p.sigma_reference for p in pairs]),
    }
    common: dict[str, Any] = {"mask": flags, "backend": backend, "dtype": settings.dtype}
    beta = np.array([p.flux_ratio for p in pairs])
    if settings.method != "zogy":
        return classic(science, reference, scale=beta, fit=settings.method == "classic-fit", **sigma, **common)
    return zogy(
        science,
        reference,
        _stack_psfs([p.psf_science.data for p in pairs]),
        _stack_psfs([p.psf_reference.data for p in pairs]),
        **sigma,
        flux_science=1.0,
        flux_reference=1 / beta,
        variance_science=_stacked([p.variance_science for p in pairs]),
        variance_reference=_stacked([p.variance_reference for p in pairs]),
        noise_spectrum_science=stack_stamps([p.noise_spectrum_science for p in pairs]),
        noise_spectrum_reference=stack_stamps([p.noise_spectrum_reference for p in pairs]),
        astrometric_error=np.array([p.astrometric_error for p in pairs]),
        flux_ratio_error=np.array([p.relative_error for p in pairs]),
        outputs=_OUTPUTS,
        **common,
    )


def _stacked(planes: list[np.ndarray]) -> np.ndarray:
    """Return planes as a stack; one by itself is not copied."""
    return np.stack(planes) if len(planes) > 1 else planes[0][None]


def _stack_psfs(stamps: list[np.ndarray]) -> np.ndarray:
    """Return odd stamps of different sides as one stack, zero-padded about their middle; one if all are the same."""
    if all(np.array_equal(stamp, stamps[0]) for stamp in stamps):
        return stamps[0][None]
    side = np.max([stamp.shape for stamp in stamps], axis=0)
    out = np.zeros((len(stamps), *side))
    for i, stamp in enumerate(stamps):
        y, x = (side - stamp.shape) // 2
        out[i, y : y + stamp.shape[0], x : x + stamp.shape[1]] = stamp
    return out


def _finish(pair: Pair, result: Difference, i: int, settings: SubtractConfig, seconds: float) -> Difference:
    """Take image `i` out of the engine's result, fix its noise, and attach what is known."""
    maps = {
        name: None if getattr(result, name) is None else getattr(result, name)[i]
        for name in ("difference", "score", "score_corr", "flux", "flux_error")
    }
    mask = result.mask[i].astype(np.uint16)
    maps["mask"] = mask if pair.details is None else mask | pair.details
    psf = result.psf
    if psf is not None and psf.ndim == 3:
        psf = psf[i if len(psf) > 1 else 0]
    scales = np.ravel(result.flux_scale)
    scale = float(scales[i if len(scales) > 1 else 0])
    with timed(pair.metrics["profile"], "trails"):
        trails = flag_trails(maps, psf, pair.metrics, look=settings.trails)
    with timed(pair.metrics["profile"], "star lines"):
        lines = flag_star_lines(maps, psf, pair.metrics, unit=rough_width(maps))
    with timed(pair.metrics["profile"], "calibration"):  # last: what is flagged is no noise
        response = _to_own_psfs(pair, maps)
        tiles = None if result.tiles is None else result.tiles.tiles
        calibrated = calibrate(maps, settings.renormalise, pair, tiles, psf)
    steps = [*pair.steps, *calibrated, *trails, *lines]
    steps.append(Step(settings.method, f"subtracted on the {result.backend} backend", {"backend": result.backend}))
    profile = pair.metrics["profile"]
    profile |= {
        "subtraction": seconds,
        **{stage: profile.pop(stage) for stage in ("calibration", "trails", "star lines")},
    }
    diff = Difference(
        **maps,
        psf=psf,
        flux_scale=scale,
        wcs=pair.wcs,
        zero_point=pair.zero_point,
        backend=result.backend,
        method=settings.method,
        steps=tuple(steps),
        metrics=pair.metrics,
        science=pair.science,
        reference=pair.reference,
        meta=pair.meta,
        tiles=result.tiles,
        flux_response=response,
    )
    diff.metrics["masked"] = np.count_nonzero(np.isnan(diff.difference)) / diff.difference.size
    diff.metrics.update(_limits(diff))
    return diff


def _limits(diff: Difference) -> dict[str, float]:
    """Return the 5-sigma limit of the median pixel, as a flux and as a magnitude."""
    if diff.flux_error is None:
        return {}
    errors = part_of(diff.flux_error, np.isfinite(diff.flux_error))
    limit = 5.0 * float(np.median(errors)) if errors.size else float("nan")
    zero_point = float("nan") if diff.zero_point is None else diff.zero_point
    magnitude = zero_point - 2.5 * float(np.log10(limit)) if limit > 0 else float("nan")
    return {"limiting_flux": limit, "limiting_magnitude": magnitude}


def _to_own_psfs(pair: Pair, maps: dict[str, Any]) -> FluxResponse | None:
    """Correct the flux and its error for the PSF that each place has, and return by what; None if it is constant."""
    if maps["flux"] is None or pair.psf_models == (None, None):
        return None
    values = pair.plan.values
    if values is None:
        values = tile_values(pair, Tiles(pair.science.shape, max(16, *pair.science.shape), 0))
    response = flux_response(values, pair.psf_models)
    if response is not None:
        for name in ("flux", "flux_error"):
            maps[name] = np.require(maps[name], requirements="W")  # not a view of one number for many pixels
        response.divide(maps["flux"], maps["flux_error"])
    return response
