"""The compiled star finder against its reference: the same peaks, significances to float32, shapes to convergence."""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu.ops.star_moments import moment_limits, shapes_of, star_moments
from astrid_gpu.ops.star_peaks import filter_widths, peak_reach, star_peaks
from tests.star_fields import star_field

pytest.importorskip("numba", reason="the twins need Numba")


def crowd(rng, shape, *, fwhm=3.0, bad=0.01, block=True):
    """A field of stars with holes, a corner of bad pixels as large as the filter's reach, and uneven noise."""
    field = star_field(rng, shape=shape, n=shape[0] * shape[1] // 600, snr=(4, 300), fwhm=fwhm, margin=0.0)
    holes = rng.uniform(size=shape) < bad
    if block:
        holes[: shape[0] // 3, -shape[1] // 4 :] = True
    data = field.subtracted().data.astype(np.float32)
    data[holes] = np.nan
    rms = field.sigma * (1 + 0.5 * np.linspace(0, 1, shape[1]) * np.ones(shape[0])[:, None])
    return data, holes, field.sigma, rms


@pytest.mark.parametrize("shape", [(97, 130), (64, 257), (33, 40)])
@pytest.mark.parametrize("fwhm", [1.2, 3.0, 7.3])
@pytest.mark.parametrize("noise", ["one", "map"])
def test_star_peaks(rng, shape, fwhm, noise):
    from astrid_gpu.kernels.star_peaks_numba import star_peaks as compiled

    data, holes, sigma, uneven = crowd(rng, shape, fwhm=fwhm)
    rms = np.asarray(sigma) if noise == "one" else np.where(holes, np.nan, uneven)
    clean = np.where(holes, 0, data)
    how = filter_widths(fwhm), peak_reach(fwhm), 5.0
    expected = star_peaks(clean, holes, np.asarray(sigma) if noise == "one" else uneven, *how)
    found = compiled(data, holes, rms, *how)
    assert len(expected[0]) > (3 if min(shape) > 40 else 0)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    # Sums of some hundred float32 products of either sign: a few ulp of the largest, which the source itself is.
    np.testing.assert_allclose(found[2], expected[2], rtol=3e-6)
    np.testing.assert_allclose(found[3], expected[3], rtol=3e-6)


def test_star_peaks_of_nothing_and_of_tiny_units(rng):
    from astrid_gpu.kernels.star_peaks_numba import star_peaks as compiled

    blank = rng.normal(size=(50, 60)).astype(np.float32)
    good = np.zeros(blank.shape, bool)
    how = filter_widths(3.0), peak_reach(3.0)
    assert all(len(column) == 0 for column in compiled(blank, good, 1.0, *how, 9.0))
    assert all(len(column) == 0 for column in compiled(blank, ~good, 1.0, *how, 5.0))
    data, holes, sigma, _ = crowd(rng, (64, 64))
    y, x, snr, flux = compiled(data, holes, sigma, *how, 5.0)
    # Physical units: 1 / rms² alone would overflow float32.
    small = compiled(data.astype(float) * 1e-25, holes, sigma * 1e-25, *how, 5.0)
    np.testing.assert_array_equal(small[0], y)
    np.testing.assert_array_equal(small[1], x)
    np.testing.assert_allclose(small[2], snr, rtol=1e-5)
    np.testing.assert_allclose(small[3], flux * 1e-25, rtol=1e-5)


@pytest.mark.parametrize("fwhm", [1.3, 3.0, 8.0])
def test_star_moments(rng, fwhm):
    from astrid_gpu.kernels.star_moments_numba import star_moments as compiled

    data, holes, sigma, _ = crowd(rng, (150, 190), fwhm=fwhm, block=False)
    y, x, _, _ = star_peaks(np.where(holes, 0, data), holes, sigma, filter_widths(fwhm), peak_reach(fwhm), 5.0)
    y, x = np.append(y, [0, 149, 70]), np.append(x, [0, 189, 189])  # windows beyond the frame
    expected, found = (
        shapes_of(y, x, function(data, holes, y, x, moment_limits(fwhm))) for function in (star_moments, compiled)
    )
    np.testing.assert_array_equal(found.converged, expected.converged)
    assert expected.converged.sum() > 20
    for name in ("y", "x", "fwhm", "ellipticity"):
        # One of them may take a round more where the change is within rounding of the limit.
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=0, atol=1e-3)
        assert np.median(np.abs(getattr(found, name) - getattr(expected, name))) < 1e-9


def test_a_frame_that_cannot_be_written_is_not_compiled_for_anew(rng):
    from astrid_gpu.kernels import star_peaks_numba

    data, holes, sigma, _ = crowd(rng, (64, 64))
    how = sigma, filter_widths(3.0), peak_reach(3.0), 5.0
    first = star_peaks_numba.star_peaks(data, holes, *how)
    known = len(star_peaks_numba._filter_band.signatures)
    data.setflags(write=False)
    holes.setflags(write=False)
    again = star_peaks_numba.star_peaks(data, holes, *how)
    assert len(star_peaks_numba._filter_band.signatures) == known
    np.testing.assert_array_equal(again[2], first[2])
