"""Binarised text, read back with fairseq's own classes."""

from __future__ import annotations

import hashlib
import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq.data import TokenBlockDataset, data_utils
from fairseq.data.dictionary import Dictionary
from fairseq.data.encoders.sentencepiece_bpe import SentencepieceBPE
from hypothesis import given
from hypothesis import strategies as st

import data_prep.binarize
from data_prep.__main__ import main
from data_prep.binarize import SPLITS, binarize, paragraph_items, split_of
from data_prep.corpus import read_row_group, row_groups
from data_prep.stage import DataPrepError
from data_prep.tokenizer import FAIRSEQ_OFFSET, MODEL_NAME, load_tokenizer

FRACTION = 0.1
LONGEST = 62  # tokens of an item, for samples of 64
EOS = 2
FILES = ("train.bin", "train.idx", "valid.bin", "valid.idx", "dict.txt", MODEL_NAME)


@pytest.fixture(scope="module")
def data(corpus: Path, tokenizer: Path) -> Path:
    """The corpus, binarised by one process."""
    folder = corpus.with_name("data")
    binarize(corpus, tokenizer, folder, FRACTION, workers=1, max_item_tokens=LONGEST)
    return folder


@pytest.fixture(scope="module")
def dictionary(data: Path) -> Dictionary:
    """The dictionary of the task masked_lm."""
    dictionary = Dictionary.load(str(data / "dict.txt"))
    dictionary.add_symbol("<mask>")
    return dictionary


def items_of(data: Path, split: str) -> list[torch.Tensor]:
    """The items as fairseq reads them."""
    dataset = data_utils.load_indexed_dataset(str(data / split), None, None)
    return [dataset[i] for i in range(len(dataset))]


def texts_of(corpus: Path, split: str) -> list[str]:
    """The documents of a split, straight from the corpus."""
    documents = [document for group in row_groups(corpus) for document in read_row_group(*group)]
    return [text for text, sha256 in documents if split_of(sha256, FRACTION) == split]


@pytest.mark.parametrize("split", SPLITS)
def test_decoding_gives_the_corpus_back(corpus: Path, data: Path, split: str) -> None:
    processor = load_tokenizer(data)
    documents: list[str] = []
    paragraphs: list[str] = []
    ids: list[int] = []
    for item in items_of(data, split):
        if item.tolist() == [EOS]:
            documents.append("\n".join(paragraphs))
            paragraphs = []
            continue
        ids += item.tolist()
        if ids[-1] == EOS:
            paragraphs.append(processor.decode([i - FAIRSEQ_OFFSET for i in ids[:-1]]))
            ids = []
    assert not ids and not paragraphs
    assert documents == texts_of(corpus, split) and documents


def test_ids_are_those_of_fairseqs_own_bpe(corpus: Path, data: Path, dictionary: Dictionary) -> None:
    bpe = SentencepieceBPE(
        Namespace(
            sentencepiece_model=str(data / MODEL_NAME), sentencepiece_enable_sampling=False, sentencepiece_alpha=None
        )
    )
    expected: list[int] = []
    for text in texts_of(corpus, "valid"):
        for paragraph in text.split("\n"):
            line = bpe.encode(paragraph)
            expected += dictionary.encode_line(line, append_eos=True, add_if_not_exist=False).tolist()
        expected.append(EOS)
    assert torch.cat(items_of(data, "valid")).tolist() == expected
    assert dictionary.unk() not in expected


def test_bytes_do_not_depend_on_the_number_of_processes(
    corpus: Path, tokenizer: Path, data: Path, tmp_path: Path
) -> None:
    assert len(row_groups(corpus)) >= 3, "two processes need several parts to work on"
    binarize(corpus, tokenizer, tmp_path, FRACTION, workers=2, max_item_tokens=LONGEST)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (data / name).read_bytes(), name


def test_counts_are_those_of_the_files(corpus: Path, tokenizer: Path, data: Path) -> None:
    counts = binarize(corpus, tokenizer, data, FRACTION, workers=1, max_item_tokens=LONGEST)
    for split in SPLITS:
        items = items_of(data, split)
        assert counts[f"{split}_documents"] == sum(item.tolist() == [EOS] for item in items)
        assert counts[f"{split}_items"] == len(items)
        assert counts[f"{split}_tokens"] == sum(map(len, items))


def test_no_item_is_longer_than_asked(data: Path) -> None:
    lengths = [len(item) for item in items_of(data, "train")]
    assert max(lengths) == LONGEST


@pytest.mark.parametrize("mode", ["none", "complete", "complete_doc"])
def test_fairseqs_blocks_hold_the_whole_stream(data: Path, dictionary: Dictionary, mode: str) -> None:
    dataset = data_utils.load_indexed_dataset(str(data / "valid"), dictionary, None)
    blocks = TokenBlockDataset(
        dataset, dataset.sizes, LONGEST, pad=dictionary.pad(), eos=EOS, break_mode=mode, document_sep_len=1
    )
    items = [item.tolist() for item in items_of(data, "valid")]
    found = [blocks[i].tolist() for i in range(len(blocks))]
    assert max(map(len, found)) <= LONGEST
    if mode != "complete_doc":
        assert sum(found, []) == sum(items, [])
        return
    # Documents are kept apart: each is a number of whole blocks, without the </s> that stands between documents.
    documents: list[list[int]] = [[]]
    for item in items:
        if item == [EOS]:
            documents.append([])
        else:
            documents[-1] += item
    left = iter(found)
    for document in documents[:-1]:
        joined: list[int] = []
        while len(joined) < len(document):
            joined += next(left)
        assert joined == document
    assert next(left, None) is None


@given(st.lists(st.integers(0, 9), min_size=1, max_size=80), st.integers(4, 20))
def test_cut_paragraphs_keep_every_token(ids: list[int], longest: int) -> None:
    starts_word = np.arange(10) % 3 == 0
    items = list(paragraph_items(np.array(ids), starts_word, longest))
    assert np.concatenate(items).tolist() == ids
    assert all(len(item) <= longest for item in items)
    assert len(items) == 1 or min(map(len, items)) >= 2


def test_a_cut_is_made_before_a_word() -> None:
    starts_word = np.array([False, True])
    items = paragraph_items(np.array([1, 0, 0, 0, 0, 1, 0, 0, 0, 0]), starts_word, 8)
    assert [item.tolist() for item in items] == [[1, 0, 0, 0, 0], [1, 0, 0, 0, 0]]


def test_a_document_keeps_its_side_when_the_fraction_grows() -> None:
    hashes = [hashlib.sha256(b"%d" % n).hexdigest() for n in range(2000)]
    small = {h for h in hashes if split_of(h, 0.1) == "valid"}
    large = {h for h in hashes if split_of(h, 0.2) == "valid"}
    assert small < large
    assert 150 < len(small) < 250


def test_a_second_run_does_nothing(
    corpus: Path, tokenizer: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in data.iterdir()}
    argv = ["binarize", str(corpus), "--tokenizer", str(tokenizer), "--out", str(data)]
    assert main([*argv, "--valid-fraction", str(FRACTION), "--max-item-tokens", str(LONGEST)]) == 0
    assert {path.name: path.stat().st_mtime_ns for path in data.iterdir()} == before
    assert "already finished" in capsys.readouterr().out


def test_a_run_that_was_stopped_goes_on_from_its_parts(
    corpus: Path, tokenizer: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(data_prep.binarize, "_merge", stop)
        with pytest.raises(KeyboardInterrupt):
            binarize(corpus, tokenizer, tmp_path, FRACTION, workers=1, max_item_tokens=LONGEST)
    assert not (tmp_path / "train.bin").exists()
    monkeypatch.setattr(data_prep.binarize, "_encode_part", None)  # an error if anything is encoded again
    binarize(corpus, tokenizer, tmp_path, FRACTION, workers=1, max_item_tokens=LONGEST)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (data / name).read_bytes(), name
    assert not (tmp_path / ".parts").exists()


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--valid-fraction", "1.0", "--valid-fraction 1.0: must be at least 0 and below 1"),
        ("--valid-fraction", "1e-9", "--valid-fraction 1e-09: no document in valid; choose a larger one"),
        ("--workers", "0", "--workers 0: must be at least 1"),
        ("--max-item-tokens", "3", "--max-item-tokens 3: must be at least 4"),
        (
            "--tokenizer",
            "nowhere",
            "nowhere/sentencepiece.model: missing; make it with `python -m data_prep tokenizer`",
        ),
    ],
)
def test_wrong_use_ends_with_one_sentence(
    corpus: Path,
    tokenizer: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flag: str,
    value: str,
    message: str,
) -> None:
    argv = ["binarize", str(corpus), "--tokenizer", str(tokenizer), "--out", str(tmp_path / "data"), flag, value]
    assert main(argv) == 1
    assert f"data_prep binarize: error: {message}" in capsys.readouterr().err


def test_another_tokenizer_is_refused(corpus: Path, tokenizer: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataPrepError, match=r"other settings \(max_item_tokens changed"):
        binarize(corpus, tokenizer, data, FRACTION, workers=1, max_item_tokens=LONGEST + 1)
    folder = shutil.copytree(tokenizer, tmp_path / "other")
    (folder / "dict.txt").write_text("")
    with pytest.raises(DataPrepError, match=r"dict\.txt: does not list the pieces"):
        binarize(corpus, folder, tmp_path / "data", FRACTION, workers=1, max_item_tokens=LONGEST)
