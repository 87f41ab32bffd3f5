"""From paragraphs of ids to the stream of tokens and to the items that fairseq's blocks are made of.

Every paragraph ends with </s>; every document ends with one more </s>, alone in its item, which is what
``--sample-break-mode complete_doc`` takes for a document's end. A paragraph longer than ``--max-item-tokens`` is cut
before a word into several items, of which only the last one has the </s>: fairseq's ``complete`` mode refuses items
longer than ``--tokens-per-sample``, and so the stream is the same with and without cuts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from data_prep.fairseq_dict import EOS

Ids = npt.NDArray[np.integer]
Sizes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def stream_of(ids: Ids, lengths: Sizes, paragraphs: Sizes, dtype: type) -> tuple[Ids, Sizes]:
    """Joins paragraphs and documents with their </s>.

    Args:
        ids: of all paragraphs of all documents, without </s>; (T,).
        lengths: tokens of each paragraph; (P,).
        paragraphs: paragraphs of each document; (D,).
        dtype: of the stream.

    Returns:
        The stream, (T + P + D,), and the length of each paragraph and document end in it, (P + D,).
    """
    total = len(lengths) + len(paragraphs)
    ends = np.zeros(total, dtype=np.bool_)
    ends[np.cumsum(paragraphs + 1) - 1] = True
    sizes = np.ones(total, dtype=np.int64)
    sizes[~ends] += lengths
    stream: Ids = np.full(int(sizes.sum()), EOS, dtype=dtype)
    text = np.ones(len(stream), dtype=np.bool_)
    text[np.cumsum(sizes) - 1] = False
    stream[text] = ids
    return stream, sizes


def item_sizes(stream: Ids, sizes: Sizes, starts_word: Mask, max_item_tokens: int) -> Sizes:
    """Lengths of the items of a stream after paragraphs that are too long have been cut.

    Args:
        stream: fairseq ids, (T,).
        sizes: tokens of each paragraph, its </s> counted; they add up to T.
        starts_word: for each id of the vocabulary, whether it begins a word.
        max_item_tokens: at least 4.
    """
    long = np.flatnonzero(sizes > max_item_tokens)
    if not len(long):
        return sizes
    offsets = np.cumsum(sizes) - sizes
    found: list[Sizes] = []
    done = 0
    for position in long.tolist():
        begin = offsets[position]
        paragraph = stream[begin : begin + sizes[position]]
        found += [sizes[done:position], cut(starts_word[paragraph], max_item_tokens)]
        done = position + 1
    return np.concatenate([*found, sizes[done:]])


def cut(at_word: Mask, max_item_tokens: int) -> Sizes:
    """Lengths of the items of one paragraph: 2 to ``max_item_tokens`` tokens, each as long as words allow.

    Args:
        at_word: for each token of the paragraph, its </s> counted, whether it begins a word.
        max_item_tokens: at least 4.
    """
    # The rest after a cut keeps two tokens or more: an item of one token means the end of a document.
    found = []
    begin: int = 0
    end: int = len(at_word)
    while end - begin > max_item_tokens:
        first, last = begin + max_item_tokens // 2, min(begin + max_item_tokens, end - 2)
        words = np.flatnonzero(at_word[first : last + 1])
        stop: int = first + words[-1].item() if len(words) else last
        found.append(stop - begin)
        begin = stop
    return np.array([*found, end - begin], dtype=np.int64)
