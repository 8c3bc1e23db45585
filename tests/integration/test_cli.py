"""The command line as a user meets it: what it writes, what it says, and its exit code for each kind of bad input."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
import warnings

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.cli import main

fits = pytest.importorskip("astropy.io.fits", reason="FITS needs astropy")


@pytest.fixture(scope="module")
def pair():
    """A simulated pair with transients, 256 x 240."""
    return ag.simulate.pair(seed=11, shape=(240, 256))


@pytest.fixture(scope="module")
def files(pair, tmp_path_factory):
    """The pair as FITS."""
    from astrid_gpu.simulate.files import write_fits

    folder = tmp_path_factory.mktemp("pair")
    return write_fits(pair.science, folder / "science.fits"), write_fits(pair.reference, folder / "reference.fits")


@pytest.fixture(scope="module")
def done(files, tmp_path_factory):
    """One run of ``astrid-gpu subtract`` in a new process: (folder, completed process)."""
    out = tmp_path_factory.mktemp("out")
    command = [sys.executable, "-m", "astrid_gpu", "subtract", *map(str, files), "-o", str(out), "--profile"]
    return out, subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_subtract_writes_everything(done):
    out, process = done
    assert process.returncode == 0, process.stderr
    names = {path.name for path in out.iterdir()}
    assert names == {
        "difference.fits", "candidates.csv", "candidates.ecsv", "triplets.h5", "triplets.npz", "summary.png",
        "summary.json",
    }  # fmt: skip
    assert not [name for name in names if "tmp" in name]


def test_every_estimate_is_printed_and_kept(done):
    out, process = done
    summary = json.loads((out / "summary.json").read_text())
    stages = {step["stage"] for step in summary["steps"]}
    assert {"background", "noise", "psf", "flux ratio", "alignment", "registration", "calibration"} <= stages
    for step in summary["steps"]:
        assert step["text"] in process.stderr
    told = {" ".join(line.split()[4:]) for line in process.stderr.splitlines() if " % " in line}
    for stage in ("start", "reading", "background", "alignment", "subtraction", "writing", "total"):
        assert any(text.startswith(stage) for text in told), stage


def test_the_verdict_is_printed_and_kept_with_its_numbers(done):
    out, process = done
    kept = json.loads((out / "summary.json").read_text())["quality"]
    assert f"quality {kept['verdict']}" in process.stdout
    assert kept["n_candidates"] == len(json.loads((out / "summary.json").read_text())["flags"]) + kept["n_unflagged"]
    for name in ("noise_level", "dynamic_range", "detection_threshold", "skewness", "saturation_fraction"):
        assert np.isfinite(kept[name]), name
    assert {check["verdict"] for check in kept["checks"]} <= {"good", "usable", "bad"}


def test_transients_are_found_and_placed(done, pair):
    out, _ = done
    with (out / "candidates.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    found = np.array([[float(r["x"]), float(r["y"]), float(r["polarity"])] for r in rows])
    truth = pair.truth
    at = np.round(truth["y"]).astype(int), np.round(truth["x"]).astype(int)
    bright = truth[(np.abs(truth["snr"]) > 12) & np.isfinite(pair.science.data[at])]  # one lies on bad pixels
    assert len(bright) > 5
    for source in bright:
        distance = np.hypot(found[:, 0] - source["x"], found[:, 1] - source["y"])
        assert distance.min() < 1.0, source
        assert found[np.argmin(distance), 2] == source["polarity"]


def test_difference_fits_has_its_extensions_and_keywords(done):
    out, _ = done
    with fits.open(out / "difference.fits") as hdus:
        names = [hdu.name for hdu in hdus]
        assert {"DIFFERENCE", "SCORE", "SCORECORR", "FLUX", "FLUXERR", "MASK", "PSF"} <= set(names)
        header = hdus[0].header
        for key in ("BETA", "SCSTD", "SIGN", "SIGR", "FD", "DX", "DY", "LIMMAG", "NMASK", "SCMEDRAW",
                    "SCSTDRAW", "RENORM", "NOISEFAC", "PIXNOISE", "MAPERR", "OVERLAP"):  # fmt: skip
            assert key in header, key
        assert header["RENORM"] == pytest.approx(header["SCSTDRAW"])
        assert "RENMIN" not in header  # one number
        assert hdus["DIFFERENCE"].data.dtype.itemsize == 4
        assert hdus["PSF"].data.sum() == pytest.approx(1, abs=1e-4)


def test_difference_fits_checks_itself_and_holds_the_maps_bit_by_bit(pair, tmp_path):
    diff = ag.subtract(pair.science, pair.reference)
    path = diff.write(tmp_path / "difference.fits")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a wrong CHECKSUM or DATASUM is one
        with fits.open(path, checksum=True) as hdus:
            maps = {"DIFFERENCE": "difference", "SCORE": "score", "SCORECORR": "score_corr", "FLUX": "flux",
                    "FLUXERR": "flux_error", "MASK": "mask"}  # fmt: skip
            for name, attribute in maps.items():
                np.testing.assert_array_equal(hdus[name].data, getattr(diff, attribute))


def test_an_unknown_extension_is_refused_before_any_work(tmp_path, capsys):
    words = ["subtract", "not-there.fits", "nor-this.fits", "-o", str(tmp_path / "out"), "--extensions", "FLUX,NOPE"]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "NOPE" in said
    assert "SCORECORR" in said  # what is allowed
    assert not (tmp_path / "out").exists()


def test_a_failure_after_the_subtraction_leaves_a_whole_difference(files, tmp_path, monkeypatch):
    from astrid_gpu.run import pair

    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(pair, "quality", fail)
    with pytest.raises(MemoryError):
        pair.run_pair(*files, tmp_path)
    assert [path.name for path in tmp_path.glob("*.fits")] == ["difference.fits"]  # and no part of one
    with fits.open(tmp_path / "difference.fits") as hdus:
        assert hdus["SCORECORR"].data.shape == (240, 256)


def test_json_is_the_only_thing_on_standard_output(files, tmp_path, capsys):
    assert main(["subtract", *map(str, files), "-o", str(tmp_path), "--json", "-q", "--backend", "numpy"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["n_candidates"] == len(printed["candidates"])
    assert printed["backend"] == "numpy"


@pytest.mark.parametrize("method", ["classic", "classic-fit"])
def test_the_baselines_run_too(files, tmp_path, method):
    how = ["--method", method, "--kernel", "lanczos3", "--renormalise", "local", "--min-overlap", "0"]
    assert main(["subtract", *map(str, files), "-o", str(tmp_path), "-q", *how]) == 0
    assert json.loads((tmp_path / "summary.json").read_text())["method"] == method


def test_every_option_of_subtract_has_a_switch(files, tmp_path):
    how = ["--astrometric-error", "0.1", "0.2", "--no-bad-lines", "--no-trails", "--dtype", "float64"]
    assert main(["subtract", *map(str, files), "-o", str(tmp_path), "-q", "--backend", "numpy", *how]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["metrics"]["astrometric_error_y"], summary["metrics"]["astrometric_error_x"]) == (0.1, 0.2)
    assert not {"trails", "bad lines"} & {step["stage"] for step in summary["steps"]}


@pytest.mark.parametrize("extractor", ["sep", "photutils"])
def test_other_extractors_give_the_same_columns(files, done, tmp_path, extractor):
    pytest.importorskip(extractor)
    assert main(["subtract", *map(str, files), "-o", str(tmp_path), "-q", "--extractor", extractor]) == 0
    heads = [(folder / "candidates.csv").read_text().splitlines()[0] for folder in (tmp_path, done[0])]
    assert heads[0] == heads[1]


def write(path, data, **kw):
    fits.PrimaryHDU(data, **kw).writeto(path)
    return path


def bad_files(folder):
    """Each kind of unusable file, by name."""
    rng = np.random.default_rng(1)
    image = rng.normal(100, 5, (64, 64)).astype("f4")
    (folder / "text.fits").write_text("<html><body>404 Not Found</body></html>" * 200)
    (folder / "empty.fits").write_bytes(b"")
    whole = write(folder / "whole.fits", image).read_bytes()
    (folder / "truncated.fits").write_bytes(whole[: len(whole) // 2])
    (folder / "damaged.fits.gz").write_bytes(gzip.compress(whole)[:-300])
    write(folder / "no_image.fits", None)
    write(folder / "one_d.fits", image[0])
    write(folder / "cube.fits", rng.normal(size=(3, 64, 64)).astype("f4"))
    write(folder / "all_nan.fits", np.full((64, 64), np.nan, "f4"))
    write(folder / "constant.fits", np.full((64, 64), 7.0, "f4"))
    write(folder / "other_shape.fits", rng.normal(100, 5, (50, 70)).astype("f4"))
    return folder


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent.fits", "absent.fits"),
        ("text.fits", "text.fits"),
        ("empty.fits", "empty.fits"),
        ("truncated.fits", "truncated.fits"),
        ("damaged.fits.gz", "damaged.fits.gz"),
        ("no_image.fits", "no_image.fits"),
        ("one_d.fits", "one_d.fits"),
        ("cube.fits", "cube.fits"),
        ("all_nan.fits", "all_nan.fits"),
        ("constant.fits", "constant.fits"),
        ("other_shape.fits", "other_shape.fits"),
    ],
)
def test_a_bad_file_is_named_and_the_exit_code_is_1(tmp_path, capsys, name, words):
    folder = bad_files(tmp_path)
    code = main(["subtract", str(folder / "whole.fits"), str(folder / name), "-o", str(tmp_path / "out"), "-q"])
    error = capsys.readouterr().err
    assert code == 1
    assert words in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "magic"], "method must be one of 'zogy'"),
        (["--threshold", "-1"], "threshold must be positive"),
        (["--size", "64"], "size must be an odd number"),
        (["--backend", "torch"], "no backend is called 'torch'"),
        (["--kernel", "sinc"], "kernel must be one of 'spline5'"),
        (["--min-overlap", "3"], "min_overlap must be a fraction from 0 to 1, got 3"),
        (["--renormalise", "mad"], "renormalise must be one of 'global', 'local', 'none'"),
        (["--extractor", "hope"], "extractor must be one of"),
        (["--no-such-option"], "unrecognized arguments"),
    ],
)
def test_wrong_usage_is_exit_code_2(files, tmp_path, capsys, arguments, words):
    code = main(["subtract", *map(str, files), "-o", str(tmp_path), "-q", *arguments])
    assert code == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_planes_of_another_shape_are_refused(files, tmp_path, capsys):
    mask = write(tmp_path / "mask.fits", np.zeros((10, 10), "u1"))
    code = main(["subtract", *map(str, files), "-o", str(tmp_path / "out"), "-q", "--mask-science", str(mask)])
    assert code == 1
    assert "(10, 10)" in capsys.readouterr().err


def test_doctor_tells_what_runs_and_why_not(capsys):
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["backends"]["numpy"]["available"]
    for status in report["backends"].values():
        assert status["reason"]
    assert report["fft"]["libraries"].keys() == {"scipy", "mkl", "pyfftw"}
    assert report["fft"]["auto"].startswith(("scipy, ", "mkl, "))
    assert report["kernels"]["folder"]
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "auto takes" in printed
    assert report["kernels"]["folder"] in printed


def test_several_files_get_a_folder_each_and_a_bad_one_stops_nothing(files, tmp_path, capsys):
    """Exit code 1, the bad one named on standard error, the others done."""
    science, reference = files
    (tmp_path / "cut.fits").write_bytes(science.read_bytes()[:3000])
    given = [str(science), str(tmp_path / "cut.fits"), str(science)]
    assert main(["subtract", *given, str(reference), "-o", str(tmp_path / "out"), "-q"]) == 1
    printed = capsys.readouterr()
    assert "cut.fits" in printed.err
    assert "Traceback" not in printed.err
    assert [line.split(":")[0] for line in printed.out.splitlines()] == [str(science)] * 2
    folders = {path.name: {p.name for p in path.iterdir()} for path in (tmp_path / "out").iterdir()}
    assert folders.keys() == {"science", "science-2"}
    assert folders["science"] == folders["science-2"] >= {"difference.fits", "candidates.csv", "summary.json"}


def test_several_files_as_json_lines(files, tmp_path, capsys):
    science, reference = map(str, files)
    out = str(tmp_path / "out")
    assert main(["subtract", science, science + "[7]", reference, "-o", out, "-q", "--json"]) == 1
    good, bad = map(json.loads, capsys.readouterr().out.splitlines())
    assert good["n_candidates"] == len(good["candidates"])
    assert bad["science"] == science + "[7]"
    assert bad["kind"] == "FitsError"


def test_what_belongs_to_one_image_is_refused_for_several(files, tmp_path, capsys):
    science, reference = map(str, files)
    command = ["subtract", science, science, reference, "-o", str(tmp_path / "out"), "--sigma-science", "3"]
    assert main([*command, "--flux-ratio", "1"]) == 2
    assert "--sigma-science, --flux-ratio would be the same for 2 science images" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("failed", [False, True])
def test_bench_prints_a_table_and_fails_if_a_result_is_wrong(monkeypatch, capsys, failed):
    """The verb alone: `run_bench` itself is tested beside the benchmarks."""
    from astrid_gpu.run import bench

    asked = {}

    def measured(**options):
        asked.update(options)
        (options["progress"] or str)("zogy pair, numpy")
        return [{
            "operation": "zogy pair", "backend": "numpy", "size": "128 x 128", "images": 1,
            "median_ms": None if failed else 3.5, "iqr_ms": None if failed else 0.1,
            "error": 1e-9, "error_of": "S_corr, sigma", "tolerance": 1e-10 if failed else 1e-3, "failed": failed,
        }]  # fmt: skip

    monkeypatch.setattr(bench, "run_bench", measured)
    assert main(["bench", "--backend", "numpy", "--side", "128"]) == int(failed)
    printed = capsys.readouterr()
    assert asked["sizes"] == (128,)
    assert asked["backend"] == "numpy"
    assert "zogy pair, numpy" in printed.err
    assert ("FAILED" in printed.out) == failed
    assert main(["bench", "--json", "-q"]) == int(failed)
    assert json.loads(capsys.readouterr().out)["rows"][0]["operation"] == "zogy pair"


def test_version_and_help(capsys):
    assert main(["--version"]) == 0
    assert ag.__version__ in capsys.readouterr().out
    assert main(["subtract", "--help"]) == 0
    assert "--psf-science" in capsys.readouterr().out
    assert main([]) == 2
