"""Bad arguments of the engine: each its own clear error, before any work."""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.errors import BackendUnavailableError, ConfigError, InputError, PsfError, ShapeMismatchError
from tests.scenes import gaussian_psf

PSF = gaussian_psf(1.5, 15)


def call(science=None, reference=None, psf_n=PSF, psf_r=PSF, sigma_n=1.0, sigma_r=1.0, **kw):
    image = np.random.default_rng(1).normal(size=(40, 45))
    science = image if science is None else science
    reference = image if reference is None else reference
    return ag.zogy(science, reference, psf_n, psf_r, sigma_n, sigma_r, **({"backend": "numpy"} | kw))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"reference": np.zeros((40, 44))}, ShapeMismatchError, r"\(40, 45\).*\(40, 44\).*align"),
        ({"science": np.zeros(40)}, ShapeMismatchError, r"science must be an image \(ny, nx\) or a stack"),
        ({"science": np.zeros((1, 2, 3, 4))}, ShapeMismatchError, "science must be an image"),
        ({"science": np.zeros((0, 40))}, ShapeMismatchError, "science"),
        ({"science": np.zeros((40, 45), complex)}, InputError, "real numbers, got dtype complex128"),
        ({"science": np.zeros((2, 40, 45)), "reference": np.zeros((3, 40, 45))}, ShapeMismatchError, "whole stack"),
        ({"sigma_n": 0.0}, InputError, "sigma_science must be positive, got 0"),
        ({"sigma_r": -1.0}, InputError, "sigma_reference must be positive, got -1"),
        ({"sigma_n": np.nan}, InputError, "sigma_science must be finite"),
        ({"sigma_n": [1.0, 2.0]}, ShapeMismatchError, r"one per image \(1\)"),
        ({"flux_science": 0.0}, InputError, "flux_science must be positive"),
        ({"psf_n": np.full((15, 15), np.nan)}, PsfError, "psf_science holds 225 NaN"),
        ({"psf_r": -PSF}, PsfError, "psf_reference sums to"),
        ({"psf_n": np.zeros(5)}, PsfError, r"psf_science must be a stamp \(ky, kx\).*got shape \(5,\)"),
        ({"psf_n": np.fft.ifftshift(PSF)}, PsfError, "psf_science peaks on its border.*fftshift"),
        ({"psf_n": np.stack([PSF] * 3)}, ShapeMismatchError, "3 stamps for 1 images"),
        ({"mask": np.zeros((40, 44), bool)}, ShapeMismatchError, r"mask has shape \(40, 44\).*\(40, 45\)"),
        ({"mask": np.zeros((40, 45))}, InputError, "boolean or hold flag bits"),
        ({"variance_science": np.zeros((40, 45))}, InputError, "variance_science is zero, negative.* at 1800 unmasked"),
        ({"variance_science": -1.0}, InputError, "variance_science must be positive, got -1"),
        ({"variance_reference": np.ones((5, 5))}, ShapeMismatchError, r"variance_reference has shape \(5, 5\)"),
        ({"astrometric_error": (-0.1, 0)}, InputError, "none negative"),
        ({"astrometric_error": 0.1}, InputError, "two numbers"),
        ({"flux_ratio_error": -0.1}, InputError, "relative error, 0 or more"),
        ({"outputs": ("D",)}, InputError, "outputs may name any of difference, flux, score, score_corr; got D"),
        ({"outputs": ()}, InputError, "got nothing"),
        ({"backend": "torch"}, ConfigError, "no backend is called 'torch'; known are cupy, numba, numpy"),
        ({"dtype": np.int32}, InputError, "float32 or float64"),
    ],
)
def test_message_names_what_was_given_and_what_is_allowed(arguments, error, words):
    with pytest.raises(error, match=words):
        call(**arguments)


def test_a_named_backend_that_is_missing_says_what_to_install():
    if ag.backends.backend_status()["cupy"].available:
        pytest.skip("a CUDA device is here")
    with pytest.raises(BackendUnavailableError, match="cupy backend cannot run here"):
        call(backend="cupy")


def test_mixed_libraries_are_a_type_error_naming_each():
    class Device:
        __cuda_array_interface__ = {"shape": (40, 45)}  # noqa: RUF012
        shape, ndim = (40, 45), 2

    with pytest.raises(TypeError, match="science is numpy, reference is cupy"):
        call(reference=Device())


def test_device_arrays_are_not_copied_to_a_cpu_backend():
    class Device:
        __cuda_array_interface__ = {"shape": (40, 45)}  # noqa: RUF012
        shape, ndim = (40, 45), 2

    with pytest.raises(TypeError, match=r"on a GPU but backend 'numpy' runs on the CPU"):
        call(science=Device(), reference=Device())


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, ">f4", ">i2", np.float16, bool])
def test_integer_and_big_endian_images_are_taken(dtype):
    image = (np.random.default_rng(2).normal(size=(40, 45)) * 20 + 50).astype(dtype)
    diff = call(science=image, reference=image)
    assert diff.difference.dtype == np.float64
    assert np.abs(diff.difference).max() < 1e-9


@pytest.mark.parametrize("shape", [(33, 33), (16, 16), (9, 70), (101, 57)])
def test_small_odd_and_oblong_images(backend, shape):
    noise = backend.asarray(np.random.default_rng(3).normal(size=(2, *shape)).astype(np.float32))
    diff = ag.zogy(noise[0], noise[1], PSF, PSF, 1.0, 1.0, backend=backend)
    assert diff.shape == shape
    assert bool(backend.xp.isfinite(diff.score_corr).all())


def test_all_nan_comes_out_masked_everywhere():
    diff = call(science=np.full((40, 45), np.nan))
    assert np.isnan(diff.score_corr).all()
    assert (diff.mask & 1).all()


def test_what_comes_in_decides_what_goes_out():
    image = np.random.default_rng(4).normal(size=(40, 45))
    assert call(science=image.astype(np.float32), reference=image.astype(np.float32)).difference.dtype == np.float32
    assert call(science=image, backend="numba").difference.dtype == np.float32
    assert call(science=image, backend="numba", dtype=np.float64).difference.dtype == np.float64
    assert call(science=image[None], reference=image).difference.shape == (1, 40, 45)


def test_inputs_are_not_changed():
    image = np.random.default_rng(5).normal(size=(2, 40, 45))
    image[0, 3, 3] = np.nan
    before = image.copy()
    call(science=image[0], reference=image[1], mask=np.zeros((40, 45), bool))
    np.testing.assert_array_equal(image, before)


def test_outputs_not_asked_for_are_none():
    diff = call(outputs=("score_corr",))
    assert diff.score_corr is not None
    assert diff.difference is None
    assert diff.flux is None
    assert diff.shape == (40, 45)
    with pytest.raises(InputError, match="no flux error was computed"):
        diff.limiting_flux(5)
