"""GPT-2's byte-level BPE by the Rust library ``tokenizers``, token for token what fairseq's Python one gives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from linformer_fairseq.errors import UsageError

try:
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers
except ImportError as error:
    raise UsageError("GPT-2's BPE needs the package tokenizers; install it with `pip install tokenizers`") from error


class Gpt2Tokenizer:
    """Text to GPT-2's ids, and tokens to text."""

    def __init__(self, vocabulary: Mapping[str, int], merges: list[tuple[str, str]]) -> None:
        self._tokenizer = tokenizers.Tokenizer(models.BPE(dict(vocabulary), merges))
        self._tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._decoder = decoders.ByteLevel()

    def ids(self, text: str) -> list[int]:
        """GPT-2's ids of a text."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def text(self, tokens: list[str]) -> str:
        """The text of tokens; bytes that are no UTF-8 become replacement characters."""
        text: str = self._decoder.decode(tokens)
        return text


def build_tokenizer(vocabulary: Mapping[str, int], path: Path) -> Gpt2Tokenizer:
    """The tokenizer of a vocabulary and of the merges in the file ``path``.

    Raises:
        UsageError: the merges are missing, broken, or of another vocabulary.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[1:-1]
        return Gpt2Tokenizer(vocabulary, [(left, right) for left, right in map(str.split, lines)])
    except Exception as error:  # tokenizers raises nothing narrower
        raise UsageError(f"{path}: cannot be used with its encoder.json ({error}); download both again") from error
