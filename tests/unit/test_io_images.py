"""Pixels, planes and objects: what `read_image` and `as_image` make of them."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance, NDData, StdDevUncertainty, UnknownUncertainty, VarianceUncertainty
from astropy.wcs import WCS

from astrid_gpu.errors import FitsError, InputError, ShapeMismatchError
from astrid_gpu.image import Image
from astrid_gpu.io import as_image, read_image


def sky_wcs():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = [150.0, 2.0], [20.0, 15.0], [-2e-4, 2e-4]
    return wcs


@pytest.fixture
def pixels(rng):
    return rng.normal(100, 5, size=(30, 40)).astype(np.float32)


@pytest.fixture
def mef(tmp_path, pixels):
    """SCI with ERR and DQ, twice, as HST writes."""
    hdus = [fits.PrimaryHDU()]
    for version in (1, 2):
        error = np.full_like(pixels, version)
        error[0, 0] = 0
        quality = np.zeros(pixels.shape, np.int16)
        quality[2, 3] = 4096
        for name, data in (("SCI", pixels + version), ("ERR", error), ("DQ", quality)):
            hdus.append(fits.ImageHDU(data, name=name, ver=version))
    path = tmp_path / "mef.fits"
    fits.HDUList(hdus).writeto(path)
    return path


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "u4", "i8", "f4", "f8"])
def test_every_type_becomes_native_floats(tmp_path, dtype):
    values = np.arange(200, dtype=dtype).reshape(10, 20)
    path = tmp_path / "img.fits"
    fits.PrimaryHDU(values).writeto(path)
    data = read_image(path).data
    assert data.dtype == (np.float64 if dtype == "f8" else np.float32)
    assert data.dtype.isnative
    assert data.flags.c_contiguous
    assert data.flags.writeable
    np.testing.assert_array_equal(data, values.astype(float))


@pytest.mark.parametrize(("bzero", "bscale"), [(32768.0, 1.0), (10.0, 2.0), (0.0, 1.0)])
def test_scaling_and_blank(tmp_path, bzero, bscale):
    path = tmp_path / "img.fits"
    fits.PrimaryHDU(np.arange(100, dtype=np.int16).reshape(10, 10)).writeto(path)
    content = path.read_bytes()
    header = fits.Header.fromstring(content[:2880].decode())
    header["BLANK"], header["BZERO"], header["BSCALE"] = 5, bzero, bscale
    path.write_bytes(header.tostring().encode() + content[2880:])
    image = read_image(path)
    expected = np.arange(100).reshape(10, 10) * bscale + bzero
    expected[0, 5] = np.nan
    np.testing.assert_array_equal(image.data, expected)
    assert image.bad.sum() == 1


def test_unsigned_16_bit_saturates_at_the_end_of_the_converter(tmp_path):
    path = tmp_path / "img.fits"
    fits.PrimaryHDU(np.array([[1, 65535], [3, 4]], np.uint16)).writeto(path)
    image = read_image(path)
    assert image.data[0, 1] == 65535
    assert image.saturation == 65535
    assert any("saturation" in note for note in image.meta["notes"])


@pytest.mark.parametrize("name", ["img.fits.gz", "img.fits.bz2", "img.fits.fz", "noending"])
def test_packings(tmp_path, pixels, name):
    path = tmp_path / name
    if name.endswith(".fz"):
        hdu = fits.CompImageHDU(pixels, compression_type="GZIP_2", quantize_level=0.0)
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    else:
        plain = tmp_path / "plain.fits"
        fits.PrimaryHDU(pixels).writeto(plain)
        if name.endswith("gz"):
            path.write_bytes(gzip.compress(plain.read_bytes()))
        elif name.endswith("bz2"):
            import bz2

            path.write_bytes(bz2.compress(plain.read_bytes()))
        else:
            plain.rename(path)
    np.testing.assert_array_equal(read_image(path).data, pixels)


def test_rice_compressed_integers_with_header(tmp_path, rng):
    values = rng.integers(0, 60000, (64, 50)).astype(np.uint16)
    header = sky_wcs().to_header()
    header["GAIN"] = 2.5
    path = tmp_path / "img.fits.fz"
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(values, header, compression_type="RICE_1")]).writeto(path)
    image = read_image(path)
    np.testing.assert_array_equal(image.data, values)
    assert image.gain == 2.5
    assert image.wcs is not None


def test_degenerate_axis_is_dropped(tmp_path, pixels):
    path = tmp_path / "img.fits"
    fits.PrimaryHDU(pixels[None]).writeto(path)
    assert read_image(path).shape == pixels.shape


@pytest.mark.parametrize(("spec", "version"), [("", 1), ("[SCI]", 1), ("[1]", 1), ("[sci,2]", 2), ("[4]", 2)])
def test_extensions_and_their_own_companions(mef, pixels, spec, version):
    image = read_image(f"{mef}{spec}")
    np.testing.assert_array_equal(image.data, pixels + version)
    assert np.nanmedian(image.variance) == version**2
    assert image.mask[0, 0] == 1
    assert np.isnan(image.variance[0, 0])
    assert image.mask[2, 3] != 0
    assert image.bad.sum() == 2
    assert "error from extension [ERR]" in image.meta["notes"]
    assert any(note.startswith("1 pixels have no positive finite error") for note in image.meta["notes"])


def test_extension_argument(mef, pixels):
    np.testing.assert_array_equal(read_image(mef, extension=("SCI", 2)).data, pixels + 2)
    np.testing.assert_array_equal(read_image(mef, extension=4).data, pixels + 2)


def test_choice_among_images_is_noted(mef):
    assert any("holds 2 images" in note for note in read_image(mef).meta["notes"])


def test_given_planes_replace_those_of_the_file(mef, pixels):
    image = read_image(mef, variance=np.full(pixels.shape, 9.0), mask=np.zeros(pixels.shape, bool))
    assert (image.variance == 9).all()
    assert image.bad.sum() == 0


@pytest.mark.parametrize(
    ("kind", "value", "variance"), [("error", 3.0, 9.0), ("variance", 3.0, 3.0), ("weight", 4.0, 0.25)]
)
def test_noise_planes_from_files_and_arrays(tmp_path, pixels, kind, value, variance):
    image_path, plane_path = tmp_path / "img.fits", tmp_path / "plane.fits"
    plane = np.full(pixels.shape, value, np.float32)
    plane[0, :4] = 0, -1, np.nan, np.inf
    fits.PrimaryHDU(pixels).writeto(image_path)
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(plane, name="ANY")]).writeto(plane_path)
    for given in (plane, plane_path, str(plane_path), f"{plane_path}[ANY]"):
        image = read_image(image_path, **{kind: given})
        assert image.variance.dtype == np.float32
        np.testing.assert_allclose(image.variance[1:], variance, rtol=1e-6)
        assert image.mask[0, :4].all()
        assert image.mask.sum() == 4
        assert any("4 pixels have no positive finite" in note for note in image.meta["notes"])


def test_only_one_noise_plane(tmp_path, pixels):
    path = tmp_path / "img.fits"
    fits.PrimaryHDU(pixels).writeto(path)
    with pytest.raises(InputError, match="give one of variance, error and weight"):
        read_image(path, error=pixels, weight=pixels)


def test_a_mask_of_large_codes_keeps_its_truth(tmp_path, pixels):
    path = tmp_path / "img.fits"
    fits.PrimaryHDU(pixels).writeto(path)
    codes = np.zeros(pixels.shape, np.int32)
    codes[1, 1], codes[2, 2] = 256, 65536
    mask = read_image(path, mask=codes).mask
    assert mask.dtype == np.uint8
    assert mask[1, 1]
    assert mask[2, 2]
    assert np.count_nonzero(mask) == 2


def test_survey_masks_ignore_detections(tmp_path, pixels):
    path, codes = tmp_path / "img.fits", np.zeros(pixels.shape, np.int16)
    codes[0, :4] = 2, 2048, 256, 258  # source, PSF source, saturated, both
    fits.PrimaryHDU(pixels).writeto(path)
    header = fits.Header({"ORIGIN": "Zwicky Transient Facility"})
    fits.PrimaryHDU(codes, header).writeto(tmp_path / "ztf.fits")
    np.testing.assert_array_equal(read_image(path, mask=tmp_path / "ztf.fits").mask[0, :5] != 0, [0, 0, 1, 1, 0])
    header = fits.Header({"TELESCOP": "JWST"})
    codes[0, :4] = 1, 4, 5, 2
    fits.PrimaryHDU(codes, header).writeto(tmp_path / "jwst.fits")
    np.testing.assert_array_equal(read_image(path, mask=tmp_path / "jwst.fits").mask[0, :5] != 0, [1, 0, 1, 0, 0])


def test_drizzle_weights_only_tell_coverage(tmp_path, pixels):
    weight = np.full(pixels.shape, 1200.0, np.float32)
    weight[:, 0] = 0
    path = tmp_path / "drz.fits"
    primary = fits.PrimaryHDU(header=fits.Header({"TELESCOP": "HST"}))
    fits.HDUList([primary, fits.ImageHDU(pixels, name="SCI"), fits.ImageHDU(weight, name="WHT")]).writeto(path)
    image = read_image(path)
    assert image.variance is None
    assert image.mask[:, 0].all()
    assert image.mask.sum() == pixels.shape[0]


@pytest.mark.parametrize("cd", [(0.0, 0.0, 0.0, 0.0), (1e-4, 1e-4, 1e-4, 1e-4), (1e-4, 0.0, 0.0, 1e300)])
def test_broken_wcs_is_a_note(tmp_path, pixels, cd):
    header = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "GAIN": 2.0})
    header.update(dict(zip(("CD1_1", "CD1_2", "CD2_1", "CD2_2"), cd, strict=True)))
    path = tmp_path / "img.fits"
    fits.PrimaryHDU(pixels, header).writeto(path)
    image = read_image(path)
    assert image.wcs is None
    assert image.gain == 2.0
    assert any("WCS" in note and "left out" in note for note in image.meta["notes"])


def test_wcs_survives(tmp_path, pixels):
    path = tmp_path / "img.fits"
    fits.PrimaryHDU(pixels, sky_wcs().to_header()).writeto(path)
    wcs = read_image(path).wcs
    np.testing.assert_allclose(wcs.all_pix2world(3, 4, 0), sky_wcs().all_pix2world(3, 4, 0), atol=1e-12)


def test_header_of_the_primary_reaches_the_extension(tmp_path, pixels):
    primary = fits.PrimaryHDU(header=fits.Header({"TELESCOP": "CTIO", "MAGZERO": 30.0, "GAIN": 9.0}))
    path = tmp_path / "img.fits"
    fits.HDUList([primary, fits.ImageHDU(pixels, fits.Header({"GAIN": 4.0}), name="N3")]).writeto(path)
    image = read_image(path)
    assert (image.gain, image.zero_point, image.meta["telescope"]) == (4.0, 30.0, "CTIO")
    assert image.name == "img.fits[N3]"
    assert image.meta["header"]["MAGZERO"] == 30.0


def test_ps1_asinh_scaling_is_undone(tmp_path):
    counts = np.array([[-50.0, 0.0], [10.0, 5000.0]])
    soften, offset = 20.0, 3.0
    scaled = np.arcsinh((counts - offset) / (2 * soften)) / (0.4 * np.log(10))
    path = tmp_path / "stack.fits"
    fits.PrimaryHDU(scaled, fits.Header({"BSOFTEN": soften, "BOFFSET": offset})).writeto(path)
    np.testing.assert_allclose(read_image(path).data, counts, rtol=1e-12, atol=1e-10)


def test_psf_beside_the_image(tmp_path, pixels):
    path = tmp_path / "img.fits"
    fits.PrimaryHDU(pixels).writeto(path)
    assert read_image(path, psf="gaussian:3").psf.fwhm == pytest.approx(3.0, abs=1e-3)


# ---- objects


def test_arrays(pixels):
    image = as_image(pixels)
    np.testing.assert_array_equal(image.data, pixels)
    assert image.data is not pixels
    assert as_image(pixels.astype(">i4")).data.dtype == np.float32
    assert as_image(pixels.astype(">f8")).data.dtype == np.dtype("=f8")
    assert as_image(pixels[None], name="science").shape == pixels.shape


def test_an_image_is_returned_as_it_is(pixels):
    image = Image(pixels)
    assert as_image(image) is image


def test_masked_array(pixels):
    image = as_image(np.ma.MaskedArray(pixels, pixels > 110))
    np.testing.assert_array_equal(image.mask != 0, pixels > 110)


def test_pair_with_a_wcs_or_a_header(pixels):
    assert as_image((pixels, sky_wcs())).wcs is not None
    header = sky_wcs().to_header()
    header["MAGZP"], header["GAIN"] = 26.0, 6.2
    image = as_image((pixels, header))
    assert (image.zero_point, image.gain) == (26.0, 6.2)
    np.testing.assert_allclose(image.wcs.all_pix2world(3, 4, 0), sky_wcs().all_pix2world(3, 4, 0), atol=1e-12)
    assert as_image((pixels, None)).wcs is None
    with pytest.raises(InputError, match="WCS or a FITS header, got int"):
        as_image((pixels, 3))
    with pytest.raises(InputError, match="got 3 items"):
        as_image((pixels, None, 1))


@pytest.mark.parametrize(
    ("uncertainty", "variance"),
    [(StdDevUncertainty, 4.0), (VarianceUncertainty, 2.0), (InverseVariance, 0.5), (UnknownUncertainty, None)],
)
def test_ccddata(pixels, uncertainty, variance):
    mask = np.zeros(pixels.shape, bool)
    mask[5, 6] = True
    data = CCDData(pixels, unit="adu", mask=mask, wcs=sky_wcs(), uncertainty=uncertainty(np.full(pixels.shape, 2.0)))
    data.header["EGAIN"] = 1.7
    image = as_image(data, name="science")
    assert image.wcs is data.wcs
    assert image.gain == 1.7
    assert image.mask[5, 6]
    assert image.mask.sum() == 1
    assert image.meta["unit"] == "adu"
    if variance is None:
        assert image.variance is None
        assert any("unknown" in note for note in image.meta["notes"])
    else:
        np.testing.assert_allclose(image.variance, variance)


def test_nddata_with_a_psf(pixels):
    stamp = np.exp(-0.5 * ((np.indices((11, 11)) - 5.0) ** 2).sum(axis=0) / 2.0)
    image = as_image(NDData(pixels, psf=stamp))
    assert image.psf.data.sum() == pytest.approx(1.0)


def test_ccddata_in_electrons_has_gain_one(pixels):
    data = CCDData(pixels, unit=u.electron, meta={"GAIN": 2.3})
    assert as_image(data).gain == 1.0


def test_hdu_and_hdulist(mef, pixels):
    with fits.open(mef) as hdus:
        np.testing.assert_array_equal(as_image(hdus).data, pixels + 1)
        assert as_image(hdus).variance is not None
        np.testing.assert_array_equal(as_image(hdus["SCI", 2]).data, pixels + 2)
        with pytest.raises(FitsError, match="not an image"):
            as_image(hdus[0])


def test_path(mef, pixels):
    np.testing.assert_array_equal(as_image(str(mef)).data, pixels + 1)


@pytest.mark.parametrize("bad", [{"a": 1}, object(), np.array(["x", "y"])])
def test_other_objects(bad):
    with pytest.raises(InputError, match="must be an image"):
        as_image(bad, name="science")


@pytest.mark.parametrize("shape", [(5,), (3, 4, 5), (0, 4)])
def test_other_shapes(shape):
    with pytest.raises(ShapeMismatchError, match="two-dimensional"):
        as_image(np.zeros(shape))
