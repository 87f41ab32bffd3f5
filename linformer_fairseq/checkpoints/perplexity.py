"""How well a checkpoint fills masks in a few texts: enough to compare conversions, without a training run."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as functional
from torch import Tensor

from linformer_fairseq.checkpoints.checkpoint import EMBEDDING, Checkpoint, build, encoder_config
from linformer_fairseq.checkpoints.sample import sample_blocks

_BATCH = 8


def masked_texts(checkpoint: Checkpoint, data: Path, split: str, count: int = 64) -> tuple[Tensor, Tensor]:
    """Texts as long as the model reads, masked and as they are; each (count, n), fewer where the data has less.

    Raises:
        UsageError: no such data, or of another dictionary.
    """
    n, vocabulary = encoder_config(checkpoint).max_positions, checkpoint.state[EMBEDDING].size(0)
    masked, whole = (sample_blocks(data, n, count, vocabulary, split, share) for share in (0.15, 0.0))
    return masked, whole


@torch.inference_mode()
def perplexity(checkpoint: Checkpoint, masked: Tensor, whole: Tensor) -> float:
    """Of the masked tokens.

    Args:
        checkpoint: with a masked-LM head, reading at least N tokens.
        masked, whole: (B, N), as `masked_texts` gives them.
    """
    model = build(checkpoint)
    total, tokens = 0.0, 0
    for i in range(0, len(masked), _BATCH):
        ids, wanted = masked[i : i + _BATCH], whole[i : i + _BATCH]
        hidden = ids.ne(wanted)
        logits, _ = model(ids, masked_tokens=hidden)
        total += functional.cross_entropy(logits.float(), wanted[hidden], reduction="sum").item()
        tokens += int(hidden.sum())
    return math.exp(total / max(1, tokens))
