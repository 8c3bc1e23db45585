"""Plain subtraction: N - R, given and fitted scales, noise, masks, stacks, bad input."""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.errors import InputError, ShapeMismatchError
from astrid_gpu.flags import PixelFlag
from tests.scenes import noisy_pair


@pytest.fixture
def pair(rng):
    return rng.normal(size=(2, 40, 45))


def starry(rng, scale, offset, *, shape=(160, 170), n=1):
    """Equal seeing: N = scale R + offset, but for noise of 1 in N and 0.5 in R."""
    from tests.scenes import blurred, moffat_psf

    sources = [(rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), 50 * (1 + rng.pareto(1))) for _ in range(150)]
    model = blurred(sources, shape, moffat_psf(3.0))
    N = scale * model + offset + rng.normal(size=(n, *shape))
    return N, model + 0.5 * rng.normal(size=shape)


def test_it_is_the_plain_difference(pair, backend):
    N, R = (backend.asarray(a.astype(np.float32)) for a in pair)
    diff = ag.classic(N, R, backend=backend)
    np.testing.assert_allclose(backend.to_host(diff.difference), (pair[0] - pair[1]), atol=1e-6)
    assert diff.method == "classic"
    assert diff.score_corr is None
    assert diff.metrics == {"scale": 1.0, "offset": 0.0}


def test_scale_and_offset_are_used_as_given(pair, backend):
    N, R = (backend.asarray(a.astype(np.float32)) for a in pair)
    diff = ag.classic(N, R, scale=1.7, offset=-3.0, sigma_science=2.0, sigma_reference=0.5, backend=backend)
    want = pair[0] - (1.7 * pair[1] - 3.0)
    np.testing.assert_allclose(backend.to_host(diff.difference), want, atol=2e-6)
    np.testing.assert_allclose(backend.to_host(diff.score_corr), want / np.hypot(2.0, 1.7 * 0.5), atol=2e-6)
    assert diff.metrics == {"scale": 1.7, "offset": -3.0}


def test_the_score_has_unit_noise(rng):
    scene = noisy_pair(rng, (300, 300), sigma=(5.0, 2.0))
    diff = ag.classic(scene.science, scene.reference, scale=1.6, sigma_science=5.0, sigma_reference=2.0)
    assert diff.score_corr.std() == pytest.approx(1, abs=5 / np.sqrt(2 * diff.score_corr.size))


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (0.4, 20.0), (3.0, -5.0)])
def test_scale_and_offset_are_fitted_and_noise_does_not_flatten_the_line(rng, scale, offset):
    """Transients and holes are outvoted; the noise of R would draw ordinary least squares towards zero."""
    N, R = starry(rng, scale, offset)
    N[0, 50:54, 60:64] += 1e4
    N[0, 100:104, 20:30] = np.nan
    diff = ag.classic(N[0], R, fit=True, sigma_reference=0.5, backend="numpy")
    assert diff.metrics["scale"] == pytest.approx(scale, rel=0.03)
    assert diff.metrics["offset"] == pytest.approx(offset, abs=0.03 * np.hypot(1, scale))
    width = np.hypot(1.0, 0.5 * scale)
    assert diff.metrics["scatter"] == pytest.approx(width, rel=0.02)
    np.testing.assert_array_equal(np.isnan(diff.difference), np.isnan(N[0]))


def test_masked_and_nan_pixels_come_out_nan_with_their_flags(pair, backend):
    N, R = pair.astype(np.float32)
    mask = np.zeros(N.shape, np.uint8)
    mask[3, 4], mask[5, 6] = PixelFlag.COSMIC_RAY, PixelFlag.NEAR_BAD
    N[10, 10], R[20, 20] = np.nan, np.inf
    diff = ag.classic(*(backend.asarray(a) for a in (N, R)), mask=backend.asarray(mask), backend=backend)
    nan = np.argwhere(np.isnan(backend.to_host(diff.difference))).tolist()
    assert nan == [[3, 4], [10, 10], [20, 20]]
    flags = backend.to_host(diff.mask)
    assert flags[3, 4] == PixelFlag.COSMIC_RAY
    assert flags[5, 6] == PixelFlag.NEAR_BAD
    assert flags[10, 10] == PixelFlag.BAD_SCIENCE
    assert flags[20, 20] == PixelFlag.BAD_REFERENCE


@pytest.mark.parametrize("fit", [False, True])
def test_a_stack_equals_its_loop(rng, fit):
    N, R = starry(rng, 1.3, 4.0, shape=(60, 70), n=3)
    N[1, :5] = np.nan
    kw = {"fit": fit, "sigma_science": np.array([1.0, 2.0, 3.0]), "sigma_reference": 0.5, "backend": "numpy"}
    if not fit:
        kw |= {"scale": np.array([1.0, 1.3, 2.0]), "offset": np.array([0.0, 4.0, 1.0])}
    stack = ag.classic(N, R, **kw)
    assert stack.shape == N.shape
    for i in range(3):
        one = ag.classic(N[i], R, **{k: v[i] if isinstance(v, np.ndarray) else v for k, v in kw.items()})
        for name in ("difference", "score_corr", "mask"):
            np.testing.assert_array_equal(getattr(stack, name)[i], getattr(one, name))
        for name, value in one.metrics.items():
            assert stack.metrics[name][i] == value


def test_inputs_are_not_changed(pair):
    pair[0, 2, 2] = np.nan
    before = pair.copy()
    pair.flags.writeable = False
    ag.classic(pair[0], pair[1], fit=True, mask=np.zeros(pair[0].shape, bool))
    np.testing.assert_array_equal(pair, before)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"reference": np.zeros((40, 44))}, ShapeMismatchError, r"\(1, 40, 45\).*\(1, 40, 44\)"),
        ({"science": np.zeros((2, 40, 45)), "reference": np.zeros((3, 40, 45))}, ShapeMismatchError, "must agree"),
        ({"mask": np.zeros((4, 4), bool)}, ShapeMismatchError, r"mask has shape \(4, 4\)"),
        ({"sigma_science": 0.0}, InputError, "sigma_science must be positive"),
        ({"scale": [1.0, 2.0]}, ShapeMismatchError, "scale"),
        ({"offset": np.nan}, InputError, "offset must be finite"),
        ({"science": np.full((40, 45), np.nan), "fit": True}, InputError, "0 unmasked pixels"),
        ({"dtype": np.int32}, InputError, "float32 or float64"),
    ],
)
def test_bad_input_is_told_in_words(pair, change, error, words):
    arguments = {"science": pair[0], "reference": pair[1]} | change
    with pytest.raises(error, match=words):
        ag.classic(**arguments)
