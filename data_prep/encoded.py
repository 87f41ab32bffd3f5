"""Encoded documents: the stream of tokens, its items, and fairseq's `.bin` and `.idx` files.

Every paragraph ends with </s>. Every document ends with one more </s>, alone in its item: `--sample-break-mode
complete_doc` recognises the end of a document by it. fairseq refuses items longer than `--tokens-per-sample`, so a
paragraph longer than `--max-item-tokens` is cut into several items, where a sentence ends if possible. Only the last
one ends with </s>: the stream is the same with and without cuts. The files are those of fairseq's own writer, which
takes one item at a time.
"""

import shutil
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.corpus import take
from data_prep.encoders import Encoder, Ids, Lengths, smallest_dtype
from data_prep.fairseq_dict import EOS
from data_prep.text.scripts import is_bound, sentence_ends
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import replace_when_done
from linformer_fairseq.io.shards import Done

# Characters that are encoded at a time: bounds the memory that a book of any size takes.
BATCH_CHARACTERS = 1_000_000
# Where a paragraph is cut: tokens that are looked at first, and those around them, for what they belong to.
NEAR, CONTEXT = 48, 16

_HEADER = struct.Struct("<9sQBQ")  # magic, version, code of the type, number of items
_MAGIC = b"MMIDIDX\x00\x00"
_DTYPE_CODES: dict[type, int] = {np.uint16: 8, np.uint32: 9}


@dataclass(frozen=True)
class EncodedDocuments:
    """The documents of one file of a corpus as arrays."""

    tokens: Ids  # (T,), in the type that fairseq chooses for the vocabulary
    sizes: npt.NDArray[np.int32]  # of the items, (I,); an item of one token ends a document

    def write(self, prefix: Path) -> None:
        """Write `prefix.tokens` and `prefix.sizes`."""
        for array, path in zip((self.tokens, self.sizes), with_suffixes(prefix, "tokens", "sizes"), strict=True):
            with replace_when_done(path) as partial:
                partial.write_bytes(array.data)  # NumPy's `tofile` says nothing of a full disk if the array is small


def encode_documents(texts: Iterable[str], encoder: Encoder, max_item_tokens: int) -> EncodedDocuments:
    """Encode texts, each paragraphs, one per line, into items of at most `max_item_tokens`, which is at least 4."""
    documents = [text.split("\n") for text in texts]
    lines = chain.from_iterable(documents)
    encoded = [encoder.encode(batch) for batch in iter(lambda: list(take(lines, BATCH_CHARACTERS)), [])]
    dtype = smallest_dtype(encoder.symbols)
    ids: Ids = np.concatenate([np.zeros(0, dtype), *(some for some, _ in encoded)], dtype=dtype, casting="unsafe")
    lengths = np.concatenate([np.zeros(0, np.int64), *(some for _, some in encoded)])
    # An item of one token ends a document. So neither a paragraph without tokens (of characters that the tokenizer
    # drops) nor a document without any may leave a </s>.
    owner = np.repeat(np.arange(len(documents)), [len(lines) for lines in documents])
    paragraphs = np.bincount(owner[lengths > 0], minlength=len(documents)).astype(np.int64)
    stream, sizes = join_paragraphs(ids, lengths[lengths > 0], paragraphs[paragraphs > 0])
    return EncodedDocuments(stream, item_sizes(stream, sizes, encoder, max_item_tokens).astype(np.int32))


def join_paragraphs(ids: Ids, lengths: Lengths, paragraphs: Lengths) -> tuple[Ids, Lengths]:
    """Append </s> to each paragraph and each document.

    From the ids, (T,), the tokens of each paragraph, (P,), and the paragraphs of each document, (D,), to the stream,
    (T + P + D,), and the lengths of its paragraphs and document ends, (P + D,).
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


def item_sizes(stream: Ids, sizes: Lengths, encoder: Encoder, max_item_tokens: int) -> Lengths:
    """Lengths of the items of a stream, (T,), from the tokens of each paragraph with its </s>; long ones are cut."""
    ends = np.cumsum(sizes)
    found: list[Lengths] = []
    done = 0
    for position in np.flatnonzero(sizes > max_item_tokens).tolist():
        paragraph = stream[ends[position] - sizes[position] : ends[position]]
        found += [sizes[done:position], cut(paragraph, encoder, max_item_tokens)]
        done = position + 1
    return np.concatenate([*found, sizes[done:]])


def cut(paragraph: Ids, encoder: Encoder, max_item_tokens: int) -> Lengths:
    """Lengths of the items of one paragraph, with its </s>: 2 to `max_item_tokens` tokens, as many as the text allows.

    In the second half of an item, the last end of a sentence is cut at, or else the last beginning of a word, or the
    last bound of a grapheme.
    """
    stops = [0]
    while len(paragraph) - stops[-1] > max_item_tokens:
        # At least two tokens are left after a cut: an item of one token would end a document.
        last = min(stops[-1] + max_item_tokens, len(paragraph) - 2)
        stops.append(_stop(paragraph, stops[-1] + max_item_tokens // 2, last, encoder))
    return np.diff([*stops, len(paragraph)])


def _stop(paragraph: Ids, first: int, last: int, encoder: Encoder) -> int:
    """The best place for a cut, from `first` to `last`."""
    # Mostly a sentence ends not far before `last`, so that few tokens need to be looked at.
    for start in sorted({first, max(first, last - NEAR)}, reverse=True):
        before = min(start, CONTEXT)
        tokens = paragraph[start - before : last + CONTEXT].tolist()
        parts = [encoder.surfaces[token] for token in tokens]
        begins = islice(accumulate(map(len, parts), initial=0), before, before + last + 1 - start)  # in bytes
        places = dict(zip(begins, range(start, last + 1), strict=True))
        whole = b"".join(parts)
        text = whole.decode(errors="surrogateescape")  # it may begin and end within a character
        for end in reversed(sentence_ends(text)):
            place = places.get(end if text.isascii() else len(text[:end].encode(errors="surrogateescape")))
            if place is not None and is_bound(text, end):
                return place
    at_word = encoder.starts_word[paragraph[first : last + 1]]
    for wanted in (at_word, ~at_word):
        for begin, place in reversed(places.items()):
            if wanted[place - first] and _begins_grapheme(whole, begin):
                return place
    return last


def _begins_grapheme(text: bytes, begin: int) -> bool:
    """Whether a grapheme begins at a byte of a text in UTF-8, which may begin and end within a character."""
    if text[begin] & 0xC0 == 0x80:  # within a character
        return False
    before = text[:begin].decode(errors="surrogateescape")
    return is_bound(before + text[begin:].decode(errors="surrogateescape"), len(before))


def with_suffixes(prefix: Path, *suffixes: str) -> list[Path]:
    """The paths `prefix.suffix`."""
    return [prefix.with_name(f"{prefix.name}.{suffix}") for suffix in suffixes]


def write_data(prefix: Path, parts: Sequence[Path], dtype: type) -> Done:
    """Write `prefix.bin` and `prefix.idx` from encoded documents, given by their prefixes, with tokens of `dtype`.

    The sizes of one file are in memory at a time.
    """
    files = [with_suffixes(part, "tokens", "sizes") for part in parts]
    items = sum(sizes.stat().st_size for _, sizes in files) // np.dtype(np.int32).itemsize
    data_path, index_path = with_suffixes(prefix, "bin", "idx")
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
    return Done({}, [data_path, index_path])


def read_data(prefix: Path) -> EncodedDocuments:
    """Read `prefix.bin`, memory-mapped, and `prefix.idx`."""
    data_path, index_path = with_suffixes(prefix, "bin", "idx")
    with index_path.open("rb") as index:
        magic, version, code, items = _HEADER.unpack(index.read(_HEADER.size).ljust(_HEADER.size))
        dtype = {code: dtype for dtype, code in _DTYPE_CODES.items()}.get(code)
        if magic != _MAGIC or version != 1 or dtype is None:
            raise UsageError(f"{index_path}: was not written by data_prep; make the data again with binarize")
        return EncodedDocuments(np.memmap(data_path, dtype, "r"), np.fromfile(index, np.int32, items))
