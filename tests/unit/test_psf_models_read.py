"""Files of PSFs that vary over the field become PSFModels: the file's own function anywhere, of its own image only."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from astrid_gpu.errors import PsfError
from astrid_gpu.image import PSF, PSFModel
from astrid_gpu.io import read_daophot_psf, read_image, read_piff, read_psf, read_psf_model
from astrid_gpu.io.daophot import daophot_form
from astrid_gpu.io.psfex import psfex_form
from astrid_gpu.ops.psf_stamps import fwhm_of
from tests.psf_files import check, gaussian, write_daophot, write_piff, write_psfex


def test_a_psfex_model_is_the_files_polynomial_anywhere(tmp_path, rng):
    components = np.zeros((6, 25, 25))
    components[0] = gaussian((25, 25), 12, 12, 2.0)
    components[1:] = 0.02 * rng.normal(size=(5, 1, 1)) * (gaussian((25, 25), 12, 12, 2.6) - components[0])
    path = write_psfex(tmp_path / "m.psf", components, order=2)
    model, form = read_psf_model(path, shape=(401, 201)), psfex_form(path)
    assert isinstance(model, PSFModel)
    assert (model.order, model.shape, model.n_stars, model.residual) == (2, (401, 201), 77, 1.25)
    for y, x in ((0, 0), (400, 200), (37.5, 180.0)):
        raw = form.raw_at(x, y)
        np.testing.assert_allclose(model.at(y, x).data, raw / raw.sum(), atol=2e-9)


def test_a_constant_model_becomes_a_stamp(tmp_path):
    path = write_psfex(tmp_path / "m.psf", gaussian((25, 25), 12, 12, 2.0)[None], order=0)
    assert isinstance(read_psf_model(path, shape=(50, 50)), PSF)
    image = tmp_path / "image.fits"
    fits.PrimaryHDU(np.ones((50, 50), np.float32)).writeto(image)
    assert isinstance(read_image(image, psf=path).psf, PSF)


def test_an_image_gets_the_model_and_not_another_ones(tmp_path):
    components = np.stack([gaussian((25, 25), 12, 12, 2.0), np.zeros((25, 25)), np.zeros((25, 25))])
    path = write_psfex(tmp_path / "m.psf", components, order=1, zero=(101.0, 201.0), scale=(190.0, 390.0))
    for shape in ((401, 201), (100, 100)):
        fits.PrimaryHDU(np.ones(shape, np.float32)).writeto(tmp_path / f"{shape[0]}.fits")
    assert read_image(tmp_path / "401.fits", psf=path).psf.shape == (401, 201)
    with pytest.raises(PsfError, match="stars of the model lie from x 6 to 196, the image has 100 pixels along x"):
        read_image(tmp_path / "100.fits", psf=path)
    # Shifted to a cutout by whoever made it: its stars begin before the first pixel.
    moved = write_psfex(tmp_path / "cut.psf", components, order=1, zero=(41.0, 21.0), scale=(190.0, 390.0))
    assert read_image(tmp_path / "100.fits", psf=moved).psf.order == 1


@pytest.mark.parametrize("n_tables", [1, 3, 6])
def test_a_daophot_model_is_the_files_function_anywhere(tmp_path, n_tables):
    tables = np.zeros((n_tables, 31, 31))
    for k in range(n_tables):
        tables[k] = 0.5 ** (k + 2) * gaussian((31, 31), 15, 15, 3.0 + k)
    path = write_daophot(tmp_path / "p.psf", "GAUSSIAN", (1.6, 1.7), tables, height=30.0, centre=(99.5, 149.5))
    model, form = read_daophot_psf(path), daophot_form(path)
    assert model.order == {1: 0, 3: 1, 6: 2}[n_tables]
    for y, x in ((0, 0), (299, 199), (40, 170.5)):
        raw = form.raw_at(x, y)
        np.testing.assert_allclose(model.at(y, x).data, raw / raw.sum(), atol=1e-12)
    if n_tables > 1:
        assert model.shape == (300, 200)
        with pytest.raises(PsfError, match=r"varies over an image of \(300, 200\).*this image has \(300, 300\)"):
            read_psf_model(path, shape=(300, 300))
        assert read_psf(path, shape=(300, 300), x=10, y=20).fwhm > 0
    else:
        assert isinstance(read_psf_model(path, shape=(300, 300)), PSF)


def test_the_psf_image_of_ztf_is_a_stamp(tmp_path):
    """`..._sciimgdaopsf.fits`: DAOPHOT's PSF in the middle of the frame, 25 x 25 pixels in the primary HDU."""
    path = tmp_path / "ztf_20200924431759_000655_zr_c13_o_q3_sciimgdaopsf.fits"
    header = fits.Header({"PSFAVGPK": 1.0})
    fits.PrimaryHDU((5e4 * gaussian((25, 25), 12, 12, 1.1)).astype(np.float32), header).writeto(path)
    psf = read_psf_model(path, shape=(3080, 3072))
    check(psf.data)
    assert psf.data.shape == (25, 25)


@pytest.mark.parametrize("missing", [0, 1, 3])
def test_a_piff_file_is_read(tmp_path, missing):
    model = read_psf_model(write_piff(tmp_path / "a.piff", missing=missing), shape=(308, 501))
    assert isinstance(model, PSFModel)
    assert (model.order, model.shape, model.n_stars) == (1, (308, 501), 60)
    assert model.residual == pytest.approx(0.9)
    for y, sigma in ((0, 0.5), (307, 0.6)):
        psf = model.at(y, 250)
        check(psf.data)
        assert psf.fwhm == pytest.approx(2.3548 * sigma / 0.26, rel=0.01)
    assert read_piff(tmp_path / "a.piff").at(307, 250).fwhm == pytest.approx(2.3548 * 0.6 / 0.26, rel=0.01)


def test_a_piff_file_of_another_image_is_refused(tmp_path):
    with pytest.raises(PsfError, match=r"outside of an image of \(100, 100\): it belongs to another image"):
        read_psf_model(write_piff(tmp_path / "a.piff"), shape=(100, 100))


def test_real_piff_file_of_des(data_dir):
    """A DES Y3 exposure of 2013, r band: seeing of an arcsecond on 0.263" pixels, round to a few per cent."""
    path = data_dir / "psf/piff/D00240560_r_c01_r2362p01_piff.fits"
    model = read_psf_model(path, shape=(4096, 2048))
    assert (model.order, model.shape, model.n_stars) == (3, (4096, 2048), 50)
    assert 0.2 < model.residual < 1.2
    stamps = model.stamps([10, 10, 2048, 4085, 4085], [10, 2037, 1024, 10, 2037])
    for stamp in stamps:
        check(stamp)
        assert 2.5 < fwhm_of(stamp) < 6.0
    assert np.abs(stamps[0] - stamps[2]).max() > 1e-4
    with pytest.raises(PsfError, match="belongs to another image"):
        read_psf_model(path, shape=(1024, 1024))
