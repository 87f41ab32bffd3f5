"""The ids of a Hugging Face model and ours: which row of its tables is which of ours.

fairseq numbers <s> 0, <pad> 1, </s> 2, <unk> 3, then the lines of dict.txt, and its task masked_lm adds <mask> at the
end. That is the order of the published RoBERTas, but not of others: BERT has [PAD] at 0 and [CLS] at 101. Our ids are
theirs with these five moved, and to-hf moves them back. Five numbers say all: `special`, the Hugging Face ids of <s>,
<pad>, </s>, <unk> and <mask>, which BERT calls [CLS], [PAD], [SEP], [UNK] and [MASK].
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from data_prep.encoders import HUGGINGFACE_FAST, load_huggingface, special_ids
from data_prep.fairseq_dict import FILLER, PAD, SPECIALS
from linformer_fairseq.checkpoints.checkpoint import MAX_SPECIAL
from linformer_fairseq.checkpoints.files import read_json
from linformer_fairseq.checkpoints.names import EMBEDDING, LM_HEAD, OUTPUT, POSITIONS
from linformer_fairseq.errors import UsageError

# Any of them makes a tokenizer.
VOCABULARIES = (HUGGINGFACE_FAST, "vocab.txt", "vocab.json", "sentencepiece.bpe.model")


def read_tokenizer(folder: Path) -> Any:
    """The `tokenizers.Tokenizer` of a model's folder, made from older files if need be; None if there are none."""
    if (folder / HUGGINGFACE_FAST).is_file():
        return load_huggingface(folder / HUGGINGFACE_FAST)
    return load_auto(folder).backend_tokenizer if has_tokenizer(folder) else None


def has_tokenizer(folder: Path) -> bool:
    """Whether a model's folder holds a tokenizer."""
    return any((folder / name).is_file() for name in VOCABULARIES)


def load_auto(folder: Path) -> PreTrainedTokenizerFast:
    """Read a tokenizer without running code from its folder; UsageError if that fails, or it is not a fast one."""
    ours = read_json(folder / "config.json").get("model_type") == "linformer"  # which AutoTokenizer does not know
    try:
        kind = PreTrainedTokenizerFast if ours else AutoTokenizer
        tokenizer = kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the libraries raise nothing narrower
        raise UsageError(f"{folder}: its tokenizer cannot be read ({type(error).__name__}: {error})") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UsageError(f"{folder}: its tokenizer has no fast form; save it once with tokenizers' tokenizer.json")
    return tokenizer


def special_of(folder: Path, tokenizer: Any, size: int) -> list[int]:
    """The five ids of special symbols; UsageError if one is missing or the model has only `size` embeddings."""
    if (last := max(tokenizer.get_vocab().values())) >= size:
        found = f"the tokenizer has id {last} and the model {size} embeddings"
        raise UsageError(f"{folder}: {found}; they do not belong together")
    return special_ids(folder, tokenizer)


def id_order(special: Sequence[int], size: int) -> list[int]:
    """The Hugging Face id of each of our `size` ids."""
    first, mask = special[: len(SPECIALS)], special[-1]
    return [*first, *(i for i in range(size) if i not in (*first, mask)), mask]


def symbols_of(tokenizer: Any, special: Sequence[int], size: int) -> list[str]:
    """The lines of dict.txt: Hugging Face's ids. Rows without a token fill the table up, like fairseq's own fillers."""
    known = set(tokenizer.get_vocab().values())
    return [str(i) if i in known else f"{FILLER}{i:05d}" for i in id_order(special, size)[len(SPECIALS) : -1]]


def to_our_rows(state: Mapping[str, Tensor], special: Sequence[int], before: int) -> dict[str, Tensor]:
    """Parameters by our names and with our rows, from those with Hugging Face's.

    `before` is the number of rows in their position table before the first position; ours are zero.
    """
    order = torch.tensor(id_order(special, state[EMBEDDING].size(0)))
    return _moved(state, order, before, MAX_SPECIAL)


def to_their_rows(state: Mapping[str, Tensor], special: Sequence[int]) -> dict[str, Tensor]:
    """The inverse, for a model that numbers positions from the id of its <pad> + 1 on, as ours does."""
    order = torch.tensor(id_order(special, state[EMBEDDING].size(0))).argsort()
    return _moved(state, order, MAX_SPECIAL, special[PAD] + 1)


def _moved(state: Mapping[str, Tensor], order: Tensor, before: int, after: int) -> dict[str, Tensor]:
    """The same with the rows of `order`, and `after` rows instead of `before` in front of the positions."""
    rows = {key: state[key][order] for key in (EMBEDDING, OUTPUT, f"{LM_HEAD}bias") if key in state}
    learned = state[POSITIONS][before:]
    rows[POSITIONS] = torch.cat([learned.new_zeros(after, learned.size(1)), learned])
    return {**state, **rows}
