"""Blocks of each kind: none as fairseq's, eos a sentence each, complete whole sentences; every token in one of them."""

import numpy as np
import pytest
from fairseq.data import TokenBlockDataset
from fairseq.data.indexed_dataset import MMapIndexedDataset
from hypothesis import given
from hypothesis import strategies as st

from linformer_fairseq.tasks.blocks import Sentences, Windows
from linformer_fairseq.tasks.complete_blocks import CompleteBlocks, greedy_fill

LENGTHS = st.one_of(
    st.lists(st.integers(1, 12), min_size=1, max_size=400),
    st.lists(st.integers(1, 90), min_size=1, max_size=100),
    st.builds(lambda length, count: [length] * count, st.integers(1, 40), st.integers(1, 300)),
)


def all_spans(blocks):
    return blocks.spans(np.arange(blocks.count))


@pytest.mark.parametrize("room", [1, 7, 31, 10_000])
def test_windows_are_those_of_fairseq(write_split, tmp_path, room):
    file = write_split(tmp_path / "train", [5, 1, 90, 3] * 20)
    theirs = MMapIndexedDataset(str(file.prefix))
    theirs = TokenBlockDataset(theirs, theirs.sizes, room, pad=1, eos=2, break_mode="none")
    starts, lengths = all_spans(Windows(file, room))
    assert np.stack([starts, starts + lengths], 1).tolist() == theirs.slice_indices.tolist()
    ours = file.read(starts, lengths)
    assert [row[:length].tolist() for row, length in zip(ours, lengths, strict=True)] == [
        row.tolist() for row in theirs
    ]


def test_eos_has_a_sentence_in_each_block_as_far_as_there_is_room(write_split, tmp_path):
    file = write_split(tmp_path / "train", [5, 1, 90, 3])
    starts, lengths = all_spans(Sentences(file, 20))
    assert (starts.tolist(), lengths.tolist()) == ([0, 5, 6, 96], [5, 1, 20, 3])


@given(lengths=LENGTHS, room=st.integers(2, 70))
def test_complete_blocks_hold_every_token_once(write_split, tmp_path_factory, lengths, room):
    blocks = CompleteBlocks(write_split(tmp_path_factory.getbasetemp() / "hypothesis", lengths), room)
    starts, found = all_spans(blocks)
    assert 1 <= found.min() and found.max() <= room
    assert starts[0] == 0 and starts[-1] + found[-1] == sum(lengths)
    assert (starts[1:] == starts[:-1] + found[:-1]).all()
    for asked in (
        np.array([blocks.count - 1]),
        np.arange(blocks.count)[::-3],
    ):  # what is asked for with it is no matter
        again = blocks.spans(asked)
        assert again[0].tolist() == starts[asked].tolist() and again[1].tolist() == found[asked].tolist()


@pytest.mark.parametrize(("room", "most_cut", "least_full"), [(511, 0.04, 0.86), (4095, 0, 0.92)])
def test_complete_blocks_begin_with_a_sentence_and_are_well_filled(write_split, tmp_path, room, most_cut, least_full):
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.lognormal(3.5, 0.8, 40_000).astype(int) + 1, 500)
    file = write_split(tmp_path / "train", lengths[:20_000])
    starts, found = all_spans(CompleteBlocks(file, room))
    cut = ~np.isin(starts, file.starts(0, file.sentences))
    assert cut.mean() <= most_cut
    assert found.mean() / room >= least_full


def test_a_sentence_longer_than_a_block_is_cut_and_the_others_are_not(write_split, tmp_path):
    lengths = [10] * 500 + [5000] + [10] * 500
    file = write_split(tmp_path / "train", lengths)
    starts, _ = all_spans(CompleteBlocks(file, 64))
    inside = (starts > 5000) & (starts < 10_000)
    aligned = np.isin(starts, file.starts(0, file.sentences))
    assert 5000 / 64 - 1 <= inside.sum() <= 2 * 5000 / 64
    assert (aligned | inside).mean() > 0.95


def test_how_full_greedy_blocks_get_is_measured(write_split, tmp_path):
    assert greedy_fill(write_split(tmp_path / "equal", [30] * 2000), 64) == 60
    assert greedy_fill(write_split(tmp_path / "long", [100] * 200), 64) == pytest.approx(64, rel=0.25)
    assert greedy_fill(write_split(tmp_path / "short", [3, 4]), 64) == 64
