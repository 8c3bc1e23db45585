"""Matching candidates with the truth: what counts as found, missed, false and masked."""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu import simulate
from astrid_gpu.detect import candidate_dtype
from astrid_gpu.results import Candidates, Difference
from astrid_gpu.simulate.compare import compare, forced_flux, noise_peaks, summarise


def made(places, shape=(100, 100)):
    """A difference without pixels of interest, and candidates at (x, y, sign)."""
    rows = np.zeros(len(places), candidate_dtype())
    for row, (x, y, sign) in zip(rows, places, strict=True):
        row["x"], row["y"], row["polarity"], row["flux"], row["flux_error"] = x, y, sign, 100.0 * sign, 10.0
    return Difference(np.zeros(shape), score_corr=np.zeros(shape)), Candidates(rows)


def truths(*sources):
    """Truth at (x, y, snr)."""
    table = np.zeros(len(sources), simulate.TRUTH_DTYPE)
    for row, (x, y, snr) in zip(table, sources, strict=True):
        row["x"], row["y"], row["snr"], row["polarity"], row["flux"] = x, y, snr, np.sign(snr), 10.0 * snr
    return table


def test_found_missed_and_false():
    diff, candidates = made([(20.4, 30.2, 1), (60.0, 60.0, -1), (80.0, 10.0, 1)])
    result = compare(diff, candidates, truths((20, 30, 12.0), (60, 60, -8.0), (40, 40, 9.0)))
    assert result.match.tolist() == [0, 1, -1]
    assert result.false.tolist() == [False, False, True]
    assert "2 of 3" in repr(result)


def test_sign_and_distance_count():
    diff, candidates = made([(20.0, 30.0, -1), (63.0, 60.0, 1)])
    result = compare(diff, candidates, truths((20, 30, 12.0), (60, 60, 8.0)))
    assert not result.found.any()
    assert result.false.all()


def test_one_candidate_recovers_one_source_the_brightest():
    diff, candidates = made([(20.5, 30.0, 1)])
    result = compare(diff, candidates, truths((20, 30, 6.0), (21, 30, 30.0)))
    assert result.found.tolist() == [False, True]


def test_masked_and_outside_sources_are_not_missed():
    diff, candidates = made([])
    diff.score_corr[50, 50] = np.nan
    result = compare(diff, candidates, truths((50, 50, 20.0), (200, 5, 20.0), (10, 10, 1.0)))
    assert len(result.truth) == 0
    assert result.n_masked == 1
    assert result.pixels == 100 * 100 - 1


def test_summary_counts():
    diff, candidates = made([(20.0, 30.0, 1), (80.0, 10.0, 1)])
    result = compare(diff, candidates, truths((20, 30, 10.0), (60, 60, 30.0)))
    summary = summarise([result, result])
    assert [row["number"] for row in summary["completeness"]] == [0, 0, 0, 2, 2]
    assert [row["recovered"] for row in summary["completeness"]] == [0, 0, 0, 2, 0]
    assert summary["false"]["count"] == 2
    assert summary["false"]["per_mpix"] == pytest.approx(2 / 0.02)
    assert summary["flux"]["median_ratio"] is None  # nothing found at S/N >= 20
    assert summary["flux"]["pull_median"] == pytest.approx(0.0)
    assert summarise([compare(*made([]), truths())])["flux"]["pull_width"] is None


def test_flawed_sources_are_found_but_not_measured():
    from astrid_gpu.flags import CandidateFlag

    diff, candidates = made([(20.0, 30.0, 1), (60.0, 60.0, 1)])
    candidates.data["flags"] = [int(CandidateFlag.NEAR_BAD), int(CandidateFlag.EXTENDED)]
    summary = summarise([compare(diff, candidates, truths((20, 30, 25.0), (60, 60, 25.0)))])
    assert summary["completeness"][-1]["recovered"] == 2
    assert summary["flawed"] == 1
    assert summary["flux"]["n_bright"] == summary["position"]["n"] == 1


def test_forced_flux_between_pixels_and_at_the_edge():
    """A matched-filtered star, Gaussian of sigma 1.6 px, peaks between pixels: within 1 % of its height."""
    y, x = np.mgrid[:60, :60]
    flux = 500.0 * np.exp(-0.5 * ((y - 30.4) ** 2 + (x - 25.7) ** 2) / 1.6**2)
    diff = Difference(flux, flux=flux, flux_error=np.full_like(flux, 7.0))
    values, errors = forced_flux(diff, np.array([25.7, 1.0]), np.array([30.4, 30.0]))
    assert values[0] == pytest.approx(500.0, rel=0.01)
    assert errors[0] == 7.0
    assert np.isnan(values[1])


def test_image_round_trip_through_fits(tmp_path):
    pytest.importorskip("astropy")
    import astrid_gpu as ag

    field = simulate.pair(seed=1, shape=(64, 64), n_changes=0)
    back = ag.read_image(simulate.write_fits(field.science, tmp_path / "new" / "science.fits"))
    np.testing.assert_array_equal(back.data, field.science.data)
    np.testing.assert_array_equal(back.bad, field.science.bad)
    assert back.zero_point == pytest.approx(field.science.zero_point)
    assert (back.gain, back.read_noise, back.saturation) == (6.2, 10.0, 50000.0)
    assert back.wcs.wcs.crval == pytest.approx(field.science.wcs.wcs.crval)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["science.fits"]


def test_truth_table_round_trip(tmp_path):
    truth = simulate.pair(seed=1, shape=(160, 160), n_changes=3).truth
    path = simulate.write_truth(truth, tmp_path / "truth.csv")
    lines = path.read_text().splitlines()
    assert lines[0].split(",") == list(truth.dtype.names)
    assert float(lines[2].split(",")[truth.dtype.names.index("flux")]) == truth["flux"][1]


@pytest.mark.parametrize("fwhm", [2.5, 4.0])
def test_noise_peaks_are_as_many_as_noise_makes(rng, fwhm):
    """Peaks of matched-filtered white noise beyond +-3.5: within 4 Poisson errors of the formula, less 5 %.

    The 5 % are for diagonal neighbours, which the formula leaves out and a peak must exceed as well.
    """
    from scipy.ndimage import maximum_filter

    psf = simulate.psf("gaussian", fwhm, size=15)
    side, threshold = 1500, 3.5
    spectrum = np.fft.rfft2(rng.normal(size=(side, side)))
    padded = np.zeros((side, side))
    padded[:15, :15] = psf
    score = np.fft.irfft2(spectrum * np.conj(np.fft.rfft2(padded)), (side, side))
    score /= score.std()
    found = sum(int(((s == maximum_filter(s, 3, mode="wrap")) & (s > threshold)).sum()) for s in (score, -score))
    expected = side**2 * noise_peaks(psf, threshold)
    assert found < expected + 4 * np.sqrt(expected)
    assert found > 0.95 * expected - 4 * np.sqrt(expected)
