"""Values that stand for no data are masked wherever they lie; skies of few values, plateaus and models are not."""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu._masks import BAD, NO_DATA, mask_defects
from astrid_gpu._no_data import no_data, quantum
from astrid_gpu.errors import InputError
from astrid_gpu.flags import PixelFlag
from astrid_gpu.image import Image
from astrid_gpu.ops.psf_stamps import moffat_stamp
from tests.hand_made import add_source

SHAPE = (200, 240)
TILTED = np.abs(np.subtract(*np.indices(SHAPE)[::-1]) * 0.7 + np.indices(SHAPE)[0] * 0.2 - 20) > 90


def field(rng, *, sky=300.0, noise=12.0, noiseless=False):
    """Forty stars on a sky."""
    image, psf = np.zeros(SHAPE), moffat_stamp(3.0, 2.5, 41)
    for y, x, flux in zip(*rng.uniform(0, 1, (2, 40)), rng.uniform(500, 90000, 40), strict=True):
        add_source(image, psf, y * SHAPE[0], x * SHAPE[1], flux)
    return (
        image + sky
        if noiseless
        else image + rng.normal(sky, noise, SHAPE) + rng.normal(0, 0.05, SHAPE) * np.abs(image) ** 0.5
    )


def found(data, bad=None):
    mask, values = no_data(data, np.zeros(data.shape, bool) if bad is None else bad)
    return (np.zeros(data.shape, bool) if mask is None else mask), values


@pytest.mark.parametrize("value", [0.0, -999.0, -32768.0, -1e30, 1e30, float(np.finfo(np.float32).max)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_borders_and_rotated_frames_of_one_value(rng, value, dtype):
    for where in (np.s_[:25], np.s_[:, -3:], TILTED):
        truth = np.zeros(SHAPE, bool)
        truth[where] = True
        data = np.where(truth, value, field(rng)).astype(dtype)
        mask, values = found(data)
        np.testing.assert_array_equal(mask, truth)
        assert values == [(float(dtype(value)), np.count_nonzero(truth))]


@pytest.mark.parametrize("sky", [0.0, 20.0, 45.0, 90.0, -30.0])
def test_zeros_amid_the_noise_of_the_sky(rng, sky):
    """Sky-subtracted, or nearly so: the value is as likely as any, but not five by five of it."""
    data = np.where(TILTED, 0, field(rng, sky=sky)).astype(np.float32)
    scattered = rng.random(SHAPE) < 0.01
    data[scattered & ~TILTED] = 0
    mask, _ = found(data)
    assert mask[TILTED].all()
    assert np.count_nonzero(mask & ~TILTED) <= (20 if sky < 80 else scattered.sum())
    assert np.count_nonzero(found(np.where(TILTED, 0, np.rint(field(rng, sky=sky))))[0] ^ TILTED) < 300


def test_most_of_a_frame_may_be_empty(rng):
    data = field(rng)
    data[:, 30:] = 0
    assert found(data)[0].sum() == data[:, 30:].size
    data[:, :] = 0
    assert found(data)[1] == []


def test_two_values_and_the_rim_that_interpolation_made(rng):
    from scipy.ndimage import map_coordinates

    data = np.where(TILTED, 0, field(rng))
    y, x = np.indices(SHAPE)
    data = map_coordinates(data, [y - 0.4, x + 0.3], order=1, cval=-999.0)
    mask, values = found(data)
    assert [value for value, _ in values] == [0.0, -999.0]
    assert not (mask & (data > 270)).any()
    assert np.count_nonzero(~mask & (data < 150)) == 0


@pytest.mark.parametrize("noise", [0.05, 0.15, 0.3, 0.6, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("sky", [300.0, 300.4, 0.0])
def test_quantised_skies_are_skies(rng, noise, sky):
    for slope in (0.0, 0.01):
        data = np.rint(field(rng, sky=sky, noise=noise) + slope * np.arange(SHAPE[1]))
        for kind in (np.float32, np.int32):
            assert found(data.astype(kind))[1] == []
    data[:20] = -500
    assert found(data)[1] == [(-500.0, 20 * SHAPE[1])]


def test_plateaus_models_counts_and_clipped_skies_hold_data(rng):
    full = np.minimum(field(rng) * 8, 4000.0)
    assert np.count_nonzero(full == 4000.0) > 100
    assert found(full)[1] == []
    model = field(rng, noiseless=True)
    assert found(np.where(model < 300.5, 300.0, model).astype(np.float32))[1] == []
    assert found(rng.poisson(np.abs(field(rng, noiseless=True, sky=0.1))).astype(np.float32))[1] == []
    assert found(np.maximum(rng.normal(0, 5, SHAPE), 0))[1] == []
    column = field(rng)
    column[:, 60] = 0
    assert found(column)[1] == []  # for `bad_lines`


def test_what_the_user_masked_is_left_to_him(rng):
    data = np.where(TILTED, 0, field(rng))
    assert found(data, TILTED)[1] == []


def test_scattered_sentinels(rng):
    data = field(rng).astype(np.float32)
    places = rng.integers(0, 200, (2, 40))
    data[tuple(places)] = -32768
    mask, values = found(data)
    np.testing.assert_array_equal(mask, data == -32768)
    assert values[0][0] == -32768


def test_quantum():
    assert quantum(np.array([3.0, 7.0, 4.0, 3.0])) == 1.0
    assert quantum(np.ones(5)) == 0.0


def test_bits_and_words(rng):
    data = field(rng)
    data[:12], data[50, 60] = 0, np.nan
    image, steps = mask_defects(Image(data, name="n"))
    assert image.mask[5, 6] == NO_DATA
    assert image.mask[50, 60] == BAD
    assert np.isnan(image.data[:12]).all()
    assert steps[0].stage == "no data"
    assert steps[0].text == f"n: {12 * SHAPE[1]} pixels hold no data and are masked: {12 * SHAPE[1]} of 0"
    assert int(PixelFlag.NO_DATA) == NO_DATA


@pytest.mark.parametrize("role", ["science", "reference"])
@pytest.mark.parametrize("value", [0.0, -1e30])
def test_a_filled_border_is_masked_and_makes_no_candidates(role, value):
    pair = ag.simulate.pair(seed=4, shape=(300, 320), n_changes=0, bad_columns=0, bad_fraction=0)
    images = {"science": pair.science, "reference": pair.reference}
    data = images[role].data.copy()
    data[:25], data[:, -15:] = value, value
    diff = ag.subtract(**(images | {role: images[role].with_(data=data)}))
    assert diff.metrics["masked"] == pytest.approx(np.mean(data == np.float32(value)), abs=0.01)
    own = PixelFlag.BAD_SCIENCE if role == "science" else PixelFlag.BAD_REFERENCE
    assert ((diff.mask[5, 5] & int(PixelFlag.NO_DATA | own)) == int(PixelFlag.NO_DATA | own)).all()
    assert np.isnan(diff.difference[:24]).all()
    assert len(ag.detect(diff)) <= 1  # 5.5 sigma of noise at (257, 18), without a border too
    assert any(step.stage == "no data" for step in diff.steps)


def test_a_constant_frame_is_still_refused_in_words(rng):
    image = Image(np.zeros(SHAPE), name="n")
    with pytest.raises(InputError, match="every good pixel has the value 0"):
        ag.subtract(image, image)


def test_a_sky_of_few_photons_has_zeros_and_no_holes(rng):
    """Counts over an exposure, as of GALEX: six pixels in ten are 0, and some of them lie together."""
    counts = rng.poisson(0.48, (240, 240)) * 0.00712
    mask, values = found(counts)
    assert mask is None or not mask.any()
    assert values == []
