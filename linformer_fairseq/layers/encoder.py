"""The encoder: embeddings, layers and nothing else. Parameter names are those of fairseq's RoBERTa, plus E and F."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .attention import LinformerSelfAttention, NoAttention, SelfAttention
from .config import EncoderConfig
from .fused import add_dropped, at, compiling, dropout, feed_forward
from .projection import Projection, build_projection

try:  # NVIDIA's apex; PyPI's `apex` is another project without this module
    from apex.normalization import FusedLayerNorm
except ImportError:
    FusedLayerNorm = None

HIDDEN = "hidden"
"""`param_group` of the matrices between hidden states, for an optimizer: of attention, of the feed-forward sublayers,
of the masked-LM head's first layer. E and F, which mix places and not channels, are none."""


class LinformerEncoderLayer(nn.Module):
    """Attention and feed-forward sublayer with residuals and layer norms (after each, or before with pre-LN)."""

    def __init__(self, cfg: EncoderConfig, index: int) -> None:
        super().__init__()
        self.normalize_before = cfg.normalize_before
        self.activation = cfg.activation
        self.self_attn = build_attention(cfg, index)
        self.self_attn_layer_norm = layer_norm(cfg.embed_dim, cfg.layer_norm_eps)
        self.fc1 = nn.Linear(cfg.embed_dim, cfg.ffn_dim)
        self.fc2 = nn.Linear(cfg.ffn_dim, cfg.embed_dim)
        self.final_layer_norm = layer_norm(cfg.embed_dim, cfg.layer_norm_eps)
        self.dropout, self.activation_dropout = cfg.dropout, cfg.activation_dropout

    def forward(
        self, x: Tensor, keep: Tensor | None = None, shared: Projection | None = None, needed: Tensor | None = None
    ) -> Tensor:
        """(B, N, C) -> (B, N, C) or (B, M, C); arguments as in `SelfAttention.forward`."""
        if self.normalize_before:
            x = self._add(at(x, needed), self.self_attn(self.self_attn_layer_norm(x), keep, shared, needed))
            return self._add(x, self._feed_forward(self.final_layer_norm(x)))
        x = self.self_attn_layer_norm(self._add(at(x, needed), self.self_attn(x, keep, shared, needed)))
        out: Tensor = self.final_layer_norm(self._add(x, self._feed_forward(x)))
        return out

    def attention_weights(self, x: Tensor, keep: Tensor | None, shared: Projection | None) -> tuple[Tensor, Tensor]:
        """What each token attends to, as `SelfAttention.weights`; x (B, N, C) is the input of the layer."""
        return self.self_attn.weights(self.self_attn_layer_norm(x) if self.normalize_before else x, keep, shared)

    def _add(self, residual: Tensor, x: Tensor) -> Tensor:
        return add_dropped(residual, x, self.dropout, self.training)

    def _feed_forward(self, x: Tensor) -> Tensor:
        if self.training and self.activation_dropout:
            inner = getattr(functional, self.activation)(self.fc1(x))
            out: Tensor = self.fc2(dropout(inner, self.activation_dropout, training=True))
            return out
        return feed_forward(x, self.fc1, self.fc2, self.activation)


class GridPositions(nn.Module):
    """Positions as `nn.Embedding` has them, (rows, C), those of an image's pixels a row's plus a column's.

    The pixels, side x side in raster order, follow <s>, which is at `pad_index` + 1. Other positions are learned alone.
    """

    def __init__(self, rows: int, channels: int, pad_index: int, side: int) -> None:
        super().__init__()
        self.first = pad_index + 2
        self.rows, self.columns = nn.Embedding(side, channels), nn.Embedding(side, channels)
        self.others = nn.Embedding(rows - side**2, channels, pad_index)

    def forward(self, positions: Tensor) -> Tensor:
        """(B, N) -> (B, N, C)"""
        pixels = (self.rows.weight.unsqueeze(1) + self.columns.weight).flatten(0, 1)
        before, behind = self.others.weight[: self.first], self.others.weight[self.first :]
        return functional.embedding(positions, torch.cat([before, pixels, behind]), self.others.padding_idx)


class LinformerEncoder(nn.Module):
    """Tokens to features. With layerwise sharing, the one matrix E is a parameter of the encoder, not of its layers."""

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.embed_tokens = nn.Embedding(cfg.vocab_size, cfg.embed_dim, cfg.pad_index)
        # fairseq numbers positions from pad_index + 1 on, so its table has that many rows more.
        rows = cfg.max_positions + cfg.pad_index + 1
        self.embed_positions = (
            GridPositions(rows, cfg.embed_dim, cfg.pad_index, cfg.position_grid)
            if cfg.position_grid
            else nn.Embedding(rows, cfg.embed_dim, cfg.pad_index)
        )
        self.layernorm_embedding = layer_norm(cfg.embed_dim, cfg.layer_norm_eps)
        self.E = build_projection(cfg, cfg.lengths[0]) if cfg.one_for_all_layers else None
        self.layers = nn.ModuleList(LinformerEncoderLayer(cfg, i) for i in range(cfg.num_layers))
        self.layer_norm = layer_norm(cfg.embed_dim, cfg.layer_norm_eps) if cfg.normalize_before else None
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                mark_hidden(module)

    def compile_layers(self, **options: Any) -> None:
        """Compiles the layers with torch.compile, each graph for all layers of one k; parameters keep their names.

        There is a graph for inputs of full length and one for shorter ones. On a CPU eager layers train faster.
        """
        for layer in self.layers:
            layer.compile(dynamic=True, **options)

    def forward(
        self,
        tokens: Tensor,
        return_all_hiddens: bool = False,
        real: Tensor | None = None,
        needed: Tensor | None = None,
        padded: bool | None = None,
        positions: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Features (B, N, C) or (B, M, C), and the list of hidden states (B, N, C), of a batch.

        Args:
            tokens: (B, N) ids, padded on the right, or rows of `embed_tokens` (B, N, C); ValueError if N is more than
                `max_positions`.
            return_all_hiddens: also return the input of the first layer and the output of every layer.
            real: (B, N) bool, False for a pad; by default `tokens != pad_index`. Rows of an embedding do not tell.
            needed: (B, M), positions of the tokens whose features are needed; None for all. The last layer computes
                only these; all tokens still enter its keys and values.
            padded: whether there are pads; None to look, which waits for a GPU.
            positions: (B, N), rows of `embed_positions`; by default the real tokens are counted from pad_index + 1 on.
        """
        if tokens.size(1) > self.cfg.max_positions:
            raise ValueError(
                f"the input has {tokens.size(1)} tokens and this model reads at most --max-positions "
                f"{self.cfg.max_positions}; shorten it (--tokens-per-sample, --truncate-sequence, or truncation=True "
                "of a tokenizer of Hugging Face) or use a longer model"
            )
        if real is None:
            real = tokens.ne(self.cfg.pad_index)
        # Without pads there is nothing to mask. A compiled or exported graph cannot branch on values: it always masks.
        if compiling():
            padded = True
        elif padded is None:
            padded = not bool(real.all())
        keep = real if padded else None
        if positions is None:
            positions = real.long().cumsum(1) * real + self.cfg.pad_index
        embedded = self.embed_tokens(tokens) if tokens.dim() == 2 else tokens
        x = self.layernorm_embedding(embedded + self.embed_positions(positions))
        x = dropout(x, self.cfg.dropout, self.training)
        hiddens = [x] if return_all_hiddens else []
        for layer in self.layers:
            x = self._run(layer, x, keep, needed if layer is self.layers[-1] else None)
            if return_all_hiddens:
                hiddens.append(x)
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        return x, hiddens

    def attention_weights(self, hiddens: Iterable[Tensor], real: Tensor) -> list[tuple[Tensor, Tensor]]:
        """What each token attends to in each layer, as `SelfAttention.weights`; `hiddens` are those of `forward`."""
        keep = real if compiling() or not bool(real.all()) else None
        layers: Any = self.layers
        return [layer.attention_weights(x, keep, self.E) for layer, x in zip(layers, hiddens, strict=False)]

    def _run(self, layer: nn.Module, x: Tensor, keep: Tensor | None, needed: Tensor | None) -> Tensor:
        if self.training and self.cfg.layerdrop and torch.rand(()).item() < self.cfg.layerdrop:
            return touch(at(x, needed), [*layer.parameters(), *(self.E.parameters() if self.E is not None else ())])
        if self.training and self.cfg.checkpoint_activations:
            out = checkpoint(layer, x, keep, self.E, needed, use_reentrant=False)
        else:
            out = layer(x, keep, self.E, needed)
        assert isinstance(out, Tensor)
        return out


def mark_hidden(layer: nn.Linear) -> None:
    """Marks its matrix as one between hidden states."""
    setattr(layer.weight, "param_group", HIDDEN)  # noqa: B010  # mypy knows no such attribute


def layer_norm(dim: int, eps: float) -> nn.Module:
    """A layer norm over the last `dim` channels: apex's fused one if it is installed and there is a GPU."""
    if FusedLayerNorm is not None and torch.cuda.is_available():
        norm: nn.Module = FusedLayerNorm(dim, eps)
        return norm
    return nn.LayerNorm(dim, eps)


def build_attention(cfg: EncoderConfig, index: int) -> SelfAttention | NoAttention:
    """The attention sublayer of layer `index`."""
    if cfg.attention == "linformer":
        return LinformerSelfAttention(cfg, cfg.lengths[index])
    return NoAttention(cfg) if cfg.attention == "none" else SelfAttention(cfg)


def touch(x: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
    """x unchanged, but dependent on parameters that this step does not use: their gradient is zero instead of None.

    DistributedDataParallel waits for the gradient of every parameter; this way it need not search for unused ones.
    """
    idle = [p.flatten()[:1].sum() for p in parameters if p.requires_grad]
    return x + 0.0 * torch.stack(idle).sum().to(x.dtype) if idle else x
