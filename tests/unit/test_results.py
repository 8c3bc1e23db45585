"""What the functions give back: shapes, limits, subsets, and a repr worth showing."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from astrid_gpu.detect import candidate_dtype
from astrid_gpu.errors import InputError, PsfError, ShapeMismatchError
from astrid_gpu.flags import CandidateFlag, PixelFlag
from astrid_gpu.image import PSF, Image
from astrid_gpu.results import Candidates, Cutouts, Difference, Step


@pytest.fixture
def diff(rng):
    maps = rng.normal(size=(3, 20, 30))
    mask = np.zeros((20, 30), np.uint8)
    mask[0, :6], mask[5, 5] = PixelFlag.BAD_SCIENCE, PixelFlag.EDGE
    return Difference(
        difference=maps[0], score_corr=maps[1], flux=maps[2], flux_error=np.full((20, 30), 2.0), mask=mask,
        zero_point=25.0, backend="numba", metrics={"flux_ratio": 1.23456, "score_corr_std": 1.0, "profile": {}},
    )  # fmt: skip


def test_limits_follow_from_the_flux_error(diff):
    np.testing.assert_array_equal(diff.limiting_flux(3), 6.0)
    assert diff.limiting_magnitude(5) == pytest.approx(25 - 2.5 * np.log10(10.0))
    assert np.isnan(Difference(difference=diff.difference).limiting_magnitude())
    assert np.isnan(Difference(difference=diff.difference, flux_error=diff.flux_error).limiting_magnitude())


def test_a_limit_without_a_flux_error_says_what_to_ask_for(diff):
    with pytest.raises(InputError, match=r"outputs=\(..., 'flux'\)"):
        Difference(difference=diff.difference).limiting_flux()


def test_the_shape_is_that_of_whatever_was_computed(diff):
    assert diff.shape == (20, 30)
    assert Difference(difference=None, score_corr=diff.score_corr[None]).shape == (1, 20, 30)


def test_results_are_frozen(diff):
    with pytest.raises(FrozenInstanceError):
        diff.difference = None


def test_a_difference_shows_what_matters(diff):
    text = repr(diff)
    assert "30x20 px, zogy on numba" in text
    assert "masked 1.00 % of the pixels" in text  # EDGE is a warning
    assert "flux_ratio 1.235" in text
    stack = Difference(difference=np.zeros((4, 20, 30)), method="classic")
    assert repr(stack) == "<Difference 4 images of 30x20 px, classic on numpy>"


def test_the_citation_is_bibtex_of_the_paper(diff):
    text = diff.citation()
    assert text.startswith("@article{2016ApJ...830...27Z,")
    assert "10.3847/0004-637X/830/1/27" in text
    assert text.count("{") == text.count("}")


def test_a_step_reads_as_a_sentence():
    assert str(Step("psf", "science: FWHM 2.5 px", {})) == "psf         science: FWHM 2.5 px"


@pytest.fixture
def candidates():
    data = np.zeros(14, candidate_dtype())
    data["id"] = np.arange(1, 15)
    data["score"] = np.linspace(-40, 40, 14)
    data["polarity"] = np.sign(data["score"])
    data["flags"][0] = CandidateFlag.DIPOLE | CandidateFlag.EDGE
    return Candidates(data, threshold=6.0, meta={"seed": 1})


def test_candidates_by_column_and_by_rows(candidates):
    assert len(candidates) == 14
    np.testing.assert_array_equal(candidates["id"], np.arange(1, 15))
    some = candidates[candidates["score"] > 0]
    assert isinstance(some, Candidates)
    assert len(some) == 7
    assert (some.threshold, some.meta) == (6.0, {"seed": 1})
    assert len(candidates[3]) == 1
    assert candidates[3]["id"] == [4]
    assert len(candidates[:0]) == 0
    with pytest.raises((KeyError, ValueError), match="roundness"):
        candidates["roundness"]


def test_candidates_show_the_brightest_with_their_flags(candidates):
    lines = repr(candidates).splitlines()
    assert lines[0] == "<Candidates: 14 beyond 6 sigma (7 positive, 7 negative)"
    assert "EDGE DIPOLE" in lines[1]
    assert lines[-1] == "  ... and 4 more>"
    assert len(lines) == 12
    assert repr(candidates[:0]) == "<Candidates: 0 beyond 6 sigma (0 positive, 0 negative)>"


def test_cutouts_know_their_number_and_side():
    cut = Cutouts(np.zeros((5, 3, 21, 21)), np.zeros((5, 21, 21)), np.zeros((5, 21, 21), np.uint8), np.arange(5))
    assert (len(cut), cut.size, cut.channels) == (5, 21, ("science", "reference", "difference"))
    assert repr(cut) == "<Cutouts: 5 triplets of 21x21 px (science, reference, difference)>"


def test_an_image_is_two_dimensional_and_its_planes_have_its_shape():
    data = np.zeros((4, 5))
    with pytest.raises(InputError, match=r"night: .*one two-dimensional array, got shape \(5,\)"):
        Image(data[0], name="night")
    for plane in ("mask", "variance"):
        with pytest.raises(ShapeMismatchError, match=rf"the {plane} has shape \(5, 4\) but the image \(4, 5\)"):
            Image(data, **{plane: data.T})
    with pytest.raises(InputError, match="the variance is not known yet"):
        _ = Image(data).known_variance


def test_bad_pixels_are_masked_or_not_finite():
    data, mask = np.zeros((4, 5)), np.zeros((4, 5), np.uint8)
    data[0, 0], data[0, 1], mask[3, 3] = np.nan, -np.inf, 7
    image = Image(data, mask=mask)
    assert np.argwhere(image.bad).tolist() == [[0, 0], [0, 1], [3, 3]]
    assert Image(data).bad.sum() == 2
    assert mask.sum() == 7
    assert "3 bad" in repr(image)
    assert image.with_(zero_point=25.0).zero_point == 25.0
    assert image.zero_point is None


def test_a_psf_is_a_stamp():
    with pytest.raises(PsfError, match=r"two-dimensional stamp, got shape \(2, 5, 5\)"):
        PSF(np.zeros((2, 5, 5)))
    assert repr(PSF(np.ones((5, 7)), fwhm=2.5, n_stars=9, origin="stars")) == (
        "<PSF 7x5 px, FWHM 2.50 px, from stars, 9 stars>"
    )
