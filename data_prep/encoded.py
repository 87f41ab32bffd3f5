"""Encoded documents: the stream of tokens, its items, and fairseq's `.bin` and `.idx` files.

Every paragraph ends with </s>. Every document ends with one more </s>, alone in its item: `--sample-break-mode
complete_doc` recognises the end of a document by it. fairseq refuses items longer than `--tokens-per-sample`, so a
paragraph longer than `--max-item-tokens` is cut before a word into several items. Only the last one ends with </s>:
the stream is the same with and without cuts.

fairseq's own writer takes one item at a time, and importing it takes longer than encoding ten megabytes. The files here
are written from whole arrays, and are byte for byte the same.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.encoders import Encoder, Ids, Lengths, Mask, smallest_dtype
from data_prep.fairseq_dict import EOS
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import replace_when_done

# Characters that are encoded at a time: bounds the memory that a book of any size takes.
BATCH_CHARACTERS = 1_000_000

_HEADER = struct.Struct("<9sQBQ")  # magic, version, code of the type, number of items
_MAGIC = b"MMIDIDX\x00\x00"
_DTYPE_CODES: dict[type, int] = {np.uint16: 8, np.uint32: 9}


@dataclass(frozen=True)
class EncodedDocuments:
    """The documents of one file of a corpus as arrays.

    Attributes:
        tokens: (T,), in the type that fairseq chooses for the vocabulary.
        sizes: of the items, (I,), int32; an item of one token ends a document.
    """

    tokens: Ids
    sizes: npt.NDArray[np.int32]

    def write(self, prefix: Path) -> None:
        """Write the two arrays to `array_files(prefix)`."""
        for array, path in zip((self.tokens, self.sizes), array_files(prefix), strict=True):
            with replace_when_done(path) as partial:
                array.tofile(partial)


def encode_documents(texts: Iterable[str], encoder: Encoder, max_item_tokens: int) -> EncodedDocuments:
    """Encode documents in their order.

    Args:
        texts: of the documents, each paragraphs, one per line.
        encoder: of the tokenizer.
        max_item_tokens: longest item with its </s>, at least 4.
    """
    documents = [text.split("\n") for text in texts]
    dtype = smallest_dtype(encoder.symbols)
    ids = [np.zeros(0, dtype=dtype)]
    lengths = [np.zeros(0, dtype=np.int64)]
    for batch in _batches([paragraph for paragraphs in documents for paragraph in paragraphs]):
        batch_ids, batch_lengths = encoder.encode(batch)
        ids.append(batch_ids.astype(dtype, copy=False))
        lengths.append(batch_lengths)
    length = np.concatenate(lengths)
    # An item of one token ends a document. So a paragraph without tokens (of characters that the tokenizer drops), and a
    # document without any, must not leave a </s>.
    document = np.repeat(np.arange(len(documents)), [len(paragraphs) for paragraphs in documents])
    paragraphs = np.bincount(document[length > 0], minlength=len(documents)).astype(np.int64)
    stream, sizes = join_paragraphs(np.concatenate(ids), length[length > 0], paragraphs[paragraphs > 0])
    return EncodedDocuments(stream, item_sizes(stream, sizes, encoder.starts_word, max_item_tokens).astype(np.int32))


def _batches(lines: list[str]) -> Iterator[list[str]]:
    begin = size = 0
    for position, line in enumerate(lines, start=1):
        size += len(line)
        if size >= BATCH_CHARACTERS or position == len(lines):
            yield lines[begin:position]
            begin, size = position, 0


def join_paragraphs(ids: Ids, lengths: Lengths, paragraphs: Lengths) -> tuple[Ids, Lengths]:
    """Append </s> to each paragraph and each document.

    Args:
        ids: of all paragraphs of all documents, without </s>; (T,).
        lengths: tokens of each paragraph; (P,).
        paragraphs: paragraphs of each document; (D,).

    Returns:
        The stream, (T + P + D,), and the lengths of its paragraphs and document ends, (P + D,).
    """
    ends = np.zeros(len(lengths) + len(paragraphs), dtype=np.bool_)
    ends[np.cumsum(paragraphs + 1) - 1] = True
    sizes = np.ones(len(ends), dtype=np.int64)
    sizes[~ends] += lengths
    stream = np.full(int(sizes.sum()), EOS, dtype=ids.dtype)
    text = np.ones(len(stream), dtype=np.bool_)
    text[np.cumsum(sizes) - 1] = False
    stream[text] = ids
    return stream, sizes


def item_sizes(stream: Ids, sizes: Lengths, starts_word: Mask, max_item_tokens: int) -> Lengths:
    """Lengths of the items of a stream, in which paragraphs that are too long are cut.

    Args:
        stream: fairseq's ids, (T,).
        sizes: tokens of each paragraph with its </s>; they add up to T.
        starts_word: for each id of the vocabulary, whether it begins a word.
        max_item_tokens: at least 4.
    """
    offsets = np.cumsum(sizes) - sizes
    found: list[Lengths] = []
    done = 0
    for position in np.flatnonzero(sizes > max_item_tokens).tolist():
        begin = offsets[position]
        paragraph = stream[begin : begin + sizes[position]]
        found += [sizes[done:position], cut(starts_word[paragraph], max_item_tokens)]
        done = position + 1
    return np.concatenate([*found, sizes[done:]])


def cut(at_word: Mask, max_item_tokens: int) -> Lengths:
    """Lengths of the items of one paragraph: 2 to `max_item_tokens` tokens, each as long as words allow.

    Args:
        at_word: for each token of the paragraph with its </s>, whether it begins a word.
        max_item_tokens: at least 4.
    """
    # At least two tokens are left after a cut: an item of one token would end a document.
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


def array_files(prefix: Path) -> tuple[Path, Path]:
    """The files of encoded documents: the tokens, in the type of the data, and the sizes of the items, in int32."""
    return prefix.with_name(f"{prefix.name}.tokens"), prefix.with_name(f"{prefix.name}.sizes")


def data_files(prefix: Path) -> tuple[Path, Path]:
    """fairseq's files: `prefix.bin` and `prefix.idx`."""
    return prefix.with_name(f"{prefix.name}.bin"), prefix.with_name(f"{prefix.name}.idx")


def write_data(prefix: Path, parts: Sequence[Path], dtype: type) -> None:
    """Write `data_files(prefix)` from encoded documents, with the sizes of one file in memory at a time.

    Args:
        prefix: of the files.
        parts: prefixes of encoded documents, in their order.
        dtype: of the tokens.
    """
    files = [array_files(part) for part in parts]
    items = sum(sizes.stat().st_size for _, sizes in files) // np.dtype(np.int32).itemsize
    data_path, index_path = data_files(prefix)
    with (
        # The index gets its name last: for fairseq its existence means that the data exist.
        replace_when_done(index_path) as partial_index,
        replace_when_done(data_path) as partial_data,
        partial_index.open("wb") as index,
        partial_data.open("wb") as data,
    ):
        index.write(_HEADER.pack(_MAGIC, 1, _DTYPE_CODES[dtype], items))
        for tokens, sizes in files:
            for source, target in ((tokens, data), (sizes, index)):
                with source.open("rb") as file:
                    shutil.copyfileobj(file, target, 1 << 22)
        address = 0
        for _, sizes in files:
            widths = np.fromfile(sizes, np.int32).astype(np.int64) * np.dtype(dtype).itemsize
            ends = np.cumsum(widths) + address
            index.write((ends - widths).data)
            address += int(widths.sum())


def read_data(prefix: Path) -> EncodedDocuments:
    """Read `data_files(prefix)`; the tokens are memory-mapped."""
    data_path, index_path = data_files(prefix)
    with index_path.open("rb") as index:
        magic, version, code, items = _HEADER.unpack(index.read(_HEADER.size))
        dtype = {code: dtype for dtype, code in _DTYPE_CODES.items()}.get(code)
        if magic != _MAGIC or version != 1 or dtype is None:
            raise UsageError(f"{index_path}: was not written by data_prep; make the data again with binarize")
        return EncodedDocuments(np.memmap(data_path, dtype, "r"), np.fromfile(index, np.int32, items))
