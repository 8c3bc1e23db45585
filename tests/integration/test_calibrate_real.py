"""The stages before the subtraction on real exposures: widths against headers, ratios against what is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from astrid_gpu.calibrate import flux_ratio, noise_variance, saturation_mask, subtract_background
from astrid_gpu.errors import PsfError
from astrid_gpu.image import PSF, Image
from astrid_gpu.ops.psf_stamps import centroid_of, fwhm_of
from astrid_gpu.psf import measure_psf, measure_psf_pair
from astrid_gpu.stars import find_stars

fits = pytest.importorskip("astropy.io.fits", reason="reads FITS files")


def load(path: Path, **changes) -> Image:
    """Read a file as the header says, without the package's own reader: that has its own tests."""
    with fits.open(path) as hdus:
        hdu = next(h for h in hdus if h.data is not None and h.data.ndim == 2)
        header = hdus[0].header.copy()
        header.update(hdu.header)
        data = hdu.data.astype(np.float64)
    known = {
        "gain": header.get("GAIN", header.get("GAINA")),
        "read_noise": header.get("RDNOISE", header.get("READNOI")),
        "saturation": header.get("SATURATE"),
        "meta": {"EXPTIME": header.get("EXPTIME"), "FWHM": header.get("FWHM"), "SEEING": header.get("SEEING")},
    }
    return Image(data, name=path.name, **(known | changes))


def prepared(image: Image):
    """Run the single-image stages: (image with variance and saturation masked, sigma, stars)."""
    saturated, _ = saturation_mask(image)
    mask = saturated.astype(np.uint8) if image.mask is None else ((image.mask != 0) | saturated).astype(np.uint8)
    subtracted, background, _ = subtract_background(image.with_(mask=mask), backend="numpy")
    variance, sigma, _ = noise_variance(subtracted, background)
    stars = find_stars(subtracted, background_rms=background.rms)
    return subtracted.with_(variance=variance), sigma, stars


def check_stamp(psf: PSF) -> None:
    ky, kx = psf.data.shape
    assert ky == kx
    assert ky % 2 == 1
    assert psf.data.sum() == pytest.approx(1, abs=1e-12)
    assert np.abs(np.array(centroid_of(psf.data)) - ky // 2).max() < 0.02
    # Undersampled stars ring a little when they are brought to one centre.
    assert psf.data.min() > (-0.01 if psf.fwhm > 2.2 else -0.03) * psf.data.max()


@pytest.mark.parametrize("number", [1, 28, 70, 100])
def test_crowded_saao_frames(data_dir, number):
    image = load(data_dir / f"pairs/saao_kb13475/AKB13475I{number:04d}.fits")
    subtracted, sigma, stars = prepared(image)
    # Poisson noise of the sky and read noise: what gain and level predict, however crowded the field is.
    predicted = np.sqrt(subtracted.background_level / 1.9 + (5.0 / 1.9) ** 2)
    assert sigma == pytest.approx(predicted, rel=0.2)
    assert len(stars) > 800
    psf = measure_psf(subtracted, stars=stars)
    check_stamp(psf)
    assert psf.n_stars >= 40
    assert 3.3 < psf.fwhm < 4.6
    assert psf.residual < 8


@pytest.mark.parametrize("band", ["g", "z"])
def test_decam_crops_agree_with_the_header_and_the_weights(data_dir, band):
    folder = data_dir / "pairs/decam_testcase4" / band
    for path in sorted(folder.glob("*ooi*ls9.*.fits")):
        image = load(path, mask=(load(Path(str(path).replace("ooi", "ood"))).data != 0).astype(np.uint8))
        weight = load(Path(str(path).replace("ooi", "oow"))).data
        subtracted, sigma, stars = prepared(image)
        declared = 1 / np.sqrt(np.median(weight[weight > 0]))
        # The archive's weights are good to some 10 %.
        assert sigma == pytest.approx(declared, rel=0.15)
        psf = measure_psf(subtracted, stars=stars)
        check_stamp(psf)
        # The header has SExtractor's FWHM of a Gaussian, wider than the half maximum of real wings.
        assert psf.fwhm == pytest.approx(0.92 * image.meta["FWHM"], rel=0.08)


def test_ztf_stamps_agree_with_the_seeing(data_dir):
    seen, noise = 0, []
    for folder in sorted((data_dir / "pairs/ztf_psfcat_stamps").glob("*_*")):
        for path in sorted(folder.glob("star_0[0-5].fits")):
            image = load(path)
            subtracted, sigma, stars = prepared(image)
            predicted = np.sqrt(subtracted.background_level / image.gain + (image.read_noise / image.gain) ** 2)
            noise.append(sigma / predicted)
            try:
                psf = measure_psf(subtracted, stars=stars)
            except PsfError:
                continue
            check_stamp(psf)
            # SEEING is the FWHM in pixels of 1.01 arcsec over the whole quadrant; one star of a stamp is near it.
            assert 0.75 * image.meta["SEEING"] < psf.fwhm < 1.3 * image.meta["SEEING"]
            seen += 1
    assert seen >= 30
    # Flat fields and resistant faint stars add some 9 % to what gain and read noise predict; a stamp of 72 px full of
    # undersampled stars has more of them in its noise.
    assert 1.0 < np.median(noise) < 1.12
    assert 0.85 < min(noise) < max(noise) < 1.25


def test_a_saturated_star_that_fills_the_frame_leaves_no_psf(data_dir):
    folder = data_dir / "pairs/decam_testcase6/g"
    for path in sorted(folder.glob("*ooi*ls9.*.fits")):
        subtracted, _, stars = prepared(load(path))
        assert subtracted.bad.sum() > 1000
        with pytest.raises(PsfError, match="Give a PSF stamp"):
            measure_psf(subtracted, stars=stars)


def pair_ratio(science: Image, reference: Image, psfs=None):
    (n, _, stars_n), (r, _, stars_r) = prepared(science), prepared(reference)
    first, second = psfs or [found.psf for found in measure_psf_pair(n, r, stars_n, stars_r)]
    return flux_ratio(n, r, first, second, stars_n, stars_r), (first, second)


def test_eso_null_pair_has_ratio_one(data_dir):
    folder = data_dir / "pairs/eso085-030"
    images = [load(folder / f"aligned_eso085-030-00{k}.fit") for k in (5, 4)]
    found, (first, second) = pair_ratio(*images)
    # 60 s each, 74 s apart.
    assert found.beta == pytest.approx(1.0, abs=0.02)
    assert found.n_stars > 100
    assert max(abs(found.dy), abs(found.dx)) < 0.15
    assert first.fwhm == pytest.approx(second.fwhm, rel=0.05)


def test_decam_series_keeps_one_flux_scale(data_dir):
    folder = data_dir / "pairs/decam_sfft_mini"
    reference = load(folder / "DEC-OBS04a.mini.fits")
    for name in ("04b", "04e"):
        found, _ = pair_ratio(load(folder / f"DEC-OBS{name}.mini.fits"), reference)
        # Scaled to one zero point by the authors.
        assert found.beta == pytest.approx(1.02, abs=0.02)
        assert max(abs(found.dy), abs(found.dx)) < 0.2


def webb_psf(path: Path) -> PSF:
    stamp = load(path).data
    return PSF(stamp / stamp.sum(), fwhm=fwhm_of(stamp))


def test_nircam_pair_has_ratio_one_with_its_model_psfs(data_dir):
    folder, psf_folder = data_dir / "pairs/jwst_a2744_f200w_crop", data_dir / "psf/webbpsf"
    images, psfs = [], []
    for program in ("jw01324", "jw02561"):
        path = next(folder.glob(f"{program}*stamp.crop.fits"))
        noise = load(Path(str(path).replace(".crop.", ".noise.crop."))).data
        images.append(load(path, variance=noise**2))
        psfs.append(webb_psf(next(psf_folder.glob(f"{program}*.fits"))))
    found, _ = pair_ratio(*images, psfs=psfs)
    # Both are calibrated in MJy/sr.
    assert found.beta == pytest.approx(1.0, abs=0.03)
    assert found.method == "stars"
