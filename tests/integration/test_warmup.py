"""`astrid-gpu warmup` leaves nothing to compile; compiled code has a place; threads may call at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.backends import numba_
from astrid_gpu.cli import main
from astrid_gpu.errors import BackendUnavailableError
from astrid_gpu.run.warmup import warmup

pytest.importorskip("numba")
pytest.importorskip("astropy", reason="warmup takes exposures through every stage")

FIRST_CALLS = """
import json
import numpy as np
import astrid_gpu as ag
from astrid_gpu.backends.numba_ import kernel_cache

field = ag.simulate.pair(seed=4, shape=(300, 280))
for image in (field.science, field.reference):
    image.data.flags.writeable = False  # as frames out of files may be
ag.cutouts(d := ag.subtract(field.science, field.reference, backend="numba"), ag.detect(d))
rng = np.random.default_rng(1)
psf = np.outer(*[np.exp(-0.5 * (np.arange(-8, 9) / 1.5) ** 2)] * 2)
for dtype in (np.float32, np.float64):
    np.save("frames.npy", rng.normal(10, 2, (2, 200, 210)).astype(dtype))
    image = np.load("frames.npy", mmap_mode="r")  # whoever writes to it ends the process
    mask = image[0] > 15
    background = ag.estimate_background(image, mask=mask, backend="numba")
    ag.find_peaks(image[0], 15.0, polarity="both", backend="numba")
    ag.convolve(image, psf, backend="numba")
    ag.zogy(image[0], image[1], psf, psf, 2.0, 2.0, variance_science=image[0], variance_reference=image[1],
            mask=mask, astrometric_error=(0.1, 0.1), backend="numba")
print(json.dumps(kernel_cache()._asdict()))
"""


def in_new_process(code, folder=None, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False, cwd=folder,
        env=os.environ | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def warm():
    """A warmup in this process, with what it said on the way."""
    said = []
    return warmup("numba", progress=said.append), "".join(said)


def test_warmup_says_what_it_does(warm):
    result, said = warm
    assert result.backend == "numba"
    assert result.compiled + result.loaded > 10
    assert "float32 arrays ... " in said
    assert said.rstrip().endswith(" s")
    assert result.folder in str(result)
    assert f"{result.seconds:.1f} s" in str(result)


def test_after_warmup_a_new_process_compiles_nothing(warm, tmp_path):
    """Nor for arrays that cannot be written, which Numba takes for another type."""
    counts = json.loads(in_new_process(FIRST_CALLS, tmp_path))
    assert counts["compiled"] == 0
    assert counts["loaded"] > 10
    assert counts["folder"] == warm[0].folder


def test_the_other_backends_have_nothing_to_compile(capsys):
    assert main(["warmup", "--backend", "numpy", "-q"]) == 0
    assert capsys.readouterr().out.startswith("numpy: ready after ")
    assert main(["warmup", "--backend", "torch"]) == 2


def test_the_command_line_prints_it(warm, capsys):
    assert main(["warmup", "--backend", "numba", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out).keys() == warm[0].to_dict().keys()
    assert "exposures ..." in printed.err


# ---- where compiled code is kept

CACHE_OF_PEAKS = """
import numpy as np, astrid_gpu as ag
from astrid_gpu.backends.numba_ import kernel_cache
ag.get_backend("numba").ops["gather_stamps"]
print(kernel_cache().folder)
"""


def test_where_the_package_cannot_be_written_the_users_cache_is_taken(tmp_path):
    """What Numba does of itself; here it is told to look there only."""
    folder = in_new_process(
        CACHE_OF_PEAKS,
        NUMBA_CACHE_LOCATOR_CLASSES="UserWideCacheLocator",
        XDG_CACHE_HOME=str(tmp_path),
        HOME=str(tmp_path),
    ).strip()
    assert folder.startswith(str(tmp_path))


def test_no_place_at_all_is_an_error_that_says_what_to_do(monkeypatch):
    def nowhere(name):
        msg = "cannot cache function '_cut': no locator available for file 'stamps_numba.py'"
        raise RuntimeError(msg)

    operations = ag.get_backend("numba").ops
    numba_._kernels.cache_clear()
    monkeypatch.setattr(numba_, "import_module", nowhere)
    with pytest.raises(BackendUnavailableError, match="set NUMBA_CACHE_DIR to a folder that can"):
        operations["gather_stamps"]
    monkeypatch.undo()
    assert callable(operations["gather_stamps"])


def test_whoever_must_wait_for_the_compiler_is_told(monkeypatch, tmp_path, caplog):
    class Function:
        __module__, py_func = "astrid_gpu.kernels.stamps_numba", None
        stats = type("Stats", (), {"cache_path": str(tmp_path)})

    monkeypatch.setattr(numba_, "_compiled", lambda module: [Function()])
    numba_._kernels.cache_clear()
    with caplog.at_level("INFO", logger="astrid_gpu"):
        numba_._kernels("stamps_numba")
        numba_._kernels("peaks_numba")
    assert [r.getMessage() for r in caplog.records] == [
        f"compiling CPU kernels into {tmp_path}: a minute, once (`astrid-gpu warmup` does it ahead)"
    ]
    numba_._kernels.cache_clear()


# ---- threads

FOUR_AT_ONCE = """
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import astrid_gpu as ag

rng = np.random.default_rng(5)
pairs = rng.normal(size=(8, 2, 90, 80)).astype(np.float32)
psf = np.outer(*[np.exp(-0.5 * (np.arange(-6, 7) / 1.5) ** 2)] * 2)

def work(pair):
    diff = ag.zogy(*pair, psf, psf, 1.0, 1.0, mask=pair[0] > 3, backend="numba")
    smooth = ag.convolve(pair, np.ones((3, 3)), backend="numba")
    level = ag.estimate_background(pair, box=32, backend="numba").level
    peaks = ag.find_peaks(pair, 2.5, backend="numba")
    return diff.score_corr, smooth, level, peaks["value"]

alone = [work(pair) for pair in pairs]
with ThreadPoolExecutor(4) as pool:
    for together, want in zip(pool.map(work, pairs), alone, strict=True):
        for a, b in zip(together, want, strict=True):
            np.testing.assert_array_equal(a, b)
print("the same")
"""


@pytest.mark.parametrize("layer", ["default", "workqueue"])
def test_four_threads_may_call_at_once(layer):
    """Also on Numba's simplest layer, which ends the process if it is entered twice."""
    environment = {} if layer == "default" else {"NUMBA_THREADING_LAYER": layer}
    assert in_new_process(FOUR_AT_ONCE, **environment).strip() == "the same"


def test_an_operation_on_numbas_threads_uses_those_asked_for_and_puts_the_number_back(monkeypatch):
    numba = pytest.importorskip("numba")
    monkeypatch.setenv("ASTRID_GPU_THREADS", "1")
    before = numba.get_num_threads()
    seen = []
    assert numba_._threaded(lambda x: seen.append(numba.get_num_threads()) or x)(7) == 7
    assert seen == [1]
    assert numba.get_num_threads() == before
    with pytest.raises(ZeroDivisionError):
        numba_._threaded(lambda: 1 / 0)()
    assert numba.get_num_threads() == before


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch, rng):
    N, R = rng.normal(size=(2, 120, 100)).astype(np.float32)
    psf = np.ones((5, 5))
    found = []
    for threads in ("1", "3"):
        monkeypatch.setenv("ASTRID_GPU_THREADS", threads)
        found.append(ag.zogy(N, R, psf, psf, 1.0, 1.0, backend="numba").score_corr)
    np.testing.assert_array_equal(*found)
