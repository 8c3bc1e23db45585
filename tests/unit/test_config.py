"""Configurations: what is allowed, what is refused, and how they go to and from TOML."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest

from astrid_gpu.config import DetectConfig, SubtractConfig, from_mapping, read_toml, to_mapping
from astrid_gpu.errors import AstridGpuError, ConfigError

KINDS = [SubtractConfig, DetectConfig]


@pytest.mark.parametrize("kind", KINDS)
def test_the_defaults_are_valid_frozen_and_come_back(kind):
    config = kind()
    assert from_mapping(kind, to_mapping(config)) == config
    name = fields(kind)[0].name
    with pytest.raises(FrozenInstanceError):
        setattr(config, name, getattr(config, name))
    assert hash(config) == hash(kind())


@pytest.mark.parametrize(
    ("kind", "name", "values"),
    [
        (SubtractConfig, "method", ["zogy", "classic", "classic-fit"]),
        (SubtractConfig, "align", ["auto", "wcs", "stars", "none"]),
        (SubtractConfig, "registration", ["shift", "noise", "none"]),
        (SubtractConfig, "renormalise", ["global", "local", "none"]),
        (SubtractConfig, "dtype", [None, "float32", "float64"]),
        (DetectConfig, "polarity", ["positive", "negative", "both"]),
        (DetectConfig, "extractor", ["peaks", "sep", "photutils"]),
    ],
)
def test_a_choice_takes_what_it_lists_and_nothing_else(kind, name, values):
    for value in values:
        assert getattr(kind(**{name: value}), name) == value
    for value in ("ZOGY", "", 3):
        with pytest.raises(ConfigError) as caught:
            kind(**{name: value})
        text = str(caught.value)
        assert text.startswith(f"{name} must be one of ")
        assert text.endswith(f"got {value!r}")
        assert all(repr(v) in text for v in values)


@pytest.mark.parametrize(("name", "least"), [("box", 8), ("psf_size", 5)])
def test_sizes_are_whole_pixels_of_a_least_number(name, least):
    assert getattr(SubtractConfig(**{name: None}), name) is None
    assert getattr(SubtractConfig(**{name: least}), name) == least
    for value in (least - 1, 0, -3, 20.5, "20"):
        with pytest.raises(ConfigError, match=rf"{name} must be None or a whole number of pixels, at least {least}"):
            SubtractConfig(**{name: value})


def test_numbers_of_numpy_are_taken_and_become_plain():
    given = {"box": np.int64(64), "psf_size": np.uint8(25), "tiles": np.int64(192), "psf_order": np.int32(1)}
    config = SubtractConfig(**given, flux_order=np.int8(0), memory=np.float32(2), min_overlap=np.float64(0.5))
    for name, value in to_mapping(config).items():
        assert type(value) in (str, bool, int, float), name
    assert (config.box, config.tiles, config.memory) == (64, 192, 2.0)
    assert type(DetectConfig(size=np.int64(31), threshold=np.float32(5)).size) is int
    for name in ("box", "tiles"):
        with pytest.raises(ConfigError, match=name):
            SubtractConfig(**{name: True})


@pytest.mark.parametrize("value", [0, -5.0, float("nan")])
def test_a_threshold_must_be_positive(value):
    with pytest.raises(ConfigError, match="threshold must be positive"):
        DetectConfig(threshold=value)


@pytest.mark.parametrize("value", [2, 64, 0, -1])
def test_a_cutout_side_must_be_odd(value):
    with pytest.raises(ConfigError, match="size must be an odd number of pixels, at least 3"):
        DetectConfig(size=value)


@pytest.mark.parametrize(
    ("key", "near"), [("metod", "method"), ("regstration", "registration"), ("Align", "align"), ("psfsize", "psf_size")]
)
def test_an_unknown_key_is_refused_with_the_nearest_valid_one(key, near):
    with pytest.raises(ConfigError) as caught:
        from_mapping(SubtractConfig, {key: 1}, where="[subtract] of run.toml")
    text = str(caught.value)
    assert f"unknown option {key!r} in [subtract] of run.toml" in text
    assert f"did you mean {near!r}" in text


def test_an_unknown_key_that_resembles_nothing_gets_the_list():
    with pytest.raises(ConfigError) as caught:
        from_mapping(SubtractConfig, {"xyzzy": 1})
    text = str(caught.value)
    assert "did you mean" not in text
    for field in fields(SubtractConfig):
        assert field.name in text


def test_a_wrong_option_is_an_error_of_this_package_and_a_value_error():
    with pytest.raises(AstridGpuError):
        from_mapping(SubtractConfig, {"method": "magic"})
    with pytest.raises(ValueError, match="magic"):
        from_mapping(SubtractConfig, {"method": "magic"})


def test_what_is_none_is_left_out_of_the_mapping():
    assert "box" not in to_mapping(SubtractConfig())
    assert to_mapping(SubtractConfig(box=32))["box"] == 32


def test_toml_is_read_and_its_faults_are_placed(tmp_path):
    good = tmp_path / "good.toml"
    good.write_text('[subtract]\nmethod = "zogy"\nbox = 64\nbackground = false\n')
    config = from_mapping(SubtractConfig, read_toml(good)["subtract"])
    assert config == SubtractConfig(method="zogy", box=64, background=False)
    bad = tmp_path / "bad.toml"
    bad.write_text("[subtract]\nmethod = zogy\n")
    with pytest.raises(ConfigError, match=r"bad.toml is not valid TOML: .*line 2"):
        read_toml(bad)
    with pytest.raises(ConfigError, match=r"no configuration file at .*absent.toml"):
        read_toml(tmp_path / "absent.toml")
