"""`--criterion contrastive`: a query's vector comes near that of its passage, and away from those of other passages.

    loss of a query q with the passage p = -log(exp(cos(q, p) / t) / sum over passages c of exp(cos(q, c) / t))

This is InfoNCE (van den Oord et al. 2018) with temperature t. c runs over the passages and hard negatives of all rows
of the batch (Henderson et al. 2017), but for copies of p, and other passages that the batch has for the same query.
The batches of all processes are one: loss and gradients are those of one process with the joined batch.

With --chunk-rows, a batch of any size takes the memory of one chunk of texts, as in GradCache (Gao et al. 2021): in the
backward pass each chunk is computed again, with the same random numbers.

Validations also have the scores of `finetuning.retrieval`, of each query's own passage among those of the batch.

Shapes: B rows, of all processes A, M passages, N tokens, C channels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as functional
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.distributed import utils
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
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
        if utils.get_data_parallel_world_size() > 1:
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


def joined(texts: Tensor, vectors: Tensor, pad: int) -> tuple[Tensor, Tensor, int]:
    """Of all processes: texts (columns, A, N), vectors (columns, A, C), and where the rows of this one begin.

    `texts` and `vectors` are those of this process, (columns, B, N) and (columns, B, C); others may have other B, N.
    The gradient of a vector is the sum of all processes'.
    """
    gather: Callable[[Tensor], Any] = partial(all_gather, group=utils.get_data_parallel_group())
    sizes = [size.tolist() for size in gather(torch.tensor(texts.shape[1:], device=texts.device))]
    rows, length = (max(column) for column in zip(*sizes, strict=True))
    missing = rows - texts.size(1)
    texts = functional.pad(texts, (0, length - texts.size(2), 0, missing), value=pad)
    all_texts, all_vectors = (
        torch.cat([x[:, :n] for x, (n, _) in zip(gather(own), sizes, strict=True)], 1)
        for own in (texts, functional.pad(vectors, (0, 0, 0, missing)))
    )
    return all_texts, all_vectors, sum(n for n, _ in sizes[: utils.get_data_parallel_rank()])


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
