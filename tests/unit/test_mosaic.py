"""Frames prepared by blocks, from files read by windows: the same as whole, in bounded memory."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu import _mosaic, _tiled
from astrid_gpu.errors import AlignmentError, DeviceMemoryError, InputError
from astrid_gpu.flags import PixelFlag
from astrid_gpu.io import frames, images, open_image, read_image, whole_image
from astrid_gpu.io.frames import DiskFrame, ScratchFolder

ROOT = Path(__file__).parents[2]
SHAPE = (420, 470)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 150 px: 3 x 4 of them."""
    monkeypatch.setattr(_mosaic, "BLOCK", 150)
    monkeypatch.setattr(_mosaic, "MARGIN", 100)
    monkeypatch.setattr(_tiled, "BLOCK", 150)
    monkeypatch.setattr(_tiled, "LARGE_SIDE", 200)


def pair(**more):
    return ag.simulate.pair(seed=5, shape=SHAPE, n_changes=10, **more)


def both_ways(field, **options):
    """Subtract whole and by blocks, without renormalisation; check that each went its way."""
    whole = ag.subtract(field.science, field.reference, renormalise="none", tiles="never", **options)
    blocks = ag.subtract(field.science, field.reference, renormalise="none", memory=0.45, **options)
    (step,) = [s for s in blocks.steps if s.stage == "blocks"]
    assert step.values["n_blocks"] == 12
    assert not [s for s in whole.steps if s.stage == "blocks"]
    assert blocks.score is None
    assert isinstance(blocks.science, np.ndarray)
    return whole, blocks


def assert_alike(whole, blocks, *, width=0.15, differ=0.0):
    """The same pixels, up to the sky: a mesh of other boxes is off by a few hundredths of the noise of a pixel."""
    assert np.mean(whole.mask != blocks.mask) <= differ
    good = np.isfinite(whole.score_corr) & np.isfinite(blocks.score_corr)
    off = (blocks.score_corr - whole.score_corr)[good]
    assert np.std(off) < width
    assert abs(np.median(off)) < 0.1
    assert abs(blocks.metrics["score_corr_std_raw"] - whole.metrics["score_corr_std_raw"]) < 0.03
    for key in ("flux_ratio", "sigma_science", "sigma_reference", "fwhm_science", "fwhm_reference"):
        assert blocks.metrics[key] == pytest.approx(whole.metrics[key], rel=0.01)
    assert blocks.metrics["overlap"] == pytest.approx(whole.metrics["overlap"], abs=1e-3)
    found = [{(round(r["x"]), round(r["y"])) for r in ag.detect(d, 6.0).data} for d in (whole, blocks)]
    assert len(found[0] ^ found[1]) <= 2


def test_blocks_give_what_the_whole_frame_gives(small_blocks):
    assert_alike(*both_ways(pair()))


def test_a_reference_that_is_resampled(small_blocks):
    reference = replace(ag.simulate.REFERENCE, dither=(7.3, -12.6))
    whole, blocks = both_ways(pair(reference=reference))
    assert any("resampled" in s.text and s.values.get("resampled") for s in blocks.steps if s.stage == "alignment")
    assert_alike(whole, blocks, differ=2e-3)


def test_what_the_images_bring_is_used(small_blocks):
    """True PSFs and variances, the reference's carried to the science grid with its pixels; a model that varies too."""
    field = pair(reference=replace(ag.simulate.REFERENCE, dither=(7.3, -12.6)))
    science, reference = field.known()
    model = ag.PSFModel(np.stack([science.psf.data, 1e-3 * science.psf.data, 1e-3 * science.psf.data]), SHAPE)
    known = replace(field, science=science.with_(psf=model), reference=reference)
    whole, blocks = both_ways(known)
    for diff in (whole, blocks):
        psf = [s for s in diff.steps if s.stage == "psf"]
        assert all("given" in s.text for s in psf)
        assert any("variance as given" in s.text for s in diff.steps if s.stage == "noise")
    assert_alike(whole, blocks, differ=2e-3)


def test_a_reference_moved_by_whole_pixels_and_by_a_fraction_that_stars_show(small_blocks):
    reference = replace(ag.simulate.REFERENCE, dither=(4.0, -6.0))
    whole, blocks = both_ways(pair(reference=reference, misregistration=(0.06, -0.07)))
    (step,) = [s for s in blocks.steps if s.stage == "registration"]
    assert "reference moved by" in step.text
    assert_alike(whole, blocks, differ=1e-3)


def test_a_reference_that_covers_a_part(small_blocks):
    reference = replace(ag.simulate.REFERENCE, dither=(20.0, 210.0))
    whole, blocks = both_ways(pair(reference=reference))
    assert blocks.metrics["overlap"] < 0.6
    assert np.mean((blocks.mask & int(PixelFlag.NO_DATA)) != 0) > 0.4
    assert_alike(whole, blocks, differ=2e-3)


def test_a_block_without_a_good_pixel_is_left_out(small_blocks):
    field = pair()
    field.science.data[:345, :345] = np.nan
    diff = ag.subtract(field.science, field.reference, memory=0.45)
    (step,) = [s for s in diff.steps if s.stage == "blocks"]
    assert step.values["n_empty"] >= 1
    assert np.isnan(diff.score_corr[:345, :345]).all()
    assert np.mean(np.isfinite(diff.score_corr[350:])) > 0.97
    assert abs(diff.metrics["score_corr_std_raw"] - 1) < 0.06


def test_what_cannot_be_subtracted_says_so(small_blocks):
    field = pair()
    nothing = field.science.with_(data=np.full(SHAPE, np.nan, np.float32))
    with pytest.raises(InputError, match="no usable pixel"):
        ag.subtract(nothing, field.reference, align="none", memory=0.45)
    far = ag.simulate.pair(seed=5, shape=SHAPE, reference=replace(ag.simulate.REFERENCE, dither=(0.0, 455.0)))
    with pytest.raises(AlignmentError, match="min_overlap"):
        ag.subtract(far.science, far.reference, memory=0.45, align="wcs", min_overlap=0.2)


def test_only_zogy_on_the_science_grid_goes_by_blocks(small_blocks):
    field = pair()
    for options in ({"grid": "reference"}, {"tiles": "never"}, {"method": "classic"}):
        diff = ag.subtract(field.science, field.reference, memory=0.45, **options)
        assert not [s for s in diff.steps if s.stage == "blocks"]
    with pytest.raises(ag.errors.ConfigError, match="memory must be None or a positive number of GiB"):
        ag.subtract(field.science, field.reference, memory=-1)


def test_large_plain_files_stay_on_disk(tmp_path, monkeypatch, rng):
    from astropy.io import fits

    monkeypatch.setattr(images, "LARGE", 1000)
    data = rng.normal(size=(50, 70)).astype(np.float32)
    data[3, 4] = np.nan
    path = tmp_path / "plain.fits"
    fits.writeto(path, data, fits.Header([("GAIN", 2.5)]))
    image = open_image(path)
    assert isinstance(image.data, DiskFrame)
    assert image.shape == (50, 70)
    assert image.gain == read_image(path).gain == 2.5
    assert np.array_equal(image.data[10:20, 5:60], data[10:20, 5:60])
    assert np.array_equal(image.data[3:44:7, ::9], data[3:44:7, ::9], equal_nan=True)
    assert image.data[10:10, :].shape == (0, 70)
    whole = whole_image(image)
    assert whole.data.dtype == np.float32
    assert whole.data.dtype.isnative
    assert np.array_equal(whole.data, data, equal_nan=True)
    fits.writeto(tmp_path / "integers.fits", np.arange(3500, dtype=np.int16).reshape(50, 70))
    fits.writeto(tmp_path / "packed.fits.gz", data)
    fits.HDUList([fits.PrimaryHDU(data), fits.ImageHDU(np.zeros((50, 70), np.uint8), name="MASK")]).writeto(
        tmp_path / "planes.fits"
    )
    for name in ("integers.fits", "packed.fits.gz", "planes.fits"):
        assert isinstance(open_image(tmp_path / name).data, np.ndarray)
    assert isinstance(open_image(path, mask=np.zeros((50, 70), bool)).data, np.ndarray)


def test_scratch_frames_keep_what_is_written_and_go_with_their_folder(rng):
    folder = ScratchFolder()
    frame = folder.frame((40, 60))
    values = rng.normal(size=(40, 60)).astype(np.float32)
    for rows in (slice(0, 17), slice(17, 40)):
        for columns in (slice(0, 25), slice(25, 60)):
            frame[rows, columns] = values[rows, columns]
    assert np.array_equal(frame[5:20, 3:50], values[5:20, 3:50])
    assert np.array_equal(np.asarray(frame), values)
    assert np.array_equal(frame.mapped(), values)
    path = frame.path
    assert path.is_file()
    del frame, folder
    assert not path.exists()


def test_a_full_disk_is_told(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(frames.os, "posix_fallocate", full)
    with pytest.raises(DeviceMemoryError, match=r"0\.00 GB of disk for each of its planes.*TMPDIR"):
        ScratchFolder().frame((10, 10))


def test_a_large_difference_is_written_map_by_map_and_is_the_same_file(tmp_path, monkeypatch):
    from astropy.io import fits

    from astrid_gpu.io import difference

    field = pair()
    diff = ag.subtract(field.science, field.reference)
    at_once = diff.write(tmp_path / "one.fits", ("DIFFERENCE", "SCORECORR", "MASK", "PSF"))
    monkeypatch.setattr(difference, "LARGE", 1)
    by_maps = diff.write(tmp_path / "two.fits", ("DIFFERENCE", "SCORECORR", "MASK", "PSF"))
    with fits.open(at_once, checksum=True) as a, fits.open(by_maps, checksum=True) as b:
        assert [h.name for h in a] == [h.name for h in b]
        for one, two in zip(a, b, strict=True):
            assert one.header.get("DATASUM") == two.header.get("DATASUM")
            assert {*one.header} == {*two.header}


CHILD = """
import sys
from pathlib import Path
import numpy as np
import astrid_gpu as ag
import astrid_gpu._mosaic, astrid_gpu._tiled, astrid_gpu.io.difference, astrid_gpu.io.images

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

for module, name, value in (("_mosaic", "BLOCK", 400), ("_tiled", "BLOCK", 400), ("_tiled", "LARGE_SIDE", 400)):
    setattr(getattr(astrid_gpu, module), name, value)
astrid_gpu.io.images.LARGE = astrid_gpu.io.difference.LARGE = 1000
side = int(sys.argv[1])
known = dict(psf_science="moffat:2.7,3.5", psf_reference="moffat:2.2,3.8", align="none", tiles=sys.argv[2])
known["tiles"] = int(sys.argv[2]) if sys.argv[2].isdigit() else sys.argv[2]
diff = ag.subtract(f"science{side}.fits", f"reference{side}.fits", memory=0.501, **known)
assert any(step.stage == "blocks" for step in diff.steps)
diff.write("out.fits")
print(peak(), len(diff.tiles.tiles))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_grows_with_the_results_alone(tmp_path):
    """Results are 26 bytes a pixel, flags 2, the copy of a map being written 4, marks of pixels 3: 35 in all.

    Work space grows with nothing: 3.3 Mpix more, and 441 tiles instead of 9, may take 42 bytes for each pixel, 20 MB of
    what the allocator keeps included. Whole frames take 80 to 110.
    """
    from astropy.io import fits

    field = ag.simulate.pair(seed=5, shape=(700, 700), n_changes=10, bad_columns=0)
    peaks = {}
    for side, tiles in ((1050, "auto"), (2100, 100)):
        repeats = -(-side // 700)
        for name in ("science", "reference"):
            header = fits.Header([("GAIN", getattr(field, name).gain), ("SATURATE", 49000.0)])
            data = np.tile(getattr(field, name).data, (repeats, repeats))[:side, :side]
            fits.writeto(tmp_path / f"{name}{side}.fits", data, header, overwrite=True)
        command = [sys.executable, "-c", CHILD, str(side), str(tiles)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        kib, n_tiles = map(int, done.stdout.split())
        peaks[side, tiles] = kib * 1024
        assert n_tiles == {1050: 9, 2100: 441}[side]
    more = (peaks[2100, 100] - peaks[1050, "auto"]) / (2100**2 - 1050**2)
    assert more < 42, f"{more:.1f} bytes for each pixel"
