"""The projections E and F (paper section 4): x (B, N, C) along the sequence to (B, K, C).

They take x whose pad rows are zero, and keep (B, N), False for a pad, or None. Where blocks have a fixed place, a
shorter input uses the first N columns of E, which equals padding it with zeros up to n.

Shapes: B batch, N tokens of this input (at most n = max_positions), K projected length, H heads, D head dimension,
C = H·D channels, S = n/k tokens per pooled block.
"""

import math
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from .adaptive import lengths, pools, slot_means
from .config import EncoderConfig
from .fused import exporting, project


def block_mean_matrix(k: int, n: int) -> Tensor:
    """The (k, n) matrix whose row i averages the i-th of k equal stretches of n positions.

    Where k does not divide n, a position on a border counts for both rows, by its overlap.
    """
    edges = torch.arange(k + 1, dtype=torch.float64) * (n / k)
    positions = torch.arange(n, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], positions + 1) - torch.maximum(edges[:-1, None], positions)
    return (overlap.clamp_(min=0) / (n / k)).to(torch.get_default_dtype())


class LearnedProjection(nn.Module):
    """E or F as `weight * lr_scale`, from an initial `matrix` of any shape.

    The size of Adam's steps does not depend on that of the gradient, so a step moves E by lr_scale times the learning
    rate, and the optimizer need not know. A checkpoint with another lr_scale, or with none, keeps its E when loaded.
    """

    weight: Tensor
    lr_scale: Tensor
    converts_loaded = True  # transformers loads one tensor at a time, always of the same lr_scale, and turns this off

    def __init__(self, matrix: Tensor, cfg: EncoderConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(matrix / cfg.projection_lr_scale, requires_grad=not cfg.freeze_projection)
        self.register_buffer("lr_scale", torch.tensor(cfg.projection_lr_scale, dtype=torch.float32))
        self._lr_scale = cfg.projection_lr_scale

    def matrix(self) -> Tensor:
        """E or F of the paper."""
        return self.weight * self.lr_scale

    def _apply(self, *args: Any, **kwargs: Any) -> "LearnedProjection":
        """As nn.Module's, but lr_scale stays in float32: rounded to 16 bit, it would change E."""
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.lr_scale = torch.tensor(self._lr_scale, dtype=torch.float32, device=self.lr_scale.device)
        return self

    def to(self, *args: Any, **kwargs: Any) -> "LearnedProjection":
        """As nn.Module's; one that accelerate has offloaded stays, as its matrix is brought when it is called."""
        return self if self.weight.is_meta else super().to(*args, **kwargs)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        weight, saved = state_dict.get(prefix + "weight"), state_dict.get(prefix + "lr_scale", torch.ones(()))
        if weight is not None and self.converts_loaded:
            if saved.item() != self.lr_scale.item():
                state_dict[prefix + "weight"] = weight * (saved / self.lr_scale.cpu()).to(weight)
            state_dict[prefix + "lr_scale"] = self.lr_scale.detach().clone()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class LinearProjection(LearnedProjection):
    """A learned (k, n) matrix for all heads, or with sharing `none` one for each of H heads.

    `block-mean` starts at averages of n/k neighbours plus noise of a hundredth of their norm, which sets E and F
    apart; `normal` is the paper's N(0, 1/k) (section 4, from the Johnson-Lindenstrauss bound of theorem 2).
    """

    def __init__(self, cfg: EncoderConfig, k: int) -> None:
        n = cfg.max_positions
        shape = (cfg.num_heads, k, n) if cfg.one_per_head else (k, n)
        if cfg.projection_init == "normal":
            matrix = torch.randn(shape) / math.sqrt(k)
        else:
            matrix = block_mean_matrix(k, n) + torch.randn(shape) * (0.01 / math.sqrt(n / k))
        super().__init__(matrix, cfg)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, N, C) -> (B, K, C)"""
        if exporting():  # a slice that is the whole would be another graph
            weight = self.weight.index_select(-1, torch.arange(x.size(1), device=x.device))
        else:
            weight = self.weight[..., : x.size(1)]
        if weight.dim() == 2:
            return project(weight, x) * self.lr_scale
        x_BHND = x.view(x.size(0), x.size(1), weight.size(0), -1).transpose(1, 2)
        out: Tensor = (weight @ x_BHND * self.lr_scale).transpose(1, 2).flatten(-2)
        return out


class ConvProjection(LearnedProjection):
    """A depthwise convolution with kernel = stride = n/k: each channel has its own S taps, starting at 1/S.

    The weight is (C, S), or (H, D, S) with sharing `none`, when it acts on keys and values of H heads of D channels.
    """

    def __init__(self, cfg: EncoderConfig, k: int) -> None:
        self.n = cfg.max_positions
        stride = self.n // k
        shape = (cfg.num_heads, cfg.head_dim, stride) if cfg.one_per_head else (cfg.embed_dim, stride)
        if cfg.projection_init == "normal":
            matrix = torch.randn(shape) / math.sqrt(stride)
        else:
            matrix = 1 / stride + torch.randn(shape) * (0.01 / math.sqrt(stride))
        super().__init__(matrix, cfg)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, N, C) -> (B, ceil(N/S), C)"""
        taps_SC = self.weight.flatten(0, -2).t()
        return (_blocks(x, taps_SC.size(0), self.n, keep) * taps_SC).sum(2) * self.lr_scale


class AdaptiveProjection(LearnedProjection):
    """Weighted means of blocks that follow the length of the text (`adaptive.py`).

    The weight is (C,), or (H, D) with sharing `none`, when it acts on the keys and values of each head.
    """

    def __init__(self, cfg: EncoderConfig, k: int) -> None:
        super().__init__(torch.zeros((cfg.num_heads, cfg.head_dim) if cfg.one_per_head else (cfg.embed_dim,)), cfg)
        self.k, self.heads = k, cfg.num_heads if cfg.one_per_head else 1

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, N, C) -> (B, K, C); (B, N, C) for N <= k, where every token is a slot."""
        if not pools(x.size(1), self.k):
            return x
        weight_HD = self.matrix().view(self.heads, -1)
        return slot_means(x.view(*x.shape[:2], *weight_HD.shape), weight_HD, self.k, keep).flatten(2)


class PoolProjection(nn.Module):
    """Mean or maximum over blocks of S = n/k tokens, without the pads. Has no parameters."""

    def __init__(self, cfg: EncoderConfig, k: int) -> None:
        super().__init__()
        self.n, self.stride, self.maximum = cfg.max_positions, cfg.max_positions // k, cfg.projection == "max-pool"

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, N, C) -> (B, ceil(N/S), C)"""
        blocks = _blocks(x, self.stride, self.n, keep)
        real = x.new_ones(x.shape[:2], dtype=torch.bool) if keep is None else keep
        real = _blocks(real.unsqueeze(-1), self.stride, self.n, keep)
        if self.maximum:
            return blocks.masked_fill(~real, -torch.inf).amax(2).masked_fill(~real.any(2), 0)
        return blocks.sum(2) / real.sum(2).clamp_(min=1)


Projection = LinearProjection | ConvProjection | PoolProjection | AdaptiveProjection


def build_projection(cfg: EncoderConfig, k: int) -> Projection:
    """One E (or F) of the configured kind for projected length k."""
    kinds: dict[str, type[Projection]]
    kinds = {"linear": LinearProjection, "conv": ConvProjection, "adaptive": AdaptiveProjection}
    return kinds.get(cfg.projection, PoolProjection)(cfg, k)


def slot_mask(cfg: EncoderConfig, k: int, keep: Tensor | None) -> Tensor | None:
    """Which projected slots hold more than pads: (B, 1, 1, K), or None for all, as of a matrix, which mixes all."""
    if keep is None or cfg.projection == "linear":
        return None
    if cfg.projection == "adaptive":
        n = keep.size(1)
        filled = torch.arange(k, device=keep.device) < lengths(n, keep, keep.device) if pools(n, k) else keep
        return filled[:, None, None, :]
    blocks = _blocks(keep.unsqueeze(-1), cfg.max_positions // k, cfg.max_positions, keep)
    return blocks.any(2).transpose(1, 2).unsqueeze(1)


def _blocks(x: Tensor, size: int, n: int, keep: Tensor | None) -> Tensor:
    """(B, N, C) -> (B, ceil(N/size), size, C), the last block filled up with zeros.

    A graph exported for all lengths has (B, n/size, size, C), as it cannot count blocks; `slot_mask` hides empty ones.
    """
    whole = keep is not None and exporting()
    missing = n - x.size(1) if whole else -x.size(1) % size
    if whole or missing:
        x = functional.pad(x, (0, 0, 0, missing))
    return x.reshape(x.size(0), -1, size, x.size(2))
