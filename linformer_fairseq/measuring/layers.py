"""The encoder layers that table3_efficiency.py measures: ours, fairseq's, and others in plain PyTorch.

All are post-LN encoder layers from (B, N, C) to (B, N, C), fairseq's from (N, B, C) to (N, B, C).
Shapes: B batch, N tokens, K projected length, H heads, D head dimension, C = H·D channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as functional
from fairseq.data import Dictionary
from torch import Tensor, nn

from linformer_fairseq.layers import EncoderConfig, LinformerEncoderLayer
from linformer_fairseq.layers.attention import build_projection
from linformer_fairseq.measuring.official_example import build_official_encoder


@dataclass(frozen=True)
class Entry:
    """One contestant at one size, with tokens/n inputs of n tokens in a step.

    Attributes:
        kind: time, memory, or linear, which is the time of ours at lengths with the same tokens.
        mode: train, forward and backward with dropout; or forward.
        dtype: fp32; or bf16, which is autocast.
    """

    kind: str
    contestant: str
    n: int
    k: int
    tokens: int
    mode: str
    dtype: str
    embed_dim: int
    heads: int
    ffn_dim: int
    dropout: float


class Layer(nn.Module):
    """Attention and feed-forward sublayer, each with dropout, residual and layer norm."""

    def __init__(self, sizes: Entry, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention
        self.attention_norm = nn.LayerNorm(sizes.embed_dim)
        self.fc1 = nn.Linear(sizes.embed_dim, sizes.ffn_dim)
        self.fc2 = nn.Linear(sizes.ffn_dim, sizes.embed_dim)
        self.final_norm = nn.LayerNorm(sizes.embed_dim)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention_norm(x + self.dropout(self.attention(x)))
        out: Tensor = self.final_norm(x + self.dropout(self.fc2(functional.gelu(self.fc1(x)))))
        return out


class ExactAttention(nn.Module):
    """Softmax attention to all tokens: by `scaled_dot_product_attention`, or with the N x N matrices in memory."""

    def __init__(self, sizes: Entry, in_memory: bool = False) -> None:
        super().__init__()
        self.heads, self.in_memory = sizes.heads, in_memory
        self.q, self.k, self.v, self.out = (nn.Linear(sizes.embed_dim, sizes.embed_dim) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for proj in (self.q, self.k, self.v))
        if self.in_memory:
            weights = torch.softmax(q / math.sqrt(q.size(-1)) @ k.transpose(-2, -1), dim=-1)
            mixed = weights.to(v.dtype) @ v
        else:
            mixed = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(-2))
        return out


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


class BoundAttention(ExactAttention):
    """Ours (layerwise sharing) without its core: E x, then q from N rows, k and v from K rows, and the output."""

    def __init__(self, sizes: Entry) -> None:
        super().__init__(sizes)
        self.E = nn.Parameter(torch.randn(sizes.k, sizes.n) / math.sqrt(sizes.k))

    def forward(self, x: Tensor) -> Tensor:
        compressed = torch.bmm(self.E[:, : x.size(1)].expand(x.size(0), -1, -1), x)
        q: Tensor = _NoCore.apply(self.q(x), self.k(compressed), self.v(compressed))  # type: ignore[no-untyped-call]
        out: Tensor = self.out(q)
        return out


class WithArguments(nn.Module):
    """A layer that takes a mask, here None, and perhaps the encoder's one E, which is trained with it."""

    def __init__(self, layer: nn.Module, *shared: nn.Module) -> None:
        super().__init__()
        self.layer, self.shared = layer, nn.ModuleList(shared)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x, None, *self.shared)
        return out


def ours(sizes: Entry) -> nn.Module:
    """This project's layer with layerwise sharing."""
    cfg = EncoderConfig(
        vocab_size=100,
        max_positions=sizes.n,
        embed_dim=sizes.embed_dim,
        ffn_dim=sizes.ffn_dim,
        num_heads=sizes.heads,
        num_layers=1,
        projected_length=sizes.k,
        projection_init="normal",  # has no part in the speed, and is built without the memory of block means
        dropout=sizes.dropout,
        attention_dropout=0.0,
    )
    return WithArguments(LinformerEncoderLayer(cfg, 0), build_projection(cfg, sizes.k))


def official(s: Entry) -> nn.Module:
    """The layer of fairseq's example."""
    sizes = {"embed_dim": s.embed_dim, "ffn_embed_dim": s.ffn_dim, "attention_heads": s.heads, "layers": 1}
    named = {f"encoder_{name}": value for name, value in sizes.items()}
    encoder: Any = build_official_encoder(Dictionary(), "headwise", s.n, s.k, dropout=s.dropout, **named)
    return WithArguments(encoder.layers[0])


def lucidrains(sizes: Entry) -> nn.Module:
    module = import_module("linformer")
    return Layer(sizes, module.LinformerSelfAttention(sizes.embed_dim, sizes.n, k=sizes.k, heads=sizes.heads))


PLAIN = "exact attention with the n x n softmax in memory, the paper's baseline"
FAIRSEQ = "fairseq's examples/linformer, its default sharing (headwise); drops attention weights by --dropout"
BOUND = "ours without its attention core, in plain PyTorch"
CONTESTANTS: dict[str, tuple[str, Callable[[Entry], nn.Module]]] = {
    "ours": ("this project's layer, layerwise sharing", ours),
    "exact": ("exact attention by SDPA in plain PyTorch", lambda s: Layer(s, ExactAttention(s))),
    "plain": (PLAIN, lambda s: Layer(s, ExactAttention(s, in_memory=True))),
    "fairseq": (FAIRSEQ, official),
    "lucidrains": ("attention of the package linformer 0.2.3 in the plain layer", lucidrains),
    "bound": (BOUND, lambda s: Layer(s, BoundAttention(s))),
}
"""Columns of the tables: what each is, and what makes the layer."""

EXACT = ("exact", "plain")
"""Those that know no k."""


def missing(name: str) -> str | None:
    """Why a contestant cannot be built here, if so."""
    if name == "lucidrains" and find_spec("linformer") is None:
        return "not installed: pip install --no-deps linformer==0.2.3"
    return None
