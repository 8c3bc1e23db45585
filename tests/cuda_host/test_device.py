"""The engine on arrays that refuse what CuPy refuses: no host array slips among device ones, no result loses its side.

Run with the CUDA kernels, and once more with the references on the device's own namespace, which is how a third
party's backend without kernels works.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import astrid_gpu as ag
from tests.cuda_host import device, emu
from tests.cuda_host.cases import CASES, ON_DEVICE, leaves


class ReferenceOnDevice(emu.DeviceBackend):
    """Brings an array namespace and transforms, and no operation."""

    def __init__(self) -> None:
        super().__init__()
        self.ops = {}


@pytest.mark.parametrize("name", CASES)
def test_operations_keep_to_the_device(name):
    args = list(CASES[name](np.random.default_rng(3), np.float32))
    wanted = leaves(name, emu.backend().ops[name](*args))
    b = emu.backend(on_device=True)
    for position in ON_DEVICE[name]:
        args[position] = b.asarray(args[position])
    got = leaves(name, b.ops[name](*args))
    assert len(got) == len(wanted)
    for g, w in zip(got, wanted, strict=True):
        assert isinstance(g, device.DeviceArray) or name in ("find_peaks", "extremes")
        np.testing.assert_array_equal(b.to_host(g), w)


def psf(sigma: float) -> np.ndarray:
    grid = np.arange(-8, 9)
    stamp = np.exp(-(grid[:, None] ** 2 + grid**2) / (2 * sigma**2))
    return stamp / stamp.sum()


def field() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    science, reference = rng.standard_normal((2, 2, 61, 70)).astype(np.float32)
    science[0, 20:37, 20:37] += 400 * psf(2.0)
    science[:, 30:33, 50:54] = np.nan
    return 5 * science, 3 * reference[:1]


def _zogy(b: Any, move: Callable[[Any], Any]) -> Any:
    science, reference = field()
    outputs = ("difference", "score", "score_corr", "flux")
    given = {"astrometric_error": (0.1, 0.2), "outputs": outputs, "backend": b}
    return ag.zogy(move(science), move(reference), psf(2.0), psf(1.5), 5.0, 3.0, **given)


def _zogy_maps(b: Any, move: Callable[[Any], Any]) -> Any:
    science, reference = field()
    maps = {"variance_science": move(np.full_like(science, 25)), "variance_reference": move(np.full_like(reference, 9))}
    mask = move(np.isnan(science))
    return ag.zogy(move(science), move(reference), psf(2.0), psf(1.5), 5.0, 3.0, mask=mask, backend=b, **maps)


def _classic(b: Any, move: Callable[[Any], Any]) -> Any:
    science, reference = field()
    return ag.classic(move(science), move(reference), sigma_science=5.0, sigma_reference=3.0, backend=b)


def _convolve(b: Any, move: Callable[[Any], Any]) -> Any:
    return ag.convolve(move(field()[0]), move(psf(1.0)), backend=b)


def _convolve_by_fft(b: Any, move: Callable[[Any], Any]) -> Any:
    kernel = np.random.default_rng(5).uniform(0, 1, (31, 31))
    return ag.convolve(move(field()[0]), move(kernel), nan="propagate", boundary="zero", backend=b)


def _background(b: Any, move: Callable[[Any], Any]) -> Any:
    return ag.estimate_background(move(field()[0] + np.float32(100)), box=24, backend=b)


def _peaks(b: Any, move: Callable[[Any], Any]) -> Any:
    return ag.find_peaks(move(field()[0]), 10.0, polarity="both", min_separation=3, backend=b)


CALLS = [_zogy, _zogy_maps, _classic, _convolve, _convolve_by_fft, _background, _peaks]


def arrays_of(result: Any) -> dict[str, Any]:
    if hasattr(result, "__dataclass_fields__"):
        named = {name: getattr(result, name) for name in result.__dataclass_fields__}
    elif hasattr(result, "_asdict"):
        named = result._asdict()
    else:
        named = {"result": result}
    return {k: v for k, v in named.items() if isinstance(v, (np.ndarray, device.DeviceArray))}


@pytest.mark.parametrize("make", [lambda: emu.backend(on_device=True), ReferenceOnDevice], ids=["cuda", "reference"])
@pytest.mark.parametrize("call", CALLS)
def test_engine_keeps_to_the_device(call, make):
    emu.backend()  # skips where there is no compiler
    b = make()
    wanted, got = arrays_of(call(emu.backend(), lambda a: a)), arrays_of(call(b, b.asarray))
    assert set(got) == set(wanted)
    images = [name for name, a in wanted.items() if a.ndim >= 2 and a.shape[-2:] == (61, 70)]
    assert images or call is _peaks
    for name in images:
        assert isinstance(got[name], device.DeviceArray), f"{name} came back to the host: in decides out"
    for name, w in wanted.items():
        g = b.to_host(got[name])
        assert g.dtype == w.dtype, name
        if w.dtype.kind == "f":
            size = np.nanmax(np.abs(w), initial=0)
            np.testing.assert_allclose(g, w, rtol=2e-5, atol=2e-5 * size, err_msg=name)
        else:
            np.testing.assert_array_equal(g, w)


def test_detection_takes_a_difference_on_the_device():
    b = emu.backend(on_device=True)
    wanted, got = _zogy(emu.backend(), lambda a: a), _zogy(b, b.asarray)
    plain, moved = (ag.detect(d, threshold=6, backend=e) for d, e in ((wanted, emu.backend()), (got, b)))
    assert len(plain) >= 1
    np.testing.assert_allclose(moved["x"], plain["x"], atol=1e-6)
    np.testing.assert_allclose(moved["flux"], plain["flux"], rtol=1e-5)


class TestDeviceArray:
    """The emulation refuses what CuPy does and computes what NumPy does."""

    @pytest.mark.parametrize(
        "mix",
        [
            lambda d, h: np.asarray(d),
            lambda d, h: d + h,
            lambda d, h: h * d,
            lambda d, h: np.add(h, d),
            lambda d, h: device.namespace.where(d > 0, d, h),
            lambda d, h: device.namespace.stack([d, h]),
            lambda d, h: np.concatenate([h, d]),
            lambda d, h: d.dot(h),
            lambda d, h: d.__setitem__(slice(None), h),
            lambda d, h: np.add(h, h, out=d),
            lambda d, h: np.float64(d[0]) if np.array(d[0]) else None,
        ],
    )
    def test_host_and_device_do_not_mix(self, mix):
        with pytest.raises(TypeError):
            mix(device.wrap(np.ones(3)), np.ones(3))

    def test_lacking_attributes_are_lacking(self):
        d = device.wrap(np.ones(3))
        with pytest.raises(AttributeError, match="newbyteorder"):
            d.newbyteorder  # noqa: B018
        with pytest.raises(AttributeError):
            d.flags.writeable  # noqa: B018

    def test_it_computes(self):
        h = np.arange(6.0).reshape(2, 3)
        d, xp = device.wrap(h.copy()), device.namespace
        np.testing.assert_array_equal((2 * d + d.sum(axis=0) - xp.sqrt(d)).get(), 2 * h + h.sum(axis=0) - np.sqrt(h))
        assert isinstance(d.max(), device.DeviceArray)
        assert float(d.max()) == 5
        assert bool((d >= 0).all())
        assert d.shape == (2, 3)
        assert d.dtype == np.float64
        d[d > 3] = 0
        d += 1
        np.testing.assert_array_equal(d.get(), np.where(h > 3, 0, h) + 1)
        np.testing.assert_array_equal(d[:, xp.asarray([2, 0])].get(), d.get()[:, [2, 0]])
        assert xp.zeros(3, dtype=xp.float32).dtype == np.float32
        assert [type(a) for a in xp.nonzero(d)] == [device.DeviceArray] * 2
        assert ag.backends.library_of(d) == "cupy"

    def test_launches_refuse_host_arrays(self):
        b = emu.backend(on_device=True)
        with pytest.raises(TypeError, match="argument 0 of a launch is a host array"):
            b.context.kernel("stamps.cu", "gather_stamps")((1,), (256,), [np.ones(3, np.float32)])
