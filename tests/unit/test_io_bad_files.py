"""Every bad file is a FitsError that names the file and says what to do."""

from __future__ import annotations

import gzip
import io
import threading
import warnings

import numpy as np
import pytest
from astropy.io import fits

from astrid_gpu.errors import FitsError, ShapeMismatchError
from astrid_gpu.io import atomic_path, read_image
from astrid_gpu.io.files import silent


@pytest.fixture
def whole(rng):
    """The bytes of a good FITS file with an extension."""
    buffer = io.BytesIO()
    hdus = [fits.PrimaryHDU(rng.normal(size=(60, 70)).astype(np.float32)), fits.ImageHDU(np.ones((50, 50)), name="WHT")]
    fits.HDUList(hdus).writeto(buffer)
    return buffer.getvalue()


def refuse(path, *words):
    with pytest.raises(FitsError) as error:
        read_image(path)
    said = str(error.value)
    assert path.name.split("[")[0] in said
    for word in words:
        assert word in said, said


def test_missing(tmp_path):
    refuse(tmp_path / "absent.fits", "no such file")


def test_folder(tmp_path):
    refuse(tmp_path, "is a folder")


def test_empty(tmp_path):
    path = tmp_path / "empty.fits"
    path.touch()
    refuse(path, "empty", "fetch it again")


def test_text(tmp_path):
    path = tmp_path / "text.fits"
    path.write_text("hello\n")
    refuse(path, "is not FITS", "hello")


def test_web_page_is_told_with_its_title(tmp_path):
    path = tmp_path / "page.fits"
    path.write_text("<!DOCTYPE html><html><head><title>Please log in</title></head></html>")
    refuse(path, "web page", "Please log in")


def test_gzipped_web_page(tmp_path):
    path = tmp_path / "page.fits.gz"
    path.write_bytes(gzip.compress(b"<html><body>404</body></html>"))
    refuse(path, "web page")


@pytest.mark.parametrize(
    ("head", "what"), [(b"\x89PNG\r\n\x1a\n123", "PNG"), (b"PK\x03\x04abc", "ZIP"), (b'{"error": "no"}', "JSON")]
)
def test_other_kinds_are_named(tmp_path, head, what):
    path = tmp_path / "other.fits"
    path.write_bytes(head)
    refuse(path, what)


@pytest.mark.parametrize("cut", [5760 + 500, 9000, 15000])
def test_truncated_pixels(tmp_path, whole, cut):
    path = tmp_path / "cut.fits"
    path.write_bytes(whole[:cut])
    refuse(path, "truncated", "missing")


def test_truncated_in_the_last_extension(tmp_path, whole):
    path = tmp_path / "cut.fits"
    path.write_bytes(whole[: len(whole) - 6000])
    refuse(path, "truncated", "HDU 1")


def test_truncated_header(tmp_path, whole):
    path = tmp_path / "cut.fits"
    path.write_bytes(whole[:1000])
    refuse(path, "header cannot be read")


def test_missing_padding_is_no_truncation(tmp_path):
    buffer = io.BytesIO()
    fits.PrimaryHDU(np.ones((10, 10), np.float32)).writeto(buffer)
    path = tmp_path / "short.fits"
    path.write_bytes(buffer.getvalue()[: 2880 + 400])
    assert read_image(path).shape == (10, 10)


@pytest.mark.parametrize("damage", ["cut", "flip", "crc"])
def test_damaged_gzip(tmp_path, whole, damage):
    packed = bytearray(gzip.compress(whole))
    if damage == "cut":
        packed = packed[: len(packed) // 2]
    elif damage == "flip":
        packed[len(packed) // 2] ^= 0xFF
    else:
        packed[-8] ^= 0xFF
    path = tmp_path / "bad.fits.gz"
    path.write_bytes(packed)
    refuse(path, "gzip", "damaged")


def test_truncated_tile_compressed(tmp_path, rng):
    path = tmp_path / "img.fits.fz"
    values = rng.integers(0, 999, (200, 200)).astype(np.int16)
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(values)]).writeto(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refuse(path, "truncated")


def test_no_image(tmp_path):
    path = tmp_path / "table.fits"
    column = fits.Column("a", "E", array=np.zeros(3))
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns([column])]).writeto(path)
    refuse(path, "holds no image", "[1] BinTable table")


def test_cube_is_refused_with_advice(tmp_path):
    path = tmp_path / "cube.fits"
    fits.PrimaryHDU(np.zeros((4, 8, 9), np.float32)).writeto(path)
    refuse(path, "cube of 4 planes", "getdata(path, 0)[0]")


def test_spectrum_is_refused(tmp_path):
    path = tmp_path / "line.fits"
    fits.PrimaryHDU(np.zeros(40, np.float32)).writeto(path)
    refuse(path, "spectrum", "(40,)")


def test_extension_that_is_not_there(tmp_path, whole):
    path = tmp_path / "img.fits"
    path.write_bytes(whole)
    for spec in ("[SCI]", "[7]", "[WHT,3]"):
        with pytest.raises(FitsError, match=r"holds \[0\] PRIMARY image 70x60, \[1\] WHT image 50x50"):
            read_image(f"{path}{spec}")


def test_spec_and_extension_that_disagree(tmp_path, whole):
    path = tmp_path / "img.fits"
    path.write_bytes(whole)
    with pytest.raises(FitsError, match="give one of them"):
        read_image(f"{path}[1]", extension=0)


def test_address_instead_of_a_file():
    with pytest.raises(FitsError, match="download it first"):
        read_image("https://example.org/img.fits")


def test_plane_of_another_shape(tmp_path, whole):
    path = tmp_path / "img.fits"
    path.write_bytes(whole)
    with pytest.raises(ShapeMismatchError, match=r"mask .* shape \(5, 5\) but the image img.fits has \(60, 70\)"):
        read_image(path, mask=np.zeros((5, 5), bool))


def test_atomic_path_leaves_nothing_after_an_error(tmp_path):
    target = tmp_path / "new" / "out.txt"

    def fail():
        with atomic_path(target) as part:
            part.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not target.exists()
    assert list(target.parent.iterdir()) == []


def test_atomic_path_keeps_the_old_file_until_the_new_one_is_whole(tmp_path):
    target = tmp_path / "out.txt"
    target.write_text("old")
    with atomic_path(target) as part:
        part.write_text("new")
        assert part.suffix == target.suffix
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"]


def test_threads_that_want_silence_do_not_take_it_from_each_other():
    """One comes and goes while another still reads: that one stays quiet, and the filters return."""
    before = list(warnings.filters)
    inside, leave = threading.Event(), threading.Event()
    outcome = []

    def long():
        with silent():
            inside.set()
            leave.wait(5)
            warnings.warn("a card that is not quite standard", UserWarning, stacklevel=1)
            outcome.append("quiet")

    other = threading.Thread(target=long)
    with silent():
        other.start()
        assert inside.wait(5)
    leave.set()
    other.join()
    assert outcome == ["quiet"]
    assert list(warnings.filters) == before
