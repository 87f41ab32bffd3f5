"""One part of a corpus as arrays: its documents, sorted into the data sets that they belong to, encoded and cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.encoders import Encoder
from data_prep.indexed import Slice, smallest_dtype
from data_prep.items import item_sizes, stream_of
from data_prep.stage import replace_when_done

# Characters that are encoded at a time: bounds the memory that a book of any size takes.
BATCH_CHARACTERS = 1_000_000


@dataclass(frozen=True)
class Counts:
    """Documents, items and tokens (</s> counted) of one data set in one part."""

    documents: int
    items: int
    tokens: int


@dataclass(frozen=True)
class Part:
    """Encoded documents of all data sets, one set behind the other.

    Attributes:
        tokens: (T,), of the type that fairseq chooses for the vocabulary.
        sizes: of the items, (I,), int32.
        counts: of each data set.
    """

    tokens: npt.NDArray[np.integer]
    sizes: npt.NDArray[np.int32]
    counts: list[Counts]


def encode_part(documents: Iterable[tuple[str, int]], sets: int, encoder: Encoder, max_item_tokens: int) -> Part:
    """Encodes (text, number of its data set) pairs; within a set, documents keep their order.

    Args:
        documents: of one part; a text is paragraphs, one a line.
        sets: number of data sets.
        encoder: of the tokenizer.
        max_item_tokens: longest item, its </s> counted.
    """
    members: list[list[list[str]]] = [[] for _ in range(sets)]
    for text, number in documents:
        members[number].append(text.split("\n"))
    texts = [paragraphs for member in members for paragraphs in member]
    dtype = smallest_dtype(encoder.symbols)
    ids, lengths = _encode([line for paragraphs in texts for line in paragraphs], encoder, dtype)

    # An item of one token ends a document, so a paragraph without any (of characters that the tokenizer drops) and a
    # document without any must not leave a </s>.
    owner = np.repeat(np.arange(len(texts)), [len(paragraphs) for paragraphs in texts])
    paragraphs_left = np.bincount(owner[lengths > 0], minlength=len(texts)).astype(np.int64)
    some = paragraphs_left > 0
    stream, sizes, ends = stream_of(ids, lengths[lengths > 0], paragraphs_left[some], dtype)

    set_of = np.repeat(np.arange(sets), [len(member) for member in members])[some]
    documents_in = np.bincount(set_of, minlength=sets)
    document_ends = np.cumsum(sizes)[ends]
    items = item_sizes(stream, sizes, encoder.starts_word, max_item_tokens)
    item_ends = np.cumsum(items)
    counts, documents_before, items_before, tokens_before = [], 0, 0, 0
    for documents_of_set in documents_in.tolist():
        documents_before += documents_of_set
        tokens = int(document_ends[documents_before - 1]) if documents_before else 0
        position = int(np.searchsorted(item_ends, tokens, side="right"))
        counts.append(Counts(documents_of_set, position - items_before, tokens - tokens_before))
        items_before, tokens_before = position, tokens
    return Part(stream, items.astype(np.int32), counts)


def _encode(lines: list[str], encoder: Encoder, dtype: type) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.int64]]:
    ids: list[npt.NDArray[np.integer]] = [np.zeros(0, dtype=dtype)]
    lengths = [np.zeros(0, dtype=np.int64)]
    for batch in _batches(lines):
        some, of_each = encoder.encode(batch)
        ids.append(some.astype(dtype, copy=False))
        lengths.append(of_each)
    return np.concatenate(ids), np.concatenate(lengths)


def _batches(lines: list[str]) -> Iterator[list[str]]:
    begin = size = 0
    for position, line in enumerate(lines, start=1):
        size += len(line)
        if size >= BATCH_CHARACTERS or position == len(lines):
            yield lines[begin:position]
            begin, size = position, 0


def write_part(part: Part, prefix: Path) -> None:
    """Writes ``prefix.tokens`` and ``prefix.sizes``."""
    for array, suffix in ((part.tokens, "tokens"), (part.sizes, "sizes")):
        with replace_when_done(prefix.with_name(f"{prefix.name}.{suffix}")) as partial:
            array.tofile(partial)


def slices_of(prefix: Path, counts: Sequence[Counts]) -> list[Slice]:
    """Where each data set lies in the files of a part."""
    tokens, sizes = (prefix.with_name(f"{prefix.name}.{suffix}") for suffix in ("tokens", "sizes"))
    slices: list[Slice] = []
    first_token = first_item = 0
    for count in counts:
        slices.append(Slice(tokens, sizes, first_token, count.tokens, first_item, count.items))
        first_token += count.tokens
        first_item += count.items
    return slices
