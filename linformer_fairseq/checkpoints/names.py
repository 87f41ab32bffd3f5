"""Parameter names that fairseq's RoBERTa had in earlier years, turned into those of today."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_FUSED = re.compile(r"(.*\.)in_proj_(weight|bias)")


def modern_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`decoder.` becomes `encoder.`, `emb_layer_norm` `layernorm_embedding`, and a fused `in_proj` q, k and v."""
    modern: dict[str, Tensor] = {}
    for key, value in state.items():
        name = re.sub(r"^decoder\.", "encoder.", key).replace(".emb_layer_norm.", ".layernorm_embedding.")
        fused = _FUSED.fullmatch(name)
        if fused:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                modern[f"{fused[1]}{letter}_proj.{fused[2]}"] = part.clone()
        else:
            modern[name] = value
    return modern
