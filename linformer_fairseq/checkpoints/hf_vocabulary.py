"""The tokenizer of a Hugging Face RoBERTa as fairseq has it: encoder.json, vocab.bpe and dict.txt.

fairseq numbers <s> 0, <pad> 1, </s> 2, <unk> 3, then the lines of dict.txt, and its task masked_lm adds <mask> at the
end. That is the order of the published RoBERTas, but a tokenizer trained with the library `tokenizers` often has
<mask> at 4: `id_order` maps our ids to the rows of the Hugging Face tables.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer

from data_prep.encoders import GPT2_MERGES, GPT2_VOCABULARY
from data_prep.fairseq_dict import DICTIONARY, FILLER, MASK, SPECIALS
from linformer_fairseq.checkpoints.files import read_json
from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import write_text

FAST = "tokenizer.json"


def read_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer in a model's folder: tokenizer.json, or vocab.json and merges.txt; None if there is none."""
    try:
        if (folder / FAST).is_file():
            return Tokenizer.from_file(str(folder / FAST))
        if not (folder / "vocab.json").is_file():
            return None
        return AutoTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer
    except Exception as error:  # the libraries raise nothing narrower
        raise UsageError(f"{folder}: its tokenizer is in no known form ({type(error).__name__}: {error})") from error


def id_order(tokenizer: Tokenizer | None, size: int) -> list[int]:
    """The Hugging Face id of each of our `size` ids; without a tokenizer the same ids."""
    if tokenizer is None:
        return list(range(size))
    ids = tokenizer.get_vocab()
    if missing := [token for token in (*SPECIALS, MASK) if token not in ids]:
        raise UsageError(f"the tokenizer has no {', '.join(missing)}, which a masked language model of fairseq needs")
    if (last := max(ids.values())) >= size:
        raise UsageError(f"the tokenizer has id {last} and the model {size} embeddings; they do not belong together")
    first, mask = [ids[token] for token in SPECIALS], ids[MASK]
    return [*first, *(i for i in range(size) if i not in (*first, mask)), mask]


def tokenizer_files(folder: Path, out: Path, force: bool = False) -> None:
    """Write encoder.json, vocab.bpe and dict.txt, with which `--bpe gpt2` gives the ids of a converted model."""
    tokenizer = read_tokenizer(folder)
    parts = {} if tokenizer is None else json.loads(tokenizer.to_str())
    if tokenizer is None or parts["model"]["type"] != "BPE" or "ByteLevel" not in json.dumps(parts["pre_tokenizer"]):
        raise UsageError(f"{folder}: holds no byte-level BPE tokenizer (tokenizer.json, or vocab.json and merges.txt)")
    ids = tokenizer.get_vocab()
    order = id_order(tokenizer, int(read_json(folder / "config.json").get("vocab_size") or max(ids.values()) + 1))
    known = set(ids.values())
    encoder = {token: i for token, i in ids.items() if token not in (*SPECIALS, MASK)}
    # Rows without a token only fill the table up, as fairseq's own made-up words do.
    symbols = [str(i) if i in known else f"{FILLER}{i:05d}" for i in order[len(SPECIALS) : -1]]
    content = {
        GPT2_VOCABULARY: json.dumps(encoder, ensure_ascii=False),
        GPT2_MERGES: "\n".join(["#version: 0.2", *map(" ".join, parts["model"]["merges"]), ""]),
        DICTIONARY: "".join(f"{symbol} 1\n" for symbol in symbols),
    }
    if not force and (existing := [name for name in content if (out / name).exists()]):
        raise UsageError(f"{out / existing[0]} exists; choose another target, or replace it with --force")
    for name, text in content.items():
        write_text(out / name, text)
