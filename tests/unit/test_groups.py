"""Groups of things linked in pairs, against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from astrid_gpu.ops.groups import linked_groups


@pytest.mark.parametrize("links", [0, 10, 200, 480, 2000])
def test_groups_are_those_of_scipy(rng, links):
    n = 500
    pairs = rng.integers(0, n, (links, 2))
    _, theirs = connected_components(coo_array((np.ones(links), pairs.T), shape=(n, n)), directed=False)
    first = np.array([np.flatnonzero(theirs == number)[0] for number in theirs])
    np.testing.assert_array_equal(linked_groups(pairs, n), first)


def test_a_chain_from_end_to_end_is_one_group(rng):
    order = rng.permutation(10_000)
    pairs = np.stack([order[:-1], order[1:]], axis=1)
    assert not linked_groups(pairs, 10_000).any()


def test_nothing_linked():
    np.testing.assert_array_equal(linked_groups(np.zeros((0, 2), int), 3), [0, 1, 2])
    assert linked_groups(np.zeros((0, 2), int), 0).size == 0
