"""From what fairseq measures to the lines of `metrics.jsonl`."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairseq.distributed import utils as distributed_utils
from fairseq.logging import meters, metrics

from linformer_fairseq.layers import EncoderConfig
from linformer_fairseq.training import hardware
from linformer_fairseq.training.flops import encoder_flops, head_flops
from linformer_fairseq.training.metrics import MetricsFile
from linformer_fairseq.training.run_directory import now, record_start

LOSS_UNITS = {
    "masked_lm": "bits per masked token",
    "fused_masked_lm": "bits per masked token",
    "cross_entropy": "bits per token",
    "label_smoothed_cross_entropy": "bits per token",
    "adaptive_loss": "bits per token",
    "sentence_prediction": "bits per example",
    "contrastive": "bits per query",
    "distillation": "relative squared error and cosine distance",
}
"""By criterion; of one that is missing here, the unit is not known."""

# fairseq's names of what has a field of its own in a line, or says the same in another way.
_KNOWN = frozenset("loss ppl lr wps ups wpb bsz num_updates gnorm clip loss_scale train_wall gb_free wall".split())


class Recorder:
    """Counts the work of each update, on the CPU and from shapes alone, and writes a line where fairseq logs.

    fairseq has brought its figures from the device by then, and no line waits for anything else. Only rank 0 writes,
    and only into `folder`, which is `run` of this run and None with `--no-save`.
    """

    def __init__(self, trainer: Any, folder: Path | None) -> None:
        self.trainer = trainer
        self.file: MetricsFile | None = None
        self.config: EncoderConfig | None = None
        self.criterion = str(getattr(trainer.cfg.criterion, "_name", ""))
        self.started = time.perf_counter()
        self._interval: _Interval | None = None
        self._paused_since: float | None = None
        self._tokens: int | None = None  # before the running log interval
        if folder is not None and distributed_utils.is_master(trainer.cfg.distributed_training):
            start = record_start(folder, trainer.cfg, int(trainer.get_num_updates()))
            self.file = MetricsFile(folder.parent, start)
            self.peak = hardware.peak_flops(trainer.device, trainer.linformer_precision)
            self.energy = hardware.energy_meter(trainer.device)
            config = getattr(getattr(trainer.get_model(), "encoder", None), "cfg", None)
            self.config = config if isinstance(config, EncoderConfig) else None

    def before_update(self) -> None:
        """Start the clock at the first update; what a checkpoint has restored of a log interval is not this start's."""
        if self._interval is None and self.file is not None:
            restored = _figure("wpb", "sum")
            self._interval = _Interval(restored, _figure("loss", "count"))
            update = self.trainer.get_num_updates()
            at, tokens = self.file.tokens_until(update)
            self._tokens = tokens if tokens is None or at < update else tokens - int(restored)

    def count(self, samples: Sequence[Mapping[str, Any]]) -> None:
        """Count an update that was made, from the shapes of this rank's batches."""
        if self.config is not None and self._interval is not None:
            for sample in samples:
                if sample:  # empty where this rank had no batch left
                    self._interval.shapes[tuple(sample["net_input"]["src_tokens"].shape)] += 1

    def pause(self) -> None:
        """Stop the clock of the log interval: for validating and saving."""
        if self._paused_since is None:
            self._paused_since = time.perf_counter()

    def proceed(self) -> None:
        """Start it again."""
        if self._interval is not None and self._paused_since is not None:
            self._interval.started += time.perf_counter() - self._paused_since
        self._paused_since = None

    def write_training(self, stats: Mapping[str, Any], update: int, epoch: int | None) -> None:
        """Write the line of a log interval, which ends here."""
        interval, self._interval = self._interval, _Interval()
        if interval is None or self.file is None:
            return
        seconds = time.perf_counter() - interval.started
        words = _figure("wpb", "sum")
        flops = self._flops(interval)
        speed = None if flops is None else flops / seconds
        world = int(self.trainer.data_parallel_world_size)
        if self._tokens is not None:
            self._tokens += int(words)
        figures = {
            "lr": stats.get("lr", stats.get("lr_default")),
            "gradient_norm": _figure("gnorm", "avg") if _figure("gnorm", "count") else None,
            "loss_scale": stats.get("loss_scale"),
            "tokens_per_second": (words - interval.restored_tokens) / seconds if words else None,
            "flops_per_second": speed,
            "hardware_share": speed / (self.peak * world) if speed is not None and self.peak else None,
            "memory_bytes": self._memory(),
            "joules": None if self.energy is None else self.energy(),
            "tokens": self._tokens,
        }
        loss = _figure("loss", "avg") if _figure("loss", "count") else None
        self._write(stats, "train", update, epoch, loss, figures)

    def write_validation(self, stats: Mapping[str, Any], subset: str, epoch: int | None) -> None:
        """Write the line of a validation."""
        loss = stats.get("loss")
        tokens = None if self._tokens is None else self._tokens + int(_figure("wpb", "sum"))
        update = int(self.trainer.get_num_updates())
        self._write(stats, subset, update, epoch, None if loss is None else float(loss), {"tokens": tokens})

    def _write(
        self, stats: Any, split: str, update: int, epoch: int | None, loss: float | None, figures: Mapping[str, Any]
    ) -> None:
        if self.file is None:
            return
        line = {
            "split": split,
            "update": update,
            "epoch": epoch,
            "loss": loss,
            "loss_unit": LOSS_UNITS.get(self.criterion),
            "perplexity": 2.0**loss if "ppl" in stats and loss is not None and loss < 1000 else None,
            **figures,
            "other": {
                key: float(value)
                for key, value in stats.items()
                if key not in _KNOWN and isinstance(value, int | float) and not isinstance(value, bool)
            },
            "time": now(),
            "seconds": round(self.file.seconds_before + time.perf_counter() - self.started, 3),
        }
        self.file.append(line)

    def _flops(self, interval: "_Interval") -> float | None:
        """Of all ranks, as if the batches of the others had the shapes of this one's."""
        if self.config is None:
            return None
        world = int(self.trainer.data_parallel_world_size)
        predicted = _figure("loss", "count") - interval.restored_predicted
        if not self.criterion.endswith("masked_lm"):
            predicted = 0.0
        used = 1.0 if self.criterion == "sentence_prediction" else None
        shapes = interval.shapes.items()
        rows = world * sum(batch * times for (batch, _), times in shapes)
        if predicted and rows:
            used = predicted / rows
        encoder = sum(times * encoder_flops(self.config, batch, tokens, used) for (batch, tokens), times in shapes)
        return encoder * world + head_flops(self.config, predicted)

    def _memory(self) -> int:
        """fairseq resets CUDA's peak after each update, and keeps how much it left free of all memory."""
        free = metrics.get_meter("train_inner", "gb_free")
        if free is None or self.trainer.cuda_env is None:
            return hardware.peak_memory()
        return int((self.trainer.cuda_env.total_memory_in_GB - float(free.val)) * 2**30)


@dataclass
class _Interval:
    """The work of one log interval."""

    restored_tokens: float = 0.0
    restored_predicted: float = 0.0
    started: float = field(default_factory=time.perf_counter)  # later by what was paused
    shapes: Counter[tuple[int, int]] = field(default_factory=Counter)


def _figure(name: str, part: str) -> float:
    """What fairseq has averaged since the last log, of all ranks, and not rounded; 0 if it has nothing."""
    meter = metrics.get_meter("train_inner", name)
    return float(getattr(meter, part)) if isinstance(meter, meters.AverageMeter) and meter.count else 0.0
