"""Batches hold every sequence once, keep to the limit and save pads."""

from __future__ import annotations

import numpy as np
from encoding.batches import as_they_come, like_length
from hypothesis import given
from hypothesis import strategies as st

LENGTHS = st.lists(st.integers(1, 500), max_size=200)


@given(lengths=LENGTHS, batch_tokens=st.integers(1, 4000))
def test_every_sequence_is_in_one_batch_within_the_limit(lengths: list[int], batch_tokens: int) -> None:
    for way in (like_length, as_they_come):
        batches = way(lengths, batch_tokens)
        assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
        padded = [len(batch) * max(lengths[i] for i in batch) for batch in batches]
        assert all(size <= batch_tokens or len(batch) == 1 for size, batch in zip(padded, batches, strict=True))
        if way is like_length and batches:
            assert padded[0] == max(padded)
            assert [b.tolist() for b in batches] == [b.tolist() for b in way(lengths, batch_tokens)]


def test_sequences_of_like_length_have_few_pads() -> None:
    lengths = np.exp(np.random.default_rng(0).uniform(np.log(16), np.log(4096), 1000)).astype(int).tolist()

    def pads(batches: list[np.typing.NDArray[np.int64]]) -> float:
        return sum(len(b) * max(lengths[i] for i in b) for b in batches) / sum(lengths) - 1

    assert pads(like_length(lengths, 8192)) < 0.03 and pads(as_they_come(lengths, 8192)) > 0.3
