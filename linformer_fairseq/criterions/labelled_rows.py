"""`--criterion labelled_rows`: fairseq's sentence_prediction, for several labels a row, weighted classes, any metric.

The metric is computed over all rows of a validation, not as a mean over batches, so that it may choose the epoch.
Shapes: B batch, C classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from fairseq.criterions import register_criterion
from fairseq.criterions.sentence_prediction import SentencePredictionConfig, SentencePredictionCriterion
from fairseq.logging import metrics
from torch import Tensor, nn

from linformer_fairseq.models.config import flag
from linformer_fairseq.scores import score_logits


@dataclass
class LabelledRowsConfig(SentencePredictionConfig):
    """Settings of the criterion; with `regression_target`, targets are numbers (B, C), else class ids (B,)."""

    metric: str = flag("accuracy", "computed in validations, under its name")
    several_labels: bool = flag(False, "the numbers are 0 or 1 for each of several labels")
    class_weights: str = flag("", "of the loss, a number for each class, with commas")
    layer_lr_decay: float = flag(1.0, "rate of a layer, in multiples of the next one's")


@register_criterion("labelled_rows", dataclass=LabelledRowsConfig)
class LabelledRows(SentencePredictionCriterion):
    """Cross entropy, binary cross entropy of each label, or squared error; summed over rows."""

    def __init__(self, cfg: LabelledRowsConfig, task: Any) -> None:
        super().__init__(cfg, task)
        self.cfg = cfg
        # No buffer, which fairseq would round to 16 bits.
        self.weights = torch.tensor([float(word) for word in cfg.class_weights.split(",") if word])

    def forward(
        self, model: nn.Module, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """The loss, the number of rows, and the log, outside of training with logits (B, C) and targets."""
        logits = model(
            **sample["net_input"], features_only=True, classification_head_name=self.classification_head_name
        )[0].float()
        targets, rows = sample["target"], len(logits)
        weights = self.weights.to(logits.device) if len(self.weights) else None
        if self.cfg.several_labels:
            loss = functional.binary_cross_entropy_with_logits(
                logits, targets.float(), pos_weight=weights, reduction="sum"
            ) / logits.size(1)
        elif self.regression_target:
            loss = functional.mse_loss(logits, targets.float().view_as(logits), reduction="sum")
        else:
            loss = functional.cross_entropy(logits, targets.view(-1), weights, reduction="sum")
        log = {"loss": loss.detach(), "ntokens": sample["ntokens"], "nsentences": rows, "sample_size": rows}
        if not model.training:
            log |= {"logits": logits.detach().cpu(), "targets": targets.cpu(), "metric": self.cfg.metric}
        return loss, rows, log

    @staticmethod
    def reduce_metrics(logging_outputs: Sequence[dict[str, Any]]) -> None:
        """Log the mean loss in bits, and the metric of all rows of a validation."""
        rows = sum(log["sample_size"] for log in logging_outputs)
        loss = sum(float(log["loss"]) for log in logging_outputs)
        metrics.log_scalar("loss", loss / max(rows, 1) / math.log(2), rows, round=3)
        found = [log for log in logging_outputs if "logits" in log]
        if found:
            metric, names = found[0]["metric"], ("_targets", "_logits")  # which are not shown
            for name in names:
                metrics.log_concat_tensor(name, torch.cat([log[name[1:]] for log in found]), dim=0)
            metrics.log_derived(metric, lambda meters: score_logits(metric, *(meters[n].tensor.numpy() for n in names)))

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """False: logs have the logits of their rows."""
        return False
