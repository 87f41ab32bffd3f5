"""Which tokens a masked-LM head predicts, as the indices that the encoder, the head and the loss need."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Picked(NamedTuple):
    """T of B x N tokens, at most M of a sample, in the order of the batch.

    Attributes:
        places: (B, M), in their sample; samples with fewer than M have any other place at the end.
        slots: (T,), in the flattened B x M.
        tokens: (T,), in the flattened B x N.
    """

    places: Tensor
    slots: Tensor
    tokens: Tensor


def pick(masked: Tensor) -> Picked:
    """From (B, N), True for a token that is picked. On a GPU this waits for the device once, for T and M."""
    counts = masked.sum(1)
    on_host = counts.tolist()
    most, total = max(1, *on_host), sum(on_host)
    within = torch.arange(most, device=masked.device) < counts.unsqueeze(1)
    return Picked(
        _true_first(masked)[:, :most], _true_first(within.flatten())[:total], _true_first(masked.flatten())[:total]
    )


def _true_first(mask: Tensor) -> Tensor:
    """Indices of the last dimension: those of True, then those of False, each in order."""
    return torch.argsort(mask.to(torch.uint8), dim=-1, descending=True, stable=True)
