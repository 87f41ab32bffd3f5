"""How much memory of a GPU a pretraining run needs, from its model on the meta device: nothing is allocated.

Counted are what the precision keeps for each parameter, what the forward pass of one batch keeps for the
backward pass (each storage once, with PyTorch's memory-efficient attention, which V100 has too), and the largest
tensors of the loss. CUDA's own memory and what the allocator cannot use are allowed for by constants.
CUDA: run on one H100, where a step of the base recipes took 0.99 of what is computed for its tensors.
"""

from unittest.mock import patch

import torch
from torch import Tensor

from linformer_fairseq.layers import EncoderConfig, LinformerEncoder, attention

# Parameter, gradient, and two moments of Adam; with a copy in 32 bit, it and its gradient
BYTES_PER_PARAMETER = {
    "fp32": 4 + 4 + 8,
    "amp": 4 + 4 + 8,
    "fp16": 2 + 2 + 8 + 4 + 4,
    "bf16": 2 + 2 + 8 + 4 + 4,
    "memory-efficient fp16": 2 + 2 + 8,
    "memory-efficient bf16": 2 + 2 + 8,
}
CONTEXT = 0.8e9  # of CUDA, cuBLAS and NCCL
FRAGMENTS = 1.1  # memory that the allocator holds over what is in use
MASKED = 0.15


def training_bytes(
    cfg: EncoderConfig, batch: int, mode: str = "fp16", gpus: int = 1, masked: float = MASKED
) -> dict[str, float]:
    """Bytes of `parameters`, `activations`, `loss` and `other`, at the peak of an update with `batch` full rows.

    `mode` is a key of `BYTES_PER_PARAMETER`. Activations of `amp` are counted as 16-bit ones. With several `gpus`, DDP
    keeps a copy of the gradients in its buckets.
    """
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with (
        torch.device("meta"),
        patch.object(attention, "attend", _memory_efficient),
        patch.object(torch, "is_autocast_enabled", lambda device: False),
    ):
        model = LinformerEncoder(cfg)
        model = model if mode == "fp32" else model.half()
        own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        tokens = torch.zeros(batch, cfg.max_positions, dtype=torch.int64)
        needed = tokens[:, : round(masked * cfg.max_positions)]
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(tokens, needed=needed, padded=False)
    bucket = (4 if mode in ("fp32", "amp") else 2) * (gpus > 1)
    state = parameters_of(cfg) * (BYTES_PER_PARAMETER[mode] + bucket)
    activations = sum(one.untyped_storage().nbytes() for key, one in kept.items() if key not in own)
    # The weight padded in 16 bit, two 32-bit gradients of it, and logits in 16 and twice in 32 bit of one chunk
    loss = cfg.vocab_size * cfg.embed_dim * (2 + 4 + 4) + 2.5 * 64 * 2**20
    use = state + activations + loss
    return {"parameters": state, "activations": activations, "loss": loss, "other": CONTEXT + (FRAGMENTS - 1) * use}


def parameters_of(cfg: EncoderConfig) -> int:
    """Parameters of the encoder and of the masked-LM head, whose output matrix is the embedding."""
    head = cfg.embed_dim * (cfg.embed_dim + 3) + cfg.vocab_size
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in LinformerEncoder(cfg).parameters()) + head


def _memory_efficient(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, p: float) -> Tensor:
    out: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, True, p)[0]
    return out
