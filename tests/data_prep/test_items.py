"""Streams and items, made in whole arrays, beside the obvious way: one paragraph after the other."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_prep.fairseq_dict import EOS
from data_prep.items import cut, item_sizes, stream_of

DOCUMENTS = st.lists(st.lists(st.lists(st.integers(4, 12), max_size=40), min_size=1, max_size=5), max_size=5)
STARTS_WORD = np.arange(13) % 3 == 0


def flat(documents: list[list[list[int]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, lengths of paragraphs, and paragraphs of each document."""
    paragraphs = [p for d in documents for p in d]
    ids = np.array([i for p in paragraphs for i in p], dtype=np.int64)
    return ids, np.array([len(p) for p in paragraphs], dtype=np.int64), np.array([len(d) for d in documents], int)


@given(DOCUMENTS, st.integers(4, 20))
def test_items_are_the_paragraphs_and_document_ends_in_order(documents: list[list[list[int]]], longest: int) -> None:
    stream, sizes = stream_of(*flat(documents), np.uint16)
    items = np.split(stream, np.cumsum(item_sizes(stream, sizes, STARTS_WORD, longest))[:-1]) if len(stream) else []
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


@given(st.lists(st.booleans(), min_size=1, max_size=80), st.integers(4, 20))
def test_a_cut_paragraph_keeps_every_token(at_word: list[bool], longest: int) -> None:
    sizes = cut(np.array(at_word), longest)
    assert sizes.sum() == len(at_word) and sizes.max() <= longest
    assert len(sizes) == 1 or sizes.min() >= 2
    for begin in np.cumsum(sizes)[:-1]:
        window = at_word[begin - longest // 2 : begin]
        assert at_word[begin] or not any(window[1:]) or begin in np.cumsum(sizes)


def test_a_cut_is_made_before_a_word() -> None:
    assert cut(np.array([1, 0, 0, 0, 0, 1, 0, 0, 0, 0], dtype=bool), 8).tolist() == [5, 5]


def test_a_word_longer_than_an_item_is_cut_where_the_item_is_full() -> None:
    assert cut(np.zeros(20, dtype=bool), 8).tolist() == [8, 8, 4]
    assert cut(np.zeros(9, dtype=bool), 8).tolist() == [7, 2]
