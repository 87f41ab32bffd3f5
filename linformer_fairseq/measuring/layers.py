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

import fairseq.data
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from linformer_fairseq.layers import EncoderConfig, LinformerEncoderLayer
from linformer_fairseq.layers.projection import build_projection
from linformer_fairseq.measuring.official_example import build_official_encoder


@dataclass(frozen=True)
class Sizes:
    """Sizes of one layer: n tokens, k projected length."""

    n: int
    k: int
    embed_dim: int = 768
    heads: int = 12
    ffn_dim: int = 3072
    dropout: float = 0.1


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
        x = self.attention_norm(x + self.dropout(self.attention(x)))
        out: Tensor = self.final_norm(x + self.dropout(self.fc2(functional.gelu(self.fc1(x)))))
        return out


class ExactAttention(nn.Module):
    """Softmax attention to all tokens: by `scaled_dot_product_attention`, or with the N x N matrices in memory."""

    def __init__(self, sizes: Sizes, in_memory: bool = False) -> None:
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


class BoundAttention(nn.Module):
    """Ours (layerwise sharing) without its core: E x, then q from N rows, k and v from K rows, and the output."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.E = nn.Parameter(torch.randn(sizes.k, sizes.n) / math.sqrt(sizes.k))
        self.q, self.k, self.v, self.out = (nn.Linear(sizes.embed_dim, sizes.embed_dim) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        compressed = torch.bmm(self.E[:, : x.size(1)].expand(x.size(0), -1, -1), x)
        q: Tensor = _NoCore.apply(self.q(x), self.k(compressed), self.v(compressed))  # type: ignore[no-untyped-call]
        out: Tensor = self.out(q)
        return out


class WithArguments(nn.Module):
    """A layer that takes more than its input; modules among `others` are trained with it."""

    def __init__(self, layer: nn.Module, *others: nn.Module | None) -> None:
        super().__init__()
        self.layer, self.others = layer, others
        self.trained = nn.ModuleList(other for other in others if other is not None)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x, *self.others)
        return out


def ours(sizes: Sizes, attention: str = "linformer") -> nn.Module:
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
        attention_dropout=0.0,
    )
    E = build_projection(cfg, sizes.k) if cfg.one_for_all_layers else None
    return WithArguments(LinformerEncoderLayer(cfg, 0), None, E)


def compiled(sizes: Sizes) -> nn.Module:
    layer = ours(sizes)
    layer.compile()
    return layer


def official(s: Sizes, sharing: str) -> nn.Module:
    """The layer of fairseq's example."""
    sizes = {"embed_dim": s.embed_dim, "ffn_embed_dim": s.ffn_dim, "attention_heads": s.heads, "layers": 1}
    named = {f"encoder_{name}": value for name, value in sizes.items()}
    encoder: Any = build_official_encoder(fairseq.data.Dictionary(), sharing, s.n, s.k, dropout=s.dropout, **named)
    return WithArguments(encoder.layers[0], None)


def lucidrains(sizes: Sizes) -> nn.Module:
    module = import_module("linformer")
    return Layer(sizes, module.LinformerSelfAttention(sizes.embed_dim, sizes.n, k=sizes.k, heads=sizes.heads))


@dataclass(frozen=True)
class Contestant:
    """One column of the tables.

    Attributes:
        about: what it is, for the report.
        build: makes the layer.
        kind: exact, plain (exact with N x N matrices in memory), fairseq, ours (its trainings keep freed memory), bound
            (it has no attention core) or other.
    """

    about: str
    build: Callable[[Sizes], nn.Module]
    kind: str


PLAIN = "exact attention with the n x n softmax in memory, the paper's baseline"
FAIRSEQ = "fairseq's examples/linformer, its default sharing (headwise); drops attention weights by --dropout"
BOUND = "ours without its attention core, in plain PyTorch"
CONTESTANTS = {
    "ours": Contestant("this project's layer, layerwise sharing", ours, "ours"),
    "exact": Contestant("exact attention by SDPA in plain PyTorch", lambda s: Layer(s, ExactAttention(s)), "exact"),
    "exact-ours": Contestant("this project's layer with `--attention exact`", lambda s: ours(s, "exact"), "exact"),
    "plain": Contestant(PLAIN, lambda s: Layer(s, ExactAttention(s, in_memory=True)), "plain"),
    "fairseq": Contestant(FAIRSEQ, lambda s: official(s, "headwise"), "fairseq"),
    "fairseq-shared": Contestant("the same with layerwise sharing", lambda s: official(s, "layerwise"), "fairseq"),
    "lucidrains": Contestant("attention of the package linformer 0.2.3 in the plain layer", lucidrains, "other"),
    "bound": Contestant(BOUND, lambda s: Layer(s, BoundAttention(s)), "bound"),
    "ours-compiled": Contestant("this project's layer through torch.compile", compiled, "ours"),
}
DEFAULT = tuple(name for name in CONTESTANTS if name != "ours-compiled")


def missing(name: str) -> str | None:
    """Why a contestant cannot be built here, if so."""
    if name == "lucidrains" and find_spec("linformer") is None:
        return "not installed: pip install --no-deps linformer==0.2.3"
    return None
