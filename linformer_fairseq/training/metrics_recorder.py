"""From what fairseq measures to the lines of `metrics.jsonl`; rank 0 has one recorder for each training."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fairseq.logging import meters, metrics
from fairseq.trainer import Trainer
from torch import nn

from linformer_fairseq.layers import EncoderConfig
from linformer_fairseq.training import hardware
from linformer_fairseq.training.flops import encoder_flops, head_flops
from linformer_fairseq.training.metrics import LOSS_UNITS, MetricsFile
from linformer_fairseq.training.run_directory import now

# fairseq's names of what has a field of its own in a line, or says the same in another way.
_KNOWN = frozenset("loss ppl lr wps ups wpb bsz num_updates gnorm clip loss_scale train_wall gb_free wall".split())


class Recorder:
    """Counts the work of each update, on the CPU and from shapes alone, and writes a line where fairseq logs.

    fairseq has brought its figures from the device by then, and no line waits for anything else.

    Args:
        trainer: of this process.
        precision: of the matrix products.
        folder: of the run; `metrics.jsonl` is written there.
        start: number of this start.
    """

    def __init__(self, trainer: Trainer, precision: hardware.Precision, folder: Path, start: int) -> None:
        self.trainer = trainer
        self.file = MetricsFile(folder, start)
        self.peak = hardware.peak_flops(trainer.device, precision)
        self.energy = hardware.energy_meter(trainer.device)
        self.config = encoder_config_of(trainer.get_model())
        self.criterion = str(getattr(trainer.cfg.criterion, "_name", ""))
        self.started = time.perf_counter()
        self._interval: _Interval | None = None
        self._tokens: int | None = None  # before the running log interval

    def before_update(self) -> None:
        """Start the clock at the first update; what a checkpoint has restored of a log interval is not this start's."""
        if self._interval is None:
            restored = _sum("wpb")
            self._interval = _Interval(restored, _count("loss"))
            update = self.trainer.get_num_updates()
            at, tokens = self.file.tokens_until(update)
            self._tokens = tokens if tokens is None or at < update else tokens - int(restored)

    def count(self, samples: Sequence[Mapping[str, Any]]) -> None:
        """Count an update that was done, from the shapes of this rank's batches."""
        if self.config is not None and self._interval is not None:
            for sample in samples:
                if sample:  # empty where this rank had no batch left
                    self._interval.shapes[tuple(sample["net_input"]["src_tokens"].shape)] += 1

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock of the log interval: for validating and saving."""
        start = time.perf_counter()
        try:
            yield
        finally:
            if self._interval is not None:
                self._interval.paused += time.perf_counter() - start

    def write_training(self, stats: Mapping[str, Any], update: int, epoch: int | None) -> None:
        """Write the line of a log interval, which ends here."""
        interval, self._interval = self._interval, _Interval()
        if interval is None:
            return
        seconds = time.perf_counter() - interval.started - interval.paused
        words = _sum("wpb")
        flops = self._flops(interval)
        world = int(self.trainer.data_parallel_world_size)
        if self._tokens is not None:
            self._tokens += int(words)
        line = {
            **self._result("train", _mean("loss") if _count("loss") else None, "ppl" in stats, update, epoch),
            "lr": stats.get("lr", stats.get("lr_default")),
            "gradient_norm": _mean("gnorm"),
            "loss_scale": stats.get("loss_scale"),
            "tokens_per_second": (words - interval.restored_tokens) / seconds if words else None,
            "flops_per_second": None if flops is None else flops / seconds,
            "hardware_share": None if flops is None or not self.peak else flops / seconds / (self.peak * world),
            "memory_bytes": self._memory(),
            "joules": None if self.energy is None else self.energy(),
            "tokens": self._tokens,
        }
        self._append(line, stats)

    def write_validation(self, stats: Mapping[str, Any], subset: str, epoch: int | None) -> None:
        """Write the line of a validation."""
        loss, update = stats.get("loss"), int(self.trainer.get_num_updates())
        tokens = None if self._tokens is None else self._tokens + int(_sum("wpb"))
        line = self._result(subset, None if loss is None else float(loss), "ppl" in stats, update, epoch)
        self._append({**line, "tokens": tokens}, stats)

    def _result(
        self, split: str, loss: float | None, has_perplexity: bool, update: int, epoch: int | None
    ) -> dict[str, Any]:
        return {
            "split": split,
            "update": update,
            "epoch": epoch,
            "loss": loss,
            "loss_unit": LOSS_UNITS.get(self.criterion),
            "perplexity": 2.0**loss if has_perplexity and loss is not None and loss < 1000 else None,
        }

    def _append(self, line: dict[str, Any], stats: Mapping[str, Any]) -> None:
        other = {
            key: float(value)
            for key, value in stats.items()
            if key not in _KNOWN and isinstance(value, int | float) and not isinstance(value, bool)
        }
        seconds = self.file.seconds_before + time.perf_counter() - self.started
        self.file.append({**line, "other": other, "time": now(), "seconds": round(seconds, 3)})

    def _flops(self, interval: _Interval) -> float | None:
        """Of all ranks; the batches of the others are taken to have the shapes of this one's."""
        if self.config is None:
            return None
        world = int(self.trainer.data_parallel_world_size)
        predicted = _count("loss") - interval.restored_predicted if self.criterion.endswith("masked_lm") else 0.0
        used = 1.0 if self.criterion == "sentence_prediction" else None
        rows = world * sum(batch * times for (batch, _), times in interval.shapes.items())
        if predicted and rows:
            used = predicted / rows
        encoder = sum(
            times * encoder_flops(self.config, batch, tokens, used)
            for (batch, tokens), times in interval.shapes.items()
        )
        return encoder * world + head_flops(self.config, predicted)

    def _memory(self) -> int:
        """fairseq resets CUDA's peak after each update, and keeps how much it left free of all memory."""
        free = metrics.get_meter("train_inner", "gb_free")
        if free is None or self.trainer.cuda_env is None:
            return hardware.peak_memory()
        return int((self.trainer.cuda_env.total_memory_in_GB - float(free.val)) * 2**30)


class _Interval:
    """The work of one log interval."""

    def __init__(self, restored_tokens: float = 0.0, restored_predicted: float = 0.0) -> None:
        self.started = time.perf_counter()
        self.paused = 0.0
        self.shapes: Counter[tuple[int, int]] = Counter()
        self.restored_tokens = restored_tokens
        self.restored_predicted = restored_predicted


def encoder_config_of(model: nn.Module) -> EncoderConfig | None:
    """The dimensions of a model whose operations we can count, else None."""
    config = getattr(getattr(model, "encoder", None), "cfg", None)
    return config if isinstance(config, EncoderConfig) else None


def _meter(name: str) -> Any:
    """What fairseq has averaged since the last log, of all ranks, and not rounded."""
    meter = metrics.get_meter("train_inner", name)
    return meter if isinstance(meter, meters.AverageMeter) else None


def _sum(name: str) -> float:
    meter = _meter(name)
    return 0.0 if meter is None else float(meter.sum)


def _count(name: str) -> float:
    meter = _meter(name)
    return 0.0 if meter is None else float(meter.count)


def _mean(name: str) -> float | None:
    meter = _meter(name)
    return None if meter is None or meter.avg is None else float(meter.avg)
