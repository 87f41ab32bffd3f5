"""Encoded documents beside documents that are encoded one by one, and files beside those of fairseq's builder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder, best_fitting_int_dtype
from hypothesis import given
from hypothesis import strategies as st

from data_prep import encoded
from data_prep.encoded import (
    EncodedDocuments,
    cut,
    encode_documents,
    item_sizes,
    join_paragraphs,
    read_data,
    write_data,
)
from data_prep.encoders import Encoder, Ids, Lengths, smallest_dtype
from data_prep.fairseq_dict import EOS
from data_prep.text.scripts import graphemes
from linformer_fairseq.errors import UsageError

DOCUMENTS = st.lists(st.lists(st.lists(st.integers(4, 12), max_size=40), min_size=1, max_size=5), max_size=5)


def flat(documents: list[list[list[int]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, lengths of paragraphs, and paragraphs of each document."""
    paragraphs = [p for d in documents for p in d]
    ids = np.array([i for p in paragraphs for i in p], dtype=np.uint16)
    return ids, np.array([len(p) for p in paragraphs], dtype=np.int64), np.array([len(d) for d in documents], int)


@given(DOCUMENTS, st.integers(4, 20))
def test_items_are_the_paragraphs_and_document_ends_in_order(documents: list[list[list[int]]], longest: int) -> None:
    stream, sizes = join_paragraphs(*flat(documents))
    items = np.split(stream, np.cumsum(item_sizes(stream, sizes, Letters(), longest))[:-1]) if len(stream) else []
    expected: list[int] = []
    for document in documents:
        for paragraph in document:
            expected += [*paragraph, EOS]
        expected.append(EOS)
    assert stream.tolist() == expected and stream.dtype == np.uint16
    assert all(len(item) <= longest for item in items)
    # With no paragraph empty, the items of one token are the documents' ends and nothing else.
    if all(p for d in documents for p in d):
        assert sum(item.tolist() == [EOS] for item in items) == len(documents)
        assert all(len(item) >= 2 for item in items if item.tolist() != [EOS])


LONGEST = 8


class Letters(Encoder):
    """A tokenizer whose tokens are bytes; it knows nothing of '-', as some know nothing of a character."""

    symbols = 260
    files: tuple[str, ...] = ()
    names = [f"<{byte - 4}>" for byte in range(260)]
    starts_word = np.arange(260) == 4 + ord(" ")

    def encode(self, texts: list[str]) -> tuple[Ids, Lengths]:
        each = [[4 + byte for byte in text.replace("-", "").encode()] for text in texts]
        return np.array(sum(each, []), dtype=np.int64), np.array([len(ids) for ids in each], dtype=np.int64)

    def decode(self, ids: Sequence[int] | Ids) -> str:
        return bytes(i - 4 for i in ids).decode()

    def _surface(self, name: str) -> bytes:
        return bytes([int(name[1:-1])])


def cut_text(text: str, longest: int) -> list[str]:
    """The items of a paragraph, decoded, without </s>; fails if one is cut within a character."""
    ids = [*Letters().encode([text])[0].tolist(), EOS]
    ends = np.cumsum(cut(np.array(ids), Letters(), longest))
    return [Letters().decode([i for i in item.tolist() if i != EOS]) for item in np.split(ids, ends[:-1])]


@given(st.text("ab. éक्षि🇮🇹👩‍🚀。", max_size=200), st.integers(30, 60))
def test_a_cut_paragraph_keeps_every_token_and_every_grapheme(text: str, longest: int) -> None:
    sizes = cut(np.array([*Letters().encode([text])[0], EOS]), Letters(), longest)
    assert sizes.sum() == len(text.encode()) + 1 and sizes.max() <= longest
    assert len(sizes) == 1 or sizes.min() >= 2
    items = cut_text(text, longest)
    assert "".join(items) == text
    longest_grapheme = max((len(g.encode()) for g in graphemes(text)), default=0)
    if longest_grapheme < longest // 2:
        assert [g for item in items for g in graphemes(item)] == graphemes(text)


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("one two. three four", ["one two.", " three", " four"]),
        ("one two three", ["one two", " three"]),
        ("3.1415 yes 2.71828", ["3.1415 yes", " 2.71828"]),
        ("onetwothreefourfive", ["onetwothre", "efourfive"]),
        ("He said “a.” Then", ["He said", " “a.”", " Then"]),
        ("水流。水流", ["水流。", "水流"]),
        ("ማ።ማሪያ", ["ማ።", "ማሪያ"]),
        ("水流水流水流", ["水流水", "流水流"]),
        ("aaaaaee\u0301\u0301\u0301\u0301b", ["aaaaae", "e\u0301\u0301\u0301\u0301", "b"]),
    ],
)
def test_a_cut_is_made_where_a_sentence_ends_or_a_word_begins_and_never_in_a_character(
    text: str, items: list[str]
) -> None:
    assert cut_text(text, 10) == items


TEXT = st.lists(st.text("ab-", min_size=1, max_size=20), min_size=1, max_size=4).map("\n".join)


@given(st.lists(TEXT, max_size=8))
def test_documents_come_in_order_and_end_with_an_item_of_one_token(texts: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoded, "BATCH_CHARACTERS", 10)
        found = encode_documents(texts, Letters(), LONGEST)
    kept = [[line for line in text.replace("-", "").split("\n") if line] for text in texts]
    kept = [lines for lines in kept if lines]
    expected = [i for lines in kept for line in [*lines, ""] for i in [*(4 + ord(letter) for letter in line), EOS]]
    sizes = found.sizes.tolist()
    assert found.tokens.tolist() == expected and sum(sizes) == len(expected)
    assert sizes.count(1) == len(kept)  # fairseq's complete_doc relies on it
    assert all(size <= LONGEST for size in sizes)


def test_files_are_joined_to_the_same_tokens(tmp_path: Path) -> None:
    prefixes = [tmp_path / "0", tmp_path / "1"]
    for prefix, text in zip(prefixes, ("abcd\nef", "ghi"), strict=True):
        encode_documents([text], Letters(), LONGEST).write(prefix)
    write_data(tmp_path / "joined", prefixes, np.uint16)
    data = read_data(tmp_path / "joined")
    text = "".join("\n" if i == EOS else chr(i - 4) for i in data.tokens)
    assert data.sizes.tolist() == [5, 3, 1, 4, 1]
    assert text == "abcd\nef\n\nghi\n\n"


@pytest.mark.parametrize("symbols", [32_000, 65_499, 65_500, 250_002])
def test_type_is_the_one_that_fairseq_chooses(symbols: int) -> None:
    assert smallest_dtype(symbols) is best_fitting_int_dtype(symbols)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_bytes_are_those_of_fairseqs_builder(tmp_path: Path, dtype: type) -> None:
    random = np.random.default_rng(0)
    builder = MMapIndexedDatasetBuilder(tmp_path / "expected.bin", dtype)
    parts = [tmp_path / str(number) for number in range(3)]
    for part, count in zip(parts, (317, 0, 78), strict=True):
        sizes = random.integers(1, 50, count)
        tokens = random.integers(0, 60_000, sizes.sum())
        for item in np.split(tokens, np.cumsum(sizes)[:-1]) if count else []:
            builder.add_item(torch.from_numpy(item))
        EncodedDocuments(tokens.astype(dtype), sizes.astype(np.int32)).write(part)
    builder.finalize(tmp_path / "expected.idx")
    write_data(tmp_path / "found", parts, dtype)
    for suffix in ("bin", "idx"):
        assert (tmp_path / f"found.{suffix}").read_bytes() == (tmp_path / f"expected.{suffix}").read_bytes()


def test_an_index_of_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.bin").touch()
    (tmp_path / "train.idx").write_bytes(b"TNTIDX\x00\x00" + bytes(40))
    with pytest.raises(UsageError, match=r"train\.idx: was not written by data_prep"):
        read_data(tmp_path / "train")
