"""From a checkpoint of fairseq's examples/linformer to one of ours, of which it is a special case.

The example calls E `compress_k` and F `compress_v`. It keeps a bias for the matrix that all layers share, and never
adds it. Checkpoints without `version` 2 were written when `--shared-layer-kv-compressed` still gave every layer a
matrix of its own, and when embedding and output matrix were not tied; what the file holds decides, not its flags.
"""

import re
from dataclasses import fields

import torch

from linformer_fairseq.checkpoints.checkpoint import Checkpoint, completed
from linformer_fairseq.checkpoints.names import EMBEDDING, ENCODER, OUTPUT, modern_names
from linformer_fairseq.errors import UsageError
from linformer_fairseq.models.architectures import OLD_FLAGS
from linformer_fairseq.models.config import LinformerRobertaConfig

_KEY = re.compile(re.escape(ENCODER) + r"layers\.(\d+)\.self_attn\.compress_([kv])\.weight")
_DROPPED = re.compile(r"(^|\.)(version|compress_layer\.\w+|shared_compress_layer\.\w+|compress_[kv]\.\w+)$")


def from_official(source: Checkpoint) -> Checkpoint:
    """The same model as `linformer_roberta` of this project: equal logits on unpadded input."""
    state = modern_names(source.state)
    found = {(int(m[1]), m[2]): value for key, value in state.items() if (m := _KEY.fullmatch(key))}
    keys = [found[index, "k"] for index in range(len(found)) if (index, "k") in found]
    if not keys:
        raise UsageError("not a checkpoint of fairseq's examples/linformer: it has no compress_k")
    for key in (EMBEDDING, OUTPUT):
        if key not in state:
            raise UsageError(f"not a whole checkpoint of fairseq's examples/linformer: {key} is missing")
    values = [found.get((index, "v"), key) for index, key in enumerate(keys)]
    same = all(torch.equal(keys[0], key) for key in keys)
    if not all(torch.equal(k, v) for k, v in zip(keys, values, strict=True)):
        sharing = "headwise"
    elif same and (len(keys) > 1 or source.model.get("shared_layer_kv_compressed")):  # of one layer, what its flag says
        sharing = "layerwise"
    else:
        sharing = "key-value"
    ours = {key: value for key, value in state.items() if not _DROPPED.search(key)}
    if sharing == "layerwise":
        ours[f"{ENCODER}E.weight"] = keys[0]
    else:
        for index, (e, f) in enumerate(zip(keys, values, strict=True)):
            attention = f"{ENCODER}layers.{index}.self_attn."
            ours[f"{attention}E.weight"] = e
            if sharing == "headwise":
                ours[f"{attention}F.weight"] = f
    # The settings that we do not have are left out.
    given, (k, n) = source.model, keys[0].shape
    known = {row.name for row in fields(LinformerRobertaConfig)} - set(OLD_FLAGS)
    large = given.get("_name") == "linformer_roberta_large"
    model = {key: value for key, value in given.items() if key in known and value is not None} | {
        "_name": "linformer_roberta_large" if large else "linformer_roberta",
        "max_positions": n,
        "projected_length": str(k),
        "projection": "linear",
        "projection_sharing": sharing,
        "freeze_projection": bool(given.get("freeze_compress")),
        "attention_dropout": given.get("dropout", 0.1),  # the example has one for both
        "untie_weights_roberta": not torch.equal(ours[EMBEDDING], ours[OUTPUT]),
    }
    return completed(source.converted({"conversion": "from-official"}, state=ours, model=model))
