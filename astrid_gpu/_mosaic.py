"""Preparing a pair too large for the memory: by blocks, with PSFs, flux ratio and registration of the whole.

What the stages of `_prepare` do to a frame they do here to overlapping blocks, read from the files as they are needed;
what comes of them goes to scratch files. What is measured on stars is measured on the stars of all blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from astrid_gpu._exposure import SATURATED, Exposure, own_stages, scaled_sigma, stars_of
from astrid_gpu._flux_ratio import FluxRatio, flux_ratio, level_step, usable_beta
from astrid_gpu._given import Given, Models, choose_psfs, read_given
from astrid_gpu._host_ops import both
from astrid_gpu._masks import pair_flags
from astrid_gpu._mosaic_align import Placement, gather_stars, locate
from astrid_gpu._noise_model import NoiseModel, noise_model
from astrid_gpu._prepare import CORRELATED, Matched, Pair, PairPreparer, noise_step, ratio_steps, timed
from astrid_gpu._psf_check import warn_of_psfs
from astrid_gpu._register import Options
from astrid_gpu._registration import LARGE_SHIFT, Registered, plan_registration
from astrid_gpu._star_find import Stars
from astrid_gpu._window_residual import residual_in
from astrid_gpu.align import Aligned
from astrid_gpu.config import SubtractConfig
from astrid_gpu.errors import AlignmentError, InputError
from astrid_gpu.flags import PixelFlag
from astrid_gpu.image import PSF, Image
from astrid_gpu.io.frames import ScratchFolder
from astrid_gpu.kernels._memory import forget
from astrid_gpu.results import Background, Step
from astrid_gpu.stars import STAR_DTYPE
from astrid_gpu.tiles import Tiles

__all__ = ["BLOCK", "MARGIN", "Mosaic"]

BLOCK = 1536
"""Side of the interior of a block, pixels."""

MARGIN = 192
"""Pixels on every side beside it: three boxes of the background's mesh, twice the reach of any kernel."""

_TRIALS, _TRIED = (
    4,
    512,
)  # windows along each axis, from edge to edge, on which the noise model is tried; their side, px
_MOST_STARS = 20_000


@dataclass
class _Planes:
    """What the blocks of both images became, on the science grid: arrays, or frames on disk."""

    science: Any
    reference: Any
    variance_science: Any
    variance_reference: Any
    flags: np.ndarray
    details: np.ndarray | None = None


@dataclass
class _Notes:
    """What the stages said of the blocks."""

    sigma: list[tuple[float, float]] = field(default_factory=list)
    exposures: dict[int, tuple[Exposure, Exposure, Aligned]] = field(default_factory=dict)
    stars: tuple[list[np.ndarray], list[np.ndarray]] = field(default_factory=lambda: ([], []))
    empty: list[str] = field(default_factory=list)


class Mosaic:
    """Prepares a pair by blocks.

    Parameters
    ----------
    science, reference : Image
        Their planes arrays, or frames on disk.
    config : SubtractConfig
        grid="reference" is not for this way.
    given : Given
    """

    def __init__(self, science: Image, reference: Image, config: SubtractConfig, given: Given) -> None:
        self.science, self.reference, self.config = science, reference, config
        self.given = read_given(given, science.shape)
        self.blocks = Tiles(science.shape, BLOCK, MARGIN)
        self.notes = _Notes()

    def prepare(self) -> Pair:
        """Run every stage.

        Raises
        ------
        AstridGpuError
            As the stages do of whole frames.
        """
        profile: dict[str, float] = {}
        with timed(profile, "alignment"):
            placement = locate(self.science, self.reference, self.config, self._find)
        with timed(profile, "background and noise"):
            planes = self._own(placement)
        stars = [_merged(found) for found in self.notes.stars]
        sigma = tuple(float(s) for s in np.median(self.notes.sigma, axis=0))
        images = list(self._whole(planes, placement))
        with timed(profile, "PSFs"):
            psfs, models, psf_steps = choose_psfs(images[0], images[1], stars, self.given, self.config)
            warn_of_psfs(psf_steps)
        with timed(profile, "flux ratio and registration"):
            matched = self._match(planes, images, stars, psfs, models, placement, sigma)
        steps = [*self._steps(placement), *psf_steps, *matched.steps]
        sigma_n, sigma_r = (
            s * matched.factor * float(np.sqrt(by)) for s, by in zip(sigma, matched.noise.scales, strict=True)
        )
        sci, aligned = self._gathered(planes, placement, sigma_n)
        known = planes.flags, planes.details
        preparer = PairPreparer(self.reference, self.config, self.given)
        pair = preparer.pair(sci, aligned, sigma_r, psfs, matched, steps, profile, known)
        return replace(pair, psf_models=models, flux_model=matched.model, short_of_memory=True)

    def _find(self, image: Image, options: Options) -> Stars:
        """Return the brightest stars of a frame, looked for block by block."""
        blocks = Tiles(image.shape, BLOCK, 32)
        several = replace(options, max_stars=max(10, 3 * options.max_stars // len(blocks)))
        windows = (
            (_window(image, blocks.window(k)), tuple(blocks.corners[k].tolist()), blocks.inner(k))
            for k in range(len(blocks))
        )
        return gather_stars(windows, several if len(blocks) > 1 else options, options.max_stars)  # type: ignore[arg-type]

    def _own(self, placement: Placement) -> _Planes:
        """Run the stages of single images on every block, bring the reference to it, and keep what is inside."""
        shape, scratch = self.science.shape, ScratchFolder()
        science, reference, *variances = (scratch.frame(shape, self._dtype()) for _ in range(4))
        planes = _Planes(science, reference, variances[0], variances[1], np.zeros(shape, np.uint8))
        for k in range(len(self.blocks)):
            try:
                found = self._block(k, placement)
            except InputError as error:  # nothing usable in this block
                self.notes.empty.append(str(error))
                self._blank(k, planes)
                continue
            if found is None:
                self._blank(k, planes)
                continue
            self._keep(k, planes, *found)
            forget()
        if not self.notes.sigma:
            self._refuse(placement)
        covered = 1 - np.count_nonzero(planes.flags & int(PixelFlag.NO_DATA)) / planes.flags.size
        if covered < self.config.min_overlap:
            msg = (
                f"{self.reference.name} covers {covered:.1%} of {self.science.name}, less than "
                f"min_overlap={self.config.min_overlap:g}; check that they show one field"
            )
            raise AlignmentError(msg)
        return planes

    def _dtype(self) -> np.dtype:
        """Return the type of the planes: float64 if both images are, else float32."""
        kinds = {np.dtype(image.data.dtype) for image in (self.science, self.reference)}
        return np.dtype(np.float64 if kinds == {np.dtype(np.float64)} else np.float32)

    def _refuse(self, placement: Placement) -> None:
        """Say why no block could be used."""
        if self.notes.empty:
            raise InputError(self.notes.empty[0])
        msg = f"{self.reference.name} does not overlap {self.science.name}: {placement.steps[-1].text}"
        raise AlignmentError(msg)

    def _block(self, k: int, placement: Placement) -> tuple[Exposure, Exposure, Aligned, float] | None:
        """Return science and reference of a block after their own stages, on one grid, and the reference's sigma."""
        window = self.blocks.window(k)
        there = placement.window(*window, self.reference.shape)
        if there is None:
            return None
        here, other = _window(self.science, window), _window(self.reference, there)
        sigmas = self.given.sigma_science, self.given.sigma_reference
        sci, ref = both(
            lambda: own_stages(here, self.config, sigmas[0], "science"),
            lambda: own_stages(other, self.config, sigmas[1], "reference"),
        )
        try:
            aligned = placement.place(ref.image, there, sci.image, tuple(self.blocks.corners[k].tolist()))
        except AlignmentError:  # the map misses it after all
            return None
        return sci, ref, aligned, scaled_sigma(ref, aligned)

    def _keep(self, k: int, planes: _Planes, sci: Exposure, ref: Exposure, aligned: Aligned, sigma_r: float) -> None:
        """Write the interior of a block to the planes and its stars to the lists."""
        interior, inner = self.blocks.interior(k), self.blocks.inner(k)
        corner = self.blocks.corners[k]
        stars = both(lambda: stars_of(sci.image, sci.sigma), lambda: stars_of(aligned.image, sigma_r))
        for found, kept in zip(stars, self.notes.stars, strict=True):
            inside = (found["y"] >= inner[0].start - 0.5) & (found["y"] < inner[0].stop - 0.5)
            inside &= (found["x"] >= inner[1].start - 0.5) & (found["x"] < inner[1].stop - 0.5)
            mine = found[inside].copy()
            mine["y"] += corner[0]
            mine["x"] += corner[1]
            kept.append(mine)
        planes.science[interior] = sci.image.data[inner]
        planes.reference[interior] = aligned.image.data[inner]
        planes.variance_science[interior] = _usable(sci.image.known_variance, sci.sigma)[inner]
        planes.variance_reference[interior] = _usable(aligned.image.known_variance, sigma_r)[inner]
        flags, details = pair_flags(sci.image, aligned)
        planes.flags[interior] = flags[inner]
        if details is not None and details[inner].any():
            if planes.details is None:
                planes.details = np.zeros(planes.flags.shape, details.dtype)
            planes.details[interior] = details[inner]
        self.notes.sigma.append((sci.sigma, sigma_r))
        slim = [replace(e, image=e.image.with_(data=np.zeros((1, 1)), variance=None, mask=None)) for e in (sci, ref)]
        blank = Background(None, None, None)
        slim = [replace(e, background=blank) for e in slim]
        small = replace(aligned, image=slim[1].image, footprint=np.ones((1, 1), bool))
        self.notes.exposures[k] = slim[0], slim[1], small

    def _blank(self, k: int, planes: _Planes) -> None:
        """Mark a block in which there is nothing to compare."""
        interior = self.blocks.interior(k)
        planes.flags[interior] = int(PixelFlag.NO_DATA)
        planes.science[interior] = planes.reference[interior] = np.nan
        planes.variance_science[interior] = planes.variance_reference[interior] = 1.0

    def _whole(self, planes: _Planes, placement: Placement) -> tuple[Image, Image]:
        """Return both images whole, their planes mapped from the scratch files, for what looks at stars only."""
        bits = (
            (PixelFlag.BAD_SCIENCE | PixelFlag.COSMIC_RAY_SCIENCE, PixelFlag.SATURATED_SCIENCE),
            (PixelFlag.BAD_REFERENCE | PixelFlag.NO_DATA, PixelFlag.SATURATED_REFERENCE),
        )
        data = (planes.science, planes.variance_science), (planes.reference, planes.variance_reference)
        whole = []
        for image, (pixels, variance), (bad, saturated) in zip((self.science, self.reference), data, bits, strict=True):
            mask = ((planes.flags & int(bad)) != 0).view(np.uint8)
            mask |= np.where(planes.flags & int(saturated), np.uint8(SATURATED), np.uint8(0))
            psf = image.psf if image is self.science else self._carried(placement)
            whole.append(image.with_(data=pixels.mapped(), variance=variance.mapped(), mask=mask, psf=psf))
        return whole[0], whole[1]

    def _carried(self, placement: Placement) -> Any:
        """Return the reference's own PSF on the science grid: as it is, or as the blocks carried it there."""
        if not placement.resampled and placement.shift == (0, 0):
            return self.reference.psf
        return self.notes.exposures[self._middle()][2].image.psf

    def _match(
        self,
        planes: _Planes,
        images: list[Image],
        stars: list[np.ndarray],
        psfs: tuple[PSF, PSF],
        models: Models,
        placement: Placement,
        sigma: tuple[float, ...],
    ) -> Matched:
        """Flux ratio and registration from all stars; then, by blocks, the reference moved and the sky levelled."""
        left = placement.residual if placement.registration is not None else None
        how: dict[str, Any] = {"psf_models": models}
        level, model = self._even(planes, images, stars, psfs, how), None
        if level is not None:
            model = level.model
            images[1] = self._whole(planes, placement)[1]
        ratio = flux_ratio(images[0], images[1], *psfs, *stars, **how)
        registered = plan_registration(self.science.shape, left, ratio, self.config, self.given)
        moved = self._moved(planes, registered, psfs[1], sigma[1])
        if registered.moved > LARGE_SHIFT:
            there = images[1].with_(data=moved)
            ratio = flux_ratio(images[0], there, *psfs, *stars, **how).moved_from(ratio)
            del there
            if registered.field is None:
                registered = plan_registration(self.science.shape, left, ratio, self.config, self.given)
                moved = self._moved(planes, registered, psfs[1], sigma[1])
        planes.reference = moved
        forget()
        images.clear()  # and with them what is mapped of the scratch files
        beta = usable_beta(ratio, self.given.flux_ratio)
        factor, found, noise, step = self._levelled(planes, psfs, beta)
        levelled = [] if level is None else [level_step(level)]
        told = [*ratio_steps(ratio, self.given), *levelled, *registered.steps]
        told += [step, *noise.steps, noise_step(factor, found)]
        return Matched(ratio, replace(registered, reference=moved), factor, noise, told, model)

    def _even(
        self,
        planes: _Planes,
        images: list[Image],
        stars: list[np.ndarray],
        psfs: tuple[PSF, PSF],
        how: dict[str, Any],
    ) -> FluxRatio | None:
        """Level the reference by the flux ratio where that varies over the field; return what was measured."""
        if self.given.flux_ratio is not None or self.config.flux_order == 0:
            return None
        found = flux_ratio(images[0], images[1], *psfs, *stars, **how, order=self.config.flux_order)
        if found.model is None:
            return None
        for k in range(len(self.blocks)):
            interior = self.blocks.interior(k)
            y, x = np.ogrid[interior]
            factor = (found.model.at(y, x) / found.beta).astype(planes.reference.dtype)
            planes.reference[interior] = planes.reference[interior] * factor
            planes.variance_reference[interior] = planes.variance_reference[interior] * factor**2
        return found

    def _moved(self, planes: _Planes, registered: Registered, psf: PSF, noise: float) -> np.ndarray:
        """Return the reference moved by what the stars show, in memory."""
        out = np.empty(planes.flags.shape, planes.reference.dtype)
        bad = int(PixelFlag.BAD_REFERENCE | PixelFlag.SATURATED_REFERENCE | PixelFlag.NO_DATA)
        for k in range(len(self.blocks)):
            window = self.blocks.window(k)
            image = Image(planes.reference[window], mask=((planes.flags[window] & bad) != 0).view(np.uint8))
            origin = tuple(self.blocks.corners[k].tolist())
            moved = image.data if image.bad.all() else registered.move(image, psf, noise, origin)
            out[self.blocks.interior(k)] = moved[self.blocks.inner(k)]
            forget()
        return out

    def _levelled(self, planes: _Planes, psfs: tuple[PSF, PSF], beta: float) -> tuple[float, float, NoiseModel, Step]:
        """Take the sky that is left in the difference off the science image; return what its noise proved to be."""
        noise, found = self._noise(planes, psfs, beta)
        factor = found if found >= CORRELATED else 1.0
        scales = factor**2 * noise.scales[0], factor**2 * noise.scales[1]
        science = np.empty(planes.flags.shape, planes.science.dtype)
        levels, widths, how = [], [], "one level"
        for k in range(len(self.blocks)):
            interior, inner = self.blocks.interior(k), self.blocks.inner(k)
            science[interior] = planes.science[interior]
            left = residual_in(planes, self.blocks.window(k), psfs, beta, noise.stamps, scales, self.config.box)
            forget()
            if left is None:
                continue
            if self.config.background:
                science[interior] -= left.level[inner]
            levels.append(float(np.median(left.level[inner])))
            widths.append(left.width)
            how = left.how
        planes.science = science
        for plane, by in zip((planes.variance_science, planes.variance_reference), scales, strict=True):
            for k in range(len(self.blocks) if by != 1.0 else 0):
                interior = self.blocks.interior(k)
                plane[interior] = plane[interior] * plane.dtype.type(by)
        middle = float(np.median(levels)) if levels else 0.0
        did = "taken off" if self.config.background else "left, as asked"
        text = f"{self.science.name}: {middle:+.4g} a pixel left in the difference, {did} ({how}, by blocks)"
        return factor, _typical(widths), noise, Step("background", text, {"offset": middle})

    def _noise(self, planes: _Planes, psfs: tuple[PSF, PSF], beta: float) -> tuple[NoiseModel, float]:
        """Measure the noise over the whole frame; return what it is taken for and how the difference bears that out."""
        mode = self.config.noise
        images, variances = (planes.science, planes.reference), (planes.variance_science, planes.variance_reference)
        measured = noise_model(mode, images, variances, psfs, beta, planes.flags != 0)
        white = self._tried(planes, psfs, beta, NoiseModel()) if mode == "auto" or not measured.coloured else 1.0
        noise = measured.tested(mode, white)
        if not noise.coloured:
            return noise, white
        found = self._tried(planes, psfs, beta, noise)
        noise = noise.borne_out(mode, found)
        return noise, found if noise.coloured else white

    def _tried(self, planes: _Planes, psfs: tuple[PSF, PSF], beta: float, noise: NoiseModel) -> float:
        """Return how much the smoothed difference of some windows varies over what the noise model says."""
        windows = Tiles(planes.flags.shape, _TRIED, 0)
        rows, columns = (np.linspace(0, n - 1, min(n, _TRIALS)).astype(int) for n in windows.grid)
        widths = []
        for k in (rows[:, None] * windows.grid[1] + columns).ravel().tolist():
            found = residual_in(planes, windows.interior(k), psfs, beta, noise.stamps, noise.scales, self.config.box)
            if found is not None:
                widths.append(found.width)
        forget()
        return _typical(widths)

    def _gathered(self, planes: _Planes, placement: Placement, sigma: float) -> tuple[Exposure, Aligned]:
        """Return the whole frames as the stages return them."""
        sci, _, aligned = self.notes.exposures[self._middle()]
        image = self.science.with_(data=planes.science, variance=planes.variance_science, mask=None, psf=None)
        image = image.with_(background_level=sci.image.background_level)
        there = self.reference.with_(
            data=planes.reference, variance=planes.variance_reference, mask=None, psf=None, wcs=self.science.wcs
        )
        footprint = (planes.flags & int(PixelFlag.NO_DATA)) == 0
        whole = replace(aligned, image=there, footprint=footprint, resampled=placement.resampled, steps=placement.steps)
        return Exposure(image, Background(None, None, None), sigma, []), whole

    def _middle(self) -> int:
        """Return the number of the usable block nearest to the middle of the frame."""
        numbers = np.array(list(self.notes.exposures))
        off = self.blocks.centres[numbers] - np.array(self.science.shape) / 2
        return int(numbers[np.argmin(np.hypot(*off.T))])

    def _steps(self, placement: Placement) -> list[Step]:
        """Tell how the frame was prepared: what the stages said of the block in the middle, and the spread of noise."""
        k, n = self._middle(), len(self.blocks)
        sci, ref, _ = self.notes.exposures[k]
        sigma = np.array(self.notes.sigma)
        low, high = sigma.min(axis=0), sigma.max(axis=0)
        text = (
            f"prepared in {n} blocks of up to {self.blocks.tile_shape[0]}x{self.blocks.tile_shape[1]} px, which is "
            f"what the memory allows; background noise {low[0]:.4g} to {high[0]:.4g} a pixel in the science image, "
            f"{low[1]:.4g} to {high[1]:.4g} in the reference; what follows was said of block {k}"
        )
        values = {"n_blocks": n, "n_empty": n - len(self.notes.exposures), "block": k}
        return [Step("blocks", text, values), *sci.steps, *ref.steps, *placement.steps]


def _window(image: Image, window: tuple[slice, slice]) -> Image:
    """Return a window of an image as arrays, without what belongs to the whole frame."""

    def part(plane: Any) -> Any:
        return None if plane is None else np.ascontiguousarray(plane[window])

    return image.with_(
        data=part(image.data), variance=part(image.variance), mask=part(image.mask), wcs=None,
        psf=image.psf if isinstance(image.psf, PSF) else None,
    )  # fmt: skip


def _usable(variance: np.ndarray, sigma: float) -> np.ndarray:
    """Return a variance that is positive and finite everywhere."""
    usable = np.isfinite(variance) & (variance > 0)
    return variance if usable.all() else np.where(usable, variance, variance.dtype.type(sigma**2))


def _typical(widths: list[float]) -> float:
    """Return the mean of the middle half of some widths, 1 of none: neither blocks of two kinds nor a few odd ones."""
    widths = sorted(widths)
    middle = widths[len(widths) // 4 : len(widths) - len(widths) // 4]
    return float(np.mean(middle)) if middle else 1.0


def _merged(parts: list[np.ndarray]) -> np.ndarray:
    """Return the star lists of all blocks as one, most significant first."""
    stars = np.concatenate(parts) if parts else np.zeros(0, STAR_DTYPE)
    return stars[np.argsort(-stars["snr"], kind="stable")][:_MOST_STARS]
