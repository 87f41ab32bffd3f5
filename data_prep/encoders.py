"""From text to fairseq's ids and back, with any tokenizer that fairseq supports at fine-tuning time.

A tokenizer folder holds `dict.txt` and either `sentencepiece.model`, or GPT-2's `encoder.json` and `vocab.bpe`, or in
`huggingface/` the tokenizer of a converted model, or `palette.json` (see `palette.py`), whose texts are images. The ids
are those of fairseq's `--bpe sentencepiece` or `--bpe gpt2` followed by its dictionary, but without its detour through
strings: an array maps the ids of the model to those of fairseq.
"""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sentencepiece

from data_prep.fairseq_dict import DICTIONARY, FILLER, MASK, SPECIALS, UNK, read_dictionary
from linformer_fairseq.errors import UsageError

SENTENCEPIECE = "sentencepiece.model"
GPT2_VOCABULARY, GPT2_MERGES = "encoder.json", "vocab.bpe"
END_OF_TEXT = "<|endoftext|>"
PALETTE = "palette.json"
TOKENIZER_FILES = (DICTIONARY, SENTENCEPIECE, GPT2_VOCABULARY, GPT2_MERGES, PALETTE)  # of a folder; some are there
HUGGINGFACE = "huggingface"  # the folder, in a tokenizer folder, of a tokenizer that Hugging Face's libraries read
HUGGINGFACE_FAST = "tokenizer.json"
_OTHER_MODEL = "give the dictionary that was made with this model, or delete it and import the model alone"

SPACE_PIECE, SPACE_BYTE = "\u2581", "\u0120"  # how sentencepiece and GPT-2 write the space before a word
UNKNOWN = "\ufffd".encode()  # stands for text that a token does not give back
# GPT-2 writes each byte as a character: itself if that can be seen, else one of those that follow U+0100.
_SEEN = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(0x100) if byte not in _SEEN]
_GPT2_BYTES = {chr(byte): byte for byte in _SEEN} | {chr(0x100 + i): byte for i, byte in enumerate(_OTHERS)}

Ids = npt.NDArray[np.integer]
Lengths = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class Encoder(ABC):
    """Text to fairseq's ids and back."""

    files: tuple[str, ...]  # names of the tokenizer's files, to be copied beside the data
    names: Sequence[str]  # of the symbols of fairseq's dictionary, `<mask>` included, in the order of their ids
    symbols: int  # their number
    starts_word: Mask  # (symbols,): whether an id begins a word in the sense of `--mask-whole-words`
    special: Sequence[int] | None = None  # of a tokenizer of Hugging Face, its ids of <s>, <pad>, </s>, <unk>, <mask>

    def _set_symbols(
        self, model: Path, tokens: Mapping[int, str], produced: Sequence[str], begins: Callable[[str], bool]
    ) -> None:
        """Map the ids of a model to fairseq's, by the dict.txt beside it, where the ids have the names in `tokens`.

        `produced` are the names that encoding can produce; `begins` tells whether a token begins a word.
        """
        path = model.with_name(DICTIONARY)
        self.names = read_dictionary(path)
        self.symbols = len(self.names)
        self._index = {name: i for i, name in enumerate(self.names)}
        known = {*tokens.values(), *SPECIALS, MASK}
        own = self.names[len(SPECIALS) :]
        for number, name in enumerate(own, start=1):
            if name not in known and not name.startswith(FILLER):
                raise UsageError(f"{path}: line {number}, {name!r}, is no token of {model.name}; {_OTHER_MODEL}")
        for position, name in enumerate(produced):
            if name not in self._index:
                raise UsageError(f"{path}: has no {name!r}, token {position} of {model.name}; {_OTHER_MODEL}")
        self._to_fairseq: Ids = np.full(max(tokens) + 1, UNK, dtype=smallest_dtype(self.symbols))
        for i, name in tokens.items():
            self._to_fairseq[i] = self._index.get(name, UNK)
        # As fairseq's get_whole_word_mask: special symbols and fillers count as words.
        self.starts_word = np.array([True] * len(SPECIALS) + [n.startswith(FILLER) or begins(n) for n in own])

    @cached_property
    def surfaces(self) -> list[bytes]:
        """The text in UTF-8 of each id, (symbols,), with the space before a word; it may be part of a character."""
        own = [n == MASK or n.startswith(FILLER) for n in self.names]
        return [UNKNOWN if i <= UNK or own[i] else self._surface(name) for i, name in enumerate(self.names)]

    @abstractmethod
    def _surface(self, name: str) -> bytes: ...

    def _shown(self, ids: Sequence[int] | Ids) -> list[str]:
        return [self.names[i] for i in ids if i >= UNK]

    @abstractmethod
    def encode(self, texts: list[str]) -> tuple[Ids, Lengths]:
        """The ids of all texts, concatenated and without </s>, (T,), and the length of each, (texts,)."""

    @abstractmethod
    def decode(self, ids: Sequence[int] | Ids) -> str:
        """The text of ids; <s>, <pad> and </s> are left out, other symbols without text appear by name."""


def load(folder: Path) -> Encoder:
    """The encoder of a tokenizer folder; UsageError if a file is missing or broken, or dict.txt of another model."""
    if (folder / SENTENCEPIECE).is_file():
        return SentencePieceEncoder(folder)
    if (folder / HUGGINGFACE / HUGGINGFACE_FAST).is_file() or (folder / GPT2_VOCABULARY).is_file():
        return TokenizersEncoder(folder)
    if (folder / PALETTE).is_file():
        from data_prep.palette import PaletteEncoder

        return PaletteEncoder(folder)
    remedy = "make it with `python -m data_prep tokenizer`"
    if (folder / DICTIONARY).is_file() or any(folder.glob("*.idx")):
        remedy = f"copy the files of the tokenizer that made its {DICTIONARY} there, since no other fits"
    raise UsageError(f"{folder}: neither {SENTENCEPIECE} nor {GPT2_VOCABULARY} here; {remedy}")


def smallest_dtype(symbols: int) -> type:
    """The integer type that fairseq chooses for a vocabulary."""
    return np.uint16 if symbols < 65500 else np.uint32


class SentencePieceEncoder(Encoder):
    """Any sentencepiece model; its control pieces are fairseq's special symbols, which text never produces."""

    files = (SENTENCEPIECE, DICTIONARY)

    def __init__(self, folder: Path) -> None:
        path = folder / SENTENCEPIECE
        self._processor = load_model(path)
        tokens = {i: self._processor.id_to_piece(i) for i in range(len(self._processor))}
        self._set_symbols(path, tokens, pieces(self._processor, path), lambda name: name.startswith(SPACE_PIECE))
        self._unknown = self._processor.unk_id()
        self._to_fairseq[self._unknown] = UNK  # whatever its name

    def encode(self, texts: list[str]) -> tuple[Ids, Lengths]:
        encoded = self._processor.encode(texts, num_threads=1, return_type="numpy")
        ids, lengths = _concatenated(encoded)
        found = np.flatnonzero(ids == self._unknown)
        if not len(found):
            return self._to_fairseq[ids], lengths
        each = [self._to_fairseq[text_ids] for text_ids in encoded]
        # A run of characters that the model does not know is one piece for it; fairseq splits it at white space.
        for position in np.unique(np.searchsorted(np.cumsum(lengths), found, side="right")):
            words = " ".join(self._processor.encode(texts[position], return_type=str)).split()
            each[position] = np.array([self._index.get(word, UNK) for word in words], dtype=self._to_fairseq.dtype)
        return _concatenated(each)

    def _surface(self, name: str) -> bytes:
        return _piece_bytes(name)

    def decode(self, ids: Sequence[int] | Ids) -> str:
        runs: list[list[str]] = [[]]
        for name in self._shown(ids):
            if name == MASK:  # may be a control piece of the model, which has no text
                runs.append([])
            else:
                runs[-1].append(name)
        return MASK.join(self._processor.decode_pieces(run) for run in runs)


class TokenizersEncoder(Encoder):
    """A tokenizer of the Rust library `tokenizers`; the symbols of dict.txt are its ids, in any order.

    It is the byte-level BPE of GPT-2 and RoBERTa, or that of a converted model. The latter reads the names of special
    tokens in a text, such as [MASK], as these tokens.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / HUGGINGFACE
        files = [folder / GPT2_VOCABULARY, folder / GPT2_MERGES]
        if (path / HUGGINGFACE_FAST).is_file():
            files = [*sorted(path.rglob("*")), *files]
            self._tokenizer = load_huggingface(path / HUGGINGFACE_FAST)
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
            self.special = special_ids(path / HUGGINGFACE_FAST, self._tokenizer)
        else:
            path = folder / GPT2_VOCABULARY
            self._tokenizer = _load_gpt2(path, folder / GPT2_MERGES)
        self.files = (*(str(file.relative_to(folder)) for file in files if file.is_file()), DICTIONARY)
        vocabulary: dict[str, int] = self._tokenizer.get_vocab()
        self._tokens = {str(i): token for token, i in vocabulary.items()}
        self._inner = inner = getattr(self._tokenizer.model, "continuing_subword_prefix", None)  # of WordPiece
        self._never = {self._tokens[str(i)] for i in self.special or ()} or {END_OF_TEXT}  # what no text becomes

        def begins(name: str) -> bool:
            token = self._tokens.get(name, name)
            return not token.startswith(inner) if inner else token.startswith((SPACE_PIECE, SPACE_BYTE))

        produced = [str(i) for i in sorted(vocabulary.values()) if self._tokens[str(i)] not in self._never]
        self._set_symbols(path, {i: str(i) for i in vocabulary.values()}, produced, begins)
        self._texts = [self._tokens.get(name, name) for name in self.names]
        for ours, theirs in zip((*range(len(SPECIALS)), self.symbols - 1), self.special or (), strict=False):
            self._to_fairseq[theirs], self._texts[ours] = ours, self._tokens[str(theirs)]

    def encode(self, texts: list[str]) -> tuple[Ids, Lengths]:
        encoded = (self._tokenizer.encode(text, add_special_tokens=False).ids for text in texts)
        ids, lengths = _concatenated([np.array(text_ids, dtype=np.int64) for text_ids in encoded])
        return self._to_fairseq[ids], lengths

    def _surface(self, name: str) -> bytes:
        token = self._tokens.get(name, name)
        if self._inner:
            return token.removeprefix(self._inner).encode() if token.startswith(self._inner) else f" {token}".encode()
        if not self._byte_level:
            return _piece_bytes(token)
        return bytes(map(_GPT2_BYTES.__getitem__, token)) if token and _is_gpt2(token) else UNKNOWN

    @cached_property
    def _byte_level(self) -> bool:
        return all(map(_is_gpt2, {*self._tokens.values()} - self._never))

    def decode(self, ids: Sequence[int] | Ids) -> str:
        tokens = [self._texts[i] for i in ids if i >= UNK]
        decoder = self._tokenizer.decoder
        return str(decoder.decode(tokens)) if decoder else " ".join(tokens)


def _is_gpt2(token: str) -> bool:
    return _GPT2_BYTES.keys() >= set(token)


def _piece_bytes(piece: str) -> bytes:
    """The text of a piece of sentencepiece; pieces such as `<0x0A>` are bytes."""
    found = re.fullmatch("<0x([0-9A-F]{2})>", piece)
    return bytes.fromhex(found[1]) if found else piece.replace(SPACE_PIECE, " ").encode()


def _load_gpt2(path: Path, merges: Path) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # an optional dependency

    vocabulary = read_gpt2_vocabulary(path)
    try:
        lines = merges.read_text(encoding="utf-8").split("\n")[1:-1]
        pairs = [(left, right) for left, right in map(str.split, lines)]
        tokenizer = Tokenizer(models.BPE(vocabulary, pairs))
    except Exception as error:  # tokenizers raises nothing narrower
        raise UsageError(f"{merges}: does not match its {path.name} ({error}); download both again") from error
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def load_huggingface(path: Path) -> Any:
    """The `tokenizers.Tokenizer` of a tokenizer.json; UsageError if the file is not one."""
    from tokenizers import Tokenizer  # an optional dependency

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise UsageError(f"{path}: not a tokenizer of Hugging Face ({error}); download it again") from error


def special_ids(path: Path, tokenizer: Any) -> list[int]:
    """Ids in a Hugging Face tokenizer of what fairseq calls <s>, <pad>, </s>, <unk> and <mask>, in this order."""
    for names in ((*SPECIALS, MASK), ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")):
        found = [tokenizer.token_to_id(name) for name in names]
        missing = [name for name, i in zip(names, found, strict=True) if i is None]
        if not missing:
            return found
        if len(missing) < len(names) - 1:
            break
    raise UsageError(f"{path}: the tokenizer has no {', '.join(missing)}, which a masked language model needs")


def load_model(path: Path) -> sentencepiece.SentencePieceProcessor:
    """Load a sentencepiece model; UsageError if the file is not one."""
    try:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        for i in range(len(processor)):
            processor.id_to_piece(i)  # which is UTF-8, unless the file is damaged
        return processor
    except (OSError, RuntimeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a sentencepiece model; give the .model file of one") from error


def pieces(processor: sentencepiece.SentencePieceProcessor, path: Path) -> list[str]:
    """The pieces that encoding with a model can produce, in its order; UsageError if fairseq would misread one."""
    ids = [i for i in range(len(processor)) if not (processor.is_control(i) or processor.is_unknown(i))]
    for i in ids:
        piece = processor.id_to_piece(i)
        if piece in (*SPECIALS, MASK):
            raise UsageError(f"{path}: piece {i}, {piece!r}, is a special symbol of fairseq; train without it")
        if piece.split() != [piece]:
            raise UsageError(f"{path}: piece {i}, {piece!r}, has white space and fairseq splits it; train without it")
    return [processor.id_to_piece(i) for i in ids]


def read_gpt2_vocabulary(path: Path) -> dict[str, int]:
    """Token -> id of an encoder.json, in the order of the ids; UsageError if the file is not one."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON ({error}); download it again") from error
    if not isinstance(content, dict) or not content or not all(isinstance(i, int) for i in content.values()):
        raise UsageError(f"{path}: not a table from token to id; give GPT-2's {GPT2_VOCABULARY}")
    return dict(sorted(content.items(), key=lambda item: item[1]))


def _concatenated(arrays: Sequence[Ids]) -> tuple[Ids, Lengths]:
    """One array of all, and the length of each."""
    lengths = np.fromiter(map(len, arrays), dtype=np.int64, count=len(arrays))
    return np.concatenate(arrays) if len(arrays) else np.zeros(0, dtype=np.int64), lengths
