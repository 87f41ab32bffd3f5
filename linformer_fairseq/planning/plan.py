"""The plan of a pretraining run: what each of its numbers comes from, and the advice that follows.

Memory is computed (`memory.py`), operations are counted (`training/flops.py`), and time is these at a share of the
device's peak, or at the speed that a run has reached. CUDA: run on one H100 for the memory, not yet for the time.
"""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median

import yaml
from fairseq import options
from fairseq.data import Dictionary

from linformer_fairseq.compat.precision import Precision
from linformer_fairseq.errors import UsageError
from linformer_fairseq.layers import EncoderConfig
from linformer_fairseq.models import architectures
from linformer_fairseq.models.config import encoder_config
from linformer_fairseq.planning.devices import DEVICES, Device, find_device
from linformer_fairseq.planning.memory import parameters_of, training_bytes
from linformer_fairseq.training.flops import encoder_flops, head_flops
from linformer_fairseq.training.hardware import peak_of_gpu
from linformer_fairseq.training.metrics import FILE, read_metrics

MODES = ("amp", "memory-efficient fp16", "fp16", "memory-efficient bf16", "bf16")  # flags of fairseq-train
WARM_STATE = 12  # bytes of a checkpoint for each parameter: its value and two moments, in float32


@dataclass(frozen=True)
class Plan:
    """A run of `updates` updates on so many GPUs. Bytes, seconds, joules and tokens are plain numbers."""

    cfg: EncoderConfig
    device: Device
    gpus: int
    rows: int  # of a batch on one GPU
    accumulated: int  # batches of an update on one GPU (--update-freq)
    updates: int
    mode: str  # a key of `memory.BYTES_PER_PARAMETER`
    masked: float  # share of the tokens that is predicted
    checkpoints: int  # kept at a time
    utilisation: float = 0.3  # share of the device's peak
    measured: float | None = None  # operations per second of a GPU, see `measured_speed`

    @property
    def tokens(self) -> int:
        """Of an update."""
        return self.gpus * self.accumulated * self.rows * self.cfg.max_positions

    @cached_property
    def memory(self) -> dict[str, float]:
        """Bytes of a GPU by part."""
        return training_bytes(self.cfg, self.rows, self.mode, self.gpus, self.masked)

    @property
    def fits(self) -> bool:
        """Whether the memory is there."""
        return sum(self.memory.values()) <= self.device.budget

    @property
    def operations(self) -> float:
        """Of the whole run."""
        n, tokens = self.cfg.max_positions, self.updates * self.tokens
        return encoder_flops(self.cfg, tokens // n, n, self.masked * n) + head_flops(self.cfg, self.masked * tokens)

    @property
    def seconds(self) -> float | None:
        """Of the whole run; None where the device does not compute in this precision, or its peak is not known."""
        if self.measured is not None:
            return self.operations / (self.measured * self.gpus)
        low: Precision = "bf16" if self.mode.endswith("bf16") else "fp16"
        peak = peak_of_gpu(self.device.cuda_name, "fp32" if self.mode == "fp32" else low)
        if peak is None:
            return None
        again = 4 / 3 if self.cfg.checkpoint_activations else 1  # the forward pass comes twice
        return self.operations * again / (peak * self.utilisation * self.gpus)

    @property
    def disk(self) -> float:
        """Bytes of the checkpoints."""
        return self.checkpoints * WARM_STATE * parameters_of(self.cfg)

    def refuse_too_large(self) -> None:
        """Raise a UsageError with what to do about it if the run does not fit."""
        if not self.fits:
            raise UsageError(
                f"the run needs {sum(self.memory.values()) / 1e9:.1f} GB of each GPU, which has "
                f"{self.device.gigabytes:g} GB ({self.device.cuda_name}): {', '.join(self.advice())}"
            )

    def most_rows(self) -> int:
        """The largest batch that fits, by the memory of one row and of two."""
        one, two = (sum(replace(self, rows=rows).memory.values()) for rows in (1, 2))
        return max(0, 1 + math.floor((self.device.budget - one) / (two - one)))

    def with_rows(self, rows: int) -> "Plan":
        """The same run with batches of about so many rows, and as many rows in an update."""
        all_rows = self.rows * self.accumulated
        best = max(size for size in range(1, rows + 1) if all_rows % size == 0)
        return replace(self, rows=best, accumulated=all_rows // best)

    def recomputing(self, recompute: bool) -> "Plan":
        """The same run with or without --checkpoint-activations."""
        return replace(self, cfg=replace(self.cfg, checkpoint_activations=recompute))

    def advice(self) -> Iterator[str]:
        """Sentences that a person can follow."""
        most = self.most_rows()
        if not self.fits:
            if most:
                smaller = self.with_rows(most)
                yield f"use --batch-size {smaller.rows} --update-freq {smaller.accumulated}, the same batch in all"
            elif not self.cfg.checkpoint_activations and (found := self.recomputing(True)).most_rows():
                smaller = found.with_rows(found.most_rows())
                yield f"use --checkpoint-activations --batch-size {smaller.rows} --update-freq {smaller.accumulated}"
            need = sum(self.memory.values())
            larger = [name for name, device in DEVICES.items() if need <= device.budget]
            yield f"or a device of {', '.join(larger)}" if larger else "no known device has the memory"
        elif self.cfg.checkpoint_activations and self.recomputing(False).fits:
            yield "leave out --checkpoint-activations, which this device has the memory for: a quarter less time"
        elif self.accumulated > 1 and (larger_rows := self.with_rows(most)).rows > self.rows:
            yield f"--batch-size {larger_rows.rows} --update-freq {larger_rows.accumulated} fits: fewer, larger batches"


def measured_speed(run: Path) -> float:
    """Operations per second of a GPU, or of a process on CPUs, in a training run: the median of its log intervals.

    They are those of full rows, as a plan counts them: padding takes its time, and metrics leave it out. Those of
    recomputed activations are not counted, so the planned run should recompute if this one did. Raises a UsageError if
    `run` is no folder of a run, or has no such figure.
    """
    lines = read_metrics(run) if (run / FILE).is_file() else []
    found = [line for line in lines if line["split"] == "train" and line["flops_per_second"]]
    settings = run / "run/config.yaml"
    if not found or not settings.is_file():
        raise UsageError(
            f"--calibrate {run}: needs {FILE} with a line of training, and run/config.yaml; give the --save-dir of a "
            "run of some updates of this model on this device"
        )
    cfg = yaml.safe_load(settings.read_text(encoding="utf-8"))
    n, processes = cfg["task"]["tokens_per_sample"], cfg["distributed_training"]["distributed_world_size"]
    rows = cfg["dataset"]["batch_size"] or cfg["dataset"]["max_tokens"] // n
    full = n * rows * cfg["optimization"]["update_freq"][0] * processes * found[-1]["update"] / found[-1]["tokens"]
    speeds = [line["flops_per_second"] for line in found]
    return float(full * median(speeds[1:] or speeds) / processes)  # the first finds kernels and memory


def plan_of(argv: Sequence[str], device: str, gpus: int, symbols: int | None = None) -> Plan:
    """The plan of a `fairseq-train` command; `symbols` are those of its DATA unless they are given.

    UsageError if there is no such device, DATA has no dictionary, the model is not one of ours, or the flags give no
    batch or no end.
    """
    args = options.parse_args_and_arch(options.get_training_parser(), argv[1:])
    if not args.arch.startswith(architectures.MODEL):
        raise UsageError(f"--arch {args.arch} is not a {architectures.MODEL}, the one that can be planned")
    architectures.complete(args, args.tokens_per_sample)
    n = args.tokens_per_sample
    rows = args.batch_size or (args.max_tokens or 0) // n
    if rows < 1:
        raise UsageError("the recipe has neither a --batch-size nor --max-tokens for one row: give one behind --")
    if not 0 < args.max_update < math.inf:
        raise UsageError("the recipe has no end: give --max-update behind --")
    cfg = encoder_config(args, vocabulary(args.data) if symbols is None else symbols, pad_index=1)
    cfg, updates, kept = replace(cfg, max_positions=n), int(args.max_update), max(1, args.keep_interval_updates) + 2
    mode = next((mode for mode in MODES if getattr(args, mode.replace("-", "_").replace(" ", "_"))), "fp32")
    return Plan(cfg, find_device(device), gpus, rows, args.update_freq[0], updates, mode, args.mask_prob, kept)


def vocabulary(data: str) -> int:
    """Symbols of DATA with fairseq's special ones and <mask>."""
    if not (file := Path(data.split(os.pathsep)[0]) / "dict.txt").is_file():
        raise UsageError(f"DATA {data} has no dict.txt: give a folder written by `linformer prepare binarize`, or none")
    return len(Dictionary.load(str(file))) + 1
