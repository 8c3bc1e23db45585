"""align(): methods, decisions, what it reports and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu.align import Aligned, align
from astrid_gpu.errors import AlignmentError, ConfigError, InputError, ShapeMismatchError, WcsError
from astrid_gpu.flags import PixelFlag
from astrid_gpu.image import PSF, Image
from astrid_gpu.results import Step
from tests.unit.align_fields import catalogue, scene, tan_wcs

SHAPE = (220, 240)


def moved(y, x, scale=1.0, rotation=0.0, shift=(0.0, 0.0), flip=False):
    """Source positions of target positions."""
    z = (x - 120) + 1j * (y - 110)
    w = scale * np.exp(1j * rotation) * (z.conj() if flip else z) + 120 + shift[1] + 1j * (110 + shift[0])
    return w.imag, w.real


def pair(rng, n=60, noise=5.0, wcs=(None, None), shape=SHAPE, **change):
    """A field as the target sees it and as the source does, which lies `change` away; stars, too."""
    y, x, flux = catalogue(rng, n, SHAPE, border=-20, faint=4e3)
    to = Image(scene(SHAPE, y, x, flux, sky=100.0, noise=noise, rng=rng), wcs=wcs[0], name="target")
    sy, sx = moved(y, x, **change)
    image = Image(scene(shape, sy, sx, flux, sky=100.0, noise=noise, rng=rng), wcs=wcs[1], name="image")
    return image, to, (y, x, flux)


def map_error(aligned, **change):
    """Largest error of the map where the two images overlap."""
    y, x = np.nonzero(aligned.footprint)
    truth, got = moved(y, x, **change), aligned.source_position(y, x)
    return max(np.abs(a - b).max() for a, b in zip(truth, got, strict=True))


def test_pieces_of_the_result(rng):
    image, to, _ = pair(rng, shift=(3.4, -7.8))
    result = align(image, to)
    assert isinstance(result, Aligned)
    assert result.image.shape == result.footprint.shape == to.shape
    assert result.method == "stars"
    assert result.resampled
    assert result.n_matched >= 25
    np.testing.assert_allclose(result.offset, (3.4, -7.8), atol=0.02)
    np.testing.assert_allclose(result.matrix, np.eye(2), atol=1e-3)
    assert 0 < max(result.scatter) < 0.1
    assert all(isinstance(step, Step) for step in result.steps)
    assert "resampled" in repr(result)
    np.testing.assert_array_equal(np.isfinite(result.image.data), result.footprint)


@pytest.mark.parametrize(
    "change",
    [
        {"shift": (31.3, -42.6)},
        {"rotation": 0.15, "shift": (2.0, 5.0)},
        {"rotation": np.pi / 2},
        {"rotation": 3.0, "shift": (-12.2, 4.4)},
        {"scale": 1.3, "rotation": -0.4},
        {"scale": 0.7},
        {"flip": True, "shift": (4.0, 8.0)},
        {"flip": True, "rotation": 1.0, "scale": 1.1},
    ],
)
def test_star_registration(rng, change):
    """The map is right to 0.1 px everywhere and the aligned image shows the target's stars at their places."""
    image, to, (y, x, flux) = pair(rng, **change)
    result = align(image, to, method="stars")
    assert map_error(result, **change) < 0.1
    assert np.linalg.det(result.matrix) == pytest.approx(
        (-1) ** change.get("flip", 0) * change.get("scale", 1) ** 2, rel=0.01
    )
    # Aperture sums of isolated stars agree: flux is conserved.
    ratios = []
    for j, i, f in zip(y, x, flux, strict=True):
        low_y, low_x = round(j) - 7, round(i) - 7
        window = (slice(max(0, low_y), low_y + 15), slice(max(0, low_x), low_x + 15))
        lonely = np.sum((np.abs(y - j) < 12) & (np.abs(x - i) < 12)) == 1
        inside = result.footprint[window].size == 225 and result.footprint[window].all()
        if f > 2e4 and lonely and inside:
            sky = np.median(result.image.data[result.footprint])
            ratios.append(np.sum(result.image.data[window] - sky) / f)
    assert len(ratios) >= 3
    # 5 counts of noise a pixel over 225 pixels is 75 counts of at least 2e4; the median sky adds about as much.
    np.testing.assert_allclose(ratios, 1, atol=0.03)


def test_identity_is_not_resampled(rng):
    image, to, _ = pair(rng)
    result = align(image, to)
    assert not result.resampled
    assert result.image.data is image.data
    assert result.footprint.all()
    assert "not resampled" in " ".join(str(step) for step in result.steps)


@pytest.mark.parametrize(("shift", "expected"), [((0.05, -0.04), False), ((0.3, 0.0), True)])
def test_small_shifts_are_left_and_told(rng, shift, expected):
    image, to, _ = pair(rng, noise=1.0, shift=shift)
    result = align(image, to)
    assert result.resampled is expected
    if not expected:
        # What was left in place counts as registration error.
        np.testing.assert_allclose(result.scatter, np.abs(shift), atol=0.02)
        assert "left in place" in " ".join(str(step) for step in result.steps)


def test_whole_pixel_shift_by_stars_is_exact(rng):
    y, x, flux = catalogue(rng, 60, SHAPE, border=-20)
    field = scene((260, 280), y + 20, x + 20, flux, sky=100.0, noise=3.0, rng=rng)
    to, image = Image(field[20:240, 20:260]), Image(field[13:233, 25:265])
    result = align(image, to)
    assert not result.resampled
    np.testing.assert_array_equal(result.image.data[:213, 5:], to.data[:213, 5:])
    np.testing.assert_array_equal(result.footprint, np.isfinite(result.image.data))
    assert result.footprint.sum() == 213 * 235


def sky_pair(rng, *, error=(0.0, 0.0), n=60, **kwargs):
    """Two images on different grids of one sky; the source's WCS is wrong by `error` (y, x) pixels."""
    from astropy.wcs.utils import pixel_to_pixel

    wcs_to = tan_wcs(SHAPE, scale=1.0)
    wcs_image = tan_wcs((230, 250), scale=0.9, rotation=0.05, crpix=(118.3, 121.9), **kwargs)
    y, x, flux = catalogue(rng, n, SHAPE, border=0, faint=4e3)
    sx, sy = pixel_to_pixel(wcs_to, wcs_image, x, y)
    wcs_image.wcs.crpix = wcs_image.wcs.crpix + np.array([error[1], error[0]])
    to = Image(scene(SHAPE, y, x, flux, sky=100.0, noise=5.0, rng=rng), wcs=wcs_to, name="target")
    image = Image(scene((230, 250), sy, sx, flux, sky=100.0, noise=5.0, rng=rng), wcs=wcs_image, name="image")
    return image, to, (y, x, sy, sx)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("method", ["wcs", "auto"])
def test_wcs_registration(rng, method, flip):
    image, to, (y, x, sy, sx) = sky_pair(rng, flip=flip)
    result = align(image, to, method=method)
    got = result.source_position(y, x)
    assert max(np.abs(got[0] - sy).max(), np.abs(got[1] - sx).max()) < (1e-6 if method == "wcs" else 0.05)
    assert result.method == ("wcs" if method == "wcs" else "wcs+stars")
    assert (result.scatter is None) is (method == "wcs")
    assert result.image.wcs is to.wcs


def test_stars_correct_a_wrong_wcs(rng):
    image, to, (y, x, sy, sx) = sky_pair(rng, error=(1.7, -2.3))
    plain, refined = align(image, to, method="wcs"), align(image, to)
    for result, worst, least in ((plain, 2.4, 2.0), (refined, 0.05, 0.0)):
        got = result.source_position(y, x)
        error = np.hypot(got[0] - sy, got[1] - sx)
        assert least <= error.max()
        assert np.median(error) < worst + 0.6
    assert np.median(np.hypot(*(a - b for a, b in zip(refined.source_position(y, x), (sy, sx), strict=True)))) < 0.05
    assert "corrected (shift)" in " ".join(str(step) for step in refined.steps)


def test_wcs_without_stars_is_taken_and_told(rng):
    image, to, _ = sky_pair(rng, n=1)
    result = align(image, to)
    assert result.method == "wcs"
    assert "the WCS is not corrected" in str(result.steps[0])


def test_two_wcs_that_agree_are_not_resampled(rng):
    image, to, _ = pair(rng, wcs=(tan_wcs(SHAPE), tan_wcs(SHAPE)))
    result = align(image, to)
    assert not result.resampled
    assert result.image.data is image.data
    assert result.footprint.all()


def test_one_grid_with_a_small_error_is_left_alone_and_a_large_one_corrected(rng):
    for shift, resampled in (((0.3, 0.2), False), ((1.4, -0.6), True)):
        image, to, _ = pair(rng, wcs=(tan_wcs(SHAPE), tan_wcs(SHAPE)), shift=shift)
        result = align(image, to)
        assert result.resampled is resampled
        np.testing.assert_allclose(result.offset, shift, atol=0.03)
        if not resampled:
            np.testing.assert_allclose(result.scatter, np.abs(shift), atol=0.03)


def test_wcs_on_whole_pixels_is_moved_exactly(rng):
    data = rng.normal(size=(50, 60))
    image = Image(data, variance=data**2, wcs=tan_wcs((50, 60), crpix=(20, 30)))
    to = tan_wcs((40, 45), crpix=(23, 18))
    result = align(image, to)
    assert not result.resampled
    np.testing.assert_array_equal(result.image.data[3:, :], data[:37, 12:57])
    assert not result.footprint[:3].any()
    assert result.image.wcs is to


def test_target_may_be_a_wcs_with_a_shape(rng):
    image, to, _ = sky_pair(rng)
    wcs = to.wcs.deepcopy()
    wcs.array_shape = None
    with pytest.raises(InputError, match="shape="):
        align(image, wcs)
    result = align(image, wcs, shape=(100, 110))
    assert result.image.shape == (100, 110)
    assert result.method == "wcs"


@pytest.mark.parametrize(("scale_in", "scale_out"), [(0.4, 1.0), (1.0, 0.4), (1.4, 1.0), (0.25, 1.5)])
def test_total_flux_across_pixel_scales(scale_in, scale_out):
    """A simulated source keeps its counts from 0.25 to 1.5 arcsec pixels, off centre in a gnomonic projection."""
    shape_in = tuple(int(s / scale_in) for s in (120, 130))
    shape_out = tuple(int(s / scale_out) for s in (110, 105))
    sigma = 2.0 * max(1.0, scale_out) / scale_in
    image = Image(
        scene(shape_in, shape_in[0] * 0.55, shape_in[1] * 0.47, 1e4, sigma=sigma), wcs=tan_wcs(shape_in, scale=scale_in)
    )
    result = align(image, tan_wcs(shape_out, scale=scale_out, rotation=0.3), method="wcs")
    assert np.nansum(result.image.data) == pytest.approx(1e4, rel=1e-4)


def test_sip_distortion_is_followed(rng):
    from astropy.wcs import Sip

    shape = (200, 210)
    distorted = tan_wcs(shape)
    distorted.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
    a, b = np.zeros((3, 3)), np.zeros((3, 3))
    a[2, 0], b[0, 2], a[1, 1] = 3e-4, -2e-4, 1e-4
    distorted.sip = Sip(a, b, None, None, distorted.wcs.crpix)
    y, x = 150.3, 40.8
    ra, dec = distorted.all_pix2world(x, y, 0)
    plain = tan_wcs(shape)
    want_x, want_y = plain.all_world2pix(ra, dec, 0)
    image = Image(scene(shape, y, x, 1e5, sigma=1.5), wcs=distorted)
    result = align(image, plain, method="wcs")
    data = np.nan_to_num(result.image.data)
    rows, columns = np.indices(data.shape)
    assert np.hypot(want_x - x, want_y - y) > 0.5
    assert (data * rows).sum() / data.sum() == pytest.approx(float(want_y), abs=0.01)
    assert (data * columns).sum() / data.sum() == pytest.approx(float(want_x), abs=0.01)
    assert data.sum() == pytest.approx(1e5, rel=1e-4)


def test_partial_overlap_is_told(rng):
    image = Image(rng.normal(size=(60, 60)), wcs=tan_wcs((60, 60)))
    result = align(image, tan_wcs((60, 60), crpix=(29.5, 59.7)), method="wcs")
    assert 0.4 < result.footprint.mean() < 0.55
    assert f"covers {result.footprint.mean():.1%}" in " ".join(str(step) for step in result.steps)
    assert (result.image.mask[~result.footprint] == PixelFlag.NO_DATA).all()


def test_no_overlap_names_both_places(rng):
    image = Image(rng.normal(size=(60, 60)), wcs=tan_wcs((60, 60)), name="north")
    with pytest.raises(
        WcsError, match=r"north and the WCS given share no sky.*RA 150.0000, Dec \+2.0000.*Dec \+3.0000"
    ):
        align(image, tan_wcs((60, 60), dec=3.0))


def test_other_side_of_the_sky_is_no_overlap(rng):
    image = Image(rng.normal(size=(60, 60)), wcs=tan_wcs((60, 60)))
    with pytest.raises(WcsError, match="share no sky"):
        align(image, tan_wcs((60, 60), ra=330.0, dec=-2.0))


def test_everything_in_pixels_follows_the_pixel_size():
    psf = PSF(scene((25, 25), 12, 12, 1.0, sigma=2.0), fwhm=4.7)
    image = Image(
        np.ones((100, 100)),
        variance=np.full((100, 100), 4.0),
        psf=psf,
        wcs=tan_wcs((100, 100), scale=0.5),
        zero_point=25.0,
        gain=2.0,
        read_noise=3.0,
        saturation=6e4,
        background_level=7.0,
        meta={"FILTER": "r"},
    )
    out = align(image, tan_wcs((50, 50), scale=1.0), method="wcs").image
    inner = out.data[5:-5, 5:-5]
    np.testing.assert_allclose(inner, 4.0, rtol=1e-6)
    np.testing.assert_allclose(out.variance[5:-5, 5:-5], 16.0, rtol=1e-6)
    assert (out.zero_point, out.gain, out.meta) == (25.0, 2.0, {"FILTER": "r"})
    assert out.background_level == pytest.approx(28.0, rel=1e-6)
    assert out.saturation == pytest.approx(24e4, rel=1e-6)
    assert out.read_noise == pytest.approx(6.0, rel=1e-6)
    assert out.psf.fwhm == pytest.approx(2.35, rel=1e-6)
    assert out.psf.data.sum() == pytest.approx(1)


def test_image_given_is_not_modified(rng):
    image, to, _ = pair(rng, shift=(2.5, 1.5))
    before = image.data.copy(), to.data.copy()
    align(image, to)
    np.testing.assert_array_equal(image.data, before[0])
    np.testing.assert_array_equal(to.data, before[1])


def test_masked_saturated_star_is_ignored_and_stays_masked(rng):
    image, to, (y, x, _) = pair(rng, shift=(4.3, 2.2))
    data, mask = image.data.copy(), np.zeros(image.shape, np.uint8)
    middle = np.argmin(np.hypot(y - 110, x - 120))
    j, i = round(y[middle] + 4.3), round(x[middle] + 2.2)
    data[j - 3 : j + 4, i - 3 : i + 4], mask[j - 3 : j + 4, i - 3 : i + 4] = 6e4, 4
    result = align(image.with_(data=data, mask=mask), to)
    assert map_error(result, shift=(4.3, 2.2)) < 0.05
    assert result.image.mask[round(y[middle]), round(x[middle])] == 4
    assert np.isnan(result.image.data[round(y[middle]), round(x[middle])])


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_order_can_be_asked_for(rng, order):
    image, to, _ = pair(rng, n=90, shift=(5.5, 3.5))
    result = align(image, to, order=order)
    named = {0: "shift", 1: "affine", 2: "quadratic", 3: "cubic"}[order]
    assert named in " ".join(str(step) for step in result.steps)
    assert map_error(result, shift=(5.5, 3.5)) < 0.2


def test_method_none_declares(rng):
    image = Image(rng.normal(size=(33, 33)))
    result = align(image, Image(rng.normal(size=(33, 33))), method="none")
    assert result.image.data is image.data
    assert (result.method, result.scatter, result.n_matched) == ("none", None, 0)
    with pytest.raises(ShapeMismatchError, match=r"\(33, 33\).*\(30, 33\)"):
        align(image, Image(np.ones((30, 33))), method="none")


FLAT, NOISE = np.full((33, 33), 5.0), np.random.default_rng(3).normal(size=(33, 33))
ONE = scene((33, 33), 16.2, 15.7, 1e4, noise=1.0, rng=np.random.default_rng(4))


@pytest.mark.parametrize("data", [FLAT, NOISE, ONE], ids=["constant", "no star", "one star"])
def test_too_few_stars(data):
    """Asked for stars it fails in words; left to itself it takes arrays of one shape as registered and says so."""
    image, to = Image(data, name="A"), Image(data[::-1].copy(), name="B")
    with pytest.raises(
        AlignmentError, match=r"found [01] stars in A and [01] in B, matched fewer than 3, need at least 3"
    ):
        align(image, to, method="stars")
    result = align(image, to)
    assert result.method == "none"
    assert "unverified" in str(result.steps[0])
    with pytest.raises(AlignmentError, match="method='none'"):
        align(image, Image(np.pad(data, 3, constant_values=data[0, 0])))


def test_unrelated_fields_are_refused(rng):
    images = []
    for _ in range(2):
        y, x, flux = catalogue(rng, 25, SHAPE)
        images.append(Image(scene(SHAPE, y, x, flux, noise=5.0, rng=rng)))
    with pytest.raises(AlignmentError, match="no 3 of them match beyond chance"):
        align(*images)


@pytest.mark.parametrize("side", [0, 1])
def test_all_nan(side):
    images = [Image(np.ones((33, 33)), name="fine"), Image(np.ones((33, 33)), name="fine")]
    images[side] = Image(np.full((33, 33), np.nan), name="empty")
    with pytest.raises(InputError, match="empty: no pixel is finite and unmasked"):
        align(*images)


@pytest.mark.parametrize("side", [0, 1])
def test_one_wcs_alone_is_no_help_and_that_is_told(rng, side):
    wcs = (tan_wcs(SHAPE), None) if side else (None, tan_wcs(SHAPE))
    image, to, _ = pair(rng, wcs=wcs, shift=(3.3, 1.7))
    result = align(image, to)
    assert result.method == "stars"
    assert result.image.wcs is to.wcs
    assert f"{image.name if side else to.name} has no WCS" in str(result.steps[0])


def test_wcs_method_without_wcs(rng):
    image = Image(rng.normal(size=(33, 33)), name="bare")
    with pytest.raises(WcsError, match="bare has no WCS"):
        align(image, tan_wcs((33, 33)), method="wcs")
    with pytest.raises(WcsError, match="without pixels there are no stars"):
        align(image, tan_wcs((33, 33)))


def test_broken_wcs_is_named(rng):
    from astropy.wcs import WCS

    image = Image(rng.normal(size=(33, 33)), wcs=WCS(naxis=3), name="cube")
    with pytest.raises(WcsError, match="cube: its WCS has 3 pixel axes"):
        align(image, tan_wcs((33, 33)))
    with pytest.raises(WcsError, match="str is no WCS"):
        align(Image(np.ones((9, 9)), wcs="here", name="text"), tan_wcs((33, 33)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "method must be one of auto, wcs, stars, none, got 'magic'"),
        ({"kernel": "sinc"}, "kernel must be one of"),
        ({"order": 7}, "order must be"),
        ({"max_stars": 1}, "max_stars must be at least 3"),
        ({"tolerance": float("nan")}, "tolerance"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ConfigError, match=message):
        align(Image(np.ones((9, 9))), Image(np.ones((9, 9))), **options)


def test_wrong_types_are_named():
    with pytest.raises(InputError, match=r"must be an astrid_gpu\.Image, got ndarray"):
        align(np.ones((9, 9)), Image(np.ones((9, 9))))
    with pytest.raises(ShapeMismatchError, match="contradicts"):
        align(Image(np.ones((9, 9))), Image(np.ones((9, 9))), shape=(8, 8))
