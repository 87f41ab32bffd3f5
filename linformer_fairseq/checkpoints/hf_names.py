"""Parameters and settings of a Linformer, by fairseq's names and by those of transformers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from linformer_fairseq.checkpoints.checkpoint import (
    EMBEDDING,
    ENCODER,
    HEADS,
    LM_HEAD,
    OUTPUT,
    Checkpoint,
    complete_settings,
)
from linformer_fairseq.errors import UsageError
from linformer_fairseq.hf.configuration_linformer import LinformerConfig
from linformer_fairseq.layers.config import option_names
from linformer_fairseq.models.architectures import MODEL

# Beginnings of the names of parameters in fairseq and in transformers.
_PARAMETERS = (
    (ENCODER, "linformer.encoder."),
    (OUTPUT, "lm_head.decoder.weight"),
    (f"{LM_HEAD}bias", "lm_head.decoder.bias"),
    (LM_HEAD, "lm_head."),
    (HEADS, HEADS),
)
_CLASSIFIER = "classifier."
_HEAD_SETTINGS = {"pooler_activation_fn": "classifier_act", "pooler_dropout": "classifier_dropout"}


def to_hf_names(checkpoint: Checkpoint, head: str | None, tied: bool) -> dict[str, Tensor]:
    """All parameters by the names of transformers.

    Args:
        checkpoint: what is exported.
        head: the classification head that becomes `classifier`; others keep their names.
        tied: the output matrix is the embedding, and left out.

    Raises:
        UsageError: the output matrix is not the embedding, though `tied`.
    """
    if tied and not torch.equal(checkpoint.state[OUTPUT], checkpoint.state[EMBEDDING]):
        raise UsageError(
            f"{OUTPUT} differs from the embedding, though they are one matrix by the checkpoint's settings; "
            "it needs untie_weights_roberta"
        )
    pairs = _PARAMETERS if head is None else ((f"{HEADS}{head}.", _CLASSIFIER), *_PARAMETERS)
    return {
        _renamed(key, pairs): value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, value in checkpoint.state.items()
        if not key.endswith(".version") and not (tied and key == OUTPUT)
    }


def to_fairseq_names(state: dict[str, Tensor], head: str) -> dict[str, Tensor]:
    """The same tensors by fairseq's names; `classifier` becomes the classification head `head`.

    Raises:
        UsageError: a parameter that no Linformer has.
    """
    # A folder of the model without a head has no prefix.
    pairs = ((_CLASSIFIER, f"{HEADS}{head}."), ("encoder.", ENCODER), *((hf, fairseq) for fairseq, hf in _PARAMETERS))
    return {_renamed(key, pairs): value for key, value in state.items()}


def _renamed(key: str, pairs: Iterable[tuple[str, str]]) -> str:
    for old, new in pairs:
        if key.startswith(old):
            return new + key.removeprefix(old)
    raise UsageError(f"the parameter {key} belongs to no part of a Linformer")


def head_settings(settings: Any) -> dict[str, Any]:
    """What transformers' configuration says of the heads, from complete settings of the fairseq model."""
    found = {key: getattr(settings, name) for name, key in _HEAD_SETTINGS.items()}
    found["classifier_act"] = str(found["classifier_act"])
    return found | {"tie_word_embeddings": not settings.untie_weights_roberta}


def fairseq_settings(config: LinformerConfig, stored: dict[str, Any]) -> dict[str, Any]:
    """Settings of the fairseq model: those that it had, where the configuration still has the same."""
    keys, settings = option_names("hf"), option_names("fairseq")
    names = {settings[ours]: key for ours, key in keys.items() if ours in settings} | _HEAD_SETTINGS
    found = {name: getattr(config, key) for name, key in names.items()}
    k = config.projected_length
    found["projected_length"] = str(k) if isinstance(k, int) else ",".join(map(str, k))
    found["untie_weights_roberta"] = not config.tie_word_embeddings
    if not stored:
        return {"_name": MODEL, **found}
    had = vars(complete_settings(stored))
    had["projected_length"] = str(had["projected_length"]).replace(" ", "")
    return {**stored, **{key: value for key, value in found.items() if had.get(key) != value}}
