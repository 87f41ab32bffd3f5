"""Linformer for transformers: the encoder of `layers/` with RoBERTa's heads, arguments and losses.

Pads may stand on either side: real tokens are moved together, encoded, and moved back, so that the numbers of a text do
not depend on them. Shapes: B batch, N tokens, C channels, H heads, S slots.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import (
    BaseModelOutput,
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from ..layers.adaptive import AdaptiveProjection
from ..layers.attention import at
from ..layers.encoder import LinformerEncoder
from ..layers.fused import compiling
from ..layers.learned import LearnedProjection
from ..layers.projection import ConvProjection, LinearProjection
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


def loss_of(function: Callable[..., Tensor], scores: Tensor, targets: Tensor, count: Any, **options: Any) -> Tensor:
    """The mean loss in float32, or with `count`, the targets of all batches of an update, its part of their mean."""
    if count is None:
        return function(scores.float(), targets, **options)
    count = count.to(scores.device) if isinstance(count, Tensor) else count
    return function(scores.float(), targets, reduction="sum", **options) / count


class LinformerPreTrainedModel(PreTrainedModel):
    """What all Linformers share: how parameters start and what may be left in a file."""

    config: LinformerConfig
    config_class = LinformerConfig
    base_model_prefix = "linformer"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    # A folder made from a fairseq checkpoint has all of its heads, and any of them may be wanted.
    _keys_to_ignore_on_load_unexpected = [r"^lm_head\.", r"^classifier\.", r"^classification_heads\.", r"^qa_outputs\."]

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

    def __init__(self, config: LinformerConfig) -> None:
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

    def set_input_embeddings(self, value: nn.Module) -> None:
        assert isinstance(value, nn.Embedding)
        self.encoder.embed_tokens = value

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
    return torch.zeros_like(x).scatter(1, where, x.expand(where.shape))


def _moved_back(of_slots: Tensor, of_tokens: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Attention (B, H, N, …) of tokens that were moved, from where and to where they stood."""
    rows = places[:, None, :, None]
    of_slots = of_slots.gather(2, rows.expand(*of_slots.shape[:3], of_slots.size(3)))
    of_tokens = of_tokens.gather(2, rows.expand(*of_tokens.shape[:3], of_tokens.size(3)))
    return of_slots, of_tokens.gather(3, rows.transpose(2, 3).expand_as(of_tokens)) if of_tokens.size(3) else of_tokens


class LinformerWithHead(LinformerPreTrainedModel):
    """A Linformer and a head, which turns features into scores and scores into a loss."""

    def __init__(self, config: LinformerConfig) -> None:
        super().__init__(config)
        self.num_labels: int = config.num_labels or 0
        self.linformer = LinformerModel(config)
        self.add_head(config)
        self.post_init()

    @or_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **loss_arguments: Any,
    ) -> Any:
        """Arguments as `LinformerModel.forward`, and `labels`.

        Of the `loss_arguments`, `num_items_in_batch` is the number of labels in all batches of an update: the loss is
        its sum divided by that. `Trainer` gives it, so that accumulating gradients changes nothing.
        """
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        out, logits = self.run(inputs, output_attentions, output_hidden_states)
        loss = None if labels is None else self.loss(logits, labels, loss_arguments.get("num_items_in_batch"))
        return self.output(loss=loss, logits=logits, hidden_states=out.hidden_states, attentions=out.attentions)

    output: type[Any]

    def run(self, inputs: Sequence[Tensor | None], *wanted: bool | None) -> tuple[BaseModelOutput, Tensor]:
        """What the Linformer gives for its first five arguments, and the scores."""
        out = self.linformer(*inputs, *wanted, return_dict=True)
        real = real_tokens(inputs[0], inputs[1], self.config.pad_token_id)
        return out, self.scores(out.last_hidden_state, real)

    def add_head(self, config: LinformerConfig) -> None:
        """Makes the modules of the head."""
        raise NotImplementedError

    def scores(self, features: Tensor, real: Tensor | None) -> Tensor:
        """Logits of features (B, N, C), of which pads are not `real` (B, N)."""
        raise NotImplementedError

    def loss(self, logits: Tensor, labels: Tensor, count: Any) -> Tensor:
        """The loss: by default that of classes, where a label of -100 does not count."""
        return loss_of(functional.cross_entropy, logits.flatten(0, -2), labels.flatten(), count)


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


class LinformerForMaskedLM(LinformerWithHead):
    """Linformer with a masked-LM head; labels (B, N)."""

    _tied_weights_keys = {"lm_head.decoder.weight": "linformer.encoder.embed_tokens.weight"}
    output = MaskedLMOutput

    def add_head(self, config: LinformerConfig) -> None:
        self.lm_head = LinformerLMHead(config)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.lm_head.decoder = new_embeddings

    def scores(self, features: Tensor, real: Tensor | None) -> Tensor:
        return self.lm_head(features)


class LinformerClassificationHead(nn.Module):
    """Features of <s> to scores, with RoBERTa's parameters."""

    def __init__(self, config: LinformerConfig, labels: int) -> None:
        super().__init__()
        name = config.classifier_act
        self.activation = nn.Identity() if name == "linear" else getattr(functional, name)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.out_proj = nn.Linear(config.hidden_size, labels)

    def forward(self, features: Tensor, real: Tensor | None = None) -> Tensor:
        """(B, N, C), with pads not `real` (B, N), -> (B, labels), from the first real token."""
        first = features[:, 0] if real is None else at(features, real.long().argmax(1, keepdim=True))[:, 0]
        x = self.activation(self.dense(self.dropout(first)))
        return self.out_proj(self.dropout(x))


class LinformerForSequenceClassification(LinformerWithHead):
    """Linformer with a classification or regression head on <s>.

    Labels are what `config.problem_type` says: numbers (B,), classes (B,), or 0 and 1 for each of several labels
    (B, labels); without a problem type, their type and `num_labels` decide.
    """

    output = SequenceClassifierOutput

    def add_head(self, config: LinformerConfig) -> None:
        self.classifier = LinformerClassificationHead(config, self.num_labels)

    def scores(self, features: Tensor, real: Tensor | None) -> Tensor:
        return self.classifier(features, real)

    def loss(self, logits: Tensor, labels: Tensor, count: Any) -> Tensor:
        problem = self.config.problem_type
        if problem == "regression" or (problem is None and self.num_labels == 1):
            return loss_of(functional.mse_loss, logits.flatten(), labels.flatten().float(), count)
        if problem == "multi_label_classification" or (problem is None and labels.is_floating_point()):
            return loss_of(functional.binary_cross_entropy_with_logits, logits, labels.float(), count)
        return super().loss(logits, labels, count)


class LinformerForTokenClassification(LinformerWithHead):
    """Linformer with a class for each token; labels (B, N)."""

    output = TokenClassifierOutput

    def add_head(self, config: LinformerConfig) -> None:
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, self.num_labels)

    def scores(self, features: Tensor, real: Tensor | None) -> Tensor:
        return self.classifier(self.dropout(features))


class LinformerForMultipleChoice(LinformerWithHead):
    """Linformer that chooses one of several texts; its inputs are (B, choices, N), and labels (B,)."""

    output = MultipleChoiceModelOutput

    def add_head(self, config: LinformerConfig) -> None:
        self.classifier = LinformerClassificationHead(config, 1)

    def run(self, inputs: Sequence[Tensor | None], *wanted: bool | None) -> tuple[BaseModelOutput, Tensor]:
        choices = next(x.size(1) for x in (inputs[0], inputs[-1]) if x is not None)
        out, scores = super().run([None if x is None else x.flatten(0, 1) for x in inputs], *wanted)
        return out, scores.view(-1, choices)

    def scores(self, features: Tensor, real: Tensor | None) -> Tensor:
        return self.classifier(features, real)


class LinformerForQuestionAnswering(LinformerWithHead):
    """Linformer that finds the first and the last token of an answer."""

    def add_head(self, config: LinformerConfig) -> None:
        self.qa_outputs = nn.Linear(config.hidden_size, 2)

    @or_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **loss_arguments: Any,
    ) -> QuestionAnsweringModelOutput:
        """As `LinformerWithHead.forward`, with the positions (B,) of an answer; those outside do not count."""
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        out, logits = self.run(inputs, output_attentions, output_hidden_states)
        ends, loss = logits.unbind(-1), None
        if start_positions is not None and end_positions is not None:
            n, count = logits.size(1), loss_arguments.get("num_items_in_batch")
            targets = (positions.view(-1).clamp(0, n) for positions in (start_positions, end_positions))
            losses = [
                loss_of(functional.cross_entropy, scores, target, count, ignore_index=n)
                for scores, target in zip(ends, targets, strict=True)
            ]
            loss = (losses[0] + losses[1]) / 2
        starts, stops = (scores.contiguous() for scores in ends)
        return QuestionAnsweringModelOutput(
            loss=loss,
            start_logits=starts,
            end_logits=stops,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )

    def scores(self, features: Tensor, real: Tensor | None) -> Tensor:
        return self.qa_outputs(features)


__all__ = [
    "LinformerForMaskedLM",
    "LinformerForMultipleChoice",
    "LinformerForQuestionAnswering",
    "LinformerForSequenceClassification",
    "LinformerForTokenClassification",
    "LinformerModel",
    "LinformerPreTrainedModel",
]
