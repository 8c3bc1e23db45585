"""What the caller knows already, and the PSFs: given with the call, carried by the image, or measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from astrid_gpu._psf_check import check_psf
from astrid_gpu._psf_doubts import doubts_of
from astrid_gpu.config import SubtractConfig
from astrid_gpu.errors import FitsError, InputError, PsfError
from astrid_gpu.image import PSF, Image, PSFModel
from astrid_gpu.io import read_psf_model
from astrid_gpu.psf import MeasuredPsf, measure_one, measure_psf_pair
from astrid_gpu.results import Step

__all__ = ["Given", "Models", "carry_models", "choose_psfs", "read_given"]


@dataclass(frozen=True)
class Given:
    """What the caller knows already; None is estimated."""

    psf_science: Any = None
    psf_reference: Any = None
    sigma_science: float | None = None
    sigma_reference: float | None = None
    flux_ratio: float | None = None
    astrometric_error: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("sigma_science", "sigma_reference", "flux_ratio"):
            value = getattr(self, name)
            if value is None:
                continue
            number = np.asarray(value)
            if number.ndim or number.dtype.kind not in "iuf" or not (np.isfinite(number) and number > 0):
                msg = f"{name} must be one positive number, or None to have it estimated; got {value!r}"
                raise InputError(msg)
            object.__setattr__(self, name, float(number))
        if self.astrometric_error is not None:
            error = np.asarray(self.astrometric_error)
            if error.shape != (2,) or error.dtype.kind not in "iuf" or not np.all(np.isfinite(error) & (error >= 0)):
                msg = (
                    "astrometric_error must be two numbers (y, x) in pixels, none negative, or None to have it "
                    f"estimated; got {self.astrometric_error!r}"
                )
                raise InputError(msg)
            object.__setattr__(self, "astrometric_error", (float(error[0]), float(error[1])))


Models = tuple[PSFModel | None, PSFModel | None]


def choose_psfs(
    science: Image, reference: Image, stars: list[np.ndarray], given: Given, config: SubtractConfig
) -> tuple[tuple[PSF, PSF], Models, list[Step]]:
    """Both PSFs: given with the call, carried by the image, or measured on its stars.

    Returns
    -------
    psfs
        In the middle of the frame.
    models
        Those that vary over the field, None for a constant one.
    steps
    """
    asked = {"science": given.psf_science, "reference": given.psf_reference}
    images = {"science": science, "reference": reference}
    fixed: dict[str, PSF | PSFModel] = {}
    for role, spec in asked.items():
        if spec is not None:
            fixed[role] = spec
        elif images[role].psf is not None:
            fixed[role] = _read_psf(images[role].psf, f"the PSF of the {role} image", images[role].shape)
    measured: dict[str, MeasuredPsf] = {}
    options: dict[str, Any] = {"size": config.psf_size or _stamp_side(stars), "order": config.psf_order}
    if not fixed:
        pair = measure_psf_pair(science, reference, *stars, **options)
        measured = dict(zip(asked, pair, strict=True))
    for role, catalogue in zip(asked, stars, strict=True):
        if role not in fixed | measured:
            measured[role] = measure_one(images[role], catalogue, **options)
    found = {role: _both_forms(fixed[role]) if role in fixed else measured[role] for role in asked}
    steps = [_psf_step(role, found[role], given=role in fixed) for role in asked]
    for role, catalogue in zip(asked, stars, strict=True):
        if role in fixed:
            steps.append(check_psf(role, images[role], catalogue, fixed[role]))
    one, other = found["science"], found["reference"]
    return (one.psf, other.psf), (one.model, other.model), steps


def _both_forms(psf: PSF | PSFModel) -> MeasuredPsf:
    """Return a given PSF and, if it varies, its model."""
    if isinstance(psf, PSFModel):
        return MeasuredPsf(psf.at(), psf if psf.order else None, "")
    return MeasuredPsf(psf, None, "")


def _psf_step(role: str, found: MeasuredPsf, *, given: bool) -> Step:
    """Tell where a PSF comes from, how good it is, whether it varies and what speaks against a measured one."""
    psf, order = found.psf, found.model.order if found.model is not None else 0
    how = f"given ({psf.origin})" if given else f"measured on {psf.n_stars} stars ({psf.origin})"
    over = f", varying over the field (order {order})" if order else ""
    text = f"{role}: PSF {how}{over}, FWHM {psf.fwhm:.2f} px"
    if not given and np.isfinite(psf.residual):
        text += f", stars fit it with a chi-squared of {psf.residual:.3g}"
    text += f"; {found.note}" if found.note else ""
    doubts = [] if given else doubts_of(psf, found.scatter)
    text += f"; in doubt: {'; '.join(doubts)}" if doubts else ""
    values: dict[str, Any] = {
        "fwhm": psf.fwhm,
        "ellipticity": psf.ellipticity,
        "n_stars": psf.n_stars,
        "residual": psf.residual,
        "flux_error": psf.flux_error,
    }
    values |= {"order": order, "origin": psf.origin, "role": role, "doubts": doubts, "width_scatter": found.scatter}
    return Step("psf", text, values)


def read_given(given: Given, shape: tuple[int, int], reference_shape: tuple[int, int] | None = None) -> Given:
    """Read the PSFs that were given with the call, each for the shape of its image, before any work is done."""
    shapes = {"psf_science": shape, "psf_reference": reference_shape or shape}
    read: dict[str, Any] = {
        name: _read_psf(spec, name, shapes[name]) for name in shapes if (spec := getattr(given, name)) is not None
    }
    return replace(given, **read)


def carry_models(science: Image, reference: Image, given: Given) -> tuple[Image, Image, Given]:
    """Hand given PSFs that vary over the field to their images, with which they go to the common grid."""
    if isinstance(given.psf_science, PSFModel):
        science, given = science.with_(psf=given.psf_science), replace(given, psf_science=None)
    if isinstance(given.psf_reference, PSFModel):
        reference, given = reference.with_(psf=given.psf_reference), replace(given, psf_reference=None)
    return science, reference, given


def _read_psf(spec: Any, name: str, shape: tuple[int, int]) -> PSF | PSFModel:
    """Read a PSF, constant or varying; errors say whose it is."""
    try:
        return read_psf_model(spec, shape=shape)
    except (FitsError, PsfError) as exc:
        msg = f"{name}: {exc}"
        raise type(exc)(msg) from exc


def _stamp_side(stars: list[np.ndarray]) -> int:
    """Choose one side for both PSFs, 12 times the wider FWHM.

    What a stamp cuts off of one PSF and not of the other would go into the flux ratio, and the rest of every star
    into the sky.
    """
    widths = [np.nanmedian(s["fwhm"][good]) for s in stars if (good := (s["snr"] > 10) & np.isfinite(s["fwhm"])).any()]
    return 2 * int(np.ceil(6 * max(widths, default=3.0))) + 1
