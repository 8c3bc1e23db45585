"""Laws of ZOGY that hold for any images: covariances, additivity, swap, stacks, masks, finiteness."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import astrid_gpu as ag
from tests.scenes import gaussian_psf, moffat_psf

OUTPUTS = ("difference", "score", "score_corr", "flux")
ROLES = ("science", "reference")
MAPS = (*OUTPUTS, "flux_error")
ROUNDING = 1e-9  # relative, of double precision through half a dozen transforms

law = settings(deadline=None, max_examples=25, derandomize=True)
slow_law = settings(deadline=None, max_examples=12, derandomize=True)

seeds = st.integers(0, 2**32 - 1)
shapes = st.tuples(st.integers(20, 70), st.integers(20, 70))
psfs = st.one_of(
    st.builds(lambda s, r: gaussian_psf(s, 17, r), st.floats(0.8, 2.2), st.floats(0.8, 1.25)),
    st.builds(lambda f, b: moffat_psf(f, b, 19), st.floats(1.8, 4.0), st.floats(2.2, 5.0)),
)
factors = st.floats(1e-3, 1e3)


class Problem(NamedTuple):
    """N, R and the keywords of `ag.zogy`."""

    science: np.ndarray
    reference: np.ndarray
    kwargs: dict

    def __repr__(self):
        numbers = {k: v for k, v in self.kwargs.items() if isinstance(v, float)}
        return f"<{self.science.shape} {numbers}, PSFs of {[self.kwargs[f'psf_{r}'].max() for r in ROLES]}>"


@st.composite
def problems(draw, shape=shapes):
    """Two images of noise and stars with their variances, and all that `ag.zogy` asks for: (N, R, kwargs)."""
    ny, nx = draw(shape) if not isinstance(shape, tuple) else shape
    rng = np.random.default_rng(draw(seeds))
    sigma = draw(st.floats(0.5, 20)), draw(st.floats(0.5, 20))
    stars = np.zeros((ny, nx))
    stars[rng.integers(0, ny, 8), rng.integers(0, nx, 8)] = 50 * sigma[0] * rng.pareto(1.2, 8)
    kwargs = {
        "psf_science": draw(psfs),
        "psf_reference": draw(psfs),
        "sigma_science": sigma[0],
        "sigma_reference": sigma[1],
        "flux_science": draw(st.floats(0.2, 5)),
        "flux_reference": draw(st.floats(0.2, 5)),
        "variance_science": sigma[0] ** 2 * rng.uniform(0.7, 3, (ny, nx)),
        "variance_reference": sigma[1] ** 2 * rng.uniform(0.7, 3, (ny, nx)),
        "astrometric_error": draw(st.sampled_from([(0.0, 0.0), (0.1, 0.03)])),
        "backend": "numpy",
        "outputs": OUTPUTS,
    }
    return Problem(stars + sigma[0] * rng.normal(size=(ny, nx)), stars + sigma[1] * rng.normal(size=(ny, nx)), kwargs)


def close(a, b, scale=None, tolerance=ROUNDING):
    """Equal but for rounding, of the largest value; NaN at the same pixels."""
    np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
    scale = np.nanmax(np.abs(b)) if scale is None else scale
    error = np.nanmax(np.abs(a - b)) / max(scale, 1e-300)
    assert error <= tolerance, f"{error:.1e} of the largest value"


@law
@given(problems((72, 80)), st.integers(-6, 6), st.integers(-6, 6))
def test_a_shift_by_whole_pixels_shifts_the_result(problem, dy, dx):
    """The sky moves in the frame: the interior moves with it, whatever enters at the edges."""
    N, R, kwargs = problem
    moved = {k: np.roll(v, (dy, dx), (0, 1)) if k.startswith("variance") else v for k, v in kwargs.items()}
    one = ag.zogy(N, R, **kwargs)
    two = ag.zogy(*(np.roll(a, (dy, dx), (0, 1)) for a in (N, R)), **moved)
    # S reaches as far as the kernels k, which ring: what enters at the edges must have died out by half the frame
    inner = (slice(32, -32), slice(32, -32))
    back = np.roll(two.score_corr, (-dy, -dx), (0, 1))
    assert np.abs(one.score_corr - back)[inner].max() < 0.05


@law
@given(problems(), factors, factors)
def test_significance_does_not_depend_on_the_units_of_either_image(problem, a, b):
    """N -> aN with sigma -> a sigma, V -> a²V and F_n -> aF_n; R likewise with b: S_corr and alpha stay."""
    N, R, k = problem
    scaled = k | {
        "sigma_science": a * k["sigma_science"], "variance_science": a**2 * k["variance_science"],
        "flux_science": a * k["flux_science"], "sigma_reference": b * k["sigma_reference"],
        "variance_reference": b**2 * k["variance_reference"], "flux_reference": b * k["flux_reference"],
    }  # fmt: skip
    one, two = ag.zogy(N, R, **k), ag.zogy(a * N, b * R, **scaled)
    for name in ("difference", "score_corr", "flux", "flux_error", "psf"):
        close(getattr(two, name), getattr(one, name), tolerance=1e-8)
    close(two.score, one.score, tolerance=1e-8)


@law
@given(problems(), factors)
def test_flux_scales_of_both_images_only_rescale_the_flux(problem, c):
    """F_n, F_r -> c F_n, c F_r: S_corr is invariant, S and F_D grow by c, alpha and D / F_D shrink by c."""
    N, R, k = problem
    scaled = k | {name: c * k[name] for name in ("flux_science", "flux_reference")}
    one, two = ag.zogy(N, R, **k), ag.zogy(N, R, **scaled)
    close(two.score_corr, one.score_corr)
    close(two.score, c * one.score)
    for name in ("difference", "flux", "flux_error"):
        close(c * getattr(two, name), getattr(one, name))
    close(np.array([two.flux_scale]), np.array([c * one.flux_scale]))


@law
@given(problems(st.tuples(st.integers(44, 70), st.integers(44, 70))), seeds)
def test_s_is_linear_so_that_injected_sources_add(problem, seed):
    """S(N + A + B, R) = S(N, R) + S(A, 0) + S(B, 0), and D and the flux with it.

    The fill beyond an edge is not linear: it leaves out what may be noise. So the outermost pixels are 0 here.
    """
    N, R, k = problem
    rng = np.random.default_rng(seed)
    A, B = np.zeros((2, *N.shape))
    for image in (A, B):
        y, x = rng.integers(9, N.shape[0] - 18), rng.integers(9, N.shape[1] - 18)
        image[y : y + 9, x : x + 9] = rng.normal(0, 1e3) * gaussian_psf(1.5, 9)
    N, R = (np.pad(image[9:-9, 9:-9], 9) for image in (N, R))
    zero = np.zeros_like(N)
    parts = [ag.zogy(*pair, **k) for pair in ((N, R), (A, zero), (B, zero))]
    whole = ag.zogy(N + A + B, R, **k)
    for name in ("score", "difference", "flux"):
        want = sum(getattr(part, name) for part in parts)
        close(getattr(whole, name), want, scale=max(np.abs(getattr(p, name)).max() for p in parts))


@law
@given(problems(), st.booleans())
def test_a_full_swap_changes_every_sign_and_nothing_else(problem, masked):
    N, R, k = problem
    mask = None
    if masked:
        mask = np.zeros(N.shape, bool)
        mask[5:9, 7:12] = True
    other = k | {
        f"{what}_{to}": k[f"{what}_{of}"]
        for what in ("psf", "sigma", "flux", "variance")
        for to, of in (("science", "reference"), ("reference", "science"))
    }
    one, two = ag.zogy(N, R, **k, mask=mask), ag.zogy(R, N, **other, mask=mask)
    for name in OUTPUTS:
        close(getattr(two, name), -getattr(one, name))
    close(two.flux_error, one.flux_error)
    np.testing.assert_array_equal(two.mask, one.mask)


@slow_law
@given(st.data(), shapes, st.integers(1, 4), st.sampled_from(["numpy", "numba"]), st.booleans(), st.booleans())
def test_a_stack_equals_its_loop(data, shape, n, backend, shared_reference, shared_psf):
    """Of any length, with shared or own references and PSFs, with holes in some images."""
    problem = [data.draw(problems(shape)) for _ in range(n)]
    for i, (N, _, _) in enumerate(problem):
        N[i : i + 3, 4:9] = np.nan
    kwargs = {
        k: np.stack([p[2][k] for p in problem])
        for k in ("sigma_science", "sigma_reference", "flux_science", "flux_reference",
                  "variance_science", "variance_reference", "astrometric_error")
    }  # fmt: skip
    side = max(p[2][f"psf_{r}"].shape[0] for p in problem for r in ROLES)
    stamp = lambda p: np.pad(p, (side - p.shape[0]) // 2)  # noqa: E731
    for role in ("psf_science", "psf_reference"):
        stamps = [stamp(p[2][role]) for p in problem]
        kwargs[role] = stamps[0] if shared_psf else np.stack(stamps)
    N, R = (np.stack([p[j] for p in problem]) for j in (0, 1))
    R = R[0] if shared_reference else R
    stack = ag.zogy(N, R, **kwargs, outputs=OUTPUTS, backend=backend, dtype=np.float64)
    for i in range(n):
        per_image = {k: v[i] if not k.startswith("psf") or v.ndim == 3 else v for k, v in kwargs.items()}
        one = ag.zogy(N[i], R if shared_reference else R[i], **per_image, outputs=OUTPUTS, backend=backend,
                      dtype=np.float64)  # fmt: skip
        for name in MAPS:
            close(getattr(stack, name)[i], getattr(one, name))
        np.testing.assert_array_equal(stack.mask[i], one.mask)


@law
@given(problems(), seeds, st.floats(0, 0.3), st.floats(0, 0.3))
def test_more_mask_never_makes_fewer_nan_and_only_masked_pixels_are_nan(problem, seed, first, more):
    N, R, k = problem
    rng = np.random.default_rng(seed)
    small = rng.random(N.shape) < first
    large = small | (rng.random(N.shape) < more)
    for mask in (small, large):
        diff = ag.zogy(N, R, **k, mask=mask)
        for name in MAPS:
            np.testing.assert_array_equal(np.isnan(getattr(diff, name)), mask, err_msg=name)


def pathological(rng, shape, kind):
    """Finite images of sane scale that no telescope delivers."""
    ny, nx = shape
    image = {
        "constant": np.full(shape, 1e3),
        "zero": np.zeros(shape),
        "checkerboard": 1e3 * (-1.0) ** np.add.outer(np.arange(ny), np.arange(nx)),
        "step": np.where(np.arange(nx) < nx // 2, -1e4, 1e4) * np.ones(shape),
        "spike": np.zeros(shape),
        "ramp": np.add.outer(np.linspace(-1e4, 1e4, ny), np.linspace(0, 1e4, nx)),
        "cauchy": np.clip(rng.standard_cauchy(shape), -1e6, 1e6),
    }[kind].copy()
    if kind == "spike":
        image[rng.integers(ny), rng.integers(nx)] = 1e6
    return image


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    problems(),
    seeds,
    st.tuples(*[st.sampled_from(["constant", "zero", "checkerboard", "step", "spike", "ramp", "cauchy"])] * 2),
    st.sampled_from([("numpy", np.float64), ("numpy", np.float32), ("numba", np.float32)]),
    st.sampled_from(["none", "edge", "half", "dots"]),
)
def test_finite_images_never_give_nan_outside_the_mask(problem, seed, kinds, how, holes):
    N, _, k = problem
    rng = np.random.default_rng(seed)
    images = [pathological(rng, N.shape, kind).astype(how[1]) for kind in kinds]
    mask = np.zeros(N.shape, bool)
    if holes == "edge":
        mask[:3], mask[:, -2:] = True, True
    elif holes == "half":
        mask[: N.shape[0] // 2] = True
    elif holes == "dots":
        mask[rng.random(N.shape) < 0.2] = True
    diff = ag.zogy(*images, **(k | {"backend": how[0]}), dtype=how[1], mask=mask)
    for name in MAPS:
        np.testing.assert_array_equal(np.isfinite(getattr(diff, name)), ~mask, err_msg=name)
    assert np.nanmin(diff.flux_error) > 0
