"""The layers to be measured beside ours, in plain PyTorch as anybody would write them.

All are post-LN encoder layers from (B, N, C) to (B, N, C).
Shapes: B batch, N tokens, K projected length, H heads, D head dimension, C = H·D channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn


@dataclass(frozen=True)
class Sizes:
    """Sizes of one layer.

    Attributes:
        n: tokens of one input.
        k: projected length.
        attention_dropout: of the attention weights, for all who have such a setting.
    """

    n: int
    k: int
    embed_dim: int = 768
    heads: int = 12
    ffn_dim: int = 3072
    dropout: float = 0.1
    attention_dropout: float = 0.0


class Layer(nn.Module):
    """Attention and feed-forward sublayer, each with dropout, residual and layer norm."""

    def __init__(self, sizes: Sizes, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention
        self.attention_norm = nn.LayerNorm(sizes.embed_dim)
        self.fc1 = nn.Linear(sizes.embed_dim, sizes.ffn_dim)
        self.fc2 = nn.Linear(sizes.ffn_dim, sizes.embed_dim)
        self.final_norm = nn.LayerNorm(sizes.embed_dim)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)"""
        x = self.attention_norm(x + self.dropout(self.attention(x)))
        out: Tensor = self.final_norm(x + self.dropout(self.fc2(functional.gelu(self.fc1(x)))))
        return out


class ExactAttention(nn.Module):
    """Softmax attention to all tokens by `scaled_dot_product_attention`."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.attention_dropout = sizes.attention_dropout
        self.q, self.k, self.v, self.out = (nn.Linear(sizes.embed_dim, sizes.embed_dim) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)"""
        q, k, v = (proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for proj in (self.q, self.k, self.v))
        out: Tensor = self.out(self.core(q, k, v).transpose(1, 2).flatten(-2))
        return out

    def core(self, q_BHND: Tensor, k_BHND: Tensor, v_BHND: Tensor) -> Tensor:
        """Queries, keys and values to (B, H, N, D)."""
        p = self.attention_dropout if self.training else 0.0
        return functional.scaled_dot_product_attention(q_BHND, k_BHND, v_BHND, dropout_p=p)


class PlainAttention(ExactAttention):
    """The same with the N x N matrices in memory, which is what the paper compares with."""

    def core(self, q_BHND: Tensor, k_BHND: Tensor, v_BHND: Tensor) -> Tensor:
        """Queries, keys and values to (B, H, N, D)."""
        weights = torch.softmax(q_BHND / math.sqrt(q_BHND.size(-1)) @ k_BHND.transpose(-2, -1), dim=-1)
        if self.attention_dropout:
            weights = functional.dropout(weights, self.attention_dropout, self.training)
        return weights.to(v_BHND.dtype) @ v_BHND


class _NoCore(torch.autograd.Function):
    """q, with rows of its gradient for k and v, so that autograd has to work out all that comes before them."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.k = k.size(1)
        return q.view_as(q)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (grad,) = grads
        return grad, grad[:, : ctx.k], grad[:, : ctx.k]


class BoundAttention(nn.Module):
    """Ours (layerwise sharing) without its core: E x, then q from N rows, k and v from K rows, and the output."""

    def __init__(self, sizes: Sizes, bias: bool = True) -> None:
        super().__init__()
        self.E = nn.Parameter(torch.randn(sizes.k, sizes.n) / math.sqrt(sizes.k))
        self.q, self.k, self.v, self.out = (nn.Linear(sizes.embed_dim, sizes.embed_dim, bias=bias) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)"""
        compressed = torch.bmm(self.E[:, : x.size(1)].expand(x.size(0), -1, -1), x)
        q: Tensor = _NoCore.apply(self.q(x), self.k(compressed), self.v(compressed))  # type: ignore[no-untyped-call]
        out: Tensor = self.out(q)
        return out


class Products(nn.Module):
    """The matrix products of the bound and nothing between them: no bias, residual, norm, dropout or GELU."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.attention = BoundAttention(sizes, bias=False)
        self.fc1 = nn.Linear(sizes.embed_dim, sizes.ffn_dim, bias=False)
        self.fc2 = nn.Linear(sizes.ffn_dim, sizes.embed_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)"""
        out: Tensor = self.fc2(self.fc1(self.attention(x)))
        return out


class TimeFirst(nn.Module):
    """A layer of fairseq, whose input is (N, B, C)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """(N, B, C) -> (N, B, C)"""
        out: Tensor = self.layer(x, None)
        return out
