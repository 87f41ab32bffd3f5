"""Orders that are computed: each number once, another order for another key, without a pattern."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from linformer_fairseq.tasks.permutation import Permutation, hashed


@given(size=st.integers(1, 3000), seed=st.integers(-(2**31), 2**31), epoch=st.integers(1, 100))
def test_has_every_number_once(size, seed, epoch):
    order = Permutation(size, seed, epoch)(np.arange(size))
    assert sorted(order.tolist()) == list(range(size))


@given(size=st.integers(1, 10**13), places=st.lists(st.integers(0, 10**13 - 1), min_size=1, max_size=20))
def test_a_place_holds_the_same_whatever_is_asked_with_it(size, places):
    places = np.array(places) % size
    order = Permutation(size, 1)
    together = order(places)
    assert together.tolist() == [order(places[i : i + 1])[0] for i in range(len(places))]
    assert (0 <= together).all() and (together < size).all()
    assert len(set(together.tolist())) == len(set(places.tolist()))


def test_looks_random():
    """Neighbours and orders of different keys are as uncorrelated as those of a drawn permutation."""
    one, other = (Permutation(100_000, 1, epoch)(np.arange(100_000)) for epoch in (1, 2))
    limit = 4 / np.sqrt(100_000)
    for pair in ((one, np.arange(100_000)), (one[1:], one[:-1]), (one, other), (np.diff(one)[1:], other[2:])):
        assert abs(np.corrcoef(*pair)[0, 1]) < limit


def test_small_orders_are_all_drawn():
    orders = {tuple(Permutation(4, seed)(np.arange(4)).tolist()) for seed in range(600)}
    assert len(orders) == 24


def test_hashes_are_broadcast_and_evenly_spread():
    hashes = hashed(1, np.arange(64)[:, None], np.arange(64))
    assert hashes.shape == (64, 64) and len(np.unique(hashes)) == 64 * 64
    bits = np.unpackbits(hashes.view(np.uint8)).reshape(-1, 64).mean(0)
    assert (abs(bits - 0.5) < 4 * 0.5 / 64).all()
