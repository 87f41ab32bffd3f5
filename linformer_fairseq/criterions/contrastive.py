"""`--criterion contrastive`: a query's vector comes near that of its passage, and away from those of other passages.

    loss of a query q with the passage p = -log(exp(cos(q, p) / t) / sum over passages c of exp(cos(q, c) / t))

This is InfoNCE (van den Oord et al. 2018) with temperature t. c runs over the passages and hard negatives of all rows
of the batch (Henderson et al. 2017), but for copies of p, and other passages that the batch has for the same query.

With --chunk-rows, a batch of any size takes the memory of one chunk of texts, as in GradCache (Gao et al. 2021): the
vectors of all chunks are computed without keeping what a backward pass needs; the loss gives the gradient of each; then
each chunk is computed again, with the same random numbers, for its backward pass. PyTorch's checkpointing does so.

Shapes: B rows, M passages, N tokens, C channels.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as functional
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from linformer_fairseq.errors import UsageError


@dataclass
class ContrastiveConfig(FairseqDataclass):
    """Settings of the criterion."""

    temperature: float = field(default=0.05, metadata={"help": "that cosines are divided by, above 0"})
    first_token: bool = field(default=False, metadata={"help": "vectors are those of first tokens, not means"})
    chunk_rows: int = field(default=0, metadata={"help": "texts in memory at a time; 0: all of a batch"})
    layer_lr_decay: float = field(default=1.0, metadata={"help": "rate of a layer, in multiples of the next one's"})


@register_criterion("contrastive", dataclass=ContrastiveConfig)
class ContrastiveLoss(FairseqCriterion):
    """InfoNCE, summed over queries."""

    def __init__(self, task: FairseqTask, temperature: float, first_token: bool, chunk_rows: int) -> None:
        super().__init__(task)
        if not temperature > 0:
            raise UsageError(f"--temperature {temperature}: must be above 0")
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            raise UsageError("--criterion contrastive is for one process; for large batches, use --chunk-rows")
        self.temperature, self.first_token, self.chunk_rows = temperature, first_token, chunk_rows

    def forward(self, model: nn.Module, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, int, Any]:
        """The loss summed over B queries, B, and what is logged, of a batch of the task `text_pairs`."""
        tokens, rows = sample["net_input"]["src_tokens"], sample["nsentences"]
        vectors = self.vectors(model, tokens)
        cosines = vectors[:rows] @ vectors[rows:].t()
        scores = (cosines / self.temperature).masked_fill(no_negatives(tokens, rows), -torch.inf)
        loss = functional.cross_entropy(scores, torch.arange(rows, device=scores.device), reduction="sum")
        sizes = {"ntokens": sample["ntokens"], "nsentences": rows, "sample_size": rows}
        return loss, rows, {"loss": loss.detach(), **sizes}

    def vectors(self, model: nn.Module, tokens: Tensor) -> Tensor:
        """Texts (B, N) to vectors (B, C) of length 1, in chunks of texts of like length."""

        def encode(chunk: Tensor) -> Tensor:
            features = model(chunk, features_only=True)[0].float()
            # Of length 1, the sum is the mean.
            sums = features[:, 0] if self.first_token else (features * chunk.ne(self.padding_idx).unsqueeze(2)).sum(1)
            return functional.normalize(sums, dim=1)

        lengths = tokens.ne(self.padding_idx).sum(1)
        order = lengths.argsort(descending=True, stable=True)
        chunks = [tokens[p, : int(lengths[p[0]])] for p in torch.split(order, self.chunk_rows or len(order))]
        if len(chunks) == 1 or not torch.is_grad_enabled():
            found = [encode(chunk) for chunk in chunks]
        else:
            found = [checkpoint(encode, chunk, use_reentrant=False) for chunk in chunks]
        return torch.cat(found)[order.argsort()]

    @staticmethod
    def reduce_metrics(logging_outputs: list[dict[str, Any]]) -> None:
        """The mean loss of a query in bits."""
        rows, loss = (float(sum(log[name] for log in logging_outputs)) for name in ("nsentences", "loss"))
        metrics.log_scalar("loss", loss / max(rows, 1) / math.log(2), rows, round=3)


def no_negatives(tokens: Tensor, rows: int) -> Tensor:
    """(B, M), True where a passage is a copy of the query's own, or belongs to the same query in another row.

    `tokens` are those of B = `rows` queries, then of M passages, the first B of which are the queries' own.
    """
    same: Tensor = torch.unique(tokens, dim=0, return_inverse=True)[1]
    found = same[rows : 2 * rows, None].eq(same[rows:])
    found[:, :rows] |= same[:rows, None].eq(same[:rows])
    return found.fill_diagonal_(False)
