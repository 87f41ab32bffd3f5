"""`--criterion contrastive`: a query's vector comes near that of its passage, and away from those of other passages.

    loss of a query q with the passage p = -log(exp(cos(q, p) / t) / sum over passages c of exp(cos(q, c) / t))

This is InfoNCE (van den Oord et al. 2018) with temperature t. c runs over the passages and hard negatives of all rows
of the batch (Henderson et al. 2017), but for copies of p, and other passages that the batch has for the same query.
The batches of all processes are one: loss and gradients are those of one process with the joined batch.

With --chunk-rows, a batch of any size takes the memory of one chunk of texts, as in GradCache (Gao et al. 2021): the
vectors of all chunks are computed without keeping what a backward pass needs; the loss gives the gradient of each; then
each chunk is computed again, with the same random numbers, for its backward pass. PyTorch's checkpointing does so.

Validations also have the scores of `finetuning.retrieval`, of each query's own passage among those of the batch.

Shapes: B rows, of all processes A, M passages, N tokens, C channels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.distributed.utils import (
    get_data_parallel_group,
    get_data_parallel_rank,
    get_data_parallel_world_size,
)
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from linformer_fairseq.errors import UsageError
from linformer_fairseq.models.config import flag


@dataclass
class ContrastiveConfig(FairseqDataclass):
    """Settings of the criterion."""

    temperature: float = flag(0.05, "that cosines are divided by, above 0")
    first_token: bool = flag(False, "vectors are those of first tokens, not means")
    chunk_rows: int = flag(0, "texts in memory at a time; 0: all of a batch")
    layer_lr_decay: float = flag(1.0, "rate of a layer, in multiples of the next one's")


@register_criterion("contrastive", dataclass=ContrastiveConfig)
class ContrastiveLoss(FairseqCriterion):
    """InfoNCE, summed over queries."""

    def __init__(self, task: FairseqTask, temperature: float, first_token: bool, chunk_rows: int) -> None:
        super().__init__(task)
        if not temperature > 0:
            raise UsageError(f"--temperature {temperature}: must be above 0")
        self.temperature, self.first_token, self.chunk_rows = temperature, first_token, chunk_rows

    def forward(self, model: nn.Module, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, int, Any]:
        """The loss summed over B queries, B, and what is logged, of a batch of the task `text_pairs`."""
        tokens, rows, first = sample["net_input"]["src_tokens"], sample["nsentences"], 0
        texts, vectors = (x.unflatten(0, (-1, rows)) for x in (tokens, self.vectors(model, tokens)))
        queries = vectors[0]
        if get_data_parallel_world_size() > 1:
            texts, vectors, first = joined(texts, vectors, self.padding_idx)
        own = torch.arange(first, first + rows, device=tokens.device)
        left_out = no_negatives(texts.flatten(0, 1), texts.size(1))[own]
        scores = (queries @ vectors[1:].flatten(0, 1).t() / self.temperature).masked_fill(left_out, -torch.inf)
        loss = functional.cross_entropy(scores, own, reduction="sum")
        sizes = {"ntokens": sample["ntokens"], "nsentences": rows, "sample_size": rows}
        found = {} if model.training else ranked(scores, own)
        return loss, rows, {"loss": loss.detach(), **sizes, **found}

    def vectors(self, model: nn.Module, tokens: Tensor) -> Tensor:
        """Texts (B, N) to vectors (B, C) of length 1, in chunks of texts of like length."""

        def encode(chunk: Tensor) -> Tensor:
            features = model(chunk, features_only=True)[0].float()
            # Of length 1, the sum is the mean.
            sums = features[:, 0] if self.first_token else (features * chunk.ne(self.padding_idx).unsqueeze(2)).sum(1)
            return functional.normalize(sums, dim=1)

        lengths = tokens.ne(self.padding_idx).sum(1)
        order = lengths.argsort(descending=True, stable=True)
        size = self.chunk_rows or (len(order) if torch.is_grad_enabled() else 32)
        chunks = [tokens[p, : int(lengths[p[0]])] for p in torch.split(order, size)]
        if len(chunks) == 1 or not torch.is_grad_enabled():
            found = [encode(chunk) for chunk in chunks]
        else:
            found = [checkpoint(encode, chunk, use_reentrant=False) for chunk in chunks]
        return torch.cat(found)[order.argsort()]

    @staticmethod
    def reduce_metrics(logging_outputs: list[dict[str, Any]]) -> None:
        """Of queries, the mean loss in bits, and in validations the mean scores in percent."""
        rows = float(sum(log["nsentences"] for log in logging_outputs))
        for name in [name for name in logging_outputs[0] if name == "loss" or "@" in name]:
            unit = 1 / math.log(2) if name == "loss" else 100
            total = float(sum(log[name] for log in logging_outputs))
            metrics.log_scalar(name, unit * total / max(rows, 1), rows, round=3)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """True: all figures are sums over queries."""
        return True


class Gather(torch.autograd.Function):
    """Tensors of one shape, of all processes (processes, …); the gradient of each is the sum of all processes'."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(get_data_parallel_world_size())]
        torch.distributed.all_gather(parts, x.contiguous(), group=get_data_parallel_group())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total, group=get_data_parallel_group())
        return total[get_data_parallel_rank()]


def joined(texts: Tensor, vectors: Tensor, pad: int) -> tuple[Tensor, Tensor, int]:
    """Of all processes: texts (columns, A, N), vectors (columns, A, C), and where the rows of this one begin.

    `texts` and `vectors` are those of this process, (columns, B, N) and (columns, B, C); others may have other B, N.
    """
    gather: Callable[[Tensor], Tensor] = Gather.apply
    sizes = gather(torch.tensor(texts.shape[1:], device=texts.device)).tolist()
    rows, length = (max(column) for column in zip(*sizes, strict=True))
    missing = rows - texts.size(1)
    texts = functional.pad(texts, (0, length - texts.size(2), 0, missing), value=pad)
    found = (gather(x).unbind() for x in (texts, functional.pad(vectors, (0, 0, 0, missing))))
    all_texts, all_vectors = (
        torch.cat([x[:, : n[0]] for x, n in zip(parts, sizes, strict=True)], 1) for parts in found
    )
    return all_texts, all_vectors, sum(n for n, _ in sizes[: get_data_parallel_rank()])


def ranked(scores: Tensor, own: Tensor) -> dict[str, Tensor]:
    """Sums over queries of `finetuning.OF_PAIRS`, from scores (B, M) and the index (B,) of each one's own passage.

    Of passages with equal scores, the query's own comes last, so that equal vectors find nothing.
    """
    rank = scores.lt(scores.gather(1, own.unsqueeze(1))).logical_not().sum(1)
    top = rank <= 10
    return {"ndcg@10": (top / (1 + rank).log2()).sum(), "recall@10": top.sum(), "recall@100": (rank <= 100).sum()}


def no_negatives(tokens: Tensor, rows: int) -> Tensor:
    """(B, M), True where a passage is a copy of the query's own, or belongs to the same query in another row.

    `tokens` are those of B = `rows` queries, then of M passages, the first B of which are the queries' own.
    """
    same: Tensor = torch.unique(tokens, dim=0, return_inverse=True)[1]
    found = same[rows : 2 * rows, None].eq(same[rows:])
    found[:, :rows] |= same[:rows, None].eq(same[:rows])
    return found.fill_diagonal_(False)
