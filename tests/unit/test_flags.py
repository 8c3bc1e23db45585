"""The two flag tables: bits, names, meanings, decoder."""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu.flags import INVALID, CandidateFlag, PixelFlag, decode, describe


@pytest.mark.parametrize(("kind", "dtype"), [(PixelFlag, np.uint16), (CandidateFlag, np.uint32)])
def test_every_flag_is_one_bit_of_its_own_that_fits(kind, dtype):
    bits = [int(flag) for flag in kind]
    assert len(set(bits)) == len(bits)
    for bit in bits:
        assert bit.bit_count() == 1
        assert int(dtype(bit)) == bit


def test_a_pixel_bit_means_the_same_in_a_candidate():
    for flag in PixelFlag:
        assert CandidateFlag[flag.name] == int(flag)


def test_invalid_is_every_bit_of_the_engines_byte_but_the_two_warnings():
    warnings = int(PixelFlag.NEAR_BAD | PixelFlag.EDGE)
    byte = sum(int(flag) for flag in PixelFlag if flag < 256)
    assert byte == 255
    assert byte - warnings == INVALID


def test_bits_of_the_candidate_itself_are_no_pixel_bits():
    pixels = sum(map(int, PixelFlag))
    own = [flag for flag in CandidateFlag if not int(flag) & pixels]
    assert [int(flag) for flag in own] == [256, 512, 1024, 2048, 4096]


def test_older_names_stay():
    for kind in (PixelFlag, CandidateFlag):
        assert kind["COSMIC_RAY"] is kind["COSMIC_RAY_SCIENCE"]


@pytest.mark.parametrize("kind", [PixelFlag, CandidateFlag])
def test_the_table_has_a_meaning_for_each(kind):
    table = describe(kind)
    assert [row.bit for row in table] == sorted(int(flag) for flag in kind)
    assert [row.name for row in table] == [flag.name for flag in kind]
    assert all(len(row.meaning) > 10 for row in table)
    assert len({row.meaning for row in table}) == len(table)


def test_decode_names_the_bits_that_are_set():
    assert decode(0) == []
    assert decode(np.uint8(5), PixelFlag) == ["BAD_SCIENCE", "SATURATED_SCIENCE"]
    assert decode(np.uint32(256 | 128)) == ["EDGE", "DIPOLE"]
    for kind in (PixelFlag, CandidateFlag):
        assert decode(sum(int(f) for f in kind), kind) == [f.name for f in kind]
