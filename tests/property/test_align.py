"""Laws of registration, over random maps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from astrid_gpu._pixel_map import PixelMap, grid_map
from astrid_gpu._warp import shift_image, warp_image
from astrid_gpu.align import align
from astrid_gpu.image import Image
from tests.unit.align_fields import catalogue, scene, tan_wcs

quick = settings(max_examples=25, deadline=None)
angles = st.floats(-np.pi, np.pi)
shifts = st.tuples(st.floats(-30, 30), st.floats(-30, 30))


def similarity(scale, rotation, shift, flip, centre=(100.0, 100.0)):
    def base(y, x):
        z = (x - centre[1]) + 1j * (y - centre[0])
        w = scale * np.exp(1j * rotation) * (z.conj() if flip else z)
        return w.imag + centre[0] + shift[0], w.real + centre[1] + shift[1]

    return base


@quick
@given(seed=st.integers(0, 2**32), scale=st.floats(0.7, 1.4), rotation=angles, shift=shifts, flip=st.booleans())
def test_any_similarity_is_found(seed, scale, rotation, shift, flip):
    rng = np.random.default_rng(seed)
    y, x, flux = catalogue(rng, 70, (200, 200), border=-30, faint=8e3)
    base = similarity(scale, rotation, shift, flip)
    to = Image(scene((200, 200), y, x, flux, noise=4.0, rng=rng))
    image = Image(scene((200, 200), *base(y, x), flux, noise=4.0, rng=rng))
    result = align(image, to, method="stars")
    inner = np.argwhere(result.footprint).T.astype(float)
    error = np.hypot(*(a - b for a, b in zip(result.source_position(*inner), base(*inner), strict=True)))
    assert error.max() < 0.25
    assert np.median(error) < 0.05


@quick
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    source=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    shift=st.tuples(st.integers(-15, 15), st.integers(-15, 15)),
)
def test_whole_pixel_shift_is_slicing(shape, source, shift):
    data = np.arange(source[0] * source[1], dtype=float).reshape(source)
    out = shift_image((data, None, np.zeros(source, np.uint8)), shape, shift)
    y, x = np.indices(shape)
    sy, sx = y + shift[0], x + shift[1]
    inside = (sy >= 0) & (sy < source[0]) & (sx >= 0) & (sx < source[1])
    np.testing.assert_array_equal(out.footprint, inside)
    np.testing.assert_array_equal(out.data[inside], data[sy[inside], sx[inside]])
    assert np.isnan(out.data[~inside]).all()


@quick
@given(seed=st.integers(0, 2**32))
def test_an_image_aligned_to_itself_is_itself(seed):
    rng = np.random.default_rng(seed)
    image = Image(scene((120, 120), *catalogue(rng, 25, (120, 120)), noise=3.0, rng=rng))
    result = align(image, image)
    assert not result.resampled
    assert result.image.data is image.data


@quick
@given(
    scale=st.floats(0.4, 3.0), rotation=angles, shift=st.tuples(st.floats(-1, 1), st.floats(-1, 1)), flip=st.booleans()
)
def test_counts_are_conserved(scale, rotation, shift, flip):
    base = similarity(scale, rotation, shift, flip)
    size = int(200 / scale)

    def centred(y, x):
        return base(y - size / 2 + 100, x - size / 2 + 100)

    image = scene((200, 200), 101.3, 98.2, 1e4, sigma=1.5 * max(1.0, scale))
    planes = (image, None, np.zeros(image.shape, np.uint8))
    out = warp_image(planes, grid_map(PixelMap(centred), (size, size)))
    assert np.nansum(out.data) == pytest.approx(1e4, rel=2e-4)


@quick
@given(seed=st.integers(0, 2**32), factor=st.floats(0.1, 100), level=st.floats(-1e3, 1e3))
def test_resampling_is_linear(seed, factor, level):
    rng = np.random.default_rng(seed)
    image, mask = rng.normal(size=(40, 40)), (rng.random((40, 40)) < 0.02).astype(np.uint8)
    maps = grid_map(PixelMap(similarity(1.1, 0.3, (0.3, 0.2), False, (20.0, 20.0))), (40, 40))
    one = warp_image((image, None, mask), maps)
    other = warp_image((factor * image + level, None, mask), maps)
    area = 1.1**2
    assume(one.footprint.any())
    np.testing.assert_array_equal(one.mask, other.mask)
    tolerance = 1e-9 * (factor + abs(level))
    np.testing.assert_allclose(other.data, factor * one.data + level * area, atol=tolerance, rtol=1e-9)


@quick
@given(scale=st.floats(0.5, 2.0), rotation=angles, crpix=st.tuples(st.floats(-20, 120), st.floats(-20, 120)))
def test_sky_map_there_and_back_is_the_identity(scale, rotation, crpix):
    """Pixels map through the sky and back, and a map is the inverse of the one with the roles exchanged."""
    from astrid_gpu._sky_map import SkyMap

    a, b = tan_wcs((100, 100)), tan_wcs((100, 100), scale=scale, rotation=rotation, crpix=crpix)
    y, x = np.meshgrid(np.linspace(0, 99, 5), np.linspace(0, 99, 5), indexing="ij")
    back = SkyMap(b, a)(*SkyMap(a, b)(y, x))
    np.testing.assert_allclose(back, (y, x), atol=1e-6)
