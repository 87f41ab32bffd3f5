"""The configuration of a Linformer in transformers."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from transformers import PretrainedConfig

from ..layers.config import EncoderConfig


class LinformerConfig(PretrainedConfig):
    """Sizes and options of a Linformer (Wang et al. 2020, arXiv 2006.04768).

    Args:
        vocab_size: rows of the token embedding.
        hidden_size: channels.
        num_hidden_layers: layers.
        num_attention_heads: heads, which divide `hidden_size`.
        intermediate_size: channels inside the feed-forward sublayer.
        max_position_embeddings: n of the paper, the longest input in tokens. Unlike RoBERTa's, it counts no rows
            before the first position.
        projected_length: k of the paper, one for all layers or one per layer, first to last.
        projection: kind of E and F: `linear`, `mean-pool`, `max-pool` or `conv`.
        projection_sharing: which E and F are one matrix: `none`, `headwise`, `key-value` or `layerwise`.
        projection_init: start of E and F: `block-mean` or `normal`.
        projection_lr_scale: learning rate of E and F relative to the rest, for Adam-like optimizers.
        freeze_projection: keep E and F as they are.
        attention: `linformer`, or the controls `exact` and `none`.
        local_conv: width of a depthwise convolution over the values, 0 for none.
        normalize_before: layer norm before each sublayer (pre-LN) instead of after it.
        hidden_act: `gelu` or `relu`.
        hidden_dropout_prob, attention_probs_dropout_prob, activation_dropout, layerdrop: probabilities in training.
        classifier_act: activation of the classification head: `tanh`, `gelu`, `relu` or `linear`.
        classifier_dropout: dropout of the classification head.
        initializer_range: standard deviation of new parameters.

    Raises:
        ValueError: a combination that cannot work; the message calls settings by their fairseq flags.
    """

    model_type = "linformer"

    vocab_size: int = 50265
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    projected_length: int | list[int] = 128
    projection: str = "linear"
    projection_sharing: str = "layerwise"
    projection_init: str = "block-mean"
    projection_lr_scale: float = 0.1
    freeze_projection: bool = False
    attention: str = "linformer"
    local_conv: int = 0
    normalize_before: bool = False
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    activation_dropout: float = 0.0
    layerdrop: float = 0.0
    classifier_act: str = "tanh"
    classifier_dropout: float = 0.0
    initializer_range: float = 0.02
    pad_token_id: int = 1
    bos_token_id: int = 0
    eos_token_id: int = 2
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.encoder()

    def encoder(self) -> EncoderConfig:
        """What the encoder is made of."""
        found = {ours: getattr(self, theirs) for ours, theirs in _names().items()}
        k = self.projected_length
        return EncoderConfig(**found | {"projected_length": k if isinstance(k, int) else tuple(k)})

    @classmethod
    def of_encoder(cls, encoder: EncoderConfig, **settings: Any) -> LinformerConfig:
        """The configuration with this encoder, and other settings by name; the inverse of `encoder`."""
        found = {theirs: getattr(encoder, ours) for ours, theirs in _names().items()}
        k = encoder.projected_length
        return cls(**found | {"projected_length": k if isinstance(k, int) else list(k)}, **settings)


# Settings that transformers calls otherwise than the encoder does.
_RENAMED = {
    "pad_index": "pad_token_id",
    "max_positions": "max_position_embeddings",
    "embed_dim": "hidden_size",
    "ffn_dim": "intermediate_size",
    "num_heads": "num_attention_heads",
    "num_layers": "num_hidden_layers",
    "sharing": "projection_sharing",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "activation": "hidden_act",
}


def _names() -> dict[str, str]:
    """Names here by the names of the encoder's settings; transformers has its own switch for checkpoint_activations."""
    ours = [field.name for field in fields(EncoderConfig) if field.name != "checkpoint_activations"]
    return {name: _RENAMED.get(name, name) for name in ours}
