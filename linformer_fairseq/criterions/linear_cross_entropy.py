"""Cross-entropy of a linear layer's output, which is never held as a whole."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Of logits that are held at a time. More rows make the product with the weights, read once for each chunk, faster.
CHUNK_BYTES = 64 * 2**20
# Probabilities below 2^-24 are zero in float16, so they are computed times this.
FP16_SCALE = 32.0


def linear_cross_entropy(x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Sum over M rows of -log softmax(x weight^T + bias)[target], as a float32 scalar.

    The gradients are computed along with the loss, chunk by chunk, so that M x V logits exist nowhere. Under autocast
    the products are computed in its type, and their sums over chunks kept in float32.

    Args:
        x: (M, C) features.
        weight: (V, C).
        bias: (V,).
        targets: (M,) rows of `weight`.
    """
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    with torch.autocast(device, enabled=False):
        loss: Tensor = _LinearCrossEntropy.apply(x, weight, bias, targets, dtype)  # type: ignore[no-untyped-call]
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        low_x, low_weight, low_bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
        scale = FP16_SCALE if dtype == torch.float16 else 1.0
        loss = torch.zeros((), device=x.device)
        grad_x = torch.empty(x.shape, dtype=torch.float32, device=x.device)
        grad_weight = torch.zeros((), device=x.device).expand(weight.shape)  # replaced by the first chunk's
        grad_bias = torch.zeros(bias.shape, device=x.device)
        rows = max(1, CHUNK_BYTES // (4 * weight.size(0)))
        for start in range(0, len(x), rows):
            part, target = low_x[start : start + rows], targets[start : start + rows, None]
            logits = torch.addmm(low_bias, part, low_weight.t())
            logp = torch.log_softmax(logits, 1, dtype=torch.float32)
            loss -= logp.gather(1, target).sum()
            # The gradient of the logits is softmax - one-hot.
            gradient = logp.exp_().scatter_add_(1, target, logp.new_full(target.shape, -1.0))
            grad_bias += gradient.sum(0)
            low = gradient.mul_(scale).to(dtype) if scale != 1.0 else gradient.to(dtype)
            grad_x[start : start + rows] = low @ low_weight
            if start and dtype == torch.float32:
                grad_weight.addmm_(low.t(), part)
            elif start:
                grad_weight += low.t() @ part
            else:
                grad_weight = (low.t() @ part).float()
        if scale != 1.0:
            grad_x /= scale
            grad_weight = grad_weight / scale
        ctx.gradients = grad_x, grad_weight, grad_bias
        ctx.dtypes = x.dtype, weight.dtype, bias.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        # On a CPU it costs nothing to see that there is nothing to multiply by.
        if grad_loss.device.type != "cpu" or grad_loss.item() != 1.0:
            gradients = [gradient * grad_loss for gradient in gradients]
        return *(g.to(dtype) for g, dtype in zip(gradients, ctx.dtypes, strict=True)), None, None
