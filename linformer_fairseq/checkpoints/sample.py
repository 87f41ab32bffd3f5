"""Blocks of binarised text, and how well a checkpoint fills masks in them: enough to compare conversions."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from fairseq.data import Dictionary
from torch import Tensor

from linformer_fairseq.checkpoints.checkpoint import PAD, Checkpoint, build, encoder_config
from linformer_fairseq.errors import UsageError
from linformer_fairseq.tasks.blocks import TokenFile


def sample_blocks(
    data: Path, length: int, count: int, vocabulary: int, split: str = "train", masked: float = 0.15, seed: int = 1
) -> Tensor:
    """Random stretches of binarised data, as masked-language-model training sees them: <s> first, some tokens masked.

    `vocabulary` is the number of rows of the model's embedding, of which the last is <mask>, and `masked` the share of
    tokens. Returns (count, length) ids: fewer blocks of little text, and a text shorter than a block is padded.
    UsageError for no such data, or of another dictionary.
    """
    path = data / "dict.txt"
    if not path.is_file():
        raise UsageError(f"{data}: has no dict.txt; give a folder of binarised text, such as fairseq-train takes")
    symbols = Dictionary.load(str(path))
    if len(symbols) + 1 != vocabulary:
        raise UsageError(f"{path}: has {len(symbols):,} symbols with the special ones, the model {vocabulary - 1:,}")
    if not (data / f"{split}.idx").is_file():
        raise UsageError(f"{data}: has no {split} data")
    file, rng = TokenFile(data / split), np.random.default_rng(seed)
    starts = np.array([file.starts(int(line), 1)[0] for line in rng.permutation(file.sentences)[:count]])
    sizes = np.minimum(length - 1, file.tokens - starts)
    blocks = np.full((len(starts), length), PAD)
    for block, text, size in zip(blocks, file.read(starts, sizes), sizes, strict=True):
        block[: 1 + size] = [symbols.bos(), *text[:size]]
    blocks[(rng.random(blocks.shape) < masked) & (blocks >= symbols.nspecial)] = vocabulary - 1
    return torch.from_numpy(blocks)


def sample_batches(data: Path, exact: Checkpoint, count: int) -> Sequence[Tensor]:
    """At least 8 and if possible `count` batches of 8 masked texts as long as the model reads."""
    config = encoder_config(exact)
    return torch.split(sample_blocks(data, config.max_positions, 8 * max(8, count), config.vocab_size), 8)


def compare(data: Path, models: Mapping[str, Checkpoint]) -> str:
    """The perplexity of each model in words, on texts as long as the first one reads: what a conversion costs."""
    split = "valid" if (data / "valid.idx").is_file() else "train"
    config = encoder_config(next(iter(models.values())))
    masked, whole = (sample_blocks(data, config.max_positions, 64, config.vocab_size, split, x) for x in (0.15, 0.0))
    shown = ", ".join(f"{name} {perplexity(model, masked, whole):.1f}" for name, model in models.items())
    return f"perplexity on {len(whole)} {split} texts of {data}: {shown}"


@torch.inference_mode()
def perplexity(checkpoint: Checkpoint, masked: Tensor, whole: Tensor) -> float:
    """Perplexity of the masked tokens; `masked` and `whole` (B, N) are the same texts with and without masks."""
    model = build(checkpoint)
    total, tokens = 0.0, 0
    for ids, wanted in zip(torch.split(masked, 8), torch.split(whole, 8), strict=True):
        hidden = ids.ne(wanted)
        logits, _ = model(ids, masked_tokens=hidden)
        total += functional.cross_entropy(logits.float(), wanted[hidden], reduction="sum").item()
        tokens += int(hidden.sum())
    return math.exp(total / max(1, tokens))
