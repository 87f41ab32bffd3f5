"""The masked-LM head of a model that comes without one; fairseq's model has it in any case."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def fresh_lm_head(embedding: Tensor, tied: bool = True) -> dict[str, Tensor]:
    """A head that has learnt nothing, the same in every run, by fairseq's names.

    Args:
        embedding: (V, C), of the model; its type becomes that of the head.
        tied: the output matrix is the embedding, and left out.
    """
    size, channels = embedding.shape
    random = torch.Generator().manual_seed(0)
    head = {"dense.weight": nn.init.normal_(torch.empty(channels, channels), std=0.02, generator=random)}
    head |= {"dense.bias": torch.zeros(channels), "bias": torch.zeros(size)}
    head |= {"layer_norm.weight": torch.ones(channels), "layer_norm.bias": torch.zeros(channels)}
    if not tied:
        head["weight"] = nn.init.normal_(torch.empty(size, channels), std=0.02, generator=random)
    return {f"encoder.lm_head.{name}": value.to(embedding.dtype) for name, value in head.items()}
