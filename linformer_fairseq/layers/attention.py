"""Self-attention over k projected keys and values (paper equation 7), with E and F as in section 4 (`projection.py`):

    head_i = softmax( Q W_i^Q (E_i K W_i^K)^T / sqrt(d_k) ) F_i V W_i^V

Shapes: B batch, N tokens of this input (at most n = max_positions), M tokens to attend from, K projected length,
H heads, D head dimension, C = H·D channels.
"""

import math

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from .adaptive import pools, spans
from .config import EncoderConfig
from .fused import at, attend, compiling, exporting, is_plain, split_bias
from .projection import Projection, build_projection, slot_mask
from .window import Slots, attend_locally, dense_mask

Split = tuple[Tensor, Tensor]  # x W, and the bias that is added last


class SelfAttention(nn.Module):
    """Exact multi-head softmax attention, to all tokens or to a window: the controls, and the base of Linformer's."""

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
        """(B, N, C) -> (B, N, C) or (B, M, C), whose rows of pads are meaningless.

        Args:
            keep: (B, N), False for a pad; None if there are no pads. The output at real tokens depends neither on the
                content of the pads nor on their number.
            shared: the encoder's one projection, with layerwise sharing.
            needed: (B, M), positions of the tokens to attend from; None for all.
        """
        x = x if keep is None else x * keep.unsqueeze(-1)
        # The values of all tokens, without bias so that pads stay zero, where two things need them.
        twice = self.cfg.local_conv or (self.cfg.local_window and self.cfg.one_per_head)
        values = split_bias(self.v_proj, x) if twice else None
        slots = self.slots(x, values, keep, shared)
        dropout = self.cfg.attention_dropout if self.training else 0.0
        if slots is None or (self.cfg.local_window and not slots.whole):
            q, k, v = (self._heads(t) for t in (self.q_proj(x), *self.keys_values(x, values)))
            attended = attend_locally(q, k, v, self.cfg.local_window, keep, slots, needed, dropout)
        else:
            attended = attend(self._heads(self.q_proj(at(x, needed))), slots.keys, slots.values, slots.mask, dropout)
        out = attended.transpose(1, 2).flatten(-2)
        if self.local_conv is not None and values is not None:
            out = out + at(self.local_conv(values[0]), needed)
        result: Tensor = self.out_proj(out)
        return result

    def slots(self, x: Tensor, values: Split | None, keep: Tensor | None, shared: Projection | None) -> Slots | None:
        """What every token attends to; None for nothing beside the window. Here, all tokens if there is no window.

        x (B, N, C) is zero at pads; values are x W_v (B, N, C) and its bias, if known; others are as in `forward`.
        """
        if self.cfg.local_window:
            return None
        keys, mixed = self.keys_values(x, values)
        mask = None if keep is None else keep[:, None, None, :]
        return Slots(self._heads(keys), self._heads(mixed), mask, whole=True)

    def keys_values(self, x: Tensor, values: Split | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values of all tokens, each (B, N, C)."""
        return self.k_proj(x), self.v_proj(x) if values is None else values[0] + values[1]

    def weights(self, x: Tensor, keep: Tensor | None, shared: Projection | None) -> tuple[Tensor, Tensor]:
        """What each token attends to, without dropout: slots (B, H, N, K) and tokens (B, H, N, N), or none of a kind.

        Arguments as in `forward`. Slots of one token each count as tokens.
        """
        x = x if keep is None else x * keep.unsqueeze(-1)
        q, slots = self._heads(self.q_proj(x)), self.slots(x, None, keep, shared)
        count = 0 if slots is None or slots.whole else slots.keys.size(2)
        if slots is None or (self.cfg.local_window and not slots.whole):
            keys = self._heads(self.k_proj(x))
            keys = keys if slots is None else torch.cat([slots.keys, keys], 2)
            mask: Tensor | None = dense_mask(x.size(1), self.cfg.local_window, keep, slots, x.device)
        else:
            keys, mask = slots.keys, slots.mask
        scores = q @ keys.transpose(2, 3) / math.sqrt(q.size(-1))
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1)
        return weights[..., :count], weights[..., count:]

    def _heads(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, H, N, D)"""
        return x.view(x.size(0), x.size(1), self.cfg.num_heads, -1).transpose(1, 2)


class LinformerSelfAttention(SelfAttention):
    """Attention to K projected keys and values, and with a window to neighbours: O(N·K) instead of O(N²).

    (E x) W_k + b costs K·C², and is the same as E (x W_k) + b, which costs N·C² and is cheaper only with sharing
    `none`, where every head has its own E.
    """

    def __init__(self, cfg: EncoderConfig, k: int) -> None:
        super().__init__(cfg)
        self.k, self.per_head = k, cfg.one_per_head
        self.E = None if cfg.one_for_all_layers else build_projection(cfg, k)
        self.F = build_projection(cfg, k) if cfg.separate_e_and_f else None

    def slots(self, x: Tensor, values: Split | None, keep: Tensor | None, shared: Projection | None) -> Slots | None:
        """The projected keys and values."""
        e = self.E if shared is None else shared
        if e is None:
            raise ValueError("this layer shares E across layers and needs it as an argument")
        f = e if self.F is None else self.F
        if self.per_head:
            keys, key_bias = split_bias(self.k_proj, x)
            mixed, value_bias = values or split_bias(self.v_proj, x)
            projected_keys, projected_values = e(keys, keep) + key_bias, f(mixed, keep) + value_bias
        else:
            compressed = e(x, keep)
            projected_keys = self.k_proj(compressed)
            projected_values = self.v_proj(compressed if f is e else f(x, keep))
        n, adaptive = x.size(1), self.cfg.projection == "adaptive"
        return Slots(
            self._heads(projected_keys),
            self._heads(projected_values),
            slot_mask(self.cfg, self.k, keep),
            spans(n, self.k, keep, x.device) if adaptive and self.cfg.local_window else None,
            whole=adaptive and not pools(n, self.k),
        )


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
        values, bias = split_bias(self.v_proj, x_real)
        result: Tensor = self.out_proj(at(self.local_conv(values), needed) + bias)
        return result

    def weights(self, x: Tensor, keep: Tensor | None, shared: Projection | None) -> tuple[Tensor, Tensor]:
        """No slots and no tokens, as `SelfAttention.weights`."""
        nothing = x.new_zeros(x.size(0), 1, x.size(1), 0)
        return nothing, nothing


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
        plain = is_plain(self.conv)
        if plain and compiling() and not exporting():
            # Inductor compiles a convolution anew for each length; sums it fuses with what is around them.
            padded = functional.pad(values, (0, 0, self.width // 2, self.width // 2))
            total = torch.zeros_like(values)
            for i in range(self.width):
                total = total + padded[:, i : i + values.size(1)] * self.conv.weight[:, 0, i]
            return total
        if not plain:
            around: Tensor = self.conv(functional.pad(values.transpose(1, 2), (self.width // 2, self.width // 2)))
            return around.transpose(1, 2)
        # As a 2-d convolution of height 1 it takes channels-last input without a copy: 4 times faster on a CPU.
        x_BC1N = values.transpose(1, 2).unsqueeze(2)
        mixed = functional.conv2d(
            x_BC1N, self.conv.weight.unsqueeze(2), padding=(0, self.width // 2), groups=x_BC1N.size(1)
        )
        return mixed.squeeze(2).transpose(1, 2)
