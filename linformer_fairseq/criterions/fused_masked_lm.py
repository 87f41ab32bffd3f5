"""`--criterion fused_masked_lm`: fairseq's `masked_lm` without the logits of all masked tokens in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from fairseq.criterions import register_criterion
from fairseq.criterions.masked_lm import MaskedLmConfig, MaskedLmLoss
from torch import Tensor, nn

from linformer_fairseq.criterions.linear_cross_entropy import linear_cross_entropy
from linformer_fairseq.errors import UsageError
from linformer_fairseq.models.picked import Picked, pick


@register_criterion("fused_masked_lm", dataclass=MaskedLmConfig)
class FusedMaskedLm(MaskedLmLoss):
    """The loss, gradients and logs of `masked_lm` in training, for models with RoBERTa's head; else `masked_lm` itself.

    On a GPU, masked_lm waits for the device twice, to pick the features and the targets of masked tokens; here it is
    once, and the number of tokens is known on the host from then on.
    """

    def forward(self, model: nn.Module, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, Any, Any]:
        """As fairseq's: the summed loss, the number of predicted tokens, and what is logged.

        Raises:
            UsageError: the model has no masked-LM head of RoBERTa's form.
        """
        if not (self.training and torch.is_grad_enabled()):
            loss, sample_size, logging_output = super().forward(model, sample, reduce)
            return loss, sample_size, logging_output
        head = getattr(getattr(model, "encoder", None), "lm_head", None)
        if not all(hasattr(head, name) for name in ("dense", "activation_fn", "layer_norm", "weight", "bias")):
            raise UsageError("--criterion fused_masked_lm needs a model with RoBERTa's head: use --criterion masked_lm")
        target = sample["target"]
        picked = pick(target.ne(self.padding_idx))
        with _predicting(head, picked, target.flatten().index_select(0, picked.tokens)):
            loss = model(**sample["net_input"], masked_tokens=picked)[0]
        logging_output = {
            "loss": loss.detach(),
            "ntokens": sample["ntokens"],
            "nsentences": sample["nsentences"],
            "sample_size": len(picked.tokens),
        }
        return loss, len(picked.tokens), logging_output


# fairseq goes on from a checkpoint only with a criterion of the same name, and this one keeps nothing of its own.
FusedMaskedLm.__name__ = MaskedLmLoss.__name__


@contextmanager
def _predicting(head: Any, picked: Picked, targets: Tensor) -> Iterator[None]:
    """Have the head return the loss instead of logits: within the model, where DDP sees which parameters it uses."""
    head.forward = partial(_loss, head, picked, targets)
    try:
        yield
    finally:
        del head.forward


def _loss(head: Any, picked: Picked, targets: Tensor, features: Tensor, masked_tokens: Any = None) -> Tensor:
    """Features (T, C), or of all tokens (B, N, C) as fairseq's RoBERTa has them -> the summed loss of T targets."""
    x = features if features.dim() == 2 else features.flatten(0, 1).index_select(0, picked.tokens)
    x = head.layer_norm(head.activation_fn(head.dense(x)))
    return linear_cross_entropy(x, head.weight, head.bias, targets)
