"""The CUDA operations on a real device against the same kernels on the CPU; marked gpu.

What the emulator cannot show is here: NVRTC's code and the device's arithmetic, streams, offsets beyond 2^31 elements,
arrays passed without a copy. Each test that can also runs on the emulated device, so that the tests themselves are
known to work before there is a GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.backends.cuda.context import kernel_files, kernel_source
from astrid_gpu.backends.cuda.signature import parse_signatures
from tests.cuda_host import emu, registers
from tests.cuda_host.cases import CASES, ON_DEVICE, leaves

REALS = [np.float32, np.float64]


def cupy_backend() -> Any:
    status = ag.backends.backend_status()["cupy"]
    if not status.available:
        pytest.skip(status.reason)
    return ag.get_backend("cupy")


@pytest.fixture
def cuda() -> Any:
    """The real device."""
    return cupy_backend()


@pytest.fixture(params=["emulated", pytest.param("cupy", marks=pytest.mark.gpu)])
def device(request) -> Any:
    """The device, emulated or real."""
    return emu.backend(1, on_device=True) if request.param == "emulated" else cupy_backend()


def call(backend: Any, name: str, args: tuple[Any, ...]) -> list[np.ndarray]:
    """Run an operation with its images moved to the device, and bring the result back."""
    moved = [backend.asarray(a) if i in ON_DEVICE[name] else a for i, a in enumerate(args)]
    return [backend.to_host(a) for a in leaves(name, backend.ops[name](*moved))]


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("name", CASES)
def test_same_as_on_the_cpu(device, name, real):
    """To a few roundings: the device fuses multiplications and additions, the emulator does not."""
    args = CASES[name](np.random.default_rng(11), real)
    wanted = [np.asarray(a) for a in leaves(name, emu.backend().ops[name](*args))]
    got = call(device, name, args)
    assert len(got) == len(wanted)
    for g, w in zip(got, wanted, strict=True):
        assert (g.shape, g.dtype) == (w.shape, w.dtype)
        if w.dtype.kind in "fc":
            eps = np.finfo(np.float32 if name == "mesh_statistics" else real).eps  # that one is always single
            np.testing.assert_allclose(g, w, rtol=64 * eps, atol=64 * eps * np.nanmax(np.abs(w)))
        else:
            np.testing.assert_array_equal(g, w)


@pytest.mark.parametrize("name", CASES)
def test_same_bits_every_time(device, name):
    args = CASES[name](np.random.default_rng(12), np.float32)
    first = call(device, name, args)
    for _ in range(5):
        for a, b in zip(first, call(device, name, args), strict=True):
            np.testing.assert_array_equal(a, b)


def test_engine_on_the_device(device, rng):
    """zogy() against the float64 reference: S_corr to 1e-3 absolute (design, section 9)."""
    grid = np.arange(-9, 10)
    r2 = grid[:, None] ** 2 + grid**2
    psfs = [np.exp(-r2 / (2 * s * s)) for s in (2.0, 1.5)]
    science, reference = 5 * rng.standard_normal((3, 120, 131)), 3 * rng.standard_normal((1, 120, 131))
    science[:, 30:35, 40:44] = np.nan
    science[0, 60:79, 60:79] += 3e3 * psfs[0] / psfs[0].sum()
    outputs = ("difference", "score", "score_corr", "flux")
    exact = ag.zogy(science, reference, *psfs, 5.0, 3.0, outputs=outputs, backend="numpy")
    given = [device.asarray(a.astype(np.float32)) for a in (science, reference)]
    fast = ag.zogy(*given, *psfs, 5.0, 3.0, outputs=outputs, backend=device)
    assert isinstance(fast.score_corr, device.xp.ndarray), "what comes in decides what goes out"
    score_corr, flux = device.to_host(fast.score_corr), device.to_host(fast.flux)
    np.testing.assert_array_equal(np.isnan(score_corr), np.isnan(exact.score_corr))
    np.testing.assert_allclose(score_corr, exact.score_corr, atol=1e-3)
    np.testing.assert_allclose(flux, exact.flux, atol=1e-3 * np.nanmedian(exact.flux_error))


def test_transforms_follow_the_convention(device, rng):
    image = rng.standard_normal((2, 30, 42)).astype(np.float32)
    spectrum = device.rfft2(device.asarray(image))
    wanted = np.fft.rfft2(image.astype(float))
    np.testing.assert_allclose(device.to_host(spectrum), wanted, atol=1e-5 * abs(wanted).max())
    back = device.irfft2(spectrum, (30, 42))
    assert back.dtype == np.float32
    np.testing.assert_allclose(device.to_host(back), image, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("file", kernel_files())
def test_every_kernel_compiles_here_without_local_memory(cuda, file):
    for options in registers.variants(file):
        for name in parse_signatures(kernel_source(file), options):
            function = cuda.context.kernel(file, name, options).function
            print(f"{name} {options}: {function.num_regs} registers, {function.local_size_bytes} bytes of local memory")
            assert function.local_size_bytes == 0


@pytest.mark.gpu
def test_offsets_beyond_32_bits(cuda):
    """A stack of more than 2^31 pixels: the last image must be found."""
    n, side = 130, 4096
    need = 3 * n * side * side * 4
    if cuda.free_memory() < need:
        pytest.skip(f"needs {need / 2**30:.0f} GiB on the device, {cuda.free_memory() / 2**30:.0f} are free")
    xp = cuda.xp
    images = xp.zeros((n, side, side), np.float32)
    images[-1, -5:, -5:] = xp.arange(25, dtype=np.float32).reshape(5, 5)
    where = np.array([n - 1]), np.array([side - 3]), np.array([side - 3])
    stamp = cuda.to_host(cuda.ops["gather_stamps"](images, *where, 5, 0.0))
    np.testing.assert_array_equal(stamp[0], np.arange(25).reshape(5, 5))
    bad = xp.zeros((1, side, side), np.uint8)
    filled = cuda.ops["fill_masked"](images, bad, np.ones((1, 2)))
    np.testing.assert_array_equal(cuda.to_host(filled[-1, -5:, -5:]), stamp[0])
    del images, filled
    xp.get_default_memory_pool().free_all_blocks()


@pytest.mark.gpu
def test_work_goes_to_the_current_stream(cuda):
    args = CASES["fill_masked"](np.random.default_rng(13), np.float32)
    wanted = call(cuda, "fill_masked", args)[0]
    stream = cuda.xp.cuda.Stream(non_blocking=True)
    with stream:
        got = cuda.ops["fill_masked"](cuda.asarray(args[0]), cuda.asarray(args[1]), args[2])
    stream.synchronize()
    np.testing.assert_array_equal(cuda.to_host(got), wanted)


@pytest.mark.gpu
def test_arrays_are_taken_without_a_copy(cuda):
    xp = cuda.xp

    class Interface:
        def __init__(self, array: Any) -> None:
            self.__cuda_array_interface__ = array.__cuda_array_interface__

    class Capsule:
        def __init__(self, array: Any) -> None:
            self.__dlpack__, self.__dlpack_device__ = array.__dlpack__, array.__dlpack_device__

    array = xp.arange(12, dtype=np.float32)
    for given in (array, Interface(array), Capsule(array)):
        assert cuda.asarray(given).data.ptr == array.data.ptr
    swapped = np.arange(4, dtype=">f4")
    np.testing.assert_array_equal(cuda.to_host(cuda.asarray(swapped)), np.arange(4))


@pytest.mark.gpu
def test_free_memory_counts_the_pool(cuda):
    xp = cuda.xp
    xp.get_default_memory_pool().free_all_blocks()
    before = cuda.free_memory()
    held = xp.zeros(1 << 26, np.float32)
    assert before - cuda.free_memory() >= held.nbytes // 2
    del held
    assert cuda.free_memory() >= before - (64 << 20)


@pytest.mark.gpu
def test_wrong_arguments_are_refused_before_the_launch(cuda):
    kernel = cuda.context.kernel("fill.cu", "fill_masked")
    count = len(parse_signatures(kernel_source("fill.cu"))["fill_masked"])
    with pytest.raises(TypeError, match="images is a pointer: pass a cupy"):
        kernel((1,), (256,), [np.zeros(4, np.float32)] * count)


@pytest.mark.gpu
def test_the_library_says_cupy_first(cuda, monkeypatch):
    monkeypatch.delenv("ASTRID_GPU_BACKEND", raising=False)
    assert ag.available_backends()[0] == "cupy"
    assert ag.get_backend("auto").name == "cupy"
    with pytest.raises(TypeError, match="on a GPU but backend 'numpy' runs on the CPU"):
        ag.find_peaks(cuda.xp.zeros((8, 8), np.float32), 1.0, backend="numpy")
