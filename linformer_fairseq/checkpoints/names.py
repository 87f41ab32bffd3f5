"""Names of a model's parameters: fairseq's, which are ours, those of earlier years, and those of transformers."""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from linformer_fairseq.errors import UsageError

ENCODER = "encoder.sentence_encoder."
EMBEDDING = f"{ENCODER}embed_tokens.weight"
POSITIONS = f"{ENCODER}embed_positions.weight"
LM_HEAD = "encoder.lm_head."
OUTPUT = f"{LM_HEAD}weight"
HEADS = "classification_heads."
DEFAULT_HEAD = "sentence_classification_head"  # of fairseq's task sentence_prediction
_CLASSIFIER = "classifier."
# Beginnings of the names in fairseq and in transformers.
_PARAMETERS = (
    (ENCODER, "linformer.encoder."),
    (OUTPUT, "lm_head.decoder.weight"),
    (f"{LM_HEAD}bias", "lm_head.decoder.bias"),
    (LM_HEAD, "lm_head."),
    (HEADS, HEADS),
)
_FUSED = re.compile(r"(.*\.)in_proj_(weight|bias)")


def modern_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters of earlier years by the names of today; a fused `in_proj` is split into q, k and v."""
    modern: dict[str, Tensor] = {}
    for key, value in state.items():
        name = re.sub(r"^decoder\.", "encoder.", key).replace(".emb_layer_norm.", ".layernorm_embedding.")
        if fused := _FUSED.fullmatch(name):
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                modern[f"{fused[1]}{letter}_proj.{fused[2]}"] = part.clone()
        else:
            modern[name] = value
    return modern


def to_hf_names(state: Mapping[str, Tensor], head: str | None, tied: bool) -> dict[str, Tensor]:
    """Copies of all parameters by the names of transformers; the classification head `head` becomes `classifier`.

    The output matrix is left out if it is `tied` to the embedding.
    """
    if tied and not torch.equal(state[OUTPUT], state[EMBEDDING]):
        raise UsageError(f"{OUTPUT} differs from the embedding, but the settings do not have untie_weights_roberta")
    pairs = _PARAMETERS if head is None else ((f"{HEADS}{head}.", _CLASSIFIER), *_PARAMETERS)
    return {
        _renamed(key, pairs): value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, value in state.items()
        if not key.endswith(".version") and not (tied and key == OUTPUT)
    }


def to_fairseq_names(state: Mapping[str, Tensor], head: str) -> dict[str, Tensor]:
    """The same tensors by fairseq's names; `classifier` becomes the classification head `head`."""
    # A folder of the model without a head has no prefix.
    pairs = ((_CLASSIFIER, f"{HEADS}{head}."), ("encoder.", ENCODER), *((hf, fairseq) for fairseq, hf in _PARAMETERS))
    return {_renamed(key, pairs): value for key, value in state.items()}


def _renamed(key: str, pairs: Iterable[tuple[str, str]]) -> str:
    for old, new in pairs:
        if key.startswith(old):
            return new + key.removeprefix(old)
    raise UsageError(f"the parameter {key} belongs to no part of a Linformer")
