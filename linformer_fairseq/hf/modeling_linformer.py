"""Linformers for transformers with RoBERTa's heads, arguments and losses. Read `encoder_linformer.py` first.

Shapes: B batch, N tokens, C channels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as functional
from torch import Tensor, nn
from transformers.modeling_outputs import (
    BaseModelOutput,
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from ..layers.fused import at
from .configuration_linformer import LinformerConfig
from .encoder_linformer import LinformerModel, LinformerPreTrainedModel, or_tuple, real_tokens


def loss_of(function: Callable[..., Tensor], scores: Tensor, targets: Tensor, count: Any, **options: Any) -> Tensor:
    """The mean loss in float32, or with `count`, the targets of all batches of an update, its part of their mean."""
    if count is None:
        return function(scores.float(), targets, **options)
    count = count.to(scores.device) if isinstance(count, Tensor) else count
    return function(scores.float(), targets, reduction="sum", **options) / count


class LinformerWithHead(LinformerPreTrainedModel):
    """A Linformer and a head, which turns features into scores and scores into a loss."""

    def __init__(self, config: LinformerConfig) -> None:
        super().__init__(config)
        if config.classifier_dropout is None:
            config.classifier_dropout = config.hidden_dropout_prob
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
    classifier: nn.Module  # of the heads whose scores are its

    def run(self, inputs: Sequence[Tensor | None], *wanted: bool | None) -> tuple[BaseModelOutput, Tensor]:
        """What the Linformer gives for its first five arguments, and the scores."""
        out = self.linformer(*inputs, *wanted, return_dict=True)
        real = real_tokens(inputs[0], inputs[1], self.config.pad_token_id)
        return out, self.scores(out.last_hidden_state, real)

    def add_head(self, config: LinformerConfig) -> None:
        """Makes the modules of the head."""
        raise NotImplementedError

    def scores(self, features: Tensor, real: Tensor | None) -> Tensor:
        """Logits of features (B, N, C), of which pads are not `real` (B, N); by default those of a `classifier`."""
        return self.classifier(features, real)

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
        return QuestionAnsweringModelOutput(loss, starts, stops, out.hidden_states, out.attentions)

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
