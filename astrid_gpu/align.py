"""Registration: bring an image to the pixel grid of another, by world coordinates, by stars, or both."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np

from astrid_gpu._host_ops import both
from astrid_gpu._pixel_map import Coordinates, GridMap, PixelMap
from astrid_gpu._psf_warp import shift_psf, warp_psf
from astrid_gpu._register import Options, Registration, Target, by_sky, by_stars, stars_of
from astrid_gpu._sky_map import SkyMap, check_wcs, describe_footprint
from astrid_gpu._star_match import MODELS
from astrid_gpu._warp import KERNELS, shift_image, warp_image, warp_stamp
from astrid_gpu.backends import Backend
from astrid_gpu.errors import AlignmentError, ConfigError, InputError, ShapeMismatchError, WcsError
from astrid_gpu.flags import PixelFlag
from astrid_gpu.image import PSF, Image
from astrid_gpu.results import Step

__all__ = ["Aligned", "align", "align_options", "apply_map", "declared", "looked_at", "whole_shift"]

_METHODS = ("auto", "wcs", "stars", "none")
_ORDERS = {0: "shift", 1: "affine", 2: "quadratic", 3: "cubic"}
_SAME = 1e-3  # px; two WCS that agree to this are one grid
_LYING = 0.5  # px; stars this far off overrule two WCS that claim one grid
_FEW = 5  # stars; an image with fewer cannot prove or disprove that two arrays of one shape are registered


@dataclass(frozen=True, repr=False)
class Aligned:
    """An image on another one's grid, and how it came there.

    Parameters
    ----------
    image : Image
        On the target's grid and with its WCS; flux units, zero point and gain are the image's own.
    footprint : array of bool, shape of the target
        True where the image has data, masked pixels included.
    method : str
        "none", "wcs", "stars" or "wcs+stars".
    resampled : bool
        False if no pixel was interpolated: left alone, or moved by whole pixels.
    scatter : (float, float) or None
        1-sigma registration error (y, x) in target pixels measured on stars, centroid noise taken out, a known offset
        that was left in place added; None where no stars were measured.
    offset : (float, float)
        Source minus target position (y, x) at the middle of the footprint, pixels.
    matrix : array, shape (2, 2)
        d(source y, x) / d(target y, x) there.
    n_matched : int
        Stars the registration rests on.
    steps : list of Step
        What was done and assumed.
    pixel_map : PixelMap
        The map from target to source pixels as measured.
    map_error : float
        Largest error of the map that was used against the full one (WCS with distortions, then the stars' correction),
        pixels, measured between its nodes; 0 where it was evaluated at every pixel or nothing was resampled.
    noise_factor : float
        Variance of single pixels over `image.variance`, which is that of white noise of equal power at low frequencies;
        below 1 where resampling correlated neighbours, 1 if nothing was resampled.
    overlap : float
        Common area over that of the smaller of the two frames.
    """

    image: Image
    footprint: np.ndarray
    method: str
    resampled: bool
    scatter: tuple[float, float] | None
    offset: tuple[float, float]
    matrix: np.ndarray
    n_matched: int
    steps: list[Step] = field(default_factory=list)
    pixel_map: PixelMap = field(default_factory=PixelMap)
    map_error: float = 0.0
    noise_factor: float = 1.0
    overlap: float = 1.0

    def source_position(self, y: Any, x: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return where positions of the target grid lie in the original image, (y, x) in its 0-based pixels."""
        return self.pixel_map(np.asarray(y, float), np.asarray(x, float))

    def __repr__(self) -> str:
        ny, nx = self.footprint.shape
        how = "resampled" if self.resampled else "not resampled"
        scatter = f", scatter {self.scatter[0]:.3f}, {self.scatter[1]:.3f} px (y, x)" if self.scatter else ""
        stars = f", {self.n_matched} stars" if self.n_matched else ""
        return (
            f"<Aligned {self.image.name} to {nx}x{ny} px by {self.method}, {how}{stars}{scatter}, "
            f"{self.footprint.mean():.1%} covered>"
        )


def align(
    image: Image,
    to: Any,
    *,
    method: str = "auto",
    shape: tuple[int, int] | None = None,
    order: int | str = "auto",
    max_stars: int = 200,
    tolerance: float = 0.1,
    kernel: str = "spline5",
    min_overlap: float = 0.1,
    backend: str | Backend = "auto",
) -> Aligned:
    """Bring an image to the pixel grid of another image or of a WCS.

    With two WCS the sky gives the map and stars, where at least three are common, correct what is left of it; without,
    stars alone do, whatever the shift, rotation, scale or mirror image. Flux is conserved: data are multiplied by the
    local ratio of pixel areas, so a source's sum of counts stays. The image is interpolated once, with the corrected
    map, and not at all if the map is within `tolerance` of a shift by whole pixels everywhere: interpolation
    correlates the noise, while an offset below that can be removed later as a Fourier phase.

    Parameters
    ----------
    image : Image
        To be moved. NaN and masked pixels are filled before interpolation and masked after it.
    to : Image or WCS
        What to move it to; its grid and WCS are the result's.
    method : {"auto", "wcs", "stars", "none"}
        "auto": "wcs" corrected by stars if both have a WCS, else "stars"; two arrays of one shape without WCS and with
        hardly any stars are taken to be registered already, and a step says so. "wcs": world coordinates alone.
        "stars": stars alone. "none": declare the grids to be the same.
    shape : (int, int), optional
        (ny, nx) of the grid, if `to` is a WCS that does not know it.
    order : {"auto", 0, 1, 2, 3}
        Polynomial order of the map fitted to stars; "auto" takes the simplest the stars do not contradict (Bayesian
        information criterion): none, shift, similarity, affine, quadratic (from 20 stars), cubic (from 60).
    max_stars : int
        Most stars used of each image.
    tolerance : float
        Pixels; see above. Without stars, whole-pixel shifts must be exact to 0.001 px.
    kernel : {"spline5", "spline3", "lanczos3", "bilinear", "nearest"}
        Interpolation: B-splines through the pixels (`resample` calls them "quintic" and "cubic", taken too), the
        windowed sinc, or what is coarser. The largest error of a star of FWHM 2.5 px shifted by half a pixel both ways,
        over its peak: 0.25, 1.3, 1.0, 15 and 46 %. Counts are kept to 1e-4 by the splines; where the two grids beat
        slowly, by lanczos3 and bilinear to 1.5 and by nearest to 10 %.
    min_overlap : float
        Common area over that of the smaller frame, 0 to 1, below which it is an error: what a corner in common tells of
        a WCS or of stars is little. 0 allows any.
    backend : str or Backend
        Where pixels are interpolated, see `get_backend`. What goes in and comes out is on the host.

    Returns
    -------
    Aligned

    Raises
    ------
    WcsError : a WCS is missing (method "wcs") or broken, or the two images share no sky.
    AlignmentError : stars are too few or do not match, or less is common than `min_overlap`.
    ShapeMismatchError : method "none" with different shapes, or nothing to tell how they relate.
    InputError : not an Image, or no usable pixel.
    ConfigError : an unknown method, order or kernel, or a number out of range.

    Notes
    -----
    Cost: 36 taps of a spline and 4 of a linear interpolation a pixel to resample data and variance, some taps more near
    bad pixels, and a few Gaussian filters of both images to find stars, which run on the host whatever the backend.

    The variance of the result is that of white noise of equal power at low frequencies, the local mean of the source's
    times A, and not that of its single pixels (a sum of squared kernel weights): sums and matched filters are what it
    is for. `noise_factor` is the ratio of the two.

    A pixel is masked where what a bad pixel may have held could come through the kernel, and has the bits of each kind
    of bad pixel that does so.
    """
    options = align_options(method, order, max_stars, tolerance, kernel, min_overlap, backend)
    if not isinstance(image, Image):
        msg = f"image must be an astrid_gpu.Image, got {type(image).__name__}; wrap an array as ag.Image(array)"
        raise InputError(msg)
    target = _target(to, shape)
    for each in (image, target.image):
        if each is not None and each.bad.all():
            msg = f"{each.name}: no pixel is finite and unmasked, nothing can be aligned"
            raise InputError(msg)
    wcs = check_wcs(image.wcs, image.name)
    if method == "none":
        return declared(image, target, "taken to be on the same grid, as asked")
    if method == "wcs" or (method == "auto" and wcs is not None and target.wcs is not None):
        return apply_map(image, target, by_sky(image, target, options, refine=method == "auto"), options)
    there = _need_image(target)
    found = both(lambda: stars_of(image, options), lambda: stars_of(there, options))
    few = min(stars.y.size for stars in found) < _FEW
    if method == "auto" and few and target.shape == image.shape and wcs is None and target.wcs is None:
        counts = f"{found[0].y.size} and {found[1].y.size} stars"
        return declared(image, target, f"no WCS and only {counts}: taken to be on the same grid, unverified")
    registration = by_stars(image, target, found, options)
    if method == "auto" and (wcs is None) != (target.wcs is None):
        bare = image.name if wcs is None else target.name
        note = Step("alignment", f"{bare} has no WCS, so stars alone place the images", {"no_wcs": bare})
        registration = replace(registration, steps=(note, *registration.steps))
    return apply_map(image, target, registration, options)


def align_options(
    method: str,
    order: int | str,
    max_stars: int,
    tolerance: float,
    kernel: str,
    min_overlap: float,
    backend: str | Backend,
) -> Options:
    """Check the keywords of `align`."""
    if method not in _METHODS:
        msg = f"method must be one of {', '.join(_METHODS)}, got {method!r}"
        raise ConfigError(msg)
    if kernel not in KERNELS:
        msg = f"kernel must be one of {', '.join(sorted(KERNELS))}, got {kernel!r}"
        raise ConfigError(msg)
    if order != "auto" and order not in _ORDERS:
        msg = f"order must be 'auto' or one of 0, 1, 2, 3, got {order!r}"
        raise ConfigError(msg)
    if max_stars < 3 or not tolerance >= 0:
        msg = f"max_stars must be at least 3 and tolerance not negative, got {max_stars} and {tolerance}"
        raise ConfigError(msg)
    if not 0 <= min_overlap <= 1:
        msg = f"min_overlap must be a fraction from 0 to 1, got {min_overlap!r}"
        raise ConfigError(msg)
    models = tuple(MODELS) if order == "auto" else (_ORDERS[int(order)],)
    return Options(models, int(max_stars), float(tolerance), kernel, float(min_overlap), backend)


def _target(to: Any, shape: tuple[int, int] | None) -> Target:
    if isinstance(to, Image):
        if shape is not None and tuple(shape) != to.shape:
            msg = f"shape {tuple(shape)} contradicts {to.name}, which has {to.shape}; leave it out"
            raise ShapeMismatchError(msg)
        return Target(to, check_wcs(to.wcs, to.name), to.shape, to.name)
    wcs = check_wcs(to, "to")
    known = shape or getattr(wcs, "array_shape", None)
    if wcs is None or known is None:
        msg = "to must be an Image, or a WCS with array_shape set or given as shape=(ny, nx)"
        raise InputError(msg)
    return Target(None, wcs, (int(known[0]), int(known[1])), "the WCS given")


def _need_image(target: Target) -> Image:
    if target.image is None:
        msg = "the image has no WCS and `to` is only a WCS: without pixels there are no stars to match; give an Image"
        raise WcsError(msg)
    return target.image


def declared(image: Image, target: Target, text: str) -> Aligned:
    """Return the image as it is, on the target's grid by declaration."""
    if image.shape != target.shape:
        msg = (
            f"{image.name} has shape {image.shape} and {target.name} {target.shape}; without a WCS and without stars "
            "only images of one shape can be taken as registered"
        )
        raise ShapeMismatchError(msg)
    moved = image.with_(wcs=target.wcs if target.wcs is not None else image.wcs)
    everywhere = np.ones(target.shape, bool)
    step = Step("alignment", f"{image.name}: {text}", {"method": "none"})
    return Aligned(moved, everywhere, "none", False, None, (0.0, 0.0), np.eye(2), 0, [step])


def apply_map(image: Image, target: Target, registration: Registration, options: Options) -> Aligned:
    """Leave, shift or resample the image, whichever the map asks for, and say so."""
    pixel_map = registration.pixel_map
    grid = GridMap(pixel_map, target.shape)
    rows, columns, sample, inside = looked_at(image, target, grid)
    y, x = int(np.median(rows[np.nonzero(inside)[0]])), int(np.median(columns[np.nonzero(inside)[1]]))
    matrix = pixel_map.jacobian(y, x)
    moves = (sample[0] - rows[:, None])[inside], (sample[1] - columns)[inside]
    shift, residual = whole_shift(image, target, registration, moves)
    factor, map_error = 1.0, 0.0
    if shift is None:
        moved, footprint, how = _resampled(image, grid, matrix, options)
        factor, map_error = how.values["pixel_variance_factor"], grid.error
    else:
        moved, footprint, how = _shifted(image, target, shift, residual)
    if not footprint.any():
        _raise_apart(image, target)
    overlap = _overlap(image, target, footprint, matrix, options.min_overlap)
    fit, scatter = registration.fit, None
    if fit is not None:
        each = [float(np.hypot(s, r)) / registration.scale for s, r in zip(fit.scatter, residual, strict=True)]
        scatter = (each[0], each[1])
    n_matched = int(fit.keep.sum()) if fit is not None else 0
    steps = [*registration.steps, _measured(image, target, registration, (y, x), scatter), how]
    covered = np.count_nonzero(footprint) / footprint.size
    if covered < 1:
        steps.append(Step("alignment", f"{image.name} covers {covered:.1%} of {target.name}", {"covered": covered}))
    middle = pixel_map(np.array([y]), np.array([x]))
    offset = (float(middle[0][0] - y), float(middle[1][0] - x))
    return Aligned(
        moved.with_(wcs=target.wcs),
        footprint,
        registration.method,
        shift is None,
        scatter,
        offset,
        matrix,
        n_matched,
        steps,
        pixel_map,
        map_error,
        factor,
        overlap,
    )


def _overlap(image: Image, target: Target, footprint: np.ndarray, matrix: np.ndarray, least: float) -> float:
    """Return the common area over that of the smaller frame; raise if it is below `least`."""
    common = np.count_nonzero(footprint)
    area = float(abs(np.linalg.det(matrix)))  # source pixels in a target pixel
    whole = min(footprint.size, image.data.size / area if area > 0 else footprint.size)
    overlap = min(1.0, common / max(whole, 1.0))
    if overlap < least:
        msg = (
            f"{image.name} and {target.name} overlap by {overlap:.1%} of the smaller frame ({common} pixels), less "
            f"than min_overlap={least:g}; check that they show one field, or allow it: min_overlap={overlap * 0.9:.2g}"
        )
        raise AlignmentError(msg)
    return overlap


def looked_at(image: Image, target: Target, grid: GridMap) -> tuple[np.ndarray, np.ndarray, Coordinates, np.ndarray]:
    """Return rows and columns of the target, the map there, and where that lies in the image.

    Every eighth pixel each way tells how a map runs; all of them if none of those falls on the image.
    """
    ny, nx = image.shape
    for step in (8, 1):
        rows, columns = (np.unique(np.append(np.arange(0, n, step), n - 1)) for n in target.shape)
        y, x = grid.at(rows, columns)
        inside = (y >= -0.5) & (y <= ny - 0.5) & (x >= -0.5) & (x <= nx - 0.5)
        if inside.any():
            break
    if not inside.any():
        _raise_apart(image, target)
    return rows, columns, (y, x), inside


def whole_shift(
    image: Image, target: Target, registration: Registration, moves: Coordinates
) -> tuple[tuple[int, int] | None, tuple[float, float]]:
    """Whole-pixel shift (y, x) that a map's moves amount to, or None; and the rms (y, x) that applying it leaves."""
    limit = registration.limit
    largest = max(float(np.abs(move).max()) for move in moves)
    if registration.method == "wcs+stars" and largest <= _LYING and _one_grid(image, target):
        # Frames written on one grid stay as they are unless the sky is plainly elsewhere.
        limit = _LYING
    whole = tuple(round(float(np.median(move))) for move in moves)
    left = [move - w for move, w in zip(moves, whole, strict=True)]
    if max(float(np.abs(rest).max()) for rest in left) > limit:
        return None, (0.0, 0.0)
    rms = [float(np.sqrt(np.mean(rest**2))) for rest in left]
    return (whole[0], whole[1]), (rms[0], rms[1])


def _one_grid(image: Image, target: Target) -> bool:
    """Whether both WCS put the same sky on the same pixels."""
    if image.shape != target.shape:
        return False
    ny, nx = target.shape
    y, x = np.meshgrid(np.linspace(0, ny - 1, 5), np.linspace(0, nx - 1, 5), indexing="ij")
    there = SkyMap(target.wcs, image.wcs)(y, x)
    return bool(np.all(np.hypot(there[0] - y, there[1] - x) < _SAME))


def _planes(image: Image) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Return data, variance and mask, with NaN pixels in the mask."""
    mask = np.zeros(image.shape, np.uint8) if image.mask is None else image.mask
    if mask.dtype == bool:
        mask = mask.astype(np.uint8)
    unmarked = image.bad & (mask == 0)
    if unmarked.any():
        mask = np.where(unmarked, np.asarray(PixelFlag.BAD_SCIENCE, mask.dtype), mask)
    return image.data, image.variance, mask


def _shifted(
    image: Image, target: Target, shift: tuple[int, int], residual: tuple[float, float]
) -> tuple[Image, np.ndarray, Step]:
    """Move by whole pixels, or not at all."""
    left = f"; y {residual[0]:.3f}, x {residual[1]:.3f} px (rms) left in place" if max(residual) > _SAME else ""
    values = {
        "resampled": False,
        "shift_y": shift[0],
        "shift_x": shift[1],
        "left_y": residual[0],
        "left_x": residual[1],
    }
    if shift == (0, 0) and image.shape == target.shape:
        text = f"{image.name} is on the grid of {target.name}: not resampled{left}"
        return image, np.ones(target.shape, bool), Step("alignment", text, values)
    warped = shift_image(_planes(image), target.shape, shift)
    text = f"{image.name} moved by whole pixels, y {-shift[0]:+d}, x {-shift[1]:+d}: not interpolated{left}"
    psf = shift_psf(image.psf, target.shape, shift)
    moved = image.with_(data=warped.data, variance=warped.variance, mask=warped.mask, psf=psf)
    return moved, warped.footprint, Step("alignment", text, values)


def _resampled(image: Image, grid: GridMap, matrix: np.ndarray, options: Options) -> tuple[Image, np.ndarray, Step]:
    """Interpolate; what is counted in pixels (sky, saturation, read noise, PSF) follows the pixel's size."""
    warped = warp_image(_planes(image), grid.full(), kernel=options.kernel, backend=options.backend)
    area = warped.area
    text = (
        f"{image.name} resampled ({options.kernel}), flux conserved, pixel area x {area:.5g}; "
        f"single pixels vary {warped.noise_factor:.3f} times their variance because neighbours now correlate; "
        f"the map is right to {max(grid.error, 1e-6):.1g} px"
    )
    psf = image.psf
    if isinstance(psf, PSF):
        psf = replace(psf, data=warp_stamp(psf.data, matrix, kernel=options.kernel), fwhm=psf.fwhm / np.sqrt(area))
        text += "; its PSF carried along"
    elif psf is not None:
        psf = warp_psf(psf, grid.pixel_map, grid.shape, kernel=options.kernel)
        text += "; its varying PSF carried along"
    moved = image.with_(
        data=warped.data,
        variance=warped.variance,
        mask=warped.mask,
        psf=psf,
        background_level=image.background_level * area,
        saturation=None if image.saturation is None else image.saturation * area,
        read_noise=None if image.read_noise is None else image.read_noise * float(np.sqrt(area)),
    )
    values = {
        "resampled": True,
        "kernel": options.kernel,
        "area": area,
        "pixel_variance_factor": warped.noise_factor,
        "map_error": grid.error,
    }
    return moved, warped.footprint, Step("alignment", text, values)


def _measured(
    image: Image,
    target: Target,
    registration: Registration,
    middle: tuple[int, int],
    scatter: tuple[float, float] | None,
) -> Step:
    """Say how the map was found."""
    y, x = (float(plane[0]) for plane in registration.pixel_map(np.array([middle[0]]), np.array([middle[1]])))
    values: dict[str, Any] = {"method": registration.method, "offset_y": y - middle[0], "offset_x": x - middle[1]}
    where = f"offset y {y - middle[0]:+.3f}, x {x - middle[1]:+.3f} px"
    if registration.fit is None or scatter is None:
        text = f"{image.name} placed on {target.name} by world coordinates: {where}"
        return Step("alignment", text, values)
    fit, n = registration.fit, int(registration.fit.keep.sum())
    by = "stars" if registration.method == "stars" else f"world coordinates corrected ({fit.model}) by stars"
    model = f", {fit.model}" if registration.method == "stars" else ""
    text = (
        f"{image.name} placed on {target.name} by {by}: {n} of {fit.keep.size} matched{model}, {where}, "
        f"scatter y {scatter[0]:.3f}, x {scatter[1]:.3f} px"
    )
    values |= {"model": fit.model, "n_matched": n, "scatter_y": scatter[0], "scatter_x": scatter[1]}
    return Step("alignment", text, values)


def _raise_apart(image: Image, target: Target) -> NoReturn:
    """Raise the error for images that share no sky."""
    if image.wcs is None or target.wcs is None:
        msg = f"{image.name} does not overlap {target.name}"
        raise AlignmentError(msg)
    msg = (
        f"{image.name} and {target.name} share no sky: the one is at {describe_footprint(image.wcs, image.shape)}, "
        f"the other at {describe_footprint(target.wcs, target.shape)}. If a WCS is wrong, use method='stars'"
    )
    raise WcsError(msg)
