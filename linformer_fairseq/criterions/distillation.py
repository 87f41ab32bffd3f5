"""`--criterion distillation`: a model is fitted to another one that computes exact attention, on unlabelled text.

    loss = hidden_weight · mean over layers of |h - h*|² / |h*|²  +  vector_weight · (1 - cos(v, v*))

h are the outputs of a layer at the real tokens (as in TinyBERT, Jiao et al. 2020, without maps of attention, which a
model of k slots has not), v the mean of the last ones, which sentence encoders return; a star marks the teacher. The
text is the one before masking, whichever task reads it. A text that is longer than the teacher reads is cut into chunks
for it, each with <s> and </s> of its own; only the tokens between these are compared then, and v* is the mean over all
of them.

What long texts teach would move the vectors of short ones, which are exact before any training. So the loss is summed
with that of a short text, the first tokens of each long one; in training their number is drawn anew for every batch.

Shapes: B batch, N tokens, C channels, T longest input of the teacher.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as functional
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from omegaconf import MISSING
from torch import Tensor, nn

from linformer_fairseq.checkpoints.checkpoint import build, read
from linformer_fairseq.checkpoints.names import EMBEDDING
from linformer_fairseq.errors import UsageError
from linformer_fairseq.layers import LinformerEncoder
from linformer_fairseq.models.config import flag

FEWEST = 8  # tokens of a short text


@dataclass
class DistillationConfig(FairseqDataclass):
    """Settings of the criterion."""

    teacher: str = flag(
        MISSING, "checkpoint of the exact model; `linformer convert from-bert --attention exact` writes one"
    )
    hidden_weight: float = flag(1.0, "weight of the outputs of the layers")
    vector_weight: float = flag(1.0, "weight of the mean vector of a text")
    short_tokens: int = flag(0, "most tokens of the short texts that are compared as well; 0 compares none")


@register_criterion("distillation", dataclass=DistillationConfig)
class DistillationLoss(FairseqCriterion):
    """Relative squared error of every layer and cosine distance of the vectors, summed over the texts of a batch."""

    def __init__(
        self, task: FairseqTask, teacher: str, hidden_weight: float, vector_weight: float, short_tokens: int
    ) -> None:
        super().__init__(task)
        if short_tokens and short_tokens < FEWEST:
            raise UsageError(f"--short-tokens {short_tokens}: must be 0 or at least {FEWEST}")
        self.short_tokens = short_tokens
        self.weights = hidden_weight, vector_weight
        if min(self.weights) < 0 or not any(self.weights):
            given = f"--hidden-weight {hidden_weight} and --vector-weight {vector_weight}"
            raise UsageError(f"{given}: neither may be below 0, and one must be above")
        checkpoint = read(Path(teacher))
        symbols, known = checkpoint.state[EMBEDDING].size(0), len(task.source_dictionary)
        if symbols != known:
            found = f"{symbols} symbols and DATA {known}"
            raise UsageError(f"--teacher {teacher}: has {found}; binarise DATA with the teacher's tokenizer")
        encoder: LinformerEncoder = build(checkpoint).encoder.sentence_encoder
        # In a list, so that it is neither trained nor written into the checkpoints of the run.
        self._teacher = [encoder.requires_grad_(False).eval()]

    def forward(self, model: nn.Module, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, int, Any]:
        """The loss summed over B texts, B, and what is logged; UsageError for models of other layers or channels."""
        given, target = sample["net_input"]["src_tokens"], sample["target"]
        tokens = torch.where(target.eq(self.padding_idx), given, target)
        loss, hidden, cosine = self._compare(model, tokens)
        logged = {"hidden": hidden, "cosine": cosine}
        if self.short_tokens:
            short_loss, _, logged["short_cosine"] = self._compare(model, self._first_tokens(tokens, model.training))
            loss = loss + short_loss
        sizes = {"ntokens": sample["ntokens"], "nsentences": len(tokens), "sample_size": len(tokens)}
        return loss, len(tokens), {"loss": loss.detach()} | logged | sizes

    def _first_tokens(self, tokens: Tensor, training: bool) -> Tensor:
        """The first tokens of each text (B, N) as a text of its own, which ends with </s>."""
        most = min(self.short_tokens, tokens.size(1))
        # fairseq seeds this generator with the number of the update, so that a resumed run draws the same.
        length = int(torch.randint(min(FEWEST, most), most + 1, ())) if training else most
        short = tokens[:, :length].clone()
        short[short[:, -1].ne(self.padding_idx), -1] = self.task.source_dictionary.eos()
        return short

    def _compare(self, model: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, relative squared error of the layers and cosine of the vectors, summed over the texts (B, N)."""
        features, extra = model(tokens, features_only=True, return_all_hiddens=True)
        ours = [h.transpose(0, 1) for h in extra["inner_states"][1:]]
        known, theirs, compared = self._targets(tokens, features.dtype)
        if (len(theirs), known.shape) != (len(ours), features.shape):
            found = f"{len(theirs)} layers of {known.size(-1)} channels, the model {len(ours)} of {features.size(-1)}"
            raise UsageError(f"--teacher has {found}: convert the model from this teacher")
        rows = compared.unsqueeze(-1)
        errors = [_relative_error(h * rows, t * rows) for h, t in zip(ours, theirs, strict=True)]
        vector, wanted = ((x.float() * rows).sum(1) for x in (features, known))
        hidden, cosine = torch.stack(errors).mean(0).sum(), functional.cosine_similarity(vector, wanted).sum()
        loss = self.weights[0] * hidden + self.weights[1] * (len(tokens) - cosine)
        return loss, hidden.detach(), cosine.detach()

    @torch.no_grad()
    def _targets(self, tokens: Tensor, dtype: torch.dtype) -> tuple[Tensor, list[Tensor], Tensor]:
        """For tokens (B, N): the teacher's features (B, N, C), its layers' outputs, and which tokens count (B, N)."""
        teacher = self._teacher[0].to(tokens.device, dtype)
        real = tokens.ne(self.padding_idx)
        if tokens.size(1) <= teacher.cfg.max_positions:
            features, hiddens = teacher(tokens, return_all_hiddens=True)
            return features, hiddens[1:], real
        n = tokens.size(1)
        bos, eos = self.task.source_dictionary.bos(), self.task.source_dictionary.eos()
        inner = real & tokens.ne(bos) & tokens.ne(eos)
        size = teacher.cfg.max_positions - 2
        chunks = functional.pad(tokens.masked_fill(~inner, self.padding_idx), (0, -n % size), value=self.padding_idx)
        chunks = functional.pad(functional.pad(chunks.view(-1, size), (1, 0), value=bos), (0, 1), value=eos)
        features, hiddens = teacher(chunks, return_all_hiddens=True)
        joined = [x[:, 1:-1].reshape(len(tokens), -1, x.size(-1))[:, :n] for x in (features, *hiddens[1:])]
        return joined[0], joined[1:], inner

    @staticmethod
    def reduce_metrics(logging_outputs: list[dict[str, Any]]) -> None:
        """Means over texts of the loss, of the relative squared error of the layers, and of the cosines."""
        texts = sum(log["nsentences"] for log in logging_outputs)
        for name in ("loss", "hidden", "cosine", "short_cosine"):
            if name in logging_outputs[0]:
                metrics.log_scalar(name, sum(log[name] for log in logging_outputs) / texts, texts, round=4)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """True: all are sums over texts."""
        return True


def _relative_error(x: Tensor, target: Tensor) -> Tensor:
    """|x - target|² / |target|² of each text, (B,), in float32; both (B, N, C)."""
    return (x.float() - target.float()).square().sum((1, 2)) / target.float().square().sum((1, 2))
