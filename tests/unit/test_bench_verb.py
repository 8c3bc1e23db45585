"""`astrid_gpu.run.bench`: rows with errors beside times, and the frames they are measured on."""

from __future__ import annotations

import json

import numpy as np
import pytest

from astrid_gpu.errors import InputError
from astrid_gpu.run import bench
from astrid_gpu.run.scenes import star_field, subtraction_scene


def test_rows_of_the_reference():
    said = []
    rows = bench.run_bench(sizes=(128,), backend="numpy", progress=said.append)
    assert [r["operation"] for r in rows] == ["background", "convolve 25 x 25", "find_peaks", "zogy pair"]
    assert len(said) == len(rows)
    assert "zogy pair, numpy, 128 x 128" in said
    assert not any(r["failed"] for r in rows)
    assert all(r["median_ms"] > 0 and r["error"] <= r["tolerance"] for r in rows)
    json.dumps({"machine": bench.describe_machine(), "rows": rows})
    text = bench.format_table(rows)
    assert "threads" in text
    assert "S_corr" in text


def test_a_wrong_result_has_no_time(monkeypatch):
    right = bench.zogy

    def off(*args, **keywords):
        result = right(*args, **keywords)
        if keywords.get("dtype") is None:
            result.score_corr[...] += 1
        return result

    monkeypatch.setattr(bench, "zogy", off)
    bench._exact.cache_clear()
    row = bench.run_bench(sizes=(128,), backend="numpy")[-1]
    assert row["failed"]
    assert row["median_ms"] is None
    assert "FAILED" in bench.format_table([row])


@pytest.mark.parametrize("sizes", [(), (64,)])
def test_impossible_sizes(sizes):
    with pytest.raises(InputError, match="128"):
        bench.run_bench(sizes=sizes)


def test_scenes_do_not_depend_on_the_stack():
    one, three = subtraction_scene((96, 80)), subtraction_scene((96, 80), 3)
    assert three.science.shape == three.variance_science.shape == (3, 96, 80)
    np.testing.assert_array_equal(one.science[0], three.science[0])
    np.testing.assert_array_equal(one.reference, three.reference)
    assert not np.array_equal(three.science[0], three.science[1])
    assert {a.dtype for a in (one.science, one.reference, one.variance_science)} == {np.dtype(np.float32)}


def test_star_field_has_the_noise_it_says():
    frame, sky, sigma = star_field((256, 256))
    assert np.median(np.abs(frame - sky)) / 0.6745 == pytest.approx(sigma, rel=0.1)
