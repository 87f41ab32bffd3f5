"""How much memory of a GPU a pretraining run needs, from its model on the meta device: nothing is allocated.

    python -m linformer_fairseq.measuring.gpu_memory base_n4096_k256

Counted are what `--fp16` with one flat copy keeps for each parameter, what the forward pass of one batch keeps for the
backward pass (each storage once, with PyTorch's memory-efficient attention, which V100 has too), and the largest
tensors of the loss. CUDA's own memory and what the allocator cannot use are allowed for by constants.
CUDA: not yet run.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from unittest.mock import patch

import torch
import yaml
from torch import Tensor

from linformer_fairseq.layers import EncoderConfig, LinformerEncoder, attention

# 16-bit parameter and gradient, their copy in a bucket of DDP, 32-bit parameter and gradient, two moments of Adam
BYTES_PER_PARAMETER = 2 + 2 + 2 + 4 + 4 + 8
CONTEXT = 0.8e9  # of CUDA, cuBLAS and NCCL
FRAGMENTS = 1.1  # memory that the allocator holds over what is in use
MASKED = 0.15


def training_bytes(cfg: EncoderConfig, batch: int) -> dict[str, float]:
    """Bytes of `parameters`, `activations`, `loss` and `other`, at the peak of an update with `batch` full rows."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with (
        torch.device("meta"),
        patch.object(attention, "attend", _memory_efficient),
        patch.object(torch, "is_autocast_enabled", lambda device: False),
    ):
        model = LinformerEncoder(cfg).half()
        own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        tokens = torch.zeros(batch, cfg.max_positions, dtype=torch.int64)
        needed = tokens[:, : round(MASKED * cfg.max_positions)]
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(tokens, needed=needed, padded=False)
    head = cfg.embed_dim * (cfg.embed_dim + 3) + cfg.vocab_size
    parameters = sum(parameter.numel() for parameter in model.parameters()) + head
    activations = sum(one.untyped_storage().nbytes() for key, one in kept.items() if key not in own)
    # The weight padded in 16 bit, two 32-bit gradients of it, and logits in 16 and twice in 32 bit of one chunk
    loss = cfg.vocab_size * cfg.embed_dim * (2 + 4 + 4) + 2.5 * 64 * 2**20
    use = parameters * BYTES_PER_PARAMETER + activations + loss
    return {
        "parameters": parameters * BYTES_PER_PARAMETER,
        "activations": activations,
        "loss": loss,
        "other": CONTEXT + (FRAGMENTS - 1) * use,
    }


def _memory_efficient(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, p: float) -> Tensor:
    out: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, True, p)[0]
    return out


def of_recipe(name: str) -> tuple[EncoderConfig, int]:
    """The encoder of a recipe with the vocabulary of RoBERTa, and how many rows it trains at a time."""
    from linformer_fairseq.checkpoints.checkpoint import complete_settings
    from linformer_fairseq.models.config import encoder_config
    from linformer_fairseq.training.recipe import find_recipe

    recipe = yaml.safe_load(find_recipe(name).read_text(encoding="utf-8"))
    settings = complete_settings({"max_positions": recipe["task"]["tokens_per_sample"], **recipe["model"]})
    return encoder_config(settings, vocab_size=50265, pad_index=1), recipe["dataset"]["batch_size"]


def main(name: str) -> None:
    """Print the parts for a recipe, and their sum with and without recomputed activations."""
    cfg, batch = of_recipe(name)
    parts = training_bytes(cfg, batch)
    print(*(f"{part:<12} {size / 1e9:5.1f} GB" for part, size in parts.items()), sep="\n")
    for recompute in (False, True):
        total = sum(training_bytes(replace(cfg, checkpoint_activations=recompute), batch).values())
        print(f"in all {total / 1e9:.1f} GB with checkpoint_activations: {str(recompute).lower()}")


if __name__ == "__main__":
    main(sys.argv[1])
