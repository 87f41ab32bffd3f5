"""One part of a corpus as arrays: its documents, encoded and cut into items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.encoders import Encoder
from data_prep.indexed import part_files, smallest_dtype
from data_prep.items import item_sizes, stream_of
from linformer_fairseq.io.files import replace_when_done

# Characters that are encoded at a time: bounds the memory that a book of any size takes.
BATCH_CHARACTERS = 1_000_000


@dataclass(frozen=True)
class Part:
    """Encoded documents.

    Attributes:
        tokens: (T,), of the type that fairseq chooses for the vocabulary.
        sizes: of the items, (I,), int32; an item of one token ends a document.
    """

    tokens: npt.NDArray[np.integer]
    sizes: npt.NDArray[np.int32]


def encode_part(texts: Iterable[str], encoder: Encoder, max_item_tokens: int) -> Part:
    """Encodes documents in their order.

    Args:
        texts: of the documents of one part, each paragraphs, one a line.
        encoder: of the tokenizer.
        max_item_tokens: longest item, its </s> counted.
    """
    documents = [text.split("\n") for text in texts]
    dtype = smallest_dtype(encoder.symbols)
    ids, lengths = _encode([line for paragraphs in documents for line in paragraphs], encoder, dtype)

    # An item of one token ends a document, so a paragraph without any (of characters that the tokenizer drops) and a
    # document without any must not leave a </s>.
    owner = np.repeat(np.arange(len(documents)), [len(paragraphs) for paragraphs in documents])
    paragraphs_left = np.bincount(owner[lengths > 0], minlength=len(documents)).astype(np.int64)
    stream, sizes = stream_of(ids, lengths[lengths > 0], paragraphs_left[paragraphs_left > 0], dtype)
    return Part(stream, item_sizes(stream, sizes, encoder.starts_word, max_item_tokens).astype(np.int32))


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
    """Writes the two files of a part."""
    for array, path in zip((part.tokens, part.sizes), part_files(prefix), strict=True):
        with replace_when_done(path) as partial:
            array.tofile(partial)
