"""Linformer for transformers: the encoder of `layers/` with RoBERTa's heads.

Inputs are padded on the right, as the tokenizer does it; there are no token types and no attention maps.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from transformers import PreTrainedModel, initialization
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput, SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

from ..layers.adaptive import AdaptiveProjection
from ..layers.encoder import LinformerEncoder
from ..layers.projection import ConvProjection, LinearProjection
from .configuration_linformer import LinformerConfig


class LinformerPreTrainedModel(PreTrainedModel):
    """What all Linformers share: how parameters start and what may be left in a file."""

    config: LinformerConfig
    config_class = LinformerConfig
    base_model_prefix = "linformer"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    # A folder made from a fairseq checkpoint has all of its heads.
    _keys_to_ignore_on_load_unexpected = [r"^lm_head\.", r"^classifier\.", r"^classification_heads\."]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Starts the parameters of a module that no file had, as fairseq does for RoBERTa."""
        if isinstance(module, nn.Conv1d):
            initialization.kaiming_uniform_(module.weight, a=math.sqrt(5))
        elif isinstance(module, (LinearProjection, ConvProjection, AdaptiveProjection)):
            cfg, shape = self.config.encoder(), module.weight.shape
            if isinstance(module, AdaptiveProjection):
                k = module.k
            else:
                k = shape[-2] if isinstance(module, LinearProjection) else cfg.max_positions // shape[-1]
            fresh = type(module)(cfg, k)
            initialization.copy_(module.weight, fresh.weight)
            initialization.copy_(module.lr_scale, fresh.lr_scale)
        else:
            super()._init_weights(module)


class LinformerModel(LinformerPreTrainedModel):
    """Token ids to features."""

    def __init__(self, config: LinformerConfig) -> None:
        super().__init__(config)
        self.encoder = LinformerEncoder(config.encoder())
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

    def set_input_embeddings(self, value: nn.Module) -> None:
        assert isinstance(value, nn.Embedding)
        self.encoder.embed_tokens = value

    @can_return_tuple
    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, output_hidden_states: bool | None = None
    ) -> BaseModelOutput:
        """Encodes `input_ids` (B, N); in `attention_mask` (B, N), 0 marks a pad, and by default `pad_token_id` does.

        Hidden states are the input of the first layer and the output of every layer.
        """
        if attention_mask is not None and attention_mask.shape != input_ids.shape:
            shapes = f"{tuple(attention_mask.shape)} and input_ids {tuple(input_ids.shape)}"
            raise ValueError(f"attention_mask has the shape {shapes}; a Linformer masks tokens, not pairs of them")
        if output_hidden_states is None:
            output_hidden_states = bool(self.config.output_hidden_states)
        real = None if attention_mask is None else attention_mask.bool()
        features, hiddens = self.encoder(input_ids, output_hidden_states, real)
        return BaseModelOutput(features, tuple(hiddens) if output_hidden_states else None)


class LinformerLMHead(nn.Module):
    """Features to logits over the vocabulary, with RoBERTa's parameters."""

    def __init__(self, config: LinformerConfig) -> None:
        super().__init__()
        self.activation = getattr(functional, config.hidden_act)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, features: Tensor) -> Tensor:
        """(…, C) -> (…, vocabulary)"""
        return self.decoder(self.layer_norm(self.activation(self.dense(features))))


class LinformerForMaskedLM(LinformerPreTrainedModel):
    """Linformer with a masked-LM head."""

    _tied_weights_keys = {"lm_head.decoder.weight": "linformer.encoder.embed_tokens.weight"}

    def __init__(self, config: LinformerConfig) -> None:
        super().__init__(config)
        self.linformer = LinformerModel(config)
        self.lm_head = LinformerLMHead(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.lm_head.decoder = new_embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> MaskedLMOutput:
        """Predicts tokens; arguments as `LinformerModel.forward`, and `labels` (B, N), -100 where none is asked for."""
        out = self.linformer(input_ids, attention_mask, output_hidden_states, return_dict=True)
        logits = self.lm_head(out.last_hidden_state)
        loss = None if labels is None else functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        return MaskedLMOutput(loss=loss, logits=logits, hidden_states=out.hidden_states)


class LinformerClassificationHead(nn.Module):
    """Features of <s> to scores, with RoBERTa's parameters."""

    def __init__(self, config: LinformerConfig) -> None:
        super().__init__()
        name, labels = config.classifier_act, config.num_labels
        assert labels is not None
        self.activation = nn.Identity() if name == "linear" else getattr(functional, name)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.out_proj = nn.Linear(config.hidden_size, labels)

    def forward(self, features: Tensor) -> Tensor:
        """(B, N, C) -> (B, labels)"""
        x = self.activation(self.dense(self.dropout(features[:, 0])))
        return self.out_proj(self.dropout(x))


class LinformerForSequenceClassification(LinformerPreTrainedModel):
    """Linformer with a classification or regression head on <s>."""

    def __init__(self, config: LinformerConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.linformer = LinformerModel(config)
        self.classifier = LinformerClassificationHead(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> SequenceClassifierOutput:
        """Scores texts; arguments as `LinformerModel.forward`, and `labels` as `config.problem_type` says.

        They are numbers (B,), classes (B,), or 0 and 1 for each of several labels (B, labels); without a problem type,
        their type and `num_labels` decide.
        """
        out = self.linformer(input_ids, attention_mask, output_hidden_states, return_dict=True)
        logits = self.classifier(out.last_hidden_state)
        loss = None if labels is None else self._loss(logits.float(), labels)
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=out.hidden_states)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        problem = self.config.problem_type
        if problem == "regression" or (problem is None and self.num_labels == 1):
            return functional.mse_loss(logits.flatten(), labels.flatten().to(logits))
        if problem == "multi_label_classification" or (problem is None and labels.is_floating_point()):
            return functional.binary_cross_entropy_with_logits(logits, labels.to(logits))
        return functional.cross_entropy(logits, labels.flatten())


__all__ = ["LinformerForMaskedLM", "LinformerForSequenceClassification", "LinformerModel", "LinformerPreTrainedModel"]
