"""Who is measured: each contestant is one encoder layer of the same sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import fairseq.data
from torch import Tensor, nn

from linformer_fairseq.layers import EncoderConfig, LinformerEncoderLayer
from linformer_fairseq.layers.attention import build_projection
from recipes.reproduce.efficiency.layers import (
    BoundAttention,
    ExactAttention,
    Layer,
    PlainAttention,
    Products,
    Sizes,
    TimeFirst,
)
from recipes.reproduce.official_example import build_official_encoder


class OurLayer(nn.Module):
    """This project's layer; with layerwise sharing it is handed the encoder's one E."""

    def __init__(self, sizes: Sizes, attention: str) -> None:
        super().__init__()
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
        self.layer = LinformerEncoderLayer(cfg, 0)
        self.E = build_projection(cfg, sizes.k) if cfg.one_for_all_layers else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)"""
        out: Tensor = self.layer(x, None, self.E)
        return out


def ours(sizes: Sizes) -> nn.Module:
    return OurLayer(sizes, "linformer")


def exact_ours(sizes: Sizes) -> nn.Module:
    return OurLayer(sizes, "exact")


def compiled(sizes: Sizes) -> nn.Module:
    layer = ours(sizes)
    layer.compile()
    return layer


def exact(sizes: Sizes) -> nn.Module:
    return Layer(sizes, ExactAttention(sizes))


def plain(sizes: Sizes) -> nn.Module:
    return Layer(sizes, PlainAttention(sizes))


def bound(sizes: Sizes) -> nn.Module:
    return Layer(sizes, BoundAttention(sizes))


def official(sharing: str, attention_dropout: bool) -> Callable[[Sizes], nn.Module]:
    """The layer of fairseq's example; with `attention_dropout`, it obeys that setting, which its own code ignores."""

    def build(sizes: Sizes) -> nn.Module:
        layers = build_official_encoder(
            fairseq.data.Dictionary(),
            sharing,
            sizes.n,
            sizes.k,
            encoder_layers=1,
            encoder_embed_dim=sizes.embed_dim,
            encoder_ffn_embed_dim=sizes.ffn_dim,
            encoder_attention_heads=sizes.heads,
            dropout=sizes.dropout,
        ).get_submodule("layers")
        assert isinstance(layers, nn.ModuleList)
        layer = layers[0]
        if attention_dropout:
            attention: Any = layer.get_submodule("self_attn")
            attention.dropout = sizes.attention_dropout
        return TimeFirst(layer)

    return build


def lucidrains(sizes: Sizes) -> nn.Module:
    attention = import_module("linformer").LinformerSelfAttention(
        sizes.embed_dim, sizes.n, k=sizes.k, heads=sizes.heads, dropout=sizes.attention_dropout
    )
    return Layer(sizes, attention)


@dataclass(frozen=True)
class Contestant:
    """One column of the tables.

    Attributes:
        build: makes the layer.
        about: what it is, for the report.
        linear: its work grows with N·K, not with N².
        nxn: it holds N x N matrices, always or (with `sdpa`) where the fused kernel knows no dropout.
        core: it has an attention core.
        time_first: its input is (N, B, C).
        ours: it is of this project, whose trainings have a malloc that keeps what is freed.
    """

    build: Callable[[Sizes], nn.Module]
    about: str
    linear: bool = True
    nxn: bool = False
    sdpa: bool = False
    core: bool = True
    time_first: bool = False
    ours: bool = False


CONTESTANTS = {
    "ours": Contestant(ours, "this project's layer, layerwise sharing", ours=True),
    "exact": Contestant(exact, "exact attention by SDPA in plain PyTorch", linear=False, sdpa=True),
    "exact-ours": Contestant(
        exact_ours, "this project's layer with `--attention exact`", linear=False, sdpa=True, ours=True
    ),
    "plain": Contestant(
        plain, "exact attention with the n x n softmax in memory, the paper's baseline", linear=False, nxn=True
    ),
    "fairseq": Contestant(
        official("headwise", False),
        "fairseq's examples/linformer, its default sharing (headwise); drops attention weights by --dropout",
        time_first=True,
    ),
    "fairseq-shared": Contestant(official("layerwise", False), "the same with layerwise sharing", time_first=True),
    "fairseq-equal": Contestant(
        official("headwise", True),
        "fairseq's default, but attention weights dropped as for all others",
        time_first=True,
    ),
    "lucidrains": Contestant(lucidrains, "attention of the package linformer 0.2.3 in the plain layer"),
    "bound": Contestant(bound, "ours without its attention core, in plain PyTorch", core=False),
    "products": Contestant(Products, "the matrix products of the bound alone", core=False),
    "ours-compiled": Contestant(compiled, "this project's layer through torch.compile", ours=True),
}
DEFAULT = tuple(name for name in CONTESTANTS if name != "ours-compiled")


def missing(name: str) -> str | None:
    """Why a contestant cannot be built here, if so."""
    if name == "lucidrains" and find_spec("linformer") is None:
        return "not installed: pip install --no-deps linformer==0.2.3"
    return None
