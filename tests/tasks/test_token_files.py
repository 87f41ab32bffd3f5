"""Files are read as fairseq reads them, and wrong ones are answered in a sentence."""

import pickle
import struct

import numpy as np
import pytest
from fairseq.data.indexed_dataset import MMapIndexedDataset
from hypothesis import given
from hypothesis import strategies as st

from linformer_fairseq.errors import UsageError
from linformer_fairseq.tasks.token_files import TokenFile

LENGTHS = [*range(1, 40)] * 60  # more sentences than places are kept


@pytest.fixture(scope="module")
def split(write_split, tmp_path_factory):
    """2,340 sentences of 1 to 39 tokens."""
    return write_split(tmp_path_factory.mktemp("split") / "train", LENGTHS)


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


@given(low=st.integers(0, sum(LENGTHS)), length=st.integers(0, 12_000))
def test_finds_the_sentences_that_start_within_a_stretch(split, low, length):
    starts = np.cumsum([0, *LENGTHS[:-1]])
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
    with pytest.raises(UsageError, match=r"valid\.idx: no such file; .*data_prep binarize"):
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
