"""The encoder layers that table3_efficiency.py measures: ours, fairseq's, and others in plain PyTorch.

All are post-LN encoder layers from (B, N, C) to (B, N, C).
Shapes: B batch, N tokens, K projected length, H heads, D head dimension, C = H·D channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import fairseq.data
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from linformer_fairseq.layers import EncoderConfig, LinformerEncoderLayer
from linformer_fairseq.layers.projection import build_projection
from linformer_fairseq.measuring.official_example import build_official_encoder


@dataclass(frozen=True)
class Sizes:
    """Sizes of one layer: n tokens, k projected length; attention dropout for all who have such a setting."""

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


class _Called(nn.Module):
    """A layer that takes more arguments than its input."""

    def __init__(self, layer: nn.Module, *others: Any) -> None:
        super().__init__()
        self.layer, self.others = layer, others
        self.projection = next((other for other in others if isinstance(other, nn.Module)), None)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x, *self.others)
        return out


def ours(attention: str, sizes: Sizes) -> nn.Module:
    """This project's layer; with layerwise sharing it is handed the encoder's one E."""
    cfg = EncoderConfig(
        vocab_size=100,
        max_positions=sizes.n,
        embed_dim=sizes.embed_dim,
        ffn_dim=sizes.ffn_dim,
        num_heads=sizes.heads,
        num_layers=1,
        projected_length=sizes.k,
        projection_init="normal",  # has no part in the speed, and is built without the memory of block means
        attention=attention,
        dropout=sizes.dropout,
        attention_dropout=sizes.attention_dropout,
    )
    E = build_projection(cfg, sizes.k) if cfg.one_for_all_layers else None
    return _Called(LinformerEncoderLayer(cfg, 0), None, E)


def compiled(sizes: Sizes) -> nn.Module:
    layer = ours("linformer", sizes)
    layer.compile()
    return layer


def official(sharing: str, attention_dropout: bool, sizes: Sizes) -> nn.Module:
    """The layer of fairseq's example; with `attention_dropout`, it obeys that setting, which its own code ignores."""
    encoder: Any = build_official_encoder(
        fairseq.data.Dictionary(),
        sharing,
        sizes.n,
        sizes.k,
        encoder_layers=1,
        encoder_embed_dim=sizes.embed_dim,
        encoder_ffn_embed_dim=sizes.ffn_dim,
        encoder_attention_heads=sizes.heads,
        dropout=sizes.dropout,
    )
    layer = encoder.layers[0]
    if attention_dropout:
        layer.self_attn.dropout = sizes.attention_dropout
    return _Called(layer, None)


def lucidrains(sizes: Sizes) -> nn.Module:
    attention = import_module("linformer").LinformerSelfAttention(
        sizes.embed_dim, sizes.n, k=sizes.k, heads=sizes.heads, dropout=sizes.attention_dropout
    )
    return Layer(sizes, attention)


def products(s: Sizes) -> nn.Module:
    """The matrix products of the bound and nothing between them."""
    wide, narrow = nn.Linear(s.embed_dim, s.ffn_dim, bias=False), nn.Linear(s.ffn_dim, s.embed_dim, bias=False)
    return nn.Sequential(BoundAttention(s, bias=False), wide, narrow)


@dataclass(frozen=True)
class Contestant:
    """One column of the tables.

    Attributes:
        about: what it is, for the report.
        build: makes the layer.
        kinds: words of: exact (its work grows with N², not with N·K); nxn (it holds N x N matrices); sdpa (it does
            where the fused kernel has no dropout); time-first (its input is (N, B, C)); ours (of this project, whose
            trainings keep freed memory); bound (it has no attention core).
    """

    about: str
    build: Callable[[Sizes], nn.Module]
    kinds: str = ""


CONTESTANTS = {
    "ours": Contestant("this project's layer, layerwise sharing", lambda s: ours("linformer", s), "ours"),
    "exact": Contestant(
        "exact attention by SDPA in plain PyTorch", lambda s: Layer(s, ExactAttention(s)), "exact sdpa"
    ),
    "exact-ours": Contestant(
        "this project's layer with `--attention exact`", lambda s: ours("exact", s), "exact sdpa ours"
    ),
    "plain": Contestant(
        "exact attention with the n x n softmax in memory, the paper's baseline",
        lambda s: Layer(s, PlainAttention(s)),
        "exact nxn",
    ),
    "fairseq": Contestant(
        "fairseq's examples/linformer, its default sharing (headwise); drops attention weights by --dropout",
        lambda s: official("headwise", False, s),
        "time-first",
    ),
    "fairseq-shared": Contestant(
        "the same with layerwise sharing", lambda s: official("layerwise", False, s), "time-first"
    ),
    "fairseq-equal": Contestant(
        "fairseq's default, but attention weights dropped as for all others",
        lambda s: official("headwise", True, s),
        "time-first",
    ),
    "lucidrains": Contestant("attention of the package linformer 0.2.3 in the plain layer", lucidrains),
    "bound": Contestant(
        "ours without its attention core, in plain PyTorch", lambda s: Layer(s, BoundAttention(s)), "bound"
    ),
    "products": Contestant("the matrix products of the bound alone", products, "bound"),
    "ours-compiled": Contestant("this project's layer through torch.compile", compiled, "ours"),
}
DEFAULT = tuple(name for name in CONTESTANTS if name != "ours-compiled")


def missing(name: str) -> str | None:
    """Why a contestant cannot be built here, if so."""
    if name == "lucidrains" and find_spec("linformer") is None:
        return "not installed: pip install --no-deps linformer==0.2.3"
    return None
