"""A stated gain held against the sky: contradicted only where nothing else explains the noise."""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu._exposure import own_stages
from astrid_gpu.config import SubtractConfig
from astrid_gpu.errors import InputError
from tests.unit.align_fields import catalogue, scene

SHAPE = (256, 300)
GAIN, READ = 2.0, 5.0


def exposure(rng, *, sky=300.0, read=READ, stars=None):
    """An exposure of stars, in counts."""
    light = scene(SHAPE, *(stars or catalogue(rng, 60, SHAPE, apart=4.0)))
    return (rng.poisson((light + sky) * GAIN) + rng.normal(0, read, SHAPE)) / GAIN


def checked(data, **known):
    """The own stages of an image, and the steps of this check."""
    done = own_stages(ag.Image(data, **known), SubtractConfig(), None, "science")
    return done, [step for step in done.steps if step.stage == "gain check"]


@pytest.mark.parametrize("stated", [120.0, 300.0])
def test_a_gain_that_is_a_setting_of_the_camera(rng, caplog, stated):
    done, said = checked(exposure(rng), gain=stated, read_noise=READ)
    assert len(said) == 1
    assert "is contradicted by the sky" in caplog.text
    assert done.image.gain == pytest.approx(GAIN, rel=0.15)  # the read noise counts as the sky's


def test_counts_per_second_without_a_unit(rng):
    done, said = checked(exposure(rng) / 100.0, gain=GAIN, read_noise=READ, meta={"exposure": 100.0})
    assert "counts per second" in said[0].text
    assert done.image.gain == pytest.approx(100 * GAIN)
    done, said = checked(exposure(rng) / 100.0, gain=GAIN, read_noise=READ)  # no exposure: by the read noise
    assert len(said) == 1
    assert done.image.gain == pytest.approx(100 * GAIN, rel=0.2)


def test_quality_names_it(rng):
    science, reference = (exposure(rng, stars=catalogue(np.random.default_rng(1), 60, SHAPE)) for _ in range(2))
    diff = ag.subtract(ag.Image(science, gain=300.0), ag.Image(reference, gain=GAIN), align="none")
    assert diff.metrics["gain_noise_ratio_science"] > 3
    assert "gain_noise_ratio_reference" not in diff.metrics
    assert any("as much as its gain says" in reason for reason in ag.quality(diff).reasons)


@pytest.mark.parametrize(
    "kind",
    ["right", "sky-subtracted", "pedestal", "coadd", "read noise", "unknown read noise", "resampled", "flat", "raw"],
)
def test_what_has_another_reason_is_not_claimed(rng, caplog, kind):
    from scipy.ndimage import gaussian_filter

    data, known = exposure(rng), {"gain": GAIN, "read_noise": READ}
    if kind == "sky-subtracted":
        data = exposure(rng, sky=10_000.0) - 9_990.0
    elif kind == "pedestal":
        data = data + 1000.0
    elif kind == "coadd":
        data, known = np.mean([exposure(rng) for _ in range(8)], axis=0), {"gain": GAIN}
    elif kind in {"read noise", "unknown read noise"}:
        data = exposure(rng, sky=300.0, read=50.0)
        known = {"gain": GAIN, "read_noise": 50.0 if kind == "read noise" else None}
    elif kind == "resampled":
        data = gaussian_filter(data, 0.8)
    elif kind == "flat":
        data = exposure(rng, sky=20_000.0) * rng.normal(1, 0.01, SHAPE)
    elif kind == "raw":
        data, known["meta"] = np.rint(data + 1000.0), {"exposure": 5.0}
    done, said = checked(data, **known)
    assert not said
    assert not caplog.records
    assert done.image.gain == GAIN


@pytest.mark.parametrize("sigma", [0.6, 1.3])
def test_a_crowd_is_not_claimed(rng, sigma):
    n = 6000
    y, x = rng.uniform(0, SHAPE[0], n), rng.uniform(0, SHAPE[1], n)
    light = scene(SHAPE, y, x, np.exp(rng.uniform(np.log(300), np.log(2e4), n)), sigma=sigma)
    data = (rng.poisson((light + 300.0) * GAIN) + rng.normal(0, READ, SHAPE)) / GAIN
    assert not checked(data, gain=GAIN, read_noise=READ)[1]


@pytest.mark.parametrize("gain", [-1.5, 0.0, float("nan"), float("inf"), "2", [1.0, 2.0]])
def test_an_impossible_gain_is_refused_in_words(gain):
    with pytest.raises(InputError, match=r"a\.fits: gain must be one finite number, positive, or None"):
        ag.Image(np.ones((9, 9)), gain=gain, name="a.fits")


def test_an_impossible_read_noise_is_refused_in_words():
    ag.Image(np.ones((9, 9)), gain=np.float32(2), read_noise=0)
    with pytest.raises(InputError, match="read_noise must be one finite number, not negative"):
        ag.Image(np.ones((9, 9)), read_noise=-1.0)
