"""From text to fairseq's ids with any tokenizer that fairseq itself can use at fine-tuning time.

A tokenizer folder holds ``dict.txt`` beside either ``sentencepiece.model`` or GPT-2's ``encoder.json`` and
``vocab.bpe``. The ids are those of fairseq's ``--bpe sentencepiece`` or ``--bpe gpt2`` followed by its dictionary, made
without its detour through strings: a table leads from the model's ids to fairseq's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import sentencepiece

from data_prep import fairseq_dict
from data_prep.fairseq_dict import MASK, SPECIALS, UNK, SymbolTable
from data_prep.indexed import smallest_dtype
from linformer_fairseq.errors import UsageError

SENTENCEPIECE = "sentencepiece.model"
GPT2_VOCABULARY, GPT2_MERGES = "encoder.json", "vocab.bpe"
SPACE_PIECE, SPACE_BYTE = "\u2581", "\u0120"  # how the two models write the space before a word
END_OF_TEXT = "<|endoftext|>"

Ids = npt.NDArray[np.integer]
Lengths = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class Encoder(Protocol):
    """Text to fairseq's ids and back.

    Attributes:
        symbols: size of fairseq's dictionary, ``<mask>`` included.
        names: of its symbols, in the order of their ids.
        starts_word: for each fairseq id, whether it begins a word in the sense of ``--mask-whole-words``; (symbols,).
        files: names of the tokenizer's files, to be copied beside the data.
    """

    symbols: int
    names: Sequence[str]
    starts_word: Mask
    files: tuple[str, ...]

    def encode(self, texts: list[str]) -> tuple[Ids, Lengths]:
        """The ids of all texts, one behind the other and without </s>, (T,), and the length of each, (texts,)."""

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """The text of ids; <s>, <pad> and </s> are left out, other symbols without text appear by name."""

    def flags(self, folder: Path) -> list[str]:
        """What fairseq's commands need to encode text like this, the files being in ``folder``."""


def load(folder: Path) -> Encoder:
    """The encoder of a tokenizer folder.

    Raises:
        UsageError: a file is missing or broken, or dict.txt belongs to another model.
    """
    if (folder / SENTENCEPIECE).is_file():
        return SentencePieceEncoder(folder)
    if (folder / GPT2_VOCABULARY).is_file():
        return Gpt2Encoder(folder)
    raise UsageError(
        f"{folder}: neither {SENTENCEPIECE} nor {GPT2_VOCABULARY} here; make it with `python -m data_prep tokenizer`"
    )


class SentencePieceEncoder:
    """Any sentencepiece model; its control pieces are fairseq's special symbols, which text never produces."""

    files: tuple[str, ...] = (SENTENCEPIECE, fairseq_dict.NAME)

    def __init__(self, folder: Path) -> None:
        path = folder / SENTENCEPIECE
        self._processor = load_model(path)
        self._table = load_table(folder)
        size = len(self._processor)
        names = [self._processor.id_to_piece(i) for i in range(size)]
        produced = pieces(self._processor, path)
        self._table.check(folder / fairseq_dict.NAME, produced, names, path)
        self._to_fairseq: Ids = np.full(size, UNK, dtype=smallest_dtype(len(self._table.symbols)))
        for i, name in enumerate(names):
            if not self._processor.is_unknown(i):
                self._to_fairseq[i] = self._table.index.get(name, UNK)
        self._unknown = self._processor.unk_id()
        self.names = self._table.symbols
        self.symbols = len(self.names)
        self.starts_word = word_starts(self._table, lambda name: name.startswith(SPACE_PIECE))

    def encode(self, texts: list[str]) -> tuple[Ids, Lengths]:
        encoded = self._processor.encode(texts, num_threads=1, return_type="numpy")
        ids, lengths = joined(encoded)
        found = np.flatnonzero(ids == self._unknown)
        if not len(found):
            return self._to_fairseq[ids], lengths
        each = [self._to_fairseq[part] for part in encoded]
        for position in np.unique(np.searchsorted(np.cumsum(lengths), found, side="right")):
            each[position] = self._encode_by_name(texts[position])
        return joined(each)

    def _encode_by_name(self, text: str) -> Ids:
        # A stretch that the model does not know is one piece for it; fairseq splits it at white space.
        words = " ".join(self._processor.encode(text, return_type=str)).split()
        return np.array([self._table.index.get(word, UNK) for word in words], dtype=self._to_fairseq.dtype)

    def decode(self, ids: Sequence[int] | Ids) -> str:
        runs: list[list[str]] = [[]]
        for name in shown(self._table, ids):
            if name == MASK:  # may be a control piece of the model, which has no text
                runs.append([])
            else:
                runs[-1].append(name)
        return MASK.join(self._processor.decode_pieces(run) for run in runs)

    def flags(self, folder: Path) -> list[str]:
        return ["--bpe", "sentencepiece", "--sentencepiece-model", str(folder / SENTENCEPIECE)]


class Gpt2Encoder:
    """GPT-2's byte-level BPE, by the Rust library ``tokenizers``; RoBERTa's is the same with its own dict.txt."""

    files: tuple[str, ...] = (GPT2_VOCABULARY, GPT2_MERGES, fairseq_dict.NAME)

    def __init__(self, folder: Path) -> None:
        from data_prep.gpt2 import build_tokenizer  # only here is the library tokenizers needed

        path = folder / GPT2_VOCABULARY
        vocabulary = read_gpt2_vocabulary(path)
        self._tokenizer = build_tokenizer(vocabulary, folder / GPT2_MERGES)
        self._table = load_table(folder)
        produced = [str(i) for token, i in sorted(vocabulary.items(), key=lambda item: item[1]) if token != END_OF_TEXT]
        self._table.check(folder / fairseq_dict.NAME, produced, map(str, vocabulary.values()), path)
        size = max(vocabulary.values()) + 1
        self._to_fairseq: Ids = np.full(size, UNK, dtype=smallest_dtype(len(self._table.symbols)))
        for i in vocabulary.values():
            self._to_fairseq[i] = self._table.index.get(str(i), UNK)
        self._tokens = {str(i): token for token, i in vocabulary.items()}
        self.names = self._table.symbols
        self.symbols = len(self.names)
        self.starts_word = word_starts(self._table, lambda name: self._tokens.get(name, "").startswith(SPACE_BYTE))

    def encode(self, texts: list[str]) -> tuple[Ids, Lengths]:
        ids, lengths = joined([np.array(self._tokenizer.ids(text), dtype=np.int64) for text in texts])
        return self._to_fairseq[ids], lengths

    def decode(self, ids: Sequence[int] | Ids) -> str:
        return self._tokenizer.text([self._tokens.get(name, name) for name in shown(self._table, ids)])

    def flags(self, folder: Path) -> list[str]:
        vocabulary, merges = str(folder / GPT2_VOCABULARY), str(folder / GPT2_MERGES)
        return ["--bpe", "gpt2", "--gpt2-encoder-json", vocabulary, "--gpt2-vocab-bpe", merges]


def load_model(path: Path) -> sentencepiece.SentencePieceProcessor:
    """Loads a sentencepiece model.

    Raises:
        UsageError: not such a file.
    """
    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise UsageError(f"{path}: not a sentencepiece model; give the .model file of one") from error


def pieces(processor: sentencepiece.SentencePieceProcessor, path: Path) -> list[str]:
    """The pieces that encoding can produce, in the model's order.

    Raises:
        UsageError: a piece that fairseq would read as something else.
    """
    found = []
    for i in range(len(processor)):
        piece: str = processor.id_to_piece(i)
        if processor.is_control(i) or processor.is_unknown(i):
            continue
        if piece in SPECIALS or piece == MASK:
            raise UsageError(f"{path}: piece {i}, {piece!r}, is a special symbol of fairseq's; {_RETRAIN}")
        if piece.split() != [piece]:
            raise UsageError(f"{path}: piece {i}, {piece!r}, has white space and fairseq splits it; {_RETRAIN}")
        found.append(piece)
    return found


_RETRAIN = "train the model without it"


def read_gpt2_vocabulary(path: Path) -> dict[str, int]:
    """Token -> id of an encoder.json.

    Raises:
        UsageError: not such a file.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path}: not JSON ({error}); download it again") from error
    if not isinstance(content, dict) or not content or not all(isinstance(i, int) for i in content.values()):
        raise UsageError(f"{path}: not a table from token to id; give GPT-2's {GPT2_VOCABULARY}")
    return content


def load_table(folder: Path) -> SymbolTable:
    """fairseq's dictionary of a tokenizer folder."""
    path = folder / fairseq_dict.NAME
    if not path.is_file():
        raise UsageError(f"{path}: missing; make it with `python -m data_prep tokenizer --import {folder}`")
    return SymbolTable.load(path)


def word_starts(table: SymbolTable, begins: Callable[[str], bool]) -> Mask:
    """Mask over fairseq ids, as fairseq's ``get_whole_word_mask``: special and made-up symbols count as words."""
    first = len(SPECIALS)
    names = table.symbols[first:]
    return np.array([True] * first + [name.startswith(fairseq_dict.MADE_UP) or begins(name) for name in names])


def joined(parts: Sequence[Ids]) -> tuple[Ids, Lengths]:
    """One array of all parts, and the length of each."""
    lengths = np.fromiter(map(len, parts), dtype=np.int64, count=len(parts))
    return np.concatenate(parts) if len(parts) else np.zeros(0, dtype=np.int64), lengths


def shown(table: SymbolTable, ids: Sequence[int] | Ids) -> list[str]:
    """Names of the symbols that decoding shows."""
    return [table.symbols[i] for i in ids if i >= UNK]
