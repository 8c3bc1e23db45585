"""The FFT providers: one contract, whichever library does the work."""

from __future__ import annotations

import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.backends import fft
from astrid_gpu.backends.fft import fast_length, fft_provider, fft_status
from astrid_gpu.backends.threads import cpu_threads
from astrid_gpu.errors import BackendUnavailableError, ConfigError
from tests.scenes import moffat_psf

NAMES = ["scipy", "mkl", "pyfftw"]


@pytest.fixture(params=NAMES)
def provider(request):
    if fft_status()[request.param]:
        pytest.skip(f"{request.param} is not installed")
    return fft_provider(request.param)


@pytest.fixture
def forgetful():
    """Forget which providers were loaded, before and after."""
    for cached in (fft._named, fft._automatic):
        cached.cache_clear()
    yield
    for cached in (fft._named, fft._automatic):
        cached.cache_clear()


SHAPES = [(16, 16), (15, 21), (24, 9), (7, 1), (1, 8), (3, 20, 33), (2, 2, 9, 10)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("threads", [None, 1, 2])
def test_transforms_are_numpys(provider, rng, shape, dtype, threads):
    """Forward unnormalised, inverse divided by the pixels; precision is kept; the input is not altered."""
    images = rng.normal(size=shape).astype(dtype)
    given = images.copy()
    spectrum = provider.rfft2(given, threads=threads)
    want = np.fft.rfft2(images.astype(float))
    rounding = 1e-12 if dtype == np.float64 else 2e-5
    assert spectrum.dtype == np.result_type(dtype, np.complex64)
    np.testing.assert_allclose(spectrum, want, rtol=0, atol=rounding * np.abs(want).max())
    np.testing.assert_array_equal(given, images)

    kept = spectrum.copy()
    back = provider.irfft2(spectrum, shape[-2:], threads=threads)
    assert back.dtype == dtype
    np.testing.assert_allclose(back, images, rtol=0, atol=rounding)
    np.testing.assert_array_equal(spectrum, kept)
    again = provider.irfft2(spectrum, shape[-2:], threads=threads, overwrite=True)
    np.testing.assert_allclose(again, back, rtol=0, atol=rounding)


def test_any_layout_is_taken(provider, rng):
    """Views with strides, unaligned memory, read-only arrays, integers."""
    image = rng.normal(size=(40, 30))
    want = np.fft.rfft2(image[::2, ::3])
    np.testing.assert_allclose(provider.rfft2(image[::2, ::3]), want, atol=1e-12)
    np.testing.assert_allclose(provider.irfft2(np.asfortranarray(want), (20, 10)), image[::2, ::3], atol=1e-12)
    raw = np.empty(image.nbytes + 8, np.uint8)[8:].view(np.float64).reshape(image.shape)
    raw[:] = image
    np.testing.assert_allclose(provider.rfft2(raw), np.fft.rfft2(image), atol=1e-12)
    shared = np.broadcast_to(want, (3, *want.shape))
    np.testing.assert_allclose(provider.irfft2(shared, (20, 10), overwrite=True)[1], image[::2, ::3], atol=1e-12)
    counts = rng.integers(0, 9, (8, 8))
    np.testing.assert_allclose(provider.rfft2(counts), np.fft.rfft2(counts), atol=1e-12)


def test_a_spectrum_of_another_shape_is_refused(provider):
    with pytest.raises(ValueError, match=r"a spectrum of shape \(8, 5\) is not that of images of \(8, 10\)"):
        provider.irfft2(np.zeros((8, 5), complex), (8, 10))


def test_threads_may_call_at_once(provider, rng):
    """As tiles do, each call on one thread of its own."""
    images = rng.normal(size=(24, 60, 72))

    def there_and_back(image):
        return provider.irfft2(provider.rfft2(image, threads=1), image.shape, threads=1, overwrite=True)

    with ThreadPoolExecutor(4) as pool:
        for got, want in zip(pool.map(there_and_back, images), images, strict=True):
            np.testing.assert_allclose(got, want, atol=1e-12)


def test_zogy_is_the_same_by_every_provider(provider, rng, monkeypatch):
    N, R = rng.normal(size=(2, 50, 43))
    psfs = moffat_psf(3.0, side=15), moffat_psf(4.0, side=15)
    outputs = ("difference", "score", "score_corr", "flux")
    found = {}
    for name in ("scipy", provider.name):
        monkeypatch.setenv("ASTRID_GPU_FFT", name)
        found[name] = ag.zogy(N, R, *psfs, 1.0, 2.0, outputs=outputs, backend="numpy")
    for name in (*outputs, "flux_error"):
        a, b = getattr(found[provider.name], name), getattr(found["scipy"], name)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * np.nanmax(np.abs(b)))


def test_lengths_are_even_smooth_and_the_same_for_all(provider):
    for n in range(1, 400):
        size = provider.next_fast_len(n)
        assert size == fast_length(n)
        assert n <= size < 1.2 * n + 4
        assert provider.next_fast_len(size) == size
        assert size % (4 if n > 64 else 2) == 0
        for factor in (2, 3, 5, 7, 11):
            while size % factor == 0:
                size //= factor
        assert size == 1
    assert provider.threads == cpu_threads()


# ---- which one


def test_the_environment_names_the_provider(monkeypatch):
    monkeypatch.setenv("ASTRID_GPU_FFT", "scipy")
    assert fft_provider().name == "scipy"
    monkeypatch.setenv("ASTRID_GPU_FFT", "")
    assert fft_provider() is fft_provider("auto")
    monkeypatch.setenv("ASTRID_GPU_FFT", "cufft")
    with pytest.raises(ConfigError, match=r"ASTRID_GPU_FFT must be one of auto, mkl, pyfftw, scipy; got 'cufft'"):
        fft_provider()


def test_auto_takes_mkl_if_it_is_there():
    assert fft_provider("auto").name == ("scipy" if fft_status()["mkl"] else "mkl")


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize(("name", "extra"), [("mkl", "mkl"), ("pyfftw", "fftw")])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_missing_one_is_an_error_with_the_install_line(monkeypatch, name, extra, backend):
    real = fft.util.find_spec
    gone = {"mkl_fft", "mkl", "pyfftw"}
    monkeypatch.setattr(fft.util, "find_spec", lambda m, *a: None if m in gone else real(m, *a))
    monkeypatch.setenv("ASTRID_GPU_FFT", name)
    ag.backends._load.cache_clear()
    with pytest.raises(BackendUnavailableError, match=rf"{name} is not installed; pip install 'astrid-gpu\[{extra}\]'"):
        ag.get_backend(backend)
    monkeypatch.setenv("ASTRID_GPU_FFT", "auto")
    assert fft_provider().name == "scipy"


@pytest.mark.usefixtures("forgetful")
def test_a_broken_one_is_told_and_auto_goes_on_without_it(monkeypatch, caplog):
    class Broken(fft._Scipy):
        name, install = "mkl", "pip install 'astrid-gpu[mkl]'"

        def __init__(self):
            msg = "libmkl_rt.so.2: cannot open shared object file"
            raise ImportError(msg)

    monkeypatch.setitem(fft._PROVIDERS, "mkl", Broken)
    with pytest.raises(BackendUnavailableError, match=r"mkl is installed but does not load \(libmkl_rt.so.2: cannot"):
        fft_provider("mkl")
    with caplog.at_level(logging.WARNING, logger="astrid_gpu"):
        assert fft_provider("auto").name == "scipy"
    assert "going on without it" in caplog.text


def test_asking_what_is_installed_imports_none_of_it():
    code = (
        "import sys; from astrid_gpu.backends.fft import fft_provider, fft_status\n"
        "fft_status(); fft_provider('scipy')\n"
        "print([m for m in ('mkl', 'mkl_fft', 'pyfftw', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


# ---- threads


def test_threads_are_those_asked_for(monkeypatch):
    monkeypatch.setenv("ASTRID_GPU_THREADS", "3")
    assert cpu_threads() == 3
    monkeypatch.delenv("ASTRID_GPU_THREADS")
    assert cpu_threads() >= 1
    for wrong in ("0", "many", "-1", "1.5"):
        monkeypatch.setenv("ASTRID_GPU_THREADS", wrong)
        with pytest.raises(ConfigError, match="ASTRID_GPU_THREADS must be a whole number of at least 1"):
            cpu_threads()
