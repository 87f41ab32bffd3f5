"""Batches hold every sequence once, keep to the limit and save pads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linformer_fairseq.inference.batches import as_they_come, like_length

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


def pads(lengths: list[int], batches: list[np.typing.NDArray[np.int64]]) -> float:
    return sum(len(b) * max(lengths[i] for i in b) for b in batches) / sum(lengths) - 1


@pytest.mark.parametrize("count", [8, 64, 1000])
def test_sequences_of_like_length_have_few_pads(count: int) -> None:
    lengths = np.exp(np.random.default_rng(0).uniform(np.log(16), np.log(4096), count)).astype(int).tolist()
    assert pads(lengths, like_length(lengths, 8192)) < 0.04 < 0.3 < pads(lengths, as_they_come(lengths, 8192))


@pytest.mark.parametrize(
    "lengths, overhead, batches",
    [
        ([500] * 5, 0, 1),
        ([500, 16], 64, 2),
        ([500, 16], 1000, 1),
        ([500, 490, 20, 16], 64, 2),
        ([], 64, 0),
        ([9000, 20], 64, 2),
        ([2000] * 5, 64, 2),
    ],
)
def test_a_batch_is_split_where_its_pads_cost_more_than_another_batch(
    lengths: list[int], overhead: int, batches: int
) -> None:
    assert len(like_length(lengths, 8192, overhead)) == batches
