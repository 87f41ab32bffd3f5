"""`--criterion fused_masked_lm`: fairseq's `masked_lm` without the logits of all masked tokens in memory.

Shapes: T masked tokens of the batch, C channels, V vocabulary.
"""

from typing import Any

import torch
from fairseq.criterions import register_criterion
from fairseq.criterions.masked_lm import MaskedLmConfig, MaskedLmLoss
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from linformer_fairseq.errors import UsageError
from linformer_fairseq.layers.fused import add_product
from linformer_fairseq.models.linformer_roberta import (
    TILE,
    LinformerRobertaEncoder,
    MaskedTokens,
    head_features,
    pad_symbols,
    suits_tensor_cores,
)

# Size of the logits held at a time, in float32. More rows make the product with the weights faster, which are read once
# for each chunk; on a CPU, more than CPU_ROWS do not, and the logits leave the cache.
CHUNK_BYTES = 64 * 2**20
CPU_ROWS = 320
# Probabilities below 2^-24 are zero in float16, so their gradients are computed times this.
FP16_SCALE = 32.0


@register_criterion("fused_masked_lm", dataclass=MaskedLmConfig)
class FusedMaskedLmLoss(MaskedLmLoss):
    """The loss, gradients and logs of `masked_lm` in training, for models with RoBERTa's head; else `masked_lm` itself.

    On a GPU, masked_lm waits for the device twice, to select the features and the targets of masked tokens. This
    criterion waits only for a batch whose masked tokens were not counted before it went there (`count_on_host`).
    """

    def forward(self, model: nn.Module, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, Any, Any]:
        """As fairseq's: the summed loss, the number of predicted tokens, and what is logged.

        A UsageError refuses a model without a masked-LM head of RoBERTa's form.
        """
        encoder, net_input, target = getattr(model, "encoder", None), sample["net_input"], sample["target"]
        ours = isinstance(encoder, LinformerRobertaEncoder)
        # fairseq's RoBERTa does not run its head in `forward` here, where DDP searches for the parameters in use.
        hidden_from_ddp = not ours and getattr(model, "find_unused_parameters", False)
        if hidden_from_ddp or not (self.training and torch.is_grad_enabled()):
            loss, sample_size, logging_output = super().forward(model, sample, reduce)
            return loss, sample_size, logging_output
        masked = MaskedTokens.of(target.ne(self.padding_idx), sample.get("masked_on_host"))
        if ours:
            x, extra = model(**net_input, masked_tokens=masked, head_features_only=True)
            weight, bias = extra["output_projection"]
        else:
            head: Any = getattr(encoder, "lm_head", None)  # of fairseq's own RoBERTa, which cannot leave tokens out
            if not all(hasattr(head, name) for name in ("dense", "activation_fn", "layer_norm", "weight", "bias")):
                raise UsageError(
                    "--criterion fused_masked_lm needs a model with RoBERTa's head: use --criterion masked_lm"
                )
            features = model(**net_input, features_only=True)[0].flatten(0, 1)
            x, weight, bias = head_features(head, features.index_select(0, masked.flat)), head.weight, head.bias
        loss = linear_cross_entropy(x, weight, bias, target.flatten().index_select(0, masked.flat))
        logging_output = {
            "loss": loss.detach(),
            "ntokens": sample["ntokens"],
            "nsentences": sample["nsentences"],
            "sample_size": len(masked.flat),
        }
        return loss, len(masked.flat), logging_output


def linear_cross_entropy(x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Sum over T rows of -log softmax(x weight^T + bias)[target], as a float32 scalar.

    x (T, C), weight (V, C), bias (V,), targets (T,). The gradients are computed along with the loss, chunk by chunk, so
    that T x V logits are never held. Under autocast the products are computed in its type, their sums in float32.
    """
    # torch.nn.functional.linear_cross_entropy of torch 2.13 does the same in float32, but in 16 bit it returns the loss
    # and adds up the gradients in 16 bit: errors of the loss of 3e-3 to 3e-2 in bfloat16, here 1e-6.
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    with torch.autocast(device, enabled=False):
        loss: Tensor = _LinearCrossEntropy.apply(x, weight, bias, targets, dtype)  # type: ignore[no-untyped-call]
    return loss


def _add_product_in_32_bit(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """total + a b. A sum over rows of a frequent symbol does not fit float16, whatever the scale of the loss."""
    if a.dtype != torch.float32 and a.device.type in ("cuda", "meta"):
        product = torch.mm(a, b, out_dtype=torch.float32)
        return product if total is None else total.add_(product)
    if a.dtype == torch.float16:  # on a CPU, which has no such product
        a, b = a.float(), b.float()
    return add_product(total, a, b)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
        scale = FP16_SCALE if dtype == torch.float16 else 1.0
        symbols = len(bias)
        rows = max(1, CHUNK_BYTES // (4 * symbols))
        rows = min(rows, CPU_ROWS) if x.device.type == "cpu" else rows
        if suits_tensor_cores(x):
            weight, bias = pad_symbols(weight, bias)
            rows = -(-rows // TILE) * TILE
        loss = torch.zeros((), dtype=torch.float32, device=x.device)
        grad_x = torch.empty(x.shape, dtype=torch.float32, device=x.device)
        grad_weight, grad_bias = None, torch.zeros(bias.shape, dtype=torch.float32, device=x.device)
        chunks = (torch.split(t, rows) for t in (x, targets.unsqueeze(1), grad_x))
        for x_RC, target, grad_x_RC in zip(*chunks, strict=True):
            logits = torch.addmm(bias, x_RC, weight.t())
            logp = torch.log_softmax(logits, 1, dtype=torch.float32)
            loss -= logp.gather(1, target).sum()
            # The gradient of the logits is softmax - one-hot.
            gradient = logp.exp_().scatter_add_(1, target, logp.new_full(target.shape, -1.0))
            grad_bias += gradient.sum(0)
            low = gradient.mul_(scale).to(dtype) if scale != 1.0 else gradient.to(dtype)
            grad_x_RC.copy_(low @ weight)
            grad_weight = _add_product_in_32_bit(grad_weight, low.t(), x_RC)
        assert grad_weight is not None  # split yields at least one chunk, if need be an empty one
        if scale != 1.0:
            grad_x /= scale
            grad_weight /= scale
        ctx.gradients = grad_x, grad_weight[:symbols], grad_bias[:symbols]
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        # Reading the value costs nothing on a CPU and usually saves a pass over the gradients.
        if grad_loss.device.type != "cpu" or grad_loss.item() != 1.0:
            gradients = [gradient.float() * grad_loss for gradient in gradients]
        return *gradients, None, None  # autograd casts them to the types of the inputs
