"""Signatures, sources and launch arguments: what CuPy would pass on unchecked is refused, on the CPU and the device."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from astrid_gpu.backends.cuda import context, cuda_ops, signature
from astrid_gpu.backends.cupy_ import CupyContext
from tests.cuda_host import build as host
from tests.cuda_host import emu
from tests.cuda_host.cases import CASES, leaves

needs_compiler = pytest.mark.skipif(bool(host.why_unavailable()), reason=host.why_unavailable() or "available")

SCALE = """#include <none>
extern "C" {
// __global__ void commented_out(int a) {
/* __global__ void also_commented(int a) { */
__global__ void __launch_bounds__(256, 2) scale(const float* __restrict__ in, float *out, const real2* c,
                                                unsigned char const* mask, float factor /* not 0 */, long long n) {
}
__global__ void nothing() {}
}
""".replace("#include <none>\n", "")


def test_signatures_are_read():
    found = signature.parse_signatures(SCALE)
    assert list(found) == ["scale", "nothing"]
    assert found["nothing"] == ()
    assert [(p.name, p.ctype, p.pointer, p.const) for p in found["scale"]] == [
        ("in", "float", True, True),
        ("out", "float", True, False),
        ("c", "float2", True, True),
        ("mask", "unsigned char", True, True),
        ("factor", "float", False, False),
        ("n", "long long", False, False),
    ]


def test_real_is_double_on_request():
    assert signature.parse_signatures(SCALE)["scale"][2].dtypes == (np.complex64,)
    assert signature.parse_signatures(SCALE, (signature.DOUBLE,))["scale"][2].dtypes == (np.complex128,)


def test_unknown_type_is_refused():
    with pytest.raises(ValueError, match=r"kernel f: parameter 'half x' has type 'half'; allowed are float,"):
        signature.parse_signatures("__global__ void f(half x) {}")


def arguments() -> list[object]:
    return [
        np.ones(4, np.float32),
        np.zeros(4, np.float32),
        np.zeros(4, np.complex64),
        np.zeros(4, bool),
        np.float32(2),
        np.int64(4),
    ]


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, np.ones(4), "in points to float: pass dtype float32, got float64"),
        (0, np.ones((4, 4), np.float32)[:, ::2], "in must be C-contiguous, got strides"),
        (0, [1.0, 2.0], "in is a pointer"),
        (0, None, "in is a pointer"),
        (0, np.uintp(64), "in is a pointer"),
        (3, np.zeros(4, np.int32), "mask points to unsigned char: pass dtype uint8, got int32"),
        (4, 2.0, "factor is float: pass numpy.float32, got float"),
        (4, np.float64(2), "factor is float: pass numpy.float32, got float64"),
        (5, 4, "n is long long: pass numpy.int64, got int"),
        (5, np.int32(4), "n is long long: pass numpy.int64, got int32"),
    ],
)
def test_inexact_arguments_are_refused(position, value, message):
    parameters = signature.parse_signatures(SCALE)["scale"]
    args = arguments()
    signature.check_arguments("scale", parameters, args, np.ndarray)
    args[position] = value
    with pytest.raises(TypeError, match=message):
        signature.check_arguments("scale", parameters, args, np.ndarray)


def test_read_only_outputs_are_refused_and_inputs_taken():
    parameters = signature.parse_signatures(SCALE)["scale"]
    args = arguments()
    args[0].flags.writeable = False
    signature.check_arguments("scale", parameters, args, np.ndarray)
    args[1].flags.writeable = False
    with pytest.raises(TypeError, match="out is written to, but the array is read-only"):
        signature.check_arguments("scale", parameters, args, np.ndarray)


def test_null_pointers_pass():
    args = [context.NULL, *arguments()[1:]]
    parsed = signature.parse_signatures(SCALE)["scale"]
    assert signature.check_arguments("scale", parsed, args, np.ndarray) is None  # raises what it refuses
    with pytest.raises(TypeError, match="pointer"):
        signature.check_arguments("scale", parsed, [0, *args[1:]], np.ndarray)


def test_wrong_number_of_arguments():
    with pytest.raises(TypeError, match=r"scale takes 6 arguments \(in, out, c, mask, factor, n\), got 2"):
        signature.check_arguments("scale", signature.parse_signatures(SCALE)["scale"], arguments()[:2], np.ndarray)


def test_grids_and_blocks():
    assert signature.check_shape("k", "grid", (3, 2)) == (3, 2, 1)
    with pytest.raises(TypeError, match="grid must be a tuple"):
        signature.check_shape("k", "grid", 3)
    with pytest.raises(ValueError, match=r"grid \(3, 0\) has an empty side; return early"):
        signature.check_shape("k", "grid", (3, 0))


@pytest.mark.parametrize("file", context.kernel_files())
def test_sources_are_self_contained(file):
    source = context.kernel_source(file)
    assert '#include "' not in source, "headers of this folder are put in place"
    assert "#include <" not in source, "NVRTC has no standard headers"
    assert source.startswith(f'#line 1 "{file}"')
    names = list(signature.parse_signatures(source))
    assert names, "a .cu file defines kernels"
    assert source.count("__global__ void") == len(names), "every kernel has a signature that launches can pass"


def test_line_numbers_survive_the_headers():
    lines = context.kernel_source("zogy.cu").splitlines()
    original = context.resources.files("astrid_gpu.kernels").joinpath("zogy.cu").read_text().splitlines()
    marker = max(i for i, line in enumerate(lines) if line.startswith("#line") and "zogy.cu" in line)
    first = int(lines[marker].split()[1])
    assert lines[marker + 1 :] == original[first - 1 :]


def test_blocks_and_options():
    assert [context.blocks_for(n, 256) for n in (0, 1, 256, 257)] == [1, 1, 1, 2]
    assert context.blocks_for(10**9, 256, 4096) == 4096
    assert context.options_for(np.dtype(np.float64)) == (signature.DOUBLE,)
    with pytest.raises(TypeError, match="float32 or float64, got int16"):
        context.options_for(np.dtype(np.int16))


class _HostRawModule:
    """Takes what the product hands to cupy.RawModule, and compiles it for the host."""

    def __init__(self, *, code: str, options: tuple[str, ...], backend: str) -> None:
        assert backend == "nvrtc"
        assert options[0] == "-std=c++17"
        self._module = host.build_source(code, "raw", [o for o in options if o.startswith("-D")])

    def get_function(self, name: str) -> host.HostKernel:
        return self._module.get_function(name)


class _HostCupy:
    """NumPy with the few names of CuPy that `CupyContext` uses."""

    RawModule = _HostRawModule
    cuda = SimpleNamespace(get_current_stream=lambda: None)

    def __getattr__(self, name: str) -> object:
        return getattr(np, name)


@needs_compiler
@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("name", CASES)
def test_cupy_context_runs_every_operation(name, real):
    """The device's own path from source to launch, with only NVRTC exchanged for the host compiler."""
    args = CASES[name](np.random.default_rng(8), real)
    got, wanted = cuda_ops(CupyContext(_HostCupy()))[name](*args), emu.backend().ops[name](*args)
    for a, b in zip(leaves(name, got), leaves(name, wanted), strict=True):
        np.testing.assert_array_equal(a, b)


@needs_compiler
def test_cupy_context_compiles_once_and_checks_every_launch():
    ctx = CupyContext(_HostCupy())
    kernel = ctx.kernel("fill.cu", "fill_masked")
    assert kernel is ctx.kernel("fill.cu", "fill_masked")
    assert kernel is not ctx.kernel("fill.cu", "fill_masked", (signature.DOUBLE,))
    count = len(signature.parse_signatures(context.kernel_source("fill.cu"))["fill_masked"])
    with pytest.raises(TypeError, match="fill_masked: images points to float: pass dtype float32, got float64"):
        kernel((1,), (256,), [np.ones(4)] * count)


@needs_compiler
def test_compile_errors_carry_the_line():
    with pytest.raises(RuntimeError, match=r"bad.cu:2.*undefined_name"):
        host.build_source(
            '#line 1 "bad.cu"\nextern "C" {\n__global__ void f(float* a) { a[0] = undefined_name; }\n}', "bad"
        )


@needs_compiler
def test_unknown_kernel_is_named_with_those_there():
    with pytest.raises(AttributeError, match=r"no kernel 'nope'; it has zogy_frame, .*zogy_spectra, zogy_finish"):
        host.build("zogy.cu").get_function("nope")


def test_emulated_lengths_are_those_of_the_device():
    lengths = [emu.EmulatedBackend().next_fast_len(n) for n in (1, 11, 13, 127, 2049)]
    assert lengths == [2, 12, 14, 128, 2058]
