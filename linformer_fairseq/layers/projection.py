"""E and F: how n keys and values become k (paper section 4 and equation 7).

Shapes: B batch, N tokens of this input (N <= n = max_positions), K projected length, H heads, C channels,
S = n/k tokens per pooled block.

All kinds take x (B, N, C) whose pad rows are zero, and return (B, K, C). A shorter input uses the first N
columns of E, which equals padding it with zeros up to n.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from .config import EncoderConfig
from .fused import project


def block_mean_matrix(k: int, n: int) -> Tensor:
    """The (k, n) matrix whose row i averages the i-th of k equal stretches of n positions.

    Where k does not divide n, a position on a border counts for both rows, by its overlap.
    """
    edges = torch.arange(k + 1, dtype=torch.float64) * (n / k)
    positions = torch.arange(n, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], positions + 1) - torch.maximum(edges[:-1, None], positions)
    return (overlap.clamp_(min=0) / (n / k)).to(torch.get_default_dtype())


class LearnedProjection(nn.Module):
    """Parameters of E or F, stored so that an Adam-like optimizer moves them `lr_scale` times as fast.

    The effective matrix is `weight * lr_scale`: Adam's steps do not depend on the size of the gradient, so a step
    of the learning rate on `weight` moves the matrix by lr_scale of it. This needs nothing from the optimizer and
    holds with flat fp16 parameters, sharding and fused kernels alike. Loading a checkpoint that was trained with
    another lr_scale, or with none, keeps the effective matrix.

    Args:
        matrix: initial effective values, of any shape.
        cfg: the encoder's configuration.
    """

    weight: Tensor
    lr_scale: Tensor

    def __init__(self, matrix: Tensor, cfg: EncoderConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(matrix / cfg.projection_lr_scale, requires_grad=not cfg.freeze_projection)
        self.register_buffer("lr_scale", torch.tensor(cfg.projection_lr_scale))

    def matrix(self) -> Tensor:
        """The effective values: what the paper calls E or F."""
        return self.weight * self.lr_scale

    @torch.no_grad()
    def set_matrix(self, matrix: Tensor) -> None:
        """Replaces the effective values by a tensor of the same shape."""
        self.weight.copy_(matrix / self.lr_scale)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        weight, saved = state_dict.get(prefix + "weight"), state_dict.get(prefix + "lr_scale", torch.ones(()))
        if weight is not None:
            if saved.item() != self.lr_scale.item():
                state_dict[prefix + "weight"] = weight * (saved / self.lr_scale.cpu()).to(weight)
            state_dict[prefix + "lr_scale"] = self.lr_scale.detach().clone()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class LinearProjection(LearnedProjection):
    """A learned (k, n) matrix for all heads, or with `per_head` one for each of H heads.

    `block-mean` starts at averages of n/k neighbours plus noise of a hundredth of their norm, which sets E and F
    apart; `normal` is the paper's N(0, 1/k) (section 4, from the Johnson-Lindenstrauss bound of theorem 2).
    """

    def __init__(self, cfg: EncoderConfig, k: int, per_head: bool) -> None:
        n = cfg.max_positions
        shape = (cfg.num_heads, k, n) if per_head else (k, n)
        if cfg.projection_init == "normal":
            matrix = torch.randn(shape) / math.sqrt(k)
        else:
            matrix = block_mean_matrix(k, n) + torch.randn(shape) * (0.01 / math.sqrt(n / k))
        super().__init__(matrix, cfg)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, N, C) -> (B, K, C); the pad rows of x must be zero."""
        batch, tokens, _ = x.shape
        if torch.compiler.is_exporting():  # a slice that is the whole would be another graph
            weight = self.weight.index_select(-1, torch.arange(tokens, device=x.device))
        else:
            weight = self.weight[..., :tokens]
        if weight.dim() == 2:
            return project(weight, x) * self.lr_scale
        x_BHND = x.view(batch, tokens, weight.size(0), -1).transpose(1, 2)
        out: Tensor = (weight @ x_BHND * self.lr_scale).transpose(1, 2).flatten(-2)
        return out


class ConvProjection(LearnedProjection):
    """A depthwise convolution with kernel = stride = n/k: each channel has its own S taps, starting at 1/S.

    The weight is (C, S), or (H, D, S) with `per_head`, when it acts on keys and values of H heads of D channels.
    """

    def __init__(self, cfg: EncoderConfig, k: int, per_head: bool) -> None:
        self.n = cfg.max_positions
        stride = self.n // k
        shape = (cfg.num_heads, cfg.head_dim, stride) if per_head else (cfg.embed_dim, stride)
        if cfg.projection_init == "normal":
            matrix = torch.randn(shape) / math.sqrt(stride)
        else:
            matrix = 1 / stride + torch.randn(shape) * (0.01 / math.sqrt(stride))
        super().__init__(matrix, cfg)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, N, C) -> (B, ceil(N/S), C); the pad rows of x must be zero."""
        taps_SC = self.weight.flatten(0, -2).t()
        blocks = _blocks(x, taps_SC.size(0), _full(self.n, keep))
        return (blocks * taps_SC).sum(2) * self.lr_scale


class PoolProjection(nn.Module):
    """Mean or maximum over blocks of S = n/k tokens, pads left out. Has no parameters."""

    def __init__(self, cfg: EncoderConfig, k: int) -> None:
        super().__init__()
        self.n = cfg.max_positions
        self.stride = self.n // k
        self.maximum = cfg.projection == "max-pool"

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, N, C) -> (B, ceil(N/S), C); the pad rows of x must be zero. keep: (B, N), True for a real token."""
        full = _full(self.n, keep)
        if keep is None:
            keep = x.new_ones(x.shape[:2], dtype=torch.bool)
        blocks = _blocks(x, self.stride, full)
        real = _blocks(keep.unsqueeze(-1), self.stride, full)
        if self.maximum:
            pooled = blocks.masked_fill(~real, -torch.inf).amax(2)
            return pooled.masked_fill(~real.any(2), 0)
        return blocks.sum(2) / real.sum(2).clamp_(min=1)


Projection = LinearProjection | ConvProjection | PoolProjection


def build_projection(cfg: EncoderConfig, k: int) -> Projection:
    """One E (or F) of the configured kind for projected length k."""
    if cfg.projection == "linear":
        return LinearProjection(cfg, k, per_head=cfg.one_per_head)
    if cfg.projection == "conv":
        return ConvProjection(cfg, k, per_head=cfg.one_per_head)
    return PoolProjection(cfg, k)


def slot_mask(cfg: EncoderConfig, k: int, keep: Tensor | None) -> Tensor | None:
    """Which projected slots hold anything: (B, 1, 1, ceil(N/S)), or None for all.

    Pooled slots that cover nothing but pads must not be attended to. A row of a learned matrix mixes all positions
    and is always kept, as in the paper.
    """
    if keep is None or cfg.projection == "linear":
        return None
    blocks = _blocks(keep.unsqueeze(-1), cfg.max_positions // k, _full(cfg.max_positions, keep))
    return blocks.any(2).transpose(1, 2).unsqueeze(1)


def _full(n: int, keep: Tensor | None) -> int | None:
    """n while torch.export makes one graph for all lengths: it cannot tell one block from several, nor a last block
    that is filled up from one that is not. `slot_mask` hides the blocks without a token, which takes a `keep`."""
    return n if keep is not None and torch.compiler.is_exporting() else None


def _blocks(x: Tensor, size: int, full: int | None) -> Tensor:
    """(B, N, C) -> (B, ceil(N/size), size, C), the last block filled up with zeros; with `full` (B, full/size, …)."""
    missing = -x.size(1) % size if full is None else full - x.size(1)
    if full is not None or missing:
        x = functional.pad(x, (0, 0, 0, missing))
    return x.reshape(x.size(0), -1, size, x.size(2))
