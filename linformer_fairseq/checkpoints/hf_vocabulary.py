"""The tokenizer of a Hugging Face RoBERTa as fairseq has it: encoder.json, vocab.bpe and dict.txt.

fairseq numbers <s> 0, <pad> 1, </s> 2, <unk> 3, then the lines of dict.txt, and its task masked_lm adds <mask> at the
end. That is the order of the published RoBERTas, but a tokenizer trained with the library `tokenizers` often has
<mask> at 4: `id_order` maps our ids to the rows of the Hugging Face tables.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.encoders import GPT2_MERGES, GPT2_VOCABULARY
from data_prep.fairseq_dict import DICTIONARY, FILLER, MASK, SPECIALS
from linformer_fairseq.checkpoints.files import read_json
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import write_text


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer's tokens."""

    ids: dict[str, int]  # of all tokens, special ones included
    merges: list[str] | None  # of byte-level BPE, each "left right", most frequent first; None for other tokenizers


def read_vocabulary(folder: Path) -> Vocabulary | None:
    """The tokenizer in a model's folder: tokenizer.json, or vocab.json and merges.txt; None if there is none."""
    fast, slow, merges = folder / "tokenizer.json", folder / "vocab.json", folder / "merges.txt"
    try:
        if fast.is_file():
            return _fast(read_json(fast))
        if not (slow.is_file() and merges.is_file()):
            return None
        added = folder / "added_tokens.json"
        ids = read_json(slow) | (read_json(added) if added.is_file() else {})
        lines = merges.read_text(encoding="utf-8").split("\n")
        return Vocabulary(ids, [line for line in lines if line and not line.startswith("#version")])
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{folder}: its tokenizer is in no known form ({type(error).__name__}: {error})") from error


def _fast(content: dict[str, Any]) -> Vocabulary:
    model = content["model"]
    given = model["vocab"]
    ids = dict(given) if isinstance(given, dict) else {token: i for i, (token, _) in enumerate(given)}
    ids |= {token["content"]: token["id"] for token in content.get("added_tokens") or []}
    if model.get("type") != "BPE" or "ByteLevel" not in json.dumps(content.get("pre_tokenizer")):
        return Vocabulary(ids, None)
    return Vocabulary(ids, [m if isinstance(m, str) else " ".join(m) for m in model["merges"]])


def id_order(vocabulary: Vocabulary | None, size: int) -> list[int]:
    """The Hugging Face id of each of our `size` ids; without a vocabulary the same ids."""
    if vocabulary is None:
        return list(range(size))
    missing = [token for token in (*SPECIALS, MASK) if token not in vocabulary.ids]
    if missing:
        raise UsageError(f"the tokenizer has no {', '.join(missing)}, which a masked language model of fairseq needs")
    if (last := max(vocabulary.ids.values())) >= size:
        raise UsageError(f"the tokenizer has id {last} and the model {size} embeddings; they do not belong together")
    first, mask = [vocabulary.ids[token] for token in SPECIALS], vocabulary.ids[MASK]
    return [*first, *(i for i in range(size) if i not in (*first, mask)), mask]


def tokenizer_files(folder: Path, out: Path, force: bool = False) -> None:
    """Write encoder.json, vocab.bpe and dict.txt, with which `--bpe gpt2` gives the ids of a converted model."""
    vocabulary = read_vocabulary(folder)
    if vocabulary is None or vocabulary.merges is None:
        raise UsageError(f"{folder}: holds no byte-level BPE tokenizer (tokenizer.json, or vocab.json and merges.txt)")
    size = int(read_json(folder / "config.json").get("vocab_size") or max(vocabulary.ids.values()) + 1)
    order = id_order(vocabulary, size)
    known = set(vocabulary.ids.values())
    encoder = {token: i for token, i in vocabulary.ids.items() if token not in (*SPECIALS, MASK)}
    # Rows without a token only fill the table up, as fairseq's own made-up words do.
    symbols = [str(i) if i in known else f"{FILLER}{i:05d}" for i in order[len(SPECIALS) : -1]]
    content = {
        GPT2_VOCABULARY: json.dumps(encoder, ensure_ascii=False),
        GPT2_MERGES: "\n".join(["#version: 0.2", *vocabulary.merges, ""]),
        DICTIONARY: "".join(f"{symbol} 1\n" for symbol in symbols),
    }
    if not force and (existing := [name for name in content if (out / name).exists()]):
        raise UsageError(f"{out / existing[0]} exists; choose another target, or replace it with --force")
    for name, text in content.items():
        write_text(out / name, text)
