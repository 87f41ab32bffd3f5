"""Linformer for transformers: the encoder of `layers/` without a head.

Pads may stand on either side: real tokens are moved together, encoded, and moved back, so that the numbers of a text do
not depend on them. Shapes: B batch, N tokens, C channels, H heads, S slots.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from ..layers.encoder import LinformerEncoder
from ..layers.fused import at, compiling
from ..layers.projection import AdaptiveProjection, ConvProjection, LearnedProjection, LinearProjection
from .configuration_linformer import LinformerConfig

try:  # since transformers 5; leaves alone what a file had
    from transformers.initialization import copy_
except ImportError:

    def copy_(tensor: Tensor, other: Tensor) -> Tensor:
        return tensor.copy_(other)


def or_tuple(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Let a forward pass take `return_dict`, False for a tuple."""

    @wraps(forward)
    def wrapped(self: Any, *args: Any, return_dict: bool | None = None, **kwargs: Any) -> Any:
        out = forward(self, *args, **kwargs)
        if return_dict is None:
            return_dict = getattr(self.config, "return_dict", True) and not getattr(self.config, "torchscript", False)
        return out if return_dict else out.to_tuple()

    return wrapped


class LinformerPreTrainedModel(PreTrainedModel):
    """What all Linformers share: how parameters start and what may be left in a file."""

    config: LinformerConfig
    config_class = LinformerConfig
    base_model_prefix = "linformer"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    # A folder made from a fairseq checkpoint has all of its heads, and any of them may be wanted.
    _keys_to_ignore_on_load_unexpected = [r"^lm_head\.", r"^classifier\.", r"^classification_heads\.", r"^qa_outputs\."]

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True  # "eager" is asked for before `config.output_attentions`, which any of ours can serve

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Starts the parameters of a module that no file had, as fairseq does for RoBERTa."""
        fresh: dict[str, Tensor] = {}
        own = dict(module.named_parameters(recurse=False))
        if isinstance(module, (LinearProjection, ConvProjection, AdaptiveProjection)):
            cfg, shape = self.config.encoder(), module.weight.shape
            if isinstance(module, AdaptiveProjection):
                k = module.k
            else:
                k = shape[-2] if isinstance(module, LinearProjection) else cfg.max_positions // shape[-1]
            made = type(module)(cfg, k)
            fresh = {"weight": made.weight, "lr_scale": made.lr_scale}
        elif isinstance(module, nn.Conv1d):
            fresh["weight"] = nn.init.kaiming_uniform_(torch.empty(module.weight.shape), a=math.sqrt(5))
        elif isinstance(module, (nn.Linear, nn.Embedding)):
            fresh["weight"] = torch.empty(module.weight.shape).normal_(std=self.config.initializer_range)
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                fresh["weight"][module.padding_idx] = 0
        elif "Norm" in type(module).__name__:
            fresh["weight"] = torch.ones(own["weight"].shape)
        if fresh and "bias" in own:
            fresh["bias"] = torch.zeros(own["bias"].shape)
        for name, value in fresh.items():
            copy_(getattr(module, name), value)


class LinformerModel(LinformerPreTrainedModel):
    """Token ids to features."""

    def __init__(self, config: LinformerConfig, add_pooling_layer: bool = False) -> None:
        if add_pooling_layer:
            raise ValueError("add_pooling_layer is True; a Linformer has no pooling layer")
        super().__init__(config)
        self.encoder = LinformerEncoder(config.encoder())
        for module in self.encoder.modules():
            if isinstance(module, LearnedProjection):
                module.converts_loaded = False
        self.post_init()

    @property
    def gradient_checkpointing(self) -> bool:
        """Set by `gradient_checkpointing_enable`; the encoder itself does the work, without re-entrance."""
        return self.encoder.cfg.checkpoint_activations

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, enable: bool) -> None:
        self.encoder.cfg = replace(self.encoder.cfg, checkpoint_activations=enable)

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.embed_tokens

    def set_input_embeddings(self, value: Any) -> None:
        self.encoder.embed_tokens = value  # may be a module around an embedding

    @or_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> BaseModelOutput:
        """Encodes texts.

        Args:
            input_ids: (B, N), or instead inputs_embeds: (B, N, C), rows of the token embedding.
            attention_mask: (B, N), 0 marks a pad; by default `pad_token_id` does.
            token_type_ids: (B, N) zeros; there is one type.
            position_ids: (B, N) rows of the position table, whose first position is `pad_token_id` + 1 as in RoBERTa;
                by default the real tokens are counted.
            output_hidden_states: return the input of the first layer and the output of every layer.
            output_attentions: return what each token attends to in every layer (B, H, N, S), without dropout: k slots,
                or the N tokens where attention is exact, or with a local window both, first the slots.
        """
        given = input_ids if inputs_embeds is None else inputs_embeds
        if given is None or (input_ids is not None and inputs_embeds is not None):
            raise ValueError("give either input_ids or inputs_embeds")
        if attention_mask is not None and attention_mask.shape != given.shape[:2]:
            shapes = f"{tuple(attention_mask.shape)} and the input {tuple(given.shape[:2])}"
            raise ValueError(f"attention_mask has the shape {shapes}; a Linformer masks tokens, not pairs of them")
        if token_type_ids is not None and not compiling() and bool(token_type_ids.any()):
            raise ValueError("token_type_ids are not all 0; a Linformer has one type of token")
        if output_hidden_states is None:
            output_hidden_states = bool(self.config.output_hidden_states)
        if output_attentions is None:
            output_attentions = bool(self.config.output_attentions)

        real = real_tokens(input_ids, attention_mask, self.config.pad_token_id)
        if real is None:
            real = torch.ones(given.shape[:2], dtype=torch.bool, device=given.device)
        places = places_together(real)
        if places is not None:
            given, position_ids = moved(given, places), moved(position_ids, places)
            real = torch.arange(real.size(1), device=real.device) < real.long().sum(1, keepdim=True)
        features, hiddens = self.encoder(given, output_hidden_states or output_attentions, real, positions=position_ids)
        attentions = self.encoder.attention_weights(hiddens, real) if output_attentions else []
        if places is not None:
            features, hiddens = at(features, places), [at(x, places) for x in hiddens]
            attentions = [_moved_back(*weights, places) for weights in attentions]
        return BaseModelOutput(
            features,
            tuple(hiddens) if output_hidden_states else None,
            tuple(torch.cat(weights, -1) for weights in attentions) if output_attentions else None,
        )


def real_tokens(ids: Tensor | None, mask: Tensor | None, pad: int) -> Tensor | None:
    """(B, N), False for a pad; None if nothing tells."""
    return mask.bool() if mask is not None else None if ids is None else ids.ne(pad)


def places_together(real: Tensor) -> Tensor | None:
    """Where each token goes if all real ones come first, (B, N); None if they do. A graph always moves them."""
    if not compiling() and not bool((real[:, 1:] & ~real[:, :-1]).any()):
        return None
    rank = real.long().cumsum(1)
    return torch.where(real, rank - 1, rank[:, -1:] + torch.arange(real.size(1), device=real.device) - rank)


def moved(x: Tensor | None, places: Tensor) -> Tensor | None:
    """x (B, N) or (B, N, C) with each token at its place; the inverse of `at`."""
    if x is None:
        return None
    where = places if x.dim() == 2 else places.unsqueeze(-1).expand_as(x)
    x = x.expand(where.shape)  # positions may be given once for all texts
    return torch.zeros_like(x).scatter(1, where, x)


def _moved_back(of_slots: Tensor, of_tokens: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Attention (B, H, N, …) of tokens that were moved, from where and to where they stood."""
    rows = places[:, None, :, None]
    of_slots = of_slots.gather(2, rows.expand(*of_slots.shape[:3], of_slots.size(3)))
    of_tokens = of_tokens.gather(2, rows.expand(*of_tokens.shape[:3], of_tokens.size(3)))
    return of_slots, of_tokens.gather(3, rows.transpose(2, 3).expand_as(of_tokens)) if of_tokens.size(3) else of_tokens
