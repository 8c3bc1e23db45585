"""`measure_psf` on every backend: the same PSF from the same image, wherever the image lies."""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.errors import InputError
from astrid_gpu.image import Image
from astrid_gpu.stars import find_stars
from tests.star_fields import star_field


def sent(backend, image):
    """The image with its planes where the backend computes."""
    planes = {name: getattr(image, name) for name in ("data", "variance", "mask")}
    return image.with_(**{name: backend.asarray(plane) for name, plane in planes.items() if plane is not None})


@pytest.fixture
def field(rng):
    """40 stars in float32, a bad column, and a saturated star."""
    made = star_field(rng, n=40, shape=(220, 230), snr=(40, 300), fwhm=3.2)
    data = made.image.data.astype(np.float32)
    mask = np.zeros(data.shape, np.uint8)
    mask[:, 100] = 1
    data[50, 60] = np.nan
    return made, made.image.with_(data=data, mask=mask)


def test_the_same_psf_from_the_same_stars(backend, field):
    """Only the windows' place differs, and what Numba sums in another order."""
    made, image = field
    sky = np.float32(image.meta["sky"])
    image = image.with_(data=image.data - sky, background_level=float(sky), variance=made.variance.astype(np.float32))
    stars = find_stars(image, background_rms=made.sigma)
    expected = ag.measure_psf(image, stars=stars, backend="numpy")
    found = ag.measure_psf(sent(backend, image), stars=stars, backend=backend)
    assert isinstance(found.data, np.ndarray)
    assert found.n_stars == expected.n_stars
    np.testing.assert_allclose(found.data, expected.data, rtol=0, atol=1e-6 * expected.data.max())
    assert found.residual == pytest.approx(expected.residual, rel=1e-5)


def test_the_same_psf_from_the_pixels_alone(backend, field):
    """A device has its own sky and noise: the PSFs agree to half of their error.

    Each star is granted 2 % of error a pixel, so 38 of them tell the peak to 0.02 / sqrt(38).
    """
    _, image = field
    expected = ag.measure_psf(image, backend="numpy")
    found = ag.measure_psf(sent(backend, image), backend=backend)
    assert abs(found.n_stars - expected.n_stars) <= 2
    np.testing.assert_allclose(found.data, expected.data, rtol=0, atol=0.5 * 0.02 / np.sqrt(38) * expected.data.max())
    assert found.fwhm == pytest.approx(expected.fwhm, rel=2e-3)


def test_a_plain_array_and_an_order(backend, field):
    """Without gain and mask; over the field a constant PSF comes out as it is."""
    _, image = field
    data = np.nan_to_num(image.data, nan=200.0)
    expected = ag.measure_psf(data, order=1, backend="numpy")
    found = ag.measure_psf(backend.asarray(data), order=1, backend=backend)
    place = found.at(30, 200), expected.at(30, 200)
    np.testing.assert_allclose(place[0].data, place[1].data, rtol=0, atol=3e-3 * expected.at().data.max())


def test_the_list_of_stars_is_the_same(backend, field):
    made, image = field
    image = image.with_(data=image.data - np.float32(image.meta["sky"]))
    expected = find_stars(image, background_rms=made.sigma, backend="numpy")
    found = find_stars(sent(backend, image), background_rms=made.sigma, backend=backend)
    assert len(found) == len(expected)
    for name, limit in (("x", 1e-3), ("y", 1e-3), ("fwhm", 1e-3), ("peak", 1e-3), ("ellipticity", 1e-3)):
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=limit, err_msg=name)
    np.testing.assert_allclose(found["snr"], expected["snr"], rtol=1e-4)
    assert np.array_equal(found["flags"], expected["flags"])
    assert np.array_equal(found["isolated"], expected["isolated"])


def test_mixed_libraries_are_refused(backend, field):
    if not backend.is_gpu:
        pytest.skip("one library only")
    made, image = field
    there = sent(backend, image)
    with pytest.raises(TypeError, match=r"image is cupy.*variance_given is numpy; move them to one side first"):
        ag.measure_psf(there, variance=made.variance, backend=backend)
    with pytest.raises(TypeError, match=r"image is cupy.*mask is numpy"):
        ag.measure_psf(there.with_(mask=image.mask), backend=backend)
    with pytest.raises(TypeError, match="image is cupy, background_rms is numpy"):
        find_stars(Image(there.data), background_rms=np.ones(image.shape), backend=backend)
    with pytest.raises(TypeError, match="on a GPU but backend 'numpy' runs on the CPU"):
        ag.measure_psf(there, backend="numpy")


def test_an_image_of_the_host_goes_to_the_device_that_is_named(backend, field):
    if not backend.is_gpu:
        pytest.skip("nothing goes anywhere")
    _, image = field
    there = ag.measure_psf(image, backend=backend)
    again = ag.measure_psf(sent(backend, image), backend=backend)
    np.testing.assert_array_equal(there.data, again.data)


def test_words_on_a_device(backend):
    if not backend.is_gpu:
        pytest.skip("told of images on the host elsewhere")
    with pytest.raises(InputError, match=r"an Image or an array \(ny, nx\), got shape \(2, 30, 30\)"):
        ag.measure_psf(backend.asarray(np.ones((2, 30, 30))), backend=backend)
    with pytest.raises(InputError, match="all 900 pixels are masked or not finite"):
        ag.measure_psf(backend.asarray(np.full((30, 30), np.nan)), backend=backend)
    with pytest.raises(InputError, match="background_rms must be positive, got 0"):
        find_stars(Image(backend.asarray(np.ones((30, 30)))), background_rms=0.0, backend=backend)
