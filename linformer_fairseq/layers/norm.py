"""Layer norm: NVIDIA apex's fused one where it is installed and there is a GPU, PyTorch's otherwise."""

from __future__ import annotations

import torch
from torch import nn

try:  # PyPI's `apex` is another project without this module
    from apex.normalization import FusedLayerNorm
except ImportError:
    FusedLayerNorm = None


def layer_norm(dim: int) -> nn.Module:
    """A layer norm over the last `dim` channels, with RoBERTa's parameter names in either case."""
    if FusedLayerNorm is not None and torch.cuda.is_available():
        norm: nn.Module = FusedLayerNorm(dim)
        return norm
    return nn.LayerNorm(dim)
