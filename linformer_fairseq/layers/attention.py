"""Self-attention over k projected keys and values (paper equation 7):

    head_i = softmax( Q W_i^Q (E_i K W_i^K)^T / sqrt(d_k) ) F_i V W_i^V

Shapes: B batch, N tokens, K projected length, H heads, D head dimension, C = H·D channels.
"""

from __future__ import annotations

import torch.nn.functional as functional
from torch import Tensor, nn

from .config import EncoderConfig
from .fused import attend
from .projection import Projection, build_projection, slot_mask


class SelfAttention(nn.Module):
    """Exact multi-head softmax attention, the control beside Linformer; the base of what both share.

    Args:
        cfg: the encoder's configuration.
    """

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.q_proj = nn.Linear(cfg.embed_dim, cfg.embed_dim)
        self.k_proj = nn.Linear(cfg.embed_dim, cfg.embed_dim)
        self.v_proj = nn.Linear(cfg.embed_dim, cfg.embed_dim)
        self.out_proj = nn.Linear(cfg.embed_dim, cfg.embed_dim)
        self.local_conv = LocalConv(cfg) if cfg.local_conv else None

    def forward(
        self,
        x: Tensor,
        keep: Tensor | None = None,
        shared: Projection | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Attends from every token to all real tokens.

        Args:
            x: (B, N, C).
            keep: (B, N), True for a real token, False for a pad; None where there are no pads. What comes out at
                real tokens does not depend on what the pads hold, nor on how many there are.
            shared: the encoder's one projection, with layerwise sharing.
            wanted: (B, M), the places of the tokens to attend from; None for all.

        Returns:
            (B, N, C), or (B, M, C). Rows of pads are meaningless.
        """
        x_real = x if keep is None else x * keep.unsqueeze(-1)
        # Values of all tokens, without their bias, so that pads stay zero; only the convolution needs them.
        values = functional.linear(x_real, self.v_proj.weight) if self.local_conv else None
        k_BKC, v_BKC, mask = self.keys_values(x_real, values, keep, shared)
        attended = attend(
            self._heads(self.q_proj(at(x, wanted))),
            self._heads(k_BKC),
            self._heads(v_BKC),
            mask,
            self.cfg.attention_dropout if self.training else 0.0,
        )
        out = attended.transpose(1, 2).flatten(-2)
        if self.local_conv is not None and values is not None:
            out = out + at(self.local_conv(values), wanted)
        result: Tensor = self.out_proj(out)
        return result

    def keys_values(
        self, x: Tensor, values: Tensor | None, keep: Tensor | None, shared: Projection | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys (B, K, C), values (B, K, C) and which may be attended to (B, 1, 1, K); here K = N."""
        v = self.v_proj(x) if values is None else values + self.v_proj.bias
        return self.k_proj(x), v, None if keep is None else keep[:, None, None, :]

    def _heads(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, H, N, D)"""
        return x.view(x.size(0), x.size(1), self.cfg.num_heads, -1).transpose(1, 2)


class LinformerSelfAttention(SelfAttention):
    """Attention to K projected keys and values: O(N·K) instead of O(N²).

    Compresses, then projects: K = (E x) W_k + b costs K·C² where E (x W_k) + b costs N·C². Only with sharing `none`,
    where every head has its own E, projecting first is the cheaper order; the result is the same, since the bias is
    added last in both.

    Args:
        cfg: the encoder's configuration.
        k: projected length of this layer.
    """

    def __init__(self, cfg: EncoderConfig, k: int) -> None:
        super().__init__(cfg)
        self.k = k
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
        if self.cfg.one_per_head:
            if values is None:
                values = functional.linear(x, self.v_proj.weight)
            keys = functional.linear(x, self.k_proj.weight)
            return e(keys, keep) + self.k_proj.bias, f(values, keep) + self.v_proj.bias, mask
        compressed = e(x, keep)
        keys = self.k_proj(compressed)
        return keys, self.v_proj(compressed if f is e else f(x, keep)), mask


class NoAttention(nn.Module):
    """The control without attention: values, the local convolution if there is one, and the output projection."""

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.v_proj = nn.Linear(cfg.embed_dim, cfg.embed_dim)
        self.out_proj = nn.Linear(cfg.embed_dim, cfg.embed_dim)
        self.local_conv = LocalConv(cfg) if cfg.local_conv else nn.Identity()

    def forward(
        self,
        x: Tensor,
        keep: Tensor | None = None,
        shared: Projection | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """(B, N, C) -> (B, N, C) or (B, M, C); arguments as in `SelfAttention.forward`."""
        x_real = x if keep is None else x * keep.unsqueeze(-1)
        mixed = self.local_conv(functional.linear(x_real, self.v_proj.weight))
        result: Tensor = self.out_proj(at(mixed, wanted) + self.v_proj.bias)
        return result


def at(x: Tensor, places: Tensor | None) -> Tensor:
    """x (B, N, C) at the places (B, M) of each sample, (B, M, C); all of it for None."""
    return x if places is None else x.gather(1, places.unsqueeze(-1).expand(-1, -1, x.size(-1)))


class LocalConv(nn.Module):
    """A depthwise convolution over the values, added to what attention returns (Nystromformer, Xiong et al. 2021).

    It mixes neighbours from the first update on, which attention has to learn.
    """

    def __init__(self, cfg: EncoderConfig) -> None:
        super().__init__()
        self.width = cfg.local_conv
        self.conv = nn.Conv1d(cfg.embed_dim, cfg.embed_dim, cfg.local_conv, groups=cfg.embed_dim, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C); beyond the ends and at pads the values count as zero."""
        # As a 2-d convolution of height 1 this takes channels-last input without a copy: 4 times faster on a CPU.
        x_BC1N = values.transpose(1, 2).unsqueeze(2)
        mixed = functional.conv2d(
            x_BC1N, self.conv.weight.unsqueeze(2), padding=(0, self.width // 2), groups=x_BC1N.size(1)
        )
        return mixed.squeeze(2).transpose(1, 2)
