"""PSF stamps and PSF files: normalised, odd, centred; PSFEx, DAOPHOT, stamps and words; hand-made, then real."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from astrid_gpu.errors import FitsError, PsfError
from astrid_gpu.image import PSF
from astrid_gpu.io import read_daophot_psf, read_image, read_psf, read_psfex
from astrid_gpu.io.daophot import daophot_form
from astrid_gpu.io.psfex import psfex_form
from astrid_gpu.ops.fourier import shift_phase
from astrid_gpu.ops.psf_stamps import (
    centre_psf,
    centroid_of,
    fwhm_of,
    gaussian_stamp,
    moffat_stamp,
    prepare_psf,
    resize_odd,
    with_fwhm,
)
from tests.psf_files import check, gaussian, write_daophot, write_psfex

# ---- stamps


@pytest.mark.parametrize(("y", "x"), [(10.0, 10.0), (10.31, 9.6), (9.5, 10.5), (12.9, 7.2)])
@pytest.mark.parametrize("shape", [(21, 21), (20, 22), (21, 24)])
def test_centring_moves_without_changing_the_shape(shape, y, x):
    got = centre_psf(7.0 * gaussian(shape, y, x))
    check(got, atol=0.003)
    core = resize_odd(got, tuple(side // 2 for side in got.shape), (9, 9))
    exact = gaussian((9, 9), 4, 4)
    # The Gaussian is band-limited to exp(-(pi sigma)^2 / 2) = 1e-7 and reaches 1e-5 at the edge of the stamp.
    np.testing.assert_allclose(core / core.sum(), exact / exact.sum(), atol=2e-4 * exact.max() / exact.sum())


def test_centroid_is_exact_for_a_gaussian():
    np.testing.assert_allclose(centroid_of(gaussian((31, 31), 14.37, 15.81)), (14.37, 15.81), atol=1e-5)


def test_centroid_hardly_feels_noise_in_the_wings(rng):
    # White noise e under the window w moves the centroid by 2 sum(e w x) / sum(p w), with a 1-sigma width of
    # 2 e sqrt(pi sigma^4 / 2) / (pi sigma^2) = 0.8 e: 0.008 px here. A plain first moment would scatter by 0.2 px.
    stamp = gaussian((41, 41), 20, 20) + rng.normal(0, 0.01, (41, 41))
    np.testing.assert_allclose(centroid_of(stamp), (20, 20), atol=5 * 0.008)


def test_a_centred_odd_stamp_is_only_normalised():
    stamp = gaussian((15, 17), 7.05, 8.0)
    np.testing.assert_array_equal(prepare_psf(stamp)[0], stamp / stamp.sum())


def test_negative_wings_are_kept():
    stamp = gaussian((21, 21), 10, 10) - 0.3 * gaussian((21, 21), 10, 10, sigma=2.5)
    assert (prepare_psf(stamp) < 0).any()


def test_a_stack_of_different_centres_comes_out_with_one_shape():
    stack = np.stack([gaussian((20, 20), 10, 10), gaussian((20, 20), 8.5, 9.5), gaussian((20, 20), 12, 9)])
    got = prepare_psf(stack)
    assert got.ndim == 3
    for stamp in got:
        check(stamp)


@pytest.mark.parametrize(
    ("stamp", "words"),
    [
        (np.full((9, 9), np.nan), "81 NaN or infinite"),
        (-gaussian((9, 9), 4, 4), "positive sum"),
        (np.zeros((9, 9)), "positive sum"),
        (np.zeros((9, 9), complex), "real numbers"),
        (np.ones((2, 2)), "at least 3x3"),
        (np.fft.ifftshift(gaussian((21, 21), 10, 10)), "np.fft.fftshift"),
        (gaussian((21, 21), 0, 10), "on its border"),
    ],
)
def test_refused_in_words(stamp, words):
    with pytest.raises(PsfError, match=words):
        prepare_psf(stamp, name="psf_science")
    with pytest.raises(PsfError, match="psf_science"):
        prepare_psf(stamp, name="psf_science")


def test_the_bad_one_of_a_stack_is_named():
    stack = np.stack([gaussian((9, 9), 4, 4), np.full((9, 9), np.nan)])
    with pytest.raises(PsfError, match=r"psf_reference\[1\]"):
        prepare_psf(stack, name="psf_reference")


@pytest.mark.parametrize("fwhm", [1.6, 2.0, 3.3, 7.0])
def test_fwhm_of_a_gaussian_includes_the_pixel(fwhm):
    # a Gaussian of variance s2 integrated over pixels is nearly one of variance s2 + 1/12
    expected = np.sqrt(fwhm**2 + 8 * np.log(2) / 12)
    assert fwhm_of(gaussian_stamp(fwhm)) == pytest.approx(expected, rel=0.02 if fwhm < 2 else 0.004)


def test_fwhm_of_an_elliptical_gaussian_is_the_geometric_mean():
    stamp = gaussian_stamp((5.0, 3.0), theta=0.6)
    check(stamp)
    pixel = 8 * np.log(2) / 12
    assert fwhm_of(stamp) == pytest.approx(((25 + pixel) * (9 + pixel)) ** 0.25, rel=0.005)


@pytest.mark.parametrize("beta", [1.5, 2.5, 4.765])
def test_moffat_profile(beta):
    stamp = moffat_stamp(4.0, beta, 101)
    check(stamp)
    alpha = 2.0 / np.sqrt(2 ** (1 / beta) - 1)
    ratio = ((1 + 36 / alpha**2) / (1 + 144 / alpha**2)) ** beta  # far out, the pixel hardly matters
    assert stamp[50, 62] / stamp[50, 56] == pytest.approx(ratio, rel=0.02)


@pytest.mark.parametrize("fwhm", [2.0, 3.7, 8.0])
def test_with_fwhm_gives_the_width_asked_for(fwhm):
    assert fwhm_of(with_fwhm(gaussian_stamp, fwhm)) == pytest.approx(fwhm, rel=2e-3)
    assert fwhm_of(with_fwhm(lambda w: moffat_stamp(w, 2.5), fwhm)) == pytest.approx(fwhm, rel=2e-3)


# ---- words


@pytest.mark.parametrize(
    ("spec", "fwhm"),
    [
        ("gaussian:2.5", 2.5),
        (" Gaussian : 4", 4.0),
        ("moffat:3,2.5", 3.0),
        ("moffat:3", 3.0),
        ({"kind": "moffat", "fwhm": 4, "beta": 3}, 4.0),
        ({"kind": "gaussian", "fwhm": "2.2"}, 2.2),
    ],
)
def test_words(spec, fwhm):
    psf = read_psf(spec)
    check(psf.data)
    assert psf.fwhm == pytest.approx(fwhm, rel=2e-3)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("gaussian:-1", "positive number of pixels"),
        ("gaussian:nan", "positive number of pixels"),
        ("gaussian:wide", "gaussian:FWHM"),
        ("gaussian:2,3", "gaussian:FWHM"),
        ("moffat:3,1", "beta > 1"),
        ("moffat:3,2,1", "moffat:FWHM,BETA"),
        ("airy", "no such file; a PSF must be"),
        ({"kind": "airy", "fwhm": 2}, "known are gaussian and moffat"),
        ({"kind": "gaussian"}, "gaussian:FWHM"),
        (object(), "a PSF must be"),
    ],
)
def test_words_that_cannot_be_read(spec, words):
    with pytest.raises(PsfError, match=words):
        read_psf(spec)


def test_objects():
    stamp = gaussian((20, 20), 9.5, 9.5)
    for given in (stamp, stamp.astype(np.float32), PSF(stamp)):
        check(read_psf(given).data)

    class Kernel:
        array = stamp

    check(read_psf(Kernel()).data)


def test_ellipticity_of_a_stamp():
    pixel = 8 * np.log(2) / 12
    expected = 1 - np.sqrt((9 + pixel) / (25 + pixel))
    assert read_psf(gaussian_stamp((5.0, 3.0), theta=0.6)).ellipticity == pytest.approx(expected, abs=0.01)


# ---- FITS stamps


def test_stamp_from_fits(tmp_path):
    path = tmp_path / "psf.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(gaussian((32, 32), 15.5, 15.5), name="PSF")]).writeto(path)
    for spec in (path, f"{path}[PSF]", f"{path}[1]"):
        check(read_psf(spec).data)


def test_oversampled_stamp_is_refused(tmp_path):
    path = tmp_path / "psf.fits"
    fits.PrimaryHDU(gaussian((31, 31), 15, 15), fits.Header({"OVERSAMP": 4})).writeto(path)
    with pytest.raises(PsfError, match="oversampled 4 times"):
        read_psf(path)


def test_grid_of_psfs_is_refused(tmp_path):
    path = tmp_path / "grid.fits"
    fits.PrimaryHDU(np.ones((9, 11, 11))).writeto(path)
    with pytest.raises(PsfError, match="grid of 9 PSFs"):
        read_psf(path)


def test_missing_file(tmp_path):
    with pytest.raises(FitsError, match="no such file"):
        read_psf(tmp_path / "absent.fits")


# ---- PSFEx


def test_psfex_polynomial_order_and_position(tmp_path):
    components = np.zeros((6, 25, 25))
    components[0] = gaussian((25, 25), 12, 12)
    for k in range(1, 6):
        components[k, 12, 12] = 10.0 ** (-k)  # digits tell which term got which value
    model = psfex_form(write_psfex(tmp_path / "m.psf", components, order=2))
    assert (model.polyorder, model.n_stars) == (2, 77)
    u, v = 0.5, -0.25
    got = model.raw_at(101 + 50 - 1, 201 - 50 - 1)[12, 12] - 1.0  # 0-based pixels
    terms = [u, u**2, v, u * v, v**2]
    assert got == pytest.approx(sum(10.0 ** (-k - 1) * t for k, t in enumerate(terms)), abs=1e-6)
    assert model.raw_at()[12, 12] == pytest.approx(1.0)


@pytest.mark.parametrize("sampling", [0.5, 0.83, 1.0, 1.2])
def test_psfex_sampling(tmp_path, sampling):
    sigma = 2.0
    components = gaussian((41, 41), 20, 20, sigma / sampling)[None]
    psf = read_psfex(write_psfex(tmp_path / "m.psf", components, order=0, sampling=sampling)).at(5, 6)
    check(psf.data)
    assert psf.fwhm == pytest.approx(2.3548 * sigma, rel=2e-3)
    # PSFEx defines the model between its samples by the Lanczos-4 kernel: the sum, written out, at a few pixels.

    def lanczos_sum(offset):
        place = offset / sampling + 20
        near = [k for k in range(41) if abs(place - k) < 4]
        kernel = [np.sinc(place - k) * np.sinc((place - k) / 4) for k in near]
        values = [np.exp(-0.5 * ((k - 20) * sampling / sigma) ** 2) for k in near]
        return np.dot(kernel, values) / np.sum(kernel)

    middle = psf.data.shape[0] // 2
    for dy, dx in ((0, 1), (2, -1), (3, 3), (-4, 0)):
        expected = lanczos_sum(dy) * lanczos_sum(dx) / lanczos_sum(0) ** 2
        assert psf.data[middle + dy, middle + dx] / psf.data[middle, middle] == pytest.approx(expected, rel=1e-6)
    assert (psf.n_stars, psf.residual) == (77, 1.25)


def test_psfex_is_told_by_content_and_evaluated_at_a_place(tmp_path):
    components = np.zeros((3, 25, 25))
    components[0] = gaussian((25, 25), 12, 12, 2.0)
    components[1] = gaussian((25, 25), 12, 12, 3.0) - components[0]
    path = write_psfex(tmp_path / "m.anything", components, order=1)
    narrow, wide = read_psf(path, x=100, y=200), read_psf(path, x=200, y=200)
    assert narrow.fwhm == pytest.approx(2 * 2.3548, rel=0.01)
    assert wide.fwhm == pytest.approx(3 * 2.3548, rel=0.02)
    assert read_psf(path, shape=(401, 201)).fwhm == pytest.approx(narrow.fwhm)


def test_psfex_of_other_variables_is_refused(tmp_path):
    path = write_psfex(tmp_path / "m.psf", np.ones((3, 5, 5)), order=1)
    with fits.open(path, mode="update") as hdus:
        hdus[1].header["POLNAME1"] = "MAG_AUTO"
    with pytest.raises(PsfError, match="depends on MAG_AUTO"):
        read_psfex(path)


def test_psfex_of_a_cutout_is_taken_for_one_and_not_for_a_frame_that_sticks_out_of_its_chip(tmp_path):
    """Stars from x -1578 to 466 and y -3882 to 208, as in the file of a cutout of 251 x 245 pixels."""
    parts = np.zeros((3, 21, 21))
    parts[0] = gaussian((21, 21), 10, 10)
    path = write_psfex(tmp_path / "a.psf", parts, order=1, zero=(-556.0, -1837.0), scale=(2044.0, 4090.0))
    model = read_psfex(path, shape=(245, 251))
    assert "taken for a cutout's: its stars ran over x -1578 to 466, y -3882 to 208" in model.origin
    for shape in ((900, 1000), (245, 700), (500, 251)):
        with pytest.raises(PsfError, match="the model belongs to an image of another size"):
            read_psfex(path, shape=shape)


def test_psfex_without_a_model(tmp_path):
    path = tmp_path / "img.fits"
    fits.PrimaryHDU(np.ones((5, 5))).writeto(path)
    with pytest.raises(PsfError, match="holds no PSFEx model"):
        read_psfex(path)


# ---- DAOPHOT


def test_daophot_gaussian_and_its_tables(tmp_path):
    side, hwhm = 15, (1.2, 1.5)
    tables = np.zeros((6, side, side))
    for k in range(6):
        tables[k, 7, 7] = -(10.0 ** (-k))
    tables[0, 7, 9] = 5.0  # one pixel towards +x, at two samples a pixel
    model = daophot_form(write_daophot(tmp_path / "p.psf", "GAUSSIAN", hwhm, tables))
    assert (model.kind, model.centre, model.radius) == ("GAUSSIAN", (511.5, 1023.5), 3.0)
    u, v = 0.5, -0.5
    raw = model.raw_at(511.5 * 1.5, 1023.5 * 0.5)
    terms = np.array([1, u, v, 1.5 * u * u - 0.5, u * v, 1.5 * v * v - 0.5])
    sigma = np.array(hwhm) / np.sqrt(2 * np.log(2))
    fine = (np.arange(-3500, 3500) + 0.5) / 1000
    profile = [np.exp(-0.5 * (fine / s) ** 2).reshape(7, 1000).mean(axis=1) for s in sigma]
    analytic = 100.0 * np.outer(profile[1], profile[0]) / (hwhm[0] * hwhm[1])
    assert raw[3, 3] == pytest.approx(analytic[3, 3] - (terms * 10.0 ** -np.arange(6)).sum(), rel=1e-5)
    assert raw[3, 4] == pytest.approx(analytic[3, 4] + 5.0, rel=1e-5)
    assert raw[4, 3] == pytest.approx(analytic[4, 3], rel=1e-5)
    assert raw[0, 0] == 0.0  # the corner lies beyond the radius


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("MOFFAT15", (4.0, 4.0, 0.0)),
        ("MOFFAT25", (4.0, 4.0, 0.0)),
        ("MOFFAT35", (4.0, 4.0, 0.0)),
        ("LORENTZ", (4.0, 4.0, 0.0)),
        ("PENNY1", (4.0, 4.0, 0.7, 0.0)),
        ("PENNY2", (4.0, 4.0, 0.7, 0.0, 0.0)),
    ],
)
def test_daophot_analytic_kinds_have_their_half_width(tmp_path, kind, parameters):
    model = daophot_form(write_daophot(tmp_path / "p.psf", kind, parameters, np.zeros((1, 47, 47))))
    raw = model.raw_at()
    assert raw[11, 15] / raw[11, 11] == pytest.approx(0.5, abs=0.03)  # the pixel flattens the peak by about 2 %
    psf = read_psf(tmp_path / "p.psf")
    check(psf.data)
    assert psf.origin == "daophot p.psf"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (" HELLO\n", "not a DAOPHOT PSF"),
        (" AIRY        15    2    1    0   14.500     100.0   511.5   511.5\n 1.0 1.0\n", "kind AIRY"),
        (" GAUSSIAN    15    2    2    0   14.500     100.0   511.5   511.5\n 1.0 1.0\n", "2 tables"),
        (" GAUSSIAN    15    2    1    0   14.500     100.0   511.5   511.5\n 1.0 1.0 0.5\n", "cut short"),
    ],
)
def test_daophot_refused(tmp_path, text, words):
    path = tmp_path / "p.psf"
    path.write_text(text)
    with pytest.raises(PsfError, match=words):
        read_daophot_psf(path)


# ---- real files

REAL = {  # FWHM in pixels where it is known from elsewhere: header, model or instrument; None where not
    "psf/psfex/DECam_00154912_12_psfcat.psf": None,
    "psf/psfex/bok90prime_deep2g_ra352_1-ccd1.psf": None,
    "psf/psfex/mosaic_00062785-ccd2.psf.fits": None,
    "psf/sdss/example_sdss_psf_sky0.fits.bz2": None,
    "psf/unwise/psf_model_w1.fits": 6.1 / 2.75,  # arcsec FWHM of WISE W1 over its pixels
    "psf/webbpsf/jw01324001001-01324-o001_t001_nircam_clear-f200w_i2d_stamp.WebbPSF.fits": 0.066 / 0.0309,
    "psf/irac/irac_ch1_flight.fits": None,
    "pairs/decam_testcase4/g/c4d_170329_044212_ooi_g_ls9-N3-psfex.fits": 4.756,  # PSF_FWHM and FWHM of the header
    "pairs/decam_testcase6/g/c4d_181104_072440_ooi_g_ls9-S4-psfex.fits": None,
}


@pytest.mark.parametrize("name", REAL)
def test_real_psfs(data_dir, name):
    psf = read_psf(data_dir / name)
    check(psf.data)
    assert 1.5 < psf.fwhm < 9
    assert 0 <= psf.ellipticity < 0.4
    if REAL[name] is not None:
        assert psf.fwhm == pytest.approx(REAL[name], rel=0.08)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("psf/hst/PSFSTD_WFC3IR_F160W.fits.gz", "grid of 9 PSFs"),
    ],
)
def test_real_psfs_of_kinds_that_are_not_read(data_dir, name, words):
    with pytest.raises(PsfError, match=words):
        read_psf(data_dir / name)


def test_real_psfex_varies_over_the_field(data_dir):
    path = data_dir / "psf/psfex/DECam_00154912_12_psfcat.psf"
    model, form = read_psfex(path, shape=(4096, 2048)), psfex_form(path)
    assert (model.order, model.n_stars, model.shape, form.components.shape) == (2, 483, (4096, 2048), (6, 25, 25))
    corner, middle = model.at(0, 0), model.at(2048, 1024)
    assert np.abs(corner.data - middle.data).max() > 1e-4
    assert corner.fwhm == pytest.approx(form.fwhm, rel=0.15)
    for shape in ((1024, 1024), (2048, 4096), (12000, 2048)):
        with pytest.raises(PsfError, match="the model belongs to an image of another size"):
            read_psfex(path, shape=shape)
    assert read_psf(path, shape=(100, 100), x=1024, y=2048).fwhm == pytest.approx(middle.fwhm)


def test_psfex_shifted_to_a_cutout_at_the_edge_of_its_chip(data_dir):
    """Stars from x -12 to 2031 and y -3271 to 820: shifted along y; along x the cutout begins where the chip does."""
    path = data_dir / "pairs/decam_testcase4/z/c4d_170316_062107_ooi_z_ls9-N2-psfex.fits"
    assert read_psfex(path, shape=(251, 245)).order == 2
    with pytest.raises(PsfError, match="the model belongs to an image of another size"):
        read_psfex(path, shape=(251, 6000))


def fitted_chi2(cut, psf, gain, read_noise):
    """Reduced chi-squared of flux * PSF + sky, best over sub-pixel shifts, within 9 pixels."""
    from scipy.optimize import least_squares

    near = np.hypot(*(np.indices(cut.shape) - cut.shape[0] // 2)) < 9
    weight = 1 / np.sqrt(np.maximum(cut[near], 1) / gain + (read_noise / gain) ** 2)

    def residuals(shift):
        moved = np.fft.irfft2(np.fft.rfft2(psf) * shift_phase(psf.shape, *shift), psf.shape)
        columns = np.stack([moved[near], np.ones(near.sum())], axis=1)
        solution = np.linalg.lstsq(columns * weight[:, None], cut[near] * weight, rcond=None)[0]
        return (cut[near] - columns @ solution) * weight

    fit = least_squares(residuals, (0.0, 0.0))
    return float((fit.fun**2).sum() / (near.sum() - 4))


@pytest.mark.parametrize("frame", ["g_857_9_2_2460626.7241", "r_857_9_2_2459540.8489", "r_858_12_1_2459987.7442"])
def test_daophot_psf_of_ztf_fits_the_stars_of_its_frame(data_dir, frame):
    """The frame's own stars are its PSF to the noise: reduced chi-squared near 1 (seeing above 2.7 px)."""
    folder = data_dir / "pairs/ztf_psfcat_stamps" / frame
    model = read_daophot_psf(folder / "psf.psf", shape=(3080, 3072))
    assert (model.order, model.shape) == (1, (3080, 3072))
    psf = model.at()
    check(psf.data)
    chi2, seeing = [], None
    for path in sorted(folder.glob("star_*.fits")):
        image = read_image(path)
        seeing = image.meta["fwhm"]
        middle = [side // 2 for side in image.shape]
        window = image.data[middle[0] - 4 : middle[0] + 5, middle[1] - 4 : middle[1] + 5]
        y, x = np.unravel_index(np.argmax(window), window.shape) + np.array(middle) - 4
        half = psf.data.shape[0] // 2
        cut = image.data[y - half : y + half + 1, x - half : x + half + 1].astype(float)
        if cut.shape == psf.data.shape and cut.max() < 30000:
            chi2.append(fitted_chi2(cut, psf.data, image.gain, image.read_noise))
    assert len(chi2) >= 5
    # about 250 pixels: the scatter of reduced chi-squared is sqrt(2 / 250) = 0.09; the rest is the phase shift's
    assert 0.85 < np.median(chi2) < 1.6
    assert psf.fwhm == pytest.approx(seeing, rel=0.12)  # SEEING is SExtractor's median over the frame
