"""Every setting of `linformer_roberta`: the help texts here are what `fairseq-train --help` prints."""

# ruff: noqa: UP045 (fairseq reads the annotations at run time and knows Optional[X], not X | None)

from argparse import Namespace
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from omegaconf import DictConfig

from linformer_fairseq.layers.config import (
    ACTIVATIONS,
    ATTENTIONS,
    INITS,
    PROJECTIONS,
    SHARINGS,
    EncoderConfig,
    parse_projected_length,
)

Attention: Any = ChoiceEnum(list(ATTENTIONS))
Projection: Any = ChoiceEnum(list(PROJECTIONS))
Sharing: Any = ChoiceEnum(list(SHARINGS))
Init: Any = ChoiceEnum(list(INITS))
Activation: Any = ChoiceEnum(list(ACTIVATIONS))
PoolerActivation: Any = ChoiceEnum(["tanh", "gelu", "relu", "linear"])

BY_ARCH = "(default: as --arch has it)"


def setting(default: Any, text: str) -> Any:
    """A dataclass field with its help text."""
    return field(default=default, metadata={"help": text})


@dataclass
class LinformerRobertaConfig(FairseqDataclass):
    """Settings of the model. Where the default is None, the architecture decides (see architectures.py)."""

    projected_length: Optional[str] = setting(
        None,
        "k of the paper: keys and values of n tokens are projected to k. One whole number, or one per layer, "
        f"comma separated, first layer first (non-uniform k) {BY_ARCH}; without one, n/4 but at most 256",
    )
    projection: Projection = setting(
        "linear",
        "kind of E and F: a learned k x n matrix (linear), or a pooling or depthwise convolution over blocks of n/k "
        "tokens (mean-pool, max-pool, conv)",
    )
    projection_sharing: Sharing = setting(
        "layerwise",
        "which E and F are one matrix (paper, section 4). none: own E and F for every head and layer; headwise: E and "
        "F for every layer; key-value: one E = F for every layer; layerwise: one E = F for the whole model",
    )
    projection_init: Init = setting(
        "block-mean",
        "start of E and F: averages of n/k neighbours plus a little noise (block-mean), or the paper's N(0, 1/k) "
        "(normal)",
    )
    projection_lr_scale: float = setting(
        0.1,
        "learning rate of E and F as a multiple of --lr; holds for optimizers whose step does not depend on the size "
        "of the gradient, such as adam and lamb",
    )
    freeze_projection: bool = setting(False, "keep E and F as they start")
    attention: Attention = setting(
        "linformer",
        "linformer, or a control with everything else equal: exact (softmax over all tokens) or none",
    )
    local_conv: Optional[int] = setting(
        None,
        "width of a depthwise convolution over the values, added to the attention output; odd, 0 for none, as in the "
        f"paper {BY_ARCH}",
    )
    max_positions: Optional[int] = setting(
        None, f"n of the paper: longest input in tokens {BY_ARCH}; without one, --tokens-per-sample"
    )
    encoder_layers: Optional[int] = setting(None, f"number of layers {BY_ARCH}")
    encoder_embed_dim: Optional[int] = setting(None, f"channels {BY_ARCH}")
    encoder_ffn_embed_dim: Optional[int] = setting(None, f"channels inside the feed-forward sublayer {BY_ARCH}")
    encoder_attention_heads: Optional[int] = setting(None, f"attention heads {BY_ARCH}")
    encoder_normalize_before: Optional[bool] = setting(
        None, f"layer norm before each sublayer instead of after it (pre-LN) {BY_ARCH}"
    )
    activation_fn: Activation = setting("gelu", "activation of the feed-forward sublayer")
    dropout: float = setting(0.1, "dropout of embeddings and sublayer outputs")
    attention_dropout: float = setting(0.1, "dropout of attention weights")
    activation_dropout: float = setting(0.0, "dropout after the activation of the feed-forward sublayer")
    encoder_layerdrop: float = setting(0.0, "probability of leaving out a layer in training (Fan et al. 2019)")
    checkpoint_activations: bool = setting(
        False,
        "keep only the input of each layer and compute the rest again in the backward pass: less memory",
    )
    compile: bool = setting(
        False,
        "compile the layers with torch.compile: few graphs for all lengths, a minute or two at the start. For GPUs; on "
        "a CPU the layers train faster without. Needs a C++ compiler",
    )
    untie_weights_roberta: bool = setting(False, "give the masked-LM head its own output matrix")
    pooler_activation_fn: PoolerActivation = setting("tanh", "activation of classification heads")
    pooler_dropout: float = setting(0.0, "dropout of classification heads")
    spectral_norm_classification_head: bool = setting(False, "spectral norm on classification heads (R3F)")
    load_checkpoint_heads: bool = setting(False, "also load the classification heads a checkpoint has")
    compressed: Optional[int] = setting(
        None, "DEPRECATED, of fairseq's examples/linformer: n/k. Use --projected-length"
    )
    shared_kv_compressed: Optional[int] = setting(
        None, "DEPRECATED, of fairseq's examples/linformer. 1 is --projection-sharing key-value"
    )
    shared_layer_kv_compressed: Optional[int] = setting(
        None, "DEPRECATED, of fairseq's examples/linformer. 1 is --projection-sharing layerwise"
    )
    freeze_compress: Optional[int] = setting(
        None, "DEPRECATED, of fairseq's examples/linformer. 1 is --freeze-projection"
    )


def encoder_config(cfg: Namespace | DictConfig, vocab_size: int, pad_index: int) -> EncoderConfig:
    """The encoder's configuration for complete fairseq settings.

    Raises:
        ValueError: settings that do not fit together, by flag name.
    """
    return EncoderConfig(
        vocab_size=vocab_size,
        pad_index=pad_index,
        max_positions=cfg.max_positions,
        embed_dim=cfg.encoder_embed_dim,
        ffn_dim=cfg.encoder_ffn_embed_dim,
        num_heads=cfg.encoder_attention_heads,
        num_layers=cfg.encoder_layers,
        projected_length=parse_projected_length(cfg.projected_length),
        projection=str(cfg.projection),
        sharing=str(cfg.projection_sharing),
        projection_init=str(cfg.projection_init),
        projection_lr_scale=cfg.projection_lr_scale,
        freeze_projection=cfg.freeze_projection,
        attention=str(cfg.attention),
        local_conv=cfg.local_conv,
        dropout=cfg.dropout,
        attention_dropout=cfg.attention_dropout,
        activation_dropout=cfg.activation_dropout,
        activation=str(cfg.activation_fn),
        normalize_before=cfg.encoder_normalize_before,
        layerdrop=cfg.encoder_layerdrop,
        checkpoint_activations=cfg.checkpoint_activations,
    )
