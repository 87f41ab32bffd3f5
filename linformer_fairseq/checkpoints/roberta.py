"""A RoBERTa, of fairseq or Hugging Face, as this project's model with exact attention and equal logits.

Such a checkpoint is a Linformer's that lacks E and F: `warm_start.to_linformer` adds them.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_NAME_REGISTRY
from torch import Tensor

from linformer_fairseq.checkpoints.checkpoint import EMBEDDING, MAX_SPECIAL, OUTPUT, POSITIONS, Checkpoint, build, read
from linformer_fairseq.checkpoints.hf_roberta import from_hf_roberta
from linformer_fairseq.checkpoints.hf_vocabulary import tokenizer_files
from linformer_fairseq.checkpoints.names import modern_names
from linformer_fairseq.errors import UsageError
from linformer_fairseq.layers.config import ACTIVATIONS
from linformer_fairseq.models.architectures import ARCHITECTURES, MODEL

__all__ = ["from_fairseq_roberta", "from_hf_roberta", "from_roberta", "tokenizer_files"]

_LAYER = re.compile(r"encoder\.sentence_encoder\.layers\.(\d+)\.fc1\.weight")
# Settings that mean the same here, and the values that fairseq's RoBERTa has without them.
_KEPT = ("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop", "pooler_dropout")
_CHOICES = ("pooler_activation_fn", "spectral_norm_classification_head")
# Settings of architectures that differ from RoBERTa in what our encoder computes.
_OTHER = {
    "layernorm_embedding": (True, "no layer norm over its embeddings"),
    "no_scale_embedding": (True, "scaled embeddings"),
    "encoder_learned_pos": (True, "sinusoidal positions"),
    "no_token_positional_embeddings": (False, "no positions"),
}


def from_roberta(path: Path) -> Checkpoint:
    """Reads either form: a folder is Hugging Face's, a file fairseq's."""
    return from_hf_roberta(path) if path.is_dir() else from_fairseq_roberta(path)


def from_fairseq_roberta(path: Path) -> Checkpoint:
    """Reads a RoBERTa that fairseq has trained, of any size and year, or ours with `--attention exact`.

    Raises:
        UsageError: not a whole checkpoint, or of a model that computes something else.
    """
    source = read(path)
    name = str(source.model.get("_name"))
    if name in ARCHITECTURES:
        if source.model.get("attention") != "exact":
            raise UsageError(f"{path}: is a checkpoint of this project's already; use extend to change n or k")
        return source
    if ARCH_MODEL_NAME_REGISTRY.get(name) != "roberta":
        raise UsageError(f"{path}: a checkpoint of --arch {name} is not one of fairseq's roberta")
    state = {key: value for key, value in modern_names(source.state).items() if not key.endswith(".version")}
    missing = [key for key in (EMBEDDING, POSITIONS, OUTPUT) if key not in state]
    if missing:
        raise UsageError(f"{path}: has no {missing[0]}, so it is not a whole RoBERTa with learned positions")
    result = Checkpoint(state, _settings(path, source.model, state), source.task, source.updates, [*source.notes])
    result.notes.append({"conversion": "from-roberta", "form": "fairseq"})
    result.state = build(result).state_dict()
    return result


def _settings(path: Path, given: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Our settings: sizes are those of the parameters, the rest as given or as the architecture has it."""
    complete = Namespace(**{key: value for key, value in given.items() if value is not None})
    ARCH_CONFIG_REGISTRY[str(given["_name"])](complete)
    for key, (needed, what) in _OTHER.items():
        if bool(getattr(complete, key)) is not needed:
            raise UsageError(f"{path}: this RoBERTa has {what}, which a Linformer of this project has no place for")
    if complete.activation_fn not in ACTIVATIONS:
        known = " and ".join(ACTIVATIONS)
        raise UsageError(f"{path}: its activation is {complete.activation_fn}; only {known} can be converted")
    layers = [int(match[1]) for key in state if (match := _LAYER.fullmatch(key))]
    kept = {key: getattr(complete, key) for key in (*_KEPT, *_CHOICES) if hasattr(complete, key)}
    first = state.get("encoder.sentence_encoder.layers.0.fc1.weight")
    if first is None:
        raise UsageError(f"{path}: has no layers, so it is not a whole RoBERTa")
    return kept | {
        "_name": MODEL,
        "attention": "exact",
        "local_conv": 0,
        "max_positions": state[POSITIONS].size(0) - MAX_SPECIAL,
        "encoder_layers": len(layers),
        "encoder_embed_dim": first.size(1),
        "encoder_ffn_embed_dim": first.size(0),
        "encoder_attention_heads": int(complete.encoder_attention_heads),
        "encoder_normalize_before": bool(complete.encoder_normalize_before),
        "activation_fn": str(complete.activation_fn),
        "untie_weights_roberta": not state[EMBEDDING].equal(state[OUTPUT]),
    }
