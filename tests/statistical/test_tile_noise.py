"""Noise whose correlation changes over the frame: a spectrum for each tile, unit S_corr and honest fluxes everywhere.

Noise is resampled by a fraction of a pixel that depends on the place, as a distorted WCS or a mosaic of several
exposures leaves it. S_corr is correlated over a PSF, n pixels hold n / 25 independent ones: the width of a region of
200 x 200 is good to sqrt(25 / 2 n) = 0.018, that of half of the frame to 0.007. Spectra of tiles add 1 %.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

import astrid_gpu as ag
from tests.scenes import blurred, moffat_psf

SHAPE = (600, 1000)
PSFS = moffat_psf(3.2), moffat_psf(2.8)
SIGMA = 5.0, 2.0
FLUX = 1.0, 0.6


def resampled(noise, part, power=1):
    """Noise (ny + 1, nx + 1) shifted by a fraction of a pixel in y and x; with `power` 2 what becomes of variances."""
    weights = (1 - part) ** 2, part * (1 - part), part * (1 - part), part**2
    moved = noise[1:, 1:], noise[:-1, 1:], noise[1:, :-1], noise[:-1, :-1]
    return sum(a * w**power for a, w in zip(moved, weights, strict=True))


def phase(kind):
    """Fraction of a pixel that the noise was shifted by, over the frame."""
    x = np.arange(SHAPE[1]) * np.ones(SHAPE)
    return {
        "halves": np.where(x < SHAPE[1] // 2, 0.0, 0.5),
        "smooth": 0.5 * x / SHAPE[1],
        "white": 0 * x,
        "alike": 0 * x + 0.5,
    }[kind]


class Made(NamedTuple):
    """A pair of images, and where new sources are and how bright."""

    images: list
    places: np.ndarray
    flux: float


def made(rng, kind, *, stated="pixels", stars=120, step=0):
    """Make a pair. `stated`: variances of the pixels as they are, or of those before they were resampled."""
    part, (ny, nx) = phase(kind), SHAPE
    static = [(rng.uniform(0, ny), rng.uniform(0, nx), 1e3 * (1 + rng.pareto(1.2))) for _ in range(stars)]
    places = np.array([(y, x) for y in range(40, ny - 30, step) for x in range(40, nx - 30, step)] if step else [])
    flux = 1300.0
    images = []
    for role, psf, sigma, scale in zip(("science", "reference"), PSFS, SIGMA, FLUX, strict=True):
        sky = scale * blurred([(y, x, min(f, 1e5)) for y, x, f in static], (ny + 1, nx + 1), psf)
        if role == "science" and step:
            sky = sky + blurred([(y + 1, x + 1, flux) for y, x in places], (ny + 1, nx + 1), psf)
        variance = sigma**2 + np.maximum(sky, 0) / 4
        data = sky[1:, 1:] + resampled(np.sqrt(variance) * rng.normal(size=sky.shape), part)
        plane = resampled(variance, part, 2) if stated == "pixels" else variance[1:, 1:]
        images.append(ag.Image(data.astype(np.float32), variance=plane.astype(np.float32), name=role))
    return Made(images, places, flux)


def difference(pair, **options):
    known = {"psf_science": PSFS[0], "psf_reference": PSFS[1], "align": "none", "registration": "none"}
    return ag.subtract(*pair.images, renormalise="none", **known | options)


def width(diff, columns):
    values = diff.score_corr[20:-20, columns]
    low, high = np.nanpercentile(values[np.isfinite(values)], [15.865, 84.135])
    return (high - low) / 2


def widths(diff, n=5):
    """Robust widths of S_corr in n columns of the frame."""
    edges = np.linspace(0, SHAPE[1], n + 1).astype(int)
    return np.array([width(diff, slice(max(20, a), min(SHAPE[1] - 20, b))) for a, b in zip(edges, edges[1:])])


def told(diff):
    return [step for step in diff.steps if "n_own" in step.values]
