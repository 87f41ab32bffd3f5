"""Self-attention over k projected keys and values (paper equation 7), and the projections E and F (section 4):

    head_i = softmax( Q W_i^Q (E_i K W_i^K)^T / sqrt(d_k) ) F_i V W_i^V

Shapes: B batch, N tokens of this input (at most n = max_positions), M tokens to attend from, K projected length,
H heads, D head dimension, C = H·D channels, S = n/k tokens per pooled block.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from .config import EncoderConfig
from .fused import attend, project


class SelfAttention(nn.Module):
    """Exact multi-head softmax attention: the control for Linformer, and its base class."""

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.q_proj = nn.Linear(cfg.embed_dim, cfg.embed_dim)
        self.k_proj = nn.Linear(cfg.embed_dim, cfg.embed_dim)
        self.v_proj = nn.Linear(cfg.embed_dim, cfg.embed_dim)
        self.out_proj = nn.Linear(cfg.embed_dim, cfg.embed_dim)
        self.local_conv = LocalConv(cfg) if cfg.local_conv else None

    def forward(
        self, x: Tensor, keep: Tensor | None = None, shared: Projection | None = None, needed: Tensor | None = None
    ) -> Tensor:
        """Attends to all real tokens.

        Args:
            x: (B, N, C).
            keep: (B, N), False for a pad; None if there are no pads. The output at real tokens depends neither on the
                content of the pads nor on their number.
            shared: the encoder's one projection, with layerwise sharing.
            needed: (B, M), positions of the tokens to attend from; None for all.

        Returns:
            (B, N, C), or (B, M, C). Rows of pads are meaningless.
        """
        x_real = x if keep is None else x * keep.unsqueeze(-1)
        # The values of all tokens, without bias so that pads stay zero; only the convolution needs them.
        values = functional.linear(x_real, self.v_proj.weight) if self.local_conv else None
        k_BKC, v_BKC, mask = self.keys_values(x_real, values, keep, shared)
        dropout = self.cfg.attention_dropout if self.training else 0.0
        q_BMC = self.q_proj(at(x, needed))
        attended = attend(self._heads(q_BMC), self._heads(k_BKC), self._heads(v_BKC), mask, dropout)
        out = attended.transpose(1, 2).flatten(-2)
        if self.local_conv is not None and values is not None:
            out = out + at(self.local_conv(values), needed)
        result: Tensor = self.out_proj(out)
        return result

    def keys_values(
        self, x: Tensor, values: Tensor | None, keep: Tensor | None, shared: Projection | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys (B, K, C), values (B, K, C), and which of them may be attended to (B, 1, 1, K). Here K = N."""
        v = self.v_proj(x) if values is None else values + self.v_proj.bias
        return self.k_proj(x), v, None if keep is None else keep[:, None, None, :]

    def _heads(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, H, N, D)"""
        return x.view(x.size(0), x.size(1), self.cfg.num_heads, -1).transpose(1, 2)


class LinformerSelfAttention(SelfAttention):
    """Attention to K projected keys and values: O(N·K) instead of O(N²).

    Compresses first, then multiplies by W: (E x) W_k + b costs K·C² where E (x W_k) + b costs N·C². With sharing
    `none`, where every head has its own E, the second order is cheaper. Both give the same result, because the bias is
    added last.

    """

    def __init__(self, cfg: EncoderConfig, k: int) -> None:
        super().__init__(cfg)
        self.k = k
        self.per_head = cfg.one_per_head
        self.E = None if cfg.one_for_all_layers else build_projection(cfg, k)
        self.F = build_projection(cfg, k) if cfg.separate_e_and_f else None

    def keys_values(
        self, x: Tensor, values: Tensor | None, keep: Tensor | None, shared: Projection | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        e = self.E if shared is None else shared
        if e is None:
            raise ValueError("this layer shares E across layers and needs it as an argument")
        f = e if self.F is None else self.F
        mask = slot_mask(self.cfg, self.k, keep)
        if self.per_head:
            if values is None:
                values = functional.linear(x, self.v_proj.weight)
            keys = functional.linear(x, self.k_proj.weight)
            return e(keys, keep) + self.k_proj.bias, f(values, keep) + self.v_proj.bias, mask
        compressed = e(x, keep)
        return self.k_proj(compressed), self.v_proj(compressed if f is e else f(x, keep)), mask


class NoAttention(nn.Module):
    """The control without attention: values, the local convolution if there is one, and the output projection."""

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.v_proj = nn.Linear(cfg.embed_dim, cfg.embed_dim)
        self.out_proj = nn.Linear(cfg.embed_dim, cfg.embed_dim)
        self.local_conv = LocalConv(cfg) if cfg.local_conv else nn.Identity()

    def forward(
        self, x: Tensor, keep: Tensor | None = None, shared: Projection | None = None, needed: Tensor | None = None
    ) -> Tensor:
        """(B, N, C) -> (B, N, C) or (B, M, C); arguments as in `SelfAttention.forward`."""
        x_real = x if keep is None else x * keep.unsqueeze(-1)
        mixed = self.local_conv(functional.linear(x_real, self.v_proj.weight))
        result: Tensor = self.out_proj(at(mixed, needed) + self.v_proj.bias)
        return result


def at(x: Tensor, positions: Tensor | None) -> Tensor:
    """x (B, N, C) at the positions (B, M) of each sample, (B, M, C); all of x for None."""
    return x if positions is None else x.gather(1, positions.unsqueeze(-1).expand(-1, -1, x.size(-1)))


class LocalConv(nn.Module):
    """A depthwise convolution over the values, added to the output of attention (Nyströmformer, Xiong et al. 2021).

    It mixes neighbours from the first update on, which attention has to learn.
    """

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.width = cfg.local_conv
        self.conv = nn.Conv1d(cfg.embed_dim, cfg.embed_dim, cfg.local_conv, groups=cfg.embed_dim, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C); beyond the ends and at pads the values count as zero."""
        # As a 2-d convolution of height 1 it takes channels-last input without a copy: 4 times faster on a CPU.
        x_BC1N = values.transpose(1, 2).unsqueeze(2)
        mixed = functional.conv2d(
            x_BC1N, self.conv.weight.unsqueeze(2), padding=(0, self.width // 2), groups=x_BC1N.size(1)
        )
        return mixed.squeeze(2).transpose(1, 2)


# Projections take x (B, N, C) whose pad rows are zero, and keep (B, N), False for a pad, or None; they return
# (B, K, C). A shorter input uses the first N columns of E, which equals padding it with zeros up to n.


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

    The effective matrix is `weight * lr_scale`. The size of Adam's steps does not depend on that of the gradient, so a
    step moves the effective matrix by lr_scale times the learning rate. The optimizer need not know, and it holds with
    flat fp16 parameters, sharding and fused kernels. Loading a checkpoint that was trained with another lr_scale, or
    with none, keeps the effective matrix.

    Args:
        matrix: initial effective values, of any shape.
    """

    weight: Tensor
    lr_scale: Tensor

    def __init__(self, matrix: Tensor, cfg: EncoderConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(matrix / cfg.projection_lr_scale, requires_grad=not cfg.freeze_projection)
        self.register_buffer("lr_scale", torch.tensor(cfg.projection_lr_scale, dtype=torch.float32))
        self._lr_scale = cfg.projection_lr_scale

    def matrix(self) -> Tensor:
        """The effective values: E or F of the paper."""
        return self.weight * self.lr_scale

    @torch.no_grad()
    def set_matrix(self, matrix: Tensor) -> None:
        """Replaces the effective values by a tensor of the same shape."""
        self.weight.copy_(matrix / self.lr_scale)

    def _apply(self, *args: Any, **kwargs: Any) -> LearnedProjection:
        """As nn.Module's, but lr_scale stays in float32: rounded to 16 bit, it would change the effective matrix."""
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.lr_scale = torch.tensor(self._lr_scale, dtype=torch.float32, device=self.lr_scale.device)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        weight, saved = state_dict.get(prefix + "weight"), state_dict.get(prefix + "lr_scale", torch.ones(()))
        if weight is not None:
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
        if torch.compiler.is_exporting():  # a slice that is the whole would be another graph
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


class PoolProjection(nn.Module):
    """Mean or maximum over blocks of S = n/k tokens, without the pads. Has no parameters."""

    def __init__(self, cfg: EncoderConfig, k: int) -> None:
        super().__init__()
        self.n = cfg.max_positions
        self.stride = self.n // k
        self.maximum = cfg.projection == "max-pool"

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, N, C) -> (B, ceil(N/S), C)"""
        blocks = _blocks(x, self.stride, self.n, keep)
        real = x.new_ones(x.shape[:2], dtype=torch.bool) if keep is None else keep
        real = _blocks(real.unsqueeze(-1), self.stride, self.n, keep)
        if self.maximum:
            return blocks.masked_fill(~real, -torch.inf).amax(2).masked_fill(~real.any(2), 0)
        return blocks.sum(2) / real.sum(2).clamp_(min=1)


Projection = LinearProjection | ConvProjection | PoolProjection


def build_projection(cfg: EncoderConfig, k: int) -> Projection:
    """One E (or F) of the configured kind for projected length k."""
    if cfg.projection == "linear":
        return LinearProjection(cfg, k)
    return ConvProjection(cfg, k) if cfg.projection == "conv" else PoolProjection(cfg, k)


def slot_mask(cfg: EncoderConfig, k: int, keep: Tensor | None) -> Tensor | None:
    """Which projected slots hold anything: (B, 1, 1, ceil(N/S)), or None for all.

    Pooled slots that cover nothing but pads must not be attended to. A row of a learned matrix mixes all positions
    and is always kept, as in the paper.
    """
    if keep is None or cfg.projection == "linear":
        return None
    blocks = _blocks(keep.unsqueeze(-1), cfg.max_positions // k, cfg.max_positions, keep)
    return blocks.any(2).transpose(1, 2).unsqueeze(1)


def _blocks(x: Tensor, size: int, n: int, keep: Tensor | None) -> Tensor:
    """(B, N, C) -> (B, ceil(N/size), size, C), the last block filled up with zeros.

    While torch.export makes one graph for all lengths, the result is (B, n/size, size, C): the graph can tell neither
    one block from several, nor a full last block from a partial one. `slot_mask` hides the empty blocks, if there is a
    `keep`.
    """
    missing = -x.size(1) % size
    if exporting := keep is not None and torch.compiler.is_exporting():
        missing = n - x.size(1)
    if exporting or missing:
        x = functional.pad(x, (0, 0, 0, missing))
    return x.reshape(x.size(0), -1, size, x.size(2))
