"""Binarised files are read as fairseq reads them and wrong ones named; blocks of each kind hold every token once."""

import pickle
import struct

import numpy as np
import pytest
from fairseq.data import TokenBlockDataset
from fairseq.data.indexed_dataset import MMapIndexedDataset
from hypothesis import given
from hypothesis import strategies as st

from linformer_fairseq.errors import UsageError
from linformer_fairseq.tasks.blocks import CompleteBlocks, Sentences, TokenFile, Windows, greedy_fill

SENTENCES = [*range(1, 40)] * 60  # more sentences than places are kept


@pytest.fixture(scope="module")
def split(write_split, tmp_path_factory):
    """2,340 sentences of 1 to 39 tokens."""
    return write_split(tmp_path_factory.mktemp("split") / "train", SENTENCES)


def test_reads_what_fairseq_reads(split):
    theirs = MMapIndexedDataset(str(split.prefix))
    assert (split.sentences, split.tokens) == (len(theirs), theirs.sizes.sum())
    edges = split.starts(0, split.sentences + 1)
    assert np.diff(edges).tolist() == theirs.sizes.tolist()
    chosen = np.array([0, 38, 777, split.sentences - 1])
    rows = split.read(edges[chosen], np.diff(edges)[chosen])
    for row, number in zip(rows, chosen.tolist(), strict=True):
        sentence = theirs[number].tolist()
        assert row.tolist() == sentence + [0] * (rows.shape[1] - len(sentence))


@given(low=st.integers(0, sum(SENTENCES)), length=st.integers(0, 12_000))
def test_finds_the_sentences_that_start_within_a_stretch(split, low, length):
    starts = np.cumsum([0, *SENTENCES[:-1]])
    expected = starts[(starts >= low) & (starts <= low + length)]
    assert split.starts_between(low, low + length).tolist() == expected.tolist()


def test_travels_to_a_worker(split):
    assert pickle.loads(pickle.dumps(split)).starts(5, 1) == split.starts(5, 1)


def damaged(split, tmp_path, index=None, data=None):
    """The message about a copy of the split with these contents."""
    for suffix, content in ((".idx", index), (".bin", data)):
        original = split.prefix.with_suffix(suffix).read_bytes()
        (tmp_path / f"train{suffix}").write_bytes(original if content is None else content(original))
    with pytest.raises(UsageError) as raised:
        TokenFile(tmp_path / "train")
    return str(raised.value)


def test_a_missing_split_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"valid\.idx: no such file; .*linformer prepare binarize"):
        TokenFile(tmp_path / "valid")


def test_an_empty_split_is_refused(tmp_path):
    (tmp_path / "train.idx").write_bytes(b"MMIDIDX\0\0" + struct.pack("<QBQ", 1, 8, 0))
    (tmp_path / "train.bin").touch()
    with pytest.raises(UsageError, match=r"train\.bin: no tokens"):
        TokenFile(tmp_path / "train")


def test_damage_is_named(split, tmp_path):
    assert "not an index" in damaged(split, tmp_path, index=lambda content: b"TNTIDX" + content[6:])
    assert "not an index" in damaged(split, tmp_path, index=lambda content: content[:20])
    assert "version 2" in damaged(split, tmp_path, index=lambda content: content[:9] + b"\2" + content[10:])
    assert "do not fit" in damaged(split, tmp_path, index=lambda content: content[:-8])
    assert "do not belong together" in damaged(split, tmp_path, data=lambda content: content[:-2])
    assert "do not belong together" in damaged(split, tmp_path, index=lambda content: content[:-8] + bytes(8))


def test_a_file_that_shrinks_is_noticed(write_split, tmp_path):
    file = write_split(tmp_path / "train", [100] * 10)
    with (tmp_path / "train.bin").open("r+b") as data:
        data.truncate(500)
    with pytest.raises(UsageError, match="has become shorter"):
        file.read(np.array([0, 200]), np.array([100, 100]))


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
