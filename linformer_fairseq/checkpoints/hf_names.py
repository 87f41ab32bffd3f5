"""Parameters and settings of a Linformer, by fairseq's names and by those of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from linformer_fairseq.checkpoints.checkpoint import EMBEDDING, HEADS, OUTPUT, Checkpoint, complete_settings
from linformer_fairseq.errors import UsageError
from linformer_fairseq.hf.configuration_linformer import LinformerConfig
from linformer_fairseq.models.architectures import MODEL

# fairseq's names of parameters and transformers', by their beginnings.
_NAMES = (
    ("encoder.sentence_encoder.", "linformer.encoder."),
    ("encoder.lm_head.weight", "lm_head.decoder.weight"),
    ("encoder.lm_head.bias", "lm_head.decoder.bias"),
    ("encoder.lm_head.", "lm_head."),
    (HEADS, HEADS),
)
_CLASSIFIER = "classifier."


def to_hf_names(checkpoint: Checkpoint, head: str | None, config: LinformerConfig) -> dict[str, Tensor]:
    """All parameters, an output matrix that is the embedding's left out.

    Args:
        checkpoint: what is exported.
        head: the classification head that becomes `classifier`; others keep their names.
        config: of the exported model.

    Raises:
        UsageError: the settings call two matrices one, which they are not.
    """
    if config.tie_word_embeddings and not torch.equal(checkpoint.state[OUTPUT], checkpoint.state[EMBEDDING]):
        raise UsageError(
            f"{OUTPUT} differs from the embedding, of which the checkpoint's settings say that it is the same matrix; "
            "it needs untie_weights_roberta"
        )
    state: dict[str, Tensor] = {}
    for key, value in checkpoint.state.items():
        if key.endswith(".version") or (key == OUTPUT and config.tie_word_embeddings):
            continue
        if head is not None and key.startswith(f"{HEADS}{head}."):
            name = _CLASSIFIER + key.removeprefix(f"{HEADS}{head}.")
        else:
            name = _renamed(key, 0, 1)
        state[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    return state


def _renamed(key: str, old: int, new: int) -> str:
    for pair in _NAMES:
        if key.startswith(pair[old]):
            return pair[new] + key.removeprefix(pair[old])
    raise UsageError(f"the parameter {key} belongs to no part of a Linformer")


def to_fairseq_names(state: dict[str, Tensor], head: str) -> dict[str, Tensor]:
    """The same tensors by fairseq's names; `classifier` becomes the classification head `head`.

    Raises:
        UsageError: a parameter that no Linformer has.
    """
    found = {}
    for key, value in state.items():
        if key.startswith("encoder."):  # AutoModel without a head has no prefix
            key = f"linformer.{key}"
        if key.startswith(_CLASSIFIER):
            found[f"{HEADS}{head}.{key.removeprefix(_CLASSIFIER)}"] = value
        else:
            found[_renamed(key, 1, 0)] = value
    return found


def fairseq_settings(config: LinformerConfig, stored: dict[str, Any]) -> dict[str, Any]:
    """Settings of the fairseq model: those it had, where the configuration still says the same."""
    k = config.projected_length
    said: dict[str, Any] = {
        "projected_length": str(k) if isinstance(k, int) else ",".join(map(str, k)),
        "projection": config.projection,
        "projection_sharing": config.projection_sharing,
        "projection_init": config.projection_init,
        "projection_lr_scale": config.projection_lr_scale,
        "freeze_projection": config.freeze_projection,
        "attention": config.attention,
        "local_conv": config.local_conv,
        "max_positions": config.max_position_embeddings,
        "encoder_layers": config.num_hidden_layers,
        "encoder_embed_dim": config.hidden_size,
        "encoder_ffn_embed_dim": config.intermediate_size,
        "encoder_attention_heads": config.num_attention_heads,
        "encoder_normalize_before": config.normalize_before,
        "activation_fn": config.hidden_act,
        "dropout": config.hidden_dropout_prob,
        "attention_dropout": config.attention_probs_dropout_prob,
        "activation_dropout": config.activation_dropout,
        "encoder_layerdrop": config.layerdrop,
        "untie_weights_roberta": not config.tie_word_embeddings,
        "pooler_activation_fn": config.classifier_act,
        "pooler_dropout": config.classifier_dropout,
    }
    if not stored:
        return {"_name": MODEL, **said}
    had = vars(complete_settings(stored))
    had["projected_length"] = str(had["projected_length"]).replace(" ", "")
    return {**stored, **{key: value for key, value in said.items() if had.get(key) != value}}


def without_folders(value: Any) -> Any:
    """The same with the last part only of every absolute path, which would tell about the machine."""
    if isinstance(value, dict):
        return {key: without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_folders(inner) for inner in value]
    if isinstance(value, str) and value.startswith("/"):
        return ":".join(Path(part).name for part in value.split(":"))
    return value
