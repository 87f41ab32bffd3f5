"""`--lr-scheduler warmup_stable_decay`: a constant learning rate between a linear warm-up and a last, fast decay.

    lr · t / W                          for t <= W updates of warm-up
    lr                                  until D updates before the end T
    lr · (1 − √((t − T + D) / D))       in the last D (Hägele et al. 2024, arXiv 2405.18392, equation 1)

Until the decay nothing depends on T, so that a run can be prolonged from there.
"""

import math
from dataclasses import dataclass
from typing import Any

from fairseq.dataclass import FairseqDataclass
from fairseq.optim.lr_scheduler import FairseqLRScheduler, register_lr_scheduler
from omegaconf import II

from linformer_fairseq.errors import UsageError
from linformer_fairseq.models.config import flag


@dataclass
class WarmupStableDecayConfig(FairseqDataclass):
    """Lengths in updates."""

    warmup_updates: int = flag(0, "updates in which the learning rate rises from 0")
    decay_share: float = flag(0.2, "share of all updates in which it falls to 0")
    total_num_update: float = flag(II("optimization.max_update"), "all updates (default: --max-update)")
    lr: list[float] = II("optimization.lr")


@register_lr_scheduler("warmup_stable_decay", dataclass=WarmupStableDecayConfig)
class WarmupStableDecay(FairseqLRScheduler):
    """The learning rate by the number of the update; a UsageError if it is not one with an end and room for a decay."""

    def __init__(self, cfg: WarmupStableDecayConfig, optimizer: Any) -> None:
        super().__init__(cfg, optimizer)
        if len(cfg.lr) != 1:
            raise UsageError(f"--lr {','.join(map(str, cfg.lr))}: warmup_stable_decay takes one learning rate")
        self.lr, self.warmup, self.end = cfg.lr[0], cfg.warmup_updates, cfg.total_num_update
        if self.end <= 0:
            raise UsageError("warmup_stable_decay needs an end: give --max-update or --total-num-update")
        self.decay = cfg.decay_share * self.end
        if not 0 <= cfg.decay_share <= 1 or self.warmup < 0 or self.warmup + self.decay > self.end:
            given = f"--warmup-updates {self.warmup} and --decay-share {cfg.decay_share}"
            raise UsageError(f"{given}: must be at least 0 and together within the {self.end:.0f} updates of the run")
        self.step_update(0)

    def step_begin_epoch(self, epoch: int) -> float:
        """Epochs change nothing."""
        learning_rate: float = self.optimizer.get_lr()
        return learning_rate

    def step_update(self, num_updates: int) -> float:
        """Set the learning rate for the update after so many, as fairseq's schedulers do, and return it."""
        left = self.end - num_updates
        if num_updates < self.warmup:
            rate = self.lr * max(1, num_updates) / self.warmup
        elif left >= self.decay:
            rate = self.lr
        else:
            rate = self.lr * (1 - math.sqrt(1 - max(0, left) / self.decay))
        self.optimizer.set_lr(rate)
        return rate
