"""What align() promises of the pixels: an exact map, counts, noise, bits, overlap; and reproject agrees."""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu._warp import warp_image
from astrid_gpu.align import align
from astrid_gpu.errors import AlignmentError, ConfigError
from astrid_gpu.image import PSF, Image
from tests.unit.align_fields import catalogue, scene, tan_wcs

pytest.importorskip("astropy")


def sip_wcs(shape, **kwargs):
    """A WCS distorted by up to some pixels at its corners."""
    from astropy.wcs import Sip

    wcs = tan_wcs(shape, **kwargs)
    wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
    a, b = np.zeros((4, 4)), np.zeros((4, 4))
    a[2, 0], a[1, 1], a[0, 2], a[3, 0], a[1, 2] = 4e-5, -2e-5, 1e-5, 3e-8, -2e-8
    b[2, 0], b[1, 1], b[0, 2], b[0, 3], b[2, 1] = -1e-5, 3e-5, 2e-5, -4e-8, 1e-8
    wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
    return wcs


def tpv_wcs(shape, *, scale=1.0):
    """A WCS with the polynomial of SCAMP: quadratic, cubic and radial terms, degrees off the axis."""
    from astropy.io import fits
    from astropy.wcs import WCS

    header = fits.Header()
    header["NAXIS"], header["NAXIS1"], header["NAXIS2"] = 2, shape[1], shape[0]
    header["CTYPE1"], header["CTYPE2"], header["CUNIT1"], header["CUNIT2"] = "RA---TPV", "DEC--TPV", "deg", "deg"
    header["CRVAL1"], header["CRVAL2"] = 150.0, 2.0
    # The axis of the camera lies beside this chip.
    header["CRPIX1"], header["CRPIX2"] = shape[1] / 2 + 3000.0, shape[0] / 2 - 2000.0
    header["CD1_1"], header["CD1_2"], header["CD2_1"], header["CD2_2"] = -scale / 3600, 1e-6, 2e-6, scale / 3600
    for axis in (1, 2):
        for k, value in ((0, 1e-4), (1, 1.0002), (2, -3e-4), (4, 4e-2), (5, -3e-2), (6, 2e-2), (7, 3e-3), (11, 2e-3)):
            header[f"PV{axis}_{k}"] = value
    return WCS(header)


@pytest.mark.parametrize("kind", ["sip", "tpv", "sip to tpv"])
def test_map_error_is_measured_and_below_a_hundredth_of_a_pixel(rng, kind):
    """The map used, at each of a quarter of a million pixels, against the full WCS with its distortion."""
    shape = (500, 520)
    source = tpv_wcs((540, 560)) if "tpv" in kind else sip_wcs((540, 560), scale=0.95, rotation=0.2)
    centre = source.pixel_to_world(280, 270)
    target = (sip_wcs if kind == "sip to tpv" else tan_wcs)(shape, ra=centre.ra.deg, dec=centre.dec.deg)
    image = Image(rng.normal(size=(540, 560)).astype(np.float32), wcs=source)
    result = align(image, target, method="wcs")
    assert result.resampled
    y, x = np.nonzero(result.footprint)
    assert y.size > 2e5
    from astropy.wcs.utils import pixel_to_pixel

    want_x, want_y = pixel_to_pixel(target, source, x, y)
    from astrid_gpu._pixel_map import GridMap

    got = GridMap(result.pixel_map, shape).full()
    error = max(np.abs(got[0][y, x] - want_y).max(), np.abs(got[1][y, x] - want_x).max())
    # Distortion there is: more than a pixel from the best affine map.
    design = np.column_stack([np.ones(y.size), y, x])
    plain = want_x - design @ np.linalg.lstsq(design, want_x, rcond=None)[0]
    assert np.abs(plain).max() > 1.0
    assert 0 < result.map_error < 1e-3
    assert error < 0.01
    # What is reported was measured half-way between the nodes, where a cubic spline errs most.
    assert error < 2 * result.map_error + 1e-6
    assert any(step.values.get("map_error") == result.map_error for step in result.steps)


@pytest.mark.parametrize("kernel", ["spline5", "spline3", "lanczos3", "bilinear", "nearest"])
@pytest.mark.parametrize(
    ("scale", "rotation", "flip"), [(1.0, 0.4, False), (0.55, 1.9, False), (1.9, 0.0, True), (1.2, 2.8, True)]
)
def test_counts_are_kept_by_every_kernel(kernel, scale, rotation, flip):
    """Scale change, rotation and mirror image: a star's counts, of the splines to 1e-4, of nearest pixels to 1e-2."""
    sigma = 2.0 * max(1.0, scale)
    image = Image(scene((200, 210), 98.3, 104.8, 1e4, sigma=sigma), wcs=tan_wcs((200, 210), rotation=rotation))
    shape = (int(190 / scale), int(185 / scale))
    result = align(image, tan_wcs(shape, scale=scale, flip=flip), method="wcs", kernel=kernel)
    good_to = {"spline5": 1e-4, "spline3": 1e-4, "nearest": 1e-2}.get(kernel, 1e-3)
    assert np.nansum(result.image.data) == pytest.approx(1e4, rel=good_to)
    assert np.linalg.det(result.matrix) * (-1) ** flip == pytest.approx(scale**2, rel=1e-3)


@pytest.mark.parametrize(
    ("kernel", "good_to"),
    [("spline5", 1e-4), ("spline3", 1e-4), ("lanczos3", 0.015), ("bilinear", 0.015), ("nearest", 0.11)],
)
def test_counts_where_grids_beat(kernel, good_to):
    """Pixels 5 % larger and not turned: the phase runs slowly over a star. The docstring of align quotes these."""
    image = Image(scene((200, 210), 98.3, 104.8, 1e4, sigma=2.1), wcs=tan_wcs((200, 210)))
    result = align(image, tan_wcs((180, 176), scale=1.05), method="wcs", kernel=kernel)
    assert np.nansum(result.image.data) == pytest.approx(1e4, rel=good_to)


@pytest.mark.parametrize("kernel", ["spline5", "spline3", "lanczos3", "bilinear", "nearest"])
def test_noise_factor_is_that_of_the_pixels(rng, kernel):
    image = Image(rng.normal(0, 2, (500, 500)), variance=np.full((500, 500), 4.0), wcs=tan_wcs((500, 500)))
    result = align(image, tan_wcs((480, 480), rotation=0.3), method="wcs", kernel=kernel)
    inner = np.s_[100:-100, 100:-100]
    found = np.var(result.image.data[inner]) / np.mean(result.image.variance[inner])
    # 280 x 280 pixels, correlated over some 3 x 3: a variance is good to 1.5 %.
    assert found == pytest.approx(result.noise_factor, abs=0.06)
    assert (result.noise_factor > 0.97) == (kernel == "nearest")
    assert any(step.values.get("pixel_variance_factor") == result.noise_factor for step in result.steps)


@pytest.mark.parametrize("kernel", ["spline5", "lanczos3", "bilinear", "nearest"])
def test_each_bit_goes_its_own_way(kernel):
    """A saturated core beside a hot column beside a ray: each bit where its own pixels are felt, none elsewhere."""
    y, x = np.mgrid[:80, :80].astype(float)
    data, mask = np.full((80, 80), 100.0) + scene((80, 80), 40, 30, 1e6, sigma=2.0), np.zeros((80, 80), np.uint8)
    mask[38:43, 28:33] |= 4
    mask[:, 33] |= 1
    mask[20, 60] |= 16
    maps = (y + 0.4, x - 0.3)
    out = warp_image((data, np.full(data.shape, 100.0), mask), maps, kernel=kernel)
    for bit in (1, 4, 16):
        rows, columns = np.nonzero((out.mask & bit != 0) & out.footprint)
        sources = np.argwhere(mask & bit)
        reach = np.min(np.hypot(rows[:, None] + 0.4 - sources[:, 0], columns[:, None] - 0.3 - sources[:, 1]), axis=1)
        assert rows.size >= len(sources) * (0.8 if bit == 1 else 1.0)
        assert reach.max() < (2.0 if kernel in ("bilinear", "nearest") else 6.5)
        # Every pixel whose nearest source pixel has a bit has it too.
        near = mask[np.clip(np.rint(maps[0]), 0, 79).astype(int), np.clip(np.rint(maps[1]), 0, 79).astype(int)]
        assert np.all(out.mask[out.footprint & (near & bit != 0)] & bit)
    assert np.any(out.mask == 5) == (kernel != "nearest")
    assert np.all(np.isnan(out.data) == ((out.mask != 0) | ~out.footprint))


def test_little_overlap_is_an_error_that_says_how_to_allow_it(rng):
    image = Image(rng.normal(size=(100, 100)), wcs=tan_wcs((100, 100)), name="A")
    to = Image(rng.normal(size=(100, 100)), wcs=tan_wcs((100, 100), crpix=(49.5, 143.7)), name="B")
    with pytest.raises(AlignmentError, match=r"A and B overlap by 4\.\d% of the smaller frame.*min_overlap=0\.1"):
        align(image, to, method="wcs")
    result = align(image, to, method="wcs", min_overlap=0.02)
    assert 0.03 < result.overlap < 0.05
    assert result.footprint.mean() == pytest.approx(result.overlap, rel=0.01)
    with pytest.raises(ConfigError, match="min_overlap must be a fraction from 0 to 1, got 5"):
        align(image, to, min_overlap=5)


def test_a_small_image_on_a_large_grid_overlaps_wholly(rng):
    """Reference smaller than science: 4 % of the grid is covered, all of the reference is used."""
    image = Image(rng.normal(size=(60, 60)), wcs=tan_wcs((60, 60), rotation=0.1), name="small")
    result = align(image, tan_wcs((300, 300)), method="wcs")
    assert result.footprint.mean() < 0.05
    assert result.overlap > 0.85  # less the rim where the kernel reaches beyond its frame
    assert np.all(result.image.mask[~result.footprint] == 32)


@pytest.mark.parametrize("scale", [1.0, 1.7])
@pytest.mark.parametrize("kernel", ["spline5", "lanczos3", "nearest"])
def test_backends_give_one_image(rng, backend, kernel, scale):
    """The reference, the CPU's twin and the CUDA kernels; what comes back lies on the host."""
    data = rng.normal(size=(40, 46))
    image = Image(data, variance=data**2 + 1, wcs=tan_wcs((40, 46), rotation=0.2))
    target = tan_wcs((44, 40), scale=scale)
    got, want = (align(image, target, method="wcs", kernel=kernel, backend=b) for b in (backend, "numpy"))
    np.testing.assert_array_equal(got.footprint, want.footprint)
    for plane in ("data", "variance"):
        one, other = (getattr(each.image, plane) for each in (got, want))
        assert type(one) is np.ndarray
        np.testing.assert_allclose(one, other, atol=1e-9)


@pytest.mark.parametrize(("kernel", "widened"), [("bilinear", True), ("spline5", False), ("lanczos3", False)])
def test_the_psf_that_is_carried_is_that_of_the_stars(rng, kernel, widened):
    """The mean of 60 noise-free stars on the resampled image has the second moment of the PSF that came with it."""
    from scipy.ndimage import shift as move

    sigma, shape = 1.5, (330, 330)
    y, x = (grid.ravel() for grid in np.meshgrid(np.arange(30, 310, 34.0), np.arange(30, 310, 34.0), indexing="ij"))
    y, x = y + rng.uniform(-0.5, 0.5, y.size), x + rng.uniform(-0.5, 0.5, x.size)
    psf = PSF(scene((31, 31), 15, 15, 1.0, sigma=sigma), fwhm=2.3548 * sigma)
    image = Image(scene(shape, y, x, np.ones(y.size), sigma=sigma), wcs=tan_wcs(shape), psf=psf)
    result = align(image, tan_wcs(shape, rotation=0.2), method="wcs", kernel=kernel)

    def second(stamp, centre):
        v, u = np.indices(stamp.shape) - np.array(centre)[:, None, None]
        near = np.hypot(v, u) < 9
        return 0.5 * np.sum((stamp * (v**2 + u**2))[near]) / np.sum(stamp[near])

    moments, data = [], np.nan_to_num(result.image.data)
    rows, columns = _forward(result, y, x)
    for j, i in zip(rows, columns, strict=True):
        if 15 < j < 314 and 15 < i < 314:
            window = data[round(j) - 12 : round(j) + 13, round(i) - 12 : round(i) + 13]
            centred = move(window, (round(j) - j, round(i) - i), order=5)
            moments.append(second(centred, (12, 12)))
    carried = result.image.psf.data
    found = second(carried, (carried.shape[0] // 2, carried.shape[1] // 2))
    assert len(moments) > 40
    assert found == pytest.approx(np.mean(moments), rel=0.005)
    assert (found > 1.05 * (sigma**2 + 1 / 12)) == widened


def _forward(result, y, x):
    """Target positions of source positions, by Newton steps."""
    v, u = np.array(y), np.array(x)
    for _ in range(8):
        there = result.source_position(v, u)
        step = np.linalg.solve(result.matrix, np.array([there[0] - y, there[1] - x]))
        v, u = v - step[0], u - step[1]
    return v, u


# ---- reproject


@pytest.fixture(scope="module")
def starry():
    rng = np.random.default_rng(11)
    shape = (220, 230)
    y, x, flux = catalogue(rng, 50, shape, border=-10)
    return Image(scene(shape, y, x, flux, sigma=1.6, sky=50.0), wcs=sip_wcs(shape, rotation=0.15, scale=0.98))


@pytest.mark.parametrize(
    ("kernel", "order"), [("nearest", "nearest-neighbor"), ("bilinear", "bilinear"), ("spline3", "bicubic")]
)
def test_parity_with_reproject_interp(starry, kernel, order):
    """The same kernel reads the same surface brightness, up to what the interpolated map moves a slope."""
    reproject = pytest.importorskip("reproject")
    target = tan_wcs((210, 200))
    want, footprint = reproject.reproject_interp((starry.data, starry.wcs), target, shape_out=(210, 200), order=order)
    result = align(starry, target, method="wcs", kernel=kernel)
    area = np.abs(_areas(result, (210, 200)))
    inner = np.zeros((210, 200), bool)
    inner[12:-12, 12:-12] = True
    inner &= result.footprint & (footprint > 0) & np.isfinite(want)
    assert inner.sum() > 2e4
    off = np.abs(result.image.data / area - want)[inner]
    slope = np.hypot(*np.gradient(starry.data)).max()
    if kernel == "nearest":  # a position half-way between pixels falls to the one or the other
        assert np.mean(off > 1e-6 * starry.data.max()) < 1e-3
    else:
        # Bicubic: theirs knows nothing of the frame's mirror image, ours does; the spline forgets it within 12 px.
        assert off.max() < 2 * result.map_error * slope + 1e-5 * starry.data.max()


def test_parity_with_reproject_adaptive(starry):
    """Counts in apertures round the stars, theirs flux-conserving (DeForest), ours by the quintic spline: to 0.3 %."""
    reproject = pytest.importorskip("reproject")
    target = tan_wcs((160, 150), scale=1.35, rotation=-0.2)
    source = starry.with_(data=starry.data - 50.0)
    want, _ = reproject.reproject_adaptive(
        (source.data, source.wcs), target, shape_out=(160, 150), conserve_flux=True, boundary_mode="ignore"
    )
    result = align(source, target, method="wcs")
    ours = np.nan_to_num(result.image.data)
    y, x = np.unravel_index(np.argsort(-ours, axis=None)[:3000], ours.shape)
    checked, taken = 0, np.zeros(ours.shape, bool)
    for j, i in zip(y, x, strict=True):
        window = np.s_[j - 9 : j + 10, i - 9 : i + 10]
        whole = 14 < j < 145 and 14 < i < 135 and result.footprint[window].all()
        rim = ours[window].copy()
        rim[2:-2, 2:-2] = 0
        if not whole or taken[window].any() or rim.max() > 2e-3 * ours[j, i]:
            continue  # light that crosses the rim is spread differently by the two kernels
        taken[window] = True
        assert np.sum(ours[window]) == pytest.approx(np.nansum(want[window]), rel=3e-3)
        checked += 1
    assert checked >= 5


def _areas(result, shape):
    maps = result.source_position(*np.indices(shape).astype(float))
    (yy, yx), (xy, xx) = (np.gradient(plane) for plane in maps)
    return yy * xx - yx * xy
